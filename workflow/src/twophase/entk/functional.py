"""A network as a function of its trainable parameters, without touching the module itself."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class FunctionalNetwork:
    """A module whose trainable parameters are an argument.

    Attributes:
        model: The module; only its code is used.
        parameters: Trainable parameters by name, detached; tied ones once, under their first name.
        constants: Frozen parameters, detached, and copies of the buffers, so that a forward pass that writes
            into a buffer leaves the module as it was.
    """

    model: nn.Module
    parameters: dict[str, Tensor]
    constants: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module) -> "FunctionalNetwork":
        """Split a module into code, trainable parameters and constants."""
        trainable = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
        buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
        return cls(model, trainable, frozen | buffers)

    def __call__(self, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the outputs, ``(n, K)``, of inputs ``(n, *d)`` at the given parameters."""
        # tie_weights, on by default, hands a tied parameter to every module that holds it.
        return functional_call(self.model, self.constants | parameters, (inputs,))

    @property
    def size(self) -> int:
        """Number of trainable parameters P."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the parameters."""
        return next(iter(self.parameters.values())).dtype

    def leaves(self) -> dict[str, Tensor]:
        """Return the trainable parameters as leaves of a new autograd graph; they share memory with the module's."""
        return {name: p.detach().requires_grad_() for name, p in self.parameters.items()}
