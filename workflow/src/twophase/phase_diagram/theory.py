"""What theory says about a point (gamma, gamma'): its regime, how far the boundary is, and whose scaling it is."""

import numpy as np
from numpy.typing import ArrayLike

REGIMES = ("linear", "critical", "condensed", "undecided")
LINEAR, CRITICAL, CONDENSED, UNDECIDED = range(4)
CORNER = (1.0, 0.0)  # where the two lines of the boundary meet
# The usual initialisations (as Luo 2021 places them).
KNOWN_POINTS = {(0.5, 0.0): "NTK", (1.0, 0.0): "mean field, Xavier", (0.5, 0.5): "LeCun, He"}
ON_BOUNDARY = 1e-9


def boundary_distance(gamma: ArrayLike, gamma_prime: ArrayLike) -> np.ndarray:
    """Euclidean distance to the boundary, which is gamma = 1 for gamma' <= 0 and gamma' = gamma - 1 for gamma >= 1.

    Args:
        gamma: Any shape.
        gamma_prime: Broadcasts with it.

    Returns:
        float64: positive in the condensed regime, negative in the linear one, 0 on the boundary.
    """
    x, y = np.broadcast_arrays(np.subtract(gamma, CORNER[0]), np.subtract(gamma_prime, CORNER[1]))
    to_vertical = np.hypot(x, np.maximum(y, 0))
    along = np.maximum((x + y) / 2, 0)  # the nearest point of the ray is (along, along)
    to_diagonal = np.hypot(x - along, y - along)
    distance = np.minimum(to_vertical, to_diagonal)
    return np.where((x > 0) & (y < x), distance, -distance)


def theoretical_regime(gamma: ArrayLike, gamma_prime: ArrayLike) -> np.ndarray:
    """Regime by theory: 0 linear, 1 critical (on the boundary), 2 condensed; int8."""
    distance = boundary_distance(gamma, gamma_prime)
    regime = np.where(distance > 0, CONDENSED, LINEAR)
    return np.where(np.abs(distance) <= ON_BOUNDARY, CRITICAL, regime).astype(np.int8)


def boundary_path(gamma_range: tuple[float, float], gamma_prime_range: tuple[float, float]) -> np.ndarray:
    """The boundary within a rectangle as points of a line to draw, ``(4, 2)``: gamma = 1, then gamma' = gamma - 1.

    Rows are NaN where that part lies outside.
    """
    (left, right), (bottom, top) = gamma_range, gamma_prime_range
    path = np.full((4, 2), np.nan)
    if left <= CORNER[0] <= right and bottom <= min(CORNER[1], top):
        path[:2] = [[CORNER[0], bottom], [CORNER[0], min(CORNER[1], top)]]
    start, end = max(left - CORNER[0], bottom, 0.0), min(right - CORNER[0], top)
    if start <= end:
        path[2:] = [[CORNER[0] + start, start], [CORNER[0] + end, end]]
    return path
