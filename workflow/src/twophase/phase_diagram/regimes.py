"""The measured regime of each point: S_w, the slope of log RD against log m, with its uncertainty and a test."""

import numpy as np
import xarray as xr
from scipy import stats

from twophase.phase_diagram.relative_distance import ARRIVED, AXIS_DESCRIPTIONS
from twophase.phase_diagram.theory import (
    CONDENSED,
    CRITICAL,
    LINEAR,
    UNDECIDED,
    boundary_distance,
    theoretical_regime,
)
from twophase.storage import describe

FITTED = ("slope", "intercept", "slope_standard_error", "slope_low", "slope_high", "networks")
DESCRIPTIONS = AXIS_DESCRIPTIONS | {
    "slope": ("S_w, slope of log RD of the input weights against log m, least squares over widths and seeds", "1"),
    "intercept": ("log RD at m = 1 on that line", "1"),
    "slope_standard_error": ("standard error of S_w over widths and seeds", "1"),
    "slope_low": ("lower end of the confidence interval of S_w", "1"),
    "slope_high": ("upper end of the confidence interval of S_w", "1"),
    "networks": ("networks in the fit: those whose weights arrived and moved", "1"),
    "output_slope": ("slope of log RD of the output weights against log m", "1"),
    "kernel_slope": ("slope of log kernel distance against log m", "1"),
    "regime": ("measured regime: 0 linear, 1 critical, 2 condensed, 3 undecided", "1"),
    "theoretical_regime": ("regime by theory: 0 linear, 1 critical, 2 condensed", "1"),
    "boundary_distance": ("distance to theory's boundary, positive in the condensed regime", "1"),
    "confidence": ("level of the confidence intervals", "1"),
    "critical_slope": ("largest |S_w| that counts as critical", "1"),
}


def fit_regimes(distances: xr.Dataset, *, confidence: float, critical_slope: float) -> xr.Dataset:
    """Fit S_w at each point, and say by a test which regime it shows.

    The test compares the confidence interval of S_w with the band of half-width ``critical_slope`` about 0: linear if
    the interval lies below the band, condensed if above, critical if within, and undecided otherwise, or without an
    interval.

    Args:
        distances: Measures over (gamma, gamma_prime, width, seed).
        confidence: Level of the intervals, two-sided, by Student's t over widths and seeds.
        critical_slope: Half-width of the band.

    Returns:
        Over (gamma, gamma_prime): the fit, the measured regime, theory's, and the distance to theory's boundary.
    """
    arrived = distances.status.isin(ARRIVED)
    fits = _fit_each(distances.input_distance.where(arrived), confidence)
    variables = {name: (("gamma", "gamma_prime"), fits[..., place]) for place, name in enumerate(FITTED)}
    variables["networks"] = (("gamma", "gamma_prime"), fits[..., FITTED.index("networks")].astype(np.int64))
    for name, measure in (("output_slope", "output_distance"), ("kernel_slope", "kernel_distance")):
        values = _fit_each(distances[measure].where(arrived), confidence)
        variables[name] = (("gamma", "gamma_prime"), values[..., 0])
    gamma, gamma_prime = (distances[axis].values for axis in ("gamma", "gamma_prime"))
    regime = classify(variables["slope_low"][1], variables["slope_high"][1], critical_slope)
    variables["regime"] = (("gamma", "gamma_prime"), regime)
    variables["theoretical_regime"] = (("gamma", "gamma_prime"), theoretical_regime(gamma[:, None], gamma_prime))
    variables["boundary_distance"] = (("gamma", "gamma_prime"), boundary_distance(gamma[:, None], gamma_prime))
    variables |= {"confidence": confidence, "critical_slope": critical_slope}
    return describe(xr.Dataset(variables, coords={"gamma": gamma, "gamma_prime": gamma_prime}), DESCRIPTIONS)


def classify(low: np.ndarray, high: np.ndarray, critical_slope: float) -> np.ndarray:
    """Regime of confidence intervals, int8 of their shape; NaN is undecided."""
    choices = [high < -critical_slope, low > critical_slope, (low >= -critical_slope) & (high <= critical_slope)]
    return np.select(choices, [LINEAR, CONDENSED, CRITICAL], UNDECIDED).astype(np.int8)


def _fit_each(values: xr.DataArray, confidence: float) -> np.ndarray:
    """Fits of log value against log width at each point, ``(gamma, gamma', 6)`` in the order of ``FITTED``."""
    values = values.transpose("gamma", "gamma_prime", "width", "seed")
    log_width = np.broadcast_to(np.log(values.width.values.astype(float))[:, None], values.shape[2:]).ravel()
    fits = np.empty((*values.shape[:2], len(FITTED)))
    for place in np.ndindex(values.shape[:2]):
        fits[place] = fit_line(log_width, values.values[place].ravel(), confidence)
    return fits


def fit_line(log_width: np.ndarray, values: np.ndarray, confidence: float) -> tuple[float, ...]:
    """Least squares of log value against log width.

    Args:
        log_width: ``(n,)``.
        values: ``(n,)``; what is not finite or not positive is left out.
        confidence: Level of the interval.

    Returns:
        Slope, intercept, standard error of the slope, both ends of its interval, and the number of values fitted; NaN
        for what can't be had, a slope without two widths, an error without a third value.
    """
    usable = np.isfinite(values) & (values > 0)
    x, y = log_width[usable], np.log(values[usable])
    if len(np.unique(x)) < 2:
        return (np.nan,) * 5 + (len(x),)
    line = stats.linregress(x, y)
    if len(x) < 3:
        return line.slope, line.intercept, np.nan, np.nan, np.nan, len(x)
    half = stats.t.ppf((1 + confidence) / 2, len(x) - 2) * line.stderr
    return line.slope, line.intercept, line.stderr, line.slope - half, line.slope + half, len(x)
