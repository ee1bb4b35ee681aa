"""What switching to linearised training is worth: all linearised runs of a study on one grid."""

from collections.abc import Mapping
from functools import reduce

import numpy as np
import xarray as xr

from twophase.storage import describe
from twophase.trajectories import Switch

DESCRIPTIONS = {
    "seed": ("seed of the run", "1"),
    "learning_rate": ("base learning rate of the linearised run", "1"),
    "switch_step": ("step s at which the parent is linearised; 0 is linear from the start", "step"),
    "step": ("training step", "step"),
    "test_accuracy": ("share of test images that the linearised run classifies right", "1"),
    "test_loss": ("cross-entropy of the linearised run on test images", "nat"),
    "train_accuracy": ("share of a subset of the training images that the linearised run classifies right", "1"),
    "train_loss": ("cross-entropy of the linearised run on a subset of the training images", "nat"),
    "distance": ("|delta|_2, the distance that the linearised run has travelled from theta_s", "1"),
    "disagreement_rate": ("share of test images to which linearised and non-linear run give different classes", "1"),
    "nonlinear_test_accuracy": ("share of test images that the parent classifies right", "1"),
    "nonlinear_test_loss": ("cross-entropy of the parent on test images", "nat"),
    "nonlinear_train_accuracy": ("share of the same training images that the parent classifies right", "1"),
    "nonlinear_train_loss": ("cross-entropy of the parent on the same training images", "nat"),
    "diverged": (
        "1 if the loss became infinite or NaN, or training loss at T exceeds both its value at s and that of guessing",
        "1",
    ),
    "diverged_at": ("update whose loss was infinite or NaN; NaN if there was none", "step"),
    "top_eigenvalue": ("largest eigenvalue of the eNTK at s on the probe examples, over their number", "1"),
    "stable_learning_rate": (
        "largest learning rate at which gradient descent with the run's momentum is stable whatever the logits: "
        "2 (1 + momentum) over half of the top eigenvalue; NaN for other optimisers",
        "1",
    ),
    "kernel_change": (
        "kernel distance between the linearised run's eNTK at T and the network's at s, on a few probe examples: "
        "0 by definition",
        "1",
    ),
}
MEASURES = ["test_accuracy", "test_loss", "train_accuracy", "train_loss", "distance", "disagreement_rate"]
BASELINES = [f"nonlinear_{name}" for name in MEASURES[:4]]


def grid_of_switches(
    runs: Mapping[tuple[int, str], xr.Dataset],
    *,
    seeds: list[int],
    learning_rates: list[float],
    switch_steps: list[int],
) -> xr.Dataset:
    """Put all linearised runs on the grid (seed, learning_rate, switch_step).

    Args:
        runs: For each (seed, name of the linearised run) what `measure_linearized` returned.
        seeds: Seeds.
        learning_rates: Base learning rates.
        switch_steps: Steps s, 0 among them.

    Returns:
        The measures at T, and under ``{measure}_along`` at every step from the switch on, NaN before; numbers of the
        whole run; and the parent's ``nonlinear_*`` over (seed, step).
    """
    steps = sorted({int(step) for run in runs.values() for step in run["step"].values})
    axes = {"seed": seeds, "learning_rate": learning_rates, "switch_step": switch_steps}
    cells = [runs[seed, Switch(step, rate).name] for seed in seeds for rate in learning_rates for step in switch_steps]
    shape = tuple(map(len, axes.values()))
    variables: dict[str, tuple] = {}
    for name in MEASURES:
        along = np.stack([cell[name].reindex(step=steps).values for cell in cells]).reshape(*shape, len(steps))
        variables[name] = (tuple(axes), along[..., -1])
        variables[f"{name}_along"] = ((*axes, "step"), along)
    for name in ("diverged", "diverged_at", "top_eigenvalue", "stable_learning_rate", "kernel_change"):
        variables[name] = (tuple(axes), np.stack([cell[name].values for cell in cells]).reshape(shape))
    for name in BASELINES:  # each run saw its seed's parent at the steps from its own switch on
        parents = [[runs[seed, Switch(step, learning_rates[0]).name][name] for step in switch_steps] for seed in seeds]
        values = [reduce(xr.DataArray.combine_first, seen).reindex(step=steps).values for seen in parents]
        variables[name] = (("seed", "step"), np.stack(values))
    along_too = {
        f"{name}_along": (f"{DESCRIPTIONS[name][0]}, along the run", DESCRIPTIONS[name][1]) for name in MEASURES
    }
    return describe(xr.Dataset(variables, coords=axes | {"step": steps}), DESCRIPTIONS | along_too)
