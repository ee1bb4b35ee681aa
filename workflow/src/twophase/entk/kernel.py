"""Empirical neural tangent kernels: what users call."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from twophase.entk.engine import Options, compute
from twophase.entk.rates import Rates
from twophase.entk.results import ArrayResult, Result, TensorResult


def empirical_ntk(
    model: nn.Module,
    inputs: Tensor,
    *,
    other_inputs: Tensor | None = None,
    kernel: Literal["full", "trace", "sum"] | int = "full",
    memory_budget: int | None = None,
    dtype: torch.dtype | None = None,
    tf32: bool = False,
    rates: Rates | None = None,
    progress: Callable[[int], None] | None = None,
    out: Any = None,
) -> Tensor:
    r"""Empirical neural tangent kernel over all trainable parameters, exact, for any network.

    H[i, k, j, l] = <d f_k(x_i) / d theta, d f_l(x_j) / d theta> (Novak 2022, arXiv 2206.08720, eq. 1). The model, its
    gradients and mode, and the global random state stay as they were.

    Args:
        model: Network in evaluation mode, mapping ``(n, *d)`` to ``(n, K)``, its parameters all float32 or all
            float64. Parameters with ``requires_grad=False`` are constants.
        inputs: Inputs ``x_i``, shape ``(n, *d)``, on the model's device; of its dtype, or integers.
        other_inputs: Inputs ``x_j``, shape ``(m, *d)``; ``inputs`` themselves if None.
        kernel: "full"; "trace" for the class trace, sum_k H[i, k, j, k]; "sum" for the kernel of the sum of the
            logits, sum_{k, l} H[i, k, j, l]; or a number k for the kernel of one logit, H[i, k, j, k]. None of these
            is computed by way of the full kernel.
        memory_budget: Bytes for everything that the engine allocates, the kernel itself included. By default half of
            the GPU's free memory, or a quarter of the main memory that is available. It changes time and rounding,
            nothing else.
        dtype: Number type of the result, float32 or float64; the model's by default. Products are computed in the
            model's.
        tf32: Whether a GPU's matrix products between Jacobians, and those that take their place in other forms, may
            round their factors to tf32. Forward and backward passes never do, nor does the forming of Jacobians.
        rates: The machine's rates, by which forms are chosen; by default measured once and kept.
        progress: Called now and then with the number of pairs of examples that are done, of ``n (n + 1) / 2`` or
            ``n m``; within a block it counts layers as equal parts.
        out: An array to write the kernel to block by block, such as a netCDF4 variable or a NumPy memory map, of the
            shape of the result; the result is then ``out`` itself, and doesn't count in the budget.

    Returns:
        The kernel, shape ``(n, K, m, K)``, or ``(n, m)`` unless "full", on the model's device, without autograd graph.
        Without ``other_inputs`` it is symmetric to the bit.

    Raises:
        ValueError: If an argument is empty, unknown, or of another device or dtype than the model, or the budget is
            too small for blocks of one example.
        ModelError: If the model is in training mode, has no trainable parameter, lets one example's output depend
            on the others, or gives outputs that aren't ``(n, K)`` finite numbers.
    """
    options = Options(memory_budget, tf32, rates, progress)
    make = result_maker(model, inputs, kernel, dtype, out, symmetric=other_inputs is None)
    results, _ = compute(model, inputs, other_inputs, kernel, make, options)
    return out if out is not None else _shaped(results[""], kernel)


def layer_kernels(
    model: nn.Module,
    inputs: Tensor,
    *,
    other_inputs: Tensor | None = None,
    kernel: Literal["full", "trace", "sum"] | int = "full",
    memory_budget: int | None = None,
    dtype: torch.dtype | None = None,
    tf32: bool = False,
    rates: Rates | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Kernel of each layer's parameters: their sum is the kernel.

    Args:
        model: As for `empirical_ntk`.
        inputs: As for `empirical_ntk`.
        other_inputs: As for `empirical_ntk`.
        kernel: As for `empirical_ntk`.
        memory_budget: As for `empirical_ntk`; all layers' kernels count.
        dtype: As for `empirical_ntk`.
        tf32: As for `empirical_ntk`.
        rates: As for `empirical_ntk`.
        progress: As for `empirical_ntk`.

    Returns:
        Kernels by the name of the module that owns the parameters, "" for the network itself. A parameter that
        several modules share belongs to the first; modules whose parameters aren't used are left out.

    Raises:
        ValueError: As `empirical_ntk`.
        ModelError: As `empirical_ntk`.
    """
    options = Options(memory_budget, tf32, rates, progress)
    make = result_maker(model, inputs, kernel, dtype, None, symmetric=other_inputs is None)
    results, _ = compute(model, inputs, other_inputs, kernel, make, options, by_layer=True)
    return {name: _shaped(result, kernel) for name, result in results.items()}


def result_maker(
    model: nn.Module, inputs: Tensor, kernel: str | int, dtype: torch.dtype | None, out: Any, *, symmetric: bool
) -> Callable[[str, tuple[int, int, int]], Result]:
    """Return what makes room for kernels, in tensors of their own or in ``out``.

    Args:
        model: The network.
        inputs: Inputs of the rows.
        kernel: Which kernel.
        dtype: Number type of the result, None for the network's.
        out: An array to write to, or None.
        symmetric: Whether rows and columns are of the same inputs.

    Returns:
        A function of a layer's name and ``(n, q, m)``.

    Raises:
        ValueError: If the number type isn't float32 or float64, or ``out`` hasn't the kernel's shape.
    """
    if dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32, torch.float64 or None, got {dtype}.")

    def make(name: str, sizes: tuple[int, int, int]) -> Result:
        n, q, m = sizes
        own = next(model.parameters()).dtype
        if out is None:
            return TensorResult(sizes, symmetric=symmetric, computed=own, dtype=dtype or own, device=inputs.device)
        shape = (n, q, m, q) if kernel == "full" else (n, m)
        if tuple(out.shape) != shape:
            raise ValueError(f"out must have the kernel's shape {shape}, got {tuple(out.shape)}.")
        return ArrayResult(out, q, flat=kernel != "full", symmetric=symmetric, computed=own, device=inputs.device)

    return make


def _shaped(result: TensorResult, kernel: str | int) -> Tensor:
    """The kernel ``(n, K, m, K)`` or ``(n, m)``."""
    if kernel != "full":
        return result.flat
    return result.flat.unflatten(1, (-1, result.q)).unflatten(0, (-1, result.q))
