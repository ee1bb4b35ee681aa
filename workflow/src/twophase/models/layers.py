"""What the built-in networks are made of: normalisation, convolution, initialisation, pooling."""

from torch import Tensor, nn

from twophase.errors import ModelError

MIN_CHANNELS_PER_GROUP = 8
MAX_GROUPS = 32


def group_count(channels: int) -> int:
    """Groups of GroupNorm: the largest divisor of ``channels``, at most 32, that leaves each group 8 channels or more.

    With fewer than 16 channels it is 1. Small groups would normalise a 1x1 map, or a layer of units, to almost nothing.
    """
    most = max(1, min(MAX_GROUPS, channels // MIN_CHANNELS_PER_GROUP))
    return max(groups for groups in range(1, most + 1) if channels % groups == 0)


def normalization_layer(kind: str, channels: int, *, spatial: bool = True) -> nn.Module:
    """Normalisation between a linear map and its ReLU.

    Args:
        kind: ``batch``, ``group`` or ``none``.
        channels: Channels of a map, or units of a layer.
        spatial: Whether the input is ``(n, channels, height, width)``, not ``(n, channels)``.

    Returns:
        The layer; an identity for ``none``.

    Raises:
        ModelError: If the kind is unknown.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels) if spatial else nn.BatchNorm1d(channels)
    if kind == "group":
        return nn.GroupNorm(group_count(channels), channels)
    if kind == "none":
        return nn.Identity()
    raise ModelError(f"normalization {kind!r} is unknown; use batch, group or none")


def conv3x3(in_channels: int, out_channels: int, normalization: str, *, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution, padding 1, before a normalisation; it has a bias only if that is ``none``.

    Weights are normal with variance ``2 / (9 * out_channels)`` (He et al. 2015, arXiv 1502.01852, the fan-out form,
    their eq. 14, which keeps the scale of gradients); biases are 0.
    """
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=normalization == "none")
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def hidden_linear(in_units: int, out_units: int, normalization: str) -> nn.Linear:
    """Linear map before a normalisation and a ReLU; it has a bias only if the normalisation is ``none``.

    Weights are normal with variance ``2 / in_units`` (He et al. 2015, the fan-in form, their eq. 10, which keeps the
    scale of activations); biases are 0.
    """
    linear = nn.Linear(in_units, out_units, bias=normalization == "none")
    nn.init.kaiming_normal_(linear.weight, mode="fan_in", nonlinearity="relu")
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


def halving_pool() -> nn.MaxPool2d:
    """2x2 max pooling that rounds up: an odd side keeps its last row, a side of 1 stays 1.

    Its windows don't overlap, so that its gradient adds no two numbers, on no device in a changing order.
    """
    return nn.MaxPool2d(2, ceil_mode=True)


class SpatialMean(nn.Module):
    """Mean over height and width; adaptive average pooling has no deterministic gradient on CUDA."""

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``(n, channels, height, width)`` to ``(n, channels)``."""
        return maps.mean(dim=(2, 3))
