"""The kernel as a sum of terms, each of a few parameters, held and contracted in the form that suits it.

With gradients ``g[i, k, s, c]`` of logit k of example i with respect to an operation's output, and its features
``x[i, s, d]``, a weight's term of the kernel is

    H[i, k, j, l] = sum_{s, t} (sum_c g[i, k, s, c] g[j, l, t, c]) (sum_d x[i, s, d] x[j, t, d]).

The order of the sums is free (Novak 2022, arXiv 2206.08720, sections 3.2 and 3.3): the *Jacobian* form sums over
positions first, the *structured* form over channels and features, and the *mixed* form multiplies gradients by the
Gram matrix of features, and the result by gradients. For the class trace the last two are the same work.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from twophase.entk.features import Features
from twophase.entk.precision import tf32_products
from twophase.entk.products import add_product

TILE_BYTES = 8 << 20  # of an intermediate result; a few fit into the last-level cache
TILE_ROWS = 320  # of the full kernel
TRACE_STRIPS, TRACE_ROWS = 4, 128  # of a trace: at least so many, unless they have fewer rows
MIXED_TILE_BYTES = 5 << 19  # of gradients times Gram matrices, which are read again at once
FORMED_BYTES = 24 << 20  # of Jacobians that are formed together; the C library keeps so much for the next ones
FORMED_STEP = 48  # their features are a multiple of this: products with odd numbers of columns are slow


@dataclass
class Held:
    """What a term keeps of a block of examples.

    Attributes:
        gradients: In the term's own layout.
        features: Stored features, ``(n, *stored)``; None in the Jacobian form.
        sums: Products summed over logits, ``(n, n)``, of which the upper triangle counts; only where gradients are
            those of one logit at a time.
    """

    gradients: Tensor
    features: Tensor | None = None
    sums: Tensor | None = None


@dataclass(frozen=True)
class Shape:
    """Size of a weight's term.

    Attributes:
        logits: Number q of logits that are differentiated.
        channels: Number C of channels of the operation's output.
        features: The features.
        trace: Whether logits are summed over.
        dtype: Number type.
        device: Where it is computed.
    """

    logits: int
    channels: int
    features: Features
    trace: bool
    dtype: torch.dtype
    device: torch.device

    def empty(self, *shape: int) -> Tensor:
        """Room for numbers."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)


class Term(Protocol):
    """A term of the kernel, in one form."""

    def hold(self, examples: int) -> Held:
        """Room for what is kept of so many examples."""

    def collect(self, held: Held, rows: slice, logit: int, gradient: Tensor) -> None:
        """Take the gradients of one logit, ``(n, S, C)``, of the examples ``rows``."""

    def finish(self, held: Held, rows: slice, features: Tensor) -> None:
        """Take these examples' features, after all logits."""

    def add(self, kernel: Tensor, left: Held, right: Held | None) -> None:
        """Add to the kernel of two blocks, ``(n q, m q)`` or ``(n, m)``; with no right one the upper triangle."""

    def between_bytes(self, n: int, m: int | None) -> int:
        """Memory of intermediate results of `add`, for blocks of n and m examples, or one block of n."""


@dataclass
class JacobianTerm:
    """Held as Jacobians: ``J[i, k, c, d] = sum_s g[i, k, s, c] x[i, s, d]``, contracted by one matrix product."""

    shape: Shape
    staged: dict[int, Tensor] = field(default_factory=dict, repr=False)
    spare: Tensor | None = field(default=None, repr=False)

    def hold(self, examples: int) -> Held:
        """Room for Jacobians ``(n, q, C D)``."""
        shape = self.shape
        return Held(shape.empty(examples, shape.logits, shape.channels * shape.features.width))

    def collect(self, held: Held, rows: slice, logit: int, gradient: Tensor) -> None:
        """Stage gradients until those of all logits are there, in the same memory if it is free: new pages are slow."""
        n, positions, channels = gradient.shape
        if rows.start not in self.staged:
            if self.spare is None or len(self.spare) < n:
                self.spare = self.shape.empty(n, positions, self.shape.logits, channels)
            self.staged[rows.start], self.spare = self.spare, None
        self.staged[rows.start][:n, :, logit] = gradient

    def finish(self, held: Held, rows: slice, features: Tensor) -> None:
        """Turn staged gradients into Jacobians."""
        self.spare = self.staged.pop(rows.start)
        gradients = self.spare[: rows.stop - rows.start]
        add_jacobian(held.gradients[rows], gradients, self.shape.features.dense(features).to(gradients.dtype))

    def add(self, kernel: Tensor, left: Held, right: Held | None) -> None:
        """Add the product of Jacobians."""
        add_product(kernel, *_matrices(left, right, self.shape.trace))

    def between_bytes(self, n: int, m: int | None) -> int:
        """Memory of intermediate results of `add`: none."""
        return 0


def add_jacobian(result: Tensor, gradients: Tensor, dense: Tensor) -> None:
    """Write ``sum_s g[i, s, k, c] x[i, s, d]`` to ``result``, ``(n, q, C D)``; ``dense`` is ``(n, S, [G,] D)``."""
    n, positions, logits, channels = gradients.shape
    if dense.ndim == 3:
        out = result.view(n, logits * channels, -1)
        torch.bmm(gradients.view(n, positions, -1).transpose(1, 2), dense, out=out)
        return
    groups = dense.shape[2]
    parted = gradients.view(n, positions, logits, groups, channels // groups).permute(0, 3, 2, 4, 1)
    product = parted.reshape(n, groups, -1, positions) @ dense.transpose(1, 2)  # (n, G, q C / G, D)
    product = product.view(n, groups, logits, channels // groups, -1).transpose(1, 2)
    result.view(product.shape).copy_(product)


@dataclass
class DeferredTerm:
    """Held as gradients and features; Jacobians are formed when they are contracted, of some features at a time.

    Where positions are few, that is less than the Jacobians take, and these are never out of the cache for long.
    """

    shape: Shape

    def hold(self, examples: int) -> Held:
        """Room for gradients, ``(n, S, q, C)``; features come with the first piece."""
        shape = self.shape
        return Held(shape.empty(examples, shape.features.positions, shape.logits, shape.channels))

    def collect(self, held: Held, rows: slice, logit: int, gradient: Tensor) -> None:
        """Store gradients."""
        held.gradients[rows, :, logit] = gradient

    def finish(self, held: Held, rows: slice, features: Tensor) -> None:
        """Store features."""
        store_features(held, rows, features, examples=len(held.gradients))

    def add(self, kernel: Tensor, left: Held, right: Held | None) -> None:
        """Form Jacobians and add their product, some features at a time."""
        shape, sides = self.shape, [left] if right is None else [left, right]
        dense = [shape.features.dense(side.features).to(shape.dtype) for side in sides]
        width = self._width(sum(len(side.gradients) for side in sides))
        rooms = [shape.empty(len(side.gradients) * shape.logits * shape.channels * width) for side in sides]
        for start in range(0, shape.features.width, width):
            with tf32_products(False):
                factors = [
                    self._formed(room, side.gradients, features[..., start : start + width])
                    for room, side, features in zip(rooms, sides, dense, strict=True)
                ]
            add_product(kernel, factors[0], None if right is None else factors[1])

    def between_bytes(self, n: int, m: int | None) -> int:
        """Memory of intermediate results of `add`: all features, on the way to their order too, and some Jacobians."""
        shape, examples = self.shape, n + (m or 0)
        dense = 2 * shape.features.positions * shape.features.width
        formed = shape.logits * shape.channels * self._width(examples)
        return shape.dtype.itemsize * examples * (dense + formed)

    def _width(self, examples: int) -> int:
        """Features of which Jacobians are formed together."""
        one = examples * self.shape.logits * self.shape.channels * self.shape.dtype.itemsize
        steps = max(1, FORMED_BYTES // one // FORMED_STEP)
        return min(self.shape.features.width, steps * FORMED_STEP)

    def _formed(self, room: Tensor, gradients: Tensor, dense: Tensor) -> Tensor:
        """Jacobians of some features ``(n, S, d)``, as a factor; written to ``room``, whose pages are old ones."""
        n, _, logits, channels = gradients.shape
        formed = room[: n * logits * channels * dense.shape[2]].view(n, logits, channels * dense.shape[2])
        add_jacobian(formed, gradients, dense)
        return _matrix(formed, self.shape.trace)


@dataclass
class StructuredTerm:
    """Held as gradients and features; contracted pair of positions by pair of positions, or all at once for a trace.

    ``bias`` adds the term of a bias of the same operation: features that are 1 at every position.
    """

    shape: Shape
    bias: bool = False

    def hold(self, examples: int) -> Held:
        """Room for gradients, ``(S, n, q, C)``, or ``(n, S, q, C)`` for a trace; features come with the first piece."""
        shape, positions = self.shape, self.shape.features.positions
        sizes = (examples, positions) if shape.trace else (positions, examples)
        return Held(shape.empty(*sizes, shape.logits, shape.channels))

    def collect(self, held: Held, rows: slice, logit: int, gradient: Tensor) -> None:
        """Store gradients."""
        if self.shape.trace:
            held.gradients[rows, :, logit] = gradient
        else:
            held.gradients[:, rows, logit] = gradient.transpose(0, 1)

    def finish(self, held: Held, rows: slice, features: Tensor) -> None:
        """Store features."""
        store_features(held, rows, features, examples=held.gradients.shape[0 if self.shape.trace else 1])

    def add(self, kernel: Tensor, left: Held, right: Held | None) -> None:
        """Add products of gradients, weighted by products of features."""
        (self._add_trace if self.shape.trace else self._add_full)(kernel, left, right)

    def between_bytes(self, n: int, m: int | None) -> int:
        """Memory of intermediate results of `add`: a tile of products, one of Gram matrices, and what is made of it."""
        shape, squared, m = self.shape, self.shape.features.positions**2, n if m is None else m
        if shape.trace:
            height, width = self._trace_tile(n, m)
            return shape.dtype.itemsize * height * width * squared * 4
        height, width = self._tile(n, m)
        gradients = (height + width) * shape.features.positions * shape.channels * shape.logits
        per_pair = 2 * shape.logits**2 + 4 * squared + 2 * shape.logits + shape.features.between
        return shape.dtype.itemsize * (height * width * per_pair + gradients)

    def _tile(self, n: int, m: int) -> tuple[int, int]:
        """Low tiles, since few of their pairs lie below the diagonal."""
        height = min(n, max(1, TILE_ROWS // self.shape.logits))
        return height, min(m, max(1, TILE_BYTES // (height * self.shape.logits**2 * self.shape.dtype.itemsize)))

    def _trace_tile(self, n: int, m: int) -> tuple[int, int]:
        positions = self.shape.features.positions
        room = max(1, TILE_BYTES // (positions**2 * self.shape.dtype.itemsize))
        width = max(1, min(m, room // 8))
        return min(n, max(1, room // width), max(1, -(-n // TRACE_STRIPS), TRACE_ROWS // positions)), width

    def _add_full(self, kernel: Tensor, left: Held, right: Held | None) -> None:
        q, other = self.shape.logits, right or left
        n, m = left.gradients.shape[1], other.gradients.shape[1]
        height, width = self._tile(n, m)
        for start in range(0, n, height):
            rows = slice(start, min(start + height, n))
            for first in range(start if right is None else 0, m, width):
                columns = slice(first, min(first + width, m))
                target = kernel[rows.start * q : rows.stop * q, columns.start * q : columns.stop * q]
                gram = self.gram(left.features[rows], other.features[columns])
                self._add_tile(target, left.gradients[:, rows], other.gradients[:, columns], gram)

    def _add_tile(self, target: Tensor, own: Tensor, other: Tensor, gram: Tensor) -> None:
        """Add one tile ``(n q, m q)``, from gradients ``(S, n, q, C)`` and a Gram matrix ``(n, S, m, S)``."""
        q, positions = self.shape.logits, self.shape.features.positions
        target = target.unflatten(0, (-1, q))
        own, other = own.flatten(1, 2), other.flatten(1, 2)
        for s in range(positions):
            for t in range(positions):
                weights = gram[:, s, :, t].repeat_interleave(q, dim=1).unsqueeze(1)
                target.addcmul_((own[s] @ other[t].T).view_as(target), weights)

    def _add_trace(self, kernel: Tensor, left: Held, right: Held | None) -> None:
        positions, m = self.shape.features.positions, None if right is None else len(right.gradients)
        for rows, columns in self.trace_tiles(len(left.gradients), m):
            own = left.gradients[rows].flatten(2).flatten(0, 1)  # (n S, q C)
            other = (right or left).gradients[columns].flatten(2).flatten(0, 1)
            product = (own @ other.T).view(rows.stop - rows.start, positions, -1, positions)
            product *= self.gram(left.features[rows], (right or left).features[columns])
            kernel[rows, columns] += product.sum((1, 3))

    def trace_tiles(self, n: int, m: int | None) -> Iterator[tuple[slice, slice]]:
        """Rows and columns that a trace is computed of at a time; with no m, the upper triangle's."""
        height, width = self._trace_tile(n, m or n)
        for start in range(0, n, height):
            rows = slice(start, min(start + height, n))
            for first in range(start if m is None else 0, m or n, width):
                yield rows, slice(first, min(first + width, m or n))

    def gram(self, left: Tensor, right: Tensor) -> Tensor:
        """Products of features, ``(n, S, m, S)``; those of the bias are 1."""
        gram = self.shape.features.gram(left, right)
        return gram.to(self.shape.dtype) + 1 if self.bias else gram.to(self.shape.dtype)


@dataclass
class MixedTerm:
    """Held as gradients and features; gradients times Gram matrices, then times gradients. Only for full kernels."""

    shape: Shape
    bias: bool = False

    def hold(self, examples: int) -> Held:
        """Room for gradients, ``(n, q, C, S)``."""
        shape = self.shape
        return Held(shape.empty(examples, shape.logits, shape.channels, shape.features.positions))

    def collect(self, held: Held, rows: slice, logit: int, gradient: Tensor) -> None:
        """Store gradients."""
        held.gradients[rows, logit] = gradient.transpose(1, 2)

    def finish(self, held: Held, rows: slice, features: Tensor) -> None:
        """Store features."""
        store_features(held, rows, features, examples=len(held.gradients))

    def add(self, kernel: Tensor, left: Held, right: Held | None) -> None:
        """Add, for a few rows and one column at a time, so that the product with Gram matrices stays in the cache."""
        q, other = self.shape.logits, right or left
        n, m = len(left.gradients), len(other.gradients)
        height, width = self._tile(n, m)
        for start in range(0, n, height):
            rows = slice(start, min(start + height, n))
            own = left.gradients[rows].flatten(1, 2)  # (n, q C, S)
            for first in range(start if right is None else 0, m, width):
                columns = slice(first, min(first + width, m))
                target = kernel[rows.start * q : rows.stop * q, columns.start * q : columns.stop * q]
                self._add_tile(target, own, left.features[rows], other.gradients[columns], other.features[columns])

    def between_bytes(self, n: int, m: int | None) -> int:
        """Memory of intermediate results of `add`: Gram matrices, on the way to their order too, and both products."""
        shape = self.shape
        height, width = self._tile(n, n if m is None else m)
        pair = 4 * shape.features.positions**2 + shape.features.between + shape.logits**2
        between = height * shape.logits * shape.channels * shape.features.positions
        return shape.dtype.itemsize * (height * width * pair + between)

    def _tile(self, n: int, m: int) -> tuple[int, int]:
        shape, size = self.shape, self.shape.dtype.itemsize
        height = MIXED_TILE_BYTES // (shape.logits * shape.channels * shape.features.positions * size)
        height = min(n, max(1, height))
        return height, min(m, max(1, TILE_BYTES // (height * shape.features.positions**2 * size)))

    def _add_tile(self, target: Tensor, own: Tensor, x: Tensor, gradients: Tensor, y: Tensor) -> None:
        gram = self.shape.features.gram(x, y).to(own.dtype)
        if self.bias:
            gram = gram + 1
        gram = gram.permute(2, 0, 1, 3).contiguous()  # (m, n, S, S)
        n, q = len(own), self.shape.logits
        between, products = torch.empty_like(own), own.new_empty(len(gradients), n, q, q)
        for j, column in enumerate(gradients):
            # Both example by example: a thread reads what it wrote, out of its own cache.
            torch.bmm(own, gram[j], out=between)
            torch.bmm(between.view(n, q, -1), column.flatten(1).T.expand(n, -1, -1), out=products[j])
        target.view(n, q, len(gradients), q).add_(products.permute(1, 2, 0, 3))


@dataclass
class ExplicitTerm:
    """Held as Jacobians of several parameters side by side, each the sum over all operations that take it.

    Attributes:
        columns: Where each parameter's gradient lies.
        logits: Number q of logits.
        trace: Whether logits are summed over.
        empty: Makes room for numbers of a shape.
    """

    columns: dict[str, slice]
    logits: int
    trace: bool
    empty: Callable[..., Tensor]

    @property
    def width(self) -> int:
        """Numbers held for a logit of an example."""
        return max(columns.stop for columns in self.columns.values())

    def hold(self, examples: int) -> Held:
        """Room for Jacobians ``(n, q, P)``, zero at first."""
        return Held(self.empty(examples, self.logits, self.width).zero_())

    def add(self, kernel: Tensor, left: Held, right: Held | None) -> None:
        """Add the product of Jacobians."""
        add_product(kernel, *_matrices(left, right, self.trace))

    def between_bytes(self, n: int, m: int | None) -> int:
        """Memory of intermediate results of `add`: none."""
        return 0


def _matrices(left: Held, right: Held | None, trace: bool) -> tuple[Tensor, Tensor | None]:
    """Jacobians that are held, as factors."""
    return _matrix(left.gradients, trace), None if right is None else _matrix(right.gradients, trace)


def _matrix(jacobian: Tensor, trace: bool) -> Tensor:
    """Jacobians ``(n, q, P)`` as a factor: ``(n q, P)``, or ``(n, q P)`` where logits are summed over."""
    return jacobian.flatten(1) if trace else jacobian.flatten(0, 1)


def store_features(held: Held, rows: slice, features: Tensor, *, examples: int) -> None:
    """Copy the features of some examples to their place among all; those of all of them are kept as they are."""
    if len(features) == examples and features.is_contiguous():
        held.features = features.detach()
        return
    if held.features is None:
        held.features = features.new_empty(examples, *features.shape[1:])
    held.features[rows] = features
