"""One network's gradient flow, from its initial weights until it has learned: steps, their errors, and the end."""

import math
from typing import NamedTuple

import numpy as np

from twophase.two_layer.chebyshev import MOST_STAGES, STIFFNESS
from twophase.two_layer.compiled import compiled, inlined, uncounted
from twophase.two_layer.passes import first_stage, last_slope, next_stage

CONVERGED, STATIONARY, EVALUATIONS_SPENT, NOT_FINITE = range(4)

# The tolerance holds for the part of a step's error that lies along the displacement and so changes RD. The rest
# comes from neurons that cross a data point, where the slope jumps, and mostly averages out: in the norm over m neurons
# it may be sqrt(m) times as large. Larger, and it would often decide whether a neuron crosses a data point that it just
# reaches, which changes a small network's RD by percents.
MOST_GROWTH, MOST_SHRINKING, SAFETY = 10.0, 0.1, 0.8
FIRST_STEP = 0.01  # over the spectral radius; the error estimate takes over from there
STABLE_SHARE = 0.65  # of s^2 - 1: an s-stage step is stable up to that over the spectral radius
# A network is stationary if, while the time so far passed nine times more, its loss fell by no more than this share and
# no layer moved by more than that share of its way. Neurons that more than one kink holds may still tremble.
PATIENCE, STILL_LOSS, STILL_WAY = 10.0, 1e-9, 1e-3


class FlowEnd(NamedTuple):
    """How an integration ended.

    Attributes:
        status: CONVERGED, STATIONARY, EVALUATIONS_SPENT or NOT_FINITE.
        steps: Accepted steps.
        evaluations: Evaluations of the slope, each a pass over all neurons.
        initial_loss: L at time 0.
        loss: L at the end.
        time: In units of alpha.
        input_error: Sum over steps of the local error of |w~ - w~(0)|, over |w~ - w~(0)| at the end.
        output_error: The same of a~.
    """

    status: int
    steps: int
    evaluations: int
    initial_loss: float
    loss: float
    time: float
    input_error: float
    output_error: float


class States(NamedTuple):
    """Arrays of zeros of a state's size, ``(tiles, d + 1, LANES)``.

    Attributes:
        state: Displacement at the last step.
        slope: Its slope.
        next_slope: That of the state after it.
        stage: A stage of a step.
        stage_before: The stage before that.
        mark: Displacement some time ago.
    """

    state: np.ndarray
    slope: np.ndarray
    next_slope: np.ndarray
    stage: np.ndarray
    stage_before: np.ndarray
    mark: np.ndarray


@compiled
def integrate_flow(problem, work, states, neurons, new_neurons, table, tolerance, loss_goal, most_evaluations):
    """Integrate until the loss is at or below its goal.

    Args:
        problem: What is integrated.
        work: A workspace of its size; overwritten, as are the following.
        states: Of its size, zeros; ``state`` is where it ends.
        neurons: Of its size, none of which slides.
        new_neurons: The same once more.
        table: ``stage_table()``.
        tolerance: Share of the displacement by which a step may miss it.
        loss_goal: Loss at which it ends.
        most_evaluations: Evaluations after which it gives up.

    Returns:
        A ``FlowEnd``.
    """
    problem, work = uncounted(problem), uncounted(work)
    neurons, new_neurons = uncounted(neurons), uncounted(new_neurons)
    arrays = uncounted(states)
    state, slope, next_slope, spare, other, mark = arrays
    distance, error = np.zeros(2), np.zeros(2)
    loss = initial_loss = first_stage(problem, work, neurons, state, slope, 0.0, state)
    trace = last_slope(problem, work, neurons, neurons, state, slope, state, next_slope, 0.0)
    radius = trace + _curvature(problem, work.residual)
    slope, next_slope = next_slope, slope
    status = _status(loss, loss_goal, work.sums)
    step, time, steps, evaluations = FIRST_STEP / radius, 0.0, 0, 1
    mark_time, mark_loss = step, loss
    while status == EVALUATIONS_SPENT and evaluations < most_evaluations:
        stages, step = _stages_and_step(step, radius)
        _copy_slides(work.changed, neurons, new_neurons)
        spare, other, new_loss = _take_stages(
            problem, work, new_neurons, state, slope, spare, other, table[stages], stages, step
        )
        trace = last_slope(problem, work, neurons, new_neurons, state, slope, spare, next_slope, step)
        evaluations += stages
        excess = _error_over_tolerance(work.sums, distance, tolerance, math.sqrt(problem.width) * tolerance)
        if excess <= 1.0:
            state, spare = spare, state
            neurons, new_neurons = new_neurons, neurons
            slope, next_slope = next_slope, slope
            radius = trace + _curvature(problem, work.residual)
            loss, time, steps = new_loss, time + step, steps + 1
            _add_error(work.sums, distance, error)
            status = _status(loss, loss_goal, work.sums)
            if status == EVALUATIONS_SPENT and time >= PATIENCE * mark_time:
                still = _moved_little(state, mark, distance) and mark_loss - loss <= STILL_LOSS * loss
                status = STATIONARY if still else status
                mark_time, mark_loss = time, loss
        step *= min(MOST_GROWTH, max(MOST_SHRINKING, SAFETY / max(excess, 1e-9) ** (1.0 / 3.0)))
        if not (math.isfinite(step) and step > 0.0 and math.isfinite(radius)):
            status = NOT_FINITE
    for layer in range(2):
        error[layer] = error[layer] / distance[layer] if distance[layer] > 0.0 else 0.0
    _copy(state.reshape(-1), arrays.state.reshape(-1))
    return FlowEnd(status, steps, evaluations, initial_loss, loss, time, error[0], error[1])


@compiled
def _status(loss, loss_goal, sums):
    """CONVERGED at the goal; STATIONARY where no weight moves; NOT_FINITE; else EVALUATIONS_SPENT, so far."""
    if not math.isfinite(loss):
        return NOT_FINITE
    if loss <= loss_goal:
        return CONVERGED
    return STATIONARY if sums[0, 3] == 0.0 and sums[1, 3] == 0.0 else EVALUATIONS_SPENT


@compiled
def _moved_little(state, mark, distance):
    """Whether both layers are near where they were at the mark; sets the mark."""
    tiles, rows, lanes = state.shape
    moved = np.zeros(2)
    for tile in range(tiles):
        for row in range(rows):
            for lane in range(lanes):
                moved[1 if row == rows - 1 else 0] += (state[tile, row, lane] - mark[tile, row, lane]) ** 2
                mark[tile, row, lane] = state[tile, row, lane]
    return math.sqrt(moved[0]) <= STILL_WAY * distance[0] and math.sqrt(moved[1]) <= STILL_WAY * distance[1]


@compiled
def _stages_and_step(step, radius):
    """The number of stages that makes a step stable, and the step, shortened if that would be too many."""
    stages = max(2, 1 + int(math.sqrt(1.0 + STIFFNESS * min(step * radius, 1e8))))
    if stages > MOST_STAGES:
        return MOST_STAGES, STABLE_SHARE * (MOST_STAGES**2 - 1) / radius
    return stages, step


@compiled
def _add_error(sums, distance, error):
    """Set each layer's distance, and add to its error what the step missed along the displacement."""
    for layer in range(2):
        distance[layer] = math.sqrt(sums[layer, 2])
        if distance[layer] > 0.0:
            error[layer] += abs(sums[layer, 1]) / distance[layer]


@compiled
def _copy_slides(changed, neurons, new_neurons):
    """Let stages begin with the slides of the step's beginning, where these are others."""
    for tile in range(len(changed)):
        if changed[tile]:
            _copy(neurons.slide[tile], new_neurons.slide[tile])
            _copy(neurons.normal[tile].reshape(-1), new_neurons.normal[tile].reshape(-1))
            new_neurons.sliding[tile] = neurons.sliding[tile]
            changed[tile] = False


@inlined
def _copy(source, target):
    """As ``target[:] = source``, which takes Numba seconds to compile."""
    for place in range(source.size):
        target[place] = source[place]


@compiled
def _take_stages(problem, work, neurons, state, slope, previous, before, coefficients, stages, step):
    """All stages of one step: the result, the array that is free, and the loss."""
    first_stage(problem, work, neurons, state, slope, coefficients[1, 3] * step, previous)
    loss = next_stage(problem, work, neurons, state, slope, previous, before, coefficients[2], step, True)
    for stage in range(3, stages + 1):
        previous, before = before, previous
        loss = next_stage(problem, work, neurons, state, slope, previous, before, coefficients[stage], step, False)
    return before, previous, loss


@compiled
def _error_over_tolerance(sums, distance, of_along, of_across):
    """The step's error over what is allowed, of the layer where that is largest; huge if it is not finite."""
    largest = 0.0
    for layer in range(2):
        moved = max(distance[layer], math.sqrt(sums[layer, 2]))
        if moved > 0.0:
            along = abs(sums[layer, 1]) / moved**2
            across = math.sqrt(sums[layer, 0]) / moved
            largest = max(largest, along / of_along, across / of_across)
        if not (math.isfinite(sums[layer, 0]) and math.isfinite(sums[layer, 1])):
            return 1e9
    return largest


@compiled
def _curvature(problem, residual):
    """Bound of what single neurons' curvature adds to the spectral radius: (1/n) sum |e_i| |x_i|."""
    total = 0.0
    for i in range(residual.shape[0]):
        total += abs(residual[i]) * problem.norms[i]
    return total / problem.examples
