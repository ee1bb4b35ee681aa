"""Claims about the cone effect (Zhou 2025a, Figs. 4 and 5; Zhou 2025b): fast kernels first, then a narrow cone."""

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr

from twophase.claims.claim import (
    FAILS,
    HOLDS,
    UNDECIDED,
    Claim,
    Finding,
    Mean,
    decide_above,
    make_claim,
    mean_over_seeds,
    not_measured,
    number_text,
)
from twophase.claims.transitions import pair_claims, transition_claims

TURNED = 0.05  # a third of the smallest S from step 0 in Zhou 2025a, Fig. 5a, about 0.15
DRIFT = {"confined": HOLDS, "free": FAILS, "directed": FAILS}


def cone_claims(study: str, data: Mapping[str, xr.Dataset], confidence: float, late_from: int) -> list[Claim]:
    """All claims about the cone effect.

    Args:
        study: Name of the study.
        data: ``cone`` and, if the study has them, ``cone_opening``, ``transition`` and ``chaos``: the contents of
            these netCDF files.
        confidence: Level of the intervals over seeds.
        late_from: Step from which on kernels count as late.
    """
    cone, transition = data["cone"], data.get("transition")
    findings = [
        (
            "Fast kernel at first",
            "Zhou 2025a, Fig. 5b; Zhou 2025b",
            "The kernel turns more over the first interval than over a late one of the same length.",
            "interval_distance",
            interval_ratio(cone, confidence, late_from),
        ),
        (
            "Narrow cone",
            "Zhou 2025a, Fig. 5; Zhou 2025b",
            "Late kernels keep moving, but stay within a narrow cone.",
            "cone_opening",
            confinement(cone, data.get("cone_opening"), confidence),
        ),
        (
            "The kernel turns",
            "Zhou 2025a, Fig. 5a",
            "Training turns the kernel: S from the first step to the last is 0.15 to 0.2.",
            "reference_distance",
            turn(cone, confidence),
        ),
    ]
    claims = [make_claim(study, *finding) for finding in findings]
    pairs = pair_claims(study, transition) if "chaos" in data else []
    return [*claims, *transition_claims(study, transition, of_kernel=True), *pairs]


def interval_ratio(cone: xr.Dataset, confidence: float, late_from: int) -> Finding:
    """Holds if S over the first interval dt over the mean of late ones of the same dt is above 1; fails if it isn't.

    By the interval of the logarithm over seeds, for the shortest dt of the study that has a distance from the first
    kernel step and one that starts late. Velocities over intervals of different lengths are not compared: a distance
    saturates, so that the shorter interval, mostly the first, would seem faster.

    Args:
        cone: Content of ``cone.nc``.
        confidence: Level of the interval.
        late_from: Step from which on a step is late.
    """
    early = int(cone["step"].min()) < late_from
    for interval in np.sort(cone["interval"].values) if early else []:
        distances = cone["interval_distance"].sel(interval=interval).sortby("step")
        late = distances.where(distances["step"] >= late_from, drop=True)
        if np.isfinite(distances.isel(step=0)).any() and np.isfinite(late).any():
            mean, verdict, reason = _ratio(distances.isel(step=0), late.mean("step"), confidence)
            return mean.finding(verdict, reason, more=f" times as far in {interval} steps as from step {late_from} on")
    return not_measured(f"no interval starts both at the first step and from step {late_from} on")


def turn(cone: xr.Dataset, confidence: float) -> Finding:
    """Holds if the kernel distance from the first kernel step to the last lies above ``TURNED``; fails if it doesn't.

    Args:
        cone: Content of ``cone.nc``.
        confidence: Level of the interval.
    """
    ends = cone["kernel_distance"].sortby("step").sortby("step_other").isel(step=0, step_other=-1)
    mean = mean_over_seeds(ends, confidence)
    verdict, reason = decide_above(mean, TURNED, number_text(TURNED))
    return mean.finding(verdict, reason, more=f", from step {int(cone['step'].min())} to {int(cone['step'].max())}")


def _ratio(early: xr.DataArray, late: xr.DataArray, confidence: float) -> tuple[Mean, str, str]:
    """Geometric mean over seeds of early over late, with verdict and reason of "above 1"."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log(early.values) - np.log(late.values)
    mean = mean_over_seeds(logarithms, confidence)
    return mean.mapped(math.exp), *decide_above(mean, 0.0, "1")


def confinement(cone: xr.Dataset, opening: xr.Dataset | None, confidence: float) -> Finding:
    """Holds if the late kernels' drift is "confined"; fails if "free" or "directed" (as a random walk, or onwards).

    Args:
        cone: Content of ``cone.nc``, for the angle between the first and the last kernel.
        opening: Content of ``cone_opening.nc``; None without the file.
        confidence: Level of the interval.
    """
    if opening is None or "cone_radius_mean" not in opening:
        return not_measured("the study has no cone_opening.nc")
    ends = cone["kernel_distance"].sortby("step").sortby("step_other").isel(step=0, step_other=-1)
    whole = mean_over_seeds(np.degrees(2 * np.arcsin(np.sqrt(np.clip(ends, 0, 2) / 2))), confidence)
    radius, lower, upper = (float(opening[f"cone_radius_{end}"].item()) for end in ("mean", "lower", "upper"))
    seeds = int(np.isfinite(opening["cone_radius"]).sum())
    found = str(opening["drift_verdict"].item())
    more = f"; first and last kernel are {number_text(whole.value)}° apart; drift {found}"
    mean = Mean(radius, lower, upper, seeds, confidence)
    return mean.finding(DRIFT.get(found, UNDECIDED), str(opening["drift_reason"].item()), unit="degrees", more=more)
