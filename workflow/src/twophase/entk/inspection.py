"""What a network does with its parameters, and whether its examples are independent, from passes of a few examples."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from twophase.differentiation.checks import GRADIENT_TOLERANCE, check_decoupled, check_outputs, fixed_weights
from twophase.differentiation.functional import FunctionalNetwork
from twophase.entk.derived import can_be_pulled_back, find_derivations
from twophase.entk.examplewise import acts_examplewise
from twophase.entk.features import Features
from twophase.entk.operations import OuterProduct, ScaledSum, operation_of
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
        scale: The number that the parameter is taken times, the operation's own included, such as ``beta`` of `addmm`.
        derived: How many numbers the tensor has that the operation takes in the parameter's place; 0 if none.
        derivations: The operations by which it was derived from the parameter, as `find_uses` takes them.
        alone: The same use in passes of one example, where PyTorch takes another operation for these: attention's
            projections, for one. None where it takes the same.
    """

    signature: tuple
    operation: int
    rows: Rows
    channels: int = 0
    features: Features | None = None
    scale: float = 1.0
    derived: int = 0
    derivations: frozenset[tuple[str, tuple]] = frozenset()
    alone: "KnownUse | None" = None

    def among(self, examples: int) -> "KnownUse":
        """The use in a pass of so many examples."""
        return self.alone if examples == 1 and self.alone is not None else self


@dataclass(frozen=True)
class Pass:
    """One forward pass and where it used the parameters."""

    outputs: Tensor
    leaves: dict[str, Tensor]
    uses: dict[str, list[Use]]

    @classmethod
    def of(cls, network: FunctionalNetwork, inputs: Tensor) -> "Pass":
        """Pass inputs ``(n, *d)`` forward, keeping the graph."""
        leaves = network.leaves()
        with torch.enable_grad():
            outputs = network(leaves, network.ordered(inputs))
        check_outputs(outputs, len(inputs), network.dtype)
        return cls(outputs, leaves, find_uses(outputs, leaves))

    def behind(self, derivations: frozenset[tuple[str, tuple]]) -> "Pass":
        """The same pass, with the uses of derived tensors."""
        return replace(self, uses=find_uses(self.outputs, self.leaves, derivations))

    @cached_property
    def signatures(self) -> dict[str, list[tuple]]:
        """Signatures of the uses of each parameter."""
        return {name: [use.signature for use in uses] for name, uses in self.uses.items()}

    @cached_property
    def edges(self) -> dict[Node, GradientEdge]:
        """Outputs of all operations that take a parameter and have a rule."""
        return {use.node: use.edge for uses in self.uses.values() for use in uses if operation_of(use) is not None}

    @cached_property
    def numbers(self) -> dict[Node, int]:
        """Numbers of these operations."""
        return {node: number for number, node in enumerate(self.edges)}

    def gradients(self, cotangent: Tensor) -> dict[Node, Tensor | None]:
        """Gradients of the outputs times a cotangent ``(n, K)`` with respect to operations' outputs."""
        if not self.edges:
            return {}
        edges = list(self.edges.values())
        found = torch.autograd.grad(self.outputs, edges, cotangent, retain_graph=True, allow_unused=True)
        return dict(zip(self.edges, found, strict=True))


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
    doubtful = [name for name, uses in known.items() if uses is None or any(u.derived or u.scale != 1 for u in uses)]
    if doubtful:
        check_decoupled(network.of_only(doubtful), sample, together=TOGETHER)
    return known


def _moved(parameter: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype, device=parameter.device)
    scale = parameter.square().mean().sqrt()
    return parameter + PERTURBATION * (scale if scale > 0 else 1) * noise


def _known_uses(network: FunctionalNetwork, sample: Tensor) -> tuple[dict[str, list[KnownUse] | None], set[str]]:
    """The uses of each parameter, and the names of those whose rows can't be told, as gradients are 0 there."""
    comparison = _Comparison.of(network, sample)
    known, ambiguous = {}, set()
    # The rows of an outer product show in its features too; a bias has the rows of the product that it is added to.
    products = {name for name, uses in comparison.joint.uses.items() if any(map(_is_product, uses))}
    for name in sorted(comparison.joint.uses, key=lambda name: name not in products):
        known[name], several = comparison.uses_of(name)
        ambiguous |= {name} if several else set()
    return {name: known[name] for name in comparison.joint.uses}, ambiguous


def _is_product(use: Use) -> bool:
    return isinstance(operation_of(use), OuterProduct)


@dataclass
class _Comparison:
    """Passes of several examples, of fewer and of the first alone, and gradients of each example's logits.

    Attributes:
        joint: Several together.
        fewer: Fewer, which take the same operations.
        alone: The first one.
        derivations: Operations that derive tensors from parameters.
        by_example: Gradients of each example's logits in the joint pass, by operation; None for zero. Those of the
            first alone if the graph itself shows that the others' are zero in its rows.
        own: Gradients of the first example's, alone.
        rows: Rows of the operations that are known so far.
    """

    joint: Pass
    fewer: Pass
    alone: Pass
    derivations: frozenset[tuple[str, tuple]]
    by_example: list[dict[Node, Tensor | None]]
    own: dict[Node, Tensor | None]
    rows: dict[Node, Rows] = field(default_factory=dict)

    @classmethod
    def of(cls, network: FunctionalNetwork, sample: Tensor) -> "_Comparison":
        """Pass a few examples; refuse networks whose outputs for the first differ."""
        joint, alone = Pass.of(network, sample), Pass.of(network, sample[:1])
        if not _close(joint.outputs[:1], alone.outputs):
            together, own = joint.outputs[:1].detach(), alone.outputs.detach()
            raise ModelError(
                "The network's output for one example depends on the others, or on chance: with others and alone it "
                f"differs by {(together - own).abs().max():.3g}, of {own.abs().max():.3g}. BatchNorm must use its "
                "running statistics."
            )
        derivations = find_derivations(joint.outputs, joint.leaves, alone.outputs, alone.leaves)
        joint, alone = joint.behind(derivations), alone.behind(derivations)
        same = joint.signatures == alone.signatures
        fewer = alone if same else Pass.of(network, sample[:2]).behind(derivations)
        weights = fixed_weights(joint.outputs)
        masks = torch.eye(len(sample), dtype=weights.dtype, device=weights.device)
        # Gradients that show which rows are whose are zero where the graph shows it.
        needed = 1 if acts_examplewise(joint.outputs) else len(masks)
        by_example = [joint.gradients(weights * mask[:, None]) for mask in masks[:needed]]
        by_example += [{}] * (len(masks) - needed)
        return cls(joint, fewer, alone, derivations, by_example, alone.gradients(weights[:1]))

    def uses_of(self, name: str) -> tuple[list[KnownUse] | None, bool]:
        """The uses of a parameter, None if one has no rule or rows; and whether there are several rows for one."""
        uses, alone = self.joint.uses[name], self.alone.uses[name]
        if self.joint.signatures[name] != self.fewer.signatures[name] or len(uses) != len(alone):
            return None, False
        derivations = frozenset(key for key in self.derivations if key[0] == name)
        known = []
        for use, smaller, single in zip(uses, self.fewer.uses[name], alone, strict=True):
            gradients = [found.get(use.node) for found in self.by_example]
            candidates = _candidates(use, smaller, gradients, len(self.fewer.outputs))
            if use.node in self.rows:
                candidates = [rows for rows in candidates if rows == self.rows[use.node]]
            sight = _Sight(
                use, gradients, single, self.own.get(single.node), self.joint.numbers.get(use.node), derivations
            )
            found = sight.known(candidates)
            passable = use.derived is None or can_be_pulled_back(use.derived, self.joint.leaves[name])
            if len(found) != 1 or not passable:
                return None, len(found) > 1
            self.rows[use.node] = found[0].rows
            known.append(found[0])
        return known, False


def _candidates(use: Use, smaller: Use, gradients: list[Tensor | None], fewer: int) -> list[Rows]:
    """Rows that fit the operation and contradict no gradient; ``smaller`` is the same use for fewer examples."""
    operation = operation_of(use)
    if operation is None or operation_of(smaller) is None:
        return []
    sizes, smaller_sizes = use.sizes, smaller.sizes
    candidates = possible_rows(sizes, smaller_sizes, len(gradients), fewer)
    if isinstance(operation, ScaledSum):
        candidates = [rows for rows in candidates if operation.fits(rows, use.arrangement.shape, sizes)]
    else:
        candidates = [rows for rows in candidates if operation.fits(rows, len(sizes))]
    return [rows for rows in candidates if agrees(rows, gradients)]


@dataclass(frozen=True)
class _Sight:
    """A use in a pass of several examples, and the same one where the first of them is alone.

    Attributes:
        use: Among several.
        gradients: Of each example's logits with respect to the operation's output; None for zero.
        single: Alone.
        single_gradient: Of the first example's logits, alone.
        number: Number of its operation among several; None without a rule.
        derivations: Of the parameter.
    """

    use: Use
    gradients: list[Tensor | None]
    single: Use
    single_gradient: Tensor | None
    number: int | None
    derivations: frozenset[tuple[str, tuple]]

    def known(self, candidates: list[Rows]) -> list[KnownUse]:
        """What the use is with each of the rows that give the first example what it has alone."""
        found = [self._checked(rows) for rows in candidates]
        return [use for use in found if use is not None]

    def _checked(self, rows: Rows) -> KnownUse | None:
        """A known use, if features and gradients of the first example are those that it has alone.

        They aren't if examples depend on each other; or if PyTorch takes several uses of a parameter in another order
        for one example, as by `torch.einsum`.
        """
        operation, examples = operation_of(self.use), len(self.gradients)
        same = self.use.signature == self.single.signature
        own_rows = rows if same else _rows_of_one(self.single)
        of_one_kind = isinstance(operation_of(self.single), type(operation))
        if own_rows is None or not of_one_kind or (self.use.derived is None) != (self.single.derived is None):
            return None
        if self.gradients[0] is not None and self.single_gradient is not None:
            first = _gradient(self.use, rows, self.gradients[0], examples, whole=same)
            own = _gradient(self.single, own_rows, self.single_gradient, 1, whole=same)
            if first.shape != own.shape:
                return None
            moved = torch.linalg.vector_norm(first - own)
            if not moved <= GRADIENT_TOLERANCE * torch.linalg.vector_norm(own):
                return None
        derived = 0 if self.use.derived is None else math.prod(self.use.arrangement.shape)
        known, own = (
            KnownUse(use.signature, self.number, where, 0, None, _number(use), derived, self.derivations)
            for use, where in ((self.use, rows), (self.single, own_rows))
        )
        if isinstance(operation, OuterProduct):
            try:
                features, values = operation.features(self.use.node, rows, examples)
                own_features, own_values = operation_of(self.single).features(self.single.node, own_rows, 1)
            except (GraphChanged, NotImplementedError):  # sparse tensors have no views
                return None
            if features != own_features or not _close(values[:1], own_values):
                return None
            channels = operation.channels(self.use.sizes)
            known, own = (replace(use, channels=channels, features=features) for use in (known, own))
        return known if same else replace(known, alone=own)


def _number(use: Use) -> float:
    """The number that an operation takes its argument times, its own included."""
    operation = operation_of(use)
    return use.scale * (operation.scale(use.node) if isinstance(operation, ScaledSum) else 1)


def _rows_of_one(use: Use) -> Rows | None:
    """The rows of an operation on one example, all of them its own; None if it can't be that."""
    operation, sizes, seen = operation_of(use), use.sizes, use.arrangement.shape
    everything = [Rows(axis, size, True) for axis, size in enumerate(sizes)]
    if isinstance(operation, OuterProduct):
        fitting = [rows for rows in everything if operation.fits(rows, len(sizes))]
    else:
        fitting = [rows for rows in everything if operation is not None and operation.fits(rows, seen, sizes)]
    return fitting[0] if fitting else None


def _gradient(use: Use, rows: Rows, gradient: Tensor, examples: int, *, whole: bool) -> Tensor:
    """The first example's part of the gradient of an operation's output; else of what its rule makes of it."""
    operation = operation_of(use)
    if whole:
        return rows.split(gradient, examples)[0]
    if isinstance(operation, OuterProduct):
        return operation.gradient(gradient, rows, examples)[0]
    factor, scale = operation.factor(use.node), operation.scale(use.node)
    return operation.jacobian(gradient, factor, scale, rows, examples, use.arrangement.shape)[0]


def _close(together: Tensor, alone: Tensor) -> bool:
    """Whether values differ by no more than rounding can."""
    if not together.is_floating_point():
        return True
    difference, size = (together - alone).detach().abs().max(), alone.detach().abs().max()
    return not math.isfinite(size) or bool(difference <= torch.finfo(alone.dtype).eps ** 0.5 * size)
