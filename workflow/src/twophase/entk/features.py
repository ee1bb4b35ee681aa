"""The features of an outer product: what multiplies the gradients, position by position.

Each kind stores one tensor per example, ``(n, *stored)``, and gives from it the dense features ``(n, S, D)`` and the
Gram matrix ``A[i, s, j, t] = <x_i[s], x_j[t]>`` of all positions of two sets of examples.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Features(Protocol):
    """Shape and meaning of stored features; equal for all forward passes of one operation."""

    @property
    def positions(self) -> int:
        """Number S of positions."""

    @property
    def width(self) -> int:
        """Number D of features at a position, of one group."""

    @property
    def groups(self) -> int:
        """Groups of channels, each of which sees features of its own."""

    @property
    def stored(self) -> int:
        """Numbers stored for an example."""

    @property
    def gram_operations(self) -> float:
        """Floating-point operations of the Gram matrix of two examples."""

    @property
    def between(self) -> int:
        """Numbers needed, beside the Gram matrix of two examples, to compute it."""

    def dense(self, values: Tensor) -> Tensor:
        """All features, ``(n, S, D)``; ``(n, S, groups, D)`` with several groups."""

    def gram(self, left: Tensor, right: Tensor) -> Tensor:
        """Gram matrix ``(n, S, m, S)``."""


@dataclass(frozen=True)
class DenseFeatures:
    """Features as they are, ``(n, S, D)``: those of a linear layer; ``(n, S, groups, D)`` with several groups."""

    positions: int
    width: int
    groups: int = 1
    between = 0

    @property
    def stored(self) -> int:
        """Numbers stored for an example."""
        return self.positions * self.groups * self.width

    @property
    def gram_operations(self) -> float:
        """Floating-point operations of the Gram matrix of two examples."""
        return 2 * self.positions**2 * self.width

    def dense(self, values: Tensor) -> Tensor:
        """All features, as they are."""
        return values

    def gram(self, left: Tensor, right: Tensor) -> Tensor:
        """Gram matrix ``(n, S, m, S)``."""
        product = left.reshape(-1, self.width) @ right.reshape(-1, self.width).T
        return product.view(len(left), self.positions, len(right), self.positions)


@dataclass(frozen=True)
class IndexFeatures:
    """One-hot features, stored as indices ``(n, S)``, -1 for none: those of an embedding."""

    positions: int
    width: int
    groups = 1
    between = 0

    @property
    def stored(self) -> int:
        """Numbers stored for an example; an index counts as two of 4 bytes."""
        return 2 * self.positions

    @property
    def gram_operations(self) -> float:
        """Floating-point operations of the Gram matrix of two examples."""
        return self.positions**2

    def dense(self, values: Tensor) -> Tensor:
        """All features, ``(n, S, D)``, booleans."""
        return values[..., None] == torch.arange(self.width, device=values.device)

    def gram(self, left: Tensor, right: Tensor) -> Tensor:
        """Gram matrix ``(n, S, m, S)``, of booleans."""
        same = left[:, :, None, None] == right[None, None]
        return same & (left >= 0)[:, :, None, None]


@dataclass(frozen=True)
class ConvolutionFeatures:
    """Patches of an image, stored as the image with channels last, ``(n, r, *pixels, channels)``.

    Attributes:
        image: Stored shape of one example: r images, their sides, and channels.
        kernel: Sides of the kernel.
        stride: Its steps.
        padding: Zeros on both sides of the image.
        dilation: Distance between neighbouring pixels of a patch.
        groups: Groups of channels.
    """

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the output."""
        geometry = zip(self.image[1:-1], self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((size + 2 * pad - dilation * (k - 1) - 1) // step + 1 for size, k, step, pad, dilation in geometry)

    @property
    def positions(self) -> int:
        """Number S of positions: pixels of all r outputs."""
        return self.image[0] * math.prod(self.sides)

    @property
    def width(self) -> int:
        """Number D of features at a position, of one group."""
        return math.prod(self.kernel) * self.image[-1] // self.groups

    @property
    def stored(self) -> int:
        """Numbers stored for an example."""
        return math.prod(self.image)

    @property
    def _by_pixels(self) -> bool:
        """Whether the Gram matrix of pixels is smaller work than that of patches."""
        taps, pixels = math.prod(self.kernel), self.image[0] * math.prod(self.image[1:-1])
        return taps > 1 and pixels**2 < taps * self.positions**2

    @property
    def gram_operations(self) -> float:
        """Floating-point operations of the Gram matrix of two examples."""
        if not self._by_pixels:
            return 2 * self.positions**2 * self.width
        pixels, taps = self.image[0] * math.prod(self.image[1:-1]), math.prod(self.kernel)
        return 2 * pixels**2 * self.image[-1] + taps * self.positions**2

    @property
    def between(self) -> int:
        """Numbers needed, beside the Gram matrix of two examples, to compute it."""
        if self._by_pixels:
            return (self.image[0] * math.prod(self.image[1:-1])) ** 2
        return 2 * self.positions * self.width

    def dense(self, values: Tensor) -> Tensor:
        """All patches, ``(n, S, D)`` or ``(n, S, groups, D)``; D counts pixels of the kernel, then channels."""
        padding = [0, 0, *itertools.chain.from_iterable((pad, pad) for pad in reversed(self.padding))]
        values = functional.pad(values, padding) if any(padding) else values.contiguous()
        n, images, *_, channels = values.shape
        strides = values.stride()[2:-1]
        windows = values.as_strided(
            (n, images, *self.sides, *self.kernel, channels),
            (
                *values.stride()[:2],
                *(s * step for s, step in zip(strides, self.stride, strict=True)),
                *(s * dilation for s, dilation in zip(strides, self.dilation, strict=True)),
                1,
            ),
        )
        taps = math.prod(self.kernel)
        if self.groups == 1:
            return windows.reshape(n, self.positions, taps * channels)
        windows = windows.reshape(n, self.positions, taps, self.groups, channels // self.groups)
        return windows.transpose(2, 3).flatten(3)

    def gram(self, left: Tensor, right: Tensor) -> Tensor:
        """Gram matrix ``(n, S, m, S)`` of patches, by shifted sums of that of pixels where that is less work."""
        if not self._by_pixels:
            dense = DenseFeatures(self.positions, self.width)
            return dense.gram(self.dense(left), self.dense(right))
        images, *pixels, channels = self.image
        left, right = (side.movedim(0, -2).reshape(-1, channels) for side in (left, right))
        n, m = len(left) // (images * math.prod(pixels)), len(right) // (images * math.prod(pixels))
        of_pixels = (left @ right.T).view(images, *pixels, n, images, *pixels, m)
        of_patches = of_pixels.new_zeros(images, *self.sides, n, images, *self.sides, m)
        for tap in itertools.product(*map(range, self.kernel)):
            outputs, inputs = zip(*map(self._overlap, range(len(tap)), tap), strict=True)
            whole = (slice(None),)
            of_patches[(*whole, *outputs, *whole, *whole, *outputs)] += of_pixels[
                (*whole, *inputs, *whole, *whole, *inputs)
            ]
        of_patches = of_patches.view(self.positions, n, self.positions, m)
        return of_patches.permute(1, 0, 3, 2)

    def _overlap(self, axis: int, tap: int) -> tuple[slice, slice]:
        """Outputs along an axis whose pixel at this place of the kernel is no padding, and these pixels."""
        step, shift = self.stride[axis], tap * self.dilation[axis] - self.padding[axis]
        size = self.image[1 + axis]
        first = max(0, -(shift // step))
        last = min(self.sides[axis] - 1, (size - 1 - shift) // step)
        if last < first:
            return slice(0, 0), slice(0, 0)
        return slice(first, last + 1), slice(first * step + shift, last * step + shift + 1, step)
