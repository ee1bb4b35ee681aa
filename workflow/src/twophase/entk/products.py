"""Matrix products: symmetric ones compute their upper half only."""

import torch
from scipy.linalg import blas
from torch import Tensor

MIRRORED = 128  # rows mirrored together: three times their square is allocated; larger ones took no less time
# Numbers summed by one product. On a CPU, factors of a symmetric product then stay in the cache; elsewhere, some BLAS
# lose digits over longer sums (1e-3 over 10 million).
INNER_CPU, INNER = 4608, 1 << 16
LEAF_CPU, LEAF = 80, 512  # rows below which a symmetric product is computed whole

# Operations from which a symmetric product is left to SciPy's BLAS. It is up to 1.5 times as fast in large ones, but
# its threads and PyTorch's hinder each other for about 10 ms at each change.
LARGE = 3e10
RANK_UPDATE = {torch.float32: blas.ssyrk, torch.float64: blas.dsyrk}


def add_product(result: Tensor, left: Tensor, right: Tensor | None) -> None:
    """Add ``left @ right.T`` to ``result``; without ``right``, at least the upper triangle of ``left @ left.T``.

    Args:
        result: Shape ``(n, m)``, any strides.
        left: Shape ``(n, p)``, contiguous.
        right: Shape ``(m, p)``, or None.
    """
    on_cpu = left.device.type == "cpu"
    if right is None and on_cpu and len(left) ** 2 * left.shape[1] >= LARGE:
        _rank_update(result, left)
        return
    parts = max(1, -(-left.shape[1] // (INNER_CPU if on_cpu else INNER)))
    if right is None:
        for own in left.chunk(parts, 1):
            _add_upper(result, own, LEAF_CPU if on_cpu else LEAF)
    else:
        for own, other in zip(left.chunk(parts, 1), right.chunk(parts, 1), strict=True):
            result.addmm_(own, other.T)


def _add_upper(result: Tensor, left: Tensor, leaf: int) -> None:
    """Symmetric product by halves: each half's own, and that of both."""
    if len(left) <= leaf:
        result.addmm_(left, left.T)
        return
    half = len(left) // 2
    result[:half, half:].addmm_(left[:half], left[half:].T)
    _add_upper(result[:half, :half], left[:half], leaf)
    _add_upper(result[half:, half:], left[half:], leaf)


def _rank_update(result: Tensor, left: Tensor) -> None:
    """Symmetric update by BLAS, which PyTorch doesn't offer: half the operations of the full product.

    BLAS counts columns first, so that it sees ``left.T``, and its lower triangle is our upper one.
    """
    target = result if result.is_contiguous() else result.contiguous()
    update = RANK_UPDATE[left.dtype]
    update(1.0, left.numpy().T, beta=1.0, c=target.numpy().T, trans=1, lower=1, overwrite_c=1)
    if target is not result:
        result.copy_(target)


def mirror(square: Tensor) -> None:
    """Copy the upper triangle of a matrix to the lower one, in place.

    Args:
        square: Shape ``(n, n)``.
    """
    for start in range(0, len(square), MIRRORED):
        stop = min(start + MIRRORED, len(square))
        upper = square[start:stop, start:stop].triu()
        square[start:stop, start:stop] = upper + upper.triu(1).T
        square[stop:, start:stop] = square[start:stop, stop:].T
