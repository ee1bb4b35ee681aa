"""Claims about the chaos effect (Zhou 2025a, Fig. 3): whether an early perturbation matters, and a late one doesn't."""

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr

from twophase.claims.claim import (
    FAILS,
    HOLDS,
    NOT_MEASURED,
    OURS,
    UNDECIDED,
    Claim,
    Finding,
    decide_above,
    decide_below,
    make_claim,
    mean_over_seeds,
    not_measured,
    number_text,
)
from twophase.claims.transitions import transition_claims

PAPER = "Zhou 2025a, Fig. 3"
NEGLIGIBLE = 0.02  # of the parents' test loss at t1: a choice of ours, as the paper names no bound
LATE_SHARE = 0.1  # of the early barrier, that a late one must stay below
MUST_BE_EXACT = ("parameter_distance", "disagreement_rate", "growth_distance")
STRICT = {"chaotic": HOLDS, "sensitive": FAILS, "contracting": FAILS}


def chaos_claims(study: str, data: Mapping[str, xr.Dataset], confidence: float) -> list[Claim]:
    """All claims about chaos, for each kind and each size of the perturbation but 0.

    Args:
        study: Name of the study.
        data: ``chaos`` and, if the study has it, ``transition``: the contents of these netCDF files.
        confidence: Level of the intervals over seeds.
    """
    grid, transition = data["chaos"], data.get("transition")
    claims = []
    for kind in map(str, grid["kind"].values):
        for norm in grid["relative_norm"].values[grid["relative_norm"].values > 0]:
            # The draws are perturbations of one run, no independent runs: they are averaged.
            cell = grid.sel(kind=kind, relative_norm=norm).mean("draw").isel(t1=-1)
            ordered = cell.isel(t0=np.flatnonzero(cell["t0"].values < cell["t1"].item())).sortby("t0")
            claims += _barrier_claims(study, ordered, confidence) if ordered.sizes["t0"] else []
        claims.append(_strict_claim(study, kind, transition))
    return [*claims, _control_claim(study, grid), *transition_claims(study, transition, of_kernel=False)]


def _barrier_claims(study: str, cell: xr.Dataset, confidence: float) -> list[Claim]:
    """Three claims of one kind and size; ``cell`` is over (seed, t0), compared at the last t1."""
    kind, size = str(cell["kind"].item()), f"{float(cell['relative_norm'].item()):g}"
    perturbation = f"{kind} {size}"
    findings = [
        ("Early: another basin", "Perturbed at the earliest t0, there is a loss barrier.", "barrier", early_barrier),
        ("Late: the same basin", "Perturbed at the last t0, there is none any more.", "barrier", late_barrier),
        ("Disagreement falls", "The disagreement rate is lower for late t0.", "chaos", falling_disagreement),
    ]
    return [
        make_claim(study, f"{name} ({perturbation})", PAPER, statement, f"{figure}_{kind}", measure(cell, confidence))
        for name, statement, figure, measure in findings
    ]


def early_barrier(cell: xr.Dataset, confidence: float) -> Finding:
    """Holds if the interval of the test-loss barrier at the earliest t0 lies above ``NEGLIGIBLE`` of the test loss.

    The loss is the parents' at the last t1, averaged over seeds. Fails if the interval does not exceed that, or if at
    least two seeds have no barrier at all: where no point of the line lies above its ends, each seed measures 0.

    Args:
        cell: Over (seed, t0, interpolation) at the last t1.
        confidence: Level of the interval.
    """
    barrier = mean_over_seeds(cell["test_loss_barrier"].isel(t0=0), confidence)
    threshold = _negligible(cell)
    name = f"{number_text(threshold)}, {100 * NEGLIGIBLE:g} % of the parents' loss"
    verdict, reason = decide_above(barrier, threshold, name)
    if barrier.seeds > 1 and not cell["test_loss_barrier"].isel(t0=0).any():
        verdict, reason = FAILS, f"the barrier is 0 in each of {barrier.seeds} seeds"
    return barrier.finding(verdict, reason, unit="nat", more=_where(cell, 0))


def _negligible(cell: xr.Dataset) -> float:
    """The largest barrier that counts as none, in nat."""
    return NEGLIGIBLE * float(cell["test_interpolation_loss"].isel(t0=0, interpolation=0).mean())


def late_barrier(cell: xr.Dataset, confidence: float) -> Finding:
    """Holds if the barrier at the last t0 lies below ``LATE_SHARE`` of that at the earliest.

    Decided by the interval, paired by seed, of late minus that share of early: below 0 it holds, from 0 on it fails.
    So the early barrier's own uncertainty counts. Undecided if the mean early barrier is itself below ``NEGLIGIBLE``.

    Args:
        cell: Over (seed, t0, interpolation) at the last t1.
        confidence: Level of the intervals.
    """
    if cell.sizes["t0"] < 2:
        return not_measured("fewer than two t0 lie before the last t1")
    barriers = cell["test_loss_barrier"]
    early, late = (mean_over_seeds(barriers.isel(t0=place), confidence) for place in (0, -1))
    excess = mean_over_seeds(barriers.isel(t0=-1) - LATE_SHARE * barriers.isel(t0=0), confidence)
    if early.value <= _negligible(cell):
        verdict, reason = UNDECIDED, f"the early barrier is itself below {100 * NEGLIGIBLE:g} % of the parents' loss"
    else:
        verdict, reason = decide_below(excess)
        if not math.isnan(excess.lower):
            reason = f"of late minus {LATE_SHARE:g} of early, {excess.text('nat')}, {reason}"
    more = f"{_where(cell, -1)}; {number_text(early.value)} at the earliest"
    return late.finding(verdict, reason, unit="nat", more=more)


def falling_disagreement(cell: xr.Dataset, confidence: float) -> Finding:
    """Holds if the interval of early minus late disagreement, paired by seed, lies above 0; fails if below.

    Args:
        cell: Over (seed, t0) at the last t1.
        confidence: Level of the interval.
    """
    if cell.sizes["t0"] < 2:
        return not_measured("fewer than two t0 lie before the last t1")
    rates = cell["disagreement_rate"]
    fall = mean_over_seeds(rates.isel(t0=0) - rates.isel(t0=-1), confidence)
    verdict, reason = decide_above(fall)
    early, late = (number_text(float(rates.isel(t0=place).mean())) for place in (0, -1))
    more = f": from {early} at t0 = {cell['t0'].values[0]} to {late}{_where(cell, -1)}"
    return fall.finding(verdict, reason, more=more)


def _where(cell: xr.Dataset, place: int) -> str:
    return f" at t0 = {cell['t0'].values[place]}, t1 = {cell['t1'].item()}"


def _strict_claim(study: str, kind: str, transition: xr.Dataset | None) -> Claim:
    statement = "Early training is chaotic: small perturbations grow exponentially, at one rate whatever their size."
    name, figure = f"Chaotic in the strict sense ({kind})", f"exponents_{kind}"
    return make_claim(study, name, "Zhou 2025a", statement, figure, strict_chaos(transition, kind))


def strict_chaos(transition: xr.Dataset | None, kind: str) -> Finding:
    """Holds if the verdict at the earliest t0 is "chaotic"; fails if it is "sensitive" or "contracting".

    Args:
        transition: Content of ``transition.nc``, whose ``chaos_verdict`` is over (kind, t0); None without the file.
        kind: Kind of perturbation.
    """
    if transition is None or "chaos_verdict" not in transition:
        return not_measured("the study has no transition.nc with growth rates")
    if kind not in transition["kind"].values:
        return not_measured(f"no growth rates of {kind} perturbations")
    first = transition.sel(kind=kind).sortby("t0").isel(t0=0)
    found, exponent = str(first["chaos_verdict"].item()), float(first["chaos_exponent"].item())
    rate = "no rate" if math.isnan(exponent) else number_text(exponent, "1/step")
    measured = f"{found} at t0 = {first['t0'].item()}, {rate}"
    reason = str(first["chaos_reason"].item())
    return Finding(measured, STRICT.get(found, UNDECIDED), reason, value=exponent, unit="1/step")


def _control_claim(study: str, grid: xr.Dataset) -> Claim:
    kind = str(grid["kind"].values[0])
    statement = "A perturbation of size 0 reproduces the parent bit for bit."
    return make_claim(study, "Control", OURS, statement, f"chaos_{kind}", control(grid))


def control(grid: xr.Dataset) -> Finding:
    """Holds if every distance and disagreement of the control is exactly 0; fails otherwise, NaN included.

    No interval: what must be exact needs no statistics.

    Args:
        grid: Content of ``chaos.nc``.
    """
    if 0 not in grid["relative_norm"].values:
        return Finding("nothing", NOT_MEASURED, "the grid has no perturbation of size 0")
    cells = grid.sel(relative_norm=0.0)
    compared = cells["t0"] < cells["t1"]  # there is nothing to compare at t1 <= t0
    names = [name for name in MUST_BE_EXACT if name in cells]
    everywhere = xr.ones_like(cells["t0"], dtype=bool)
    values = [
        cells[name].values[(compared if "t1" in cells[name].dims else everywhere).broadcast_like(cells[name]).values]
        for name in names
    ]
    largest = float(np.abs(np.concatenate(values)).max())  # NaN if there is one
    verdict = HOLDS if largest == 0 else FAILS
    reason = "exactly 0 everywhere" if largest == 0 else "not exactly 0 everywhere"
    count = sum(value.size for value in values)
    seeds = grid.sizes["seed"]
    measured = f"largest of {count} distances and disagreements: {number_text(largest)} (n = {seeds})"
    return Finding(measured, verdict, reason, value=largest, seeds=seeds)
