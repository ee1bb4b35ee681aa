"""What a network does with its parameters, and whether its examples are independent, from passes of a few examples."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from twophase.differentiation.checks import GRADIENT_TOLERANCE, check_decoupled, check_outputs, fixed_weights
from twophase.differentiation.functional import FunctionalNetwork
from twophase.entk.features import Features
from twophase.entk.operations import ScaledSum, operation_of
from twophase.entk.rows import GraphChanged, Rows, agrees, possible_rows
from twophase.entk.uses import Use, find_uses
from twophase.errors import ModelError

TOGETHER = 3  # examples passed together
PERTURBATION = 0.1  # of parameters, relative to their root mean square, where gradients of 0 leave the rows open


@dataclass(frozen=True)
class KnownUse:
    """A use whose rule and rows are known.

    Attributes:
        signature: What the same use has in every forward pass.
        operation: Number of the operation among those that take parameters.
        rows: Which rows of the operation's output are of which example.
        channels: Number C of channels of an outer product, else 0.
        features: Features of an outer product, else None.
    """

    signature: tuple
    operation: int
    rows: Rows
    channels: int = 0
    features: Features | None = None


@dataclass(frozen=True)
class Pass:
    """One forward pass and where it used the parameters."""

    outputs: Tensor
    uses: dict[str, list[Use]]

    @classmethod
    def of(cls, network: FunctionalNetwork, inputs: Tensor) -> "Pass":
        """Pass inputs ``(n, *d)`` forward, keeping the graph."""
        leaves = network.leaves()
        with torch.enable_grad():
            outputs = network(leaves, network.ordered(inputs))
        check_outputs(outputs, len(inputs), network.dtype)
        return cls(outputs, find_uses(outputs, leaves))

    def gradients(self, edges: list[GradientEdge], cotangent: Tensor) -> dict[Node, Tensor | None]:
        """Gradients of the outputs times a cotangent ``(n, K)`` with respect to operations' outputs."""
        if not edges:
            return {}
        found = torch.autograd.grad(self.outputs, edges, cotangent, retain_graph=True, allow_unused=True)
        return {edge.node: gradient for edge, gradient in zip(edges, found, strict=True)}

    def edges(self) -> list[GradientEdge]:
        """Outputs of all operations that take a parameter and have a rule."""
        nodes = {use.node: use.edge for uses in self.uses.values() for use in uses if operation_of(use) is not None}
        return list(nodes.values())


def inspect(network: FunctionalNetwork, inputs: Tensor) -> dict[str, list[KnownUse] | None]:
    """Find out how each parameter is used, and refuse networks whose examples depend on each other.

    Args:
        network: The network.
        inputs: Inputs, shape ``(n, *d)``; a few evenly spaced ones are used.

    Returns:
        The uses of each trainable parameter; None if one of them has no rule, or no rows that can be told apart.

    Raises:
        ModelError: If the outputs aren't ``(n, K)`` finite numbers, or depend on other examples or on chance.
    """
    chosen = torch.linspace(0, len(inputs) - 1, TOGETHER).round().long().to(inputs.device)
    sample = inputs[chosen]
    known, ambiguous = _known_uses(network, sample)
    if ambiguous:
        generator = torch.Generator(network.device).manual_seed(0)
        elsewhere = replace(network, parameters={n: _moved(p, generator) for n, p in network.parameters.items()})
        try:
            found, still = _known_uses(elsewhere, sample)
        except ModelError:
            found, still = {}, ambiguous
        known |= {name: None if name in still else found.get(name) for name in ambiguous}
    unknown = {name: network.parameters[name] for name, uses in known.items() if uses is None}
    if unknown:
        check_decoupled(network.of_only(unknown), inputs, together=TOGETHER)
    return known


def _moved(parameter: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype, device=parameter.device)
    scale = parameter.square().mean().sqrt()
    return parameter + PERTURBATION * (scale if scale > 0 else 1) * noise


def _known_uses(network: FunctionalNetwork, sample: Tensor) -> tuple[dict[str, list[KnownUse] | None], set[str]]:
    """The uses of each parameter, and the names of those whose rows can't be told, as gradients are 0 there."""
    joint, alone = Pass.of(network, sample), Pass.of(network, sample[:1])
    _check_close(joint.outputs[:1], alone.outputs, "outputs")
    weights = fixed_weights(joint.outputs)
    edges = joint.edges()
    masks = torch.eye(len(sample), dtype=weights.dtype, device=weights.device)
    by_example = [joint.gradients(edges, weights * mask[:, None]) for mask in masks]
    own = alone.gradients(alone.edges(), weights[:1])
    known: dict[str, list[KnownUse] | None] = {}
    ambiguous = set()
    numbers = {edge.node: number for number, edge in enumerate(edges)}
    for name, uses in joint.uses.items():
        known[name] = []
        if [u.signature for u in uses] != [u.signature for u in alone.uses[name]]:
            known[name] = None
            continue
        for use, twin in zip(uses, alone.uses[name], strict=True):
            gradients = [found.get(use.node) for found in by_example]
            candidates = _candidates(use, twin, gradients)
            if len(candidates) == 1:
                alone_gradient = own.get(twin.node)
                checked = _checked(use, twin, numbers[use.node], candidates[0], gradients, alone_gradient)
            if len(candidates) != 1 or checked is None:
                known[name] = None
                ambiguous |= {name} if len(candidates) > 1 else set()
                break
            known[name].append(checked)
    return known, ambiguous


def _candidates(use: Use, twin: Use, gradients: list[Tensor | None]) -> list[Rows]:
    """Rows that fit the operation and contradict no gradient; ``twin`` is the same use for one example."""
    operation = operation_of(use)
    if operation is None or operation_of(twin) is None:
        return []
    sizes, sizes_alone = (tuple(u.node._input_metadata[0].shape) for u in (use, twin))
    candidates = possible_rows(sizes, sizes_alone, len(gradients))
    if isinstance(operation, ScaledSum):
        candidates = [rows for rows in candidates if operation.fits(rows, use.shape, sizes)]
    else:
        candidates = [rows for rows in candidates if operation.fits(rows, len(sizes))]
    return [rows for rows in candidates if agrees(rows, gradients)]


def _checked(
    use: Use, twin: Use, number: int, rows: Rows, gradients: list[Tensor | None], gradient_alone: Tensor | None
) -> KnownUse | None:
    """A known use, after comparing features and gradients of the first example with those that it has alone."""
    operation, examples = operation_of(use), len(gradients)
    sizes = use.node._input_metadata[0].shape
    if gradients[0] is not None and gradient_alone is not None:
        first, single = rows.split(gradients[0], examples)[0], rows.split(gradient_alone, 1)[0]
        moved = torch.linalg.vector_norm(first - single)
        if not moved <= GRADIENT_TOLERANCE * torch.linalg.vector_norm(single):
            raise ModelError(_coupled("gradients", moved, torch.linalg.vector_norm(single)))
    if isinstance(operation, ScaledSum):
        return KnownUse(use.signature, number, rows)
    try:
        features, values = operation.features(use.node, rows, examples)
        features_alone, values_alone = operation_of(twin).features(twin.node, rows, 1)
    except GraphChanged:
        return None
    if features != features_alone:
        return None
    _check_close(values[:1], values_alone, "intermediate results")
    return KnownUse(use.signature, number, rows, sizes[operation.channel_axis], features)


def _check_close(together: Tensor, alone: Tensor, what: str) -> None:
    """Refuse values that differ by more than rounding can."""
    if not together.is_floating_point():
        return
    difference, size = (together - alone).detach().abs().max(), alone.detach().abs().max()
    if math.isfinite(size) and not difference <= torch.finfo(alone.dtype).eps ** 0.5 * size:
        raise ModelError(_coupled(what, difference, size))


def _coupled(what: str, difference: Tensor, size: Tensor) -> str:
    return (
        f"The network's output for one example depends on the others, or on chance: {TOGETHER} examples together and "
        f"one of them alone give {what} that differ by {difference:.3g}, of {size:.3g}. BatchNorm must use its running "
        "statistics."
    )
