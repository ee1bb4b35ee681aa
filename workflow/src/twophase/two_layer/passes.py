"""Passes over all neurons of a two-layer network: each neuron's numbers are read once and written once.

Neurons lie in tiles of LANES, so that the inner loops have one length and become vector instructions; lanes beyond
the width are 0 and never move. States, ``(tiles, d + 1, LANES)``, hold w~ in rows 0 to d - 1 and a~ in row d, as the
displacement from the initial weights: it keeps its digits where the weights hardly move.
"""

from typing import NamedTuple

import numpy as np

from twophase.two_layer.compiled import LANES, compiled, summing

EXAMPLES, FEATURES = 4, 2  # taken together, so that sums stay in registers
STILL = 1e-6  # share of the jump at a kink below which a speed counts as 0
JUST_ABOVE = 1e-300  # z of a neuron that leaves a kink upwards


class Problem(NamedTuple):
    """What is integrated.

    Attributes:
        inputs: x_i, the constant 1 of the bias among them, ``(n, d)``.
        inputs_transposed: The same, ``(d, n)``, contiguous.
        norms: |x_i|, ``(n,)``.
        targets: y_i, ``(n,)``.
        examples: How many of the n examples there are; the others, up to a multiple of 4, are 0, as are features up to
            a multiple of 2: neither changes anything.
        initial: Initial weights, ``(tiles, d + 1, LANES)``.
        kappa: Scale of the output.
        kappa_prime: Ratio of the layers' scales.
        by_blas: Whether a tile's products are large enough for calls of BLAS.
    """

    inputs: np.ndarray
    inputs_transposed: np.ndarray
    norms: np.ndarray
    targets: np.ndarray
    examples: int
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
        normal: x_i / |x_i| of that example, else 0, ``(tiles, d, LANES)``.
        sliding: How many neurons of a tile slide, ``(tiles,)``, int64.
    """

    preactivation: np.ndarray
    slide: np.ndarray
    normal: np.ndarray
    sliding: np.ndarray


class Workspace(NamedTuple):
    """What passes hand on, and room for one tile.

    Attributes:
        residual: e_i = f(x_i) - y_i of the last state, ``(n,)``.
        outputs: Sums of a~ relu(z), ``(n,)``.
        weights: Of one tile, ``(d + 1, LANES)``.
        slope: Of one tile, ``(d + 1, LANES)``.
        pulls: e_i 1[z > 0] of one tile, ``(n, LANES)``.
        speed: dz/dt of sliding neurons of one tile over |x_i|, ``(LANES,)``.
        jump: What the pull of their example adds to it where z > 0, -kappa' (1/n) e_i a~ |x_i|, ``(LANES,)``.
        crossed: Below 0 for neurons of one tile that have crossed a kink in a step, ``(LANES,)``.
        sums: What ``last_slope`` sums: for input and output weights (rows) est^2, est * displacement,
            displacement^2 and slope^2, ``(2, 4)``.
    """

    residual: np.ndarray
    outputs: np.ndarray
    weights: np.ndarray
    slope: np.ndarray
    pulls: np.ndarray
    speed: np.ndarray
    jump: np.ndarray
    crossed: np.ndarray
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
            _combine(
                of_origin,
                origin[tile, row],
                of_origin_slope,
                origin_slope[tile, row],
                of_previous,
                previous[tile, row],
                work.weights[row],
            )
            _add_combination(of_before, before[tile, row], of_slope, work.slope[row], work.weights[row])
            _store_and_add(work.weights[row], result[tile, row], problem.initial[tile, row])
        _evaluate_tile(problem, work, neurons, tile)
    return _set_residual(problem, work)


@compiled
def _combine(p, x, q, y, r, z, result):
    for lane in range(LANES):
        result[lane] = p * x[lane] + q * y[lane] + r * z[lane]


@compiled
def _add_combination(p, x, q, y, result):
    for lane in range(LANES):
        result[lane] += p * x[lane] + q * y[lane]


@compiled
def _store_and_add(values, result, initial):
    """Copy a row of a state, and make it one of weights."""
    for lane in range(LANES):
        result[lane] = values[lane]
    for lane in range(LANES):
        values[lane] += initial[lane]


@compiled
def last_slope(problem, work, before, neurons, origin, origin_slope, result, result_slope, step):
    r"""Set the slope at a step's end and the sums that tell its error, est = 0.8 (y - y') + 0.4 h (F(y) + F(y')).

    Returns:
        tr Theta / n = kappa (1/n) sum over neurons and examples of 1[z > 0] (z^2 / kappa' + kappa' a~^2 |x|^2).
    """
    tiles, rows, _ = problem.initial.shape
    work.sums[:] = 0.0
    of_output, of_input = 0.0, 0.0
    for tile in range(tiles):
        _set_output_weights(problem, work, result, tile)
        _tile_slope(problem, work, neurons, tile, result_slope[tile])
        if _update_slides(problem, work, before, neurons, result, result_slope, tile):
            _tile_slope(problem, work, neurons, tile, result_slope[tile])
        for row in range(rows):
            sums = work.sums[1 if row == rows - 1 else 0]
            _add_products(
                origin[tile, row], origin_slope[tile, row], result[tile, row], result_slope[tile, row], step, sums
            )
        for i in range(problem.examples):
            hidden, weights = _sums_of_squares(neurons.preactivation[tile, i], work.weights[rows - 1])
            of_output += hidden
            of_input += weights * problem.norms[i] ** 2
    return problem.kappa * (of_output / problem.kappa_prime + problem.kappa_prime * of_input) / problem.examples


@summing
def _add_products(origin, origin_slope, result, result_slope, step, sums):
    """Add est^2, est * displacement, displacement^2 and slope^2."""
    errors, along, ways, slopes = 0.0, 0.0, 0.0, 0.0
    for lane in range(LANES):
        error = 0.8 * (origin[lane] - result[lane]) + 0.4 * step * (origin_slope[lane] + result_slope[lane])
        errors += error * error
        along += error * result[lane]
        ways += result[lane] * result[lane]
        slopes += result_slope[lane] * result_slope[lane]
    sums[0] += errors
    sums[1] += along
    sums[2] += ways
    sums[3] += slopes


@summing
def _sums_of_squares(preactivation, output_weights):
    """Sums of relu(z)^2 and of a~^2 where z > 0."""
    hidden, weights = 0.0, 0.0
    for lane in range(LANES):
        z, a = preactivation[lane], output_weights[lane]
        hidden += max(z, 0.0) * max(z, 0.0)
        weights += a * a if z > 0.0 else 0.0
    return hidden, weights


@compiled
def _four(rows, i):
    """Rows i to i + 3, those of four examples."""
    return rows[i], rows[i + 1], rows[i + 2], rows[i + 3]


@compiled
def _set_output_weights(problem, work, state, tile):
    last = problem.initial.shape[1] - 1
    for lane in range(LANES):
        work.weights[last, lane] = problem.initial[tile, last, lane] + state[tile, last, lane]


@compiled
def _evaluate_tile(problem, work, neurons, tile):
    """Set the preactivations of the tile whose weights are in the workspace, and add its outputs."""
    preactivation = neurons.preactivation[tile]
    count, dimension = problem.inputs.shape
    if problem.by_blas:
        np.dot(problem.inputs, work.weights[:dimension], preactivation)
    else:
        _multiply(problem.inputs, work.weights, preactivation)
    if neurons.sliding[tile]:
        _hold_on_kink(neurons.slide[tile], preactivation)
    for i in range(count):
        work.outputs[i] += _sum_of_hidden(preactivation[i], work.weights[dimension])


@summing
def _sum_of_hidden(preactivation, output_weights):
    total = 0.0
    for lane in range(LANES):
        total += output_weights[lane] * max(preactivation[lane], 0.0)
    return total


@compiled
def _multiply(inputs, weights, product):
    """Set product = inputs weights, four examples and two features at a time."""
    for i in range(0, inputs.shape[0], EXAMPLES):
        z0, z1, z2, z3 = _four(product, i)
        for c in range(0, inputs.shape[1], FEATURES):
            u, v = weights[c], weights[c + 1]
            p0, p1, p2, p3 = _four(inputs[:, c], i)
            q0, q1, q2, q3 = _four(inputs[:, c + 1], i)
            if c == 0:
                for lane in range(LANES):
                    z0[lane] = p0 * u[lane] + q0 * v[lane]
                    z1[lane] = p1 * u[lane] + q1 * v[lane]
                    z2[lane] = p2 * u[lane] + q2 * v[lane]
                    z3[lane] = p3 * u[lane] + q3 * v[lane]
            else:
                for lane in range(LANES):
                    z0[lane] += p0 * u[lane] + q0 * v[lane]
                    z1[lane] += p1 * u[lane] + q1 * v[lane]
                    z2[lane] += p2 * u[lane] + q2 * v[lane]
                    z3[lane] += p3 * u[lane] + q3 * v[lane]


@compiled
def _hold_on_kink(slides, preactivation):
    """Set z to 0 where a neuron slides: without rounding, and on the lower side."""
    for i in range(preactivation.shape[0]):
        for lane in range(LANES):
            preactivation[i, lane] = 0.0 if slides[lane] == i else preactivation[i, lane]


@compiled
def _tile_slope(problem, work, neurons, tile, slope):
    """Set d w~ = -kappa' (1/n) sum_i e_i a~ 1[z > 0] x_i and d a~ = -(1/kappa') (1/n) sum_i e_i relu(z)."""
    dimension = problem.inputs.shape[1]
    slope[:] = 0.0
    if problem.by_blas:
        _set_pulls(work.residual, neurons.preactivation[tile], work.pulls)
        np.dot(problem.inputs_transposed, work.pulls, slope[:dimension])
    else:
        _add_pulls(problem.inputs, work.residual, neurons.preactivation[tile], slope)
    _add_hidden(work.residual, neurons.preactivation[tile], slope[dimension])
    to_input, to_output = -problem.kappa_prime / problem.examples, -1.0 / (problem.kappa_prime * problem.examples)
    for c in range(dimension):
        for lane in range(LANES):
            slope[c, lane] *= to_input * work.weights[dimension, lane]
    for lane in range(LANES):
        slope[dimension, lane] *= to_output
    if neurons.sliding[tile]:
        _set_speed_and_jump(problem, work, neurons, tile, slope)
        _slide(work.speed, work.jump, neurons.normal[tile], slope)


@compiled
def _set_pulls(residual, preactivation, pulls):
    for i in range(residual.shape[0]):
        for lane in range(LANES):
            pulls[i, lane] = residual[i] if preactivation[i, lane] > 0.0 else 0.0


@compiled
def _add_pulls(inputs, residual, preactivation, slope):
    """Add sum_i e_i 1[z > 0] x_i, four examples and two features at a time."""
    for i in range(0, inputs.shape[0], EXAMPLES):
        z0, z1, z2, z3 = _four(preactivation, i)
        e0, e1, e2, e3 = _four(residual, i)
        for c in range(0, inputs.shape[1], FEATURES):
            first, second = slope[c], slope[c + 1]
            p0, p1, p2, p3 = e0 * inputs[i, c], e1 * inputs[i + 1, c], e2 * inputs[i + 2, c], e3 * inputs[i + 3, c]
            q0, q1 = e0 * inputs[i, c + 1], e1 * inputs[i + 1, c + 1]
            q2, q3 = e2 * inputs[i + 2, c + 1], e3 * inputs[i + 3, c + 1]
            for lane in range(LANES):
                first[lane] += (
                    (p0 if z0[lane] > 0.0 else 0.0)
                    + (p1 if z1[lane] > 0.0 else 0.0)
                    + (p2 if z2[lane] > 0.0 else 0.0)
                    + (p3 if z3[lane] > 0.0 else 0.0)
                )
                second[lane] += (
                    (q0 if z0[lane] > 0.0 else 0.0)
                    + (q1 if z1[lane] > 0.0 else 0.0)
                    + (q2 if z2[lane] > 0.0 else 0.0)
                    + (q3 if z3[lane] > 0.0 else 0.0)
                )


@compiled
def _add_hidden(residual, preactivation, slope):
    """Add sum_i e_i relu(z), four examples at a time."""
    for i in range(0, residual.shape[0], EXAMPLES):
        z0, z1, z2, z3 = _four(preactivation, i)
        e0, e1, e2, e3 = _four(residual, i)
        for lane in range(LANES):
            slope[lane] += (
                e0 * max(z0[lane], 0.0) + e1 * max(z1[lane], 0.0) + e2 * max(z2[lane], 0.0) + e3 * max(z3[lane], 0.0)
            )


@compiled
def _set_speed_and_jump(problem, work, neurons, tile, slope):
    """Set, of the neurons of one tile that slide, dz/dt on the kink's lower side and the jump to its upper side."""
    dimension = problem.inputs.shape[1]
    slides, normal, speed, jump = neurons.slide[tile], neurons.normal[tile], work.speed, work.jump
    for lane in range(LANES):
        speed[lane] = jump[lane] = 0.0
    for c in range(dimension):
        for lane in range(LANES):
            speed[lane] += normal[c, lane] * slope[c, lane]
    for i in range(problem.inputs.shape[0]):
        pull = -problem.kappa_prime / problem.examples * work.residual[i] * problem.norms[i]
        for lane in range(LANES):
            jump[lane] = pull if slides[lane] == i else jump[lane]
    for lane in range(LANES):
        jump[lane] *= work.weights[dimension, lane]


@compiled
def _slide(speed, jump, normal, slope):
    """Add to slopes, those of the kinks' lower sides, the share of the jump that keeps z at 0.

    A share below 0 or above 1 can't be had: the neuron leaves its kink.
    """
    for lane in range(LANES):
        speed[lane] = min(max(-speed[lane], min(jump[lane], 0.0)), max(jump[lane], 0.0))
    for c in range(slope.shape[0] - 1):
        for lane in range(LANES):
            slope[c, lane] += speed[lane] * normal[c, lane]


@compiled
def _update_slides(problem, work, before, neurons, result, slope, tile):
    """Let neurons of a tile that crossed a kink to which both sides push slide there, and others leave theirs.

    Sets what ``neurons`` say of slides, from ``before``, and moves the weights of those that begin onto the kink.

    Returns:
        Whether anything changed.
    """
    changed = False
    if before.sliding[tile]:
        _set_speed_and_jump(problem, work, neurons, tile, slope[tile])
        for lane in range(LANES):
            if abs(work.speed[lane]) > STILL * abs(work.jump[lane]):
                _leave(neurons, tile, lane, work.speed[lane] > 0.0)
                changed = True
    _set_crossed(before.preactivation[tile], neurons.preactivation[tile], work.crossed)
    for lane in range(LANES):
        if work.crossed[lane] < 0.0 and before.slide[tile, lane] < 0:
            changed |= _arrive(problem, work, before, neurons, result, slope, tile, lane)
    return changed


@compiled
def _set_crossed(before, now, crossed):
    """Set to something below 0 where the sign of z has changed at an example."""
    for lane in range(LANES):
        crossed[lane] = 0.0
    for i in range(0, now.shape[0], EXAMPLES):
        b0, b1, b2, b3 = _four(before, i)
        z0, z1, z2, z3 = _four(now, i)
        for lane in range(LANES):
            crossed[lane] = min(
                crossed[lane],
                min(min(b0[lane] * z0[lane], b1[lane] * z1[lane]), min(b2[lane] * z2[lane], b3[lane] * z3[lane])),
            )


@compiled
def _leave(neurons, tile, lane, upwards):
    neurons.preactivation[tile, neurons.slide[tile, lane], lane] = JUST_ABOVE if upwards else 0.0
    neurons.slide[tile, lane] = -1
    neurons.sliding[tile] -= 1
    for c in range(neurons.normal.shape[1]):
        neurons.normal[tile, c, lane] = 0.0


@compiled
def _arrive(problem, work, before, neurons, result, slope, tile, lane):
    """Let a neuron slide along the first kink that it crossed and to which both sides push it; whether there is one."""
    count, dimension = problem.inputs.shape
    for i in range(count):
        z, norm = neurons.preactivation[tile, i, lane], problem.norms[i]
        if (z > 0.0) != (before.preactivation[tile, i, lane] > 0.0):
            below = 0.0
            for c in range(dimension):
                below += problem.inputs[i, c] * slope[tile, c, lane]
            jump = -problem.kappa_prime / problem.examples * work.residual[i] * norm**2 * work.weights[dimension, lane]
            below -= jump if z > 0.0 else 0.0
            if below > 0.0 and below + jump < 0.0:
                neurons.preactivation[tile, i, lane] = 0.0
                neurons.slide[tile, lane] = i
                neurons.sliding[tile] += 1
                for c in range(dimension):
                    neurons.normal[tile, c, lane] = problem.inputs[i, c] / norm
                    result[tile, c, lane] -= z / norm * neurons.normal[tile, c, lane]
                return True
    return False


@compiled
def _set_residual(problem, work):
    """Set e = kappa sum a~ relu(z) - y; return the loss, 1/(2n) sum e^2."""
    total = 0.0
    for i in range(problem.targets.shape[0]):
        work.residual[i] = problem.kappa * work.outputs[i] - problem.targets[i]
        total += work.residual[i] * work.residual[i]
    return total / (2 * problem.examples)
