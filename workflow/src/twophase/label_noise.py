"""Training labels replaced by wrong ones, the same for every seed of a study and every study."""

import numpy as np
from numpy.random import PCG64, SeedSequence

NOISE_SEED = 20_251_123


def with_label_noise(labels: np.ndarray, share: float, classes: int) -> np.ndarray:
    """Replace a share of the labels by another class, each other class being equally likely.

    Every example has one fixed place in the order in which labels are replaced, and one fixed wrong class; so a larger
    share replaces what a smaller one does, by the same classes, and more.

    Args:
        labels: Class of each example, integers from 0 to classes - 1, shape ``(n,)``; not changed.
        share: Share of labels that become wrong, from 0 to 1; ``round(share * n)`` of them do.
        classes: Number K of classes; at least 2 if a label is replaced.

    Returns:
        Labels, of the same shape and type.
    """
    replaced = round(share * len(labels))
    if not replaced:
        return labels
    # Raw draws: NumPy may change ``Generator.permutation`` and ``integers`` between versions.
    order, wrong = (PCG64(SeedSequence(NOISE_SEED, spawn_key=(key,))).random_raw(len(labels)) for key in (0, 1))
    chosen = np.argsort(order, kind="stable")[:replaced]
    noisy = labels.copy()
    noisy[chosen] = (labels[chosen] + 1 + (wrong[chosen] % (classes - 1)).astype(labels.dtype)) % classes
    return noisy
