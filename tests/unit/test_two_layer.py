"""Two-layer networks: outputs, kernels, Runge-Kutta-Chebyshev coefficients, bits, odd data and memory."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

import twophase
from twophase.errors import DataError
from twophase.kernels import kernel_distance
from twophase.two_layer import (
    Accuracy,
    TwoLayer,
    integrate,
    integration,
    network,
    outputs,
    passes,
    tangent_kernel,
    train,
    with_bias,
)
from twophase.two_layer.chebyshev import MOST_STAGES, STIFFNESS, stage_table
from twophase.two_layer.compiled import LANES
from twophase.two_layer.flow import STABLE_SHARE
from twophase.two_layer.integration import bytes_needed, least_loss

POINTS = with_bias(np.array([-1.0, -0.35, 0.4, 1.0]))
TARGETS = np.array([0.6, -0.5, 0.3, 0.9])
NET = TwoLayer(0.5, 0.5, 50, 0)


def cloud(count, dimension, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, dimension)), rng.standard_normal(count)


# Outputs and kernels -------------------------------------------------------------------------------------------------


def test_scales():
    net = TwoLayer(0.75, -1.5, 16, 0)
    assert net.kappa == pytest.approx(1 / 8)
    assert net.kappa_prime == pytest.approx(64)


def test_with_bias():
    np.testing.assert_array_equal(with_bias([2, 3]), [[2.0, 1.0], [3.0, 1.0]])
    np.testing.assert_array_equal(with_bias(np.array([[2, 3]], dtype=np.float32)), [[2.0, 3.0, 1.0]])
    assert with_bias([2, 3]).dtype == np.float64


@pytest.mark.parametrize("block", [network.BLOCK, 20])
def test_outputs(block, monkeypatch):
    monkeypatch.setattr(network, "BLOCK", block)
    inputs, weights = cloud(6, 3)[0], cloud(40, 4, 1)[0]
    expected = [sum(w[3] * max(0.0, sum(w[c] * x[c] for c in range(3))) for w in weights) for x in inputs]
    np.testing.assert_allclose(outputs(weights, inputs, 0.3), 0.3 * np.array(expected), rtol=1e-12)


def gradients(weights, inputs, scale, of_input, of_output):
    """By autograd, of ``scale * sum a relu(w . x)`` with w = of_input * w~, a = of_output * a~: ``(n, m, d + 1)``."""
    parameters = torch.tensor(weights) * torch.tensor([of_input] * inputs.shape[1] + [of_output], dtype=torch.float64)

    def function(parameters):
        return scale * torch.relu(torch.tensor(inputs) @ parameters[:, :-1].T) @ parameters[:, -1]

    return torch.autograd.functional.jacobian(function, parameters).numpy()


@pytest.mark.parametrize("block", [network.BLOCK, 20])
@pytest.mark.parametrize("point", [(0.5, 0), (1.5, 0.75), (1, -2)], ids=str)
def test_tangent_kernel(point, block, monkeypatch):
    """J D J^T with the flow's metric: kappa' / kappa of input weights, 1 / (kappa kappa') of output weights."""
    monkeypatch.setattr(network, "BLOCK", block)
    net, inputs = TwoLayer(*point, 40, 3), cloud(6, 3)[0]
    inputs[2] = 0  # at the kink of every neuron
    weights = net.initial_weights(3)
    metric = np.array([net.kappa_prime / net.kappa] * 3 + [1 / (net.kappa * net.kappa_prime)])
    jacobian = gradients(weights, inputs, net.kappa, 1, 1)
    value = tangent_kernel(weights, inputs, net)
    np.testing.assert_allclose(value, np.einsum("imp,p,jmp->ij", jacobian, metric, jacobian), rtol=1e-11)
    np.testing.assert_allclose(value, value.T, rtol=1e-13)
    assert np.linalg.eigvalsh(value)[0] >= -1e-12 * np.trace(value)
    # The eNTK in the network's own parameters, a = beta1 a~ and w = beta2 w~, is the same up to a factor.
    beta2 = 0.7
    own = gradients(weights, inputs, 0.2, beta2, net.kappa_prime * beta2)
    own = np.einsum("imp,jmp->ij", own, own)
    np.testing.assert_allclose(own / np.trace(own), value / np.trace(value), rtol=1e-11)


def test_what_training_reports():
    trained, final = train(NET, POINTS, TARGETS)
    initial = NET.initial_weights(2)
    moved = final - initial
    assert trained.network == NET
    assert trained.status == "converged"
    assert trained.input_distance == pytest.approx(np.linalg.norm(moved[:, :2]) / np.linalg.norm(initial[:, :2]))
    assert trained.output_distance == pytest.approx(np.linalg.norm(moved[:, 2]) / np.linalg.norm(initial[:, 2]))
    for loss, weights in ((trained.initial_loss, initial), (trained.final_loss, final)):
        assert loss == pytest.approx(0.5 * np.mean((outputs(weights, POINTS, NET.kappa) - TARGETS) ** 2), rel=1e-9)
    assert trained.final_loss <= 1e-6 * min(trained.initial_loss, 0.5 * np.mean(TARGETS**2))
    kernels = [tangent_kernel(weights, POINTS, NET) for weights in (initial, final)]
    assert trained.kernel_distance == pytest.approx(kernel_distance(*kernels), rel=1e-9)
    assert 2 * trained.steps < trained.evaluations


# Coefficients of the method ------------------------------------------------------------------------------------------


def one_step(slope, y, step, stages):
    """One step of the method, as its docstring has it."""
    table, start = stage_table()[stages], slope(y)
    states = [y, y + table[1, 3] * step * start]
    for j in range(2, stages + 1):
        of_origin, mu, nu, of_slope, of_start = table[j]
        value = of_origin * y + mu * states[-1] + nu * states[-2]
        states.append(value + step * (of_slope * slope(states[-1]) + of_start * start))
    return states[-1]


@pytest.mark.parametrize(
    ("slope", "exact"),
    [(lambda y: -y, lambda h: np.exp(-h)), (lambda y: -(y**2), lambda h: 1 / (1 + h)), (np.sin, None)],
    ids=["linear", "quadratic", "sine"],
)
def test_order_two(slope, exact):
    """Halving a step divides its error by 8."""
    exact = exact or (lambda h: 2 * np.arctan(np.exp(h) * np.tan(0.5)))
    for stages in range(2, MOST_STAGES + 1):
        errors = [one_step(slope, 1.0, h, stages) - exact(h) for h in (0.02, 0.01)]
        assert errors[0] / errors[1] == pytest.approx(8, rel=0.05), stages
        assert abs(errors[0]) < 1e-5


def test_constant_slopes_are_exact():
    for stages in range(2, MOST_STAGES + 1):
        assert one_step(lambda _: 3.0, 1.0, 0.5, stages) == pytest.approx(2.5, rel=1e-12)


def test_stability():
    for stages in range(2, MOST_STAGES + 1):
        z = np.linspace(-STABLE_SHARE * (stages**2 - 1), 0, 20_001)
        assert np.abs(one_step(lambda y, z=z: z * y, np.ones_like(z), 1.0, stages)).max() <= 1 + 1e-12
    # The number of stages that is taken for h rho is stable there.
    stiffness = np.geomspace(1e-3, 6000, 10_001)
    stages = np.maximum(2, 1 + np.floor(np.sqrt(1 + STIFFNESS * stiffness)))
    assert (stiffness <= STABLE_SHARE * (stages**2 - 1)).all()


def test_the_table_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        stage_table()[2, 1, 3] = 0


# Bits ----------------------------------------------------------------------------------------------------------------


def test_initial_weights():
    weights = NET.initial_weights(3)
    assert weights.shape == (50, 4)
    for gamma, gamma_prime in itertools.product((0.5, 1, 2), (-2, 0, 2)):
        np.testing.assert_array_equal(TwoLayer(gamma, gamma_prime, 50, 0).initial_weights(3), weights)
    for other in (TwoLayer(0.5, 0.5, 50, 1), TwoLayer(0.5, 0.5, 51, 0)):
        assert not np.isin(other.initial_weights(3), weights).any()
    assert not np.isin(NET.initial_weights(2), weights).any()
    many = TwoLayer(0.5, 0.5, 100_000, 0).initial_weights(2)
    assert np.abs(many.mean(axis=0)).max() < 0.02
    assert np.abs(np.cov(many.T) - np.eye(3)).max() < 0.02


@pytest.mark.parametrize("data", [(POINTS, TARGETS), cloud(6, 90)], ids=["loops", "blas"])
def test_bits_are_the_same_in_any_company(data):
    networks = [TwoLayer(*point) for point in itertools.product((0.5, 1.5), (0, 1), (20, 511, 512, 600), (0,))]
    networks += [TwoLayer(0.5, 1, 512, 1)]
    few = Accuracy(most_evaluations=400)
    alone = {net: train(net, *data, few)[0] for net in networks}
    assert len({trained.input_distance for trained in alone.values()}) == len(networks)
    shuffled = [networks[i] for i in np.random.default_rng(0).permutation(len(networks))]
    needed = bytes_needed(600, data[0])
    for threads, budget in ((1, None), (2, None), (4, None), (4, needed), (4, 3 * needed)):
        results = integrate(shuffled, *data, accuracy=few, threads=threads, memory_budget=budget)
        assert results == [alone[net] for net in shuffled]
    assert integrate(networks[:3], *data, accuracy=few) == [alone[net] for net in networks[:3]]


def test_progress_counts_neurons():
    seen = []
    assert integrate([], POINTS, TARGETS, progress=seen.append) == []
    integrate([TwoLayer(0.5, 1, width, 0) for width in (3, 40, 7)], POINTS, TARGETS, progress=seen.append)
    assert seen == sorted(seen)
    assert (len(seen), seen[-1]) == (3, 50)


# Widths and dimensions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 511, 512, 513])
@pytest.mark.parametrize("gamma_prime", [-2, 0, 2])
def test_widths(width, gamma_prime):
    """Padding to whole tiles never moves: each neuron's preactivations depend on its own weights."""
    trained, final = train(TwoLayer(0.5, gamma_prime, width, 0), POINTS, TARGETS)
    assert final.shape == (width, 3)
    assert trained.status in ("converged", "stationary")
    assert width < 511 or gamma_prime or trained.status == "converged"
    assert 0 < trained.input_distance < np.inf
    assert 0 < trained.output_distance < np.inf
    assert trained.final_loss < trained.initial_loss


@pytest.mark.parametrize("width", [1, 511, 512, 513, 1200])
@pytest.mark.parametrize("examples", [1, 3])
def test_blas_and_loops_agree(width, examples, monkeypatch):
    data = cloud(examples, 784)
    net = TwoLayer(0.5, 0.5, width, 0)
    results = []
    for limit in (0, 10**9):
        monkeypatch.setattr(integration, "BLAS_FROM", limit)
        results.append(train(net, *data, Accuracy(most_evaluations=500)))
    (by_blas, blas_weights), (by_loops, loop_weights) = results
    assert by_blas.status == by_loops.status
    np.testing.assert_allclose(blas_weights, loop_weights, atol=1e-7)
    assert by_blas.input_distance == pytest.approx(by_loops.input_distance, rel=1e-6)
    assert by_blas.output_distance == pytest.approx(by_loops.output_distance, rel=1e-6)


def passes_of_a_step(fused, examples, dimension, sliding):
    """All that the passes of a step of four stages set, from random weights of which a share slides along kinks."""
    net = TwoLayer(0.75, 0.5, 700, 0)
    problem = integration._problem(net, net.initial_weights(dimension), *cloud(examples, dimension))
    problem = problem._replace(fused=fused)
    work, before, now = integration._workspace(problem), integration._neurons(problem), integration._neurons(problem)
    slides = (np.random.default_rng(0).random(before.slide.shape) < sliding) & (problem.initial[:, -1] != 0)
    directions = problem.inputs / np.maximum(problem.norms, 1e-9)[:, None]
    before.slide[:] = np.where(slides, np.arange(LANES) % examples, -1)
    before.normal[:] = (directions[before.slide] * slides[..., None]).transpose(0, 2, 1)
    before.sliding[:] = slides.sum(1)
    origin, slope, end_slope = np.zeros((3, *problem.initial.shape))
    first, second = np.full((2, *problem.initial.shape), np.nan)
    passes.first_stage(problem, work, before, origin, slope, 0.0, origin)
    passes.last_slope(problem, work, before, before, origin, slope, origin, slope, 0.0)
    for array, copy in zip(before, now, strict=True):
        copy[:] = array
    table, step = stage_table()[4], 0.2
    losses = [passes.first_stage(problem, work, now, origin, slope, table[1, 3] * step, first)]
    losses += [passes.next_stage(problem, work, now, origin, slope, first, second, table[2], step, True)]
    losses += [passes.next_stage(problem, work, now, origin, slope, second, first, table[3], step, False)]
    stages = first.copy(), second, now.preactivation.copy(), work.residual
    trace = passes.last_slope(problem, work, before, now, origin, slope, first, end_slope, step)
    return work.changed, now.slide, losses, *stages, trace, slope, first, end_slope, now.normal, now.sliding, work.sums


@pytest.mark.parametrize("sliding", [0, 0.3, 1])
@pytest.mark.parametrize(("examples", "dimension"), [(4, 2), (3, 2), (1, 1)])
def test_one_loop_and_many_agree(examples, dimension, sliding):
    by_one, by_many = (passes_of_a_step(fused, examples, dimension, sliding) for fused in (True, False))
    for found, expected in zip(by_one, by_many, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    changed, slide = by_one[:2]
    assert changed.any() or examples < 4
    assert (slide >= 0).any() or (examples < 4 and not sliding)


@pytest.mark.parametrize(("examples", "dimension", "fused"), [(1, 1, True), (4, 2, True), (5, 2, False), (4, 3, False)])
def test_what_fits_into_one_loop(examples, dimension, fused):
    net = TwoLayer(0.5, 0, 5, 0)
    assert integration._problem(net, net.initial_weights(dimension), *cloud(examples, dimension)).fused == fused


def test_many_dimensions_by_default():
    trained, _ = train(TwoLayer(0.5, 0, 513, 0), *cloud(10, 784))
    assert trained.status == "converged"


# Odd data ------------------------------------------------------------------------------------------------------------


def test_least_loss():
    assert least_loss(POINTS, TARGETS) == 0
    assert least_loss(POINTS[[0, 1, 1, 2]], np.array([5.0, 2.0, 2.0, 3.0])) == 0
    assert least_loss(POINTS[[0, 1, 1, 1]], np.array([5.0, 1.0, 2.0, 6.0])) == pytest.approx((4 + 1 + 9) / 8)


def test_repeated_points():
    equal = train(NET, POINTS[[0, 0, 1, 2]], TARGETS[[0, 0, 1, 2]])[0]
    assert equal.status == "converged"
    assert equal.final_loss <= 1e-6 * equal.initial_loss
    different, final = train(NET, POINTS[[0, 0, 1, 2]], TARGETS)
    least = least_loss(POINTS[[0, 0, 1, 2]], TARGETS)
    assert different.status == "converged"
    assert least <= different.final_loss <= least + 1e-6 * 0.5 * np.mean(TARGETS**2)
    means = [TARGETS[:2].mean(), TARGETS[2], TARGETS[3]]
    assert outputs(final, POINTS[:3], NET.kappa) == pytest.approx(means, abs=2e-3)


def test_a_repeated_data_set_changes_nothing():
    """Gradient and loss are means over examples."""
    net = TwoLayer(0.5, 1, 100, 0)
    once, twice = train(net, POINTS, TARGETS)[0], train(net, np.tile(POINTS, (2, 1)), np.tile(TARGETS, 2))[0]
    assert twice.input_distance == pytest.approx(once.input_distance, rel=1e-6)


@pytest.mark.parametrize("targets", [np.zeros(4), np.ones(4)], ids=["zero", "constant"])
def test_constant_targets(targets):
    trained, final = train(NET, POINTS, targets)
    assert trained.status == "converged"
    assert outputs(final, POINTS, NET.kappa) == pytest.approx(targets, abs=3e-3)


def test_one_example():
    trained, final = train(NET, POINTS[:1], TARGETS[:1])
    assert trained.status == "converged"
    assert outputs(final, POINTS[:1], NET.kappa) == pytest.approx(TARGETS[:1], rel=2e-3)


def test_targets_out_of_reach():
    """Without a bias f(2 x) = 2 f(x): the best fit of 1 and 1 is 0.6 and 1.2, with loss (0.4^2 + 0.2^2) / 4."""
    trained, final = train(NET, np.array([[1.0], [2.0]]), np.ones(2))
    assert trained.status == "stationary"
    assert trained.final_loss == pytest.approx(0.05)
    assert outputs(final, np.array([[1.0], [2.0]]), NET.kappa) == pytest.approx([0.6, 1.2])


def dead():
    """A neuron that is off at all points."""
    nets = (TwoLayer(1, 0, 1, seed) for seed in range(100))
    return next(net for net in nets if (POINTS @ net.initial_weights(2)[0, :2] < 0).all())


def test_a_dead_network():
    trained, final = train(dead(), POINTS, TARGETS)
    assert trained.status == "stationary"
    assert (trained.input_distance, trained.output_distance, trained.integration_error) == (0, 0, 0)
    assert trained.initial_loss == trained.final_loss == pytest.approx(0.5 * np.mean(TARGETS**2))
    assert np.isnan(trained.kernel_distance)
    np.testing.assert_array_equal(final, dead().initial_weights(2))
    assert train(dead(), POINTS, np.zeros(4))[0].status == "converged"


def test_targets_that_are_met_already():
    targets = outputs(NET.initial_weights(2), POINTS, NET.kappa)
    trained, _ = train(NET, POINTS, targets, Accuracy(most_evaluations=1000))
    assert trained.initial_loss < 1e-30
    assert trained.input_distance < 1e-12


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units(scale):
    """f is homogeneous in x: inputs and targets in other units give the same RD."""
    plain, scaled = train(NET, POINTS, TARGETS)[0], train(NET, scale * POINTS, scale * TARGETS)[0]
    assert scaled.input_distance == pytest.approx(plain.input_distance, rel=1e-6)


@pytest.mark.parametrize("what", ["inputs", "targets"])
def test_numbers_that_overflow(what):
    inputs, targets = (POINTS * 1e200, TARGETS) if what == "inputs" else (POINTS, TARGETS * 1e200)
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            status = train(NET, inputs, targets)[0].status
        except DataError:
            return
    assert status == "not finite"


@pytest.mark.parametrize("most", [1, 50])
def test_evaluations_spent(most):
    trained, _ = train(NET, POINTS, TARGETS, Accuracy(most_evaluations=most))
    assert trained.status == "evaluations spent"
    assert most <= trained.evaluations < most + MOST_STAGES
    assert trained.final_loss > 1e-6 * trained.initial_loss


@pytest.mark.parametrize(
    ("inputs", "targets", "match"),
    [
        (np.where(POINTS == 1, np.nan, POINTS), TARGETS, "finite"),
        (POINTS, np.array([0, 1, 2, np.inf]), "finite"),
        (POINTS, TARGETS[:3], r"\(4, 2\) and \(3,\)"),
        (POINTS, TARGETS[:, None], r"\(4, 2\) and \(4, 1\)"),
        (POINTS[:, 0], TARGETS, r"\(4,\) and \(4,\)"),
        (POINTS[:0], TARGETS[:0], r"\(0, 2\) and \(0,\)"),
        (POINTS[:, :0], TARGETS, r"\(4, 0\) and \(4,\)"),
    ],
)
def test_data_that_do_not_fit(inputs, targets, match):
    with pytest.raises(DataError, match=match):
        train(NET, inputs, targets)
    with pytest.raises(DataError, match=match):
        integrate([NET], inputs, targets)


def test_other_types_of_data():
    expected, _ = train(NET, POINTS, TARGETS)
    for inputs, targets in (
        (POINTS.tolist(), TARGETS.tolist()),
        (np.asfortranarray(POINTS), np.repeat(TARGETS, 2)[::2]),
    ):
        assert train(NET, inputs, targets)[0] == expected


# Memory --------------------------------------------------------------------------------------------------------------


def test_too_small_a_budget():
    networks = [TwoLayer(0.5, 1, width, 0) for width in (10, 5000)]
    needed = bytes_needed(5000, POINTS)
    with pytest.raises(MemoryError, match=rf"width 5000 on 4 examples needs {needed / 1e6:.0f} MB"):
        integrate(networks, POINTS, TARGETS, memory_budget=needed - 1)
    assert len(integrate(networks, POINTS, TARGETS, memory_budget=needed)) == 2


def test_final_weights_are_not_kept(monkeypatch):
    """Of many networks in turn, at most a thread's are held at once."""
    alive, most = weakref.WeakSet(), 0

    class Weights:
        pass

    def result(net, *_):
        nonlocal most
        weights = Weights()
        alive.add(weights)
        most = max(most, len(alive))
        return net, weights

    monkeypatch.setattr(integration, "train", result)
    integrate([TwoLayer(0.5, 0, 10, seed) for seed in range(50)], POINTS, TARGETS)
    assert most <= 5


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of resident memory is read from /proc")
@pytest.mark.parametrize(("width", "examples", "dimension"), [(64_000, 4, 2), (40_000, 50, 60), (300, 2000, 3)])
def test_peak_memory(width, examples, dimension):
    """Imports, compiled code and the data aside, ``bytes_needed`` is enough."""
    code = """
        import sys
        import numpy as np
        from twophase.two_layer import Accuracy, TwoLayer, integrate
        from twophase.two_layer.integration import bytes_needed

        def memory(name):
            lines = open("/proc/self/status").read().splitlines()
            return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

        width, examples, dimension = map(int, sys.argv[1:])
        rng = np.random.default_rng(0)
        inputs, targets = rng.standard_normal((examples, dimension)), rng.standard_normal(examples)
        few = Accuracy(most_evaluations=20)
        integrate([TwoLayer(0.5, 1, 5, 0)], rng.standard_normal((5, 100)), targets[:1].repeat(5), accuracy=few)
        before = memory("VmRSS")
        integrate([TwoLayer(0.5, 1, width, 0)], inputs, targets, accuracy=few)
        print(memory("VmHWM") - before, bytes_needed(width, inputs), 8 * width * 5 * (dimension + 1))
    """
    arguments = [sys.executable, "-c", textwrap.dedent(code), str(width), str(examples), str(dimension)]
    limits = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=limits)
    taken, needed, states = map(int, done.stdout.split())
    assert states < taken <= needed


def test_compiled_code_is_kept_apart_for_each_state_of_the_sources(tmp_path):
    """An edit of an imported module counts; Numba alone would go on with what it compiled before."""
    package = tmp_path / "twophase"
    shutil.copytree(Path(twophase.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import numpy; from twophase.two_layer import passes; "
        "print(passes._sums_of_hidden((numpy.ones(1024),) * 4, numpy.ones(1024))[0])"
    )
    found = []
    for lanes in (512, 128):
        source = package / "two_layer" / "compiled.py"
        source.write_text(re.sub(r"^LANES = \d+", f"LANES = {lanes}", source.read_text(), flags=re.MULTILINE))
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(float(done.stdout))
    assert found == [512, 128]
    assert len(list(package.rglob("flow-*"))) == 2
