r"""The cone, measured: how wide the late kernels' cone is, how it opens, in how many dimensions, and how fast.

Everything follows from kernel distances S. Unit kernels u_t = H_t / |H_t|_F have <u_s, u_t> = 1 - S(s, t) and
|u_s - u_t|^2 = 2 S(s, t). Late kernels are those of the steps t >= late_from, their mean m is that of the unit kernels:

    cos(u_t, m) = (1 - s_t) / sqrt(1 - q),  s_t = mean of S(t, .) over late steps,  q = mean of s_t over late steps,

computed from sin^2 = (2 s_t - q - s_t^2) / (1 - q), without the cancellation at small angles. The effective dimension
is the participation ratio (sum l)^2 / sum l^2 of the eigenvalues l of the centred Gram matrix -C S C. A random walk has
a low one by itself, tending to 5/2 for many even steps (Antognini and Sohl-Dickstein 2018, arXiv 1806.08805); so
beside it stands that of a free drift with the same moves, of whose Gram matrix the mean is known: -C P C.

Whether the cone saturates is the question of `twophase.free_drift`.
"""

import itertools

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from twophase.free_drift import (
    confinement,
    distance_exponent,
    drift_ratio,
    free_drift,
    inverse_saturation,
    judge,
    moves_at_all,
)
from twophase.schedule import learning_rate_at
from twophase.storage import describe
from twophase.transition.intervals import mean_interval

DESCRIPTIONS = {
    "seed": ("seed of the run", "1"),
    "step": ("step t of the parent", "step"),
    "step_other": ("another step of the parent", "step"),
    "reference_step": ("reference step tau", "step"),
    "late_from": ("step from which on kernels are late", "step"),
    "confidence": ("level of the intervals, Student's t over seeds", "1"),
    "angular_radius": ("angle between the kernel and the mean late kernel", "degree"),
    "cone_radius": ("root mean square of the late kernels' angles to their mean", "degree"),
    "opening_angle": ("largest angle between the reference kernel and a later one", "degree"),
    "effective_dimension": ("participation ratio of the whole path of unit kernels", "1"),
    "effective_dimension_late": ("participation ratio of the late path of unit kernels", "1"),
    "drift_dimension": ("participation ratio of a free drift with the moves of the whole path", "1"),
    "drift_dimension_late": ("participation ratio of a free drift with the late path's moves", "1"),
    "velocity_per_rate": (
        "S(theta_t, theta_t') over the sum of learning rates from t to t', t' being the next step",
        "1",
    ),
    "alignment_drift": ("label alignment at the last late step minus that at the first", "1"),
    "norm_change": ("kernel norm at the last late step over that at the first", "1"),
    "late_distance": ("kernel distance S of late kernels", "1"),
    "late_drift_distance": ("P, expected of free drift with the late moves: 1 - prod (1 - S_i)", "1"),
    "drift_ratio": ("sum of S over sum of P, late pairs but neighbours; 1 is free drift", "1"),
    "inverse_saturation": ("1/A of S = A (1 - prod (1 - S_i / A)), late pairs; 1 is free drift", "1"),
    "confinement": ("(1/A - 1) times the sum of the late moves S_i; 0 is free drift, positive confined", "1"),
    "distance_exponent": ("d log S / d log P over far late pairs; 1 is free drift, 0 saturated", "1"),
    "drift_verdict": ("motion of the late kernels: confined, free, directed or undecided", "1"),
    "drift_reason": ("what the verdict rests on", "1"),
}
# Of these the mean over seeds and its interval are given too.
AVERAGED = ("cone_radius", "drift_ratio", "inverse_saturation", "confinement", "distance_exponent")
ENDS = {"mean": "mean over seeds of", "lower": "lower end of the interval of", "upper": "upper end of the interval of"}
for _name in AVERAGED:
    _long, _unit = DESCRIPTIONS[_name]
    DESCRIPTIONS |= {f"{_name}_{end}": (f"{words} the {_long}", _unit) for end, words in ENDS.items()}


def opening_of_cone(
    cone: xr.Dataset, *, late_from: int, confidence: float, base_rate: float, schedule: dict
) -> xr.Dataset:
    """Measure the cone of each seed, and average over seeds.

    Args:
        cone: ``kernel_distance(seed, step, step_other)``, ``kernel_norm(seed, step)``, ``label_alignment(seed, step)``
            and the coordinate reference_step, of rule measure_cone. NaN where there is no kernel.
        late_from: Step from which on kernels are late.
        confidence: Level of the intervals over seeds.
        base_rate: Learning rate before warm-up and schedule.
        schedule: As :func:`twophase.schedule.learning_rate_at` takes it.

    Returns:
        Described data set over seed, step, step_other and reference_step. What can't be had is NaN: late measures
        without two late kernels, their verdict's numbers without four, intervals with one seed.
    """
    steps = cone["step"].values
    rates = rate_sums(steps, base_rate, schedule)
    references = cone["reference_step"].values
    seeds = [
        _opening_of_seed(cone.sel(seed=seed), steps >= late_from, references, rates) for seed in cone["seed"].values
    ]
    joined = xr.concat(seeds, dim="seed", join="exact", coords="minimal", compat="equals")
    joined = joined.assign_coords(seed=cone["seed"].values)
    late = np.flatnonzero(steps >= late_from)
    paths = cone["kernel_distance"].transpose("seed", "step", "step_other").values[:, late][:, :, late]
    verdict = judge(list(paths), confidence=confidence)
    for name in AVERAGED:
        values = joined[name].values
        for end, value in zip(ENDS, mean_interval(values[np.isfinite(values)], confidence), strict=True):
            joined[f"{name}_{end}"] = value
    joined = joined.assign(
        late_from=late_from, confidence=confidence, drift_verdict=verdict.verdict, drift_reason=verdict.reason
    )
    return describe(joined, DESCRIPTIONS)


def angles(distances: ArrayLike) -> np.ndarray:
    """Angles between unit kernels at distance S = 1 - cos, in degrees, exact for small ones."""
    return np.degrees(2 * np.arcsin(np.sqrt(np.clip(distances, 0, 2) / 2)))


def angles_to_mean(distances: ArrayLike, late: np.ndarray) -> np.ndarray:
    """Angle between each kernel and the mean of the late ones.

    Args:
        distances: Kernel distances S, ``(s, s)``.
        late: Which kernels are late, bool ``(s,)``.

    Returns:
        Degrees, ``(s,)``; NaN where a kernel isn't finite, everywhere with fewer than two late ones.
    """
    distances = np.asarray(distances, dtype=np.float64)
    if np.count_nonzero(late) < 2:
        return np.full(len(distances), np.nan)
    to_late = distances[:, late].mean(axis=1)  # s_t
    within = to_late[late].mean()  # q
    sine = np.sqrt(np.clip(2 * to_late - within - to_late**2, 0, None))
    return np.degrees(np.arctan2(sine, 1 - to_late))


def effective_dimension(distances: ArrayLike) -> float:
    """Participation ratio (sum l)^2 / sum l^2 of the eigenvalues of the centred Gram matrix of unit kernels.

    Args:
        distances: Kernel distances S, ``(s, s)``.

    Returns:
        From 1 (a line) to s - 1 (all kernels equally far from each other); NaN with fewer than three kernels, or if
        they don't move or one isn't finite.
    """
    distances = np.asarray(distances, dtype=np.float64)
    if len(distances) < 3 or not np.isfinite(distances).all() or not moves_at_all(distances):
        return float("nan")
    centred = distances - distances.mean(axis=0) - distances.mean(axis=1, keepdims=True) + distances.mean()
    return float(np.trace(centred) ** 2 / np.sum(centred**2))


def rate_sums(steps: ArrayLike, base_rate: float, schedule: dict) -> np.ndarray:
    """Sum of the learning rates of the updates from each step to the next of the steps.

    Args:
        steps: Increasing steps, ``(s,)``.
        base_rate: Learning rate before warm-up and schedule.
        schedule: As :func:`twophase.schedule.learning_rate_at` takes it.

    Returns:
        Sums over [t, t'), ``(s,)``; NaN at the last step.
    """
    steps = np.asarray(steps)
    rates = [learning_rate_at(step, base_rate, schedule) for step in range(int(steps[-1]))]
    sums = [sum(rates[start:end]) for start, end in itertools.pairwise(steps)]
    return np.array([*sums, np.nan])


def _opening_of_seed(cone: xr.Dataset, late: np.ndarray, references: np.ndarray, rates: np.ndarray) -> xr.Dataset:
    """The measures of one seed, over step, step_other and reference_step."""
    steps = cone["step"].values
    distances = cone["kernel_distance"].transpose("step", "step_other").values
    among_late = distances[late][:, late]
    radius = angles_to_mean(distances, late)
    later = [distances[steps == tau, steps > tau] for tau in references]
    both_late = np.ix_(late, late)
    late_distance, late_drift = np.full((2, *distances.shape), np.nan)
    late_distance[both_late] = among_late
    late_drift[both_late] = free_drift(among_late)
    moves = np.append(np.diagonal(distances, 1), np.nan)
    return xr.Dataset(
        {
            "angular_radius": ("step", radius),
            "cone_radius": np.sqrt(np.mean(radius[late] ** 2)) if late.any() else np.nan,
            "opening_angle": ("reference_step", [angles(row.max()) if row.size else np.nan for row in later]),
            "effective_dimension": effective_dimension(distances),
            "effective_dimension_late": effective_dimension(among_late),
            "drift_dimension": effective_dimension(free_drift(distances)),
            "drift_dimension_late": effective_dimension(free_drift(among_late)),
            "velocity_per_rate": ("step", np.divide(moves, rates, out=np.full(len(steps), np.nan), where=rates > 0)),
            "alignment_drift": _from_first_to_last(cone["label_alignment"].values[late], np.subtract),
            "norm_change": _from_first_to_last(cone["kernel_norm"].values[late], np.divide),
            "late_distance": (("step", "step_other"), late_distance),
            "late_drift_distance": (("step", "step_other"), late_drift),
            "drift_ratio": drift_ratio(among_late),
            "inverse_saturation": inverse_saturation(among_late),
            "confinement": confinement(among_late),
            "distance_exponent": distance_exponent(among_late),
        },
        coords={"step": steps, "step_other": steps, "reference_step": references},
    )


def _from_first_to_last(values: np.ndarray, change: np.ufunc) -> float:
    return float(change(values[-1], values[0])) if len(values) > 1 else float("nan")
