"""How a neural network's training passes from chaos to order: trajectories, kernels, comparisons."""

__version__ = "0.1.0"
