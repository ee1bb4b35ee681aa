"""What a claim is, and how its verdict is decided from an interval over seeds.

Every rule compares an interval with a threshold that its function's docstring states. An interval wholly on the
claim's side of the threshold: the claim holds. Wholly on the other side: it doesn't. Across it, or no interval (it
takes two seeds, that differ: accuracies are multiples of one test image, and equal ones would make an interval without
width): undecided. So noise and few seeds lead to "undecided", never to "doesn't hold".
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from twophase.transition.intervals import mean_interval

HOLDS = "holds"
FAILS = "doesn't hold"
UNDECIDED = "undecided"
NOT_MEASURED = "not measured"
VERDICTS = (HOLDS, FAILS, UNDECIDED, NOT_MEASURED)
MINUS = "\u2212"
OURS = "(this project)"  # in place of a paper: a control, or a measure that no paper states


@dataclass(frozen=True)
class Finding:
    """Our side of a claim.

    Attributes:
        measured: Number, unit, interval with its level, number of seeds, in one readable line.
        verdict: One of ``VERDICTS``.
        reason: What the verdict rests on.
        value: The number; NaN where there is none, as for the next two.
        lower: Lower end of its interval.
        upper: Upper end of its interval.
        unit: Unit of the three; "1" if none.
        seeds: Independent runs in it.
    """

    measured: str
    verdict: str
    reason: str
    value: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    unit: str = "1"
    seeds: int = 0


@dataclass(frozen=True)
class Claim:
    """A statement and what was found; the fields after ``figure`` are those of :class:`Finding`.

    Attributes:
        study: Name of the study or phase diagram.
        name: A few words for the claim.
        paper: Short name of the paper, with the figure; ``OURS`` if no paper says it.
        statement: What is claimed, in one line.
        figure: Stem of the figure that shows it.
    """

    study: str
    name: str
    paper: str
    statement: str
    figure: str
    measured: str
    verdict: str
    reason: str
    value: float
    lower: float
    upper: float
    unit: str
    seeds: int


@dataclass(frozen=True)
class Mean:
    """Mean over seeds with its interval by Student's t; the ends are NaN with fewer than two seeds."""

    value: float
    lower: float
    upper: float
    seeds: int
    confidence: float

    def mapped(self, function: Callable[[float], float]) -> "Mean":
        """Mean and ends under an increasing function, such as exp where logarithms were averaged."""
        ends = (float(function(number)) for number in (self.value, self.lower, self.upper))
        return Mean(*ends, self.seeds, self.confidence)

    def text(self, unit: str = "1") -> str:
        """For example ``0.21 nat (90 % interval 0.1 to 0.32, n = 3)``."""
        if math.isnan(self.value):
            return f"no value (n = {self.seeds})"
        number = number_text(self.value, unit)
        if math.isnan(self.lower):
            return f"{number} (no interval, n = {self.seeds})"
        ends = f"{number_text(self.lower)} to {number_text(self.upper)}"
        return f"{number} ({100 * self.confidence:g} % interval {ends}, n = {self.seeds})"

    def finding(self, verdict: str, reason: str, *, unit: str = "1", more: str = "") -> Finding:
        """The finding that has this mean as its number, and more to say after it."""
        measured = self.text(unit) + more
        return Finding(measured, verdict, reason, self.value, self.lower, self.upper, unit, self.seeds)


def mean_over_seeds(values: ArrayLike, confidence: float) -> Mean:
    """Mean of the finite ones of the values, one a seed, ``(seeds,)``."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    return Mean(*mean_interval(values, confidence), len(values), confidence)


def decide_above(mean: Mean, threshold: float = 0.0, name: str = "0") -> tuple[str, str]:
    """Verdict and reason of "it is above": holds if the interval lies above the threshold, fails if not at all.

    Args:
        mean: The measured mean.
        threshold: What it is compared with, in its unit.
        name: The threshold in words.
    """
    if reason := _no_interval(mean):
        return reason
    if mean.lower > threshold:
        return HOLDS, f"the interval lies above {name}"
    if mean.upper <= threshold:
        return FAILS, f"the interval does not exceed {name}"
    return UNDECIDED, f"the interval reaches from below to above {name}"


def decide_below(mean: Mean, threshold: float = 0.0, name: str = "0") -> tuple[str, str]:
    """Verdict and reason of "it is below": holds if the interval lies below the threshold, fails if none of it does.

    Args:
        mean: The measured mean.
        threshold: What it is compared with, in its unit.
        name: The threshold in words.
    """
    if reason := _no_interval(mean):
        return reason
    if mean.upper < threshold:
        return HOLDS, f"the interval lies below {name}"
    if mean.lower >= threshold:
        return FAILS, f"no part of the interval is below {name}"
    return UNDECIDED, f"the interval reaches from below to above {name}"


def decide_near(mean: Mean, target: float, margin: float) -> tuple[str, str]:
    """Verdict and reason of "it equals": holds if the interval lies within target -+ margin, fails if outside.

    Args:
        mean: The measured mean.
        target: What it should be, in its unit.
        margin: Largest difference that counts as none, same unit.
    """
    if reason := _no_interval(mean):
        return reason
    low, high = target - margin, target + margin
    band = f"{number_text(target)} ± {number_text(margin)}"
    if low <= mean.lower and mean.upper <= high:
        return HOLDS, f"the interval lies within {band}"
    if mean.upper < low or mean.lower > high:
        return FAILS, f"the interval lies outside {band}"
    return UNDECIDED, f"the interval lies partly within {band}"


def _no_interval(mean: Mean) -> tuple[str, str] | None:
    if mean.seeds == 0:
        return NOT_MEASURED, "no run has a finite value"
    if mean.seeds == 1:
        return UNDECIDED, "one seed: an interval over seeds needs two"
    if mean.lower == mean.upper:
        return UNDECIDED, "all seeds gave the same number, so that nothing is known of their spread"
    return None


def not_measured(reason: str) -> Finding:
    """The finding of what nobody measured."""
    return Finding("nothing", NOT_MEASURED, reason)


def make_claim(study: str, name: str, paper: str, statement: str, figure: str, finding: Finding) -> Claim:
    """Put a statement and a finding together."""
    return Claim(study, name, paper, statement, figure, **asdict(finding))


def number_text(value: float, unit: str = "1") -> str:
    """Three significant digits, all digits from 1,000 to a million, a real minus, and the unit unless it is 1."""
    text = f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value + 0.0:.3g}"  # 0.0 takes the sign off -0
    text = text.replace("-", MINUS)
    return text if unit == "1" else f"{text} {unit}"
