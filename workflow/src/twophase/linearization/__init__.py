"""Networks linearised in their parameters."""

from twophase.linearization.network import LinearizedNetwork, linearize

__all__ = ["LinearizedNetwork", "linearize"]
