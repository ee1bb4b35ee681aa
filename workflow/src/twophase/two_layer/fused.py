"""The passes over a tile of neurons on at most four examples of two features, each as one loop.

All that a neuron needs stays in registers from its preactivations to the next ones. `passes` has the same for any
number of examples and features as a dozen loops, between which a tile's numbers go through the second cache.

Rows of a tile lie one after the other, LANES numbers each: of a state two of w~ and one of a~, of the preactivations
one for each example.
"""

from twophase.two_layer.compiled import LANES, compiled, inlined, summing
from twophase.two_layer.neuron import four, of_slide, relu, share, sum_of_products, where_active

SECOND, THIRD, FOURTH = LANES, 2 * LANES, 3 * LANES  # where these rows begin


@compiled
def first_stage_of_tile(problem, work, neurons, tile, origin, origin_slope, step, result):
    """Set a tile of result = origin + step * slope and its preactivations, and add its outputs."""
    z, initial = neurons.preactivation[tile].reshape(-1), problem.initial[tile].reshape(-1)
    features, slides = _features(problem), neurons.slide[tile]
    sums = _first_stage(features, slides, z, initial, origin, origin_slope, step, result)
    _add_outputs(work.outputs, sums)


@summing
def _first_stage(features, slides, z, initial, x, y, step, result):
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    for lane in range(LANES):
        u = x[lane] + step * y[lane]
        v = x[SECOND + lane] + step * y[SECOND + lane]
        a = x[THIRD + lane] + step * y[THIRD + lane]
        o0, o1, o2, o3 = _set_neuron(features, slides[lane], z, initial, result, lane, u, v, a)
        s0 += o0
        s1 += o1
        s2 += o2
        s3 += o3
    return s0, s1, s2, s3


@compiled
def next_stage_of_tile(problem, work, neurons, tile, origin, origin_slope, previous, result, coefficients, second):
    """Set a tile of a stage and its preactivations, and add its outputs; see ``passes.next_stage``.

    Coefficients are those of origin, previous, result, slope and origin slope, the last two times the step.
    """
    arguments = (
        _pulls(problem, work),
        _features(problem),
        neurons.slide[tile],
        neurons.normal[tile].reshape(-1),
        neurons.preactivation[tile].reshape(-1),
        problem.initial[tile].reshape(-1),
        origin,
        origin_slope,
        previous,
        result,
        coefficients,
    )
    if neurons.sliding[tile]:  # four loops: what doesn't change in a loop is known to the compiler
        sums = _next_stage(*arguments, True, True) if second else _next_stage(*arguments, False, True)
    else:
        sums = _next_stage(*arguments, True, False) if second else _next_stage(*arguments, False, False)
    _add_outputs(work.outputs, sums)


@summing
def _next_stage(pulls, features, slides, normals, z, initial, x, y, previous, result, coefficients, second, sliding):
    p, r, of_before, s, q = coefficients
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    for lane in range(LANES):
        slide = slides[lane] if sliding else -1
        normal = (normals[lane], normals[SECOND + lane]) if sliding else (0.0, 0.0)
        now = z[lane], z[SECOND + lane], z[THIRD + lane], z[FOURTH + lane]
        slope, _, _ = _slope(pulls, initial[THIRD + lane] + previous[THIRD + lane], now, slide, normal, sliding)
        u = p * x[lane] + q * y[lane] + r * previous[lane] + s * slope[0]
        v = p * x[SECOND + lane] + q * y[SECOND + lane] + r * previous[SECOND + lane] + s * slope[1]
        a = p * x[THIRD + lane] + q * y[THIRD + lane] + r * previous[THIRD + lane] + s * slope[2]
        if second:
            u += of_before * x[lane]
            v += of_before * x[SECOND + lane]
            a += of_before * x[THIRD + lane]
        else:
            u += of_before * result[lane]
            v += of_before * result[SECOND + lane]
            a += of_before * result[THIRD + lane]
        o0, o1, o2, o3 = _set_neuron(features, slide, z, initial, result, lane, u, v, a)
        s0 += o0
        s1 += o1
        s2 += o2
        s3 += o3
    return s0, s1, s2, s3


@compiled
def slope_and_sums_of_tile(problem, work, before, neurons, tile, origin, origin_slope, result, result_slope, step):
    """Set a tile's slope and sums, and what tells whether its slides have to change; see ``passes.last_slope``."""
    arguments = (
        _pulls(problem, work),
        four(problem.norms, 0),
        neurons.slide[tile],
        neurons.normal[tile].reshape(-1),
        before.preactivation[tile].reshape(-1),
        neurons.preactivation[tile].reshape(-1),
        work.weights[2],
        origin.reshape(-1),
        origin_slope.reshape(-1),
        result.reshape(-1),
        result_slope.reshape(-1),
        (work.speed, work.jump, work.crossed),
        step,
    )
    sums = _slope_and_sums(*arguments, True) if neurons.sliding[tile] else _slope_and_sums(*arguments, False)
    for layer in range(2):
        for place in range(5):
            work.tile_sums[layer, place] = sums[layer][place]


@summing
def _slope_and_sums(
    pulls, norms, slides, normals, z_before, z, output_weights, x, y, result, result_slope, told, step, sliding
):
    speeds, jumps, crossed = told
    i0, i1, i2, i3, i4 = 0.0, 0.0, 0.0, 0.0, 0.0
    o0, o1, o2, o3, o4 = 0.0, 0.0, 0.0, 0.0, 0.0
    squares = norms[0] ** 2, norms[1] ** 2, norms[2] ** 2, norms[3] ** 2
    for lane in range(LANES):
        slide = slides[lane] if sliding else -1
        normal = (normals[lane], normals[SECOND + lane]) if sliding else (0.0, 0.0)
        now = z[lane], z[SECOND + lane], z[THIRD + lane], z[FOURTH + lane]
        weight = output_weights[lane]
        slope, speed, jump = _slope(pulls, weight, now, slide, normal, sliding)
        result_slope[lane], result_slope[SECOND + lane], result_slope[THIRD + lane] = slope
        if sliding:
            speeds[lane], jumps[lane] = speed, jump
        crossed[lane] = min(
            min(z_before[lane] * now[0], z_before[SECOND + lane] * now[1]),
            min(z_before[THIRD + lane] * now[2], z_before[FOURTH + lane] * now[3]),
        )
        u, v, a = result[lane], result[SECOND + lane], result[THIRD + lane]
        of_u = 0.8 * (x[lane] - u) + 0.4 * step * (y[lane] + slope[0])
        of_v = 0.8 * (x[SECOND + lane] - v) + 0.4 * step * (y[SECOND + lane] + slope[1])
        of_a = 0.8 * (x[THIRD + lane] - a) + 0.4 * step * (y[THIRD + lane] + slope[2])
        i0 += of_u * of_u + of_v * of_v
        i1 += of_u * u + of_v * v
        i2 += u * u + v * v
        i3 += slope[0] * slope[0] + slope[1] * slope[1]
        i4 += sum_of_products(squares, where_active(weight * weight, now))
        o0 += of_a * of_a
        o1 += of_a * a
        o2 += a * a
        o3 += slope[2] * slope[2]
        o4 += sum_of_products(relu(now), relu(now))
    return (i0, i1, i2, i3, i4), (o0, o1, o2, o3, o4)


@inlined
def _set_neuron(features, slide, z, initial, result, lane, u, v, a):
    """Set one neuron's state and preactivations; return what it adds to the outputs of four examples."""
    result[lane], result[SECOND + lane], result[THIRD + lane] = u, v, a
    now = _preactivations(features, initial[lane] + u, initial[SECOND + lane] + v, slide)
    z[lane], z[SECOND + lane], z[THIRD + lane], z[FOURTH + lane] = now
    hidden, weight = relu(now), initial[THIRD + lane] + a
    return weight * hidden[0], weight * hidden[1], weight * hidden[2], weight * hidden[3]


@inlined
def _features(problem):
    """Both features of four examples."""
    return four(problem.inputs[:, 0], 0), four(problem.inputs[:, 1], 0)


@inlined
def _preactivations(features, u, v, slide):
    """The preactivations of four examples, exactly 0 at the kink along which a neuron slides."""
    p, q = features
    return (
        0.0 if slide == 0 else p[0] * u + q[0] * v,
        0.0 if slide == 1 else p[1] * u + q[1] * v,
        0.0 if slide == 2 else p[2] * u + q[2] * v,
        0.0 if slide == 3 else p[3] * u + q[3] * v,
    )


@inlined
def _pulls(problem, work):
    """Of four examples: what multiplies a~ 1[z > 0] in both rows of d w~, relu(z) in d a~, and a~ in the jump."""
    e0, e1, e2, e3 = four(work.residual, 0)
    x, y = _features(problem)
    norms = four(problem.norms, 0)
    scale, to_output = -problem.kappa_prime / problem.examples, -1.0 / (problem.kappa_prime * problem.examples)
    s0, s1, s2, s3 = scale * e0, scale * e1, scale * e2, scale * e3
    return (
        (s0 * x[0], s1 * x[1], s2 * x[2], s3 * x[3]),
        (s0 * y[0], s1 * y[1], s2 * y[2], s3 * y[3]),
        (to_output * e0, to_output * e1, to_output * e2, to_output * e3),
        (s0 * norms[0], s1 * norms[1], s2 * norms[2], s3 * norms[3]),
    )


@inlined
def _slope(pulls, a, z, slide, normal, sliding):
    """Of one neuron (d w~, d a~); if it slides, dz/dt on its kink's lower side and the jump to the upper side."""
    active = where_active(a, z)
    u, v = sum_of_products(pulls[0], active), sum_of_products(pulls[1], active)
    of_a = sum_of_products(pulls[2], relu(z))
    if not sliding:
        return (u, v, of_a), 0.0, 0.0
    speed, jump = normal[0] * u + normal[1] * v, of_slide(slide, pulls[3]) * a
    kept = share(speed, jump)
    return (u + kept * normal[0], v + kept * normal[1], of_a), speed, jump


@inlined
def _add_outputs(outputs, sums):
    for i in range(4):
        outputs[i] += sums[i]
