"""The benchmark's networks in plain JAX, with the weights of their PyTorch originals.

Maps are ``(n, height, width, channels)``, weights ``(height, width, in, out)``: what XLA prefers on the CPU.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import Array, lax, nn

EPSILON = 1e-5  # of torch.nn.BatchNorm2d and LayerNorm
Parameters = dict[str, Array]
VGG16_STAGES = (2, 2, 3, 3, 3)  # convolutions
RESNET20_BLOCKS = 9
RESNET18_STAGES = (1, 2, 3, 4)  # of two blocks
TRANSFORMER_BLOCKS, HEADS, PATCH = 4, 4, 4


def convert(state: dict[str, np.ndarray]) -> tuple[Parameters, dict[str, np.ndarray]]:
    """Convert a PyTorch state to trainable parameters and running statistics, by the names they have there."""
    parameters, statistics = {}, {}
    for name, value in state.items():
        if "running" in name:
            statistics[name] = value
        elif "num_batches" not in name:
            axes = {4: (2, 3, 1, 0), 3: (0, 1, 2), 2: (1, 0), 1: (0,)}[value.ndim]
            parameters[name] = jnp.asarray(value.transpose(axes))
    return parameters, statistics


def network(name: str, statistics: dict[str, np.ndarray]) -> Callable[[Parameters, Array], Array]:
    """Return a network in evaluation mode, as a function of parameters and images ``(n, height, width, channels)``."""
    forward = {
        "vgg16": _vgg16,
        "resnet20": _resnet20,
        "mlp": partial(_mlp, hidden_layers=3),
        "wide-mlp": partial(_mlp, hidden_layers=2),
        "resnet18": _resnet18,
        "transformer": _transformer,
    }[name]
    return lambda parameters, images: forward(parameters, statistics, images)


def _vgg16(parameters: Parameters, statistics: dict[str, np.ndarray], maps: Array) -> Array:
    layer = 0
    for convolutions in VGG16_STAGES:
        for _ in range(convolutions):
            maps = _convolve(parameters, f"{layer}", maps)
            maps = nn.relu(_normalise(parameters, statistics, f"{layer + 1}", maps))
            layer += 3
        maps = lax.reduce_window(maps, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        layer += 1
    return _connect(parameters, f"{layer + 1}", maps.mean((1, 2)))


def _resnet20(parameters: Parameters, statistics: dict[str, np.ndarray], maps: Array) -> Array:
    maps = nn.relu(_normalise(parameters, statistics, "stem.1", _convolve(parameters, "stem.0", maps)))
    for block in range(RESNET20_BLOCKS):
        stride = 2 if block in (3, 6) else 1
        name = f"blocks.{block}"
        hidden = _convolve(parameters, f"{name}.conv1", maps, stride)
        hidden = nn.relu(_normalise(parameters, statistics, f"{name}.norm1", hidden))
        hidden = _convolve(parameters, f"{name}.conv2", hidden)
        hidden = _normalise(parameters, statistics, f"{name}.norm2", hidden)
        if stride == 2:  # option A: every second pixel, new channels are 0
            maps = jnp.pad(maps[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (0, maps.shape[-1])))
        maps = nn.relu(hidden + maps)
    return _connect(parameters, "output", maps.mean((1, 2)))


def _resnet18(parameters: Parameters, statistics: dict[str, np.ndarray], maps: Array) -> Array:
    maps = nn.relu(_normalise(parameters, statistics, "bn1", _convolve(parameters, "conv1", maps)))
    for stage in RESNET18_STAGES:
        for block in range(2):
            stride = 2 if stage > 1 and not block else 1
            name = f"layer{stage}.{block}"
            hidden = _convolve(parameters, f"{name}.conv1", maps, stride)
            hidden = nn.relu(_normalise(parameters, statistics, f"{name}.bn1", hidden))
            hidden = _normalise(parameters, statistics, f"{name}.bn2", _convolve(parameters, f"{name}.conv2", hidden))
            if stride == 2:
                maps = _convolve(parameters, f"{name}.downsample.0", maps, stride, padding=0)
                maps = _normalise(parameters, statistics, f"{name}.downsample.1", maps)
            maps = nn.relu(hidden + maps)
    return _connect(parameters, "fc", maps.mean((1, 2)))


def _mlp(parameters: Parameters, statistics: dict[str, np.ndarray], images: Array, *, hidden_layers: int) -> Array:
    hidden = images.transpose(0, 3, 1, 2).reshape(len(images), -1)  # as PyTorch flattens
    *layers, output = range(1, 3 * hidden_layers + 2, 3)
    for layer in layers:
        hidden = nn.relu(_connect(parameters, f"{layer}", hidden))
    return _connect(parameters, f"{output}", hidden)


def _transformer(parameters: Parameters, statistics: dict[str, np.ndarray], images: Array) -> Array:
    kernel, dimensions = parameters["patches.weight"], ("NHWC", "HWIO", "NHWC")
    patches = lax.conv_general_dilated(images, kernel, (PATCH, PATCH), "VALID", dimension_numbers=dimensions)
    patches = (patches + parameters["patches.bias"]).reshape(len(images), -1, kernel.shape[-1])
    token = jnp.broadcast_to(parameters["token"], (len(images), 1, kernel.shape[-1]))
    tokens = jnp.concatenate([token, patches], axis=1) + parameters["positions"]
    for block in range(TRANSFORMER_BLOCKS):
        name = f"blocks.{block}"
        normalised = _standardise(parameters, f"{name}.norm1", tokens)
        qkv = _connect(parameters, f"{name}.qkv", normalised).reshape(*tokens.shape[:2], 3, HEADS, -1)
        queries, keys, values = jnp.moveaxis(qkv, 2, 0)  # (n, T, heads, d)
        weights = jnp.einsum("nshd,nthd->nhst", queries, keys) / values.shape[-1] ** 0.5
        attention = jnp.einsum("nhst,nthd->nshd", nn.softmax(weights), values).reshape(tokens.shape)
        tokens = tokens + _connect(parameters, f"{name}.out", attention)
        hidden = _connect(parameters, f"{name}.up", _standardise(parameters, f"{name}.norm2", tokens))
        tokens = tokens + _connect(parameters, f"{name}.down", nn.gelu(hidden, approximate=False))
    return _connect(parameters, "output", _standardise(parameters, "norm", tokens[:, 0]))


def _standardise(parameters: Parameters, name: str, tokens: Array) -> Array:
    """Layer normalisation."""
    centred = tokens - tokens.mean(-1, keepdims=True)
    standard = centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + EPSILON)
    return standard * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]


def _convolve(parameters: Parameters, name: str, maps: Array, stride: int = 1, padding: int = 1) -> Array:
    return lax.conv_general_dilated(
        maps,
        parameters[f"{name}.weight"],
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _normalise(parameters: Parameters, statistics: dict[str, np.ndarray], name: str, maps: Array) -> Array:
    inverse = 1 / np.sqrt(statistics[f"{name}.running_var"] + np.float32(EPSILON))
    normalised = (maps - statistics[f"{name}.running_mean"]) * inverse
    return normalised * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]


def _connect(parameters: Parameters, name: str, units: Array) -> Array:
    return units @ parameters[f"{name}.weight"] + parameters[f"{name}.bias"]
