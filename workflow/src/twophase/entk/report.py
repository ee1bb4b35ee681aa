"""What the parts of a kernel cost: chosen forms, operations, memory, predicted and measured time."""

import time
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from twophase.entk.clock import Clock
from twophase.entk.engine import Options, compute
from twophase.entk.kernel import result_maker
from twophase.entk.plan import Plan, Sizes
from twophase.entk.rates import Rates


@dataclass(frozen=True)
class TermCost:
    """Cost of one term.

    Attributes:
        parameters: Names of the parameters that it covers.
        form: "jacobian", "deferred", "structured" or "mixed"; "explicit" for small parameters, sums over several
            uses, parameters that other tensors are derived from, and those without a rule.
        operations: Floating-point operations.
        held: Bytes kept of an example.
        predicted: Seconds, if the machine's rates held; NaN where nothing is predicted.
        measured: Seconds.
    """

    parameters: tuple[str, ...]
    form: str
    operations: float
    held: int
    predicted: float
    measured: float


@dataclass(frozen=True)
class KernelCosts:
    """Costs of a kernel; ``print`` shows them as a table.

    Attributes:
        terms: The terms.
        passes: Seconds by what else was done: forward and backward passes, reading gradients out, all together.
        rates: The rates that the predictions use.
    """

    terms: tuple[TermCost, ...]
    passes: dict[str, float]
    rates: Rates

    def __str__(self) -> str:
        """The table."""
        lines = [
            f"{'parameter':<40} {'form':<10} {'GFLOP':>9} {'kB/example':>10} {'predicted s':>11} {'measured s':>10}"
        ]
        for term in self.terms:
            names = term.parameters[0] + (f" and {len(term.parameters) - 1} more" if len(term.parameters) > 1 else "")
            predicted = f"{term.predicted:11.3f}" if term.predicted == term.predicted else f"{'':>11}"
            lines.append(
                f"{names:<40.40} {term.form:<10} {term.operations / 1e9:9.2f} {term.held / 1000:10.1f} {predicted} "
                f"{term.measured:10.3f}"
            )
        lines += [f"{what:<84} {seconds:10.3f}" for what, seconds in self.passes.items()]
        lines.append(f"matrix products run at {self.rates.product / 1e9:.1f} GFLOP/s on this machine")
        return "\n".join(lines)


def kernel_costs(
    model: nn.Module,
    inputs: Tensor,
    *,
    other_inputs: Tensor | None = None,
    kernel: Literal["full", "trace", "sum"] | int = "full",
    memory_budget: int | None = None,
    rates: Rates | None = None,
) -> KernelCosts:
    """Compute a kernel, and return what each part of it cost instead of the kernel.

    Args:
        model: As for `empirical_ntk`.
        inputs: As for `empirical_ntk`.
        other_inputs: As for `empirical_ntk`.
        kernel: As for `empirical_ntk`.
        memory_budget: As for `empirical_ntk`.
        rates: As for `empirical_ntk`.

    Returns:
        The costs. What blocks compute anew, for want of memory, is in the measured times but not in the predictions.
    """
    parameter = next(model.parameters())
    rates = rates or Rates.of_machine(parameter.device, parameter.dtype)
    clock, start = Clock(exact=True), time.perf_counter()
    make = result_maker(model, inputs, kernel, None, None, symmetric=other_inputs is None)
    _, plan = compute(model, inputs, other_inputs, kernel, make, Options(memory_budget, False, rates, None, clock))
    total = time.perf_counter() - start
    sizes = Sizes(len(inputs), None if other_inputs is None else len(other_inputs))
    terms = _terms(plan, clock, sizes, parameter.dtype.itemsize)
    passes = {what: seconds for what, seconds in clock.seconds.items() if isinstance(what, str)}
    passes["checks and all else"] = total - sum(clock.seconds.values())
    return KernelCosts(terms, passes | {"total": total}, rates)


def _terms(plan: Plan, clock: Clock, sizes: Sizes, itemsize: int) -> tuple[TermCost, ...]:
    terms = []
    for layer in plan.layers:
        cost = plan.costs.get(layer.parameters[0])
        names = layer.parameters
        measured = clock.seconds["contracted", names[0]] + sum(clock.seconds["prepared", name] for name in names)
        if cost is not None:
            work, seconds = (get(sizes.examples, sizes.pairs) for get in (cost.operations, cost.seconds))
            terms.append(TermCost(names, cost.form, work, cost.held, seconds, measured))
        else:
            width = layer.term.width * plan.logits
            work = 2.0 * sizes.pairs * width * (1 if plan.trace else plan.logits)
            terms.append(TermCost(names, "explicit", work, width * itemsize, float("nan"), measured))
    return tuple(terms)
