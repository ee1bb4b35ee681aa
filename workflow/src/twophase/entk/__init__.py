"""The kernel engine: empirical neural tangent kernels of any PyTorch network."""

from twophase.entk.plain import empirical_ntk

__all__ = ["empirical_ntk"]
