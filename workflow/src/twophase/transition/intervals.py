"""Student's t over independent runs: the interval of a mean, and the test statistic of a mean against 0."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

ROUNDING = 1e-12  # differences below this share of the numbers they come from are rounding


def mean_interval(values: ArrayLike, confidence: float) -> tuple[float, float, float]:
    """Mean of independent values with its two-sided t interval, mean -+ t_{(1 + confidence) / 2, n - 1} s / sqrt(n).

    Args:
        values: One value a run, ``(n,)``, finite.
        confidence: Level of the interval, between 0 and 1.

    Returns:
        Mean, lower and upper end, in the unit of the values; NaN for what can't be had: the mean without a value, the
        ends without a second.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return (float(values[0]) if len(values) else math.nan), math.nan, math.nan
    mean = float(values.mean())
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return mean, mean - float(half), mean + float(half)


def t_statistic(values: ArrayLike, scale: float = 1.0) -> float:
    """Mean of independent values over its standard error.

    Args:
        values: One value a run, ``(n,)`` with n at least 2.
        scale: Size of the numbers whose difference the values are; a mean below ``ROUNDING`` of it counts as 0.

    Returns:
        t with n - 1 degrees of freedom; 0 if the mean is rounding, infinite if all values are the same.
    """
    values = np.asarray(values, dtype=np.float64)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    if abs(mean) <= ROUNDING * scale:
        return 0.0
    return mean / error if error > 0 else math.copysign(math.inf, mean)


def t_quantile(probability: float, runs: int) -> float:
    """Quantile of Student's t with ``runs`` - 1 degrees of freedom."""
    return float(stats.t.ppf(probability, runs - 1))


def check_confidence(confidence: float) -> None:
    """Refuse a level that isn't between 0 and 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
