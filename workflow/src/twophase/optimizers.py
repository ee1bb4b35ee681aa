"""The optimisers of the config, as PyTorch has them."""

from collections.abc import Iterable
from typing import Any

from torch import nn, optim


def build_optimizer(settings: dict[str, Any], parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    """Build an optimiser with empty state.

    Args:
        settings: ``config.Study.optimizer.model_dump()``: ``name`` (sgd or adamw) and that optimiser's settings.
        parameters: What it updates.

    Returns:
        The optimiser, one parameter group, at the base learning rate; the caller sets the rate of each step.

    Raises:
        ValueError: If the name is unknown.
    """
    match settings["name"]:
        case "sgd":
            return optim.SGD(
                parameters,
                lr=settings["learning_rate"],
                momentum=settings["momentum"],
                nesterov=settings["nesterov"],
                weight_decay=settings["weight_decay"],
            )
        case "adamw":
            return optim.AdamW(
                parameters,
                lr=settings["learning_rate"],
                betas=(settings["beta1"], settings["beta2"]),
                eps=settings["epsilon"],
                weight_decay=settings["weight_decay"],
            )
    raise ValueError(f"optimizer must be sgd or adamw, got {settings['name']!r}")
