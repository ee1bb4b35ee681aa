"""The residual network for small images (He et al. 2015, arXiv 1512.03385, section 4.2)."""

from torch import Tensor, nn
from torch.nn import functional as F

from twophase.errors import ModelError
from twophase.models.layers import SpatialMean, conv3x3, normalization_layer


class Shortcut(nn.Module):
    """Identity with stride and zero channels, "option A": every ``stride``-th pixel, new channels 0 and last."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``(n, in, h, w)`` to ``(n, out, ceil(h / stride), ceil(w / stride))``."""
        if self.stride == 1 and not self.new_channels:
            return maps
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class Block(nn.Module):
    """Two convolutions beside a shortcut: ``relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x))``."""

    def __init__(self, in_channels: int, out_channels: int, normalization: str, stride: int):
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, normalization, stride=stride)
        self.norm1 = normalization_layer(normalization, out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(out_channels, out_channels, normalization)
        self.norm2 = normalization_layer(normalization, out_channels)
        self.shortcut = Shortcut(in_channels, out_channels, stride)
        self.relu2 = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``(n, in, h, w)`` to ``(n, out, ceil(h / stride), ceil(w / stride))``."""
        hidden = self.relu1(self.norm1(self.conv1(maps)))
        return self.relu2(self.norm2(self.conv2(hidden)) + self.shortcut(maps))


class ResNet(nn.Module):
    """A convolution, three stages of blocks with ``width``, ``2 width``, ``4 width`` channels, a mean, a linear layer.

    ``depth = 6n + 2`` with ``n`` blocks in a stage. The second and third stage begin by halving the image.
    ResNet-20 at width 16 has 269,722 parameters on 3-channel images with 10 classes. The output layer keeps
    PyTorch's initialisation.
    """

    def __init__(self, *, image_shape: tuple[int, int, int], classes: int, depth: int, width: int, normalization: str):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ModelError(f"depth of a resnet is 6n+2 (8, 14, 20, ...), got {depth}")
        self.stem = nn.Sequential(
            conv3x3(image_shape[0], width, normalization), normalization_layer(normalization, width), nn.ReLU()
        )
        blocks, channels = [], width
        for stage in range(3):
            for index in range((depth - 2) // 6):
                stride = 2 if stage and not index else 1
                blocks.append(Block(channels, width * 2**stage, normalization, stride))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.mean = SpatialMean()
        self.output = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(n, C, H, W)`` to logits ``(n, classes)``."""
        return self.output(self.mean(self.blocks(self.stem(images))))
