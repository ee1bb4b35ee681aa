"""Passes over all neurons of a two-layer network: each neuron's numbers are read once and written once.

Neurons lie in tiles of LANES, so that the inner loops have one length and become vector instructions; lanes beyond
the width are 0 and never move. States, ``(tiles, d + 1, LANES)``, hold w~ in rows 0 to d - 1 and a~ in row d, as the
displacement from the initial weights: it keeps its digits where the weights hardly move.
"""

from typing import NamedTuple

import numpy as np

from twophase.two_layer.compiled import LANES, compiled

STILL = 1e-6  # share of the jump at a kink below which a speed counts as 0
JUST_ABOVE = 1e-300  # z of a neuron that leaves a kink upwards


class Problem(NamedTuple):
    """What is integrated.

    Attributes:
        inputs: x_i, the constant 1 of the bias among them, ``(n, d)``.
        inputs_transposed: The same, ``(d, n)``, contiguous.
        squared_norms: |x_i|^2, ``(n,)``.
        targets: y_i, ``(n,)``.
        initial: Initial weights, ``(tiles, d + 1, LANES)``.
        kappa: Scale of the output.
        kappa_prime: Ratio of the layers' scales.
        by_blas: Whether a tile's products are large enough for calls of BLAS.
    """

    inputs: np.ndarray
    inputs_transposed: np.ndarray
    squared_norms: np.ndarray
    targets: np.ndarray
    initial: np.ndarray
    kappa: float
    kappa_prime: float
    by_blas: bool


class Neurons(NamedTuple):
    """What is known of each neuron at a state, besides its weights.

    A neuron at the kink of an example, w~ . x_i = 0, may be pushed to it from both sides: it slides along the kink, as
    gradient flow with ReLU (a Filippov system) says, with the velocity between both sides' that keeps it there.

    Attributes:
        preactivation: z = w~ . x_i, ``(tiles, n, LANES)``; exactly 0 at the kink along which a neuron slides.
        slide: Example i along whose kink a neuron slides, or -1, ``(tiles, LANES)``, int64.
    """

    preactivation: np.ndarray
    slide: np.ndarray


class Workspace(NamedTuple):
    """What passes hand on, and room for one tile.

    Attributes:
        residual: e_i = f(x_i) - y_i of the last state, ``(n,)``.
        outputs: Sums of a~ relu(z), lane by lane, ``(n, LANES)``.
        weights: Of one tile, ``(d + 1, LANES)``.
        slope: Of one tile, ``(d + 1, LANES)``.
        pulls: e_i 1[z > 0] of one tile, ``(n, LANES)``.
        sums: What ``last_slope`` sums: for input and output weights (rows) est^2, est * displacement,
            displacement^2 and slope^2, ``(2, 4)``.
    """

    residual: np.ndarray
    outputs: np.ndarray
    weights: np.ndarray
    slope: np.ndarray
    pulls: np.ndarray
    sums: np.ndarray


@compiled
def first_stage(problem, work, neurons, origin, origin_slope, step, result):
    """Set result = origin + step * slope, its preactivations and its residual; return its loss."""
    tiles, rows, _ = problem.initial.shape
    work.outputs[:] = 0.0
    for tile in range(tiles):
        for row in range(rows):
            for lane in range(LANES):
                value = origin[tile, row, lane] + step * origin_slope[tile, row, lane]
                result[tile, row, lane] = value
                work.weights[row, lane] = problem.initial[tile, row, lane] + value
        _evaluate_tile(problem, work, neurons, tile)
    return _set_residual(problem, work)


@compiled
def next_stage(problem, work, neurons, origin, origin_slope, previous, before, result, coefficients, step):
    """Set Y_j, its preactivations and its residual, from Y_{j-1} and Y_{j-2}, which it may overwrite; its loss."""
    tiles, rows, _ = problem.initial.shape
    of_origin, of_previous, of_before = coefficients[0], coefficients[1], coefficients[2]
    of_slope, of_origin_slope = coefficients[3] * step, coefficients[4] * step
    work.outputs[:] = 0.0
    for tile in range(tiles):
        _set_output_weights(problem, work, previous, tile)
        _tile_slope(problem, work, neurons, tile, work.slope)
        for row in range(rows):
            value = work.weights[row]
            for lane in range(LANES):
                value[lane] = of_origin * origin[tile, row, lane] + of_origin_slope * origin_slope[tile, row, lane]
            for lane in range(LANES):
                value[lane] += of_previous * previous[tile, row, lane] + of_before * before[tile, row, lane]
            for lane in range(LANES):
                value[lane] += of_slope * work.slope[row, lane]
                result[tile, row, lane] = value[lane]
            for lane in range(LANES):
                value[lane] += problem.initial[tile, row, lane]
        _evaluate_tile(problem, work, neurons, tile)
    return _set_residual(problem, work)


@compiled
def last_slope(problem, work, before, neurons, origin, origin_slope, result, result_slope, step):
    r"""Set the slope at a step's end and the sums that tell its error, est = 0.8 (y - y') + 0.4 h (F(y) + F(y')).

    Returns:
        tr Theta / n = kappa (1/n) sum over neurons and examples of 1[z > 0] (z^2 / kappa' + kappa' a~^2 |x|^2).
    """
    tiles, rows, _ = problem.initial.shape
    lanes = np.zeros((2, 4, LANES))
    traces = np.zeros((2, LANES))
    for tile in range(tiles):
        _set_output_weights(problem, work, result, tile)
        _tile_slope(problem, work, neurons, tile, result_slope[tile])
        if _update_slides(problem, work, before, neurons, result, result_slope, tile):
            _tile_slope(problem, work, neurons, tile, result_slope[tile])
        for row in range(rows):
            error, sums = work.slope[row], lanes[1 if row == rows - 1 else 0]
            for lane in range(LANES):
                error[lane] = 0.8 * (origin[tile, row, lane] - result[tile, row, lane])
            for lane in range(LANES):
                error[lane] += 0.4 * step * (origin_slope[tile, row, lane] + result_slope[tile, row, lane])
            _add_products(error, result[tile, row], result_slope[tile, row], sums)
        _add_trace(problem, work, neurons, tile, traces)
    for layer in range(2):
        for kind in range(4):
            work.sums[layer, kind] = _sum_of_lanes(lanes[layer, kind])
    of_output, of_input = _sum_of_lanes(traces[0]), _sum_of_lanes(traces[1])
    return problem.kappa * (of_output / problem.kappa_prime + problem.kappa_prime * of_input) / len(problem.targets)


@compiled
def _add_products(error, moved, slope, sums):
    """Add est^2, est * displacement, displacement^2 and slope^2, lane by lane."""
    for lane in range(LANES):
        sums[0, lane] += error[lane] * error[lane]
        sums[1, lane] += error[lane] * moved[lane]
    for lane in range(LANES):
        sums[2, lane] += moved[lane] * moved[lane]
        sums[3, lane] += slope[lane] * slope[lane]


@compiled
def _add_trace(problem, work, neurons, tile, traces):
    """Add 1[z > 0] z^2 and 1[z > 0] a~^2 |x|^2 of one tile, lane by lane."""
    last = problem.initial.shape[1] - 1
    for i in range(problem.inputs.shape[0]):
        length = problem.squared_norms[i]
        for lane in range(LANES):
            z, a = neurons.preactivation[tile, i, lane], work.weights[last, lane]
            traces[0, lane] += z * z if z > 0.0 else 0.0
            traces[1, lane] += length * a * a if z > 0.0 else 0.0


@compiled
def _set_output_weights(problem, work, state, tile):
    last = problem.initial.shape[1] - 1
    for lane in range(LANES):
        work.weights[last, lane] = problem.initial[tile, last, lane] + state[tile, last, lane]


@compiled
def _evaluate_tile(problem, work, neurons, tile):
    """Set the preactivations of the tile whose weights are in the workspace, and add its outputs."""
    inputs, weights, preactivation = problem.inputs, work.weights, neurons.preactivation[tile]
    count, dimension = inputs.shape
    if problem.by_blas:
        np.dot(inputs, weights[:dimension], preactivation)
    else:
        for i in range(count):
            for lane in range(LANES):
                preactivation[i, lane] = inputs[i, 0] * weights[0, lane]
            for c in range(1, dimension):
                for lane in range(LANES):
                    preactivation[i, lane] += inputs[i, c] * weights[c, lane]
    for lane in range(LANES):
        if neurons.slide[tile, lane] >= 0:
            preactivation[neurons.slide[tile, lane], lane] = 0.0
    for i in range(count):
        for lane in range(LANES):
            z = preactivation[i, lane]
            work.outputs[i, lane] += weights[dimension, lane] * (z if z > 0.0 else 0.0)


@compiled
def _tile_slope(problem, work, neurons, tile, slope):
    """Set d w~ = -kappa' (1/n) sum_i e_i a~ 1[z > 0] x_i and d a~ = -(1/kappa') (1/n) sum_i e_i relu(z)."""
    inputs, pulls, preactivation = problem.inputs, work.pulls, neurons.preactivation[tile]
    count, dimension = inputs.shape
    slope[:] = 0.0
    for i in range(count):
        residual = work.residual[i]
        for lane in range(LANES):
            z = preactivation[i, lane]
            pulls[i, lane] = residual if z > 0.0 else 0.0
            slope[dimension, lane] += residual * (z if z > 0.0 else 0.0)
        if not problem.by_blas:
            for c in range(dimension):
                for lane in range(LANES):
                    slope[c, lane] += inputs[i, c] * pulls[i, lane]
    if problem.by_blas:
        np.dot(problem.inputs_transposed, pulls, slope[:dimension])
    to_input, to_output = -problem.kappa_prime / count, -1.0 / (problem.kappa_prime * count)
    for c in range(dimension):
        for lane in range(LANES):
            slope[c, lane] *= to_input * work.weights[dimension, lane]
    for lane in range(LANES):
        slope[dimension, lane] *= to_output
    _slide_tile(problem, work, neurons.slide[tile], slope)


@compiled
def _slide_tile(problem, work, slides, slope):
    for lane in range(LANES):
        if slides[lane] >= 0:
            _slide(problem, work, slope, lane, slides[lane])


@compiled
def _slide(problem, work, slope, lane, i):
    """Add to the slope of one neuron, that of the kink's lower side, the share of the jump that keeps z_i at 0.

    The upper side's slope differs by the pull of example i; a share below 0 or above 1 can't be had, and the neuron
    leaves the kink.
    """
    jump = _jump(problem, work, lane, i)
    share_of_jump = min(max(-_speed(problem, slope, lane, i), min(jump, 0.0)), max(jump, 0.0))
    for c in range(problem.inputs.shape[1]):
        slope[c, lane] += share_of_jump * problem.inputs[i, c] / problem.squared_norms[i]


@compiled
def _speed(problem, slope, lane, i):
    """dz_i/dt of one neuron."""
    total = 0.0
    for c in range(problem.inputs.shape[1]):
        total += problem.inputs[i, c] * slope[c, lane]
    return total


@compiled
def _jump(problem, work, lane, i):
    """What the pull of example i adds to dz_i/dt where z_i > 0: -kappa' (1/n) e_i a~ |x_i|^2."""
    count, dimension = problem.inputs.shape
    pull = work.residual[i] * work.weights[dimension, lane] * problem.squared_norms[i]
    return -problem.kappa_prime * pull / count


@compiled
def _update_slides(problem, work, before, neurons, result, slope, tile):
    """Let neurons of a tile that crossed a kink to which both sides push slide there, and others leave theirs.

    Sets ``neurons.slide`` from ``before.slide``, and moves the weights of those that begin onto the kink.

    Returns:
        Whether anything changed.
    """
    changed = False
    count, dimension = problem.inputs.shape
    for lane in range(LANES):
        i = before.slide[tile, lane]
        neurons.slide[tile, lane] = i
        if i >= 0:
            speed = _speed(problem, slope[tile], lane, i)
            if abs(speed) > STILL * abs(_jump(problem, work, lane, i)):
                neurons.slide[tile, lane] = -1
                neurons.preactivation[tile, i, lane] = JUST_ABOVE if speed > 0.0 else 0.0
                changed = True
    for i in range(count):
        for lane in range(LANES):
            z = neurons.preactivation[tile, i, lane]
            crossed = (z > 0.0) != (before.preactivation[tile, i, lane] > 0.0)
            if crossed and before.slide[tile, lane] < 0 and neurons.slide[tile, lane] < 0:
                speed, jump = _speed(problem, slope[tile], lane, i), _jump(problem, work, lane, i)
                below = speed - jump if z > 0.0 else speed
                if below > 0.0 and below + jump < 0.0:
                    neurons.slide[tile, lane] = i
                    neurons.preactivation[tile, i, lane] = 0.0
                    for c in range(dimension):
                        result[tile, c, lane] -= z * problem.inputs[i, c] / problem.squared_norms[i]
                    changed = True
    return changed


@compiled
def _set_residual(problem, work):
    """Set e = kappa sum a~ relu(z) - y; return the loss, 1/(2n) sum e^2."""
    total = 0.0
    for i in range(problem.targets.shape[0]):
        work.residual[i] = problem.kappa * _sum_of_lanes(work.outputs[i]) - problem.targets[i]
        total += work.residual[i] * work.residual[i]
    return total / (2 * problem.targets.shape[0])


@compiled
def _sum_of_lanes(lanes):
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    return total
