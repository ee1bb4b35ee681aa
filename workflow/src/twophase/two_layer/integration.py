"""Many two-layer networks integrated at once, each with steps of its own, the same bits in whatever company."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.linalg.blas  # noqa: F401  Numba's products use it; loaded here so that its threads can be limited
from threadpoolctl import ThreadpoolController

from twophase.errors import DataError
from twophase.kernels import kernel_distance
from twophase.two_layer.chebyshev import stage_table
from twophase.two_layer.compiled import LANES
from twophase.two_layer.flow import FlowEnd, States, integrate_flow
from twophase.two_layer.network import BLOCK, TwoLayer, outputs, tangent_kernel
from twophase.two_layer.neuron import EXAMPLES, FEATURES
from twophase.two_layer.passes import Neurons, Problem, Workspace

STATUS = ("converged", "stationary", "evaluations spent", "not finite")
STATES = 7  # arrays of a network's size that an integration holds
LINE = 8  # numbers of 8 bytes in a cache line
BLAS_FROM = 256  # numbers in the inputs from which BLAS is faster than plain loops


@dataclass(frozen=True)
class Accuracy:
    """When an integration ends, and how exactly it goes there.

    Attributes:
        tolerance: Share of |displacement| by which a step may miss it, in each layer.
        loss_tolerance: Share of the smaller of the initial loss and the mean of y^2 / 2 that may be left.
        most_evaluations: Evaluations of the slope after which a network counts as not converged.
    """

    tolerance: float = 1e-5
    loss_tolerance: float = 1e-6
    most_evaluations: int = 200_000

    def __post_init__(self):
        if not (0 < self.tolerance < 1 and 0 < self.loss_tolerance < 1 and self.most_evaluations > 0):
            raise ValueError(f"expected tolerances between 0 and 1 and evaluations above 0, got {self}")


@dataclass(frozen=True)
class Trained:
    """What became of one network.

    Attributes:
        network: The network.
        status: One of ``STATUS``: "converged" to the loss tolerance; "stationary", where no weight moves any more
            though some loss is left; "evaluations spent"; "not finite".
        input_distance: RD = |w(inf) - w(0)| / |w(0)| of the input weights.
        output_distance: The same of the output weights.
        initial_loss: L = 1/(2n) sum (f(x_i) - y_i)^2 at time 0.
        final_loss: L at the end.
        steps: Accepted steps.
        evaluations: Evaluations of the slope.
        integration_error: Sum of the estimated local errors of RD over all steps, as a share of RD; of the layer where
            that is larger. Errors of single steps differ in sign, so this bounds the estimate of the whole.
        kernel_distance: S between the tangent kernels at time 0 and at the end; NaN where a kernel is 0.
    """

    network: TwoLayer
    status: str
    input_distance: float
    output_distance: float
    initial_loss: float
    final_loss: float
    steps: int
    evaluations: int
    integration_error: float
    kernel_distance: float

    @property
    def status_number(self) -> int:
        """Place of the status in ``STATUS``."""
        return STATUS.index(self.status)


def integrate(
    networks: Sequence[TwoLayer],
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    accuracy: Accuracy | None = None,
    threads: int = 1,
    memory_budget: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Trained]:
    """Integrate the gradient flow of many networks on one data set.

    Each is integrated by itself, so that its bits depend neither on the others nor on ``threads``; the interpreter's
    lock is released meanwhile.

    Args:
        networks: In any order.
        inputs: x_i with the constant 1 of the bias, ``(n, d)``; see ``with_bias``.
        targets: y_i, ``(n,)``.
        accuracy: When to end, how exactly to go there.
        threads: Networks at once.
        memory_budget: Bytes for all networks at once; fewer are integrated side by side if need be. None: no limit.
        progress: Called with the number of neurons whose network is done.

    Returns:
        One result a network, in their order.

    Raises:
        DataError: If inputs and targets don't fit each other or are not finite.
        MemoryError: If a single network needs more than the budget; says how much.
    """
    inputs, targets = checked_data(inputs, targets)
    accuracy = accuracy or Accuracy()
    order = sorted(range(len(networks)), key=lambda index: -networks[index].width)
    results: list[Trained | None] = [None] * len(networks)
    workers = _workers(networks, inputs, threads, memory_budget)
    done = 0
    with _threads().limit(limits=1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(_train_only, networks[index], inputs, targets, accuracy): index for index in order}
        try:
            for future in as_completed(waiting):
                results[waiting[future]] = future.result()
                done += networks[waiting[future]].width
                if progress:
                    progress(done)
        finally:
            pool.shutdown(cancel_futures=True)
    return results


def train(
    network: TwoLayer, inputs: np.ndarray, targets: np.ndarray, accuracy: Accuracy | None = None
) -> tuple[Trained, np.ndarray]:
    """Integrate one network.

    Args:
        network: The network.
        inputs: ``(n, d)``.
        targets: ``(n,)``.
        accuracy: When to end, how exactly to go there.

    Returns:
        What became of it, and its weights at the end, ``(m, d + 1)``, w~ then a~.

    Raises:
        DataError: If inputs and targets don't fit each other or are not finite.
    """
    inputs, targets = checked_data(inputs, targets)
    with _threads().limit(limits=1, user_api="blas"):
        return _train(network, inputs, targets, accuracy or Accuracy())


@cache
def _threads() -> ThreadpoolController:
    """Controls the threads of BLAS; looking for it takes a few milliseconds."""
    return ThreadpoolController()


def _train_only(network: TwoLayer, inputs: np.ndarray, targets: np.ndarray, accuracy: Accuracy) -> Trained:
    """What became of a network, without its weights."""
    return _train(network, inputs, targets, accuracy)[0]


def _train(
    network: TwoLayer, inputs: np.ndarray, targets: np.ndarray, accuracy: Accuracy
) -> tuple[Trained, np.ndarray]:
    initial = network.initial_weights(inputs.shape[1])
    end, displacement = _integrated(network, initial, inputs, targets, accuracy)
    final = initial + displacement
    trained = Trained(
        network=network,
        status=STATUS[end.status],
        input_distance=_ratio(displacement[:, :-1], initial[:, :-1]),
        output_distance=_ratio(displacement[:, -1], initial[:, -1]),
        initial_loss=end.initial_loss,
        final_loss=end.loss,
        steps=end.steps,
        evaluations=end.evaluations,
        integration_error=max(end.input_error, end.output_error),
        kernel_distance=_kernel_distance(initial, final, inputs, network),
    )
    return trained, final


def _integrated(
    network: TwoLayer, initial: np.ndarray, inputs: np.ndarray, targets: np.ndarray, accuracy: Accuracy
) -> tuple[FlowEnd, np.ndarray]:
    """How an integration ends, and the displacement, ``(m, d + 1)``; its room is free again."""
    problem = _problem(network, initial, inputs, targets)
    goal = _loss_goal(outputs(initial, inputs, network.kappa), inputs, targets, accuracy.loss_tolerance)
    states = States(*(_zeros(*problem.initial.shape) for _ in States._fields))
    room = _workspace(problem), states, _neurons(problem), _neurons(problem)
    end = integrate_flow(problem, *room, stage_table(), accuracy.tolerance, goal, accuracy.most_evaluations)
    moved = states.state.transpose(0, 2, 1).reshape(-1, states.state.shape[1])[: network.width]
    return end, np.concatenate([moved[:, : inputs.shape[1]], moved[:, -1:]], axis=1)


def _loss_goal(first: np.ndarray, inputs: np.ndarray, targets: np.ndarray, tolerance: float) -> float:
    """Loss at which an integration ends, never below what rounding leaves."""
    start, scale = 0.5 * np.mean((first - targets) ** 2), 0.5 * np.mean(targets**2)
    rounding = 100 * np.finfo(float).eps ** 2 * max(scale, 0.5 * np.mean(first**2))
    return least_loss(inputs, targets) + max(tolerance * (min(start, scale) or start), rounding)


def least_loss(inputs: np.ndarray, targets: np.ndarray) -> float:
    """The loss that no function of the inputs can go below: 0 unless an input is there twice with two targets."""
    _, group = np.unique(inputs, axis=0, return_inverse=True)
    group = group.reshape(-1)
    means = np.bincount(group, targets) / np.bincount(group)
    return float(0.5 * np.mean((targets - means[group]) ** 2))


def checked_data(inputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs ``(n, d)`` and targets ``(n,)`` as contiguous float64.

    Raises:
        DataError: If their shapes don't fit, there is no example, or a number is not finite.
    """
    try:
        inputs, targets = (
            np.ascontiguousarray(np.asarray(array).astype(np.float64, casting="same_kind"))
            for array in (inputs, targets)
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"inputs and targets must be arrays of real numbers ({error})") from error
    if inputs.ndim != 2 or targets.shape != inputs.shape[:1] or not inputs.size:
        shapes = f"{inputs.shape} and {targets.shape}"
        raise DataError(f"expected inputs (n, d) and targets (n,) with n and d above 0, got {shapes}")
    if not (np.isfinite(inputs).all() and np.isfinite(targets).all()):
        raise DataError("inputs and targets must be finite numbers")
    return inputs, targets


def bytes_needed(width: int, inputs: np.ndarray) -> int:
    """Memory that the integration of one network takes, its kernels included, in bytes."""
    examples, dimension = _rounded_up(inputs.shape[0], EXAMPLES), _rounded_up(inputs.shape[1], FEATURES)
    neurons = _rounded_up(width, LANES)
    states = neurons * ((STATES + 3) * (dimension + 1) + 2 * (examples + 1 + dimension))
    return 8 * (states + 3 * BLOCK + 4 * examples**2)


def _workers(networks: Sequence[TwoLayer], inputs: np.ndarray, threads: int, memory_budget: int | None) -> int:
    """Networks that may be integrated at once."""
    if memory_budget is None or not networks:
        return threads
    largest = max(networks, key=lambda network: network.width)
    needed = bytes_needed(largest.width, inputs)
    if needed > memory_budget:
        raise MemoryError(
            f"a network of width {largest.width} on {len(inputs)} examples needs {needed / 1e6:.0f} MB, "
            f"the memory budget is {memory_budget / 1e6:.0f} MB"
        )
    return min(threads, memory_budget // needed)


def _problem(network: TwoLayer, weights: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> Problem:
    tiles = -(-network.width // LANES)
    count, dimension = (_rounded_up(size, step) for size, step in zip(inputs.shape, (EXAMPLES, FEATURES), strict=True))
    padded_inputs, padded_targets = np.zeros((count, dimension)), np.zeros(count)
    padded_inputs[: inputs.shape[0], : inputs.shape[1]], padded_targets[: len(targets)] = inputs, targets
    padded_weights = np.zeros((tiles * LANES, dimension + 1))
    padded_weights[: network.width, : inputs.shape[1]] = weights[:, :-1]
    padded_weights[: network.width, -1] = weights[:, -1]
    initial = _zeros(tiles, dimension + 1, LANES)
    initial[:] = padded_weights.reshape(tiles, LANES, dimension + 1).transpose(0, 2, 1)
    return Problem(
        inputs=padded_inputs,
        inputs_transposed=np.ascontiguousarray(padded_inputs.T),
        norms=np.linalg.norm(padded_inputs, axis=1),
        targets=padded_targets,
        examples=len(targets),
        initial=initial,
        width=network.width,
        kappa=network.kappa,
        kappa_prime=network.kappa_prime,
        by_blas=inputs.size >= BLAS_FROM,
        fused=(count, dimension) == (EXAMPLES, FEATURES),
    )


def _rounded_up(size: int, step: int) -> int:
    return -(-size // step) * step


def _zeros(*shape: int, dtype: type = np.float64) -> np.ndarray:
    """Zeros whose tiles' rows begin where cache lines do: no vector of theirs lies in two lines."""
    size = math.prod(shape)
    room = np.zeros(size + LINE - 1, dtype)
    begin = -room.ctypes.data // room.itemsize % LINE
    return room[begin : begin + size].reshape(shape)


def _workspace(problem: Problem) -> Workspace:
    rows = problem.initial.shape[1]
    examples = len(problem.targets)
    return Workspace(
        residual=np.zeros(examples),
        outputs=np.zeros(examples),
        weights=_zeros(rows, LANES),
        slope=_zeros(rows, LANES),
        pulls=_zeros(examples, LANES),
        speed=_zeros(LANES),
        jump=_zeros(LANES),
        crossed=_zeros(LANES),
        changed=np.zeros(len(problem.initial), bool),
        sums=np.zeros((2, 5)),
        tile_sums=np.zeros((2, 5)),
    )


def _neurons(problem: Problem) -> Neurons:
    """Neurons of which none slides."""
    tiles, rows, lanes = problem.initial.shape
    neurons = Neurons(
        preactivation=_zeros(tiles, len(problem.targets), lanes),
        slide=_zeros(tiles, lanes, dtype=np.int64),
        normal=_zeros(tiles, rows - 1, lanes),
        sliding=np.zeros(tiles, np.int64),
    )
    neurons.slide[:] = -1
    return neurons


def _ratio(displacement: np.ndarray, initial: np.ndarray) -> float:
    return float(np.linalg.norm(displacement) / np.linalg.norm(initial))


def _kernel_distance(initial: np.ndarray, final: np.ndarray, inputs: np.ndarray, network: TwoLayer) -> float:
    first, last = (tangent_kernel(weights, inputs, network) for weights in (initial, final))
    norms = np.linalg.norm(first), np.linalg.norm(last)
    return kernel_distance(first, last) if np.isfinite(norms).all() and all(norms) else float("nan")
