"""Where a network uses its parameters, read off autograd's graph: every use is found, wherever it is written."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

# Operations that keep all elements in their order.
VIEWS = {"ViewBackward0", "UnsafeViewBackward0", "UnsqueezeBackward0", "SqueezeBackward0", "SqueezeBackward1"}


@dataclass(frozen=True)
class Use:
    """One operation that takes one trainable parameter.

    Attributes:
        parameter: The parameter's name.
        node: The operation's node in the graph.
        slot: Which of the operation's arguments the parameter is.
        transposed: Whether the operation takes the transpose of the parameter, a matrix.
        shape: Shape of the parameter, or of the view of all its elements in their order that the operation takes.
    """

    parameter: str
    node: Node
    slot: int
    transposed: bool
    shape: tuple[int, ...]

    @property
    def edge(self) -> GradientEdge:
        """The operation's output, as autograd names it."""
        return GradientEdge(self.node, 0)

    @property
    def signature(self) -> tuple:
        """What is the same in every forward pass of one network."""
        return self.node.name(), self.slot, self.transposed, self.shape


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


def find_uses(outputs: Tensor, leaves: dict[str, Tensor]) -> dict[str, list[Use]]:
    """Find every operation between the parameters and the outputs that takes a parameter.

    Args:
        outputs: Result of a forward pass.
        leaves: Parameters by name, leaves of its graph.

    Returns:
        The uses of each parameter, in an order that depends on nothing but the graph's shape; empty if unused.
    """
    names = {id(leaf): name for name, leaf in leaves.items()}
    consumers: dict[Node, list[tuple[Node, int]]] = defaultdict(list)
    holders: dict[str, Node] = {}
    for node in nodes(outputs):
        if id(getattr(node, "variable", None)) in names:
            holders[names[id(node.variable)]] = node
        for slot, (source, _) in enumerate(node.next_functions):
            consumers[source].append((node, slot))
    uses: dict[str, list[Use]] = {name: [] for name in leaves}
    for name, holder in holders.items():
        shape = tuple(leaves[name].shape)
        uses[name] = list(_behind(holder, name, shape, consumers))
        if not consumers[holder]:  # the network returns the parameter itself
            uses[name].append(Use(name, holder, 0, False, shape))
    return uses


def _behind(
    source: Node, name: str, shape: tuple[int, ...], consumers: dict[Node, list[tuple[Node, int]]]
) -> Iterator[Use]:
    """Uses of a parameter, or of a view of it, by the operations that take it."""
    for node, slot in consumers[source]:
        if node.name() in VIEWS:
            yield from _behind(node, name, tuple(node._input_metadata[0].shape), consumers)
        elif node.name() == "TBackward0":
            yield from (Use(name, user, at, True, shape) for user, at in consumers[node])
        else:
            yield Use(name, node, slot, False, shape)
