"""Where a network uses its parameters, read off autograd's graph: every use is found, wherever it is written.

Between a parameter and the operation that takes it, views, permutations of axes and factors are looked through. What
else is made of parameters alone, such as a weight that is normalised or masked, or position embeddings, is **derived**:
the operation takes the derived tensor z, and the parameter's Jacobian is that of z times dz/dp.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from twophase.entk.arrangement import Arrangement

# Operations that keep all elements in their order.
VIEWS = {
    "CloneBackward0",
    "ReshapeAliasBackward0",
    "SqueezeBackward0",
    "SqueezeBackward1",
    "SqueezeBackward2",
    "UnsafeViewBackward0",
    "UnsqueezeBackward0",
    "ViewBackward0",
}


@dataclass(frozen=True)
class Use:
    """One operation that takes one trainable parameter, or a tensor derived from it.

    Attributes:
        parameter: The parameter's name.
        node: The operation's node in the graph.
        slot: Which of the operation's arguments the parameter is.
        arrangement: Shape and order in which the operation takes the elements of the parameter or derived tensor.
        scale: A number that the operation takes it times.
        derived: The derived tensor, as autograd names it; None for the parameter itself.
        path: Operations by which it was derived, and this one: name, slot and shape of the result.
    """

    parameter: str
    node: Node
    slot: int
    arrangement: Arrangement
    scale: float = 1.0
    derived: GradientEdge | None = None
    path: tuple = ()

    @property
    def edge(self) -> GradientEdge:
        """The operation's output, as autograd names it."""
        return GradientEdge(self.node, 0)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Shape of the operation's output."""
        return tuple(self.node._input_metadata[0].shape)

    @property
    def signature(self) -> tuple:
        """What is the same in every forward pass of one network."""
        return self.node.name(), self.slot, self.arrangement, self.scale, self.path[:-1]


def nodes(outputs: Tensor) -> list[Node]:
    """All operations behind some outputs, in an order that depends on nothing but the graph's shape."""
    seen: dict[Node, None] = {}
    waiting = [outputs.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen[node] = None
            waiting += [source for source, _ in node.next_functions]
    return list(seen)


def operations(outputs: Tensor) -> set[str]:
    """Names of the operations behind some outputs."""
    return {node.name() for node in nodes(outputs)}


def find_uses(
    outputs: Tensor, leaves: dict[str, Tensor], derivations: Collection[tuple[str, tuple]] = ()
) -> dict[str, list[Use]]:
    """Find every operation between the parameters and the outputs that takes a parameter.

    Args:
        outputs: Result of a forward pass.
        leaves: Parameters by name, leaves of its graph.
        derivations: Operations on parameters alone, by the parameter's name and `Use.path`; what takes their results is
            found in their place.

    Returns:
        The uses of each parameter, in an order that depends on nothing but the graph's shape; empty if unused.
    """
    names = {id(leaf): name for name, leaf in leaves.items()}
    consumers: dict[Node, list[tuple[Node, int, int]]] = defaultdict(list)
    holders: dict[str, Node] = {}
    for node in nodes(outputs):
        if id(getattr(node, "variable", None)) in names:
            holders[names[id(node.variable)]] = node
        for slot, (source, number) in enumerate(node.next_functions):
            consumers[source].append((node, slot, number))
    uses: dict[str, list[Use]] = {name: [] for name in leaves}
    for name, holder in holders.items():
        whole = Arrangement(tuple(leaves[name].shape))
        uses[name] = list(_Search(name, consumers, derivations).behind(GradientEdge(holder, 0), whole))
        if not consumers[holder]:  # the network returns the parameter itself
            uses[name].append(Use(name, holder, 0, whole))
    return uses


@dataclass
class _Search:
    """The way from one parameter to the operations that take it."""

    name: str
    consumers: dict[Node, list[tuple[Node, int, int]]]
    derivations: Collection[tuple[str, tuple]]
    passed: set[Node] = field(default_factory=set)

    def behind(
        self,
        source: GradientEdge,
        seen: Arrangement,
        scale: float = 1.0,
        derived: GradientEdge | None = None,
        path: tuple = (),
    ) -> Iterator[Use]:
        """Uses of a tensor: the parameter, one derived from it, a view, permutation or multiple of these."""
        for node, slot, number in self.consumers[source.node]:
            if number != source.output_nr:
                continue
            sizes, edge = tuple(node._input_metadata[0].shape), GradientEdge(node, 0)
            here = (*path, (node.name(), slot, sizes))
            if not self.consumers[node]:  # the network returns it
                yield Use(self.name, node, slot, seen, scale, derived, here)
            elif node.name() in VIEWS:
                yield from self.behind(edge, seen.viewed(sizes), scale, derived, path)
            elif (order := _order(node, len(seen.shape))) is not None:
                yield from self.behind(edge, seen.permuted(order), scale, derived, path)
            elif (factor := _factor(node, slot)) is not None:
                yield from self.behind(edge, seen, scale * factor, derived, path)
            elif (self.name, here) not in self.derivations:
                yield Use(self.name, node, slot, seen, scale, derived, here)
            elif node not in self.passed:  # all ways to a derived tensor are one, as its derivative counts them
                self.passed.add(node)
                for number, metadata in enumerate(node._input_metadata):
                    result = GradientEdge(node, number)
                    yield from self.behind(
                        result, Arrangement(tuple(metadata.shape)), derived=result, path=(*here, number)
                    )


def _order(node: Node, dimensions: int) -> tuple[int, ...] | None:
    """The axes of its argument in the order of an operation that permutes them; None if it does something else."""
    order = list(range(dimensions))
    match node.name():
        case "TBackward0":
            order.reverse()
        case "PermuteBackward0":
            order = [_axis(saved, dimensions) for saved in node._saved_dims]
        case "TransposeBackward0":
            one, other = _axis(node._saved_dim0, dimensions), _axis(node._saved_dim1, dimensions)
            order[one], order[other] = other, one
        case _:
            return None
    return tuple(order)


def _axis(saved: int, dimensions: int) -> int:
    """An axis, counted from the first; PyTorch shows negative ones as unsigned numbers of 64 bits."""
    return (saved + dimensions) % 2**64 % dimensions


def _factor(node: Node, slot: int) -> float | None:
    """The number that an operation multiplies its argument by, if that is what it does."""
    if node.name() == "NegBackward0":
        return -1.0
    if node.name() not in ("MulBackward0", "DivBackward0") or (node.name() == "DivBackward0" and slot != 0):
        return None
    if any(source is not None for at, (source, _) in enumerate(node.next_functions) if at != slot):
        return None
    other = node._saved_other if slot == 0 else node._saved_self
    if other is None or other.ndim > 0 or other.is_complex():
        return None
    return float(other) if node.name() == "MulBackward0" else 1 / float(other)
