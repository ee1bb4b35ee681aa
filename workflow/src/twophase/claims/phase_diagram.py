"""Claims about a phase diagram (Luo 2021): whether S_w has the sign, and the size, that theory says.

The interval of S_w at a grid point is that of a fit over widths and seeds, in ``regime.nc``. A point is decided if its
interval says on which side it lies. Of decided points, a share of 1 - confidence may be on the wrong side by chance. A
claim about all of them holds if at least the share ``confidence`` agrees; it fails if more contradict than chance
explains (one-sided binomial test at ``CHANCE_LEVEL``); it is undecided between the two, and if fewer than half of the
points are decided.
"""

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr
from scipy import stats

from twophase.claims.claim import FAILS, HOLDS, UNDECIDED, Claim, Finding, make_claim, not_measured, number_text
from twophase.phase_diagram.theory import CONDENSED, CRITICAL, LINEAR

FEWEST_DECIDED = 0.5  # share of a regime's points
CHANCE_LEVEL = 0.05
PAPER = "Luo 2021"


def phase_diagram_claims(diagram: str, data: Mapping[str, xr.Dataset], seeds: int) -> list[Claim]:
    """All claims about a phase diagram.

    Args:
        diagram: Name of the phase diagram.
        data: ``regime``: the content of the netCDF file.
        seeds: Number of seeds in each fit.
    """
    regime = data["regime"]
    theory, low, high = (regime[name].values for name in ("theoretical_regime", "slope_low", "slope_high"))
    band = float(regime["critical_slope"])
    rows = [
        ("Linear regime: S_w < 0", "Where theory says linear, weights move ever less with the width: S_w < 0.", LINEAR,
         high < 0, low > 0),
        ("Condensed regime: S_w > 0", "Where theory says condensed, weights move ever more with the width: S_w > 0.",
         CONDENSED, low > 0, high < 0),
        ("Boundary: S_w = 0", f"On theory's boundary S_w is 0 (here: within ±{band:g}).", CRITICAL,
         (low >= -band) & (high <= band), (low > band) | (high < -band)),
    ]  # fmt: skip
    confidence = float(regime["confidence"])
    claims = []
    for name, statement, which, agrees, contradicts in rows:
        here = theory == which
        finding = share_that_agrees(agrees[here], contradicts[here], confidence, seeds)
        claims.append(make_claim(diagram, name, PAPER, statement, "phase_diagram", finding))
    return claims


def share_that_agrees(agrees: np.ndarray, contradicts: np.ndarray, confidence: float, seeds: int) -> Finding:
    """The share of decided points that agree with theory; the module's docstring has the rule.

    Args:
        agrees: Whether a point's interval lies on theory's side, ``(points,)``.
        contradicts: Whether it lies on the other side, ``(points,)``.
        confidence: Level of the points' intervals.
        seeds: Number of seeds in each fit.
    """
    points, decided = len(agrees), int((agrees | contradicts).sum())
    if not points:
        return not_measured("no point of the grid lies there")
    share = agrees.sum() / decided if decided else math.nan
    measured = (
        f"{agrees.sum()} of {decided} decided points agree; {points - decided} of {points} undecided "
        f"({100 * confidence:g} % intervals over widths and seeds, n = {seeds})"
    )
    if decided < FEWEST_DECIDED * points:
        verdict, reason = UNDECIDED, "fewer than half of the points are decided"
    elif share >= confidence:
        verdict, reason = HOLDS, f"a share of {number_text(float(share))}, at least {confidence:g} is needed"
    else:
        wrong = int(contradicts.sum())
        chance = float(stats.binom.sf(wrong - 1, decided, 1 - confidence))
        verdict = FAILS if chance < CHANCE_LEVEL else UNDECIDED
        reason = f"on the wrong side: {wrong}; by chance as many are with probability {number_text(chance)}"
    return Finding(measured, verdict, reason, value=float(share), seeds=seeds)
