"""Tensors derived from parameters alone: which they are, and how Jacobians pass from them to the parameters."""

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from twophase.entk.uses import Use, find_uses

LONGEST = 100  # operations one after the other, which are followed one by one


def find_derivations(
    several: Tensor, leaves: dict[str, Tensor], alone: Tensor, alone_leaves: dict[str, Tensor]
) -> frozenset[tuple[str, tuple]]:
    """Find the operations between parameters and outputs that examples have no part in.

    They give a tensor of the same shape for any number of examples. That alone doesn't prove that they are functions of
    the parameters only: whether examples are independent has to be checked. Longer chains than `LONGEST` aren't
    followed to their end.

    Args:
        several: Outputs for several examples.
        leaves: Parameters by name, leaves of its graph.
        alone: Outputs for one of these.
        alone_leaves: The same parameters, leaves of this graph.

    Returns:
        The operations, as `find_uses` takes them.
    """
    found: set[tuple[str, tuple]] = set()
    for _ in range(LONGEST):
        uses, own_uses = find_uses(several, leaves, found), find_uses(alone, alone_leaves, found)
        derived = {
            (name, use.path)
            for name in uses
            if len(uses[name]) == len(own_uses[name])
            for use, own in zip(uses[name], own_uses[name], strict=True)
            if _derives(use, own, leaves[name].dtype)
        }
        if derived <= found:
            break
        found |= derived
    return frozenset(found)


def _derives(use: Use, own: Use, dtype: torch.dtype) -> bool:
    results = use.node._input_metadata
    unchanged = bool(use.path) and use.signature == own.signature and use.sizes == own.sizes
    return unchanged and all(result.dtype == dtype for result in results)


def pulled_back(derived: GradientEdge, leaf: Tensor, jacobian: Tensor) -> Tensor:
    """Jacobian of a parameter, by the chain rule.

    Args:
        derived: The derived tensor z, of any shape.
        leaf: The parameter p that it was derived from.
        jacobian: With respect to z, shape ``(n, q, *z)``.

    Returns:
        With respect to p, shape ``(n, q, *p)``.

    Raises:
        RuntimeError: If PyTorch can't differentiate an operation for several cotangents together.
    """
    (product,) = torch.autograd.grad(
        [derived], [leaf], [jacobian.flatten(0, 1)], retain_graph=True, is_grads_batched=True
    )
    return product.unflatten(0, jacobian.shape[:2])


def can_be_pulled_back(derived: GradientEdge, leaf: Tensor) -> bool:
    """Whether `pulled_back` gives what one cotangent after the other does.

    Args:
        derived: The derived tensor.
        leaf: The parameter that it was derived from.

    Returns:
        False if it fails, or gives something else.
    """
    metadata = derived.node._input_metadata[derived.output_nr]
    generator = torch.Generator(leaf.device).manual_seed(0)
    size = (1, 2, *metadata.shape)
    jacobian = torch.randn(size, dtype=leaf.dtype, device=leaf.device, generator=generator)
    try:
        together = pulled_back(derived, leaf, jacobian)[0]
        single = [torch.autograd.grad([derived], [leaf], [j], retain_graph=True)[0] for j in jacobian[0]]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    single = torch.stack([gradient.to_dense() for gradient in single])
    distance = torch.linalg.vector_norm(together - single)
    return bool(distance <= torch.finfo(leaf.dtype).eps ** 0.5 * torch.linalg.vector_norm(single))
