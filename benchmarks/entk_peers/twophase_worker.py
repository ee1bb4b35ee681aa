"""The project's own engine."""

from typing import ClassVar

from torch import Tensor

from entk_peers.serving import serve
from entk_peers.torch_engine import TorchEngine
from twophase.entk import empirical_ntk


class Twophase(TorchEngine):
    """``empirical_ntk``, which chooses its blocks itself."""

    packages = ("twophase", "torch", "numpy")
    implementations: ClassVar = {"empirical_ntk": True}

    def compute(self, implementation: str, kernel: str, inputs: Tensor, others: Tensor | None) -> Tensor:
        """Return the kernel between inputs, or between inputs and others."""
        return empirical_ntk(self.model, inputs, kernel=kernel, other_inputs=others)


if __name__ == "__main__":
    serve(Twophase)
