"""Companions of the claims, which no paper of ours states: gradient noise, and the edge of stability."""

from collections.abc import Mapping

import xarray as xr

from twophase.claims.claim import (
    OURS,
    Claim,
    Finding,
    decide_above,
    decide_below,
    make_claim,
    mean_over_seeds,
    not_measured,
)


def pointwise_claims(study: str, data: Mapping[str, xr.Dataset], confidence: float, late_from: int) -> list[Claim]:
    """All claims about single points of the run.

    Args:
        study: Name of the study.
        data: ``pointwise``: the content of the netCDF file, over (seed, step).
        confidence: Level of the intervals over seeds.
        late_from: Step from which on a step is late.
    """
    pointwise = data["pointwise"].sortby("step")
    rows = [
        (
            "Noise outweighs the gradient",
            "Late in training the gradient's signal-to-noise ratio is below 1.",
            late_signal_to_noise(pointwise, confidence, late_from),
        ),
        (
            "Edge of stability reached",
            "At some step the sharpness reaches the largest stable one.",
            largest_sharpness(pointwise, confidence),
        ),
    ]
    return [make_claim(study, name, OURS, statement, "pointwise", finding) for name, statement, finding in rows]


def late_signal_to_noise(pointwise: xr.Dataset, confidence: float, late_from: int) -> Finding:
    """Holds if the late signal-to-noise ratio of a batch's gradient is below 1; fails from 1 on.

    Of each seed the mean over the steps from ``late_from`` on; an estimate, negative where chance has it.

    Args:
        pointwise: Over (seed, step).
        confidence: Level of the interval.
        late_from: Step from which on a step is late.
    """
    if "gradient_signal_to_noise" not in pointwise:
        return not_measured("pointwise.nc has no gradient_signal_to_noise")
    ratio = pointwise["gradient_signal_to_noise"]
    late = ratio.where(ratio["step"] >= late_from, drop=True)
    mean = mean_over_seeds(late.mean("step") if late.sizes["step"] else [], confidence)
    verdict, reason = decide_below(mean, 1.0, "1")
    return mean.finding(verdict, reason, more=f" from step {late_from} on")


def largest_sharpness(pointwise: xr.Dataset, confidence: float) -> Finding:
    """Holds if the largest sharpness over its stability threshold, of each seed, is above 1; fails if it isn't.

    Args:
        pointwise: Over (seed, step), the threshold over step.
        confidence: Level of the interval.
    """
    missing = [name for name in ("sharpness", "stability_threshold") if name not in pointwise]
    if missing:
        return not_measured(f"pointwise.nc has no {' and no '.join(missing)}")
    ratio = (pointwise["sharpness"] / pointwise["stability_threshold"]).max("step")
    mean = mean_over_seeds(ratio, confidence)
    verdict, reason = decide_above(mean, 1.0, "1")
    return mean.finding(verdict, reason, more=" times the threshold, at its largest")
