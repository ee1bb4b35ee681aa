"""A small vision transformer (Dosovitskiy 2021, arXiv 2010.11929), which is none of the project's networks."""

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, DEPTH, PATCH = 128, 4, 4, 4


class Block(nn.Module):
    """Attention and a perceptron, each normalised before and added to what it is given."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``(n, T, d)``."""
        qkv = self.qkv(self.norm1(tokens)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        tokens = tokens + self.out(attention(*qkv).transpose(1, 2).flatten(2))
        return tokens + self.down(functional.gelu(self.up(self.norm2(tokens))))


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Spelled out: PyTorch's own has no rule for `vmap`, which would slow the tutorial down."""
    return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value


class VisionTransformer(nn.Module):
    """Patches and a class token in, logits of the class token out."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int):
        super().__init__()
        channels, height, width = image_shape
        patches = height // PATCH * (width // PATCH)
        self.patches = nn.Conv2d(channels, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + patches, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm, self.output = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(n, C, H, W)`` to logits ``(n, K)``."""
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), tokens], dim=1) + self.positions
        return self.output(self.norm(self.blocks(tokens)[:, 0]))
