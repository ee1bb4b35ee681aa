"""Arguments that no kernel can be computed from."""

from torch import Tensor, nn

from twophase.differentiation.checks import check_model


def check_arguments(
    model: nn.Module,
    inputs: Tensor,
    other_inputs: Tensor | None,
    kernel: str | int,
    memory_budget: int | None,
) -> None:
    """Refuse arguments that no kernel can be computed from.

    Args:
        model: The network.
        inputs: Inputs of the rows, shape ``(n, *d)``.
        other_inputs: Inputs of the columns, or None.
        kernel: Which kernel.
        memory_budget: Bytes, or None.

    Raises:
        ValueError: If an argument is empty, unknown, or of another device or number type than the network.
    """
    if kernel not in ("full", "trace", "sum") and (isinstance(kernel, bool) or not isinstance(kernel, int)):
        raise ValueError(f"kernel must be 'full', 'trace', 'sum' or the number of a logit, got {kernel!r}.")
    if memory_budget is not None and memory_budget <= 0:
        raise ValueError(f"memory_budget must be a positive number of bytes, got {memory_budget}.")
    check_model(model)
    parameter = next(model.parameters())
    for name, tensor in (("inputs", inputs), ("other_inputs", other_inputs)):
        if tensor is None:
            continue
        if tensor.ndim == 0 or tensor.shape[0] == 0:
            raise ValueError(f"{name} needs at least one example, got shape {tuple(tensor.shape)}.")
        if tensor.device != parameter.device:
            raise ValueError(f"{name} is on {tensor.device}, the network's parameters on {parameter.device}.")
        numeric = tensor.is_floating_point() or tensor.is_complex()
        if numeric and tensor.dtype != parameter.dtype:
            raise ValueError(f"{name} is of {tensor.dtype}, the network's parameters of {parameter.dtype}.")
