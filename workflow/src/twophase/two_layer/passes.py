"""Passes over all neurons of a two-layer network: each neuron's numbers are read once and written once.

Neurons lie in tiles of LANES, so that the inner loops have one length and become vector instructions; lanes beyond
the width are 0 and never move. States, ``(tiles, d + 1, LANES)``, hold w~ in rows 0 to d - 1 and a~ in row d, as the
displacement from the initial weights: it keeps its digits where the weights hardly move.
"""

from typing import NamedTuple

import numpy as np

from twophase.two_layer.compiled import LANES, compiled, inlined, summing
from twophase.two_layer.fused import first_stage_of_tile, next_stage_of_tile, slope_and_sums_of_tile
from twophase.two_layer.neuron import EXAMPLES, FEATURES, at, four, of_slide, relu, share, sum_of_products, where_active

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
        width: m, how many neurons there are.
        kappa: Scale of the output.
        kappa_prime: Ratio of the layers' scales.
        by_blas: Whether a tile's products are large enough for calls of BLAS.
        fused: Whether there are so few examples and features that all of a neuron's numbers fit into registers.
    """

    inputs: np.ndarray
    inputs_transposed: np.ndarray
    norms: np.ndarray
    targets: np.ndarray
    examples: int
    initial: np.ndarray
    width: int
    kappa: float
    kappa_prime: float
    by_blas: bool
    fused: bool


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
        pulls: Share of each example in d w~ of one tile over x_i, -kappa' (1/n) e_i a~ 1[z > 0], ``(n, LANES)``.
        speed: dz/dt of sliding neurons of one tile over |x_i|, ``(LANES,)``.
        jump: What the pull of their example adds to it where z > 0, -kappa' (1/n) e_i a~ |x_i|, ``(LANES,)``.
        crossed: Below 0 for neurons of one tile that have crossed a kink in a step, ``(LANES,)``.
        changed: Whether slides of a tile differ between both ends of a step, ``(tiles,)``.
        sums: What ``last_slope`` sums: for input and output weights (rows) est^2, est * displacement,
            displacement^2, slope^2, and a~^2 |x|^2 or z^2 where z > 0, ``(2, 5)``.
        tile_sums: Those of one tile, ``(2, 5)``.
    """

    residual: np.ndarray
    outputs: np.ndarray
    weights: np.ndarray
    slope: np.ndarray
    pulls: np.ndarray
    speed: np.ndarray
    jump: np.ndarray
    crossed: np.ndarray
    changed: np.ndarray
    sums: np.ndarray
    tile_sums: np.ndarray


@compiled
def first_stage(problem, work, neurons, origin, origin_slope, step, result):
    """Set result = origin + step * slope, its preactivations and its residual; return its loss."""
    initial, x, y, value = _flat(problem.initial), _flat(origin), _flat(origin_slope), _flat(result)
    weights = work.weights.reshape(-1)
    work.outputs[:] = 0.0
    for tile in range(len(initial)):
        if problem.fused:
            first_stage_of_tile(problem, work, neurons, tile, x[tile], y[tile], step, value[tile])
            continue
        _begin(x[tile], step, y[tile], initial[tile], value[tile], weights)
        _evaluate_tile(problem, work, neurons, tile)
    return _set_residual(problem, work)


@inlined
def _flat(states):
    """A tile's rows as one, ``(tiles, (d + 1) LANES)``: one loop instead of d + 1."""
    return states.reshape(states.shape[0], -1)


@inlined
def _begin(x, step, slope, initial, result, weights):
    for place in range(x.size):
        value = x[place] + step * slope[place]
        result[place] = value
        weights[place] = initial[place] + value


@compiled
def next_stage(problem, work, neurons, origin, origin_slope, previous, result, coefficients, step, second):
    """Set Y_j, its preactivations and its residual, from Y_{j-1}, and from Y_{j-2}, which lies in ``result``; its loss.

    Of the ``second`` stage Y_{j-2} is the origin, and ``result`` is not read.
    """
    initial, x, y, z = _flat(problem.initial), _flat(origin), _flat(origin_slope), _flat(previous)
    value, slope, weights = _flat(result), work.slope.reshape(-1), work.weights.reshape(-1)
    p, r, of_before, s, q = coefficients
    s, q = s * step, q * step
    work.outputs[:] = 0.0
    for tile in range(len(initial)):
        if problem.fused:
            scaled = p, r, of_before, s, q
            next_stage_of_tile(problem, work, neurons, tile, x[tile], y[tile], z[tile], value[tile], scaled, second)
            continue
        _set_output_weights(problem, work, previous, tile)
        _set_slope(problem, work, neurons, tile, work.slope)
        if second:
            _combine(p + of_before, x[tile], q, y[tile], r, z[tile], s, slope, initial[tile], value[tile], weights)
        else:
            _combine_in_place(
                of_before, p, x[tile], q, y[tile], r, z[tile], s, slope, initial[tile], value[tile], weights
            )
        _evaluate_tile(problem, work, neurons, tile)
    return _set_residual(problem, work)


@inlined
def _combine(p, x, q, y, r, z, s, slope, initial, result, weights):
    """Set a stage's state, and its weights."""
    for place in range(x.size):
        value = p * x[place] + q * y[place] + r * z[place] + s * slope[place]
        result[place] = value
        weights[place] = initial[place] + value


@inlined
def _combine_in_place(of_result, p, x, q, y, r, z, s, slope, initial, result, weights):
    """The same, of what lies there too."""
    for place in range(x.size):
        value = of_result * result[place] + p * x[place] + q * y[place] + r * z[place] + s * slope[place]
        result[place] = value
        weights[place] = initial[place] + value


@compiled
def last_slope(problem, work, before, neurons, origin, origin_slope, result, result_slope, step):
    r"""Set the slope at a step's end and the sums that tell its error, est = 0.8 (y - y') + 0.4 h (F(y) + F(y')).

    Returns:
        tr Theta / n = kappa (1/n) sum over neurons and examples of 1[z > 0] (z^2 / kappa' + kappa' a~^2 |x|^2).
    """
    work.sums[:] = 0.0
    for tile in range(len(problem.initial)):
        _set_slope_and_sums(problem, work, before, neurons, tile, origin, origin_slope, result, result_slope, step)
        work.changed[tile] = _update_slides(problem, work, before, neurons, result, result_slope, tile)
        if work.changed[tile]:
            _set_slope_and_sums(problem, work, before, neurons, tile, origin, origin_slope, result, result_slope, step)
        for layer in range(2):
            for place in range(5):
                work.sums[layer, place] += work.tile_sums[layer, place]
    of_input, of_output = work.sums[0, 4], work.sums[1, 4]
    return problem.kappa * (of_output / problem.kappa_prime + problem.kappa_prime * of_input) / problem.examples


@compiled
def _set_slope_and_sums(problem, work, before, neurons, tile, origin, origin_slope, result, result_slope, step):
    """Set one tile's slope, what its sliding neurons are pushed by, where it has crossed a kink, and its sums."""
    last = problem.initial.shape[1] - 1
    x, y, value, slope = origin[tile], origin_slope[tile], result[tile], result_slope[tile]
    _set_output_weights(problem, work, result, tile)
    if problem.fused:
        slope_and_sums_of_tile(problem, work, before, neurons, tile, x, y, value, slope, step)
        return
    _set_slope(problem, work, neurons, tile, slope)
    _set_crossed(before.preactivation[tile], neurons.preactivation[tile], work.crossed)
    work.tile_sums[:] = 0.0
    for layer, part in enumerate((slice(0, last), slice(last, last + 1))):
        x_part, y_part = x[part].reshape(-1), y[part].reshape(-1)
        _add_products(x_part, y_part, value[part].reshape(-1), slope[part].reshape(-1), step, work.tile_sums[layer])
    for i in range(0, len(problem.targets), EXAMPLES):
        z = four(neurons.preactivation[tile], i)
        hidden, weights = _sums_of_squares(z, work.weights[last], four(problem.norms, i))
        work.tile_sums[0, 4] += weights
        work.tile_sums[1, 4] += hidden


@summing
def _add_products(origin, origin_slope, result, result_slope, step, sums):
    """Add est^2, est * displacement, displacement^2 and slope^2."""
    errors, along, ways, slopes = 0.0, 0.0, 0.0, 0.0
    for place in range(origin.size):
        error = 0.8 * (origin[place] - result[place]) + 0.4 * step * (origin_slope[place] + result_slope[place])
        errors += error * error
        along += error * result[place]
        ways += result[place] * result[place]
        slopes += result_slope[place] * result_slope[place]
    sums[0] += errors
    sums[1] += along
    sums[2] += ways
    sums[3] += slopes


@summing
def _sums_of_squares(z, output_weights, norms):
    """Sums of relu(z)^2 and of a~^2 |x|^2 where z > 0, over four examples."""
    hidden, weights = 0.0, 0.0
    squares = norms[0] ** 2, norms[1] ** 2, norms[2] ** 2, norms[3] ** 2
    for lane in range(LANES):
        h = relu(at(z, lane))
        hidden += sum_of_products(h, h)
        weights += sum_of_products(squares, where_active(output_weights[lane] ** 2, at(z, lane)))
    return hidden, weights


@inlined
def _set_output_weights(problem, work, state, tile):
    last = problem.initial.shape[1] - 1
    _add(problem.initial[tile, last], state[tile, last], work.weights[last])


@inlined
def _add(x, y, result):
    for lane in range(LANES):
        result[lane] = x[lane] + y[lane]


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
    for i in range(0, count, EXAMPLES):
        s0, s1, s2, s3 = _sums_of_hidden(four(preactivation, i), work.weights[dimension])
        work.outputs[i] += s0
        work.outputs[i + 1] += s1
        work.outputs[i + 2] += s2
        work.outputs[i + 3] += s3


@summing
def _sums_of_hidden(z, output_weights):
    """Sums of a~ relu(z) for four examples."""
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    for lane in range(LANES):
        a = output_weights[lane]
        s0 += a * max(z[0][lane], 0.0)
        s1 += a * max(z[1][lane], 0.0)
        s2 += a * max(z[2][lane], 0.0)
        s3 += a * max(z[3][lane], 0.0)
    return s0, s1, s2, s3


@inlined
def _multiply(inputs, weights, product):
    """Set product = inputs weights, four examples and two features at a time."""
    for i in range(0, inputs.shape[0], EXAMPLES):
        z0, z1, z2, z3 = four(product, i)
        for c in range(0, inputs.shape[1], FEATURES):
            u, v = weights[c], weights[c + 1]
            p0, p1, p2, p3 = four(inputs[:, c], i)
            q0, q1, q2, q3 = four(inputs[:, c + 1], i)
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


@inlined
def _hold_on_kink(slides, preactivation):
    """Make z 0 where a neuron slides: without rounding, and on the lower side."""
    for i in range(0, preactivation.shape[0], EXAMPLES):
        z0, z1, z2, z3 = four(preactivation, i)
        for lane in range(LANES):
            slide = slides[lane] - i
            z0[lane] *= 0.0 if slide == 0 else 1.0
            z1[lane] *= 0.0 if slide == 1 else 1.0
            z2[lane] *= 0.0 if slide == 2 else 1.0
            z3[lane] *= 0.0 if slide == 3 else 1.0


@compiled
def _set_slope(problem, work, neurons, tile, slope):
    """Set d w~ = -kappa' (1/n) sum_i e_i a~ 1[z > 0] x_i and d a~ = -(1/kappa') (1/n) sum_i e_i relu(z)."""
    dimension = problem.inputs.shape[1]
    preactivation, output_weights = neurons.preactivation[tile], work.weights[dimension]
    to_input, to_output = -problem.kappa_prime / problem.examples, -1.0 / (problem.kappa_prime * problem.examples)
    if problem.by_blas:
        _set_pulls(to_input, work.residual, preactivation, output_weights, work.pulls)
        np.dot(problem.inputs_transposed, work.pulls, slope[:dimension])
    else:
        _set_input_slope(problem.inputs, to_input, work.residual, preactivation, output_weights, slope)
    _set_output_slope(to_output, work.residual, preactivation, slope[dimension])
    if neurons.sliding[tile]:
        _set_speed_and_jump(problem, work, neurons, tile, slope)
        _slide(work.speed, work.jump, neurons.normal[tile], slope)


@inlined
def _set_pulls(scale, residual, preactivation, output_weights, pulls):
    for i in range(residual.shape[0]):
        pull = scale * residual[i]
        for lane in range(LANES):
            pulls[i, lane] = pull * output_weights[lane] if preactivation[i, lane] > 0.0 else 0.0


@inlined
def _set_input_slope(inputs, scale, residual, preactivation, output_weights, slope):
    """Set the rows of d w~, four examples and two features at a time."""
    for i in range(0, inputs.shape[0], EXAMPLES):
        z = four(preactivation, i)
        e0, e1, e2, e3 = four(residual, i)
        e0, e1, e2, e3 = scale * e0, scale * e1, scale * e2, scale * e3
        for c in range(0, inputs.shape[1], FEATURES):
            first, second = slope[c], slope[c + 1]
            x0, x1, x2, x3 = four(inputs[:, c], i)
            y0, y1, y2, y3 = four(inputs[:, c + 1], i)
            p, q = (e0 * x0, e1 * x1, e2 * x2, e3 * x3), (e0 * y0, e1 * y1, e2 * y2, e3 * y3)
            if i == 0:
                for lane in range(LANES):
                    active = where_active(output_weights[lane], at(z, lane))
                    first[lane] = sum_of_products(p, active)
                    second[lane] = sum_of_products(q, active)
            else:
                for lane in range(LANES):
                    active = where_active(output_weights[lane], at(z, lane))
                    first[lane] += sum_of_products(p, active)
                    second[lane] += sum_of_products(q, active)


@inlined
def _set_output_slope(scale, residual, preactivation, slope):
    """Set the row of d a~, four examples at a time."""
    for i in range(0, residual.shape[0], EXAMPLES):
        z0, z1, z2, z3 = four(preactivation, i)
        e0, e1, e2, e3 = four(residual, i)
        e0, e1, e2, e3 = scale * e0, scale * e1, scale * e2, scale * e3
        for lane in range(LANES):
            hidden = e0 * max(z0[lane], 0.0) + e1 * max(z1[lane], 0.0)
            hidden += e2 * max(z2[lane], 0.0) + e3 * max(z3[lane], 0.0)
            slope[lane] = hidden if i == 0 else slope[lane] + hidden


@inlined
def _set_speed_and_jump(problem, work, neurons, tile, slope):
    """Set, of the neurons of one tile that slide, dz/dt on the kink's lower side and the jump to its upper side."""
    count, dimension = problem.inputs.shape
    _set_speed(neurons.normal[tile], slope, work.speed)
    scale = -problem.kappa_prime / problem.examples
    for i in range(0, count, EXAMPLES):
        e0, e1, e2, e3 = four(work.residual, i)
        n0, n1, n2, n3 = four(problem.norms, i)
        pulls = scale * e0 * n0, scale * e1 * n1, scale * e2 * n2, scale * e3 * n3
        _set_jump(pulls, neurons.slide[tile], i, work.weights[dimension], work.jump)


@inlined
def _set_speed(normal, slope, speed):
    for c in range(0, normal.shape[0], FEATURES):
        n0, n1, first, second = normal[c], normal[c + 1], slope[c], slope[c + 1]
        for lane in range(LANES):
            along = n0[lane] * first[lane] + n1[lane] * second[lane]
            speed[lane] = along if c == 0 else speed[lane] + along


@inlined
def _set_jump(pulls, slides, i, output_weights, jump):
    """Set the jumps of neurons that slide along kinks of examples i to i + 3; of all others to 0 if i is 0."""
    for lane in range(LANES):
        pull = of_slide(slides[lane] - i, pulls)
        jump[lane] = pull * output_weights[lane] if i == 0 else jump[lane] + pull * output_weights[lane]


@inlined
def _slide(speed, jump, normal, slope):
    """Add to slopes, those of the kinks' lower sides, the share of the jump that keeps z at 0."""
    for c in range(0, normal.shape[0], FEATURES):
        n0, n1, first, second = normal[c], normal[c + 1], slope[c], slope[c + 1]
        for lane in range(LANES):
            kept = share(speed[lane], jump[lane])
            first[lane] += kept * n0[lane]
            second[lane] += kept * n1[lane]


@compiled
def _update_slides(problem, work, before, neurons, result, slope, tile):
    """Let neurons of a tile that crossed a kink to which both sides push slide there, and others leave theirs.

    Sets what ``neurons`` say of slides, from ``before``, and moves the weights of those that begin onto the kink.

    Returns:
        Whether anything changed.
    """
    changed = False
    if before.sliding[tile] and _leaving(work.speed, work.jump) > 0.0:
        changed = True
        for lane in range(LANES):
            speed = work.speed[lane] + share(work.speed[lane], work.jump[lane])
            if abs(speed) > STILL * abs(work.jump[lane]):
                _leave(neurons, tile, lane, speed > 0.0)
    if _below_zero(work.crossed) > 0.0:
        for lane in range(LANES):
            if work.crossed[lane] < 0.0 and before.slide[tile, lane] < 0:
                changed |= _arrive(problem, work, before, neurons, result, slope, tile, lane)
    return changed


@summing
def _leaving(speed, jump):
    """How many neurons leave their kink: pushed away from one side, however the other pushes."""
    count = 0.0
    for lane in range(LANES):
        left = speed[lane] + share(speed[lane], jump[lane])
        count += 1.0 if abs(left) > STILL * abs(jump[lane]) else 0.0
    return count


@summing
def _below_zero(numbers):
    count = 0.0
    for lane in range(LANES):
        count += 1.0 if numbers[lane] < 0.0 else 0.0
    return count


@inlined
def _set_crossed(before, now, crossed):
    """Set to something below 0 where the sign of z has changed at an example."""
    for i in range(0, now.shape[0], EXAMPLES):
        b0, b1, b2, b3 = four(before, i)
        z0, z1, z2, z3 = four(now, i)
        for lane in range(LANES):
            low, high = min(b0[lane] * z0[lane], b1[lane] * z1[lane]), min(b2[lane] * z2[lane], b3[lane] * z3[lane])
            crossed[lane] = min(low, high) if i == 0 else min(crossed[lane], min(low, high))


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
