"""One seed for each source of randomness, spawned from the run's seed and never added to it."""

from enum import IntEnum

import numpy as np


class Source(IntEnum):
    """What the numbers are for; the values are part of every result and never change."""

    INITIALISATION = 0
    BATCH_ORDER = 1
    AUGMENTATION = 2
    PERTURBATION = 3
    NETWORK = 4  # dropout and other layers that draw from PyTorch's global generator
    GRADIENT_NOISE = 5  # batches beside the run's, on which gradients and the Hessian are measured


def spawned_sequence(seed: int, source: Source, *key: int) -> np.random.SeedSequence:
    """Seed sequence of one source, independent of all others.

    Args:
        seed: The run's seed.
        source: What the numbers are for.
        *key: Position within the source, such as the epoch or the draw.

    Returns:
        ``SeedSequence(seed, spawn_key=(source, *key))``.
    """
    return np.random.SeedSequence(seed, spawn_key=(int(source), *key))


def numpy_generator(seed: int, source: Source, *key: int) -> np.random.Generator:
    """NumPy generator (PCG64) of one source, at one position within it."""
    return np.random.Generator(np.random.PCG64(spawned_sequence(seed, source, *key)))


def torch_seed(seed: int, source: Source, *key: int) -> int:
    """Seed for ``torch.manual_seed``, 63 bits, of one source at one position within it."""
    return int(spawned_sequence(seed, source, *key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def random_order(size: int, sequence: np.random.SeedSequence) -> np.ndarray:
    """Random permutation of ``range(size)``, int64; by sorting raw draws, which no NumPy version changes."""
    return np.argsort(np.random.PCG64(sequence).random_raw(size), kind="stable")
