"""Products of the empirical tangent kernel with vectors, without the kernel: two passes through the network each."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from twophase.entk.checks import (
    check_arguments,
    check_decoupled,
    check_finite,
    check_outputs,
    count_classes,
    fixed_weights,
)
from twophase.entk.engine import plain_values, undisturbed
from twophase.entk.functional import FunctionalNetwork
from twophase.entk.memory import BACKWARD_FACTOR, default_budget, measure_footprint
from twophase.errors import ModelError

TOGETHER = 3  # examples on which the network is checked
BLOCK = {"cpu": 64, "cuda": 512}  # examples passed together at most: more took no less time on a CPU
# Parameter-sized vectors beside the sums: the parameters' copy, a gradient and what makes it, or those of the checks.
COPIES = 6
TWICE = 2  # activations that both backward passes of the double-backward trick keep, over those of the forward pass
SCATTERED = 2  # memory between tensors, while freed memory is kept: on the CPU 1.8 times the tensors' own was measured

Direction = dict[str, Tensor]  # a vector of parameters, by name


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
    with undisturbed(inputs.device), _differentiable_attention():
        rows = plain_values(inputs)
        columns = rows if other_inputs is None else plain_values(other_inputs)
        network = FunctionalNetwork.of(model)
        classes = count_classes(network, rows[:1])
        stacked = _stacked(vectors, len(columns), classes, network)  # (m, K, c)
        push = _method(network, _sample(max(rows, columns, key=len)))
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


@contextmanager
def _differentiable_attention() -> Iterator[None]:
    """Attention as products: its fused forms have neither forward-mode nor second derivatives."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


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


def _sample(inputs: Tensor) -> Tensor:
    """A few evenly spaced examples; some of them twice if there are fewer."""
    return inputs[torch.linspace(0, len(inputs) - 1, TOGETHER).round().long().to(inputs.device)]


def _cut(
    network: FunctionalNetwork, rows: Tensor, columns: Tensor, result: Tensor, push: "Push", budget: int
) -> tuple[int, int]:
    """Number of examples, and of vectors, that are processed together within the budget."""
    footprints = [measure_footprint(network, inputs[:1]) for inputs in (rows, columns)]
    kept = TWICE if push is _twice_backward else 1
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
            gradients = _gradients(outputs, leaves, vectors[part, :, i], again=i + 1 < count)
            for name, gradient in gradients.items():
                total[name] += gradient
    return [{name: total.pop(name).to(network.dtype) for name in network.parameters} for total in sums]


def _gradients(outputs: Tensor, leaves: Direction, cotangent: Tensor, *, again: bool = False) -> Direction:
    """Gradients of the outputs times a cotangent ``(n, K)``, by parameter; those that are zero anyway left out."""
    if not outputs.requires_grad:
        return {}
    found = torch.autograd.grad(outputs, list(leaves.values()), cotangent, retain_graph=again, allow_unused=True)
    return {name: g.to_dense() for name, g in zip(leaves, found, strict=True) if g is not None}


Push = Callable[[FunctionalNetwork, Tensor, list[Direction]], Tensor]


def _forward_mode(network: FunctionalNetwork, inputs: Tensor, directions: list[Direction]) -> Tensor:
    """J u, ``(n, K, c)``, from tangents that go forward with the activations."""
    pushed = []
    for direction in directions:
        with forward_ad.dual_level():
            duals = {name: forward_ad.make_dual(p, direction[name]) for name, p in network.parameters.items()}
            outputs, tangent = forward_ad.unpack_dual(network(duals, inputs))
        check_outputs(outputs, len(inputs), network.dtype)
        pushed.append(torch.zeros_like(outputs) if tangent is None else tangent)
    return torch.stack(pushed, dim=2)


def _twice_backward(network: FunctionalNetwork, inputs: Tensor, directions: list[Direction]) -> Tensor:
    """J u, ``(n, K, c)``, as the gradient of <J^T w, u>, linear in w, with respect to w."""
    leaves = network.leaves()
    with torch.enable_grad():
        outputs = network(leaves, inputs)
        check_outputs(outputs, len(inputs), network.dtype)
        if not outputs.requires_grad:
            return outputs.new_zeros(*outputs.shape, len(directions))
        w = fixed_weights(outputs.detach()).requires_grad_()
        found = torch.autograd.grad(outputs, list(leaves.values()), w, create_graph=True, allow_unused=True)
    pulled = {name: g for name, g in zip(leaves, found, strict=True) if g is not None and g.requires_grad}
    pushed = [
        torch.autograd.grad(
            list(pulled.values()), w, [direction[name] for name in pulled], retain_graph=True, materialize_grads=True
        )[0]
        for direction in directions
    ]
    return torch.stack(pushed, dim=2)


def _method(network: FunctionalNetwork, sample: Tensor) -> Push:
    """The way of computing J u that agrees with backward passes on a few examples, which must be independent.

    Forward mode doesn't see a hook, ``no_grad`` or the padding of an embedding, and a second backward pass may leave
    out without a word what it can't differentiate: so <w, J u> is compared with <J^T w, u>, for w and u that favour no
    parameter and no logit.
    """
    leaves = network.leaves()
    with torch.enable_grad():
        outputs = network(leaves, sample)
    check_outputs(outputs, len(sample), network.dtype)
    if not outputs.requires_grad:  # nothing to compare; other examples may depend on parameters
        return _twice_backward
    check_decoupled(network, sample)
    w = fixed_weights(outputs.detach())
    u = _random_direction(network)
    expected = sum((g * u[name]).sum() for name, g in _gradients(outputs, leaves, w).items())
    check_finite(expected, "gradients or their products")
    reasons = []
    for push in (_forward_mode, _twice_backward):
        try:
            with warnings.catch_warnings():  # PyTorch compiles some of its own rules
                warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
                terms = w * push(network, sample, [u])[..., 0]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reasons.append(str(error).partition("\n")[0].rstrip("."))
            continue
        if (terms.sum() - expected).abs() <= torch.finfo(w.dtype).eps ** 0.5 * terms.abs().sum():
            return push
        reasons.append(f"its <w, J u> is {terms.sum():.3g}, but <J^T w, u> is {expected:.3g}")
    raise ModelError(
        "kernel_product can't differentiate this network along its parameters; empirical_ntk needs no such derivative. "
        f"Forward mode: {reasons[0]}. Two backward passes: {reasons[1]}."
    )


def _random_direction(network: FunctionalNetwork) -> Direction:
    """Always the same noise, every parameter's of norm about 1."""
    generator = torch.Generator(network.device).manual_seed(0)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device) / p.numel() ** 0.5
        for name, p in network.parameters.items()
    }
