"""A network as a function of its trainable parameters, without touching the module itself."""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call

from twophase.differentiation.read_only import read_only
from twophase.errors import ModelError


@dataclass(frozen=True)
class FunctionalNetwork:
    """A module whose trainable parameters are an argument.

    Attributes:
        model: The module; only its code is used.
        parameters: Trainable parameters by name; tied ones once, under their first name.
        constants: Copies of the frozen parameters and of the buffers.
        memory_format: Order in memory that inputs ``(n, C, H, W)`` are given in.
        shared: Parameters that share memory with the module's; a forward pass is stopped before it writes into them.
    """

    model: nn.Module
    parameters: dict[str, Tensor]
    constants: dict[str, Tensor]
    memory_format: torch.memory_format = torch.contiguous_format
    shared: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, *, shared: bool = False) -> "FunctionalNetwork":
        """Split a module into code, trainable parameters and constants, copied as some networks write into theirs.

        Args:
            model: The module.
            shared: Whether the trainable parameters share memory with the module's instead, and are read only.

        Returns:
            The network.
        """
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        trainable = {n: plain_values(p) if shared else p.detach().clone() for n, p in trainable.items()}
        frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
        buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
        return cls(model, trainable, frozen | buffers, shared=trainable if shared else {})

    def __call__(self, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the outputs, ``(n, K)``, of inputs ``(n, *d)`` at the given parameters."""
        versions = [p._version for p in parameters.values()]
        values = self.constants | parameters
        values |= {name: values[first] for name, first in self._tied.items() if first in values}
        # Inputs are copied, as some networks write into them; so are frozen parameters and buffers, once. With
        # tie_weights, PyTorch 2.14 doesn't put back the parameters of a module that has two names (its issue 164759).
        with read_only(self.shared) if self.shared else nullcontext():
            outputs = functional_call(self.model, values, (inputs.clone(),), tie_weights=False)
        changed = [name for name, old in zip(parameters, versions, strict=True) if parameters[name]._version != old]
        if changed:
            raise ModelError(f"The network's forward pass writes into its parameter {changed[0]}.")
        return outputs

    @cached_property
    def _tied(self) -> dict[str, str]:
        """Other names of tensors that several modules hold, and their first; of each module's names only one."""
        first: dict[Tensor, str] = {}
        tied = {}
        for path, module in self.model.named_modules():
            for own, tensor in (*module._parameters.items(), *module._buffers.items()):
                name = f"{path}.{own}" if path else own
                if tensor is not None and first.setdefault(tensor, name) != name:
                    tied[name] = first[tensor]
        return tied

    @property
    def size(self) -> int:
        """Number of trainable parameters P."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the parameters."""
        return next(iter(self.parameters.values())).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.parameters.values())).device

    def of_only(self, names: Iterable[str]) -> "FunctionalNetwork":
        """Return the same network with these parameters as the only trainable ones."""
        chosen = {name: self.parameters[name] for name in names}
        rest = {name: p for name, p in self.parameters.items() if name not in chosen}
        return replace(self, parameters=chosen, constants=self.constants | rest)

    def channels_last(self) -> "FunctionalNetwork":
        """Return the same network, its convolutions' weights stored channels last."""
        stored = {
            name: p.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p
            for name, p in self.parameters.items()
        }
        return replace(self, parameters=stored, memory_format=torch.channels_last)

    def ordered(self, inputs: Tensor) -> Tensor:
        """Return inputs in the network's order in memory."""
        return inputs.contiguous(memory_format=self.memory_format) if inputs.ndim == 4 else inputs

    def leaves(self) -> dict[str, Tensor]:
        """Return the trainable parameters as leaves of a new autograd graph; they share memory with the module's."""
        return {name: p.detach().requires_grad_() for name, p in self.parameters.items()}


def plain_values(tensor: Tensor) -> Tensor:
    """The same values outside of autograd and inference mode."""
    return tensor.detach().clone() if tensor.is_inference() else tensor.detach()
