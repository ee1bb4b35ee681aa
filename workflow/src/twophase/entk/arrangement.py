"""The order of a tensor's elements in another one that holds all of them once: after views and permutations of axes."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Arrangement:
    """How an operation sees a tensor.

    Axes of one element have no part in it: libraries move them differently for one example and for several.

    Attributes:
        shape: The shape that it sees.
        permutations: Sizes that the tensor is viewed in, and the order of their axes; one after the other.
    """

    shape: tuple[int, ...]
    permutations: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()

    def viewed(self, shape: tuple[int, ...]) -> "Arrangement":
        """The same order of elements in another shape."""
        return Arrangement(shape, self.permutations)

    def permuted(self, order: tuple[int, ...]) -> "Arrangement":
        """With axes in this order."""
        shape = tuple(self.shape[axis] for axis in order)
        kept = [axis for axis, size in enumerate(self.shape) if size != 1]
        sizes = tuple(self.shape[axis] for axis in kept)
        moved = tuple(kept.index(axis) for axis in order if axis in kept)
        earlier = self.permutations
        if earlier and _permuted(*earlier[-1]) == sizes:
            sizes, before = earlier[-1]
            moved, earlier = tuple(before[axis] for axis in moved), earlier[:-1]
        unmoved = moved == tuple(range(len(moved)))
        return Arrangement(shape, earlier if unmoved else (*earlier, (sizes, moved)))

    def restored(self, values: Tensor) -> Tensor:
        """Bring values of all elements back to the tensor's own order.

        Args:
            values: ``(n, q, ...)``, the elements in this order, in any number of axes.

        Returns:
            ``(n, q, size)``; a view where possible.
        """
        for sizes, order in reversed(self.permutations):
            parted = values.reshape(*values.shape[:2], *_permuted(sizes, order))
            values = parted.permute(0, 1, *(2 + order.index(axis) for axis in range(len(order))))
        return values.flatten(2)


def _permuted(sizes: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sizes[axis] for axis in order)
