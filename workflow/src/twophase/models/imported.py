"""A user's own network, named ``package.module:callable``."""

import importlib
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from twophase.errors import ModelError


def build_imported(
    path: str, arguments: dict[str, Any], *, image_shape: tuple[int, int, int], classes: int
) -> nn.Module:
    """Import ``path`` and call it as ``callable(image_shape=..., classes=..., **arguments)``.

    Args:
        path: ``"package.module:callable"``.
        arguments: Further keyword arguments of the callable.
        image_shape: Channels, height and width of an image.
        classes: Number of logits.

    Returns:
        The module that it returned, unchanged.

    Raises:
        ModelError: If it can't be imported, isn't callable, raises, or returns no module or one with lazy layers.
    """
    build = _find(path)
    try:
        model = build(image_shape=image_shape, classes=classes, **arguments)
    except Exception as error:
        named = "".join(f", {name}={value!r}" for name, value in arguments.items())
        raise ModelError(
            f"model {path}: called with image_shape={image_shape}, classes={classes}{named}, "
            f"it raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {path}: expected a torch.nn.Module from it, got {type(model).__name__}")
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ModelError(f"model {path}: {lazy[0]} has no shape yet; give its lazy layers their input sizes")
    return model


def _find(path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if module_name == error.name or module_name.startswith(f"{error.name}."):
            raise ModelError(
                f"model {path}: no module named {error.name!r}; install it, or add its folder to PYTHONPATH"
            ) from error
        raise ModelError(f"model {path}: {module_name} imports {error.name!r}, which isn't installed") from error
    except Exception as error:
        raise ModelError(f"model {path}: importing {module_name} raised {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        raise ModelError(f"model {path}: module {module_name} has no attribute {attribute!r}")
    build = getattr(module, attribute)
    if not callable(build):
        raise ModelError(f"model {path}: expected a callable, got {type(build).__name__}")
    return build
