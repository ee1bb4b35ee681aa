import numpy as np
import pytest
import torch
from tiny import ADAMW, run_settings, tiny_images

from twophase.branch_comparison import compare_branch
from twophase.chaos import MEASURES
from twophase.comparison import interpolation_losses, loss_barrier
from twophase.data import class_balanced_examples
from twophase.replay import run_at
from twophase.training import TrainingRun

T0, TIMES, GROWTH = 3, [15, 30], 5
MODEL = {"name": "cnn", "depth": 2, "width": 4}
BRANCHES = ["gaussian_norm1.0_draw0_at3", "gradient_norm1.0_draw0_at3"]


class Pair:
    """A branch and its parent, and their comparison."""

    def __init__(self, trajectory, **settings):
        self.data, self.settings, self.trajectory = (
            tiny_images(80, 40),
            run_settings(model=MODEL, **settings),
            trajectory,
        )
        self.messages = []
        self.comparison = compare_branch(
            ((t1, *self.runs_at(t1)) for t1 in TIMES),
            list(self.runs_at(T0)),
            self.data,
            growth_steps=GROWTH,
            interpolation_points=5,
            evaluation_examples=20,
            batch_norm_examples=24,
            progress=lambda message, *arguments: self.messages.append(message % arguments),
        )

    def runs_at(self, step):
        """Parent and branch, each trained from its initialisation."""
        return [
            run_at(self.data, self.settings, seed=0, trajectory=name, step=step, start=None)[0]
            for name in ("parent", self.trajectory)
        ]


@pytest.fixture(scope="module", params=BRANCHES)
def pair(request):
    return Pair(request.param)


def _theta(run):
    return torch.cat([p.detach().flatten() for p in run.network.parameters()]).double().numpy()


def test_its_shape_and_descriptions(pair):
    comparison = pair.comparison
    assert set(comparison.data_vars) == {
        *MEASURES,
        "test_interpolation_loss",
        "train_interpolation_loss",
        "growth_distance",
        "parameter_norm",
    }
    assert dict(comparison.sizes) == {"t1": 2, "interpolation": 5, "steps_after": GROWTH + 1}
    assert comparison["t1"].values.tolist() == TIMES
    assert comparison["interpolation"].values.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert comparison["steps_after"].values.tolist() == list(range(GROWTH + 1))
    for name in MEASURES:
        assert comparison[name].dims == ("t1",)
    for name in ("test_interpolation_loss", "train_interpolation_loss"):
        assert comparison[name].dims == ("t1", "interpolation")
    for name, variable in comparison.data_vars.items():
        assert variable.dtype == np.float64
        assert np.isfinite(variable.values).all(), name
        assert {"long_name", "units"} <= set(variable.attrs)


def test_growth_is_the_distance_of_runs_trained_apart(pair):
    growth = pair.comparison["growth_distance"].values
    for after, distance in enumerate(growth):
        parent, branch = (_theta(run) for run in pair.runs_at(T0 + after))
        assert distance == pytest.approx(np.linalg.norm(parent - branch), rel=1e-12)
    norm = np.linalg.norm(_theta(pair.runs_at(T0)[0]))
    assert pair.comparison["parameter_norm"] == pytest.approx(norm, rel=1e-12)
    assert growth[0] == pytest.approx(norm, rel=1e-5)


def test_distances_and_disagreement_at_each_t1(pair):
    for t1 in TIMES:
        cell = pair.comparison.sel(t1=t1)
        runs = pair.runs_at(t1)
        parent, branch = map(_theta, runs)
        cosine = parent @ branch / np.linalg.norm(parent) / np.linalg.norm(branch)
        assert cell["parameter_distance"] == pytest.approx(np.linalg.norm(parent - branch), rel=1e-12)
        assert cell["parameter_dissimilarity"] == pytest.approx(1 - cosine, rel=1e-9)
        with torch.no_grad():
            classes = [run.network.eval()(pair.data.test_images).argmax(dim=1) for run in runs]
        assert cell["disagreement_rate"] == int((classes[0] != classes[1]).sum()) / 40


def test_curves_and_barriers_at_each_t1(pair):
    data = pair.data
    train, test, statistics = (
        class_balanced_examples(labels, count)
        for labels, count in ((data.train_labels, 20), (data.test_labels, 20), (data.train_labels, 24))
    )
    for t1 in TIMES:
        cell = pair.comparison.sel(t1=t1)
        curves = interpolation_losses(
            *(run.network for run in pair.runs_at(t1)),
            points=5,
            examples={
                "train": (data.train_images[train], data.train_labels[train]),
                "test": (data.test_images[test], data.test_labels[test]),
            },
            batch_norm_batches=[data.train_images[statistics[start : start + 8]] for start in (0, 8, 16)],
        )
        for split, curve in curves.items():
            np.testing.assert_array_equal(cell[f"{split}_interpolation_loss"], curve)
            assert cell[f"{split}_loss_barrier"] == loss_barrier(curve)
    assert (pair.comparison["test_interpolation_loss"] != pair.comparison["train_interpolation_loss"]).all()
    barriers = [float(pair.comparison[f"{split}_loss_barrier"].sel(t1=30)) for split in ("test", "train")]
    assert min(barriers) > 0.01  # else the barriers of the two splits could be swapped unnoticed
    assert barriers[0] != barriers[1]


def test_it_tells_what_it_does(pair):
    assert len(pair.messages) == 3
    assert f"after {GROWTH} steps" in pair.messages[0]
    for message, t1 in zip(pair.messages[1:], TIMES, strict=True):
        assert f"t1 = {t1}" in message


@pytest.mark.parametrize("optimizer", [None, ADAMW])
def test_the_control_is_exactly_zero(optimizer):
    comparison = Pair("control_at3", optimizer=optimizer).comparison
    for name in [*MEASURES, "growth_distance"]:
        assert (comparison[name] == 0.0).all(), name
    curves = comparison["test_interpolation_loss"].values
    np.testing.assert_array_equal(curves, curves[:, :1].repeat(5, axis=1))
    assert curves[0, 0] != curves[1, 0]


def test_pairs_are_taken_one_at_a_time():
    data, settings = tiny_images(), run_settings()
    both = [TrainingRun(data, settings, seed=0) for _ in range(2)]
    events = []

    def pairs():
        for t1 in (1, 2):
            events.append(t1)
            yield t1, *both

    compare_branch(
        pairs(),
        both,
        data,
        growth_steps=0,
        interpolation_points=3,
        evaluation_examples=8,
        batch_norm_examples=8,
        progress=lambda *arguments: events.append("measured"),
    )
    assert events == ["measured", 1, "measured", 2, "measured"]
