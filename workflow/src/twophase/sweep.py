"""A sweep's cells on one grid: in each the step at which training settles, by each curve, and how wide its cone is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from twophase.storage import describe

DESCRIPTIONS = {
    "width": ("channels of the first stage, or units of a layer", "1"),
    "depth": ("layers", "1"),
    "normalization": ("normalisation layers", "1"),
    "output_scale": ("scale of lazy training", "1"),
    "batch_size": ("training images in a batch", "1"),
    "learning_rate": ("learning rate as the config states it, before warm-up and schedule", "1"),
    "label_noise": ("share of training labels that are wrong", "1"),
    "seed": ("seed of the run", "1"),
    "curve": ("the curve in which a transition was looked for", "1"),
    "found": ("1 if the curve has a transition", "1"),
    "reason": ("why there is none; empty if there is one", "1"),
    "transition_step": ("step of the transition; NaN where none was found", "step"),
    "transition_lower": ("lower end of its interval over seeds; NaN where none was found", "step"),
    "transition_upper": ("upper end of its interval over seeds; NaN where none was found", "step"),
    "seeds_used": ("seeds from which the transition was estimated", "1"),
    "cone_radius": ("angular radius of the cone of late kernels", "degree"),
    "cone_radius_mean": ("angular radius of the cone of late kernels, mean over seeds", "degree"),
    "cone_radius_lower": ("lower end of the interval of the mean over seeds", "degree"),
    "cone_radius_upper": ("upper end of the interval of the mean over seeds", "degree"),
}
OF_CURVES = ("found", "reason", "transition_step", "transition_lower", "transition_upper", "seeds_used")
OF_CELLS = ("cone_radius_mean", "cone_radius_lower", "cone_radius_upper")


def grid_of_cells(
    transitions: Sequence[xr.Dataset],
    openings: Sequence[xr.Dataset],
    *,
    axes: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
) -> xr.Dataset:
    """Put what was measured in each cell of a sweep on the grid of its axes.

    Args:
        transitions: For each combination of the axes' values, the last axis running fastest, the transitions of its
            cell over ``curve``.
        openings: In the same order ``cone_radius`` over ``seed`` with its mean and interval; empty where the study has
            no section cone.
        axes: Values of each axis.
        seeds: Seeds of every cell.

    Returns:
        The same variables with the axes as further dimensions.

    Raises:
        ValueError: If the numbers of cells don't fit the axes, or cells have other curves or seeds than the first.
    """
    shape = tuple(map(len, axes.values()))
    for cells in (transitions, *([openings] if len(openings) else [])):
        if len(cells) != np.prod(shape):
            raise ValueError(f"axes of sizes {shape} need {np.prod(shape)} cells, got {len(cells)}")
    curves = transitions[0]["curve"].values.tolist()
    if any(cell["curve"].values.tolist() != curves for cell in transitions):
        raise ValueError("the cells of a sweep must have the same curves in the same order")
    if any(cell["seed"].values.tolist() != list(seeds) for cell in openings):
        raise ValueError(f"the cells of a sweep must have the seeds {list(seeds)}")

    def gathered(cells: Sequence[xr.Dataset], name: str) -> np.ndarray:
        values = np.stack([cell[name].values for cell in cells])
        return values.reshape(*shape, *values.shape[1:])

    variables = {name: ((*axes, "curve"), gathered(transitions, name)) for name in OF_CURVES}
    if len(openings):
        variables["cone_radius"] = ((*axes, "seed"), gathered(openings, "cone_radius"))
        variables |= {name: (tuple(axes), gathered(openings, name)) for name in OF_CELLS}
    coordinates = {axis: list(values) for axis, values in axes.items()} | {"curve": curves, "seed": list(seeds)}
    return describe(xr.Dataset(variables, coords=coordinates), DESCRIPTIONS)
