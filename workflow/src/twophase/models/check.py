"""Whether a network fits its data: what every measurement takes for granted, asked once."""

import torch
from torch import Tensor, nn

from twophase.errors import ModelError

# Logits of one image, alone and in a batch, may differ by rounding: up to about 1e-3 of their size with TF32.
COUPLING_TOLERANCE = 1e-2


def check_model(model: nn.Module, inputs: Tensor, classes: int, *, name: str | None = None) -> None:
    """Refuse a network that can't be trained or measured.

    In evaluation mode it has to map ``(n, *image_shape)`` to finite floating-point logits ``(n, classes)``, those of
    one image whatever the other images are and however often it is asked; and it needs a trainable parameter.

    Args:
        model: The network; its weights and buffers are used, its modes are left as found.
        inputs: Images ``(n, C, H, W)`` on the model's device, ``n >= 2`` to see coupled examples.
        classes: Number of logits K.
        name: What messages call it, such as the ``name`` in the config; by default its class.

    Raises:
        ModelError: Saying what was expected and what came.
    """
    name = name or f"{type(model).__module__}:{type(model).__qualname__}"
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(f"model {name} has no trainable parameter; expected at least one with requires_grad")
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        logits = _logits(name, model, inputs, classes)
        alone = _logits(name, model, inputs[:1], classes)
    finally:
        for module, mode in modes.items():
            module.training = mode
    gap, scale = (logits[:1] - alone).abs().max(), logits.abs().max()
    if gap > COUPLING_TOLERANCE * scale:
        raise ModelError(
            f"model {name} in evaluation mode gives an image other logits alone than in a batch of {len(inputs)} "
            f"(they differ by {gap:.2g}, logits are up to {scale:.2g}); expected logits that depend on nothing but the "
            "image: no batch statistics, no dropout"
        )


def _logits(name: str, model: nn.Module, inputs: Tensor, classes: int) -> Tensor:
    shape = tuple(inputs.shape[1:])
    try:
        with torch.no_grad():
            logits = model(inputs)
    except Exception as error:
        raise ModelError(
            f"model {name} on {len(inputs)} image(s) of shape {shape} raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(logits, Tensor):
        raise ModelError(f"model {name} returns {type(logits).__name__}; expected one tensor of logits")
    if logits.shape != (len(inputs), classes):
        raise ModelError(
            f"model {name} maps images of shape {shape} to {tuple(logits.shape)}; "
            f"expected {(len(inputs), classes)}, a logit for each of {classes} classes"
        )
    if not logits.is_floating_point():
        raise ModelError(f"model {name} returns {logits.dtype}; expected floating-point logits")
    if not logits.isfinite().all():
        bad = int((~logits.isfinite()).sum())
        raise ModelError(f"model {name} returns {bad} infinite or NaN logits of {logits.numel()}; expected finite ones")
    return logits
