"""The examples that a map's networks learn: points of a line, or images whose class is to be told by one number."""

import numpy as np
import xarray as xr

from twophase.storage import describe

DESCRIPTIONS = {
    "inputs": ("inputs, the last of them the constant 1 that carries the bias", "1"),
    "targets": ("targets", "1"),
}


def examples_from_points(inputs: list[float], targets: list[float]) -> xr.Dataset:
    """Examples in one dimension, as they stand; inputs ``(example, feature)`` and targets ``(example,)``, float64."""
    return _examples(np.array(inputs, dtype=np.float64)[:, None], np.array(targets, dtype=np.float64))


def examples_from_images(images: np.ndarray, labels: np.ndarray, classes: int) -> xr.Dataset:
    """Images as rows of pixels, and their class as a number.

    Args:
        images: uint8 ``(n, H, W, C)``; pixels are divided by 255.
        labels: Class k of each, from 0 to K - 1, ``(n,)``.
        classes: Number K of classes; targets are 2 k / (K - 1) - 1, from -1 to 1.

    Returns:
        Inputs ``(example, feature)`` and targets ``(example,)``, float64.
    """
    return _examples(images.reshape(len(images), -1) / 255, 2.0 * labels / max(classes - 1, 1) - 1)


def _examples(points: np.ndarray, targets: np.ndarray) -> xr.Dataset:
    inputs = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    variables = {"inputs": (("example", "feature"), inputs), "targets": ("example", targets)}
    return describe(xr.Dataset(variables), DESCRIPTIONS)
