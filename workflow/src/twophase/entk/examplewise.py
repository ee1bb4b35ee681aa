"""Graphs that show by themselves that no example's logits depend on another example's rows."""

from torch import Tensor
from torch.autograd.graph import Node

from twophase.entk.uses import VIEWS

# Operations on one element of each argument.
ELEMENTWISE = {
    f"{name}Backward0"
    for name in (
        *("Add", "Sub", "Mul", "Div", "Neg", "Exp", "Pow", "Tanh", "Sigmoid", "Relu", "LeakyRelu", "Elu", "Celu"),
        *("Gelu", "Silu", "Mish", "Softplus", "Hardtanh", "Hardswish"),
    )
}
# Operations that act along axis 0 of their first argument one by one; a slice, where as many are left.
ALONG_FIRST_AXIS = {
    "AdaptiveAvgPool2DBackward0",
    "AvgPool2DBackward0",
    "ConvolutionBackward0",
    "MaxPool2DWithIndicesBackward0",
    "MmBackward0",
    "NativeGroupNormBackward0",
    "SliceBackward0",
}


def acts_examplewise(outputs: Tensor) -> bool:
    """Whether every operation behind some outputs has one example a row of axis 0, and computes it from its own.

    Gradients of an example's logits are then zero in the rows of the others, whatever the values are.

    Args:
        outputs: Logits, shape ``(n, K)``, with their graph.

    Returns:
        False if the graph has other operations, too: it shows nothing then.
    """
    if len(outputs) == 1:
        return True
    if outputs.grad_fn is None:
        return False
    waiting, seen = [outputs.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        sources = {
            slot: source
            for slot, (source, _) in enumerate(node.next_functions)
            if source is not None and not _is_parameter(source)
        }
        if _sizes(node)[:1] != (len(outputs),) or (sources and not _keeps_examples(node, sources)):
            return False
        waiting += sources.values()
    return True


def _is_parameter(node: Node) -> bool:
    """Whether a node is a parameter, or one turned as `nn.Linear` does."""
    if node.name() == "TBackward0":
        node = node.next_functions[0][0]
    return node.name() == "torch::autograd::AccumulateGrad"


def _sizes(node: Node) -> tuple[int, ...]:
    return tuple(node._input_metadata[0].shape)


def _keeps_examples(node: Node, sources: dict[int, Node]) -> bool:
    """Whether an operation computes each example along axis 0 from its own; sources have them there, by arguments."""
    name = node.name()
    if name in ELEMENTWISE:
        return all(_sizes(source) == _sizes(node) for source in sources.values())
    if name == "AddmmBackward0":  # bias, features, weight
        return set(sources) == {1}
    if set(sources) != {0}:
        return False
    match name:
        case "NativeBatchNormBackward0":
            return not node._saved_training
        case "NativeLayerNormBackward0":
            return len(node._saved_normalized_shape) < len(_sizes(node))
        case "MeanBackward1" | "SumBackward1":
            dimensions = len(_sizes(sources[0]))
            return all(axis % 2**64 not in (0, 2**64 - dimensions) for axis in node._saved_dim)
        case "ConstantPadNdBackward0":
            return len(node._saved_pad) < 2 * len(_sizes(node))
        case _:
            return name in VIEWS or name in ALONG_FIRST_AXIS
