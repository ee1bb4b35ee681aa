"""Products of the empirical tangent kernel with vectors, without the kernel: two passes through the network each."""

import torch
from torch import Tensor, nn

from twophase.differentiation.checks import check_finite, check_outputs, count_classes
from twophase.differentiation.functional import FunctionalNetwork, plain_values
from twophase.differentiation.tangents import (
    TOGETHER,
    Direction,
    Push,
    differentiable_attention,
    exact_push,
    few_examples,
    forward_mode,
    pull_back,
    twice_backward,
)
from twophase.entk.arguments import check_arguments
from twophase.entk.engine import undisturbed
from twophase.entk.memory import BACKWARD_FACTOR, default_budget, measure_footprint

PUSHES = {"Forward mode": forward_mode, "Two backward passes": twice_backward}
BLOCK = {"cpu": 64, "cuda": 512}  # examples passed together at most: more took no less time on a CPU
# Parameter-sized vectors beside the sums: the parameters' copy, a gradient and what makes it, or those of the checks.
COPIES = 6
TWICE = 2  # activations that both backward passes of the double-backward trick keep, over those of the forward pass
SCATTERED = 2  # memory between tensors, while freed memory is kept: on the CPU 1.8 times the tensors' own was measured


def kernel_product(
    model: nn.Module,
    inputs: Tensor,
    vectors: Tensor,
    *,
    other_inputs: Tensor | None = None,
    memory_budget: int | None = None,
) -> Tensor:
    r"""Product of the empirical neural tangent kernel with vectors, exact, without forming the kernel or a Jacobian.

    (H v)[i, k] = sum_{j, l} H[i, k, j, l] v[j, l] = (J (J'^T v))[i, k], where J and J' are the Jacobians at the rows'
    and the columns' inputs (NTK-vector products: Novak 2022, arXiv 2206.08720, section 3.2). J'^T v takes backward
    passes over blocks of examples, J u forward-mode differentiation, or two backward passes where an operation has no
    rule for that. The kernel and its trainable parameters are those of `empirical_ntk`. The model, its gradients and
    mode, and the global random state stay as they were.

    Args:
        model: Network in evaluation mode, mapping ``(n, *d)`` to ``(n, K)``, its parameters all float32 or all
            float64. Parameters with ``requires_grad=False`` are constants.
        inputs: Inputs ``x_i`` of the rows, shape ``(n, *d)``, on the model's device; of its dtype, or integers.
        vectors: One vector, shape ``(m, K)``, or several, ``(m, K, c)``, of the model's dtype and device.
        other_inputs: Inputs ``x_j`` of the columns, shape ``(m, *d)``; ``inputs`` themselves if None.
        memory_budget: Bytes for everything that is allocated, the result included. By default half of the GPU's free
            memory, or a quarter of the main memory that is available. It changes time and rounding, nothing else.

    Returns:
        The products, shape ``(n, K)`` or ``(n, K, c)`` like ``vectors``, of the model's dtype and device, without
        autograd graph.

    Raises:
        ValueError: If an argument is empty, or of another shape, device or dtype than it must be, ``vectors`` contain
            NaN or infinity, or the budget is too small for a few examples and one vector.
        ModelError: If the model is in training mode, has no trainable parameter, lets one example's output depend on
            the others, gives outputs that aren't ``(n, K)`` finite numbers, or has neither forward-mode nor second
            derivatives.
    """
    check_arguments(model, inputs, other_inputs, "full", memory_budget)
    with undisturbed(inputs.device), differentiable_attention():
        rows = plain_values(inputs)
        columns = rows if other_inputs is None else plain_values(other_inputs)
        network = FunctionalNetwork.of(model)
        classes = count_classes(network, rows[:1])
        stacked = _stacked(vectors, len(columns), classes, network)  # (m, K, c)
        push = exact_push(network, few_examples(max(rows, columns, key=len)), PUSHES)
        result = torch.empty(len(rows), classes, stacked.shape[2], dtype=network.dtype, device=network.device)
        block, group = _cut(network, rows, columns, result, push, memory_budget or default_budget(inputs.device))
        for first in range(0, result.shape[2], group):
            chosen = slice(first, first + group)
            directions = _pulled_back(network, columns, stacked[..., chosen], block)
            for start in range(0, len(rows), block):
                part = slice(start, start + block)
                result[part, :, chosen] = push(network, rows[part], directions)
        check_finite(result, "gradients or their products")
        return result if vectors.ndim == 3 else result[..., 0]


def _stacked(vectors: Tensor, examples: int, classes: int, network: FunctionalNetwork) -> Tensor:
    """The vectors as ``(m, K, c)``, refused if they don't fit the kernel's columns."""
    if vectors.ndim not in (2, 3) or vectors.shape[:2] != (examples, classes) or vectors.numel() == 0:
        wanted = f"({examples}, {classes}) or ({examples}, {classes}, c)"
        raise ValueError(f"vectors must have the shape {wanted} of the kernel's columns, got {tuple(vectors.shape)}.")
    if vectors.device != network.device:
        raise ValueError(f"vectors is on {vectors.device}, the network's parameters on {network.device}.")
    if vectors.dtype != network.dtype:
        raise ValueError(f"vectors is of {vectors.dtype}, the network's parameters of {network.dtype}.")
    if not torch.isfinite(vectors).all():
        raise ValueError("vectors must be finite, but contains NaN or infinity.")
    vectors = plain_values(vectors)
    return vectors if vectors.ndim == 3 else vectors[..., None]


def _cut(
    network: FunctionalNetwork, rows: Tensor, columns: Tensor, result: Tensor, push: Push, budget: int
) -> tuple[int, int]:
    """Number of examples, and of vectors, that are processed together within the budget."""
    footprints = [measure_footprint(network, inputs[:1]) for inputs in (rows, columns)]
    kept = TWICE if push is twice_backward else 1
    example = SCATTERED * max(kept * f.activations + BACKWARD_FACTOR * f.largest for f in footprints)
    fixed = result.nbytes + COPIES * footprints[0].gradient
    direction = 8 * network.size  # sums are float64
    most = BLOCK.get(network.device.type, BLOCK["cpu"])
    block, group = min(most, max(len(rows), len(columns))), result.shape[2]
    while fixed + group * direction + max(block, TOGETHER) * example > budget:
        if group > 1 and (block <= TOGETHER or group * direction > block * example):
            group = (group + 1) // 2
        elif block > TOGETHER:
            block = max(TOGETHER, block // 2)
        else:
            needed = fixed + direction + TOGETHER * example
            raise ValueError(
                f"memory_budget is {budget:,} bytes; this product needs at least {needed:,}, of which "
                f"{result.nbytes:,} for the result and {example:,} for each of {TOGETHER} examples."
            )
    return block, group


def _pulled_back(network: FunctionalNetwork, inputs: Tensor, vectors: Tensor, block: int) -> list[Direction]:
    """J^T v for vectors ``(m, K, c)``, summed over blocks of examples in float64."""
    count = vectors.shape[2]
    sums = [{n: torch.zeros_like(p, dtype=torch.float64) for n, p in network.parameters.items()} for _ in range(count)]
    for start in range(0, len(inputs), block):
        part = slice(start, start + block)
        leaves = network.leaves()
        with torch.enable_grad():
            outputs = network(leaves, inputs[part])
        check_outputs(outputs, len(inputs[part]), network.dtype, vectors.shape[1])
        for i, total in enumerate(sums):
            gradients = pull_back(outputs, leaves, vectors[part, :, i], again=i + 1 < count)
            for name, gradient in gradients.items():
                total[name] += gradient
    return [{name: total.pop(name).to(network.dtype) for name in network.parameters} for total in sums]
