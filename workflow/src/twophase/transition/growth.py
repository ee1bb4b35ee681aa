r"""Growth of a perturbation: finite-time Lyapunov exponent, saturation, and whether that is chaos.

With d(t) = |theta_t - theta'_t|_2 at t steps after the perturbation, the exponent of one run is the least-squares slope
of log d against t over the **linear range**: from step ``first`` until the mean over runs of log d comes within
``SATURATION_SHARE`` of the saturation level (d at 10 % of it), or falls to the rounding mark, or the steps end. For
logistic growth, d' = lambda d (1 - d / K), that end makes the exponent too small by log(1 - 0.1) / log(0.1 K / d_0),
2 % at K / d_0 = 1000. The mean exponent has Student's t interval over runs; runs must be independent, so that several
draws of one seed, which share their parent, are averaged first (``groups``).

**Saturation** is reached if log d rises over the last quarter of the steps at less than ``FLAT_SHARE`` of its mean rate
since ``first``; the level is the geometric mean over runs and those steps.

**Shape.** A chaotic distance grows at a constant rate; linear or algebraic growth, d = d_0 (1 + a t)^p, slows down:
once it has grown ``LEAST_FACTOR``-fold, its rate over the second half of the range is at most 71 % of that over the
first for p = 2, 51 % for p = 1, 30 % for p = 1/2. So growth is "exponential" if late rate - ``RATE_SHARE`` x early
rate, one number a run, has an interval above 0, "slower" if below, and nothing is said of less growth. Unlike
residuals of log d over t and over log t, this has a test over runs (residuals along a run are correlated), and log t
needs no origin. p above 2 passes for exponential until it has grown further: by 10 for p = 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from twophase.transition.intervals import ROUNDING, check_confidence, mean_interval

SATURATION_SHARE = 0.1
FLAT_SHARE = 0.1
RATE_SHARE = 0.75
LEAST_FACTOR = 4.0
ROUNDING_MULTIPLE = 10  # of the number type's epsilon, below which a relative size is near rounding
FEWEST_STEPS = 5  # in the linear range
FEWEST_FOR_SATURATION = 8  # in all, two of them in the last quarter

Shape = Literal["exponential", "slower", "undecided"]


@dataclass(frozen=True, eq=False)
class Growth:
    """How one size of perturbation grows from one t0 on.

    Attributes:
        exponent: Mean finite-time Lyapunov exponent, 1/step; NaN with ``reason``.
        lower: Lower end of its interval, NaN with fewer than 2 runs.
        upper: Upper end.
        rate_exponent: The same per unit of (learning rate x step); NaN where a learning rate in the range is 0.
        rate_lower: Lower end of its interval.
        rate_upper: Upper end.
        confidence: Level of the intervals.
        exponents: Exponent of each run, or mean of each group, ``(groups,)``, NaN for those left out, 1/step.
        runs: Number of runs (or groups) used.
        reason: Why the exponent or its interval is NaN; empty if neither is.
        first_step: First step of the linear range.
        last_step: Last step of it.
        growth_factor: Geometric mean over runs of d(last_step) / d(first_step).
        shape: "exponential", "slower" or "undecided".
        rate_ratio: Mean rate over the range's second half by that over its first.
        saturation: Saturation level, in the unit of the distances; NaN with ``saturation_reason``.
        saturation_lower: Lower end of its interval over runs.
        saturation_upper: Upper end.
        saturation_reason: Why there is no level; empty if there is.
        relative_size: Mean of d(0) / parameter norm.
        near_rounding: Whether that is below ``ROUNDING_MULTIPLE`` epsilons of the number type.
    """

    exponent: float
    lower: float
    upper: float
    rate_exponent: float
    rate_lower: float
    rate_upper: float
    confidence: float
    exponents: np.ndarray
    runs: int
    reason: str
    first_step: int
    last_step: int
    growth_factor: float
    shape: Shape
    rate_ratio: float
    saturation: float
    saturation_lower: float
    saturation_upper: float
    saturation_reason: str
    relative_size: float
    near_rounding: bool


@dataclass(frozen=True)
class Verdict:
    """What the growth over several sizes says.

    Attributes:
        verdict: "chaotic": grows exponentially, at a rate above 0 that doesn't depend on the size; "sensitive": grows,
            but slower than exponentially or at a rate that depends on the size; "contracting"; or "undecided".
        reason: What it rests on.
        exponent: Mean of the exponents over the sizes used, 1/step.
        per_decade: Change of the exponent with a size 10 times larger, mean over runs, 1/step.
        per_decade_lower: Lower end of its interval.
        per_decade_upper: Upper end.
        sizes: Sizes used.
    """

    verdict: Literal["chaotic", "sensitive", "contracting", "undecided"]
    reason: str
    exponent: float
    per_decade: float
    per_decade_lower: float
    per_decade_upper: float
    sizes: tuple[float, ...]


def measure_growth(
    distances: ArrayLike,
    learning_rates: ArrayLike,
    *,
    parameter_norm: ArrayLike,
    dtype: DTypeLike,
    first: int = 0,
    confidence: float = 0.9,
    groups: Sequence | None = None,
) -> Growth:
    """Fit the growth of one perturbation; the module's docstring states the rules.

    Args:
        distances: d(t) of each run, ``(runs, n + 1)``. Runs with a distance that is 0 or not finite are left out.
        learning_rates: Learning rate of the step from t to t + 1, ``(n,)``.
        parameter_norm: |theta_t0|_2, one number or one a run.
        dtype: Floating-point type in which the parameters were trained.
        first: First step of the linear range, so that a transient can be left out.
        confidence: Level of the intervals.
        groups: Seed of each run, whose draws are averaged; by default each run stands for itself.

    Returns:
        The growth. Groups appear in the order in which they first occur.

    Raises:
        ValueError: If shapes disagree, ``first`` isn't a step, or a number makes no sense.
    """
    d, rates, labels = _checked(distances, learning_rates, groups, first)
    check_confidence(confidence)
    norms = np.broadcast_to(np.asarray(parameter_norm, dtype=np.float64), (len(d),))
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise ValueError(f"parameter_norm must be finite and above 0, got {parameter_norm}.")
    usable = (np.isfinite(d) & (d > 0)).all(axis=1)
    mark = ROUNDING_MULTIPLE * float(np.finfo(dtype).eps)
    relative_size = float(np.mean(d[usable, 0] / norms[usable])) if usable.any() else math.nan
    members = [np.array([label == other for other in labels]) & usable for label in dict.fromkeys(labels)]
    present = np.array([group.any() for group in members])
    logs = np.array([np.log(d[group]).mean(axis=0) for group in members if group.any()]).reshape(-1, d.shape[1])
    level, level_reason = _saturation(logs, first, confidence)
    last, reason = _last_step(logs, first, level[0], math.log(mark * norms.mean()))
    summary = _fit(logs, rates, first, last, confidence, reason)
    exponents = np.full(len(members), math.nan)
    exponents[present] = summary.pop("slopes")
    return Growth(
        confidence=confidence,
        exponents=exponents,
        runs=len(logs),
        first_step=first,
        last_step=last,
        saturation=level[0],
        saturation_lower=level[1],
        saturation_upper=level[2],
        saturation_reason=level_reason,
        relative_size=relative_size,
        near_rounding=relative_size < mark,
        **summary,
    )


def judge_sizes(
    sizes: Sequence[float],
    growths: Sequence[Growth],
    *,
    confidence: float = 0.9,
    fewest_decades: float = 2.0,
    dependence: float = 0.1,
) -> Verdict:
    """Is training chaotic in the strict sense: an exponent above 0, the same over decades of the perturbation's size?

    Sizes near rounding or without an interval are left out. The dependence on size is the slope of the exponent
    against log10 size, fitted run by run, since the runs of all sizes share their parents. It counts as none if its
    whole interval lies within ``dependence`` of the mean exponent: that the interval holds 0 wouldn't do, as too few
    runs make it do so.

    Args:
        sizes: Relative norms of the perturbations, above 0.
        growths: Growth of each size, of the same runs or groups in the same order.
        confidence: Level of the slope's interval.
        fewest_decades: Decades that the sizes must span for "chaotic".
        dependence: Largest change of the exponent a decade that counts as none, as a share of the mean exponent.

    Returns:
        The verdict.

    Raises:
        ValueError: If numbers of sizes, growths or runs disagree, or a size isn't above 0 or occurs twice.
    """
    check_confidence(confidence)
    if len(sizes) != len(growths) or len({growth.exponents.shape for growth in growths}) > 1:
        raise ValueError("judge_sizes needs one growth a size, all of the same number of runs.")
    if not all(0 < size < math.inf for size in sizes) or len(set(sizes)) < len(sizes):
        raise ValueError(f"Sizes must be finite, above 0 and different, got {list(sizes)}.")
    pairs = sorted(zip(map(float, sizes), growths, strict=True), key=lambda pair: pair[0])
    used = [(size, growth) for size, growth in pairs if not growth.near_rounding and math.isfinite(growth.lower)]
    kept = tuple(size for size, _ in used)
    slope = _per_decade(used, confidence)
    exponent = float(np.mean([growth.exponent for _, growth in used])) if used else math.nan
    verdict, reason = _judge([growth for _, growth in used], kept, slope, exponent, fewest_decades, dependence)
    if left := len(pairs) - len(used):
        reason += f" ({left} of {len(pairs)} sizes left out: near rounding or without an interval)"
    return Verdict(verdict, reason, exponent, *slope, kept)


def _judge(
    growths: list[Growth],
    sizes: tuple[float, ...],
    slope: tuple[float, float, float],
    exponent: float,
    fewest_decades: float,
    dependence: float,
) -> tuple[str, str]:
    """Verdict and reason from the sizes used."""
    if not growths:
        return "undecided", "no size has an exponent with an interval"
    if all(growth.upper < 0 for growth in growths):
        return "contracting", "the exponent is below 0 at every size"
    if not all(growth.lower > 0 for growth in growths):
        return "undecided", "the exponent isn't above 0 with its interval at every size"
    if any(growth.shape == "slower" for growth in growths):
        return "sensitive", "the distance grows slower than exponentially"
    if any(growth.shape == "undecided" for growth in growths):
        return "undecided", "whether the growth is exponential can't be said at every size"
    bound = dependence * exponent
    _, lower, upper = slope
    if math.isfinite(lower) and max(abs(lower), abs(upper)) > bound and (lower > 0 or upper < 0):
        return "sensitive", f"the exponent changes with the size, by {slope[0]:.3g} a decade"
    if len(sizes) < 2 or math.log10(sizes[-1] / sizes[0]) < fewest_decades * (1 - ROUNDING):
        return "undecided", f"the sizes span less than {fewest_decades:g} decades"
    if not max(abs(lower), abs(upper)) <= bound:
        return "undecided", "the interval of the exponent's change with the size is too wide to rule a change out"
    return "chaotic", "exponential growth, and the exponent is above 0 and the same at every size"


def _per_decade(used: list[tuple[float, Growth]], confidence: float) -> tuple[float, float, float]:
    """Slope of the exponent against log10 size, run by run, with its interval; NaN for fewer than 2 sizes."""
    if len(used) < 2:
        return (math.nan,) * 3
    exponents = np.stack([growth.exponents for _, growth in used])
    exponents = exponents[:, np.isfinite(exponents).all(axis=0)]
    return mean_interval(_slopes(np.log10([size for size, _ in used]), exponents.T), confidence)


def _saturation(logs: np.ndarray, first: int, confidence: float) -> tuple[tuple[float, float, float], str]:
    """Saturation level with its interval, or NaN and the reason; ``logs`` is log d, ``(runs, n + 1)``."""
    nan = (math.nan,) * 3
    steps = logs.shape[1] - 1 - first
    if not len(logs) or steps < FEWEST_FOR_SATURATION:
        return nan, f"fewer than {FEWEST_FOR_SATURATION} steps" if len(logs) else "no run with distances above 0"
    mean = logs.mean(axis=0)
    tail = slice(logs.shape[1] - max(3, (steps + 1) // 4), None)
    rise, least, _ = mean_interval(logs[:, tail].mean(axis=1) - logs[:, first], confidence)
    if rise <= 0:
        return nan, "not reached: the distance doesn't grow"
    late = _slopes(np.arange(logs.shape[1])[tail], mean[None, tail])[0]
    if late > FLAT_SHARE * (mean[-1] - mean[first]) / steps:
        return nan, "not reached"
    if least <= 0:
        return nan, "not reached: no growth beyond the spread between runs"
    return tuple(math.exp(end) for end in mean_interval(logs[:, tail].mean(axis=1), confidence)), ""


def _last_step(logs: np.ndarray, first: int, level: float, rounding: float) -> tuple[int, str]:
    """Last step of the linear range, and why there is no such range; ``rounding`` is the log of its mark."""
    if not len(logs):
        return first, "no run with distances that are finite and above 0"
    mean = logs.mean(axis=0)
    last = len(mean) - 1
    if math.isfinite(level):
        within = np.flatnonzero(mean[first:] >= math.log(level * SATURATION_SHARE))
        if not len(within):
            within = np.array([last - first + 1])
        last = max(first, first + int(within[0]) - 1)
        if last - first < FEWEST_STEPS:
            return last, f"saturates at once: within {SATURATION_SHARE:.0%} of its level after {last - first} steps"
    elif mean[first] > rounding:
        below = np.flatnonzero(mean[first:] <= rounding)
        last = first + int(below[0]) - 1 if len(below) else last
    if last - first < FEWEST_STEPS:
        return last, f"fewer than {FEWEST_STEPS} steps in the linear range"
    return last, ""


def _fit(logs: np.ndarray, rates: np.ndarray, first: int, last: int, confidence: float, reason: str) -> dict:
    """Exponents over the range, by step and by learning rate times step, and the shape; the attributes of Growth."""
    part = slice(first, last + 1)
    steps, times = np.arange(logs.shape[1])[part], np.concatenate([[0.0], np.cumsum(rates)])[part]
    runs, nan = len(logs), math.nan
    slopes = _slopes(steps, logs[:, part]) if not reason else np.full(runs, nan)
    by_rate = _slopes(times, logs[:, part]) if not reason and (np.diff(times) > 0).all() else np.full(runs, nan)
    exponent, lower, upper = mean_interval(slopes, confidence)
    rate_exponent, rate_lower, rate_upper = mean_interval(by_rate, confidence)
    rise = float((logs[:, last] - logs[:, first]).mean()) if runs else nan
    shape, ratio = ("undecided", nan) if reason else _shape(steps, logs[:, part], rise, confidence)
    return {
        "exponent": exponent,
        "lower": lower,
        "upper": upper,
        "rate_exponent": rate_exponent,
        "rate_lower": rate_lower,
        "rate_upper": rate_upper,
        "slopes": slopes,
        "reason": reason or ("one run: no interval" if runs == 1 else ""),
        "growth_factor": math.exp(rise),
        "shape": shape,
        "rate_ratio": ratio,
    }


def _shape(steps: np.ndarray, logs: np.ndarray, rise: float, confidence: float) -> tuple[Shape, float]:
    """Whether the rate keeps up over the range, and late rate by early rate; ``logs`` is ``(runs, m)``."""
    middle = len(steps) // 2
    early = _slopes(steps[: middle + 1], logs[:, : middle + 1])
    late = _slopes(steps[middle:], logs[:, middle:])
    ratio = float(late.mean() / early.mean()) if early.mean() > 0 else math.nan
    if rise < math.log(LEAST_FACTOR):
        return "undecided", ratio
    _, lower, upper = mean_interval(late - RATE_SHARE * early, confidence)
    if lower > 0:
        return "exponential", ratio
    return ("slower" if upper < 0 else "undecided"), ratio


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slopes of each row of ``(m, n)`` against ``(n,)``; ``(m,)``."""
    centred = x - np.mean(x)
    return y @ centred / (centred @ centred)


def _checked(
    distances: ArrayLike, learning_rates: ArrayLike, groups: Sequence | None, first: int
) -> tuple[np.ndarray, np.ndarray, list]:
    """Distances ``(runs, n + 1)``, learning rates ``(n,)`` and a group for each run, or a ValueError."""
    d, rates = np.asarray(distances, dtype=np.float64), np.asarray(learning_rates, dtype=np.float64)
    if d.ndim != 2 or not len(d) or d.shape[1] < 2 or rates.shape != (d.shape[1] - 1,):
        raise ValueError(
            f"Distances of shape (runs, n + 1) need n learning rates, both at least 1; got {d.shape} and {rates.shape}."
        )
    if (d < 0).any():
        raise ValueError("Distances must not be negative.")
    if not (np.isfinite(rates) & (rates >= 0)).all():
        raise ValueError("Learning rates must be finite and not negative.")
    if not 0 <= first < d.shape[1] - 1:
        raise ValueError(f"first must be a step from 0 to {d.shape[1] - 2}, got {first}.")
    labels = list(range(len(d))) if groups is None else list(groups)
    if len(labels) != len(d):
        raise ValueError(f"{len(d)} runs need as many groups, got {len(labels)}.")
    return d, rates, labels
