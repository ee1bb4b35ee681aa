"""The kernel engine: empirical neural tangent kernels of any PyTorch network."""

from twophase.entk.kernel import empirical_ntk, layer_kernels

__all__ = ["empirical_ntk", "layer_kernels"]
