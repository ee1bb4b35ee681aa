"""Terms of a class trace that hold one logit at a time: a trace is the sum of its logits' kernels.

What they hold is contracted after each logit and summed; the kernel gets the sums at the end. All examples make one
block.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from twophase.entk.features import DenseFeatures
from twophase.entk.terms import DeferredTerm, Held, Shape, StructuredTerm

SUM_BYTES = 8  # at most, of a pair of examples in a sum over logits


@dataclass
class DeferredByLogit(DeferredTerm):
    """A deferred term of one logit at a time; the logits' kernels, many small parts, are summed in float64."""

    def hold(self, examples: int) -> Held:
        """Room for one logit's gradients, ``(n, S, 1, C)``, and the sum."""
        held = super().hold(examples)
        held.sums = torch.zeros(examples, examples, dtype=torch.float64, device=self.shape.device)
        return held

    def add_logit(self, held: Held) -> None:
        """Add the kernel of the logit that is held."""
        kernel = held.gradients.new_zeros(held.sums.shape)
        super().add(kernel, held, None)
        held.sums += kernel

    def add(self, kernel: Tensor, left: Held, right: Held | None) -> None:
        """Add the sum."""
        kernel += left.sums


@dataclass
class StructuredByLogit(StructuredTerm):
    """A structured term with one position, of one logit at a time: products of gradients are summed over logits."""

    def hold(self, examples: int) -> Held:
        """Room for one logit's gradients, ``(n, 1, 1, C)``, and the sum."""
        held = super().hold(examples)
        held.sums = self.shape.empty(examples, examples).zero_()
        return held

    def add_logit(self, held: Held) -> None:
        """Add products of the gradients of the logit that is held."""
        gradients = held.gradients.flatten(1)
        for rows, columns in self.trace_tiles(len(gradients), None):
            held.sums[rows, columns].addmm_(gradients[rows], gradients[columns].T)

    def add(self, kernel: Tensor, left: Held, right: Held | None) -> None:
        """Add the sum, weighted by products of features."""
        for rows, columns in self.trace_tiles(len(kernel), None):
            gram = self.gram(left.features[rows], left.features[columns])
            kernel[rows, columns].addcmul_(left.sums[rows, columns], gram[:, 0, :, 0])


def form_by_logit(form: str, shape: Shape, examples: int) -> type[DeferredByLogit] | type[StructuredByLogit] | None:
    """How a term of this form can hold one logit at a time; None where it can't, or would hold more.

    Args:
        form: Name of the form.
        shape: The term, of all logits.
        examples: Number n of examples.

    Returns:
        The term's class.
    """
    # Features of other kinds would be brought to their order again for each logit.
    if form == "deferred" and isinstance(shape.features, DenseFeatures):
        return DeferredByLogit
    saved = (shape.logits - 1) * shape.channels * shape.dtype.itemsize
    if form == "structured" and shape.features.positions == 1 and saved > SUM_BYTES * examples:
        return StructuredByLogit
    return None
