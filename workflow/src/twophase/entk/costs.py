"""What each form of a weight's term costs, and which is the cheapest."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from twophase.entk.rates import Rates
from twophase.entk.terms import DeferredTerm, JacobianTerm, MixedTerm, Shape, StructuredTerm, Term

STRUCTURED_POSITIONS = 16  # more pairs of positions than its square are never cheap in a full kernel


@dataclass(frozen=True)
class Cost:
    """Work of one term in one form, and what it keeps.

    Attributes:
        form: "jacobian", "deferred", "structured" or "mixed".
        operations_once: Floating-point operations for each example.
        operations_pair: The same for each pair of examples.
        seconds_once: Predicted time for each example.
        seconds_pair: Predicted time for each pair.
        held: Bytes kept of an example.
        staged: Bytes needed beside, for each example of a piece, while it is prepared.
    """

    form: str
    operations_once: float
    operations_pair: float
    seconds_once: float
    seconds_pair: float
    held: int
    staged: int

    def seconds(self, examples: int, pairs: int) -> float:
        """Predicted time of a kernel."""
        return examples * self.seconds_once + pairs * self.seconds_pair

    def operations(self, examples: int, pairs: int) -> float:
        """Floating-point operations of a kernel."""
        return examples * self.operations_once + pairs * self.operations_pair


def jacobian_cost(shape: Shape, rates: Rates) -> Cost:
    """Cost of the Jacobian form."""
    q, c, x = shape.logits, shape.channels, shape.features
    once = 2.0 * q * x.positions * c * x.width
    pair = 2.0 * (1 if shape.trace else q) * q * c * x.width
    size = shape.dtype.itemsize
    held, dense = q * c * x.width * size, x.positions * x.width * x.groups * size
    gradients = q * x.positions * c * size
    # Features and gradients are copied, Jacobians written: all leaves the cache.
    seconds = once / rates.at(rates.formation, x.positions) + 2 * (dense + gradients) / rates.bandwidth
    grouped = 3 * held if x.groups > 1 else 0  # formed apart, in another order, and memory between tensors
    return Cost("jacobian", once, pair, seconds, pair / rates.product, held, gradients + 2 * dense + grouped)


def deferred_cost(shape: Shape, rates: Rates) -> Cost:
    """Cost of the Jacobian form, with Jacobians formed when they are contracted."""
    x = shape.features
    held = (shape.logits * shape.channels * x.positions + x.stored) * shape.dtype.itemsize
    return replace(jacobian_cost(shape, rates), form="deferred", held=held, staged=0)


def jacobian_form(shape: Shape) -> str:
    """Name of the Jacobian form: deferred where gradients and all features are fewer numbers than their Jacobian."""
    x, gradients = shape.features, shape.logits * shape.channels
    fewer = x.positions * (gradients + x.width) < gradients * x.width
    return "deferred" if fewer and x.groups == 1 else "jacobian"


def structured_cost(shape: Shape, rates: Rates) -> Cost:
    """Cost of the structured form."""
    q, c, x = shape.logits, shape.channels, shape.features
    squared = x.positions**2
    products = 2.0 * squared * c * q * (1 if shape.trace else q)
    elements = squared * (1 if shape.trace else q * q)
    size = shape.dtype.itemsize
    seconds = (products + x.gram_operations) / rates.product + 4 * size * elements / rates.bandwidth
    seconds += _gram_seconds(shape, rates)
    held = (q * c * x.positions + x.stored) * size
    return Cost("structured", 0.0, products + x.gram_operations, 0.0, seconds, held, 0)


def mixed_cost(shape: Shape, rates: Rates) -> Cost:
    """Cost of the mixed form."""
    q, c, x = shape.logits, shape.channels, shape.features
    products = 2.0 * q * c * x.positions * (x.positions + q)
    size = shape.dtype.itemsize
    seconds = products / rates.at(rates.mixed, x.positions) + x.gram_operations / rates.product
    seconds += _gram_seconds(shape, rates)
    held = (q * c * x.positions + x.stored) * size
    return Cost("mixed", 0.0, products + x.gram_operations, 0.0, seconds, held, 0)


def _gram_seconds(shape: Shape, rates: Rates) -> float:
    """Time to bring a Gram matrix into place: reading and writing it a few times."""
    return 6 * shape.dtype.itemsize * shape.features.positions**2 / rates.bandwidth


FORMS: dict[str, tuple[Callable[[Shape, Rates], Cost], type]] = {
    "jacobian": (jacobian_cost, JacobianTerm),
    "deferred": (deferred_cost, DeferredTerm),
    "structured": (structured_cost, StructuredTerm),
    "mixed": (mixed_cost, MixedTerm),
}


def possible_costs(shape: Shape, rates: Rates) -> list[Cost]:
    """Costs of all forms that a term can take, in the order of ``FORMS``."""
    forms = [jacobian_form(shape)]
    if shape.features.groups == 1:
        if shape.trace or shape.features.positions <= STRUCTURED_POSITIONS:
            forms.append("structured")
        if not shape.trace:
            forms.append("mixed")
    return [FORMS[form][0](shape, rates) for form in forms]


def cheapest(shape: Shape, rates: Rates, examples: int, pairs: int) -> Cost:
    """The form with the smallest predicted time.

    Args:
        shape: Size of the term.
        rates: The machine's rates.
        examples: Number of examples that are differentiated.
        pairs: Number of pairs of examples.

    Returns:
        Its cost.
    """
    return min(possible_costs(shape, rates), key=lambda cost: cost.seconds(examples, pairs))


def term_of(form: type, shape: Shape, *, bias: bool) -> Term:
    """The term in this form; with ``bias``, that of the bias too, which needs one of the last two forms."""
    return form(shape, bias=True) if bias else form(shape)
