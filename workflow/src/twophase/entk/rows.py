"""Which rows of an operation's tensors belong to which example."""

from dataclasses import dataclass

from torch import Tensor


class GraphChanged(Exception):
    """A forward pass used a parameter otherwise than the passes that were inspected."""


@dataclass(frozen=True)
class Rows:
    """An axis of ``examples * per_example`` rows, such as that of a linear layer over the tokens of all examples.

    Attributes:
        axis: The axis.
        per_example: Rows r of each example.
        example_major: Whether the rows of one example lie together, ``(n r)``, or apart, ``(r n)``.
    """

    axis: int
    per_example: int
    example_major: bool

    def split(self, values: Tensor, examples: int) -> Tensor:
        """Return ``(examples, per_example, *others)``, the other axes in their order; a view where possible.

        Args:
            values: Tensor with the axis of rows.
            examples: Number of examples that it holds.

        Returns:
            The values of each example.

        Raises:
            GraphChanged: If the axis doesn't hold as many rows as it has to.
        """
        if values.ndim <= self.axis or values.shape[self.axis] != examples * self.per_example:
            raise GraphChanged(f"{tuple(values.shape)} isn't {self.per_example} rows of each of {examples} examples")
        sizes = (examples, self.per_example) if self.example_major else (self.per_example, examples)
        parted = values.unflatten(self.axis, sizes)
        order = (self.axis, self.axis + 1) if self.example_major else (self.axis + 1, self.axis)
        return parted.movedim(order, (0, 1))

    def place(self, axis: int) -> int:
        """Where another axis is after `split`; negative ones are behind that of the rows, and stay."""
        return axis if axis < 0 else axis + 1 + (axis < self.axis)


def possible_rows(joint: tuple[int, ...], smaller: tuple[int, ...], examples: int, fewer: int = 1) -> list[Rows]:
    """Return the ways in which a tensor of several examples can hold their rows.

    Args:
        joint: Its shape for several examples.
        smaller: Its shape for fewer.
        examples: How many, at least 2.
        fewer: How many fewer are.

    Returns:
        One or two candidates; none if no single axis grows with the number of examples.
    """
    if len(joint) != len(smaller):
        return []
    grown = [axis for axis, (many, few) in enumerate(zip(joint, smaller, strict=True)) if many != few]
    if len(grown) != 1 or joint[grown[0]] * fewer != examples * smaller[grown[0]]:
        return []
    axis, per_example = grown[0], joint[grown[0]] // examples
    return [Rows(axis, per_example, order) for order in ((True,) if per_example == 1 else (True, False))]


def agrees(rows: Rows, gradients: list[Tensor | None]) -> bool:
    """Whether the gradients of each example's logits are zero outside of its own rows.

    Args:
        rows: A candidate.
        gradients: For each example, the gradient of its logits with respect to the operation's output for all
            examples; None for zero.

    Returns:
        True if the candidate contradicts none of them.
    """
    for example, gradient in enumerate(gradients):
        if gradient is None:
            continue
        others = rows.split(gradient, len(gradients)).clone()
        others[example] = 0
        if others.any():
            return False
    return True
