import copy

import pytest
import torch
from tiny import ADAMW, DROPOUT, bits, run_settings, state_of, tiny_images

from twophase.checkpoint import checkpoint_of
from twophase.comparison import parameter_distance
from twophase.perturbation import l2_norm
from twophase.replay import run_at
from twophase.training import TrainingRun, trainable_parameters
from twophase.trajectories import branch_of

ANCHORS = (0, 5, 10, 15)
LAST = 18
SETTINGS = {
    "sgd": {},
    "adamw": {"optimizer": ADAMW},
    "dropout": {"model": DROPOUT},
    "cosine": {"schedule": {"name": "cosine", "length": LAST, "warmup": 3}},
}


class Study:
    """A parent of seed 2 whose states are known at every step, with checkpoints at the anchors."""

    def __init__(self, changes):
        self.data, self.settings = tiny_images(), run_settings(**changes)
        run = TrainingRun(self.data, self.settings, seed=2)
        self.states, self.losses, self.checkpoints = [state_of(run)], [], {}
        for step in range(LAST + 1):
            if step in ANCHORS:
                self.checkpoints[step] = self.checkpoint(run, "parent")
            if step < LAST:
                self.losses += run.advance(step + 1).tolist()
                self.states.append(state_of(run))

    @staticmethod
    def checkpoint(run, trajectory):
        losses = torch.empty(0)
        return copy.deepcopy(
            checkpoint_of(run, trajectory=trajectory, recipe="", losses=losses, environment={"device": "cpu"})
        )

    def run_at(self, trajectory, step, start, **changes):
        arguments = {"seed": 2, "trajectory": trajectory, "step": step, "start": start} | changes
        return run_at(self.data, self.settings, **arguments)


@pytest.fixture(scope="module", params=SETTINGS)
def study(request):
    return Study(SETTINGS[request.param])


@pytest.mark.parametrize("step", [0, 5, 7, 10, 13, LAST])
def test_a_step_has_the_same_bits_from_every_checkpoint_below(study, step):
    starts = [None] + [study.checkpoints[anchor] for anchor in ANCHORS if anchor <= step]
    for start in starts:
        run, losses = study.run_at("parent", step, start)
        assert state_of(run) == study.states[step]
        assert losses.tolist() == study.losses[start.step if start else 0 : step]
        assert losses.dtype == torch.float64


@pytest.mark.parametrize("t0", [0, 7, 10])
def test_the_control_is_the_parent_bit_for_bit(study, t0):
    starts = [None] + [study.checkpoints[anchor] for anchor in ANCHORS if anchor <= t0]
    for start in starts:
        for step in (t0, t0 + 1, 15, LAST):
            run, losses = study.run_at(f"control_at{t0}", step, start)
            assert state_of(run) == study.states[step]
            assert losses.tolist() == study.losses[t0:step]


@pytest.mark.parametrize("kind", ["control", "gaussian", "gradient"])
@pytest.mark.parametrize("t0", [0, 7, 10])
def test_a_branch_from_its_own_anchor_is_the_branch_from_the_parent(study, kind, t0):
    name = branch_of(kind, 0.0 if kind == "control" else 0.01, 0, t0).name
    below = t0 // 5 * 5
    anchor, _ = study.run_at(name, 15, study.checkpoints[below])
    own = study.checkpoint(anchor, name)
    from_own, losses = study.run_at(name, LAST, own)
    from_parent, all_losses = study.run_at(name, LAST, study.checkpoints[below])
    assert state_of(from_own) == state_of(from_parent)
    assert losses.tolist() == all_losses[15 - t0 :].tolist()
    if t0 == 7:
        assert state_of(study.run_at(name, LAST, study.checkpoints[0])[0]) == state_of(from_parent)
    assert (state_of(from_parent) == study.states[LAST]) == (kind == "control")


def test_a_branch_begins_at_its_distance_from_the_parent_and_keeps_the_rest(study):
    parent, _ = study.run_at("parent", 7, None)
    branch, losses = study.run_at("gaussian_norm0.01_draw0_at7", 7, study.checkpoints[5])
    assert len(losses) == 0
    theta, theta_branch = (trainable_parameters(run.network) for run in (parent, branch))
    assert parameter_distance(theta, theta_branch) == pytest.approx(0.01 * l2_norm(theta), rel=1e-5)
    assert bits(branch.optimizer.state_dict()) == bits(parent.optimizer.state_dict())
    assert bits(dict(branch.network.named_buffers())) == bits(dict(parent.network.named_buffers()))
    assert branch.step == 7


@pytest.mark.parametrize(
    ("trajectory", "step", "start", "message"),
    [
        ("parent", 7, 10, "step 7 of parent can't start from step 10 of parent"),
        ("control_at10", 12, 15, "step 12 of control_at10 can't start from step 15 of parent"),
        ("control_at7", 15, 10, "a branch at step 7 can't start from step 10"),
        ("control_at7", 6, 5, "control_at7 has no step 6: it begins at step 7"),
        ("contrl_at7", 9, 5, "'contrl_at7' is not the name of a trajectory"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(study, trajectory, step, start, message):
    with pytest.raises(ValueError, match=message):
        study.run_at(trajectory, step, study.checkpoints[start])


def test_a_start_of_another_branch_or_seed_is_refused(study):
    other = study.checkpoint(study.run_at("control_at5", 10, study.checkpoints[5])[0], "control_at5")
    for trajectory in ("parent", "control_at7", "gaussian_norm0.01_draw0_at5"):
        with pytest.raises(ValueError, match=f"step 12 of {trajectory} can't start from step 10 of control_at5"):
            study.run_at(trajectory, 12, other)
    with pytest.raises(ValueError, match="a run of seed 3 can't start from a checkpoint of seed 2"):
        study.run_at("parent", 12, study.checkpoints[5], seed=3)


def test_progress_counts_the_steps_done(study):
    told = []
    study.run_at("control_at7", 15, study.checkpoints[5], progress=told.append)
    assert told == [2, 10]
