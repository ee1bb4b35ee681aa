"""How the gradient of an operation's output gives the gradient of a parameter that it takes.

Two kinds cover what networks are made of. An **outer product**: the weight's gradient is a sum over positions s of
gradient times features, ``sum_s g[s, c] x[s, d]`` (linear layers, convolutions, embeddings). A **scaled sum**: the
gradient times a factor of the output's shape, summed over the axes along which the parameter was broadcast (biases,
normalisation layers' scales, parameters that are added or multiplied).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from twophase.entk.features import ConvolutionFeatures, DenseFeatures, Features, IndexFeatures
from twophase.entk.rows import Rows
from twophase.entk.uses import Use


@dataclass(frozen=True)
class OuterProduct:
    """``d f / d W[c, d] = sum_s g[s, c] x[s, d]``.

    Attributes:
        channel_axis: The output's axis c.
        features: How the x of one node are read, given the rows.
        input_first: Whether the parameter is stored as ``(d, c)``.
    """

    channel_axis: int
    features: Callable[[Node, Rows, int], tuple[Features, Tensor]]
    input_first: bool = False

    def gradient(self, gradient: Tensor, rows: Rows, examples: int) -> Tensor:
        """Bring a gradient of the output to ``(n, positions, channels)``."""
        parted = rows.split(gradient, examples)
        # Splitting moves the row axis to the front and adds one.
        parted = parted if self.channel_axis == -1 else parted.movedim(self.channel_axis + 1, -1)
        return parted.flatten(1, -2)

    def in_parameter_order(self, jacobian: Tensor, features: Features, shape: tuple[int, ...]) -> Tensor:
        """Bring Jacobians ``(n, q, C, D)`` to the order of a parameter of this shape, ``(n, q, size)``."""
        if self.input_first:
            return jacobian.transpose(2, 3).flatten(2)
        if isinstance(features, ConvolutionFeatures):  # D counts pixels of the kernel, then channels
            return jacobian.unflatten(3, (-1, shape[1])).transpose(3, 4).flatten(2)
        return jacobian.flatten(2)

    def fits(self, rows: Rows, dimensions: int) -> bool:
        """Whether an output of so many dimensions can have its rows there."""
        return rows.axis == 0 if self.channel_axis == 1 else rows.axis < dimensions - 1


@dataclass(frozen=True)
class ScaledSum:
    """``d f / d p = scale * sum g * factor`` over the axes along which p was broadcast.

    Attributes:
        factor: Reads the factor off a node, None for 1; broadcast to the output's shape.
        scale: Reads a number off a node.
        channel_axis: The output's axis that p belongs to, or None if p is aligned with the output's last axes.
    """

    factor: Callable[[Node], Tensor | None]
    scale: Callable[[Node], float] = lambda node: 1.0
    channel_axis: int | None = None

    def kept_axes(self, shape: tuple[int, ...], dimensions: int) -> list[int]:
        """Axes of an output of so many dimensions that a parameter of this shape is not broadcast along."""
        if self.channel_axis is not None:
            return [self.channel_axis]
        first = dimensions - len(shape)
        return [first + axis for axis, size in enumerate(shape) if size != 1]

    def fits(self, rows: Rows, shape: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
        """Whether an output of these sizes has the parameter's axes, and its rows along none of them."""
        if len(shape) > len(sizes):
            return False
        kept = self.kept_axes(shape, len(sizes))
        return rows.axis not in kept and math.prod(sizes[axis] for axis in kept) == math.prod(shape)

    def jacobian(
        self, gradient: Tensor, factor: Tensor | None, scale: float, rows: Rows, examples: int, shape: tuple[int, ...]
    ) -> Tensor:
        """Gradient of the parameter for each example, ``(n, size)``, from that of the output."""
        kept = [axis + 1 + (axis < rows.axis) for axis in self.kept_axes(shape, gradient.ndim)]
        values = rows.split(gradient if factor is None else gradient * factor, examples)
        summed = [axis for axis in range(1, values.ndim) if axis not in kept]
        values = values.sum(summed) if summed else values
        return (values if scale == 1 else scale * values).reshape(examples, -1)


def operation_of(use: Use) -> OuterProduct | ScaledSum | None:
    """Return the rule of a use; None if there is none.

    Args:
        use: A parameter's use.

    Returns:
        What gives the parameter's gradient.
    """
    rule = RULES.get((use.node.name(), use.slot, use.transposed))
    return None if rule is None else rule(use.node)


def _linear(node: Node, transposed: bool, saved: str) -> OuterProduct | None:
    if getattr(node, "_saved_alpha", 1) != 1:
        return None

    def features(node: Node, rows: Rows, examples: int) -> tuple[Features, Tensor]:
        values = rows.split(getattr(node, saved), examples)
        return DenseFeatures(values.shape[1], values.shape[2]), values

    return OuterProduct(-1, features, input_first=not transposed)


def _convolution(node: Node) -> OuterProduct | None:
    if node._saved_transposed:
        return None

    def features(node: Node, rows: Rows, examples: int) -> tuple[Features, Tensor]:
        kernel = tuple(node._saved_weight.shape[2:])
        values = rows.split(node._saved_input, examples).movedim(2, -1)
        geometry = (tuple(node._saved_stride), tuple(node._saved_padding), tuple(node._saved_dilation))
        return ConvolutionFeatures(tuple(values.shape[1:]), kernel, *geometry, node._saved_groups), values

    return OuterProduct(1, features)


def _embedding(node: Node) -> OuterProduct | None:
    if node._saved_scale_grad_by_freq:  # a gradient that depends on the other examples
        return None

    def features(node: Node, rows: Rows, examples: int) -> tuple[Features, Tensor]:
        padding = node._saved_padding_idx
        indices = node._saved_indices
        # -1 is sign-extended to 64 bits for "none" by some versions of PyTorch.
        indices = torch.where(indices == padding, -1, indices) if 0 <= padding < 1 << 62 else indices
        values = rows.split(indices, examples).flatten(1)
        return IndexFeatures(values.shape[1], int(node._saved_weight_sym_argsize_0)), values

    return OuterProduct(-1, features, input_first=True)


def _batch_normalized(node: Node) -> Tensor:
    values = node._saved_input
    shape = [1, -1, *[1] * (values.ndim - 2)]
    deviation = (node._saved_running_var + node._saved_eps).rsqrt()
    return (values - node._saved_running_mean.view(shape)) * deviation.view(shape)


def _group_normalized(node: Node) -> Tensor:
    values, shape = node._saved_input, (node._saved_N, node._saved_group, -1)
    mean, deviation = node._saved_result1.unsqueeze(-1), node._saved_result2.unsqueeze(-1)
    return ((values.reshape(shape) - mean) * deviation).view(values.shape)


def _layer_normalized(node: Node) -> Tensor:
    return (node._saved_input - node._saved_result1) * node._saved_result2


def _batch_norm(node: Node, factor: Callable[[Node], Tensor | None]) -> ScaledSum | None:
    return None if node._saved_training else ScaledSum(factor, channel_axis=1)


def _one(node: Node) -> None:
    return None


RULES: dict[tuple[str, int, bool], Callable[[Node], OuterProduct | ScaledSum | None]] = {
    ("AddmmBackward0", 2, True): lambda node: _linear(node, True, "_saved_mat1"),
    ("AddmmBackward0", 2, False): lambda node: _linear(node, False, "_saved_mat1"),
    ("MmBackward0", 1, True): lambda node: _linear(node, True, "_saved_self"),
    ("MmBackward0", 1, False): lambda node: _linear(node, False, "_saved_self"),
    ("ConvolutionBackward0", 1, False): _convolution,
    ("EmbeddingBackward0", 0, False): _embedding,
    ("AddmmBackward0", 0, False): lambda node: ScaledSum(_one, lambda node: node._saved_beta),
    ("ConvolutionBackward0", 2, False): lambda node: ScaledSum(_one, channel_axis=1),
    ("NativeGroupNormBackward0", 1, False): lambda node: ScaledSum(_group_normalized, channel_axis=1),
    ("NativeGroupNormBackward0", 2, False): lambda node: ScaledSum(_one, channel_axis=1),
    ("NativeLayerNormBackward0", 1, False): lambda node: ScaledSum(_layer_normalized),
    ("NativeLayerNormBackward0", 2, False): lambda node: ScaledSum(_one),
    ("AddBackward0", 0, False): lambda node: ScaledSum(_one),
    ("AddBackward0", 1, False): lambda node: ScaledSum(_one, lambda node: node._saved_alpha),
    ("SubBackward0", 0, False): lambda node: ScaledSum(_one),
    ("SubBackward0", 1, False): lambda node: ScaledSum(_one, lambda node: -node._saved_alpha),
    ("ExpandBackward0", 0, False): lambda node: ScaledSum(_one),
    ("RepeatBackward0", 0, False): lambda node: ScaledSum(_one),
    ("PreluKernelBackward0", 1, False): lambda node: ScaledSum(lambda node: node._saved_self.clamp(max=0)),
    ("MulBackward0", 0, False): lambda node: ScaledSum(lambda node: node._saved_other),
    ("MulBackward0", 1, False): lambda node: ScaledSum(lambda node: node._saved_self),
}
for _name in ("NativeBatchNormBackward0", "CudnnBatchNormBackward0"):
    RULES[_name, 1, False] = lambda node: _batch_norm(node, _batch_normalized)
    RULES[_name, 2, False] = lambda node: _batch_norm(node, _one)

# Where the operations of outer products take a bias.
BIAS_SLOTS = {"AddmmBackward0": 0, "ConvolutionBackward0": 2}
