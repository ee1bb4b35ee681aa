"""Matrix products: symmetric ones compute their upper half only."""

import torch
from scipy.linalg import blas
from torch import Tensor

STRIP = 512  # rows of a symmetric product computed together where BLAS can't be asked for it
MIRRORED = 128  # rows mirrored together: three times their square is allocated; larger ones took no less time
INNER = 1 << 16  # numbers summed by one product: some BLAS lose digits over longer sums (1e-3 over 10 million)

RANK_UPDATE = {torch.float32: blas.ssyrk, torch.float64: blas.dsyrk}


def add_product(result: Tensor, left: Tensor, right: Tensor | None) -> None:
    """Add ``left @ right.T`` to ``result``; without ``right``, at least the upper triangle of ``left @ left.T``.

    Args:
        result: Shape ``(n, m)``, any strides.
        left: Shape ``(n, p)``, contiguous.
        right: Shape ``(m, p)``, or None.
    """
    if right is not None:
        for part in range(0, left.shape[1], INNER):
            result.addmm_(left[:, part : part + INNER], right[:, part : part + INNER].T)
    elif left.device.type == "cpu":
        _rank_update(result, left)
    else:
        for start in range(0, len(left), STRIP):
            add_product(result[start : start + STRIP, start:], left[start : start + STRIP], left[start:])


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
