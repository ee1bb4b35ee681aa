"""Means over seeds and draws, their spread, and the words that say so below a figure."""

import numpy as np
import xarray as xr


def seed_mean(values: xr.DataArray) -> xr.DataArray:
    """Mean over seeds of the mean over draws; NaN where one of them is NaN, so that n is the same everywhere."""
    return average_draws(values).mean("seed", skipna=False)


def seed_spread(values: xr.DataArray) -> xr.DataArray | None:
    """Standard deviation over seeds (n - 1) of the mean over draws; None for one seed."""
    if values.sizes["seed"] < 2:
        return None
    with np.errstate(invalid="ignore"):  # a run that is not finite leaves no number
        return average_draws(values).std("seed", ddof=1, skipna=False)


def average_draws(values: xr.DataArray) -> xr.DataArray:
    """Mean over draws, if there are any."""
    return values.mean("draw", skipna=False) if "draw" in values.dims else values


def runs(values: xr.DataArray) -> tuple[str, ...]:
    """The dimensions along which runs repeat each other: seeds, and draws if there are any."""
    return tuple(name for name in ("seed", "draw") if name in values.dims)


def geometric_mean(values: xr.DataArray) -> xr.DataArray:
    """Geometric mean over seeds and draws; 0 where one of them is 0."""
    with np.errstate(divide="ignore"):
        return np.exp(np.log(values).mean(runs(values), skipna=False))


def extremes(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray] | None:
    """Smallest and largest value over seeds and draws; None for a single run."""
    if np.prod([values.sizes[name] for name in runs(values)]) < 2:
        return None
    return values.min(runs(values), skipna=False), values.max(runs(values), skipna=False)


def largest_difference(*arrays: xr.DataArray) -> float:
    """Largest absolute value that is a number, 0 if there is none."""
    return max((float(np.nanmax(abs(a.values))) for a in arrays if np.isfinite(a.values).any()), default=0.0)


def sample_note(dataset: xr.Dataset) -> str:
    """The words for n: ``n = 3 seeds, 2 draws each``."""
    seeds = dataset.sizes["seed"]
    note = f"n = {seeds} seed{'s' if seeds > 1 else ''}"
    if "draw" in dataset.sizes:
        draws = dataset.sizes["draw"]
        note += f", {draws} draw{'s' if draws > 1 else ''}" + (" each" if seeds > 1 else "")
    return note


def deviation_note(dataset: xr.Dataset, shown_as: str) -> str:
    """The words for a standard deviation over seeds, and for its absence with one seed."""
    if dataset.sizes["seed"] < 2:
        return "one seed: no spread over seeds is shown"
    return f"{shown_as}: standard deviation over seeds" + (" (draws averaged first)" if "draw" in dataset.sizes else "")


def extremes_note(dataset: xr.Dataset, shown_as: str) -> str:
    """The words for smallest and largest over the runs, and for their absence with one run."""
    repeated = [name + "s" for name in ("seed", "draw") if dataset.sizes.get(name, 1) > 1]
    if not repeated:
        return "one run: no spread is shown"
    return f"{shown_as}: smallest to largest over {' and '.join(repeated)}"
