"""What theory says about a point (gamma, gamma'): its regime, how far the boundary is, and whose scaling it is."""

import numpy as np
from numpy.typing import ArrayLike

REGIMES = ("linear", "critical", "condensed", "undecided")
LINEAR, CRITICAL, CONDENSED, UNDECIDED = range(4)
CORNER = (1.0, 0.0)  # where the two lines of the boundary meet
# The usual initialisations (Luo 2021, Table 1).
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
    """The boundary within a rectangle, as points of a line to draw, ``(k, 2)``; rows of NaN where it lies outside."""
    (left, right), (bottom, top) = gamma_range, gamma_prime_range
    end = min(right - CORNER[0], top)
    path = np.array([[CORNER[0], bottom], [CORNER[0], min(0.0, top)], [CORNER[0] + end, end]])
    if end < 0:
        path[2] = np.nan
    if bottom > 0:
        path[:2] = [CORNER[0] + bottom, bottom]
    inside = (path[:, 0] >= left) & (path[:, 0] <= right) & (path[:, 1] >= bottom) & (path[:, 1] <= top)
    return np.where(inside[:, None], path, np.nan)
