import numpy as np
import pytest

from twophase.history import DESCRIPTIONS, history_of_runs
from twophase.schedule import learning_rate_at

SCHEDULE = {"name": "milestones", "warmup": 2, "milestones": [3], "factor": 0.1}
LOSSES = {4: np.array([2.0, 1.5, 1.25, 1.0], np.float32), 1: np.array([3.0, 2.5, 2.25, 2.0], np.float32)}


@pytest.fixture
def history():
    return history_of_runs(
        LOSSES,
        {4: [2.5, 1.5], 1: [3.5, 3.0]},
        {1: [0.1, 0.2], 4: [0.3, 0.4]},  # by seed, whatever the order
        steps=[0, 4],
        learning_rate=0.5,
        schedule=SCHEDULE,
    )


def test_each_number_stands_at_its_seed_and_step(history):
    assert history["seed"].values.tolist() == [4, 1]
    assert history["update"].values.tolist() == [0, 1, 2, 3]
    assert history["step"].values.tolist() == [0, 4]
    assert history["training_loss"].dims == ("seed", "update")
    assert history["training_loss"].sel(seed=1).values.tolist() == [3.0, 2.5, 2.25, 2.0]
    assert history["test_loss"].sel(seed=4, step=4).item() == 1.5
    assert history["test_loss"].sel(seed=1, step=0).item() == 3.5
    assert history["test_accuracy"].sel(seed=1).values.tolist() == [0.1, 0.2]
    assert history["test_accuracy"].sel(seed=4).values.tolist() == [0.3, 0.4]


def test_the_learning_rate_is_that_of_each_update(history):
    assert history["learning_rate"].dims == ("update",)
    assert history["learning_rate"].values.tolist() == [learning_rate_at(n, 0.5, SCHEDULE) for n in range(4)]
    np.testing.assert_allclose(history["learning_rate"], [0.25, 0.5, 0.5, 0.05], rtol=1e-12)


def test_everything_is_described(history):
    for name in history.variables:
        assert (history[name].attrs["long_name"], history[name].attrs["units"]) == DESCRIPTIONS[name]
    assert set(history.variables) == set(DESCRIPTIONS)


def test_runs_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="same shape"):
        history_of_runs(
            LOSSES | {1: LOSSES[1][:3]},
            {4: [1.0], 1: [1.0]},
            {4: [1.0], 1: [1.0]},
            steps=[4],
            learning_rate=1.0,
            schedule=SCHEDULE,
        )
