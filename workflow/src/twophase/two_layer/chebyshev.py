"""Coefficients of the stabilised Runge-Kutta-Chebyshev method of order 2.

An explicit method of s stages is stable for a real negative spectrum down to about -2/3 s^2 / h, which makes it the
method of choice for gradient flows: the number of evaluations grows with the square root of the stiffness only.
Sommeijer, Shampine, Verwer: RKC: an explicit solver for parabolic PDEs, J. Comput. Appl. Math. 88 (1998) 315-326.
"""

from functools import cache

import numpy as np

MOST_STAGES = 100
DAMPING = 2 / 13
# The number of stages for a step h and spectral radius rho is 1 + sqrt(1 + STIFFNESS h rho).
STIFFNESS = 1.54


@cache
def stage_table() -> np.ndarray:
    r"""Coefficients of every number of stages s from 2 to 100.

    Y_1 = y + mu~_1 h F(y), and for j = 2, ..., s
    Y_j = (1 - mu_j - nu_j) y + mu_j Y_{j-1} + nu_j Y_{j-2} + mu~_j h F(Y_{j-1}) + gamma~_j h F(y).

    Returns:
        ``table[s, j]`` holds ``1 - mu_j - nu_j, mu_j, nu_j, mu~_j, gamma~_j``; float64, shape ``(101, 101, 5)``.
    """
    table = np.zeros((MOST_STAGES + 1, MOST_STAGES + 1, 5))
    for stages in range(2, MOST_STAGES + 1):
        table[stages, : stages + 1] = _coefficients(stages)
    table.flags.writeable = False
    return table


def _coefficients(stages: int) -> np.ndarray:
    """Rows j = 0, ..., s of the table for one number of stages."""
    w0 = 1 + DAMPING / stages**2
    values, slopes, curvatures = _chebyshev(stages, w0)
    w1 = slopes[stages] / curvatures[stages]
    b = np.zeros(stages + 1)
    b[2:] = curvatures[2:] / slopes[2:] ** 2
    b[:2] = b[2]
    rows = np.zeros((stages + 1, 5))
    rows[1, 3] = b[1] * w1
    for j in range(2, stages + 1):
        mu, nu, mu_tilde = 2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], 2 * b[j] * w1 / b[j - 1]
        gamma_tilde = -(1 - b[j - 1] * values[j - 1]) * mu_tilde
        rows[j] = 1 - mu - nu, mu, nu, mu_tilde, gamma_tilde
    return rows


def _chebyshev(degree: int, x: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chebyshev polynomials T_0, ..., T_degree at x, and their first and second derivatives."""
    values, slopes, curvatures = np.zeros((3, degree + 1))
    values[:2], slopes[1] = (1, x), 1
    for j in range(2, degree + 1):
        values[j] = 2 * x * values[j - 1] - values[j - 2]
        slopes[j] = 2 * values[j - 1] + 2 * x * slopes[j - 1] - slopes[j - 2]
        curvatures[j] = 4 * slopes[j - 1] + 2 * x * curvatures[j - 1] - curvatures[j - 2]
    return values, slopes, curvatures
