"""The plain engine: exact empirical tangent kernels by contraction of explicit Jacobians.

It asks nothing of the network but that it can be differentiated. The engine (`engine`) uses its Jacobians for
parameters that it has no rule for, and is tested against it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from twophase.differentiation.checks import (
    CHECKED_TOGETHER,
    check_decoupled,
    check_finite,
    check_outputs,
    count_classes,
)
from twophase.differentiation.functional import FunctionalNetwork
from twophase.entk.arguments import check_arguments
from twophase.entk.memory import Blocks, default_budget, measure_footprint, plan_blocks
from twophase.entk.precision import exact_float32
from twophase.entk.products import add_product, mirror
from twophase.entk.uses import operations

# Operations whose gradients torch.func mixes up between examples if sizes happen to agree (seen in PyTorch 2.14).
BATCHED_WRONGLY = {"PreluKernelBackward0"}


def plain_ntk(
    model: nn.Module,
    inputs: Tensor,
    *,
    kernel: Literal["full", "trace"] = "full",
    other_inputs: Tensor | None = None,
    memory_budget: int | None = None,
) -> Tensor:
    r"""Empirical neural tangent kernel over all trainable parameters, by Jacobian contraction.

    H[i, k, j, l] = <d f_k(x_i) / d theta, d f_l(x_j) / d theta>, or its class trace, sum_k H[i, k, j, k]
    (Novak 2022, arXiv 2206.08720, section 3.1). Jacobians are computed for blocks of examples, and again for each
    block of rows that doesn't fit into memory with the others. The model, its gradients and mode, and the global
    random state stay as they were; float32 products are never rounded to tf32 or bf16.

    Args:
        model: Network in evaluation mode, mapping ``(n, *d)`` to ``(n, K)``, its parameters all float32 or all
            float64. Parameters with ``requires_grad=False`` are constants.
        inputs: Inputs ``x_i``, shape ``(n, *d)``, on the model's device; of its dtype, or integers.
        kernel: "full", or "trace" for the class trace, which is computed without the full kernel.
        other_inputs: Inputs ``x_j``, shape ``(m, *d)``; ``inputs`` themselves if None.
        memory_budget: Bytes for Jacobians and an estimate of the activations, the result not counted. By default
            half of the GPU's free memory, or a quarter of the main memory that is available. It changes time and
            rounding, nothing else.

    Returns:
        The kernel, shape ``(n, K, m, K)`` or ``(n, m)``, of the model's dtype and device, without autograd graph.
        Without ``other_inputs`` it is symmetric to the bit.

    Raises:
        ValueError: If the inputs are empty or of another device or dtype than the model, or the budget is too
            small to hold one gradient and compute another.
        ModelError: If the model is in training mode, has no trainable parameter, lets one example's output depend
            on the others, or gives outputs that aren't ``(n, K)`` finite numbers.
    """
    check_arguments(model, inputs, other_inputs, kernel, memory_budget)
    if kernel not in ("full", "trace"):
        raise ValueError(f"kernel must be 'full' or 'trace', got {kernel!r}.")
    with _undisturbed(inputs.device):
        inputs = inputs.detach().clone() if inputs.is_inference() else inputs.detach()
        columns = None if other_inputs is None else other_inputs.detach().clone()
        network = FunctionalNetwork.of(model)
        examples, classes = len(inputs), count_classes(network, inputs[:1])
        footprint = measure_footprint(network, inputs[:1])
        budget = memory_budget or default_budget(inputs.device)
        blocks = plan_blocks(footprint, examples, classes, budget)
        room = max(2, budget // (3 * footprint.activations))
        check_decoupled(network, inputs, together=min(room, CHECKED_TOGETHER))
        jacobian = Jacobian(network, classes, blocks.piece, inputs[:1])
        total = examples if columns is None else len(columns)
        return _contract(jacobian, inputs, columns, blocks, (examples, classes, total), full=kernel == "full")


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """No graph, no autocast, no inference mode, no tf32, and the random state put back."""
    devices = [device] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(exact_float32())
        yield


class Jacobian:
    """Gradients of chosen logits with respect to all trainable parameters.

    Args:
        network: The network.
        classes: Number K of its logits.
        piece: Examples differentiated together.
        example: One input, shape ``(1, *d)``, on which vectorisation is tried.
    """

    def __init__(self, network: FunctionalNetwork, classes: int, piece: int, example: Tensor):
        self.network = network
        self.classes = classes
        self.piece = piece
        with torch.enable_grad():
            self._vectorises = BATCHED_WRONGLY.isdisjoint(operations(network(network.leaves(), example)))
        self._differentiate(example, slice(0, 1))

    def __call__(self, inputs: Tensor, classes: slice) -> Tensor:
        """Return the gradients of the logits in ``classes`` at inputs ``(n, *d)``, shape ``(n, classes, P)``."""
        network = self.network
        shape = (len(inputs), classes.stop - classes.start, network.size)
        result = torch.empty(shape, dtype=network.dtype, device=inputs.device)
        for start in range(0, len(inputs), self.piece):
            piece = inputs[start : start + self.piece]
            gradients, outputs = self._differentiate(piece, classes)
            check_outputs(outputs, len(piece), network.dtype, self.classes)
            offset = 0
            for name, parameter in network.parameters.items():
                columns = slice(offset, offset + parameter.numel())
                result[start : start + self.piece, :, columns] = gradients.pop(name).reshape(
                    len(piece), -1, parameter.numel()
                )
                offset = columns.stop
        return result

    def _differentiate(self, inputs: Tensor, classes: slice) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients ``(n, classes, *p)`` by name, and outputs ``(n, K)``, all at once if that can be done."""
        if self._vectorises:
            try:
                return self._vectorised(inputs, classes)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # an operation that torch.func can't batch, such as a branch on a value
                self._vectorises = False
        return self._one_by_one(inputs, classes)

    def _vectorised(self, inputs: Tensor, classes: slice) -> tuple[dict[str, Tensor], Tensor]:
        """All examples and logits at once: gradients ``(n, classes, *p)`` by name, and outputs ``(n, K)``."""

        def outputs_of_one(parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
            outputs = self.network(parameters, x.unsqueeze(0)).squeeze(0)
            return outputs[classes], outputs

        differentiate = vmap(jacrev(outputs_of_one, has_aux=True), in_dims=(None, 0))
        # Attention as products, which can be batched: its fused forms would be run example by example.
        with sdpa_kernel(SDPBackend.MATH):
            return differentiate(self.network.parameters, inputs)

    def _one_by_one(self, inputs: Tensor, classes: slice) -> tuple[dict[str, Tensor], Tensor]:
        """The same by ordinary backward passes, one example and one logit at a time."""
        rows, outputs = [], []
        for x in inputs.split(1):
            leaves = self.network.leaves()
            with torch.enable_grad():
                logits = self.network(leaves, x)
                for logit in logits[0, classes]:
                    if not logit.requires_grad:  # this example's outputs depend on none of the parameters
                        rows.append({name: torch.zeros_like(leaf) for name, leaf in leaves.items()})
                        continue
                    gradients = torch.autograd.grad(
                        logit, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
                    )
                    rows.append(dict(zip(leaves, gradients, strict=True)))
            outputs.append(logits.detach())
        stacked = {
            name: torch.stack([row.pop(name) for row in rows]).unflatten(0, (len(inputs), -1))
            for name in self.network.parameters
        }
        return stacked, torch.cat(outputs)


def _contract(
    jacobian: Jacobian,
    inputs: Tensor,
    columns: Tensor | None,
    blocks: Blocks,
    sizes: tuple[int, int, int],
    *,
    full: bool,
) -> Tensor:
    """The kernel, ``(n, K, m, K)`` or ``(n, m)``: computed block by block, mirrored if there are no ``columns``."""
    n, classes, m = sizes
    shape = (n * classes, m * classes) if full else (n, m)
    flat = torch.zeros(shape, dtype=jacobian.network.dtype, device=inputs.device)
    add_rows = _add_full_rows if full else _add_trace_rows
    # A function of its own for each block of rows, so that its gradients are gone before the next ones come.
    for examples, logits in _cut(n, classes, blocks.held, blocks.classes):
        add_rows(flat, jacobian, inputs, columns, blocks, examples, logits)
    if columns is None:
        mirror(flat)
    check_finite(flat, "gradients or their products")
    return flat.view(n, classes, m, classes) if full else flat


def _add_full_rows(
    flat: Tensor,
    jacobian: Jacobian,
    inputs: Tensor,
    columns: Tensor | None,
    blocks: Blocks,
    examples: slice,
    logits: slice,
) -> None:
    """Add some rows of the full kernel to ``flat``, ``(n K, m K)``; without ``columns`` their upper triangle."""
    classes = jacobian.classes
    held = jacobian(inputs[examples], logits).flatten(0, 1)  # (r, P)
    first = examples.start * classes + logits.start
    rows, start = slice(first, first + len(held)), 0
    if columns is None:
        add_product(flat[rows, rows], held, None)
        columns, start = inputs, rows.stop
    for others, their_logits in _cut(len(columns), classes, blocks.piece, blocks.classes, start):
        at = slice(others.start * classes + their_logits.start, (others.stop - 1) * classes + their_logits.stop)
        add_product(flat[rows, at], held, jacobian(columns[others], their_logits).flatten(0, 1))


def _add_trace_rows(
    flat: Tensor,
    jacobian: Jacobian,
    inputs: Tensor,
    columns: Tensor | None,
    blocks: Blocks,
    examples: slice,
    logits: slice,
) -> None:
    """Add what some logits give to some rows of the class trace, ``(n, m)``: products of gradients laid end to end."""
    held = jacobian(inputs[examples], logits).flatten(1)  # (r, classes P)
    start = 0
    if columns is None:
        add_product(flat[examples, examples], held, None)
        columns, start = inputs, examples.stop
    for at in range(start, len(columns), blocks.piece):
        others = slice(at, at + blocks.piece)
        add_product(flat[examples, others], held, jacobian(columns[others], logits).flatten(1))


def _cut(n: int, classes: int, examples: int, logits: int, start: int = 0) -> Iterator[tuple[slice, slice]]:
    """Cut the n K pairs (example, class), counted class first, into blocks, from pair ``start`` on."""
    if logits == classes:
        for i in range(start // classes, n, examples):
            yield slice(i, min(i + examples, n)), slice(0, classes)
        return
    for i in range(start // classes, n):
        for k in range(0, classes, logits):
            if i * classes + k >= start:
                yield slice(i, i + 1), slice(k, min(k + logits, classes))
