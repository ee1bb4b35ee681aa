"""Two-layer ReLU networks at a point of the phase diagram: their scales, initial weights, outputs and kernel."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from twophase.randomness import Source, numpy_generator

ON_KINK = 1e-12  # share of |w~| |x| below which w~ . x counts as 0
BLOCK = 1 << 21  # float64 numbers of preactivations held at once: 16 MB


@dataclass(frozen=True, order=True)
class TwoLayer:
    r"""f(x) = kappa sum_k a~_k relu(w~_k . x) with kappa = m^-gamma and kappa' = m^-gamma' (Luo 2021, 2007.07497).

    Attributes:
        gamma: Exponent of the output's scale, kappa = beta1 beta2 / alpha.
        gamma_prime: Exponent of the ratio of the layers' scales, kappa' = beta1 / beta2.
        width: Number m of hidden neurons.
        seed: Seed of the initial weights; networks of one width and seed have the same everywhere on the plane.
    """

    gamma: float
    gamma_prime: float
    width: int
    seed: int

    def __post_init__(self):
        if self.width < 1 or not (math.isfinite(self.gamma) and math.isfinite(self.gamma_prime)):
            raise ValueError(f"expected a width of at least 1 and finite exponents, got {self}")

    @property
    def kappa(self) -> float:
        """Scale of the output."""
        return float(self.width) ** -self.gamma

    @property
    def kappa_prime(self) -> float:
        """Ratio of the layers' scales."""
        return float(self.width) ** -self.gamma_prime

    def initial_weights(self, dimension: int) -> np.ndarray:
        """Normalised weights at time 0, all independent and N(0, 1).

        Args:
            dimension: Number d of inputs, the constant 1 of the bias among them.

        Returns:
            A neuron a row, w~ then a~; float64, shape ``(m, d + 1)``.
        """
        generator = numpy_generator(self.seed, Source.INITIALISATION, self.width, dimension)
        return generator.standard_normal((self.width, dimension + 1))


def with_bias(points: np.ndarray) -> np.ndarray:
    """Append the constant 1 that carries the bias: ``(n,)`` or ``(n, d - 1)`` to float64 ``(n, d)``."""
    points = np.asarray(points, dtype=np.float64)
    points = points.reshape(len(points), -1)
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


def outputs(weights: np.ndarray, inputs: np.ndarray, kappa: float) -> np.ndarray:
    """f(x) = kappa sum_k a~_k relu(w~_k . x).

    Args:
        weights: ``(m, d + 1)``, w~ then a~.
        inputs: ``(n, d)``.
        kappa: Scale of the output.

    Returns:
        float64, shape ``(n,)``.
    """
    total = np.zeros(len(inputs))
    for block in _blocks(weights, inputs):
        total += np.maximum(inputs @ block[:, :-1].T, 0) @ block[:, -1]
    return kappa * total


def tangent_kernel(weights: np.ndarray, inputs: np.ndarray, network: TwoLayer) -> np.ndarray:
    r"""Kernel that moves the outputs, df(x_i)/dt = -(1/n) sum_j Theta_ij e_j.

    Theta_ij = (kappa / kappa') sum_k relu(z_ki) relu(z_kj)
    + kappa kappa' x_i . x_j sum_k a~_k^2 1[z_ki > 0] 1[z_kj > 0] with z_ki = w~_k . x_i:
    up to a factor the eNTK of the network in its own parameters a and w.

    Args:
        weights: ``(m, d + 1)``, w~ then a~.
        inputs: ``(n, d)``.
        network: For kappa and kappa'.

    Returns:
        Symmetric, float64, shape ``(n, n)``.
    """
    of_outputs, of_inputs = np.zeros((2, len(inputs), len(inputs)))
    lengths = np.linalg.norm(inputs, axis=1)
    for block in _blocks(weights, inputs):
        z = inputs @ block[:, :-1].T
        # Neurons that slide along a kink end on it up to rounding, and count as inactive there.
        z *= z > ON_KINK * lengths[:, None] * np.linalg.norm(block[:, :-1], axis=1)
        active, hidden = (z > 0) * block[:, -1], np.maximum(z, 0)
        of_outputs += hidden @ hidden.T
        of_inputs += active @ active.T
    of_inputs *= inputs @ inputs.T
    return network.kappa / network.kappa_prime * of_outputs + network.kappa * network.kappa_prime * of_inputs


def _blocks(weights: np.ndarray, inputs: np.ndarray) -> Iterator[np.ndarray]:
    size = max(1, BLOCK // len(inputs))
    return (weights[start : start + size] for start in range(0, len(weights), size))
