"""Networks: the built-in ones, a user's own, and whether one fits its data."""

from typing import Any

import torch
from torch import nn

from twophase.errors import ModelError
from twophase.models.check import check_model
from twophase.models.imported import build_imported
from twophase.models.plain import cnn, mlp, vgg16
from twophase.models.resnet import ResNet
from twophase.models.scaled import ScaledNetwork, core_of, scaled_network

__all__ = ["ResNet", "ScaledNetwork", "build_model", "check_model", "cnn", "core_of", "mlp", "vgg16"]

BUILT_IN = {"resnet": ResNet, "vgg16": vgg16, "mlp": mlp, "cnn": cnn}


def build_model(settings: dict[str, Any], *, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global generator, which the caller seeds.

    Args:
        settings: ``config.Model.canonical()``: ``name``, ``width``, ``normalization`` and, but for vgg16, ``depth``; or
            ``name`` as ``"package.module:callable"`` and ``arguments``; ``output_scale``, if there is one. Not changed.
        image_shape: Channels, height and width of an image.
        classes: Number of logits K.

    Returns:
        Network in training mode, float32, on the CPU, mapping ``(n, *image_shape)`` to ``(n, classes)``.

    Raises:
        ModelError: If the name or depth is unknown, or the user's callable can't be found, called or used, or the
            network can't be scaled.
    """
    settings = dict(settings)
    name, image_shape = settings.pop("name"), tuple(image_shape)
    scale = settings.pop("output_scale", None)
    if ":" in name:
        model = build_imported(name, settings["arguments"], image_shape=image_shape, classes=classes)
    elif name in BUILT_IN:
        model = BUILT_IN[name](image_shape=image_shape, classes=classes, **settings)
    else:
        raise ModelError(f"model {name!r} is unknown; use one of {', '.join(BUILT_IN)}, or package.module:callable")
    model = model.to(device="cpu", dtype=torch.float32).train()
    return model if scale is None else scaled_network(model, scale, name=name)
