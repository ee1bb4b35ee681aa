"""How a kernel is computed: the terms, their forms, and the blocks that keep it within its memory."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from twophase.differentiation.functional import FunctionalNetwork
from twophase.entk.by_logit import SUM_BYTES, form_by_logit
from twophase.entk.costs import FORMS, Cost, cheapest, term_of
from twophase.entk.inspection import KnownUse
from twophase.entk.memory import Footprint
from twophase.entk.operations import BIAS_SLOTS
from twophase.entk.rates import Rates
from twophase.entk.readout import Layer
from twophase.entk.terms import ExplicitTerm, Shape

PIECE, LARGEST_PIECE = 32, 512  # examples passed together: enough for the operations to run at their best
PIECE_BYTES = 64 << 20  # of activations of a piece, if that is more than PIECE examples
BACKWARD_FACTOR = 6  # bytes alive in a backward pass, over those of the largest activation
FLOOR = 8 << 20  # what libraries allocate for themselves: copies of factors in products, 5 MB were measured
WEIGHT_COPIES = 3  # the engine's own, one in another order, and gradients while the network is inspected
CHECKED_COPIES = 6  # of parameters taken times numbers or derived from, while examples' independence is checked
SCATTERED = 2  # memory between tensors, while freed memory is kept: up to 2.4 times the tensors' own was measured
DERIVED_COPIES = 4  # of a derived tensor's Jacobian, while it passes to the parameter
JACOBIAN_COPIES = 4  # of the parameters without rules, while they are differentiated


@dataclass(frozen=True)
class Sizes:
    """Number of rows n and columns m of a kernel, in examples; m is None for the square kernel of one set."""

    n: int
    m: int | None

    @property
    def examples(self) -> int:
        """Number of examples that are differentiated."""
        return self.n + (self.m or 0)

    @property
    def pairs(self) -> int:
        """Number of pairs of examples whose products are computed."""
        return self.n * self.m if self.m is not None else self.n * (self.n + 1) // 2


@dataclass(frozen=True)
class ResultMemory:
    """What results take.

    Attributes:
        bytes: Their own memory.
        apart: How many of them have their blocks computed apart.
    """

    bytes: int
    apart: int


@dataclass(frozen=True)
class Blocks:
    """How the examples are cut.

    Attributes:
        held: Examples that make the rows of a block.
        beside: Examples that make the columns of a block that isn't on the diagonal.
        piece: Examples passed through the network together.
    """

    held: int
    beside: int
    piece: int

    def halved(self) -> "Blocks":
        """Blocks of half the size, at least of one example."""
        return Blocks(*(max(1, size // 2) for size in (self.held, self.beside, self.piece)))


@dataclass(frozen=True)
class Plan:
    """Terms of a kernel and what they cost.

    Attributes:
        layers: The terms.
        costs: Cost of each weight's term by the weight's name.
        known: Uses of the parameters that have rules, none for those that aren't used.
        unknown: Parameters without, and their sizes.
        logits: Number q of logits, or combinations of them, that are differentiated.
        trace: Whether logits are summed over.
    """

    layers: list[Layer]
    costs: dict[str, Cost]
    known: dict[str, list[KnownUse]]
    unknown: dict[str, int]
    logits: int
    trace: bool

    @property
    def by_logit(self) -> bool:
        """Whether some terms hold one logit at a time; there can be one block only."""
        return any(layer.by_logit for layer in self.layers)

    def held_bytes(self, itemsize: int) -> int:
        """Bytes kept of one example."""
        explicit = sum(layer.term.width for layer in self.layers if isinstance(layer.term, ExplicitTerm))
        return sum(cost.held for cost in self.costs.values()) + explicit * self.logits * itemsize

    def block_bytes(self, itemsize: int) -> int:
        """Bytes of a pair of examples in a block of the kernel that is computed apart."""
        return (1 if self.trace else self.logits**2) * itemsize

    def _explicit_bytes(self, use: KnownUse, itemsize: int) -> int:
        """Bytes needed to form an outer product's Jacobian beside its place among the explicit ones."""
        x = use.features
        gradients = self.logits * x.positions * use.channels
        return itemsize * (gradients + 2 * x.positions * x.width * x.groups + 3 * self.logits * use.channels * x.width)

    def staged_bytes(self, network: FunctionalNetwork) -> int:
        """Bytes that readers need for one example from its first logit to its last."""
        itemsize = network.dtype.itemsize
        staged = sum(cost.staged for cost in self.costs.values())
        staged += sum(
            self._explicit_bytes(use, itemsize)
            for name, uses in self.known.items()
            for use in uses
            if use.features and name not in self.costs
        )
        return staged + sum(
            itemsize * self.logits * (DERIVED_COPIES * use.derived + 2 * network.parameters[name].numel())
            for name, uses in self.known.items()
            for use in uses
            if use.derived
        )

    def piece_bytes(self, network: FunctionalNetwork, footprint: Footprint) -> int:
        """Bytes needed to differentiate one example, what is kept of it not counted."""
        itemsize = network.dtype.itemsize
        gradients = sum(
            use.channels * use.features.positions for uses in self.known.values() for use in uses if use.features
        )
        unknown = sum(self.unknown.values()) * itemsize * JACOBIAN_COPIES * self.logits
        passes = 2 * footprint.activations + BACKWARD_FACTOR * footprint.largest * (self.logits if self.unknown else 1)
        return SCATTERED * (passes + 2 * gradients * itemsize) + self.staged_bytes(network) + unknown

    def graph_bytes(self, network: FunctionalNetwork, footprint: Footprint) -> int:
        """Bytes needed while an example's graph waits for others' backward passes."""
        return SCATTERED * 2 * footprint.activations + self.staged_bytes(network)


def owner(parameter: str) -> str:
    """Name of the module that owns a parameter, "" for the network itself."""
    return parameter.rpartition(".")[0]


def make_plan(
    network: FunctionalNetwork,
    known: dict[str, list[KnownUse] | None],
    *,
    logits: int,
    trace: bool,
    sizes: Sizes,
    by_layer: bool,
    rates: Rates,
    by_logit: bool = False,
) -> Plan:
    """Assign every parameter to a term, and every term to its cheapest form.

    Args:
        network: The network.
        known: Uses of each parameter, None where there is no rule.
        logits: Number q of logits, or combinations of them, that are differentiated.
        trace: Whether logits are summed over.
        sizes: Size of the kernel.
        by_layer: Whether terms of several layers have to stay apart.
        rates: The machine's rates.
        by_logit: Whether terms may hold one logit at a time, as all examples make one block of a trace.

    Returns:
        The plan.
    """
    layers, costs, explicit = [], {}, {}
    taken: set[str] = set()
    for name, uses in known.items():
        if not uses or len(uses) > 1 or uses[0].features is None or uses[0].derived:
            continue
        shape = Shape(logits, uses[0].channels, uses[0].features, trace, network.dtype, network.device)
        cost = cheapest(shape, rates, sizes.examples, sizes.pairs)
        form = form_by_logit(cost.form, shape, sizes.n) if by_logit else None
        if form is not None:
            shape = replace(shape, logits=1)
            cost = replace(cost, held=FORMS[cost.form][0](shape, rates).held + SUM_BYTES * sizes.n)
        bias = None if cost.form in ("jacobian", "deferred") else _bias_beside(network, name, uses[0], known)
        if bias is not None and by_layer and owner(bias) != owner(name):
            bias = None
        costs[name] = cost
        covered = (name,) if bias is None else (name, bias)
        layers.append(Layer(owner(name), term_of(form or FORMS[cost.form][1], shape, bias=bias is not None), covered))
        taken.update(covered)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=network.dtype, device=network.device)

    for name, uses in known.items():
        if name not in taken and uses != []:
            explicit.setdefault(owner(name) if by_layer else "", []).append(name)
    for layer, names in explicit.items():
        columns, at = {}, 0
        for name in names:
            columns[name] = slice(at, at + network.parameters[name].numel())
            at = columns[name].stop
        layers.append(Layer(layer, ExplicitTerm(columns, logits, trace, empty), tuple(names)))
    unknown = {name: network.parameters[name].numel() for name, uses in known.items() if uses is None}
    return Plan(layers, costs, {name: uses for name, uses in known.items() if uses is not None}, unknown, logits, trace)


def _bias_beside(
    network: FunctionalNetwork, weight: str, use: KnownUse, known: dict[str, list[KnownUse] | None]
) -> str | None:
    """The bias that the same operation adds to each channel, if nothing else takes it."""
    slot = BIAS_SLOTS.get(use.signature[0])
    for name, uses in known.items():
        if name != weight and uses and len(uses) == 1:
            same_node = uses[0].operation == use.operation
            # `torch.addmm` may add one number to all channels.
            by_channel = network.parameters[name].numel() == use.channels
            as_taken = by_channel and uses[0].scale == use.scale and not uses[0].derived
            if same_node and as_taken and uses[0].signature[1] == slot:
                return name
    return None


def cut(
    plan: Plan, network: FunctionalNetwork, footprint: Footprint, sizes: Sizes, results: ResultMemory, budget: int
) -> Blocks | None:
    """Choose the largest blocks that stay within the budget.

    Args:
        plan: The terms.
        network: The network.
        footprint: What one example costs.
        sizes: Size of the kernel.
        results: Memory of the results.
        budget: Bytes for everything.

    Returns:
        The blocks; None if the plan takes one block, which doesn't.

    Raises:
        ValueError: If the budget is too small for blocks of one example.
    """
    held, once = plan.held_bytes(network.dtype.itemsize), plan.piece_bytes(network, footprint)
    waiting = plan.graph_bytes(network, footprint)
    columns = sizes.n if sizes.m is None else sizes.m
    fixed = FLOOR + results.bytes + WEIGHT_COPIES * network.size * network.dtype.itemsize
    shared = 2 * SCATTERED * footprint.shared
    fixed += sum(constant.nbytes for constant in network.constants.values()) + shared
    checked = (name for name, uses in plan.known.items() if any(use.derived or use.scale != 1 for use in uses))
    fixed += CHECKED_COPIES * sum(network.parameters[name].nbytes for name in checked)

    def needed(rows: int, beside: int, piece: int) -> int:
        across = max(rows, beside)
        between = max((layer.term.between_bytes(rows, m) for layer in plan.layers for m in (None, beside)), default=0)
        block = rows * across * plan.block_bytes(network.dtype.itemsize) * (1 + results.apart)
        graphs = (rows - piece) * waiting + (math.ceil(rows / piece) - 1) * shared if plan.by_logit else 0
        return fixed + (rows + beside) * held + piece * once + between + block + graphs

    if needed(1, 1, 1) > budget and not plan.by_logit:
        raise ValueError(
            f"memory_budget is {budget:,} bytes; this kernel needs at least {needed(1, 1, 1):,}, of which "
            f"{results.bytes:,} for the kernel itself and {held + once:,} for one example."
        )
    whole = sizes.n if sizes.m is None else max(sizes.n, sizes.m)
    best = max(PIECE, min(LARGEST_PIECE, PIECE_BYTES // footprint.activations))
    piece = max(1, min(best, whole, (budget - fixed) // (4 * once)))
    if sizes.m is None and needed(sizes.n, 0, piece) <= budget:
        return Blocks(sizes.n, piece, piece)
    if plan.by_logit:
        return None
    beside = max(1, min(columns, 2 * PIECE, (budget - fixed) // (8 * held + 1)))
    rows = sizes.n
    while rows > 1 and needed(rows, beside, piece) > budget:
        rows -= max(1, rows // 32)
    while needed(rows, beside, piece) > budget:
        piece, beside = max(1, piece // 2), max(1, beside // 2)
    return Blocks(rows, beside, piece)
