"""How large a built-in network is, from its settings alone.

Nothing here imports PyTorch: the Snakefile reads this module, and Snakemake reads the Snakefile for each job. So the
networks of ``twophase.models`` are walked through here once more, layer by layer, without any tensors; a test
compares the two.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

VGG16_STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # channels over width, convolutions, as in models.plain


@dataclass(frozen=True)
class NetworkSize:
    """Size of a network, in numbers (not bytes).

    Attributes:
        parameters: Trainable numbers.
        buffers: Numbers kept beside them: BatchNorm's running means and variances, and 1 for each of its counters.
        multiply_adds: Multiplications, each with its addition, in one forward pass of one example through the
            convolutions (products with the padding's zeros included) and linear layers; biases are not counted.
        activations: Numbers in the outputs of all convolutions, normalisations, ReLUs, poolings, the spatial mean and
            linear layers for one example, each output counted once. Not counted are the image, its flattening,
            shortcuts, their sums, a normalisation that is ``none``. It is an upper estimate of the floating-point
            numbers that a training step keeps for one example besides the image; max pooling also keeps indices.
    """

    parameters: int
    buffers: int
    multiply_adds: int
    activations: int


def network_size(model: dict[str, Any], *, image_shape: tuple[int, int, int], classes: int) -> NetworkSize | None:
    """Size of the network that ``twophase.models.build_model`` builds with the same arguments.

    Args:
        model: ``config.Model.canonical()`` of a valid config. Not changed.
        image_shape: Channels, height and width of an image, in pixels.
        classes: Number of logits K.

    Returns:
        Its size; None for a user's network, ``"package.module:callable"``, which can't be known without building it.
    """
    settings = dict(model)
    name = settings.pop("name")
    settings.pop("output_scale", None)  # the frozen copy of the network is not counted
    if ":" in name:
        return None
    walk = {"resnet": _resnet, "vgg16": _vgg16, "mlp": _mlp, "cnn": _cnn}[name]
    layers = _Layers(image_shape, settings.pop("normalization"))
    walk(layers, **settings)
    layers.linear(classes, bias=True)
    return NetworkSize(layers.parameters, layers.buffers, layers.multiply_adds, layers.activations)


class _Layers:
    """Walks through a network's layers with one example, whose shape it knows, and counts.

    A layer of units is a map of one pixel.
    """

    def __init__(self, image_shape: tuple[int, int, int], normalization: str):
        self.channels, *self.sides = image_shape
        self.normalization = normalization
        self.parameters = self.buffers = self.multiply_adds = self.activations = 0

    def conv3x3(self, channels: int, *, stride: int = 1) -> Self:
        """Convolution with padding 1, with a bias only without normalisation."""
        self._shrink(stride)
        return self._weigh(9 * self.channels, channels, bias=self.normalization == "none")

    def linear(self, units: int, *, bias: bool) -> Self:
        """Linear layer on one pixel."""
        return self._weigh(self.channels, units, bias=bias)

    def norm(self) -> Self:
        """Normalisation with a scale and an offset for each channel."""
        if self.normalization == "none":
            return self
        self.parameters += 2 * self.channels
        if self.normalization == "batch":
            self.buffers += 2 * self.channels + 1
        return self._keep()

    def relu(self) -> Self:
        """ReLU, also one behind the sum of a residual block."""
        return self._keep()

    def pool(self) -> Self:
        """2x2 max pooling that rounds up."""
        self._shrink(2)
        return self._keep()

    def mean(self) -> Self:
        """Mean over height and width."""
        self.sides = [1, 1]
        return self._keep()

    def flatten(self) -> Self:
        """The same numbers as units."""
        self.channels, self.sides = self.channels * math.prod(self.sides), [1, 1]
        return self

    def _shrink(self, stride: int) -> None:
        self.sides = [math.ceil(side / stride) for side in self.sides]

    def _weigh(self, inputs: int, channels: int, *, bias: bool) -> Self:
        """Output ``channels`` numbers at each pixel, each a weighted sum of ``inputs`` numbers."""
        self.parameters += (inputs + bias) * channels
        self.multiply_adds += inputs * channels * math.prod(self.sides)
        self.channels = channels
        return self._keep()

    def _keep(self) -> Self:
        self.activations += self.channels * math.prod(self.sides)
        return self


def _resnet(layers: _Layers, *, depth: int, width: int) -> None:
    layers.conv3x3(width).norm().relu()
    for stage in range(3):
        for index in range((depth - 2) // 6):
            layers.conv3x3(width * 2**stage, stride=2 if stage and not index else 1).norm().relu()
            layers.conv3x3(width * 2**stage).norm().relu()
    layers.mean()


def _vgg16(layers: _Layers, *, width: int) -> None:
    for factor, convolutions in VGG16_STAGES:
        for _ in range(convolutions):
            layers.conv3x3(factor * width).norm().relu()
        layers.pool()
    layers.mean()


def _cnn(layers: _Layers, *, depth: int, width: int) -> None:
    for block in range(depth):
        if block and max(layers.sides) > 1:
            layers.pool()
        layers.conv3x3(width * 2**block).norm().relu()
    layers.mean()


def _mlp(layers: _Layers, *, depth: int, width: int) -> None:
    layers.flatten()
    for _ in range(depth):
        layers.linear(width, bias=layers.normalization == "none").norm().relu()
