"""Building blocks of the config: sections, numbers, durations and grids.

Nothing here imports PyTorch: the Snakefile reads the config, and Snakemake reads the Snakefile for each job.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from twophase.config_errors import shown

LARGEST = 2**63 - 1  # what a netCDF file can hold
LONGEST = 10**9  # steps or epochs
MOST_STEPS = 10**6  # in a range of a grid
DECIMALS = 10  # to which the values of a range are rounded


def _parse_duration(value: Any) -> Any:
    """Read ``500``, ``"500 steps"`` or ``"80 epochs"``; leave everything else to pydantic."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:[eE]\+?\d{1,2})?)\s*(?:(step|epoch)s?)?\s*", value)
        if found:
            return {"count": float(found[1]), "unit": (found[2] or "step") + "s"}
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return {"count": value, "unit": "steps"}
    elif isinstance(value, dict | Span):
        return value
    raise ValueError("expected a number of steps, or text like '80 epochs' or '500 steps'")


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


NOT_BOOL = BeforeValidator(_refuse_bool)
NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST), NOT_BOOL]
PositiveInt = Annotated[int, Field(gt=0, le=LARGEST), NOT_BOOL]
NonNegativeFloat = Annotated[float, Field(ge=0), NOT_BOOL]
PositiveFloat = Annotated[float, Field(gt=0), NOT_BOOL]
Fraction = Annotated[float, Field(ge=0, lt=1), NOT_BOOL]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, and settings never change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Span(Section):
    """A length of training in its unit; write it as ``500``, ``"500 steps"`` or ``"80 epochs"``."""

    count: Annotated[NonNegativeFloat, Field(le=LONGEST, description="How many.")]
    unit: Literal["steps", "epochs"] = Field(description="Of what.")

    def steps(self, steps_per_epoch: float) -> int:
        """Optimiser updates, rounded to the nearest whole one; an epoch is ``training images / batch size`` steps."""
        return round(self.count if self.unit == "steps" else self.count * steps_per_epoch)


Duration = Annotated[Span, BeforeValidator(_parse_duration, json_schema_input_type=int | str)]


class StepRange(Section):
    """The steps ``start, start + every, ...`` up to and including ``stop``."""

    start: NonNegativeInt = Field(description="First step.")
    stop: NonNegativeInt = Field(description="Last step, if it is reached.")
    every: PositiveInt = Field(description="Distance of two steps.")

    @model_validator(mode="after")
    def _has_a_sensible_number_of_steps(self) -> "StepRange":
        if self.stop < self.start:
            raise ValueError("expected a stop that is not below the start")
        if (self.stop - self.start) // self.every >= MOST_STEPS:
            raise ValueError(f"expected at most {MOST_STEPS} steps")
        return self


def _flatten_steps(entries: list[int | StepRange]) -> list[int]:
    steps: set[int] = set()
    for entry in entries:
        if isinstance(entry, StepRange):
            steps.update(range(entry.start, entry.stop + 1, entry.every))
        else:
            steps.add(entry)
    if not steps:
        raise ValueError("the grid is empty; give at least one step")
    return sorted(steps)


def _kind_of_entry(entry: Any) -> str:
    return "<range>" if isinstance(entry, dict | StepRange) else "<step>"


StepEntry = Annotated[
    Annotated[NonNegativeInt, Tag("<step>")] | Annotated[StepRange, Tag("<range>")], Discriminator(_kind_of_entry)
]
StepGrid = Annotated[list[StepEntry], AfterValidator(_flatten_steps)]


def unrepeated(values: list) -> list:
    """The list; a ValueError if a value is in it twice."""
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"expected each value once, {shown(repeated)} is repeated")
    return values


def distinct(values: list) -> list:
    """The list; a ValueError if it is empty or a value is in it twice."""
    if not values:
        raise ValueError("the list is empty; give at least one value")
    return unrepeated(values)


class ValueRange(Section):
    """The values ``start, start + every, ...`` up to and including ``stop``."""

    start: Annotated[float, NOT_BOOL] = Field(description="First value.")
    stop: Annotated[float, NOT_BOOL] = Field(description="Last value, if it is reached.")
    every: PositiveFloat = Field(description="Distance of two values.")

    @model_validator(mode="after")
    def _has_a_sensible_number_of_values(self) -> "ValueRange":
        if self.stop < self.start:
            raise ValueError("expected a stop that is not below the start")
        if (self.stop - self.start) / self.every >= MOST_STEPS:
            raise ValueError(f"expected at most {MOST_STEPS} values")
        return self

    def values(self) -> list[float]:
        """All of them; the last is reached in spite of rounding."""
        count = int((self.stop - self.start) / self.every + 1e-9) + 1
        return [round(self.start + place * self.every, DECIMALS) + 0.0 for place in range(count)]  # never -0.0


def _flatten_values(entries: list[float | ValueRange]) -> list[float]:
    values: set[float] = set()
    for entry in entries:
        values.update(entry.values() if isinstance(entry, ValueRange) else [entry + 0.0])  # never -0.0
    if not values:
        raise ValueError("the grid is empty; give at least one value")
    return sorted(values)


def _kind_of_value(entry: Any) -> str:
    return "<range>" if isinstance(entry, dict | ValueRange) else "<value>"


ValueEntry = Annotated[
    Annotated[Annotated[float, NOT_BOOL], Tag("<value>")] | Annotated[ValueRange, Tag("<range>")],
    Discriminator(_kind_of_value),
]
ValueGrid = Annotated[list[ValueEntry], AfterValidator(_flatten_values)]
