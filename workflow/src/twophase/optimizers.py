"""The optimisers of the config, as PyTorch has them."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim


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


def update_parameters(optimizer: optim.Optimizer, origin: Sequence[Tensor] = ()) -> None:
    """Do what ``optimizer.step()`` does, without importing PyTorch's compiler.

    ``step`` is wrapped for ``torch.compile``, profiling and hooks, none of which a run uses; calling the wrapper
    imports ``torch._dynamo``, which takes 1.3 s of every job.

    Args:
        optimizer: Its parameters have gradients.
        origin: Where the parameters are offsets from, one tensor each, so that weight decay acts on ``origin +
            parameter``; by default they are what decays.
    """
    (group,) = optimizer.param_groups
    moved = [pair for pair in zip(group["params"], origin, strict=False) if pair[0].grad is not None]
    decoupled = isinstance(optimizer, optim.AdamW)
    with torch.no_grad():
        if not decoupled:  # not in place: gradients of two parameters may share memory
            for parameter, start in moved:
                parameter.grad = parameter.grad.add(start, alpha=group["weight_decay"])
        inspect.unwrap(type(optimizer).step)(optimizer)
        if decoupled:  # after the step, which would let it decay once more
            for parameter, start in moved:
                parameter.add_(start, alpha=-group["lr"] * group["weight_decay"])


def _spare_compiler_import() -> None:
    """Keep the optimisers' other methods from importing ``torch._dynamo`` when they are first called.

    PyTorch wraps them to be left alone by its compiler, and caches the outcome on the plain function under this name.
    Where a version of PyTorch does otherwise this has no effect.
    """
    for method in vars(optim.Optimizer).values():
        plain = getattr(method, "__wrapped__", None)
        if inspect.isfunction(plain):
            plain.__dict__.setdefault("__dynamo_disable", plain)


_spare_compiler_import()
