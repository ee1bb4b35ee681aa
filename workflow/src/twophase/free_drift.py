r"""Does a kernel that keeps moving stay in a cone? How far it gets for the way it goes, against free drift.

For kernels 0, 1, ..., m of one run, S_i = S(i, i + 1) is the move between neighbours, S(a, b) = 1 - cos the distance
of any two (``kernels.kernel_distance``). Moves that are independent in direction, whatever their sizes, multiply their
cosines on average,

    E[1 - S(a, b)] = prod_{i = a}^{b - 1} (1 - S_i) = 1 - P(a, b),

exactly so for a walk on the sphere with isotropic moves, and for a walk H_{t+1} = H_t + noise in many dimensions, where
cos(a, b) = |H_a| / |H_b| telescopes. P is close to the sum of the S_i as long as that is small (moves at right angles
add their squares, and S is half a squared chord). So P knows the size of each move: a learning rate that decays makes S
level off over steps, but not S over P. Motion that is undone later has S < P, motion that goes on in one direction
S > P. One family holds all three,

    S(a, b) = A (1 - prod_i (1 - S_i / A)),

which for A < 1 is exact for an Ornstein-Uhlenbeck process (kernels drawn back to a mean, distance A between two of them
far apart) sampled at any times, and tends to A (1 - exp(-P / A)) for small moves. 1/A = 1 is free drift, which ends at
right angles, S = 1; 1/A > 1 saturates at A; 1/A < 1 is directed, and then its value means nothing but that. A seed's
1/A is the one at which the sum of S over all its pairs but neighbours is the family's. Seeds are compared by a number
without scale, the confinement (1/A - 1) sum_i S_i: 0 for free drift, else by how many times the way is longer than A.
(1/A itself spreads with the seeds' speeds, so that straight paths of three speeds passed for undecided.)

"confined" and "directed" take two things: the t interval of the confinement over seeds excludes 0, and so does a test
by reversing moves (each move's direction turned round at random, ``reversal_shares``), one-sided at the same level,
exact for independent moves of symmetric direction in any number of dimensions; by the interval alone, walks in 2
dimensions passed for confined in up to 15 % of cases, since their ratios S/P are skewed. "free" is a statement of
equivalence: the interval lies within -0.5 to 0.5 (``FREE_CONFINEMENT``). So it excludes a cone whose A is below two
lengths of the way (where even moves would take S to 0.8 P at the end), not a wider one. Where one move makes up the
way, S is near P whatever the motion; then the confinement is known badly, and "free" can't be had. All else is
"undecided", since an interval that holds 0 comes from too few kernels or seeds too.

What "confined" doesn't say: that the distance has ended to grow. Kernels that jitter around a mean that drifts freely
are confined in this sense, since part of their way is undone. ``distance_exponent`` is reported for that: it is 1 for
free drift, 0 where S has saturated. And a verdict belongs to its spacing: the closer the kernels, the more of a fast
jitter counts as way.

Measured at 90 % (5 % each side) on 54 designs of free drift (3, 5 seeds; 4, 8, 20 late kernels; 2, 20, 200 dimensions;
even moves, moves decaying by a factor of 100, uneven moves of seeds of different speed, a way that turns by 40 degrees;
500 repetitions each, so that a rate of 5 % is known to 1 %): "confined" in at most 6.0 % (2.1 % on average), "directed"
in at most 3.8 % (1.5 %). "free" was said of even moves in 2 dimensions in 0 %, in 20 in 3 to 6 %, in 200 in 54 to 96 %:
it takes many dimensions or seeds. Ornstein-Uhlenbeck paths in 100 dimensions, by the way's length over A (250
repetitions): 0.5: "confined" in 43 to 84 %, "free" in 4 to 7 %; 1: at least 91 % and 0 %; 2 and 4: 100 %. The mean 1/A
of 50 such paths in 200 dimensions, A = 0.02, gave A to 7 % where the way was at least 0.6 A long, worse below.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from twophase.transition.intervals import check_confidence, mean_interval

STILL = 1e-12  # kernels stored in float32 are this far apart by rounding
FEWEST_KERNELS = 4  # three moves: with two there is one pair to judge by
FREE_CONFINEMENT = 0.5  # largest that counts as free drift
REVERSALS = 9999


@dataclass(frozen=True)
class Verdict:
    """What kind of motion several runs show.

    Attributes:
        verdict: "confined", "free", "directed" or "undecided".
        reason: What it rests on.
    """

    verdict: Literal["confined", "free", "directed", "undecided"]
    reason: str


def saturating_distance(moves: ArrayLike, inverse: float) -> np.ndarray:
    """Distances A (1 - prod_i (1 - S_i / A)) expected of a path with these moves.

    Args:
        moves: Distances S_i between neighbours, ``(m,)``.
        inverse: 1/A; 1 is free drift. Moves beyond A count as A.

    Returns:
        Symmetric matrix, ``(m + 1, m + 1)``.
    """
    moves = np.asarray(moves, dtype=np.float64)
    count = len(moves)
    with np.errstate(divide="ignore"):
        terms = np.log1p(-np.minimum(inverse * moves, 1)) if inverse else moves
    sums = np.cumsum(np.triu(np.broadcast_to(terms, (count, count))), axis=1)  # [a, b - 1]: from a to b
    distances = np.zeros((count + 1, count + 1))
    distances[:-1, 1:] = np.triu(-np.expm1(sums) / inverse if inverse else sums)
    return distances + distances.T


def free_drift(distances: ArrayLike) -> np.ndarray:
    """Distances P expected of a free drift with the same moves.

    Args:
        distances: Kernel distances S, symmetric, ``(s, s)``.

    Returns:
        P, symmetric, ``(s, s)``.
    """
    return saturating_distance(np.diagonal(distances, 1), 1.0)


def moves_at_all(distances: ArrayLike) -> bool:
    """Whether any two kernels are further apart than rounding."""
    return bool(np.max(distances, initial=0.0) > STILL)


def drift_ratio(distances: ArrayLike) -> float:
    """Sum of S over sum of P, over all pairs but neighbours: 1 for free drift on average, below it if confined.

    Args:
        distances: Kernel distances S, ``(s, s)``.

    Returns:
        The ratio; NaN with fewer than ``FEWEST_KERNELS`` kernels, or if they don't move or one isn't a number.
    """
    if not _usable(distances):
        return math.nan
    pairs = _pairs(len(distances))
    return float(np.asarray(distances)[pairs].sum() / free_drift(distances)[pairs].sum())


def inverse_saturation(distances: ArrayLike) -> float:
    """1/A of the family S = A (1 - prod (1 - S_i / A)), from the sum of S over all pairs but neighbours.

    The family's sum falls with 1/A, so that there is one solution. It lies below 1 over the mean S, since no distance
    of the family exceeds A.

    Args:
        distances: Kernel distances S, ``(s, s)``.

    Returns:
        1/A; NaN as in :func:`drift_ratio`, or if only one of the moves is one.
    """
    if not _usable(distances):
        return math.nan
    distances = np.asarray(distances, dtype=np.float64)
    pairs, moves = _pairs(len(distances)), np.diagonal(distances, 1)
    if np.count_nonzero(moves > STILL) < 2:
        return math.nan
    mean = float(distances[pairs].mean())

    def excess(scaled: float) -> float:
        return float(saturating_distance(moves, scaled / mean)[pairs].mean() / mean) - 1

    lowest = -1.0
    while excess(lowest) < 0:
        lowest *= 2
    return float(brentq(excess, lowest, 1 + 1e-9, xtol=1e-10)) / mean


def confinement(distances: ArrayLike) -> float:
    """How many times the way's length exceeds the distance at which S saturates: (1/A - 1) times the sum of moves.

    Args:
        distances: Kernel distances S, ``(s, s)``.

    Returns:
        0 for free drift, positive if confined, negative if directed; NaN as in :func:`inverse_saturation`.
    """
    return (inverse_saturation(distances) - 1) * float(np.diagonal(distances, 1).sum())


def distance_exponent(distances: ArrayLike) -> float:
    """How S grows with P at last: log(S_far / S_near) / log(P_far / P_near), 1 for free drift, 0 if saturated.

    Far pairs are those with P above half of the largest, near ones those above a quarter; S and P are means over each.

    Args:
        distances: Kernel distances S, ``(s, s)``.

    Returns:
        The exponent; NaN as in :func:`drift_ratio`, or without a near pair.
    """
    if not _usable(distances):
        return math.nan
    upper = np.triu_indices(len(distances), 1)
    found, drift = np.asarray(distances)[upper], free_drift(distances)[upper]
    far = drift > drift.max() / 2
    near = ~far & (drift > drift.max() / 4)
    if not found[near].sum() > 0:  # without a near pair too
        return math.nan
    return float(np.log(found[far].mean() / found[near].mean()) / np.log(drift[far].mean() / drift[near].mean()))


def reversal_shares(paths: Sequence[np.ndarray]) -> tuple[float, float]:
    """How often paths whose moves are turned round at random get at most, and at least, as far as those measured.

    The moves of a path are x_i = u_{i+1} - u_i; what S - P has beyond them are the products x_i x_j, each counted in
    all pairs (a, b) that hold both moves. Under independent moves of symmetric direction the signs of the x_i are
    exchangeable, whatever the moves' sizes and dimension. (P in place of the sum of moves takes out the sphere's
    curvature.)

    Args:
        paths: Kernel distances S of each run, ``(s, s)``.

    Returns:
        Shares of ``REVERSALS`` random ones and the path itself; a small first one says confined, a small second one
        directed.
    """
    random = np.random.default_rng(0)
    found, turned = 0.0, np.zeros(REVERSALS)
    for distances in paths:
        drift = free_drift(distances)
        beyond = distances - drift
        products = np.triu(beyond[:-1, 1:] + beyond[1:, :-1] - beyond[:-1, :-1] - beyond[1:, 1:], 1)
        number = np.arange(len(products))
        weights = (number[:, None] + 1) * (len(products) - number) / drift[_pairs(len(drift))].sum()
        signs = random.choice([-1.0, 1.0], size=(REVERSALS, len(products)))
        found += float((weights * products).sum())
        turned += np.einsum("ri,ij,rj->r", signs, weights * products, signs, optimize=True)
    rounding = 1e-9 * (abs(found) + float(np.abs(turned).max()))
    least = (1 + np.count_nonzero(turned <= found + rounding)) / (REVERSALS + 1)
    return float(least), float((1 + np.count_nonzero(turned >= found - rounding)) / (REVERSALS + 1))


def judge(paths: Sequence[np.ndarray], *, confidence: float) -> Verdict:
    """Confined, free or directed, or why it can't be said; the module's docstring states the tests.

    Args:
        paths: Kernel distances S of each run among its late kernels, ``(s, s)``, all of the same steps. A run with a
            value that isn't a number is left out.
        confidence: Level of the intervals; one-sided, errors have half of what it leaves.

    Returns:
        The verdict.
    """
    check_confidence(confidence)
    kernels = len(paths[0]) if paths else 0
    finite = [np.asarray(path) for path in paths if np.isfinite(path).all()]
    left_out = f" ({len(paths) - len(finite)} of {len(paths)} seeds left out: not finite)"
    note = left_out if len(finite) < len(paths) else ""
    if kernels < FEWEST_KERNELS:
        return Verdict("undecided", f"fewer than {FEWEST_KERNELS} late kernels: {kernels}")
    if not finite:
        return Verdict("undecided", "no seed whose late kernels are finite")
    still = sum(not moves_at_all(path) for path in finite)
    if still:
        which = "" if still == len(paths) else f" in {still} of {len(finite)} seeds"
        return Verdict("undecided", f"kernels don't move{which}{note}")
    if len(finite) < 2:
        return Verdict("undecided", f"one seed: no interval{note}")
    verdict = _judge_moving(finite, confidence)
    return Verdict(verdict.verdict, verdict.reason + note)


def _judge_moving(paths: list[np.ndarray], confidence: float) -> Verdict:
    """The verdict on at least two runs that move."""
    confinements = [confinement(path) for path in paths]
    if not np.isfinite(confinements).all():
        return Verdict("undecided", "no two late moves in one of the seeds")
    _, lower, upper = mean_interval(confinements, confidence)
    interval = f"interval of the confinement, {lower:.2g} to {upper:.2g},"
    if max(abs(lower), abs(upper)) <= FREE_CONFINEMENT:
        return Verdict("free", f"the {interval} lies within -{FREE_CONFINEMENT:g} to {FREE_CONFINEMENT:g}")
    if lower <= 0 <= upper:
        return Verdict("undecided", f"the {interval} holds 0, free drift, and is too wide to say more")
    least, most = reversal_shares(paths)
    name, share, words = ("confined", least, "no further") if lower > 0 else ("directed", most, "at least as far")
    reversals = f"moves reversed at random get {words} in {100 * share:.2g} % of cases"
    if share > (1 - confidence) / 2:
        return Verdict("undecided", f"the {interval} says {name}, but {reversals}")
    return Verdict(name, f"the {interval} excludes 0, free drift; {reversals}")


def _usable(distances: ArrayLike) -> bool:
    return len(distances) >= FEWEST_KERNELS and bool(np.isfinite(distances).all()) and moves_at_all(distances)


def _pairs(kernels: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (a, b) of all pairs but neighbours, whose S is P by definition."""
    return np.triu_indices(kernels, 2)
