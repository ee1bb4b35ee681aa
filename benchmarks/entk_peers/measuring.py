"""Measures one kernel with every engine, in interleaved rounds."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from entk_peers.environments import PEERS
from entk_peers.operations import layer_shapes, smallest_operations
from entk_peers.planning import Plan, make_plan, run_plan
from entk_peers.processes import Worker, WorkerError
from entk_peers.workloads import CLASSES, Workload, build_network, example_inputs

REFERENCE = "twophase"
MEMORY_SHARE = 0.5  # of what is available when a case starts


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        rounds: Rounds in which each engine takes its turn.
        limit: Seconds that one turn may take.
        threads: Threads of each engine.
        device: "cpu" or "cuda".
    """

    rounds: int
    limit: float
    threads: int
    device: str


@dataclass
class Result:
    """What one implementation took for one kernel.

    Attributes:
        engine: Name of the engine.
        implementation: Which of its implementations; empty if it didn't even start.
        seconds: One entry a round, NaN where not measured.
        peak_memory: Bytes on top of those in use before, one entry a round.
        peak_resident: All bytes in use, one entry a round.
        plan: How it was measured, None if it failed before.
        difference: Relative Frobenius distance of its kernel to the project's.
        rounding: The same to the exact kernel, over the first two examples.
        failure: Why there are NaNs.
    """

    engine: str
    implementation: str
    seconds: np.ndarray
    peak_memory: np.ndarray
    peak_resident: np.ndarray
    plan: Plan | None = None
    difference: float = np.nan
    rounding: float = np.nan
    failure: str = ""

    @classmethod
    def of(cls, engine: str, implementation: str, rounds: int) -> "Result":
        """Return a result without values."""
        return cls(engine, implementation, *np.full((3, rounds), np.nan))

    @property
    def name(self) -> str:
        """What tables and files call it."""
        return f"{self.engine}: {self.implementation}" if self.implementation else self.engine

    @property
    def note(self) -> str:
        """How it was measured, or why not."""
        return ", ".join(filter(None, (self.plan.describe() if self.plan else "", self.failure)))


@dataclass
class Case:
    """One kernel with every engine.

    Attributes:
        workload: Network and number of examples.
        kernel: "full" or "trace".
        operations: The smallest count of operations.
        matrix_rate: Operations a second of a matrix product, one entry a round.
        results: One entry an implementation.
    """

    workload: Workload
    kernel: str
    operations: int
    matrix_rate: np.ndarray
    results: list[Result] = field(default_factory=list)

    @property
    def reference(self) -> Result | None:
        """The project's own result, if it was measured."""
        return next((result for result in self.results if result.engine == REFERENCE), None)

    def ratio(self, result: Result) -> np.ndarray:
        """Time over the project's, round by round."""
        return result.seconds / self.reference.seconds if self.reference else np.full_like(result.seconds, np.nan)

    def best(self) -> dict[str, Result]:
        """Return each engine's fastest implementation, of those that were measured."""
        measured = [result for result in self.results if not np.isnan(result.seconds).any()]
        slowest_first = sorted(measured, key=lambda result: -np.median(result.seconds))
        return {result.engine: result for result in slowest_first}


@contextmanager
def engines(
    names: list[str], *, network: str, weights: Path, settings: Settings
) -> Iterator[dict[str, Worker | WorkerError]]:
    """Start an engine's worker each, or say why it can't be started; stop them in the end."""
    workers = {}
    try:
        for name in names:
            try:
                workers[name] = Worker(
                    PEERS[name], network=network, weights=weights, threads=settings.threads, device=settings.device
                )
            except WorkerError as error:
                workers[name] = error
        yield workers
    finally:
        for worker in workers.values():
            if isinstance(worker, Worker):
                worker.stop()


def measure_case(
    workers: dict[str, Worker | WorkerError],
    workload: Workload,
    kernel: str,
    *,
    exact: np.ndarray,
    settings: Settings,
    folder: Path,
) -> Case:
    """Measure one kernel with every engine.

    Each engine warms up before its first turn, whose kernels are compared.

    Args:
        workers: The engines, started on the workload's network; the project's own first.
        workload: Network and number of examples.
        kernel: "full" or "trace".
        exact: The full kernel of the first examples in float64.
        settings: How to measure.
        folder: Folder for kernels.

    Returns:
        What came out; an implementation that fails has a result that says so.
    """
    layers = layer_shapes(build_network(workload.network), example_inputs(1))
    operations = smallest_operations(layers, kernel=kernel, examples=workload.examples, classes=CLASSES)
    case = Case(workload, kernel, operations, np.full(settings.rounds, np.nan))
    np.save(folder / "exact.npy", exact if kernel == "full" else np.einsum("ikjk->ij", exact))
    running = _plan_all(case, workers, settings)
    for turn in range(settings.rounds):
        _measure_round(case, running, turn, settings, folder)
    return case


def _plan_all(case: Case, workers: dict[str, Worker | WorkerError], settings: Settings) -> list[tuple[Result, Worker]]:
    """Give the case a result for each implementation, with its plan; return those that can be measured."""
    memory_limit = MEMORY_SHARE * _available_memory()
    running = []
    for name, worker in workers.items():
        if isinstance(worker, WorkerError):
            case.results.append(Result.of(name, "", settings.rounds))
            case.results[-1].failure = str(worker)
            continue
        for implementation in worker.implementations:
            result = Result.of(name, implementation, settings.rounds)
            case.results.append(result)
            with _noted(result):
                limits = {"limit": settings.limit, "memory_limit": memory_limit}
                result.plan = make_plan(worker, implementation, case.kernel, examples=case.workload.examples, **limits)
                running.append((result, worker))
    return running


def _measure_round(
    case: Case, running: list[tuple[Result, Worker]], turn: int, settings: Settings, folder: Path
) -> None:
    """Each implementation's turn; those that have failed are left out."""
    reference = folder / "reference.npy"
    if not turn:
        reference.unlink(missing_ok=True)
    for result, worker in running:
        if result.failure:
            continue
        with _noted(result):
            saved = reference if result.engine == REFERENCE else folder / "kernel.npy"
            values = run_plan(
                result.plan,
                worker,
                result.implementation,
                case.kernel,
                limit=settings.limit,
                save=None if turn else saved,
            )
            if not turn:
                result.difference = _difference(saved, reference)
                result.rounding = _difference(saved, folder / "exact.npy")
            result.seconds[turn], result.peak_memory[turn], result.peak_resident[turn] = values
            if result.engine == REFERENCE:
                case.matrix_rate[turn] = worker.ask({"do": "rate"}, limit=settings.limit + 60)["rate"]


@contextmanager
def _noted(result: Result) -> Iterator[None]:
    """Keep an engine's failure with its result."""
    try:
        yield
    except WorkerError as error:
        result.failure = str(error)


def _difference(saved: Path, reference: Path) -> float:
    """Relative Frobenius distance over the first examples that both kernels have."""
    if not reference.exists():
        return np.nan
    kernels = [np.load(path, mmap_mode="r") for path in (saved, reference)]
    first = slice(0, min(map(len, kernels)))
    index = (first, slice(None), first) if kernels[0].ndim == 4 else (first, first)
    found, expected = (kernel[index].astype(np.float64) for kernel in kernels)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _available_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
