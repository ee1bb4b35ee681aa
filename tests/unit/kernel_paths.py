"""Paths of unit kernels with known motion, as matrices of kernel distances S."""

import numpy as np


def distances_of(points):
    """S = 1 - cos between the rows of points, (s, d)."""
    units = points / np.linalg.norm(points, axis=1, keepdims=True)
    squares = np.sum((units[:, None] - units) ** 2, axis=-1) / 2
    return (squares + squares.T) / 2


def walk(random, kernels, dimensions, *, length=0.1, decay=1.0):
    """H_0 of norm 1 plus independent Gaussian moves, whose root mean square norms sum in squares to length^2.

    The last move is ``decay`` times the first.
    """
    sizes = np.geomspace(1, decay, kernels - 1)
    sizes *= length / np.linalg.norm(sizes)
    moves = random.normal(size=(kernels - 1, dimensions)) * sizes[:, None] / np.sqrt(dimensions)
    return distances_of(_beside_one(np.concatenate([np.zeros((1, dimensions)), np.cumsum(moves, axis=0)])))


def confined(random, kernels, dimensions, *, saturation=0.02, memory=0.5, drift=0.0):
    """A stationary Ornstein-Uhlenbeck process with S = saturation between kernels far apart, and a drift beside it.

    ``memory`` is the correlation of neighbours; ``drift`` the root mean square length of a walk added to it.
    """
    spread = saturation / (1 - saturation)  # of the offsets from a mean of norm 1: cos = 1 / (1 + spread)
    noise = random.normal(size=(kernels, dimensions)) * np.sqrt(spread / dimensions)
    for place in range(1, kernels):
        noise[place] = memory * noise[place - 1] + np.sqrt(1 - memory**2) * noise[place]
    moves = random.normal(size=(kernels, dimensions)) * drift / np.sqrt(dimensions * (kernels - 1))
    return distances_of(_beside_one(noise + np.cumsum(moves, axis=0)))


def geodesic(kernels, angle=0.3):
    """A great circle at even speed over ``angle`` radians."""
    turn = np.linspace(0, angle, kernels)
    return distances_of(np.stack([np.cos(turn), np.sin(turn)], axis=1))


def _beside_one(offsets):
    return np.concatenate([np.ones((len(offsets), 1)), offsets], axis=1)
