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
        channel_axes: The output's axes that c counts.
        features: How the x of one node are read, given the rows.
        ordered: Brings Jacobians ``(n, q, C, D)`` to the order in which the operation takes the parameter.
        rows_first: Whether rows can only be the output's first axis.
    """

    channel_axes: tuple[int, ...]
    features: Callable[[Node, Rows, int], tuple[Features, Tensor]]
    ordered: Callable[[Tensor, Features], Tensor]
    rows_first: bool = False

    def channels(self, sizes: tuple[int, ...]) -> int:
        """Number C of channels of an output of these sizes."""
        return math.prod(sizes[axis] for axis in self.channel_axes)

    def gradient(self, gradient: Tensor, rows: Rows, examples: int) -> Tensor:
        """Bring a gradient of the output to ``(n, positions, channels)``."""
        parted = rows.split(gradient, examples)
        axes = tuple(rows.place(axis) for axis in self.channel_axes)
        parted = parted.movedim(axes, tuple(range(-len(axes), 0)))
        return parted.reshape(examples, -1, self.channels(gradient.shape))

    def fits(self, rows: Rows, dimensions: int) -> bool:
        """Whether an output of so many dimensions can have its rows there."""
        channels = {axis % dimensions for axis in self.channel_axes}
        return rows.axis == 0 if self.rows_first else rows.axis not in channels


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
        kept = [rows.place(axis) for axis in self.kept_axes(shape, gradient.ndim)]
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
    rule = RULES.get((use.node.name(), use.slot))
    # The gradient of a real parameter is the real part of what the rules give for complex results.
    return None if rule is None or use.node._input_metadata[0].dtype.is_complex else rule(use.node)


def _matrix_product(
    node: Node, other: str, channels: tuple[int, ...], ordered: Callable[[Tensor, Features], Tensor]
) -> OuterProduct | None:
    """Of a product whose other factor is saved under this name; several products side by side are groups."""
    if getattr(node, "_saved_alpha", 1) != 1:
        return None

    def features(node: Node, rows: Rows, examples: int) -> tuple[Features, Tensor]:
        values = rows.split(getattr(node, other), examples)  # (n, S, [G,] D)
        groups = math.prod(values.shape[2:-1])
        values = values if groups > 1 else values.flatten(2)
        return DenseFeatures(values.shape[1], values.shape[-1], groups), values

    return OuterProduct(channels, features, ordered)


def _as_it_is(jacobian: Tensor, features: Features) -> Tensor:
    return jacobian


def _inputs_first(jacobian: Tensor, features: Features) -> Tensor:
    return jacobian.unflatten(2, (features.groups, -1)).transpose(3, 4)


def _convolution(node: Node) -> OuterProduct:
    def features(node: Node, rows: Rows, examples: int) -> tuple[Features, Tensor]:
        kernel = tuple(node._saved_weight.shape[2:])
        values = rows.split(node._saved_input, examples).movedim(2, -1)
        stride, padding, dilation = (
            tuple(getattr(node, f"_saved_{name}")) for name in ("stride", "padding", "dilation")
        )
        if node._saved_transposed:
            values = _spread(values, stride, tuple(node._saved_output_padding))
            padding = tuple(d * (k - 1) - p for k, p, d in zip(kernel, padding, dilation, strict=True))
            stride = (1,) * len(stride)
        geometry = (kernel, stride, padding, dilation, node._saved_groups)
        return ConvolutionFeatures(tuple(values.shape[1:]), *geometry), values

    return OuterProduct((1,), features, _inputs_turned if node._saved_transposed else _taps_last, rows_first=True)


def _spread(values: Tensor, stride: tuple[int, ...], more: tuple[int, ...]) -> Tensor:
    """Images ``(n, r, *pixels, channels)`` with zeros between pixels: convolutions of these are transposed ones."""
    n, images, *pixels, channels = values.shape
    sides = [(side - 1) * step + 1 + extra for side, step, extra in zip(pixels, stride, more, strict=True)]
    spread = values.new_zeros(n, images, *sides, channels)
    places = tuple(slice(0, (side - 1) * step + 1, step) for side, step in zip(pixels, stride, strict=True))
    spread[:, :, *places] = values
    return spread


def _taps_last(jacobian: Tensor, features: ConvolutionFeatures) -> Tensor:
    """D counts pixels of the kernel, then channels; weights are ``(C, channels, *kernel)``."""
    return jacobian.unflatten(3, (math.prod(features.kernel), -1)).transpose(3, 4)


def _inputs_turned(jacobian: Tensor, features: ConvolutionFeatures) -> Tensor:
    """A transposed convolution's weights are ``(groups, channels, C, *kernel)``, the kernel turned round."""
    parted = jacobian.unflatten(3, (math.prod(features.kernel), -1)).flip(3)
    return parted.unflatten(2, (features.groups, -1)).permute(0, 1, 2, 5, 3, 4)


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

    return OuterProduct((-1,), features, _inputs_first)


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


RULES: dict[tuple[str, int], Callable[[Node], OuterProduct | ScaledSum | None]] = {
    ("MmBackward0", 0): lambda node: _matrix_product(node, "_saved_mat2", (0,), _as_it_is),
    ("MmBackward0", 1): lambda node: _matrix_product(node, "_saved_self", (1,), _inputs_first),
    ("MvBackward0", 1): lambda node: _matrix_product(node, "_saved_self", (), _as_it_is),
    ("AddmmBackward0", 0): lambda node: ScaledSum(_one, lambda node: node._saved_beta),
    ("AddmmBackward0", 1): lambda node: _matrix_product(node, "_saved_mat2", (0,), _as_it_is),
    ("AddmmBackward0", 2): lambda node: _matrix_product(node, "_saved_mat1", (1,), _inputs_first),
    ("BmmBackward0", 0): lambda node: _matrix_product(node, "_saved_mat2", (0, 1), _as_it_is),
    ("BmmBackward0", 1): lambda node: _matrix_product(node, "_saved_self", (0, 2), _inputs_first),
    ("BaddbmmBackward0", 0): lambda node: ScaledSum(_one, lambda node: node._saved_beta),
    ("BaddbmmBackward0", 1): lambda node: _matrix_product(node, "_saved_batch2", (0, 1), _as_it_is),
    ("BaddbmmBackward0", 2): lambda node: _matrix_product(node, "_saved_batch1", (0, 2), _inputs_first),
    ("ConvolutionBackward0", 1): _convolution,
    ("ConvolutionBackward0", 2): lambda node: ScaledSum(_one, channel_axis=1),
    ("EmbeddingBackward0", 0): _embedding,
    ("NativeGroupNormBackward0", 1): lambda node: ScaledSum(_group_normalized, channel_axis=1),
    ("NativeGroupNormBackward0", 2): lambda node: ScaledSum(_one, channel_axis=1),
    ("NativeLayerNormBackward0", 1): lambda node: ScaledSum(_layer_normalized),
    ("NativeLayerNormBackward0", 2): lambda node: ScaledSum(_one),
    ("AddBackward0", 0): lambda node: ScaledSum(_one),
    ("AddBackward0", 1): lambda node: ScaledSum(_one, lambda node: node._saved_alpha),
    ("SubBackward0", 0): lambda node: ScaledSum(_one),
    ("SubBackward0", 1): lambda node: ScaledSum(_one, lambda node: -node._saved_alpha),
    ("ExpandBackward0", 0): lambda node: ScaledSum(_one),
    ("RepeatBackward0", 0): lambda node: ScaledSum(_one),
    ("PreluKernelBackward0", 1): lambda node: ScaledSum(lambda node: node._saved_self.clamp(max=0)),
    ("MulBackward0", 0): lambda node: ScaledSum(lambda node: node._saved_other),
    ("MulBackward0", 1): lambda node: ScaledSum(lambda node: node._saved_self),
}
for _name in ("NativeBatchNormBackward0", "CudnnBatchNormBackward0"):
    RULES[_name, 1] = lambda node: _batch_norm(node, _batch_normalized)
    RULES[_name, 2] = lambda node: _batch_norm(node, _one)

# Where the operations of outer products take a bias.
BIAS_SLOTS = {"AddmmBackward0": 0, "ConvolutionBackward0": 2}
