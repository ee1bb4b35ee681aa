"""The parent's history as one data set: loss, accuracy and learning rate along the run."""

import numpy as np
import xarray as xr

from twophase.schedule import learning_rate_at
from twophase.storage import describe

DESCRIPTIONS = {
    "seed": ("seed of the run", "1"),
    "update": ("number of the update, from 0", "step"),
    "step": ("step of the checkpoint", "step"),
    "training_loss": ("cross-entropy of the update's batch, before the update", "nat"),
    "learning_rate": ("learning rate of the update", "1"),
    "test_accuracy": ("share of test images classified right", "1"),
    "test_loss": ("cross-entropy on the test images", "nat"),
}


def history_of_runs(
    training_losses: dict[int, np.ndarray],
    test_losses: dict[int, list[float]],
    test_accuracies: dict[int, list[float]],
    *,
    steps: list[int],
    learning_rate: float,
    schedule: dict,
) -> xr.Dataset:
    """Put the parents' records side by side.

    Args:
        training_losses: For each seed the loss of each update.
        test_losses: For each seed the test loss at each of ``steps``.
        test_accuracies: For each seed the test accuracy at each of ``steps``.
        steps: Steps of the checkpoints that were evaluated.
        learning_rate: Base learning rate.
        schedule: Schedule in steps.

    Returns:
        Data set over seed, update and step.
    """
    seeds = list(training_losses)
    updates = range(len(training_losses[seeds[0]]))
    rates = [learning_rate_at(update, learning_rate, schedule) for update in updates]
    dataset = xr.Dataset(
        {
            "training_loss": (("seed", "update"), np.stack([training_losses[seed] for seed in seeds])),
            "learning_rate": ("update", rates),
            "test_accuracy": (("seed", "step"), np.stack([test_accuracies[seed] for seed in seeds])),
            "test_loss": (("seed", "step"), np.stack([test_losses[seed] for seed in seeds])),
        },
        coords={"seed": seeds, "update": updates, "step": steps},
    )
    return describe(dataset, DESCRIPTIONS)
