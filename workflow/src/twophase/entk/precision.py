"""Float32 products in full float32, whatever the caller allows elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_float32() -> Iterator[None]:
    """Switch tf32 and bf16 off in float32 matrix products and convolutions, and put back what was there.

    PyTorch has two interfaces for one setting and, on CUDA, refuses to multiply when they contradict each other:
    so the old one (``set_float32_matmul_precision``) goes first where it can be read, then each operation's own.

    Yields:
        Nothing.
    """
    operations = [
        torch.backends.cuda.matmul,
        torch.backends.cudnn.conv,
        torch.backends.cudnn.rnn,
        torch.backends.mkldnn.matmul,
        torch.backends.mkldnn.conv,
        torch.backends.mkldnn.rnn,
    ]
    found = [operation.fp32_precision for operation in operations]
    try:
        legacy = torch.get_float32_matmul_precision()
    except RuntimeError:  # set through the new interface only
        legacy = None
    try:
        if legacy not in (None, "highest"):
            torch.set_float32_matmul_precision("highest")
        for operation in operations:
            operation.fp32_precision = "ieee"
        yield
    finally:
        if legacy not in (None, "highest"):
            torch.set_float32_matmul_precision(legacy)
        for operation, precision in zip(operations, found, strict=True):
            operation.fp32_precision = precision


@contextmanager
def tf32_products(allowed: bool) -> Iterator[None]:
    """Let matrix products on a GPU round to tf32, inside of `exact_float32`, or not.

    Args:
        allowed: Whether they may.

    Yields:
        Nothing.
    """
    matmul = torch.backends.cuda.matmul
    found = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32" if allowed else "ieee"
        yield
    finally:
        matmul.fp32_precision = found
