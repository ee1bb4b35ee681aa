"""The networks of a map, and the tiles by which jobs share it. Nothing here imports a numerical library."""

import math
from collections.abc import Iterable, Sequence
from itertools import product

TILE_SIDE = 0.5  # of a square of the plane; part of the files' names, so it never changes
TILE_PATTERN = r"gamma-?\d+(\.\d+)?_gamma_prime-?\d+(\.\d+)?"


def tiles(gammas: Sequence[float], gamma_primes: Sequence[float]) -> dict[str, dict[str, list[float]]]:
    """Cut a grid into squares of the plane that don't depend on the grid.

    Args:
        gammas: Values of gamma.
        gamma_primes: Values of gamma'.

    Returns:
        For each tile that holds grid points, by name: its values of gamma and of gamma_prime.
    """
    columns, rows = _by_corner(gammas), _by_corner(gamma_primes)
    return {
        f"gamma{left:g}_gamma_prime{bottom:g}": {"gamma": columns[left], "gamma_prime": rows[bottom]}
        for left, bottom in product(columns, rows)
    }


def _by_corner(values: Iterable[float]) -> dict[float, list[float]]:
    corners: dict[float, list[float]] = {}
    for value in sorted(values):
        corners.setdefault(math.floor(value / TILE_SIDE) * TILE_SIDE, []).append(value)
    return corners


def networks_of(
    gamma: Iterable[float], gamma_prime: Iterable[float], widths: Iterable[int], seeds: Iterable[int]
) -> list[tuple[float, float, int, int]]:
    """All (gamma, gamma', width, seed) of a grid, in that order."""
    return [
        (float(g), float(p), int(width), int(seed)) for g, p, width, seed in product(gamma, gamma_prime, widths, seeds)
    ]
