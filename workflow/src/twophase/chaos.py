"""The chaos effect as one data set: what the branches' comparisons found, over the whole grid."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from twophase.storage import describe
from twophase.trajectories import branch_of

DESCRIPTIONS = {
    "seed": ("seed of the run", "1"),
    "kind": ("direction of the perturbation", "1"),
    "relative_norm": ("|perturbation| / |theta_t0|, L2 over trainable parameters; 0 is the control", "1"),
    "draw": ("number of the perturbation", "1"),
    "t0": ("step at which the branch leaves the parent", "step"),
    "t1": ("step at which branch and parent are compared", "step"),
    "interpolation": ("position a on the line (1 - a) theta + a theta', theta being the parent's", "1"),
    "steps_after": ("steps after t0", "step"),
    "parameter_dissimilarity": ("C = 1 - cos(theta, theta') between parent and branch at t1", "1"),
    "parameter_distance": ("|theta - theta'|_2 between parent and branch at t1", "1"),
    "test_loss_barrier": ("loss barrier on test images between parent and branch at t1", "nat"),
    "train_loss_barrier": ("loss barrier on training images between parent and branch at t1", "nat"),
    "disagreement_rate": ("share of test images to which parent and branch give different classes at t1", "1"),
    "test_interpolation_loss": ("cross-entropy on test images along the line, BatchNorm recomputed", "nat"),
    "train_interpolation_loss": ("cross-entropy on training images along the line, BatchNorm recomputed", "nat"),
    "growth_distance": ("|theta - theta'|_2 in each step after the perturbation", "1"),
    "parameter_norm": ("|theta_t0|_2 of the parent", "1"),
}
MEASURES = [
    "parameter_dissimilarity",
    "parameter_distance",
    "test_loss_barrier",
    "train_loss_barrier",
    "disagreement_rate",
]


def grid_of_comparisons(
    comparisons: Mapping[tuple[int, str], xr.Dataset],
    *,
    seeds: list[int],
    kinds: list[str],
    relative_norms: list[float],
    draws: int,
    perturbation_steps: list[int],
    comparison_steps: list[int],
) -> xr.Dataset:
    """Put the comparisons of all branches on the grid (seed, kind, relative_norm, draw, t0, t1).

    Args:
        comparisons: For each (seed, branch name) what rule compare_branch wrote, over the t1 above its t0.
        seeds: Seeds.
        kinds: Kinds of perturbation.
        relative_norms: Sizes without or with the control, which is always in the grid.
        draws: Perturbations of each kind and size.
        perturbation_steps: Steps t0.
        comparison_steps: Steps t1.

    Returns:
        Float64 variables, NaN where t1 <= t0. The cells of norm 0 hold the control, whatever their kind and draw.
    """
    norms = sorted({0.0, *map(float, relative_norms)})
    cells = []
    for seed in seeds:
        for kind in kinds:
            for norm in norms:
                for draw in range(draws):
                    for t0 in perturbation_steps:
                        cell = comparisons[seed, branch_of(kind, norm, draw, t0).name].reindex(t1=comparison_steps)
                        cells.append(cell)
    axes = {
        "seed": seeds,
        "kind": kinds,
        "relative_norm": norms,
        "draw": list(range(draws)),
        "t0": perturbation_steps,
    }
    shape = tuple(map(len, axes.values()))
    variables = {}
    for name, example in cells[0].data_vars.items():
        values = np.stack([cell[name].values for cell in cells]).reshape(shape + example.shape)
        variables[name] = ((*axes, *example.dims), values)
    inner = {dim: cells[0][dim].values for dim in ("t1", "interpolation", "steps_after")}
    grid = xr.Dataset(variables, coords=axes | inner)
    grid["parameter_norm"] = grid["parameter_norm"].isel(kind=0, relative_norm=0, draw=0, drop=True)
    return describe(grid, DESCRIPTIONS)
