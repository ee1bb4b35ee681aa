"""Claims about linearised switching (Zhou 2025a, Fig. 6): how long training must be non-linear.

A linearised run that diverged has an accuracy, but one that says nothing: it is left out, and counted.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from scipy import stats

from twophase.claims.claim import (
    OURS,
    Claim,
    Finding,
    Mean,
    decide_above,
    decide_near,
    make_claim,
    mean_over_seeds,
    not_measured,
    number_text,
)

PAPER = "Zhou 2025a, Fig. 6"
FEWEST_FITTED = 3  # switch steps without which a line says no more than their difference
NOT_WORSE = 0.01  # accuracy by which "at least as good" may miss
READ_OFF = 0.05  # accuracy to which a published one, read off a figure of one run, is compared


def switching_claims(
    study: str, data: Mapping[str, xr.Dataset], confidence: float, published: Mapping[int, float]
) -> list[Claim]:
    """All claims about linearised switching, for each learning rate of the linearised runs.

    Args:
        study: Name of the study.
        data: ``switching``: the content of the netCDF file.
        confidence: Level of the intervals over seeds.
        published: A paper's test accuracy at T by switch step.
    """
    grid = data["switching"].sortby("switch_step")
    claims = []
    for rate in grid["learning_rate"].values:
        runs = grid.sel(learning_rate=rate)
        rows = [
            (
                "Switch late",
                PAPER,
                "Switched at the last s, the network is better than linear from s = 0 on.",
                gain_of_last,
            ),
            ("Accuracy rises with s", PAPER, "Test accuracy rises with the switch step s.", rise),
            ("Non-linear to the end", OURS, "The non-linear run is at least as good as the last switch.", baseline),
        ]
        name_of = f"learning rate {rate:g}"
        claims += [
            make_claim(study, f"{name} ({name_of})", paper, statement, "switching", measure(runs, confidence))
            for name, paper, statement, measure in rows
        ]
        claims += [
            make_claim(
                study,
                f"Published accuracy at s = {step} ({name_of})",
                PAPER,
                f"Switched at s = {step}, test accuracy at T is {accuracy:g}.",
                "switching",
                published_accuracy(runs, confidence, step, accuracy),
            )
            for step, accuracy in sorted(published.items())
            if step in runs["switch_step"].values
        ]
    return claims


def usable_accuracies(runs: xr.Dataset) -> xr.DataArray:
    """Test accuracy at T over (seed, switch_step), NaN where the run diverged."""
    return runs["test_accuracy"].where(runs["diverged"] == 0).transpose("seed", "switch_step")


def gain_of_last(runs: xr.Dataset, confidence: float) -> Finding:
    """Holds if accuracy at the last switch minus that at the first, paired by seed, lies above 0; fails if below.

    Args:
        runs: Over (seed, switch_step), of one learning rate.
        confidence: Level of the interval.
    """
    accuracy = usable_accuracies(runs)
    if accuracy.sizes["switch_step"] < 2:
        return not_measured("one switch step")
    gain = mean_over_seeds(accuracy.isel(switch_step=-1) - accuracy.isel(switch_step=0), confidence)
    verdict, reason = decide_above(gain)
    first, last = (number_text(float(accuracy.isel(switch_step=place).mean())) for place in (0, -1))
    more = f": from {first} at s = {runs['switch_step'].values[0]} to {last} at s = {runs['switch_step'].values[-1]}"
    return gain.finding(verdict, reason + _diverged(runs, [0, -1]), more=more)


def rise(runs: xr.Dataset, confidence: float) -> Finding:
    """Holds if the slope of accuracy over log10(1 + s), fitted to each seed, lies above 0; fails if below.

    A line needs ``FEWEST_FITTED`` usable runs; a seed with fewer doesn't count.

    Args:
        runs: Over (seed, switch_step), of one learning rate.
        confidence: Level of the interval.
    """
    decades, accuracy = np.log10(1 + runs["switch_step"].values), usable_accuracies(runs).values
    slopes = [
        stats.linregress(decades[usable], row[usable]).slope
        for row in accuracy
        for usable in [np.isfinite(row)]
        if usable.sum() >= FEWEST_FITTED
    ]
    if not slopes:
        return not_measured(f"no seed has {FEWEST_FITTED} switch steps whose runs did not diverge")
    slope = mean_over_seeds(slopes, confidence)
    verdict, reason = decide_above(slope)
    return slope.finding(verdict, reason + _diverged(runs, slice(None)), more=" for each factor of 10 in 1 + s")


def baseline(runs: xr.Dataset, confidence: float) -> Finding:
    """Holds if the non-linear accuracy minus that at the last switch, paired by seed, lies above -``NOT_WORSE``.

    Fails if the interval does not exceed that.

    Args:
        runs: Over (seed, switch_step), of one learning rate.
        confidence: Level of the interval.
    """
    last = usable_accuracies(runs).isel(switch_step=-1)
    difference = mean_over_seeds(runs["nonlinear_test_accuracy"].sortby("step").isel(step=-1) - last, confidence)
    verdict, reason = decide_above(difference, -NOT_WORSE, number_text(-NOT_WORSE))
    more = f", non-linear minus switched at s = {runs['switch_step'].values[-1]}"
    return difference.finding(verdict, reason + _diverged(runs, [-1]), more=more)


def published_accuracy(runs: xr.Dataset, confidence: float, step: int, accuracy: float) -> Finding:
    """Holds if the interval of our accuracy lies within the published one -+ ``READ_OFF``; fails if outside.

    Args:
        runs: Over (seed, switch_step), of one learning rate.
        confidence: Level of the interval.
        step: The switch step.
        accuracy: The published accuracy.
    """
    place = int(np.flatnonzero(runs["switch_step"].values == step)[0])
    ours: Mean = mean_over_seeds(usable_accuracies(runs).isel(switch_step=place), confidence)
    verdict, reason = decide_near(ours, accuracy, READ_OFF)
    return ours.finding(verdict, reason + _diverged(runs, [place]), more=f"; published {accuracy:g}")


def _diverged(runs: xr.Dataset, places: list[int] | slice) -> str:
    """How many of the runs at these switch steps diverged, as the end of a reason."""
    diverged = runs["diverged"].isel(switch_step=places)
    count = int((diverged != 0).sum())
    return f"; {count} of {diverged.size} linearised runs diverged and are left out" if count else ""
