"""Two-layer ReLU networks trained by gradient flow in normalised variables, many at once (Luo 2021, 2007.07497)."""

from twophase.two_layer.compiled import environment
from twophase.two_layer.integration import STATUS, Accuracy, Trained, integrate, train
from twophase.two_layer.network import TwoLayer, outputs, tangent_kernel, with_bias

__all__ = [
    "STATUS",
    "Accuracy",
    "Trained",
    "TwoLayer",
    "environment",
    "integrate",
    "outputs",
    "tangent_kernel",
    "train",
    "with_bias",
]
