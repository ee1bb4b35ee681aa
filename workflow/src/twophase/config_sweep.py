"""The config's section on sweeps: one study declared, a study made of it for each combination of some settings."""

import itertools
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from twophase.config_types import Fraction, PositiveFloat, PositiveInt, Section, distinct

# For each axis the place in the study that it sets; in the order of names and dimensions.
PLACES = {
    "width": ("model", "width"),
    "depth": ("model", "depth"),
    "normalization": ("model", "normalization"),
    "output_scale": ("model", "output_scale"),
    "batch_size": ("training", "batch_size"),
    "learning_rate": ("optimizer", "learning_rate"),
    "label_noise": ("data", "label_noise"),
}
MOST_CELLS = 1000

Widths = Annotated[list[PositiveInt], AfterValidator(distinct)]
Rates = Annotated[list[PositiveFloat], AfterValidator(distinct)]


class Sweep(Section):
    """Settings that vary: one study, a cell, for each combination of their values."""

    width: Widths | None = Field(None, description="Values of model.width.")
    depth: Widths | None = Field(None, description="Values of model.depth.")
    normalization: Annotated[list[Literal["batch", "group", "none"]], AfterValidator(distinct)] | None = Field(
        None, description="Values of model.normalization."
    )
    output_scale: Rates | None = Field(None, description="Values of model.output_scale.")
    batch_size: Widths | None = Field(None, description="Values of training.batch_size.")
    learning_rate: Rates | None = Field(None, description="Values of optimizer.learning_rate.")
    label_noise: Annotated[list[Fraction], AfterValidator(distinct)] | None = Field(
        None, description="Values of data.label_noise."
    )

    def axes(self) -> dict[str, list]:
        """The values of each axis that the sweep has, in the order of names and dimensions."""
        return {axis: values for axis in PLACES if (values := getattr(self, axis)) is not None}

    def cells(self) -> list[dict[str, Any]]:
        """Each combination as its value on each axis, the last axis running fastest; none if there are far too many."""
        axes = self.axes()
        if not 0 < self._count() <= MOST_CELLS:
            return []
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]

    def _count(self) -> int:
        axes = self.axes()
        return math.prod(map(len, axes.values())) if axes else 0

    def problems(self, network: str) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for what the types can't see, with the name of the network that is trained."""
        axes = self.axes()
        if not axes:
            yield "", f"needs at least one axis, some of {', '.join(PLACES)}"
        if self._count() > MOST_CELLS:
            yield "", f"has {self._count()} combinations of values; expected at most {MOST_CELLS}"
        without = {"depth"} if network == "vgg16" else {"width", "depth", "normalization"} if ":" in network else set()
        for axis in axes:
            if axis in without:
                yield axis, f"has no effect on the network {network!r}"


def cell_name(study: str, values: dict[str, Any]) -> str:
    """Name of a cell, its folder below results/, such as ``small__width16__learning_rate0.1``.

    Numbers are written as Python writes them, so that two of them never have one name.
    """
    return "__".join([study, *(f"{axis}{_written(value)}" for axis, value in values.items())])


def _written(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
