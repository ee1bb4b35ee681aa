"""The smallest count of floating-point operations with which a kernel can be had: what speed is measured against."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """Shape of a convolution; a linear layer is one on single pixels, one for each token.

    Attributes:
        positions: Pixels S of its output.
        input_positions: Pixels of its input.
        inputs: Channels of its input.
        outputs: Channels of its output.
        taps: Pixels T of its window.
    """

    positions: int
    input_positions: int
    inputs: int
    outputs: int
    taps: int

    @property
    def weights(self) -> int:
        """Number of its weights."""
        return self.outputs * self.inputs * self.taps

    @property
    def forward(self) -> int:
        """Operations of a forward pass, a multiplication and an addition counted as 2."""
        return 2 * self.positions * self.weights


def layer_shapes(model: nn.Module, example: Tensor) -> list[Layer]:
    """Find the convolutions and linear layers that an input ``(1, C, H, W)`` passes, in their order."""
    layers = []

    def note(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
        taps = module.weight[0, 0].numel()
        axis = -1 if isinstance(module, nn.Linear) else 1
        pixels = [maps[0].numel() // maps.shape[axis] for maps in (output, arguments[0])]
        layers.append(Layer(*pixels, module.weight.shape[1], module.weight.shape[0], taps))

    modules = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [module.register_forward_hook(note) for module in modules]
    with torch.no_grad():
        model(example)
    for handle in handles:
        handle.remove()
    return layers


def smallest_operations(layers: list[Layer], *, kernel: str, examples: int, classes: int) -> int:
    """Count the operations of the cheapest exact way known, layer by layer.

    One forward pass, a backward pass to the activations for each logit, and then for each layer the cheapest of three
    products over the pairs of examples. Normalisation, attention between tokens, biases and element-wise operations are
    not counted.

    Args:
        layers: The network's layers, the first one first.
        kernel: "full" or "trace".
        examples: Number n of examples; of their pairs, n (n + 1) / 2 are counted.
        classes: Number K of logits.

    Returns:
        The operations, a multiplication and an addition counted as 2.
    """
    forward = [layer.forward for layer in layers]
    capture = examples * (sum(forward) + classes * sum(forward[1:]))
    return capture + sum(_contraction(layer, kernel, examples, classes) for layer in layers)


def _contraction(layer: Layer, kernel: str, n: int, classes: int) -> int:
    """The cheapest of: explicit gradients; Grams of patches and of gradients; a Gram of patches times the gradients."""
    pairs = n * (n + 1) // 2
    products = classes**2 if kernel == "full" else classes
    s = layer.positions
    gram = pairs * 2 * layer.input_positions**2 * layer.inputs
    jacobian = n * classes * layer.forward + pairs * 2 * products * layer.weights
    structured = gram + pairs * 2 * s**2 * products * layer.outputs
    mixed = gram + pairs * 2 * classes * layer.outputs * s * (s + classes)
    return min(jacobian, structured, mixed) if kernel == "full" else min(jacobian, structured)
