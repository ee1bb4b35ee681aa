"""What the map's networks became: rows of a tile's file, and all tiles on one grid."""

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import xarray as xr

from twophase.errors import ArtifactError
from twophase.storage import describe

AXES = ("gamma", "gamma_prime", "width", "seed")
AXIS_DESCRIPTIONS = {
    "gamma": ("exponent of the output's scale, kappa = m^-gamma", "1"),
    "gamma_prime": ("exponent of the ratio of the layers' scales, kappa' = m^-gamma_prime", "1"),
    "width": ("hidden neurons m", "1"),
    "seed": ("seed of the initial weights", "1"),
}
MEASURES = {
    "input_distance": ("RD = |w(inf) - w(0)| / |w(0)| of the input weights", "1"),
    "output_distance": ("RD = |a(inf) - a(0)| / |a(0)| of the output weights", "1"),
    "initial_loss": ("loss at time 0, 1/(2n) sum of squared residuals", "1"),
    "final_loss": ("loss at the end", "1"),
    "steps": ("accepted steps of the integration", "1"),
    "evaluations": ("evaluations of the slope", "1"),
    "integration_error": ("sum of the estimated local errors of RD over the steps, as a share of RD", "1"),
    "kernel_distance": ("kernel distance S between the tangent kernels at time 0 and at the end", "1"),
    "status": ("how it ended: 0 converged, 1 stationary with loss left, 2 evaluations spent, 3 not finite", "1"),
}
ARRIVED = (0, 1)  # statuses of networks whose weights have stopped moving: converged, stationary
WHOLE_NUMBERS = {"steps": np.int64, "evaluations": np.int64, "status": np.int8}
DESCRIPTIONS = AXIS_DESCRIPTIONS | MEASURES


def rows_of(results: dict[tuple, dict[str, float]]) -> xr.Dataset:
    """A tile's networks, one a row.

    Args:
        results: By (gamma, gamma', width, seed) the measures named in ``MEASURES``.

    Returns:
        All of them over ``network``, sorted.
    """
    networks = sorted(results)
    variables = {
        axis: ("network", np.array([network[place] for network in networks], dtype=np.int64 if place > 1 else float))
        for place, axis in enumerate(AXES)
    }
    for name in MEASURES:
        values = [results[network][name] for network in networks]
        variables[name] = ("network", np.array(values, dtype=WHOLE_NUMBERS.get(name, np.float64)))
    return describe(xr.Dataset(variables), DESCRIPTIONS)


def results_of(rows: xr.Dataset) -> dict[tuple, dict[str, float]]:
    """The inverse of :func:`rows_of`."""
    keys = zip(*(rows[axis].values.tolist() for axis in AXES), strict=True)
    columns = {name: rows[name].values.tolist() for name in MEASURES}
    return {key: {name: column[place] for name, column in columns.items()} for place, key in enumerate(keys)}


def grid_of(
    tiles: Iterable[xr.Dataset],
    gamma: Sequence[float],
    gamma_prime: Sequence[float],
    widths: Sequence[int],
    seeds: Sequence[int],
) -> xr.Dataset:
    """All tiles' networks on one grid.

    Args:
        tiles: Rows of each tile.
        gamma: Values of the grid.
        gamma_prime: Values of the grid.
        widths: Values of the grid.
        seeds: Values of the grid.

    Returns:
        The measures over (gamma, gamma_prime, width, seed).

    Raises:
        ArtifactError: If a network of the grid is in no tile; names it.
    """
    results = {key: measures for rows in tiles for key, measures in results_of(rows).items()}
    coordinates = {"gamma": sorted(gamma), "gamma_prime": sorted(gamma_prime), "width": sorted(widths), "seed": seeds}
    for key in product(*coordinates.values()):
        if key not in results:
            raise ArtifactError(
                f"no tile has the network (gamma, gamma', width, seed) = {key}: the tiles were made for another grid. "
                "Rerun them with --forcerun measure_tile; the networks that they have are kept."
            )
    shape = tuple(map(len, coordinates.values()))
    variables = {}
    for name in MEASURES:
        values = np.empty(shape, dtype=WHOLE_NUMBERS.get(name, np.float64))
        for place in np.ndindex(shape):
            key = tuple(axis[index] for axis, index in zip(coordinates.values(), place, strict=True))
            values[place] = results[key][name]
        variables[name] = (AXES, values)
    return describe(xr.Dataset(variables, coords=coordinates), DESCRIPTIONS)
