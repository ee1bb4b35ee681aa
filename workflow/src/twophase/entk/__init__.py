"""The kernel engine: empirical neural tangent kernels of any PyTorch network."""

from twophase.entk.kernel import empirical_ntk, layer_kernels
from twophase.entk.report import kernel_costs
from twophase.entk.vectors import kernel_product

__all__ = ["empirical_ntk", "kernel_costs", "kernel_product", "layer_kernels"]
