"""The config's section on a phase diagram of two-layer networks (Luo 2021, arXiv 2007.07497)."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from twophase.config_data import Data
from twophase.config_errors import shown
from twophase.config_types import (
    NOT_BOOL,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    ValueGrid,
    distinct,
)
from twophase.phase_diagram.grid import tiles

Number = Annotated[float, NOT_BOOL]
Share = Annotated[float, Field(gt=0, lt=1), NOT_BOOL]
Accuracy = Annotated[float, Field(ge=1e-8, le=1e-2), NOT_BOOL]
MOST_EXPONENT = 10  # |gamma| and |gamma'|: beyond it m^gamma leaves float64


class Points(Section):
    """Training examples in one dimension."""

    inputs: list[Number] = Field(min_length=1, description="Input x of each example.")
    targets: list[Number] = Field(min_length=1, description="Target y of each example.")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for what the types can't see."""
        if len(self.inputs) != len(self.targets):
            yield "targets", f"needs one for each of the {len(self.inputs)} inputs, got {len(self.targets)}"


class GridPoint(Section):
    """A point of the plane."""

    gamma: Number = Field(description="Exponent of the output's scale, kappa = m^-gamma.")
    gamma_prime: Number = Field(description="Exponent of the ratio of the layers' scales, kappa' = m^-gamma'.")


class PhaseDiagram(Section):
    """A map of the linear, critical and condensed regimes of two-layer ReLU networks (Luo 2021)."""

    points: Points | None = Field(None, description="Examples in one dimension; or give images.")
    images: Data | None = Field(
        None, description="Images (train_examples of them), target the class scaled to [-1, 1]; or give points."
    )
    gamma: ValueGrid = Field(description="Values of gamma; each a number or a range with start, stop, every.")
    gamma_prime: ValueGrid = Field(description="Values of gamma'; each a number or a range with start, stop, every.")
    widths: Annotated[list[PositiveInt], AfterValidator(distinct)] = Field(description="Hidden neurons m.")
    seeds: Annotated[list[NonNegativeInt], AfterValidator(distinct)] = Field(
        [0, 1], description="Independent repetitions; each seeds the initial weights."
    )
    tolerance: Accuracy = Field(
        1e-5, description="Share of a layer's displacement by which a step of the integration may miss it."
    )
    loss_tolerance: Share = Field(
        1e-6, description="Share of the loss (of the initial one, or of half the mean square of y) at which it ends."
    )
    most_evaluations: PositiveInt = Field(
        200_000, description="Evaluations of the slope after which a network counts as not converged."
    )
    confidence: Share = Field(0.95, description="Level of the confidence intervals of S_w.")
    critical_slope: PositiveFloat = Field(
        0.1, description="Largest |S_w| that counts as critical: the interval must lie within, or beyond, the band."
    )
    shown_points: list[GridPoint] = Field(
        min_length=1, max_length=6, description="Grid points whose fits, neurons and learned functions are drawn."
    )
    shown_width: PositiveInt = Field(1000, description="Hidden neurons of the networks whose neurons are drawn.")

    def accuracy(self) -> dict[str, Any]:
        """What decides a network's integration besides the examples and itself."""
        return self.model_dump(include={"tolerance", "loss_tolerance", "most_evaluations"})

    def tiles(self) -> dict[str, dict[str, list]]:
        """The networks of each tile, as axes."""
        both = {"widths": self.widths, "seeds": self.seeds}
        return {name: axes | both for name, axes in tiles(self.gamma, self.gamma_prime).items()}

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for what lies between fields."""
        if (self.points is None) == (self.images is None):
            got = "neither" if self.points is None else "both"
            yield "points", f"expected examples as either points or images, got {got}"
        if self.points:
            yield from ((f"points.{key}", message) for key, message in self.points.problems())
        if self.images:
            yield from ((f"images.{key}", message) for key, message in self.images.problems())
            if self.images.label_noise:
                yield "images.label_noise", f"is for studies, a phase diagram has none; got {self.images.label_noise:g}"
        for key in ("gamma", "gamma_prime"):
            beyond = [value for value in getattr(self, key) if abs(value) > MOST_EXPONENT]
            if beyond:
                yield key, f"must lie between -{MOST_EXPONENT} and {MOST_EXPONENT}, got {shown(beyond)}"
        pairs = [[point.gamma, point.gamma_prime] for point in self.shown_points]
        repeated = [pair for place, pair in enumerate(pairs) if pair in pairs[:place]]
        if repeated:
            yield "shown_points", f"expected each point once, {shown(repeated)} is repeated"
        missing = [
            [point.gamma, point.gamma_prime]
            for point in self.shown_points
            if point.gamma not in self.gamma or point.gamma_prime not in self.gamma_prime
        ]
        if missing:
            yield "shown_points", f"must lie on the grid of gamma and gamma_prime, got {shown(missing)}"


# What a check between fields rests on: where one of these is wrong itself, the check would only confuse.
DIAGRAM_RESTS_ON = {
    "points": ("images",),
    "points.targets": ("points.inputs",),
    "images.folder": ("images.source",),
    "images.train_examples": ("images.source", "images.folder"),
    "images.test_examples": ("images.source", "images.folder"),
    "shown_points": ("gamma", "gamma_prime"),
}
