"""Forward and backward passes over a block of examples, read out at the uses of the parameters."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from twophase.differentiation.checks import check_outputs, fixed_weights
from twophase.differentiation.functional import FunctionalNetwork
from twophase.entk.by_logit import DeferredByLogit, StructuredByLogit
from twophase.entk.clock import Clock
from twophase.entk.derived import pulled_back
from twophase.entk.examplewise import acts_examplewise
from twophase.entk.features import Features
from twophase.entk.inspection import KnownUse
from twophase.entk.operations import OuterProduct, operation_of
from twophase.entk.rows import GraphChanged
from twophase.entk.terms import ExplicitTerm, Held, Term, add_jacobian
from twophase.entk.uses import Use, find_uses

GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass
class Layer:
    """A term, the layer it belongs to, and the parameters that it covers.

    Attributes:
        name: Name of the module that owns the parameters.
        term: The term.
        parameters: Names of the parameters; the weight first, if there is one.
    """

    name: str
    term: Term | ExplicitTerm
    parameters: tuple[str, ...]

    @property
    def by_logit(self) -> bool:
        """Whether the term holds one logit at a time."""
        return isinstance(self.term, (DeferredByLogit, StructuredByLogit))


@dataclass
class Readout:
    """Fills the terms of a kernel with what a block of examples gives them.

    Attributes:
        network: The network.
        cotangents: Combinations of logits that are differentiated, shape ``(q, K)``.
        known: Uses of the parameters that have rules, none for those that aren't used.
        layers: The terms.
        piece: Examples passed together.
        fallback: Jacobian ``(n, q, P)`` of all parameters without rules, in the order of ``unknown``; None if there
            are none.
        unknown: These parameters and their sizes.
        clock: Counts time.
    """

    network: FunctionalNetwork
    cotangents: Tensor
    known: dict[str, list[KnownUse]]
    layers: list[Layer]
    piece: int
    fallback: Callable[[Tensor], Tensor] | None
    unknown: dict[str, int]
    clock: Clock
    _explicit: list[tuple[str, int, slice]] = field(init=False)
    _derivations: frozenset[tuple[str, tuple]] = field(init=False)

    def __post_init__(self):
        """Find which parameters are held in explicit form, and where, and which are taken as derived tensors."""
        self._derivations = frozenset().union(*(use.derivations for uses in self.known.values() for use in uses))
        self._explicit = [
            (name, index, columns)
            for index, layer in enumerate(self.layers)
            if isinstance(layer.term, ExplicitTerm)
            for name, columns in layer.term.columns.items()
        ]

    def __call__(self, inputs: Tensor, after_logit: Callable[[list[Held]], None] = lambda held: None) -> list[Held]:
        """Represent inputs ``(n, *d)`` in every term.

        Args:
            inputs: The block of examples.
            after_logit: Takes what the terms keep after each logit, if some of them keep one logit at a time.

        Returns:
            What each term keeps of them, in the order of ``layers``.

        Raises:
            GraphChanged: If the network takes another way than it did when it was inspected.
        """
        held = [layer.term.hold(len(inputs)) for layer in self.layers]
        starts = range(0, len(inputs), self.piece)
        pieces = [slice(start, min(start + self.piece, len(inputs))) for start in starts]
        if any(layer.by_logit for layer in self.layers):
            self._read(inputs, pieces, held, after_logit)
        elif self.known:
            for rows in pieces:
                self._read(inputs, [rows], held, lambda held: None)
        if self.fallback is not None:
            for rows in pieces:
                with self.clock("without a rule"):
                    self._read_unknown(inputs[rows], rows, held)
        return held

    def _read(
        self, inputs: Tensor, pieces: list[slice], held: list[Held], after_logit: Callable[[list[Held]], None]
    ) -> None:
        """Read some pieces logit by logit, their graphs side by side."""
        passed = [self._passed(inputs[rows], rows, held) for rows in pieces]
        for logit in range(len(self.cotangents)):
            for piece in passed:
                self._read_gradients(piece, logit)
            after_logit(held)
        readers = [reader for piece in passed for reader in piece.readers]
        del passed, piece  # activations that no reader holds
        for reader in readers:
            with self.clock(("prepared", reader.parameter), inputs):
                reader.finish()

    def _passed(self, inputs: Tensor, rows: slice, held: list[Held]) -> "_Passed":
        """Pass a piece forward, and find where the known parameters are used."""
        examples, leaves = len(inputs), self.network.leaves()
        with self.clock("forward passes", inputs), torch.enable_grad():
            outputs = self.network(leaves, self.network.ordered(inputs))
        check_outputs(outputs, examples, self.network.dtype, self.cotangents.shape[1])
        uses = find_uses(outputs, leaves, self._derivations)
        known = {name: [use.among(examples) for use in uses] for name, uses in self.known.items()}
        _check_unchanged(uses, known)
        nodes = {use.node: use.edge for name in self.known for use in uses[name]}
        if not nodes:
            return _Passed(outputs, nodes, [])
        self._check_rows(outputs, uses, known, nodes)
        with self.clock("reading", inputs):
            return _Passed(outputs, nodes, self._readers(uses, known, held, rows, leaves))

    def _readers(
        self,
        uses: dict[str, list[Use]],
        known: dict[str, list[KnownUse]],
        held: list[Held],
        rows: slice,
        leaves: dict[str, Tensor],
    ) -> "list[_Reader]":
        weights = [
            _WeightReader(uses[layer.parameters[0]][0], known[layer.parameters[0]][0], layer, block, rows)
            for layer, block in zip(self.layers, held, strict=True)
            if not isinstance(layer.term, ExplicitTerm)
        ]
        explicit = [
            _explicit_reader(use, known_use, held[index].gradients[rows, :, columns], leaves[name])
            for name, index, columns in self._explicit
            if name in known
            for use, known_use in zip(uses[name], known[name], strict=True)
        ]
        return weights + explicit

    def _read_gradients(self, piece: "_Passed", logit: int) -> None:
        """One backward pass, to the outputs of the operations that take parameters."""
        if not piece.nodes:
            return
        with self.clock("backward passes", piece.outputs):
            found = torch.autograd.grad(
                piece.outputs,
                list(piece.nodes.values()),
                self.cotangents[logit].expand(len(piece.outputs), -1).contiguous(),
                retain_graph=logit + 1 < len(self.cotangents),
                allow_unused=True,
            )
        gradients = dict(zip(piece.nodes, found, strict=True))
        with self.clock("reading", piece.outputs):
            for reader in piece.readers:
                reader.collect(logit, gradients[reader.node])

    def _check_rows(
        self,
        outputs: Tensor,
        uses: dict[str, list[Use]],
        known: dict[str, list[KnownUse]],
        nodes: dict[Node, GradientEdge],
    ) -> None:
        """Refuse rows that are not where they were: gradients of half of the examples are zero in the others' rows."""
        first = all(use.rows.axis == 0 and use.rows.per_example == 1 for uses in known.values() for use in uses)
        if len(outputs) == 1 or (first and acts_examplewise(outputs)):
            return
        half = torch.frac((1 + torch.arange(len(outputs), device=outputs.device)) * GOLDEN_RATIO) < 0.5
        cotangent = fixed_weights(outputs.detach()) * half[:, None]
        with self.clock("backward passes", outputs):
            found = torch.autograd.grad(outputs, list(nodes.values()), cotangent, retain_graph=True, allow_unused=True)
        gradients = dict(zip(nodes, found, strict=True))
        with self.clock("reading", outputs):
            for name, known_uses in known.items():
                for use, rows in zip(uses[name], (use.rows for use in known_uses), strict=True):
                    gradient = gradients.pop(use.node, None)
                    if gradient is not None and rows.split(gradient, len(half))[~half].any():
                        raise GraphChanged(name)

    def _read_unknown(self, inputs: Tensor, rows: slice, held: list[Held]) -> None:
        jacobian = self.fallback(inputs)
        offsets, at = {}, 0
        for name, size in self.unknown.items():
            offsets[name], at = slice(at, at + size), at + size
        for name, index, columns in self._explicit:
            if name in offsets:
                held[index].gradients[rows, :, columns] = jacobian[:, :, offsets[name]]


def _check_unchanged(uses: dict[str, list[Use]], known: dict[str, list[KnownUse]]) -> None:
    for name, known_uses in known.items():
        if [use.signature for use in uses[name]] != [use.signature for use in known_uses]:
            raise GraphChanged(name)


@dataclass(frozen=True)
class _Passed:
    """A piece of examples that was passed forward.

    Attributes:
        outputs: Logits, with their graph.
        nodes: Where the gradients go that are read.
        readers: What reads them.
    """

    outputs: Tensor
    nodes: dict[Node, GradientEdge]
    readers: "list[_Reader]"


class _Reader(Protocol):
    """Reads one use in one piece: collects the gradients of logit by logit, and finishes after all."""

    parameter: str
    node: Node

    def collect(self, logit: int, gradient: Tensor | None) -> None:
        """Take the gradient of one logit; None for zero."""

    def finish(self) -> None:
        """After all logits."""


class _WeightReader:
    """Reads features and gradients of one outer product in one piece, for its term."""

    def __init__(self, use: Use, known: KnownUse, layer: Layer, held: Held, rows: slice):
        self.parameter, self.node, self.scale = use.parameter, use.node, use.scale
        self.term, self.by_logit, self.held, self.rows = layer.term, layer.by_logit, held, rows
        self.features, self.rule, self.values = _outer_product(use, known, rows.stop - rows.start)
        self.known = known
        if self.by_logit:
            self.term.finish(held, rows, self.values)

    def collect(self, logit: int, gradient: Tensor | None) -> None:
        """Take the gradient of one logit."""
        examples = self.rows.stop - self.rows.start
        if gradient is None:
            parted = self.term.shape.empty(examples, self.features.positions, self.known.channels).zero_()
        else:
            parted = self.rule.gradient(gradient, self.known.rows, examples)
            parted = parted if self.scale == 1 else parted * self.scale
        self.term.collect(self.held, self.rows, 0 if self.by_logit else logit, parted)

    def finish(self) -> None:
        """Take the features, after all logits, unless they were needed at once."""
        if not self.by_logit:
            self.term.finish(self.held, self.rows, self.values)


class _ExplicitReader:
    """Adds what one use gives to a parameter's Jacobian, ``(n, q, p)``."""

    def __init__(self, use: Use, known: KnownUse, target: Tensor):
        self.parameter, self.node, self.scale = use.parameter, use.node, use.scale
        self.known, self.target, self.arrangement = known, target, use.arrangement
        self.staged: Tensor | None = None
        self.rule = operation_of(use)
        if isinstance(self.rule, OuterProduct):
            self.features, self.rule, self.values = _outer_product(use, known, len(target))
            self.staged = target.new_zeros(len(target), self.features.positions, target.shape[1], known.channels)
        else:
            self.factor, self.scale = self.rule.factor(use.node), use.scale * self.rule.scale(use.node)

    def collect(self, logit: int, gradient: Tensor | None) -> None:
        """Take the gradient of one logit."""
        if gradient is None:
            return
        examples, rows = len(self.target), self.known.rows
        if self.staged is not None:
            parted = self.rule.gradient(gradient, rows, examples)
            self.staged[:, :, logit] = parted if self.scale == 1 else parted * self.scale
        else:
            value = self.rule.jacobian(gradient, self.factor, self.scale, rows, examples, self.arrangement.shape)
            self.target[:, logit] += self.arrangement.restored(value.unsqueeze(1))[:, 0]

    def finish(self) -> None:
        """Form an outer product's Jacobian in the parameter's own order."""
        if self.staged is None:
            return
        dense = self.features.dense(self.values).to(self.staged.dtype)
        product = self.staged.new_empty(*self.target.shape[:2], self.known.channels * self.features.width)
        add_jacobian(product, self.staged, dense)
        product = product.unflatten(2, (self.known.channels, -1))
        self.target += self.arrangement.restored(self.rule.ordered(product, self.features))


class _DerivedReader:
    """Reads a use of a tensor derived from a parameter, and passes its Jacobian on to the parameter's ``(n, q, p)``."""

    def __init__(self, use: Use, known: KnownUse, target: Tensor, leaf: Tensor):
        self.parameter, self.node, self.derived = use.parameter, use.node, use.derived
        self.target, self.leaf = target, leaf
        self.jacobian = target.new_zeros(*target.shape[:2], known.derived)
        self.reader = _ExplicitReader(use, known, self.jacobian)

    def collect(self, logit: int, gradient: Tensor | None) -> None:
        """Take the gradient of one logit; None for zero."""
        self.reader.collect(logit, gradient)

    def finish(self) -> None:
        """After all logits."""
        self.reader.finish()
        shape = self.derived.node._input_metadata[self.derived.output_nr].shape
        jacobian = self.jacobian.view(*self.target.shape[:2], *shape)
        self.target += pulled_back(self.derived, self.leaf, jacobian).reshape(self.target.shape)


def _explicit_reader(use: Use, known: KnownUse, target: Tensor, leaf: Tensor) -> _Reader:
    if use.derived is None:
        return _ExplicitReader(use, known, target)
    return _DerivedReader(use, known, target, leaf)


def _outer_product(use: Use, known: KnownUse, examples: int) -> tuple[Features, OuterProduct, Tensor]:
    """Features of a use, which must be those that it had when it was inspected, its rule, and the features' values."""
    rule = operation_of(use)
    features, values = rule.features(use.node, known.rows, examples)
    if features != known.features:
        raise GraphChanged(use.parameter)
    return features, rule, values
