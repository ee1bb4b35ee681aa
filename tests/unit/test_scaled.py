"""Networks scaled about their initialisation, trained, replayed, perturbed, differentiated and linearised."""

import copy
import sys
import types

import pytest
import torch
from entk_networks import jacobians
from tiny import bits, run_settings, state_of, tiny_images
from torch import nn

from twophase.checkpoint import checkpoint_of, load_checkpoint, save_checkpoint
from twophase.config import Model
from twophase.entk import empirical_ntk
from twophase.errors import ModelError
from twophase.kernels import kernel_distance
from twophase.linearized_measures import top_eigenvalue
from twophase.linearized_runs import linearized_run_at
from twophase.models import ScaledNetwork, build_model, core_of
from twophase.perturbation import l2_norm
from twophase.provenance import canonical, make_recipe
from twophase.replay import run_at
from twophase.training import TrainingRun, trainable_parameters
from twophase.trajectories import PARENT, Switch, branch_of

SGD = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.0, "weight_decay": 0.0}
NETWORKS = {
    "mlp": {"name": "mlp", "depth": 2, "width": 32, "normalization": "none"},
    "cnn": {"name": "cnn", "depth": 2, "width": 4, "normalization": "none"},
    "resnet": {"name": "resnet", "depth": 8, "width": 4, "normalization": "group"},
}


def settings_of(network="mlp", *, scale, **changes):
    model = NETWORKS[network] | {"output_scale": scale}
    return run_settings(model=model, **({"optimizer": SGD} | changes))


def built(network="mlp", *, scale, dtype=torch.float64):
    settings = Model(**NETWORKS[network], output_scale=scale).canonical()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model(settings, image_shape=(1, 8, 8), classes=4).to(dtype)


def displaced(network, amount=0.01):
    """The network after a random change of its parameters, in place."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return network


def jacobian_of(network, images):
    """``(n, K, P)`` in float64, one backward pass a logit."""
    return torch.cat(list(jacobians(network, images.double()).values()), dim=2)


@pytest.mark.parametrize("scale", [0.5, 1, 1000])
@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_are_exactly_0_at_initialisation_only(network, scale):
    run = TrainingRun(tiny_images(), settings_of(network, scale=scale), seed=0)
    for count in (1, 7, 40):
        for mode in (True, False):
            assert run.network.train(mode)(run.data.train_images[:count]).count_nonzero() == 0
    run.advance(1)
    assert run.network(run.data.train_images).abs().max() > 1e-3


@pytest.mark.parametrize("network", NETWORKS)
def test_function_and_gradients_are_scaled(network):
    images, scaled = tiny_images(dtype=torch.float64).train_images, built(network, scale=30)
    initial = copy.deepcopy(scaled.network)
    plain = displaced(scaled).network
    torch.testing.assert_close(scaled(images), 30 * (plain(images) - initial(images)))
    weights = torch.linspace(-1, 1, scaled(images).numel(), dtype=torch.float64).view_as(scaled(images))
    found, of_plain = (
        torch.autograd.grad((weights * network(images)).sum(), list(plain.parameters())) for network in (scaled, plain)
    )
    torch.testing.assert_close(found, tuple(30 * gradient for gradient in of_plain))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_kernel_is_the_squared_scale_times_that_of_the_core(network):
    images, scaled = tiny_images(dtype=torch.float64).train_images[:6], displaced(built(network, scale=30)).eval()
    core, scale = core_of(scaled)
    assert (core, scale) == (scaled.network, 30)
    assert core_of(core) == (core, 1.0)
    kernel = empirical_ntk(core, images)
    torch.testing.assert_close(empirical_ntk(scaled, images), 900 * kernel, rtol=1e-9, atol=0)
    jacobian = jacobian_of(scaled, images).flatten(0, 1)
    torch.testing.assert_close(jacobian @ jacobian.T, 900 * kernel.flatten(2).flatten(0, 1), rtol=1e-9, atol=1e-9)
    assert top_eigenvalue(scaled, images) == pytest.approx(900 * top_eigenvalue(core, images), rel=1e-3)


def test_the_frozen_copy_is_neither_trained_nor_stored_and_follows():
    scaled = built(scale=2)
    names = [name for name, _ in scaled.network.named_parameters()]
    assert list(scaled.state_dict()) == [f"network.{name}" for name in names]
    assert len(list(scaled.parameters())) == len(names)
    assert len(list(scaled.modules())) == 1 + len(list(scaled.network.modules()))
    images = tiny_images(dtype=torch.float64).train_images
    moved = displaced(copy.deepcopy(scaled))
    assert moved(images).count_nonzero()
    assert not scaled(images).count_nonzero()
    torch.testing.assert_close(moved.float()(images.float()), moved.double()(images).float(), rtol=1e-4, atol=1e-5)
    again = built(scale=2)
    again.load_state_dict(moved.state_dict())
    torch.testing.assert_close(again(images), moved(images), rtol=1e-5, atol=1e-6)  # that one was float32 for a while


def test_a_larger_scale_moves_parameters_less_and_turns_the_kernel_less():
    data, travelled, turned = tiny_images(dtype=torch.float64), [], []
    for scale in (1, 10, 100, 1000):
        run = TrainingRun(data, settings_of(scale=scale, dtype="float64"), seed=0)
        start = [parameter.clone() for parameter in trainable_parameters(run.network)]
        before = empirical_ntk(core_of(run.network.eval())[0], data.train_images)
        run.advance(40)
        after = empirical_ntk(core_of(run.network.eval())[0], data.train_images)
        parts = zip(start, trainable_parameters(run.network), strict=True)
        travelled.append(scale * l2_norm([a - b for a, b in parts]))
        turned.append(float(kernel_distance(before, after)))
    assert travelled == pytest.approx([travelled[-1]] * 4, rel=0.4)
    assert travelled[2] == pytest.approx(travelled[3], rel=0.01)  # the limit is reached
    assert turned[0] > 0.02
    assert turned[1] > 10 * turned[2] > 100 * turned[3]
    assert turned[3] < 1e-5


@pytest.fixture
def anchored(tmp_path):
    """A run at step 6, its checkpoint as it is read back, and its settings."""
    data, settings = tiny_images(), settings_of("cnn", scale=20)
    run = TrainingRun(data, settings, seed=3)
    losses = run.advance(6)
    path = tmp_path / PARENT / "step6.pt"
    path.parent.mkdir()
    recipe = make_recipe("advance", settings, "code")
    stored = checkpoint_of(run, trajectory=PARENT, recipe=canonical(recipe), losses=losses, environment={})
    save_checkpoint(path, stored)
    return run, load_checkpoint(path, recipe=recipe, seed=3), data, settings


def test_a_run_replays_bit_for_bit(anchored):
    run, start, data, settings = anchored
    assert len(start.network) == len(list(run.network.network.parameters()))  # stored once
    run.advance(15)
    for checkpoint in (start, None):
        again, _ = run_at(data, settings, seed=3, trajectory=PARENT, step=15, start=checkpoint)
        assert state_of(again) == state_of(run)
        assert bits(again.network(data.test_images)) == bits(run.network(data.test_images))


def test_the_control_is_the_parent_and_a_branch_leaves_the_copy_alone(anchored):
    run, start, data, settings = anchored
    run.advance(15)
    branches = [branch_of("gaussian", norm, 0, 8) for norm in (0, 0.01)]
    control, branch = (
        run_at(data, settings, seed=3, trajectory=name, step=15, start=start)[0]
        for name in (branch.name for branch in branches)
    )
    assert bits(control.network.state_dict()) == bits(run.network.state_dict())
    frozen = [bits(dict(owner.network._initial[0].state_dict())) for owner in (run, branch)]
    assert frozen[0] == frozen[1]


def test_a_linearised_run_is_the_scaled_tangent(anchored):
    run, start, data, settings = anchored
    switching = {"optimizer_state": "reset", "schedule": settings["schedule"]}
    switch = Switch(6, settings["optimizer"]["learning_rate"])
    at = {"seed": 3, "switch": switch}
    linear, _ = linearized_run_at(data, settings, switching, **at, step=6, start=start)
    assert isinstance(linear.network, ScaledNetwork)
    torch.testing.assert_close(linear.network(data.test_images), run.network.eval()(data.test_images))
    linear.advance(12)
    offset = torch.cat([part.flatten() for part in trainable_parameters(linear.network)]).double()
    tangent = jacobian_of(run.network, data.test_images) @ offset
    expected = run.network(data.test_images).detach() + tangent.float()
    torch.testing.assert_close(linear.network(data.test_images), expected, rtol=1e-3, atol=1e-3)
    own = checkpoint_of(linear, trajectory=switch.name, recipe="", losses=torch.empty(0), environment={})
    again, _ = linearized_run_at(data, settings, switching, **at, step=12, start=own)
    assert state_of(again) == state_of(linear)


def test_the_learning_rate_is_divided_by_the_squared_scale():
    assert settings_of(scale=10)["optimizer"]["learning_rate"] == 0.05 / 100
    assert settings_of(scale=10)["model"]["output_scale"] == 10


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(16), nn.Dropout(0.1)], ids=["BatchNorm1d", "Dropout"])
def test_a_users_network_with_a_training_mode_of_its_own_is_refused(layer, monkeypatch):
    module = types.ModuleType("my_networks")
    module.build = lambda image_shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), layer)
    monkeypatch.setitem(sys.modules, "my_networks", module)
    settings = {"name": "my_networks:build", "arguments": {}, "output_scale": 10}
    with pytest.raises(ModelError, match=rf"my_networks:build has {type(layer).__name__} \(2\).*without BatchNorm"):
        build_model(settings, image_shape=(1, 8, 8), classes=16)
