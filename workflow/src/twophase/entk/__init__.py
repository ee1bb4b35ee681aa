"""The kernel engine: empirical neural tangent kernels of any PyTorch network."""

from twophase.entk.kernel import empirical_ntk, layer_kernels
from twophase.entk.report import kernel_costs

__all__ = ["empirical_ntk", "kernel_costs", "layer_kernels"]
