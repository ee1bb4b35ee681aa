"""The picture of condensation: where neurons point, how much they weigh, and at how few orientations they gather."""

import numpy as np

CLUSTER_ANGLE = np.deg2rad(5)  # between a cluster's heaviest neuron and its others
CLUSTER_SHARE = 0.95  # of the summed amplitude, which the clusters must hold


def amplitudes(weights: np.ndarray) -> np.ndarray:
    """|a~| |w~| of each neuron; weights ``(m, d + 1)``, w~ then a~; float64, shape ``(m,)``."""
    return np.abs(weights[:, -1]) * np.linalg.norm(weights[:, :-1], axis=1)


def orientations(weights: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
    """One angle a neuron.

    With two inputs, one of them the bias, the polar angle of w~ = (w, b), from -pi to pi. With more, the angle
    between w~ and a reference direction, from 0 to pi.

    Args:
        weights: ``(m, d + 1)``, w~ then a~.
        reference: Direction ``(d,)``, for d above 2.

    Returns:
        Radians, float64, shape ``(m,)``; NaN for w~ = 0.
    """
    vectors = weights[:, :-1]
    norms = np.linalg.norm(vectors, axis=1)
    if vectors.shape[1] == 2:
        return np.where(norms > 0, np.arctan2(vectors[:, 1], vectors[:, 0]), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = vectors @ reference / (norms * np.linalg.norm(reference))
    return np.arccos(np.clip(cosines, -1, 1))


def principal_direction(weights: np.ndarray) -> np.ndarray:
    """Direction along which neurons, weighted by their amplitude, point most: ``(d,)``, towards their mean."""
    vectors = _units(weights) * amplitudes(weights)[:, None]
    direction = np.linalg.svd(vectors, full_matrices=False)[2][0]
    return direction if direction @ vectors.sum(axis=0) >= 0 else -direction


def count_clusters(weights: np.ndarray) -> int:
    """The number of orientations at which neurons gather.

    The heaviest neuron and all within 5 degrees of it are one cluster; the heaviest of the rest begins the next; and
    so on until the clusters hold 95 % of the summed amplitude |a~| |w~|.

    Args:
        weights: ``(m, d + 1)``, w~ then a~.

    Returns:
        Clusters; 0 if no neuron has an amplitude.
    """
    amplitude = amplitudes(weights)
    missing = CLUSTER_SHARE * amplitude.sum()
    units = _units(weights)
    clusters = 0
    while missing > 0:
        leader = units[np.argmax(amplitude)]
        near = units @ leader >= np.cos(CLUSTER_ANGLE)
        missing -= amplitude[near].sum()
        amplitude = np.where(near, 0, amplitude)
        clusters += 1
    return clusters


def _units(weights: np.ndarray) -> np.ndarray:
    """w~ / |w~|, and 0 where w~ is 0."""
    norms = np.linalg.norm(weights[:, :-1], axis=1, keepdims=True)
    return np.divide(weights[:, :-1], norms, out=np.zeros_like(weights[:, :-1]), where=norms > 0)
