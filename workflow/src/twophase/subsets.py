"""Which examples a class-balanced subset holds."""

from collections.abc import Sequence

import numpy as np
from numpy.random import PCG64, SeedSequence

from twophase.errors import DataError

SUBSET_SEED = 20_251_122


def class_balanced_subset(
    labels: np.ndarray,
    count: int,
    *,
    class_names: Sequence[str] | None = None,
    what: str = "examples",
    seed: int = SUBSET_SEED,
) -> np.ndarray:
    """Choose ``count`` examples, as many of each class as of any other, give or take one.

    Each class has one fixed random order of its examples, of which the subset takes a beginning; so a larger subset
    holds every smaller one. What doesn't divide evenly goes to the first classes.

    Args:
        labels: Class of each example, integers from 0 to classes - 1, shape ``(n,)``.
        count: Size of the subset.
        class_names: One name a class; by default the classes are the numbers up to the largest label.
        what: What the examples are called in messages.
        seed: Chooses the orders; the default is what studies use.

    Returns:
        Indices in ascending order, int64, shape ``(count,)``.

    Raises:
        DataError: If a class has too few examples; names the class and both numbers.
    """
    names = class_names or [str(label) for label in range(int(labels.max()) + 1)]
    chosen = []
    for label, name in enumerate(names):
        members = np.flatnonzero(labels == label)
        needed = (count + len(names) - 1 - label) // len(names)
        if needed > len(members):
            raise DataError(
                f"A class-balanced subset of {count} {what} needs {needed} of class {name!r}, which has {len(members)}"
            )
        chosen.append(members[_fixed_order(len(members), seed, label)[:needed]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _fixed_order(size: int, seed: int, label: int) -> np.ndarray:
    """A random permutation; by sorting raw draws, since NumPy may change ``Generator.permutation`` between versions."""
    draws = PCG64(SeedSequence(seed, spawn_key=(label,))).random_raw(size)
    return np.argsort(draws, kind="stable")
