"""Where the blocks of a kernel go: into one tensor, or into any array that takes them one by one."""

from typing import Any, Protocol

import torch
from torch import Tensor

from twophase.differentiation.checks import check_finite
from twophase.entk.products import mirror


class Result(Protocol):
    """Takes a kernel block by block; of a symmetric one the blocks on the diagonal and above."""

    bytes: int  # memory of the engine's that it takes
    apart: bool  # whether its blocks are computed apart

    def block(self, rows: slice, columns: slice) -> Tensor:
        """Zeros to which the block of these examples is added, ``(rows q, columns q)``."""

    def store(self, rows: slice, columns: slice, block: Tensor) -> None:
        """Take a block that is complete."""

    def finish(self) -> None:
        """Do what can be done only after the last block."""


class TensorResult:
    """A kernel in one tensor, ``(n q, m q)``.

    Args:
        sizes: Rows n, logits q, columns m.
        symmetric: Whether only its upper triangle is computed.
        computed: Number type of the products.
        dtype: Number type of the kernel.
        device: Where it lies.
    """

    def __init__(
        self,
        sizes: tuple[int, int, int],
        *,
        symmetric: bool,
        computed: torch.dtype,
        dtype: torch.dtype,
        device: torch.device,
    ):
        n, self.q, m = sizes
        self.symmetric, self.computed = symmetric, computed
        self.flat = torch.empty(n * self.q, m * self.q, dtype=dtype, device=device)
        self.bytes, self.apart = self.flat.nbytes, dtype != computed

    def block(self, rows: slice, columns: slice) -> Tensor:
        """Zeros to which the block of these examples is added: the tensor's own, unless its number type differs."""
        part = self._part(rows, columns)
        return part.zero_() if part.dtype == self.computed else torch.zeros_like(part, dtype=self.computed)

    def store(self, rows: slice, columns: slice, block: Tensor) -> None:
        """Take a block that is complete."""
        part = self._part(rows, columns)
        if part.dtype != self.computed:
            part.copy_(block)

    def finish(self) -> None:
        """Fill the lower triangle of a symmetric kernel, and refuse NaN."""
        if self.symmetric:
            mirror(self.flat)
        check_finite(self.flat, "gradients or their products")

    def _part(self, rows: slice, columns: slice) -> Tensor:
        q = self.q
        return self.flat[rows.start * q : rows.stop * q, columns.start * q : columns.stop * q]


class ArrayResult:
    """A kernel in an array outside of the engine, such as a netCDF variable or a memory map, written block by block.

    Args:
        array: Takes NumPy arrays by slices: ``array[rows, :, columns, :]``, or ``array[rows, columns]`` if ``flat``.
        logits: Number q of logits along each side of a block.
        flat: Whether the array has no axes for logits; then q is 1.
        symmetric: Whether only the upper triangle is computed.
        computed: Number type of the products.
        device: Where they are computed.
    """

    bytes, apart = 0, True

    def __init__(
        self, array: Any, logits: int, *, flat: bool, symmetric: bool, computed: torch.dtype, device: torch.device
    ):
        self.array, self.q, self.flat = array, logits, flat
        self.symmetric, self.computed, self.device = symmetric, computed, device

    def block(self, rows: slice, columns: slice) -> Tensor:
        """Zeros to which the block of these examples is added, ``(rows q, columns q)``."""
        sides = ((side.stop - side.start) * self.q for side in (rows, columns))
        return torch.zeros(*sides, dtype=self.computed, device=self.device)

    def store(self, rows: slice, columns: slice, block: Tensor) -> None:
        """Write a block, and its mirror image if it lies above the diagonal of a symmetric kernel."""
        if self.symmetric and rows == columns:
            mirror(block)
        check_finite(block, "gradients or their products")
        self._write(rows, columns, block)
        if self.symmetric and rows != columns:
            self._write(columns, rows, block.T)

    def finish(self) -> None:
        """Nothing is left to do."""

    def _write(self, rows: slice, columns: slice, block: Tensor) -> None:
        if self.flat:
            self.array[rows, columns] = block.cpu().numpy()
        else:
            parted = block.unflatten(1, (-1, self.q)).unflatten(0, (-1, self.q))
            self.array[rows, :, columns, :] = parted.cpu().numpy()
