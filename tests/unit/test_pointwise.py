"""Measures along one parent, which they leave as it was, and those of all seeds side by side."""

import logging

import numpy as np
import pytest
import torch
from tiny import ADAMW, DROPOUT, run_settings, state_of, tiny_images

from twophase.data import class_balanced_examples
from twophase.pointwise import DESCRIPTIONS, OF_THE_STUDY, runs_side_by_side
from twophase.pointwise_measures import measure_pointwise
from twophase.sharpness import sharpness, stability_threshold
from twophase.training import TrainingRun

LOG = logging.getLogger("test_pointwise")
STEPS = (0, 3, 7)


class Case:
    """A parent of a seed, measured at single steps."""

    def __init__(self, *, seed=1, **settings):
        self.data, self.settings, self.seed = tiny_images(), run_settings(**settings), seed

    def run(self):
        return TrainingRun(self.data, self.settings, self.seed)

    def trained_on(self, steps=STEPS):
        run = self.run()
        for step in steps:
            run.advance(step)
            yield run

    def anew(self, steps=STEPS):
        for step in steps:
            run = self.run()
            run.advance(step)
            yield run

    def measured(self, runs=None, *, log=LOG):
        runs = self.trained_on() if runs is None else runs
        return measure_pointwise(runs, self.data, self.settings, probe_examples=20, batches=3, log=log)


@pytest.mark.parametrize("model", [None, DROPOUT], ids=["cnn", "dropout"])
def test_measuring_leaves_the_run_and_all_random_numbers_as_they_were(model):
    case = Case(model=model)
    run = case.run()
    run.advance(3)
    before, random, numpys = state_of(run), torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    modes = [module.training for module in run.network.modules()]
    gradients = [parameter.grad.clone() for parameter in run.network.parameters()]
    case.measured([run])
    assert state_of(run) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert np.random.get_state()[1].tolist() == numpys  # noqa: NPY002
    assert [module.training for module in run.network.modules()] == modes
    assert all(torch.equal(p.grad, g) for p, g in zip(run.network.parameters(), gradients, strict=True))
    losses, undisturbed = run.advance(9), case.run()
    assert torch.equal(undisturbed.advance(9)[3:], losses)
    assert state_of(undisturbed) == state_of(run)


@pytest.mark.parametrize("model", [None, DROPOUT], ids=["cnn", "dropout"])
def test_the_same_bits_whether_trained_on_or_anew_and_whatever_other_steps_are_measured(model):
    case = Case(model=model)
    whole = case.measured()
    assert whole.identical(case.measured(case.anew()))
    alone = case.measured(case.anew(STEPS[1:2]))
    assert alone.identical(whole.sel(step=[STEPS[1]]))


def test_each_number_stands_at_its_step():
    case = Case()
    measures = case.measured()
    assert measures["step"].values.tolist() == list(STEPS)
    run = case.run()
    run.advance(3)
    chosen = class_balanced_examples(case.data.train_labels, 20)
    probe = case.data.train_images[chosen], case.data.train_labels[chosen]
    expected = sharpness(run.network.train(), *probe, seed=1)
    assert (measures["sharpness"].sel(step=3), measures["hessian_products"].sel(step=3)) == expected
    threshold = stability_threshold(3, case.settings["optimizer"], case.settings["schedule"])
    assert measures["stability_threshold"].sel(step=3) == threshold
    ratio = measures["gradient_signal"] / measures["gradient_noise"]
    np.testing.assert_allclose(measures["gradient_signal_to_noise"], ratio, rtol=1e-12)
    assert {name: int(measures[name]) for name in OF_THE_STUDY[1:]} == {
        "batches": 3,
        "batch_size": 8,
        "probe_examples": 20,
    }
    assert len(set(measures["sharpness"].values)) == len(STEPS)


def test_other_optimisers_have_no_threshold():
    assert Case(optimizer=ADAMW).measured()["stability_threshold"].isnull().all()


def test_every_step_has_its_line_in_the_log(caplog):
    with caplog.at_level(logging.INFO):
        Case().measured()
    assert [line.split(":")[0] for line in caplog.messages] == ["step 0", "step 3", "step 7"]
    assert all("products" in line for line in caplog.messages)


def test_seeds_stand_side_by_side_in_their_order():
    runs = {seed: Case(seed=seed).measured() for seed in (2, 1)}
    both = runs_side_by_side(runs, seeds=[1, 2])
    assert both["seed"].values.tolist() == [1, 2]
    for name in set(runs[1].data_vars) - set(OF_THE_STUDY):
        assert both[name].dims == ("seed", "step")
        for seed in (1, 2):
            np.testing.assert_array_equal(both[name].sel(seed=seed), runs[seed][name])
    assert both["stability_threshold"].dims == ("step",)
    assert set(both.variables) == set(DESCRIPTIONS)
    for name in both.variables:
        assert (both[name].attrs["long_name"], both[name].attrs["units"]) == DESCRIPTIONS[name]
    shorter = runs[2].isel(step=slice(2))
    with pytest.raises(ValueError, match="same steps"):
        runs_side_by_side({1: runs[1], 2: shorter}, seeds=[1, 2])
