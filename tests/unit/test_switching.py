import itertools
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from tiny import ADAMW, PARTLY_FROZEN, run_settings, tiny_images
from torch.func import functional_call, jvp
from torch.nn import functional

from twophase.data import class_balanced_examples
from twophase.entk import empirical_ntk
from twophase.linearized_measures import measure_linearized, stable_learning_rate, top_eigenvalue
from twophase.linearized_runs import linearized_run_at
from twophase.provenance import canonical, make_recipe
from twophase.replay import run_at
from twophase.storage import read_dataset, write_dataset
from twophase.switching import BASELINES, DESCRIPTIONS, MEASURES, grid_of_switches
from twophase.training import TrainingRun
from twophase.trajectories import Switch

CNN = {"name": "cnn", "depth": 2, "width": 4}
MLP = {"name": "mlp", "depth": 1, "width": 5}
CARRIED = {"optimizer_state": "carried", "schedule": {"name": "constant", "warmup": 0}}
EXAMPLES = {"evaluation_examples": 24, "probe_examples": 8}
STEPS = [3, 10, 20]


# The largest eigenvalue, and the learning rate that it allows


@pytest.mark.parametrize("examples", [1, 7])
@pytest.mark.parametrize("model", [CNN, MLP, PARTLY_FROZEN], ids=lambda m: m["name"])
def test_top_eigenvalue_is_that_of_the_dense_kernel(model, examples):
    data = tiny_images(dtype=torch.float64)
    run = TrainingRun(data, run_settings(model=model, dtype="float64"), seed=1)
    run.advance(5)  # else BatchNorm's running statistics are those of the start
    network, probe = run.network.eval(), data.train_images[:examples]
    kernel = empirical_ntk(network, probe).reshape(examples * 4, examples * 4)
    assert top_eigenvalue(network, probe) == pytest.approx(np.linalg.eigvalsh(kernel)[-1] / examples, rel=1e-3)
    assert top_eigenvalue(network, probe) == top_eigenvalue(network, probe)


def sgd(momentum=0.0, nesterov=False):
    return {"name": "sgd", "momentum": momentum, "nesterov": nesterov}


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [(sgd(), 0.5), (sgd(0.9), 0.95), (sgd(0.5), 0.75), (sgd(0.5, nesterov=True), 0.375), (ADAMW, np.nan)],
)
def test_stable_learning_rate(optimizer, rate):
    assert stable_learning_rate(8.0, optimizer) == pytest.approx(rate, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("eigenvalue", [0.3, 40.0])
@pytest.mark.parametrize("optimizer", [sgd(), sgd(0.5), sgd(0.9), sgd(0.5, nesterov=True), sgd(0.9, nesterov=True)])
def test_pytorchs_descent_is_stable_just_below_it_and_not_just_above(optimizer, eigenvalue):
    rate = stable_learning_rate(eigenvalue, optimizer)
    ends = []
    for share in (0.98, 1.02):
        weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
        descent = torch.optim.SGD([weight], share * rate, optimizer["momentum"], nesterov=optimizer["nesterov"])
        for _ in range(600):
            descent.zero_grad()
            (eigenvalue / 2 * weight.square() / 2).backward()  # curvature: half of the eigenvalue
            descent.step()
        ends.append(abs(weight.item()))
    assert ends[0] < 1e-3
    assert ends[1] > 1e3


# One linearised run beside its parent


class Pair:
    """A linearised run and its parent, and what is measured of them."""

    def __init__(self, rate=0.05, steps=STEPS, model=CNN, **settings):
        self.data, self.settings = tiny_images(80, 40), run_settings(model=model, **settings)
        self.switch, self.steps = Switch(steps[0], rate), steps
        pairs = ((step, self.linearized_at(step), self.parent_at(step)) for step in steps)
        self.measures = measure_linearized(pairs, self.data, **EXAMPLES, optimizer=self.settings["optimizer"])

    def linearized_at(self, step):
        where = {"seed": 0, "switch": self.switch, "step": step, "start": None}
        return linearized_run_at(self.data, self.settings, CARRIED, **where)[0]

    def parent_at(self, step):
        return run_at(self.data, self.settings, seed=0, trajectory="parent", step=step, start=None)[0]

    def examples(self):
        chosen = class_balanced_examples(self.data.train_labels, EXAMPLES["evaluation_examples"])
        yield "test", self.data.test_images, self.data.test_labels
        yield "train", self.data.train_images[chosen], self.data.train_labels[chosen]


@cache
def pair():
    return Pair()


def test_its_shape_and_descriptions():
    measures = pair().measures
    assert measures["step"].values.tolist() == STEPS
    whole = {"diverged", "diverged_at", "top_eigenvalue", "stable_learning_rate", "kernel_change"}
    assert set(measures.data_vars) == {*MEASURES, *BASELINES, *whole}
    for name, variable in measures.variables.items():
        assert (variable.attrs["long_name"], variable.attrs["units"]) == DESCRIPTIONS[name]
        assert variable.dims == (() if name in whole else ("step",))


@pytest.mark.parametrize("model", [CNN, PARTLY_FROZEN], ids=lambda m: m["name"])
@pytest.mark.parametrize("step", [0, 3])
def test_at_the_switch_run_and_parent_are_one_network(model, step):
    measures = Pair(model=model, steps=[step, step + 2]).measures
    start = measures.isel(step=0)
    for name in BASELINES:
        assert start[name.removeprefix("nonlinear_")] == start[name]
    assert start["distance"] == 0
    assert start["disagreement_rate"] == 0
    assert measures["distance"][1] > 0
    assert measures["train_loss"][1] != measures["nonlinear_train_loss"][1]  # else this test sees no linearisation


def test_the_parents_measures_are_those_of_the_parent():
    for step in STEPS:
        network = pair().parent_at(step).network.eval()
        for split, images, labels in pair().examples():
            with torch.no_grad():
                check(pair().measures.sel(step=step), f"nonlinear_{split}", network(images), labels)


def test_the_runs_measures_are_those_of_the_tangent_at_the_switch():
    network = pair().parent_at(STEPS[0]).network.eval()
    theta, buffers = dict(network.named_parameters()), dict(network.named_buffers())
    for step in STEPS:
        cell, parent = pair().measures.sel(step=step), pair().parent_at(step).network.eval()
        offset = [part.detach() for part in pair().linearized_at(step).network.offset]
        for split, images, labels in pair().examples():

            def outputs(parameters, images=images):
                return functional_call(network, parameters | buffers, (images,))

            value, tangent = jvp(outputs, (theta,), (dict(zip(theta, offset, strict=True)),))
            check(cell, split, value + tangent, labels)
            if split == "test":
                classes = (value + tangent).argmax(dim=1), parent(images).argmax(dim=1)
                assert cell["disagreement_rate"] == pytest.approx(int((classes[0] != classes[1]).sum()) / 40, abs=1e-12)
        assert cell["distance"] == pytest.approx(float(torch.cat([p.flatten() for p in offset]).norm()), rel=1e-6)
    assert (pair().measures["disagreement_rate"][1:] > 0).any()


def check(cell, prefix, logits, labels):
    """Accuracy and loss, anew from logits; one image near the border of two classes may fall on either side."""
    right = (logits.argmax(dim=1) == labels).sum().item()
    assert cell[f"{prefix}_accuracy"] == pytest.approx(right / len(labels), abs=1.01 / len(labels))
    loss = -functional.log_softmax(logits.double(), dim=1)[range(len(labels)), labels].mean().item()
    assert cell[f"{prefix}_loss"] == pytest.approx(loss, rel=1e-5)


def test_numbers_of_the_whole_run():
    measures, settings = pair().measures, pair().settings
    network = pair().parent_at(STEPS[0]).network.eval()
    probe = pair().data.train_images[class_balanced_examples(pair().data.train_labels, EXAMPLES["probe_examples"])]
    eigenvalue = float(measures["top_eigenvalue"])
    kernel = empirical_ntk(network, probe).reshape(32, 32)
    assert eigenvalue == pytest.approx(np.linalg.eigvalsh(kernel)[-1] / 8, rel=2e-3)
    assert measures["stable_learning_rate"] == stable_learning_rate(eigenvalue, settings["optimizer"])
    assert 0 <= measures["kernel_change"] <= 1e-12
    assert measures["diverged"] == 0
    assert np.isnan(measures["diverged_at"])


def test_pairs_are_taken_one_at_a_time():
    events = []

    def pairs():
        for step in STEPS:
            events.append(step)
            yield step, Watched(pair().linearized_at(step), events), pair().parent_at(step)

    measure_linearized(pairs(), pair().data, **EXAMPLES, optimizer=sgd())
    assert [event for event, _ in itertools.groupby(events)] == [3, "measured", 10, "measured", 20, "measured"]


class Watched:
    """A run that notes when its network is asked for."""

    def __init__(self, run, events):
        self._run, self._events = run, events

    def __getattr__(self, name):
        if name == "network":
            self._events.append("measured")
        return getattr(self._run, name)


# A learning rate that is too large


def test_a_run_whose_loss_is_not_finite():
    measures = Pair(rate=1e30).measures  # weight decay times the rate is above 1
    assert measures["diverged"] == 1
    assert 3 < measures["diverged_at"] < 10
    for name in MEASURES:
        assert np.isfinite(measures[name].values).tolist() == [True, False, False], name
        assert np.isnan(measures[name].values[1:]).all(), name
    for name in BASELINES:
        np.testing.assert_array_equal(measures[name], pair().measures[name])
    assert measures["top_eigenvalue"] == pair().measures["top_eigenvalue"]
    assert measures["kernel_change"] == 0  # whatever the offset, even one that is not finite


@pytest.mark.parametrize("steps", [[3, 4], [3, 5]])
def test_a_divergence_that_only_the_last_update_shows(steps):
    assert Pair(rate=1e30, steps=steps).measures["diverged"] == 1


def test_a_run_whose_loss_is_finite_but_worse_than_guessing():
    optimizer = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0}
    measures = Pair(rate=1e6, optimizer=optimizer).measures
    assert measures["diverged"] == 1
    assert np.isnan(measures["diverged_at"])
    assert measures["train_loss"][-1] > 100
    assert np.isfinite(measures[MEASURES].to_array()).all()


# All runs on one grid

GRID = {"seeds": [7, 0], "learning_rates": [0.1, 1e-5], "switch_steps": [0, 4, 10]}
TIMES = {0: [0, 10, 20], 4: [4, 10, 20], 10: [10, 20]}
WHOLE = ["diverged", "diverged_at", "top_eigenvalue", "stable_learning_rate", "kernel_change"]


def number(name, seed, rate, switch_step, step):
    """A number of its own for each measure, seed, learning rate, switch and step; a parent's is not the switch's."""
    names = [*MEASURES, *BASELINES, *WHOLE]
    if name in BASELINES:
        rate, switch_step = 0.1, 0
    return float(f"{names.index(name) + 1}{seed}{GRID['learning_rates'].index(rate)}{switch_step:02d}{step:02d}")


def measured_runs():
    runs = {}
    for seed, rate, s in itertools.product(*GRID.values()):
        cell = {name: ("step", [number(name, seed, rate, s, t) for t in TIMES[s]]) for name in [*MEASURES, *BASELINES]}
        cell |= {name: number(name, seed, rate, s, 0) for name in WHOLE}
        runs[seed, Switch(s, rate).name] = xr.Dataset(cell, coords={"step": TIMES[s]})
    return runs


@pytest.fixture(scope="module")
def grid():
    return grid_of_switches(measured_runs(), **GRID)


def test_every_run_is_in_its_place(grid):
    assert dict(grid.sizes) == {"seed": 2, "learning_rate": 2, "switch_step": 3, "step": 4}
    assert {axis: grid[axis].values.tolist() for axis in ("seed", "learning_rate", "switch_step", "step")} == {
        **{"seed": [7, 0], "learning_rate": [0.1, 1e-5], "switch_step": [0, 4, 10], "step": [0, 4, 10, 20]}
    }
    for seed, rate, s in itertools.product(*GRID.values()):
        cell = grid.sel(seed=seed, learning_rate=rate, switch_step=s)
        for name in WHOLE:
            assert cell[name] == number(name, seed, rate, s, 0)
        for name in MEASURES:
            assert cell[name] == cell[f"{name}_along"][-1] == number(name, seed, rate, s, 20)
            for t in (0, 4, 10, 20):
                found = cell[f"{name}_along"].sel(step=t).item()
                assert found == number(name, seed, rate, s, t) if t in TIMES[s] else np.isnan(found)


def test_the_parent_is_known_at_every_step_at_which_some_run_measured_it(grid):
    for name, seed, t in itertools.product(BASELINES, GRID["seeds"], (0, 4, 10, 20)):
        assert grid[name].sel(seed=seed, step=t) == number(name, seed, 0.1, 0, t)
        assert grid[name].dims == ("seed", "step")


def test_the_order_of_the_files_does_not_matter(grid):
    xr.testing.assert_identical(grid_of_switches(dict(reversed(measured_runs().items())), **GRID), grid)


def test_a_missing_run_is_an_error():
    runs = measured_runs()
    del runs[7, "linearized_at4_rate1e-05"]
    with pytest.raises(KeyError, match="linearized_at4_rate1e-05"):
        grid_of_switches(runs, **GRID)


def test_every_variable_is_described(grid):
    along = {f"{name}_along" for name in MEASURES}
    assert set(grid.variables) == set(DESCRIPTIONS) | along
    for name, variable in grid.variables.items():
        long_name, unit = DESCRIPTIONS[name.removesuffix("_along")]
        assert variable.attrs["long_name"].startswith(long_name)
        assert variable.attrs["units"] == unit
        assert variable.attrs["long_name"].endswith("along the run") == (name in along)


@pytest.mark.parametrize("what", ["one run", "grid"])
def test_files_hold_what_was_written(what, grid, tmp_path):
    dataset = grid if what == "grid" else pair().measures
    recipe = make_recipe("collect_switching", {}, "0")
    write_dataset(tmp_path / "found.nc", dataset, title="test", recipe=canonical(recipe))
    found = read_dataset(tmp_path / "found.nc", recipe=recipe)
    xr.testing.assert_identical(found.drop_attrs(deep=False), dataset)
