"""How an implementation is measured: whole, in blocks that fit into memory, or on a part of the work, scaled up."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from entk_peers.processes import Worker

PROBE_SHARE = 0.05  # of the time limit: probes beyond it need not grow
COMPILE_LIMIT = 600.0  # seconds, on top of ten times the time limit, before a worker is given up


@dataclass(frozen=True)
class Growth:
    """A cost of the form a n + b n^2 for n examples, neither part below 0: of gradients, and of their pairs."""

    linear: float
    quadratic: float

    @classmethod
    def through(cls, examples: int, small: float, large: float) -> "Growth":
        """Return what costs ``small`` for so many examples and ``large`` for twice as many."""
        if large <= 2 * small:
            return cls(large / (2 * examples), 0.0)
        if large >= 4 * small:
            return cls(0.0, large / (4 * examples**2))
        return cls((4 * small - large) / (2 * examples), (large - 2 * small) / (2 * examples**2))

    def at(self, examples: int) -> float:
        """Return the cost for so many examples."""
        return self.linear * examples + self.quadratic * examples**2


@dataclass(frozen=True)
class Plan:
    """What is measured in each round.

    Attributes:
        examples: Examples of the kernel that is wanted.
        block: Examples of a block; as many as ``examples`` if the kernel is computed whole.
        sizes: Empty if everything is measured. Otherwise the examples of the blocks that are measured: ``block``, or
            two smaller numbers, one twice the other, from which the cost of ``block`` is extrapolated.
    """

    examples: int
    block: int
    sizes: tuple[int, ...] = ()

    @property
    def pieces(self) -> list[tuple[int, int | None]]:
        """Rows and columns of what is measured: square blocks, then blocks off the diagonal."""
        if not self.sizes:
            return [(self.examples, None)]
        off_diagonal = [(size, size) for size in self.sizes] if self.block < self.examples else []
        return [(size, None) for size in self.sizes] + off_diagonal

    def total(self, seconds: Sequence[float]) -> float:
        """Return the seconds of the whole kernel from those of the pieces."""
        if not self.sizes:
            return seconds[0]
        groups = self.examples / self.block
        squares, rectangles = seconds[: len(self.sizes)], seconds[len(self.sizes) :]
        total = groups * self._of_block(squares)
        return total + (groups * (groups - 1) / 2 * self._of_block(rectangles) if rectangles else 0.0)

    def describe(self) -> str:
        """Say how the figure came about; empty if the kernel was computed whole."""
        blocks = f"blocks of {self.block}" if self.block < self.examples else ""
        scaled = f"scaled from n = {' and '.join(map(str, self.sizes))}" if self.sizes else ""
        return ", ".join(filter(None, (scaled, blocks)))

    def _of_block(self, seconds: Sequence[float]) -> float:
        if len(self.sizes) == 1:
            return seconds[0]
        return Growth.through(self.sizes[0], *seconds).at(self.block)


def make_plan(
    worker: Worker, implementation: str, kernel: str, *, examples: int, limit: float, memory_limit: float
) -> Plan:
    """Find out from small runs what fits into the memory and the time.

    Args:
        worker: The engine.
        implementation: Its implementation.
        kernel: "full" or "trace".
        examples: Examples of the kernel that is wanted.
        limit: Seconds that all that is measured in one round may take.
        memory_limit: Bytes that the engine may take.

    Returns:
        The plan.

    Raises:
        WorkerError: If the engine fails on the small runs.
    """
    time, memory = _probe(worker, implementation, kernel, examples, limit, memory_limit)
    if worker.implementations[implementation]:
        block = examples
    else:
        # A block off the diagonal has the gradients of two blocks.
        needed = {block: memory.at(block if block == examples else 2 * block) for block in _divisors(examples)}
        block = max((block for block in needed if needed[block] <= memory_limit), default=1)
    plan = Plan(examples, block)
    groups = examples / block
    if groups * time.at(block) + groups * (groups - 1) / 2 * _off_diagonal(time, block) <= limit:
        return plan
    if groups > 1:
        plan = Plan(examples, block, (block,))
        if _round(time, plan) <= limit:
            return plan
    size = 1
    while 4 * size <= block and _round(time, Plan(examples, block, (2 * size, 4 * size))) <= limit:
        size *= 2
    return Plan(examples, block, (size, 2 * size)) if 2 * size < block else plan


def run_plan(
    plan: Plan, worker: Worker, implementation: str, kernel: str, *, limit: float, save: Path | None = None
) -> tuple[float, int, int]:
    """Measure a plan's pieces once.

    Args:
        plan: The plan.
        worker: The engine.
        implementation: Its implementation.
        kernel: "full" or "trace".
        limit: The time limit that the plan was made with.
        save: File for the largest square piece.

    Returns:
        Seconds of the whole kernel, the peak of the bytes that were taken for it, and the peak of all bytes in use.

    Raises:
        WorkerError: If the engine fails.
    """
    replies = []
    largest_square = max(rows for rows, columns in plan.pieces if columns is None)
    for rows, columns in plan.pieces:
        block = plan.block if not plan.sizes else rows
        keep = save if columns is None and rows == largest_square else None
        sizes = {"rows": rows, "columns": columns, "block": block, "save": keep}
        replies.append(worker.measure(implementation, kernel, limit=_patience(limit), **sizes))
    peaks = (max(reply[key] for reply in replies) for key in ("peak_above_start", "peak"))
    return plan.total([reply["seconds"] for reply in replies]), *peaks


def _probe(
    worker: Worker, implementation: str, kernel: str, examples: int, limit: float, memory_limit: float
) -> tuple[Growth, Growth]:
    """Measure kernels of more and more examples; return how time and memory grow."""
    size, before = 1, None
    while True:
        sizes = {"rows": size, "block": size}
        reply = worker.measure(implementation, kernel, limit=_patience(limit), **sizes)
        after = (reply["seconds"], reply["peak_above_start"])
        if before is not None:
            time, memory = (Growth.through(size // 2, *pair) for pair in zip(before, after, strict=True))
            enough = after[0] > PROBE_SHARE * limit or 2 * size > examples
            if enough or memory.at(2 * size) > memory_limit:
                return time, memory
        size, before = 2 * size, after


def _off_diagonal(time: Growth, block: int) -> float:
    """Seconds for a block off the diagonal: the gradients of twice as many examples, as many pairs."""
    return time.at(block) + time.linear * block


def _round(time: Growth, plan: Plan) -> float:
    return sum(time.at(rows) if columns is None else _off_diagonal(time, rows) for rows, columns in plan.pieces)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _patience(limit: float) -> float:
    return 10 * limit + COMPILE_LIMIT
