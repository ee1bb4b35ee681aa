"""A network linearised in its parameters: a module whose parameters are the offset from where it was linearised."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from twophase.differentiation.checks import check_model, count_classes
from twophase.differentiation.functional import FunctionalNetwork, plain_values
from twophase.differentiation.tangents import (
    Direction,
    Push,
    differentiable_attention,
    exact_push,
    few_examples,
    forward_mode,
    pull_back,
    twice_backward,
)
from twophase.linearization.tangent_mode import NoTangentError, TangentMode


def linearize(model: nn.Module) -> "LinearizedNetwork":
    """Linearise a network in its trainable parameters, about where they are now.

    Args:
        model: Network in evaluation mode, mapping ``(n, *d)`` to ``(n, K)``, its parameters all float32 or all
            float64. It is copied. Parameters with ``requires_grad=False`` are constants.

    Returns:
        The linearised network, its offset zero.

    Raises:
        ModelError: If the model is in training mode, has no trainable parameter, or parameters of several number
            types or devices.
    """
    return LinearizedNetwork(model)


class LinearizedNetwork(nn.Module):
    r"""The network f linearised at theta_s: ``f(x; theta_s) + <d f(x; theta_s) / d theta, delta>`` (Zhou 2025a).

    Its parameters are the offset delta, one for each trainable parameter of the network and in their order, zero at
    first; what was linearised is in ``model``, which stays in evaluation mode. Derivatives are exact: one forward pass
    carries the tangent J delta beside the outputs, and a backward pass gives J^T times the loss's gradient. Inputs
    get no gradients, and the offset no second derivatives.
    """

    def __init__(self, model: nn.Module):
        """Copy a network; see `linearize`."""
        super().__init__()
        check_model(model)
        self.model = copy.deepcopy(model)
        trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.offset = nn.ParameterList(torch.zeros_like(p) for p in trainable.values())
        self._names = list(trainable)
        self._push: Push | None = None
        self._last_uses: dict[int, int] | None = None
        self.model.requires_grad_(False)

    @property
    def expansion_point(self) -> list[Tensor]:
        """theta_s: the parameters that the offset belongs to, in its order."""
        parameters = dict(self.model.named_parameters())
        return [parameters[name] for name in self._names]

    def train(self, mode: bool = True) -> "LinearizedNetwork":
        """Note the mode, as every module does; what was linearised stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``(n, K)`` of inputs ``(n, *d)``.

        Args:
            inputs: A batch of examples.

        Returns:
            Outputs, differentiable once with respect to the offset.

        Raises:
            ModelError: On the first call, if the network can't be differentiated along its parameters, or lets one
                example's output depend on the others.
        """
        with torch.inference_mode(False), torch.no_grad():
            outputs, tangent, leaves = self._pass(plain_values(inputs), [plain_values(part) for part in self.offset])
            value = outputs.detach() + tangent
        return _Offset.apply(value, (outputs, leaves, self.expansion_point), *self.offset)

    def _network(self) -> FunctionalNetwork:
        """The network at theta_s as a function; it shares memory with ``model``."""
        tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        parameters = {name: tensors.pop(name).detach() for name in self._names}
        return FunctionalNetwork(self.model, parameters, tensors)

    def _pass(self, inputs: Tensor, offset: list[Tensor]) -> tuple[Tensor, Tensor, Direction]:
        """Outputs at theta_s with their graph, ``J delta``, and the graph's leaves."""
        network, direction = self._network(), dict(zip(self._names, offset, strict=True))
        with _differentiable(self.expansion_point):
            if self._push is None:
                count_classes(network, inputs[:1])
                self._push = exact_push(network, few_examples(inputs), PUSHES)
                if self._push is beside_outputs:
                    self._carried(network, few_examples(inputs), direction)  # to know when tangents are used last
            if self._push is beside_outputs:
                try:
                    return self._carried(network, inputs, direction)
                except NoTangentError:  # an operation that it didn't do for the first inputs
                    self._push = exact_push(network, few_examples(inputs), PUSHES_APART)
            leaves = network.leaves()
            with torch.enable_grad():
                outputs = network(leaves, inputs)
            return outputs, self._push(network, inputs, [direction])[..., 0], leaves

    def _carried(
        self, network: FunctionalNetwork, inputs: Tensor, direction: Direction
    ) -> tuple[Tensor, Tensor, Direction]:
        """As `outputs_and_tangent`, dropping each tangent after its last use in the pass before."""
        try:
            outputs, tangent, leaves, self._last_uses = outputs_and_tangent(network, inputs, direction, self._last_uses)
        except NoTangentError:  # for these inputs the network goes another way
            outputs, tangent, leaves, _ = outputs_and_tangent(network, inputs, direction, None)
        return outputs, tangent, leaves


def outputs_and_tangent(
    network: FunctionalNetwork, inputs: Tensor, direction: Direction, last_uses: dict[int, int] | None
) -> tuple[Tensor, Tensor, Direction, dict[int, int]]:
    """One forward pass that keeps its graph and carries a tangent.

    Args:
        network: The network.
        inputs: Inputs ``(n, *d)``.
        direction: Tangents of the parameters.
        last_uses: When the tangents were used last in an earlier pass, so that they can be dropped then; or None.

    Returns:
        Outputs ``(n, K)`` with their graph, ``J u`` of the same shape without one, the graph's leaves, and when
        tangents were used last in this pass.

    Raises:
        NoTangentError: If the network does something that tangents can't follow, or goes another way than before.
    """
    leaves = network.leaves()
    mode = TangentMode([(leaf, direction[name]) for name, leaf in leaves.items()], last_uses)
    with torch.enable_grad(), mode:
        outputs = network(leaves, inputs)
    tangent = mode.final(outputs)
    return outputs, torch.zeros_like(outputs) if tangent is None else tangent, leaves, mode.last_uses


def beside_outputs(network: FunctionalNetwork, inputs: Tensor, directions: list[Direction]) -> Tensor:
    """J u, ``(n, K, c)``, by `outputs_and_tangent`."""
    return torch.stack([outputs_and_tangent(network, inputs, direction, None)[1] for direction in directions], dim=2)


PUSHES_APART = {"Forward mode": forward_mode, "Two backward passes": twice_backward}
PUSHES = {"Tangents beside outputs": beside_outputs} | PUSHES_APART


@contextmanager
def _differentiable(parameters: list[Tensor]) -> Iterator[None]:
    """What a network computes again in its backward pass (checkpointing) must be what it computed at first.

    It then takes its own parameters, which must ask for gradients as the graph's leaves do, and the same attention.
    """
    with differentiable_attention():
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)


class _Offset(torch.autograd.Function):
    """Ties f(x) + J delta to delta: its backward pass is J^T, on the graph of f at theta_s, kept as long as this node.

    The value comes from outside, since PyTorch has no forward mode inside of a Function.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, graph: tuple[Tensor, Direction, list[Tensor]], *offset: Tensor) -> Tensor:
        """Return the value."""
        ctx.graph = graph
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Pull the gradient of the outputs back to the offset."""
        outputs, leaves, parameters = ctx.graph
        with _differentiable(parameters):
            pulled = pull_back(outputs, leaves, gradient, again=True)
        return None, None, *(pulled.get(name) for name in leaves)
