"""Linearised runs: the same bits from every start, and updates worked out by hand in float64."""

import copy
import math

import pytest
import torch
from entk_networks import jacobians
from tiny import ADAMW, DROPOUT, PARTLY_FROZEN, bits, run_settings, state_of, tiny_images
from torch import nn

from twophase.checkpoint import checkpoint_of, load_checkpoint, save_checkpoint
from twophase.errors import DivergenceError
from twophase.linearized_runs import linearized_run_at
from twophase.provenance import canonical, make_recipe
from twophase.replay import run_at
from twophase.schedule import learning_rate_at
from twophase.trajectories import PARENT, Switch

ANCHORS, LAST, SEED, RATE = (0, 5, 10, 15), 18, 2, 0.03
CONSTANT = {"name": "constant", "warmup": 0}
FALLING = {"name": "cosine", "warmup": 6, "length": LAST + 2}
LINEAR = {"name": "test_linearized_runs:linear_network"}


def linear_network(*, image_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), classes))


def saved(run, trajectory, losses=()):
    """A checkpoint that shares no memory with the run."""
    losses = torch.tensor(losses, dtype=torch.float64)
    return copy.deepcopy(checkpoint_of(run, trajectory=trajectory, recipe="", losses=losses, environment={}))


class Case:
    """A parent with checkpoints at the anchors, and how it is linearised."""

    def __init__(self, *, optimizer_state="carried", schedule=FALLING, dtype=torch.float32, **settings):
        self.data = tiny_images(dtype=dtype)
        self.settings = run_settings(dtype=str(dtype).removeprefix("torch."), **settings)
        self.switching = {"optimizer_state": optimizer_state, "schedule": schedule}
        self.parents = {step: saved(self.parent_at(step), PARENT) for step in ANCHORS}

    def parent_at(self, step):
        return run_at(self.data, self.settings, seed=SEED, trajectory=PARENT, step=step, start=None)[0]

    def run_at(self, switch, step, start=None, **changes):
        arguments = {"seed": SEED, "switch": switch, "step": step, "start": start} | changes
        return linearized_run_at(self.data, self.settings, self.switching, **arguments)


CASES = {
    "sgd": {},
    "sgd, reset": {"optimizer_state": "reset"},
    "adamw": {"optimizer": ADAMW},
    "dropout": {"model": DROPOUT},
    "partly frozen": {"model": PARTLY_FROZEN, "schedule": CONSTANT},
}


@pytest.mark.parametrize(("name", "switch_step"), [*((name, 7) for name in CASES), ("sgd", 0), ("adamw", 10)])
def test_a_step_has_the_same_bits_from_every_start(name, switch_step):
    case, switch = Case(**CASES[name]), Switch(switch_step, RATE)
    run, losses = case.run_at(switch, switch_step)
    states, losses, own = {switch_step: state_of(run)}, losses.tolist(), {}
    assert losses == []
    for step in range(switch_step, LAST):
        losses += run.advance(step + 1).tolist()
        states[step + 1] = state_of(run)
        if step + 1 in ANCHORS:
            own[step + 1] = saved(run, switch.name)
    assert run.diverged_at is None
    assert len({str(state) for state in states.values()}) == len(states)
    for step in {switch_step, switch_step + 1, 13, LAST}:
        parents = [checkpoint for anchor, checkpoint in case.parents.items() if anchor <= switch_step]
        for start in [None, *parents, *(checkpoint for anchor, checkpoint in own.items() if anchor <= step)]:
            found, found_losses = case.run_at(switch, step, start)
            assert state_of(found) == states[step]
            begun = start.step if start and start.trajectory == switch.name else switch_step
            assert found_losses.tolist() == losses[begun - switch_step : step - switch_step]
            assert found_losses.dtype == torch.float64


def test_the_linearised_network_begins_as_the_parent():
    case = Case()
    parent, (run, losses) = case.parent_at(7), case.run_at(Switch(7, RATE), 7)
    assert len(losses) == 0
    assert bits(run.network.model.state_dict()) == bits(parent.network.state_dict())
    assert bits(list(run.network.offset)) == bits([torch.zeros_like(p) for p in parent.network.parameters()])
    images = case.data.test_images
    assert torch.equal(run.network(images), parent.network.eval()(images))


@pytest.mark.parametrize("optimizer", [None, ADAMW])
def test_the_optimizers_state_is_carried_or_reset(optimizer):
    carried, reset = (Case(optimizer=optimizer, optimizer_state=state) for state in ("carried", "reset"))
    switch = Switch(7, RATE)
    state = carried.parent_at(7).optimizer.state_dict()["state"]
    assert len(state) > 0
    assert bits(carried.run_at(switch, 7)[0].optimizer.state_dict()["state"]) == bits(state)
    assert reset.run_at(switch, 7)[0].optimizer.state_dict()["state"] == {}
    ends = [case.run_at(switch, 9)[0].network.state_dict() for case in (carried, reset)]
    assert bits(ends[0]) != bits(ends[1])


# By hand --------------------------------------------------------------------------------------------------------------


def flat(parts):
    return torch.cat([part.detach().flatten() for part in parts])


def by_hand(case, switch, until):
    """Delta at each step from the switch on, from the Jacobian at theta_s; theta = theta_s + delta decays."""
    parent, settings = case.parent_at(switch.switch_step), case.settings["optimizer"]
    network = parent.network.eval()
    start = theta = flat(network.parameters())
    carried = case.switching["optimizer_state"] == "carried"
    state = parent.optimizer.state_dict()["state"] if carried else {}
    kept = {key: flat([state[i][key] for i in sorted(state)]) for key in state.get(0, {}) if key != "step"}
    decay, updates = settings["weight_decay"], int(state[0]["step"]) if "exp_avg" in kept else 0
    velocity = kept.get("momentum_buffer")
    mean, square = (kept.get(key, torch.zeros_like(theta)) for key in ("exp_avg", "exp_avg_sq"))
    offsets = [torch.zeros_like(theta)]
    for step in range(switch.switch_step, until):
        rate = learning_rate_at(step, switch.learning_rate, case.switching["schedule"])
        images, labels = parent._batches(step)
        jacobian = torch.cat(list(jacobians(network, images).values()), dim=2)  # (n, K, P)
        with torch.no_grad():
            logits = network(images) + jacobian @ (theta - start)
        error = (logits.softmax(1) - nn.functional.one_hot(labels, logits.shape[1])) / len(labels)
        gradient = torch.tensordot(error, jacobian, dims=2)
        if settings["name"] == "sgd":
            gradient = gradient + decay * theta
            velocity = gradient if velocity is None else settings["momentum"] * velocity + gradient
            theta = theta - rate * (gradient + settings["momentum"] * velocity if settings["nesterov"] else velocity)
        else:
            updates += 1
            mean = settings["beta1"] * mean + (1 - settings["beta1"]) * gradient
            square = settings["beta2"] * square + (1 - settings["beta2"]) * gradient**2
            root = (square / (1 - settings["beta2"] ** updates)).sqrt() + settings["epsilon"]
            theta = (1 - rate * decay) * theta - rate * mean / (1 - settings["beta1"] ** updates) / root
        offsets.append(theta - start)
    return offsets


OPTIMIZERS = {
    "sgd": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.1},
    "momentum": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.1},
    "nesterov": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    "adamw": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.3},
}


@pytest.mark.parametrize("optimizer_state", ["carried", "reset"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_by_hand(name, optimizer_state):
    """The learning rate, its schedule and weight decay; the parent's own schedule and rate have no part in it."""
    case = Case(optimizer=OPTIMIZERS[name], optimizer_state=optimizer_state, dtype=torch.float64)
    switch = Switch(4, RATE)
    offsets = by_hand(case, switch, until=8)
    for step, expected in enumerate(offsets, start=4):
        offset = flat(case.run_at(switch, step)[0].network.offset)
        torch.testing.assert_close(offset, expected, rtol=0, atol=1e-10 * float(offsets[-1].norm()))


def test_one_update_of_sgd_by_hand():
    """delta = -lr (J^T g + wd theta_s), the gradient from an ordinary backward pass."""
    case = Case(optimizer=OPTIMIZERS["sgd"], dtype=torch.float64, schedule={"name": "constant", "warmup": 10})
    parent, run = case.parent_at(4), case.run_at(Switch(4, 0.5), 5)[0]
    images, labels = parent._batches(4)
    parent.network.eval().zero_grad()
    nn.functional.cross_entropy(parent.network(images), labels).backward()
    for part, p in zip(run.network.offset, parent.network.parameters(), strict=True):
        torch.testing.assert_close(part.data, -0.5 * 5 / 10 * (p.grad + 0.1 * p.detach()), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_linear_in_its_parameters_goes_on_as_the_parent(name):
    parents_rate = OPTIMIZERS[name]["learning_rate"]
    schedule = {"name": "cosine", "warmup": 3, "length": LAST}
    case = Case(model=LINEAR, optimizer=OPTIMIZERS[name], schedule=schedule, dtype=torch.float64)
    case.settings["schedule"] = schedule
    parent, parents_losses = run_at(case.data, case.settings, seed=SEED, trajectory=PARENT, step=LAST, start=None)
    run, losses = case.run_at(Switch(6, parents_rate), LAST)
    torch.testing.assert_close(losses, parents_losses[6:], rtol=1e-11, atol=0)
    theta = [start + part.detach() for start, part in zip(run.network.expansion_point, run.network.offset, strict=True)]
    torch.testing.assert_close(flat(theta), flat(parent.network.parameters()), rtol=0, atol=1e-12)
    moved = flat(run.network.offset).norm()
    assert moved > 0.01 * flat(theta).norm()


def test_a_parameter_without_effect_stays():
    """The parent's optimiser doesn't let it decay either."""
    case = Case(model=PARTLY_FROZEN)
    run = case.run_at(Switch(5, RATE), 10)[0]
    names = [name for name, p in case.parent_at(0).network.named_parameters() if p.requires_grad]
    still = [name for name, part in zip(names, run.network.offset, strict=True) if not part.any()]
    assert still == ["unused"]


# Divergence, starts and files -----------------------------------------------------------------------------------------


def test_a_divergence_is_a_result():
    case, switch = Case(schedule=CONSTANT), Switch(7, 1e30)
    run, losses = case.run_at(switch, 15)
    found = run.diverged_at
    assert 7 < found < 15
    assert (run.step, losses.shape) == (15, (8,))
    assert losses[: found - 7].isfinite().all()
    assert not losses[found - 7].isfinite()
    assert losses[found - 6 :].isnan().all()
    later, later_losses = case.run_at(switch, LAST, saved(run, switch.name))
    assert (later.step, later.diverged_at) == (LAST, found)
    assert later_losses.isnan().tolist() == [True] * 3
    assert bits(later.network.state_dict()) == bits(run.network.state_dict())
    direct, direct_losses = case.run_at(switch, LAST, case.parents[5])
    assert (direct.step, direct.diverged_at) == (LAST, found)
    torch.testing.assert_close(direct_losses, torch.cat([losses, later_losses]), rtol=0, atol=0, equal_nan=True)


def test_a_divergence_that_is_in_no_loss_yet():
    """A run that ends with the update that makes parameters infinite says the same as one that goes on."""
    case, switch = Case(schedule=CONSTANT), Switch(7, 1e30)
    found = case.run_at(switch, LAST)[0].diverged_at
    run, losses = case.run_at(switch, found)
    assert losses.isfinite().all()
    assert run.diverged_at == found
    assert case.run_at(switch, found - 1)[0].diverged_at is None


def test_a_parents_divergence_is_an_error():
    case = Case()
    case.settings["optimizer"]["learning_rate"] = 1e30
    for start in (None, case.parents[5]):
        with pytest.raises(DivergenceError, match=r"the training loss became|parameters became"):
            case.run_at(Switch(10, RATE), 12, start)


@pytest.fixture(scope="module")
def case():
    return Case()


def test_starts_that_do_not_fit_are_refused(case):
    switch = Switch(7, RATE)
    own = saved(case.run_at(switch, 10)[0], switch.name)
    branch = saved(
        run_at(case.data, case.settings, seed=SEED, trajectory="control_at5", step=10, start=None)[0], "control_at5"
    )
    others = [saved(case.run_at(other, 10)[0], other.name) for other in (Switch(5, RATE), Switch(7, 0.5))]
    wanted = rf"step 12 of {switch.name}, seed 2, can't start from step 10 of "
    refused = [
        (12, others[0], {}, wanted + r"linearized_at5_rate0\.03, seed 2"),
        (12, others[1], {}, wanted + r"linearized_at7_rate0\.5, seed 2"),
        (12, branch, {}, wanted + "control_at5, seed 2"),
        (12, own, {"seed": 3}, rf"seed 3, can't start from step 10 of {switch.name}, seed 2"),
        (9, own, {}, rf"step 9 of {switch.name}, seed 2, can't start from step 10"),
        (12, case.parents[5], {"seed": 3}, "a run of seed 3 can't start from a checkpoint of seed 2"),
        (12, case.parents[10], {}, "step 7 of parent can't start from step 10 of parent"),
        (6, None, {}, rf"{switch.name} has no step 6: it begins at step 7"),
        (6, case.parents[5], {}, rf"{switch.name} has no step 6: it begins at step 7"),
    ]
    for step, start, changes, message in refused:
        with pytest.raises(ValueError, match=message):
            case.run_at(switch, step, start, **changes)


def test_progress_counts_the_steps_done(case):
    switch = Switch(7, RATE)
    own = saved(case.run_at(switch, 10)[0], switch.name)
    for start, expected in ((case.parents[5], [2, 10]), (None, [7, 15]), (own, [5])):
        told = []
        case.run_at(switch, 15, start, progress=told.append)
        assert told == expected


@pytest.mark.parametrize("rate", [RATE, 1e30])
def test_files(case, tmp_path, rate):
    recipe, switch = make_recipe("advance_linearized", {"optimizer_state": "carried"}, "0123"), Switch(7, rate)
    run, losses = case.run_at(switch, 10)
    path = tmp_path / f"seed{SEED}" / switch.name / "step10.pt"
    path.parent.mkdir(parents=True)
    recipe_text = canonical(recipe)
    written = checkpoint_of(
        run, trajectory=switch.name, recipe=recipe_text, losses=losses, environment={"device": "cpu"}
    )
    save_checkpoint(path, written)
    loaded = load_checkpoint(path, recipe=recipe, seed=SEED)
    assert bits(vars(loaded)) == bits(vars(written))
    assert (loaded.diverged_at is None) == (rate == RATE)
    onward, onward_losses = case.run_at(switch, LAST, loaded)
    assert bits(vars(load_checkpoint(path, recipe=recipe, seed=SEED))) == bits(vars(loaded))
    run_losses = run.advance(LAST)
    assert state_of(onward) == state_of(run)
    assert bits(onward_losses) == bits(run_losses)
    assert onward.diverged_at == run.diverged_at
