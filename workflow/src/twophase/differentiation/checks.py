"""What can't be differentiated example by example, since the result would be silently wrong."""

import torch
from torch import Tensor, nn

from twophase.differentiation.functional import FunctionalNetwork
from twophase.errors import ModelError

CHECKED_TOGETHER = 8  # examples whose joint outputs are compared with each one's own
# Rounding can flip a ReLU or a maximum, which moves a gradient far more than an output: by 3 % in a VGG-16.
GRADIENT_TOLERANCE = 0.1


def check_model(model: nn.Module) -> None:
    """Refuse a network in training mode, without trainable parameters, or on several devices or number types.

    Args:
        model: The network.

    Raises:
        ModelError: If the network is one of these.
    """
    training = [name or "the network itself" for name, module in model.named_modules() if module.training]
    if training:
        raise ModelError(
            f"The network must be in evaluation mode, where examples don't affect each other; call model.eval(). "
            f"In training mode: {_listed(training)}."
        )
    parameters = dict(model.named_parameters())
    if not any(p.requires_grad for p in parameters.values()):
        raise ModelError("The network has no trainable parameter (requires_grad).")
    dtypes = {p.dtype for p in parameters.values()}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise ModelError(f"The network's parameters must all be float32 or all float64, got {_listed(dtypes)}.")
    devices = {t.device for t in (*parameters.values(), *model.buffers())}
    if len(devices) > 1:
        raise ModelError(f"The network's parameters and buffers must be on one device, got {_listed(devices)}.")


def count_classes(network: FunctionalNetwork, example: Tensor) -> int:
    """Return the number K of logits.

    Args:
        network: The network.
        example: One input, shape ``(1, *d)``.

    Returns:
        The number of logits.

    Raises:
        ModelError: If the network can't evaluate one example alone, or its outputs aren't ``(1, K)``.
    """
    try:
        outputs = network(network.parameters, example)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ModelError(
            f"The network fails on a single example, of shape {tuple(example.shape)} and {example.dtype}: {error}"
        ) from error
    check_outputs(outputs, 1, network.dtype)
    return outputs.shape[1]


def check_outputs(outputs: Tensor, examples: int, dtype: torch.dtype, classes: int | None = None) -> None:
    """Refuse outputs that aren't ``(n, K)`` finite numbers.

    Args:
        outputs: What the network returned.
        examples: Number n of inputs.
        dtype: Number type of the parameters.
        classes: Number K of logits, if known.

    Raises:
        ModelError: If shape, type or values are wrong.
    """
    if not isinstance(outputs, Tensor):
        raise ModelError(f"The network must return one tensor (n, K), got {type(outputs).__name__}.")
    wanted = f"({examples}, {classes or 'K'})"
    fits = outputs.ndim == 2 and outputs.shape[0] == examples and outputs.shape[1] == (classes or outputs.shape[1])
    if not fits or outputs.shape[1] == 0:
        raise ModelError(f"For {examples} inputs the network must return {wanted}, got {tuple(outputs.shape)}.")
    if outputs.dtype != dtype:
        raise ModelError(f"The network's outputs are of {outputs.dtype}, its parameters of {dtype}.")
    check_finite(outputs, "outputs")


def check_finite(values: Tensor, what: str) -> None:
    """Refuse NaN and infinity.

    Args:
        values: Any floating-point tensor, looked at a part at a time.
        what: Its name in the message.

    Raises:
        ModelError: If a value is not finite.
    """
    for part in values.view(-1).split(1 << 18) if values.is_contiguous() else values.flatten().split(1 << 18):
        if not all(map(torch.isfinite, torch.aminmax(part))):  # NaN wins; a fifth of the time of torch.isfinite
            raise ModelError(f"The network's {what} contain NaN or infinity.")


def check_decoupled(network: FunctionalNetwork, inputs: Tensor, together: int = CHECKED_TOGETHER) -> None:
    """Refuse a network whose output for one example depends on the others, such as BatchNorm on batch statistics.

    A few examples are passed through together and one by one, and both the outputs and the gradients of a fixed
    combination of them are compared: a network whose last layer is zero shows its coupling only in the latter.

    Args:
        network: The network.
        inputs: Inputs, shape ``(n, *d)``; evenly spaced ones are used.
        together: How many.

    Raises:
        ModelError: If they differ by more than rounding can.
    """
    count = min(len(inputs), together)
    chosen = torch.linspace(0, len(inputs) - 1, count).round().long().to(inputs.device)
    sample = inputs[chosen]
    outputs, gradient = _outputs_and_gradient(network, sample, offset=0)
    check_outputs(outputs, count, network.dtype)
    alone = torch.empty_like(outputs)
    summed = torch.zeros_like(gradient)
    for i in range(count):
        alone[i : i + 1], one = _outputs_and_gradient(network, sample[i : i + 1], offset=i)
        summed += one
    tolerance = torch.finfo(outputs.dtype).eps ** 0.5
    difference = (outputs - alone).abs().max()
    moved = torch.linalg.vector_norm(gradient - summed)
    if difference > tolerance * alone.abs().max() or moved > GRADIENT_TOLERANCE * torch.linalg.vector_norm(summed):
        raise ModelError(
            f"The network's output for one example depends on the others, or on chance: {count} examples together and "
            f"one by one give outputs that differ by up to {difference:.3g}, of {alone.abs().max():.3g} "
            f"(gradients: by {moved:.3g}, of {torch.linalg.vector_norm(summed):.3g}). "
            f"BatchNorm must use its running statistics."
        )


def _outputs_and_gradient(network: FunctionalNetwork, inputs: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """Outputs ``(n, K)`` and the gradient ``(P,)`` of their sum with fixed weights, which ``offset`` counts on."""
    leaves = network.leaves()
    with torch.enable_grad():
        outputs = network(leaves, inputs)
        check_outputs(outputs, len(inputs), network.dtype)
        if not outputs.requires_grad:  # these inputs' outputs depend on no parameter
            return outputs, torch.zeros(network.size, dtype=network.dtype, device=inputs.device)
        weights = fixed_weights(outputs, offset)
        gradients = torch.autograd.grad(
            (weights * outputs).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    return outputs.detach(), torch.cat([g.to_dense().flatten() for g in gradients])


def fixed_weights(outputs: Tensor, offset: int = 0) -> Tensor:
    """Weights of the logits, of both signs and like sizes, for a gradient that sees all of them.

    Args:
        outputs: Logits, shape ``(n, K)``.
        offset: Number of the first example.

    Returns:
        Weights, shape ``(n, K)``.
    """
    counted = torch.arange(outputs.numel(), device=outputs.device, dtype=outputs.dtype)
    return torch.cos(1 + offset * outputs.shape[1] + counted).view_as(outputs)


def _listed(names) -> str:
    """A few names, and how many more there are."""
    names = sorted(map(str, names))
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
