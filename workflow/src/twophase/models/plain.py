"""Networks without shortcuts: each a sequence of layers that ends in a linear output layer.

The output layer keeps PyTorch's initialisation.
"""

import math

from torch import nn

from twophase.models.layers import SpatialMean, conv3x3, halving_pool, hidden_linear, normalization_layer

VGG16_STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # channels over width, convolutions


def _conv_block(in_channels: int, out_channels: int, normalization: str) -> list[nn.Module]:
    conv = conv3x3(in_channels, out_channels, normalization)
    return [conv, normalization_layer(normalization, out_channels), nn.ReLU()]


def vgg16(*, image_shape: tuple[int, int, int], classes: int, width: int, normalization: str) -> nn.Sequential:
    """VGG-16 for small images (Simonyan and Zisserman 2014, arXiv 1409.1556, configuration D).

    Thirteen 3x3 convolutions in five stages, each stage ended by a 2x2 max pooling, then one linear layer. Pooling
    rounds up, so that every image size works; what is left of the image (one pixel if its side is at most 32) is
    averaged. At width 64 with BatchNorm it has 14,724,042 parameters on 3-channel images with 10 classes.
    """
    layers, channels = [], image_shape[0]
    for factor, convolutions in VGG16_STAGES:
        for _ in range(convolutions):
            layers += _conv_block(channels, factor * width, normalization)
            channels = factor * width
        layers.append(halving_pool())
    return nn.Sequential(*layers, SpatialMean(), nn.Linear(channels, classes))


def cnn(
    *, image_shape: tuple[int, int, int], classes: int, depth: int, width: int, normalization: str
) -> nn.Sequential:
    """``depth`` blocks of 3x3 convolution, normalisation and ReLU, a mean over the image, one linear layer.

    Block ``i`` (from 0) has ``width * 2**i`` channels. Between blocks the image is halved by 2x2 max pooling, rounding
    up, as long as it has more than one pixel.
    """
    layers, (channels, *sides) = [], image_shape
    for block in range(depth):
        if block and max(sides) > 1:
            layers.append(halving_pool())
            sides = [math.ceil(side / 2) for side in sides]
        layers += _conv_block(channels, width * 2**block, normalization)
        channels = width * 2**block
    return nn.Sequential(*layers, SpatialMean(), nn.Linear(channels, classes))


def mlp(
    *, image_shape: tuple[int, int, int], classes: int, depth: int, width: int, normalization: str
) -> nn.Sequential:
    """``depth`` hidden layers of ``width`` ReLU units on the flattened image, then a linear output layer."""
    layers, units = [nn.Flatten()], math.prod(image_shape)
    for _ in range(depth):
        norm = normalization_layer(normalization, width, spatial=False)
        layers += [hidden_linear(units, width, normalization), norm, nn.ReLU()]
        units = width
    return nn.Sequential(*layers, nn.Linear(units, classes))
