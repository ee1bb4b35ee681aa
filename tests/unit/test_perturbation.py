import math

import numpy as np
import pytest
import torch
from tiny import ADAMW, PARTLY_FROZEN, bits, run_settings, tiny_images
from torch.nn import functional as F

from twophase.perturbation import l2_norm, perturb
from twophase.training import TrainingRun, trainable_parameters
from twophase.trajectories import Branch, branch_of

STEP = 3


def _run(seed=0, dtype=torch.float64, step=STEP, **settings):
    run = TrainingRun(tiny_images(dtype=dtype), run_settings(**settings), seed)
    run.advance(step)
    return run


def _flat(run):
    return torch.cat([part.double().flatten() for part in trainable_parameters(run.network)]).numpy().copy()


def _epsilon(kind="gaussian", norm=0.5, draw=0, t0=STEP, seed=0, **settings):
    """What the perturbation adds, float64, and theta before it."""
    run = _run(seed, step=t0, **settings)
    theta = _flat(run)
    perturb(run, branch_of(kind, norm, draw, t0))
    return _flat(run) - theta, theta


@pytest.mark.parametrize("kind", ["gaussian", "gradient"])
@pytest.mark.parametrize("norm", [1e-6, 0.01, 2.0])
@pytest.mark.parametrize("model", [None, PARTLY_FROZEN])
def test_its_size_is_relative_to_theta(kind, norm, model):
    epsilon, theta = _epsilon(kind, norm, model=model)
    expected = norm * math.sqrt(math.fsum(theta**2))
    assert math.sqrt(math.fsum(epsilon**2)) == pytest.approx(expected, rel=1e-8, abs=0)


@pytest.mark.parametrize("kind", ["gaussian", "gradient"])
def test_its_size_holds_in_float32(kind):
    run = _run(dtype=torch.float32)
    theta = _flat(run)
    perturb(run, branch_of(kind, 0.01, 0, STEP))
    assert np.linalg.norm(_flat(run) - theta) == pytest.approx(0.01 * np.linalg.norm(theta), rel=1e-5)


def test_a_gaussian_direction_has_gaussian_moments_in_every_parameter():
    model = {"name": "mlp", "depth": 2, "width": 80, "normalization": "none"}
    run = _run(step=0, model=model)
    before = [part.clone() for part in trainable_parameters(run.network)]
    perturb(run, Branch("gaussian", 0.5, 0, 0))
    parts = [(after - b) for after, b in zip(trainable_parameters(run.network), before, strict=True)]
    epsilon = torch.cat([part.flatten() for part in parts]).numpy()
    unit = epsilon / epsilon.std()
    count = len(unit)
    assert count > 10_000
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((unit**power).mean() - moment) < 5 * math.sqrt(variance / count), power
    for part in parts:  # one scale for all, whatever the parameters' own sizes: those of biases are 0
        assert part.numpy().std() == pytest.approx(epsilon.std(), rel=4 / math.sqrt(part.numel()))


def test_draws_kinds_steps_and_seeds_have_directions_of_their_own():
    branches = [{}, {"draw": 1}, {"draw": 2}, {"kind": "gradient"}, {"kind": "gradient", "draw": 1}, {"t0": 4}]
    units = [epsilon / np.linalg.norm(epsilon) for epsilon, _ in (_epsilon(**branch) for branch in branches)]
    units.append(_unit_direction(seed=1))
    for i, one in enumerate(units):
        for j, other in enumerate(units[:i]):
            # Two gradients have something in common, yet aren't the same.
            assert abs(one @ other) < (0.999 if {i, j} == {3, 4} else 0.5), (i, j)


def _unit_direction(**branch):
    epsilon, _ = _epsilon(**branch)
    return epsilon / np.linalg.norm(epsilon)


def test_the_size_does_not_change_the_direction():
    np.testing.assert_allclose(_unit_direction(norm=0.1), _unit_direction(norm=0.7), atol=1e-12)


def test_a_perturbation_repeats():
    np.testing.assert_array_equal(_epsilon()[0], _epsilon()[0])
    np.testing.assert_array_equal(_epsilon("gradient")[0], _epsilon("gradient")[0])


@pytest.mark.parametrize("model", [None, PARTLY_FROZEN])
def test_a_gradient_direction_is_a_gradient(model):
    """With a batch of the whole training set, the minibatch is known."""
    run = _run(batch_size=40, model=model)
    theta = _flat(run)
    run.network.eval()
    loss = F.cross_entropy(run.network(run.data.train_images), run.data.train_labels)
    run.network.zero_grad()
    loss.backward()
    trainable = [parameter for parameter in run.network.parameters() if parameter.requires_grad]
    gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trainable]).numpy()
    run.network.zero_grad()
    perturb(run, branch_of("gradient", 0.1, 0, STEP))
    epsilon = _flat(run) - theta
    expected = gradient / np.linalg.norm(gradient) * 0.1 * np.linalg.norm(theta)
    np.testing.assert_allclose(epsilon, expected, rtol=1e-9, atol=1e-12)


def test_a_gradient_direction_is_one_of_a_minibatch():
    whole, part = _unit_direction(kind="gradient", batch_size=40), _unit_direction(kind="gradient", batch_size=8)
    assert abs(whole @ part) < 0.999


@pytest.mark.parametrize("kind", ["control", "gaussian", "gradient"])
@pytest.mark.parametrize("optimizer", [None, ADAMW])
def test_everything_else_stays(kind, optimizer):
    run = _run(optimizer=optimizer, model=PARTLY_FROZEN)

    def rest():
        return bits(
            [
                dict(run.network.named_buffers()),
                run.optimizer.state_dict(),
                run.network.frozen.state_dict(),
                run.step,
                run.data.train_images,
                torch.get_rng_state(),
            ]
        )

    before, theta = rest(), _flat(run)
    perturb(run, branch_of(kind, 0.0 if kind == "control" else 0.3, 0, STEP))
    assert rest() == before
    assert (_flat(run).tobytes() == theta.tobytes()) == (kind == "control")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_control_changes_no_bit(dtype):
    run = _run(dtype=dtype)
    before = bits(run.network.state_dict())
    perturb(run, Branch("control", 0.0, 0, STEP))
    assert bits(run.network.state_dict()) == before


def test_another_step_is_refused():
    run = _run()
    before = bits(run.network.state_dict())
    with pytest.raises(ValueError, match="a branch at step 4 can't start from step 3"):
        perturb(run, branch_of("gaussian", 0.1, 0, 4))
    assert bits(run.network.state_dict()) == before


def test_l2_norm_is_taken_in_float64():
    tensors = [torch.full((1000, 1000), 0.1), torch.tensor(3.0), torch.full((2,), 1e-30)]
    expected = math.sqrt(1e6 * float(torch.tensor(0.1).double()) ** 2 + 9)
    assert l2_norm(tensors) == pytest.approx(expected, rel=1e-12)
    assert l2_norm([torch.full((4,), 1e-30)]) == pytest.approx(2e-30, rel=1e-6, abs=0)
