"""The typed config: what may stand in it, what it means, and every mistake in it at once.

Nothing here imports PyTorch: the Snakefile reads this module, and Snakemake reads the Snakefile for each job.
"""

import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from twophase.errors import ConfigError
from twophase.image_folder import FolderListing, list_image_folder

NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_-]*$"
# Fashion-MNIST as published, the subset of it that ships with the project, and so on: (training images, test images).
PUBLISHED_SIZES = {
    "embedded_fashion_mnist": (10_000, 2_000),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "mnist": (60_000, 10_000),
    "fashion_mnist": (60_000, 10_000),
}


def _parse_duration(value: Any) -> Any:
    """Read ``500``, ``"500 steps"`` or ``"80 epochs"``; leave everything else to pydantic."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(step|epoch)s?\s*", value)
        if not found:
            raise ValueError("expected a number of steps, or text like '80 epochs' or '500 steps'")
        return {"count": float(found[1]), "unit": found[2] + "s"}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"count": value, "unit": "steps"}
    return value


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {str(value).lower()}")
    return value


NOT_BOOL = BeforeValidator(_refuse_bool)
NonNegativeInt = Annotated[int, Field(ge=0), NOT_BOOL]
PositiveInt = Annotated[int, Field(gt=0), NOT_BOOL]
NonNegativeFloat = Annotated[float, Field(ge=0), NOT_BOOL]
PositiveFloat = Annotated[float, Field(gt=0), NOT_BOOL]
Fraction = Annotated[float, Field(ge=0, lt=1), NOT_BOOL]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, and settings never change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Span(Section):
    """A length of training in its unit; write it as ``500``, ``"500 steps"`` or ``"80 epochs"``."""

    count: NonNegativeFloat
    unit: Literal["steps", "epochs"]

    def steps(self, steps_per_epoch: float) -> int:
        """Optimiser updates, rounded to the nearest whole one; an epoch is ``training images / batch size`` steps."""
        return round(self.count if self.unit == "steps" else self.count * steps_per_epoch)


Duration = Annotated[Span, BeforeValidator(_parse_duration, json_schema_input_type=int | str)]


class StepRange(Section):
    """The steps ``start, start + every, ...`` up to and including ``stop``."""

    start: NonNegativeInt
    stop: NonNegativeInt
    every: PositiveInt


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


StepGrid = Annotated[
    list[NonNegativeInt | StepRange],
    AfterValidator(_flatten_steps),
]


def _distinct(values: list) -> list:
    if not values:
        raise ValueError("the list is empty; give at least one value")
    if len(set(values)) != len(values):
        raise ValueError(f"the list repeats a value: {values}")
    return values


class Data(Section):
    """Which images, and what is done to them once, before any training."""

    source: Literal["embedded_fashion_mnist", "cifar10", "cifar100", "mnist", "fashion_mnist", "image_folder"] = Field(
        "embedded_fashion_mnist",
        description="Data set: the one that ships with the project, one that torchvision downloads, or a folder.",
    )
    folder: str | None = Field(
        None, description="image_folder only: folder with train/CLASS/* and test/CLASS/*, relative to the work folder."
    )
    image_size: PositiveInt | None = Field(
        None, description="Side in pixels to which images are resized (box filter); null keeps their size."
    )
    grey: bool = Field(False, description="Convert to one grey channel.")
    train_examples: PositiveInt | None = Field(
        None, description="Class-balanced subset of the training images; null takes all."
    )
    test_examples: PositiveInt | None = Field(
        None, description="Class-balanced subset of the test images; null takes all."
    )

    def listing(self) -> FolderListing:
        """The image files of an ``image_folder``, by split and class.

        Raises:
            DataError: If the folder, a split or a class has no images.
        """
        return list_image_folder(Path(self.folder))

    def available(self) -> tuple[int, int]:
        """Training and test images that the source has, before any subset is taken."""
        if self.source == "image_folder":
            listing = self.listing()
            return listing.count("train"), listing.count("test")
        return PUBLISHED_SIZES[self.source]

    def train_size(self) -> int:
        """Training images that the study uses."""
        return self.train_examples or self.available()[0]

    def test_size(self) -> int:
        """Test images that the study uses."""
        return self.test_examples or self.available()[1]

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for what the types can't see."""
        if self.source == "image_folder" and self.folder is None:
            yield "folder", "is needed with source 'image_folder'"
            return
        if self.source != "image_folder" and self.folder is not None:
            yield "folder", f"has no meaning with source {self.source!r}; remove it, or use 'image_folder'"
            return
        try:
            available = self.available()
        except Exception as error:  # a missing or empty folder: the message names it
            yield "folder", str(error)
            return
        for key, wanted, there in zip(
            ("train_examples", "test_examples"), (self.train_examples, self.test_examples), available, strict=True
        ):
            if wanted is not None and wanted > there:
                yield key, f"asks for {wanted} images, the source has {there}"


class Model(Section):
    """Which network."""

    name: str = Field(
        "resnet",
        pattern=r"^(resnet|vgg16|mlp|cnn|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        description="resnet, vgg16, mlp, cnn, or package.module:callable, called as "
        "callable(image_shape=(C, H, W), classes=K, **arguments) and returning an nn.Module.",
    )
    depth: PositiveInt = Field(20, description="Layers: of a resnet 6n+2; hidden layers of an mlp; blocks of a cnn.")
    width: PositiveInt = Field(16, description="Channels of the first stage (resnet 16, vgg16 64), units of an mlp.")
    normalization: Literal["batch", "group", "none"] = Field("batch", description="Normalisation layers.")
    arguments: dict[str, Any] = Field({}, description="package.module:callable only: its further keyword arguments.")

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for what the types can't see."""
        if self.name == "resnet" and (self.depth < 8 or (self.depth - 2) % 6):
            yield "depth", f"of a resnet is 6n+2 (8, 14, 20, ...), got {self.depth}"
        if ":" not in self.name and self.arguments:
            yield "arguments", f"has no meaning with the built-in network {self.name!r}"

    def canonical(self) -> dict[str, Any]:
        """What decides the network: a user's callable gets only its own arguments, vgg16 has a fixed depth."""
        if ":" in self.name:
            return {"name": self.name, "arguments": self.arguments}
        settings = self.model_dump(exclude={"arguments"})
        if self.name == "vgg16":
            del settings["depth"]
        return settings


class SGD(Section):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    learning_rate: PositiveFloat = Field(0.1, description="Step size before warm-up and schedule.")
    momentum: Fraction = Field(0.9, description="Momentum.")
    nesterov: bool = Field(False, description="Nesterov's form of momentum.")
    weight_decay: NonNegativeFloat = Field(1e-4, description="Added as weight_decay * theta to the gradient.")


class AdamW(Section):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"]
    learning_rate: PositiveFloat = Field(1e-3, description="Step size before warm-up and schedule.")
    beta1: Fraction = Field(0.9, description="Decay of the gradient's mean.")
    beta2: Fraction = Field(0.999, description="Decay of the squared gradient's mean.")
    epsilon: PositiveFloat = Field(1e-8, description="Added to the root in the denominator.")
    weight_decay: NonNegativeFloat = Field(1e-2, description="Decoupled weight decay.")


class Constant(Section):
    """The learning rate stays."""

    name: Literal["constant"] = "constant"
    warmup: Duration = Field(Span(count=0, unit="steps"), description="Linear rise from 0; steps or epochs.")


class Milestones(Section):
    """The learning rate is multiplied by a factor at each milestone."""

    name: Literal["milestones"]
    warmup: Duration = Field(Span(count=0, unit="steps"), description="Linear rise from 0; steps or epochs.")
    milestones: list[Duration] = Field(description="When the factor is applied; steps or epochs.")
    factor: PositiveFloat = Field(0.1, description="Factor applied at each milestone.")


class Cosine(Section):
    """The learning rate falls to zero along half a cosine."""

    name: Literal["cosine"]
    warmup: Duration = Field(Span(count=0, unit="steps"), description="Linear rise from 0; steps or epochs.")
    length: Duration | None = Field(None, description="When zero is reached; null means the end of the run.")


class Training(Section):
    """One run: its length, its batches and where its checkpoints lie."""

    length: Duration = Field(Span(count=1000, unit="steps"), description="Length T of the run; steps or epochs.")
    batch_size: PositiveInt = Field(128, description="Training images in a batch.")
    crop_padding: NonNegativeInt = Field(0, description="Pixels of black border for random crops; 0 is no crop.")
    horizontal_flip: bool = Field(False, description="Mirror each image with probability one half.")
    dtype: Literal["float32", "float64"] = Field("float32", description="Number type of weights and images.")
    checkpoint_every: PositiveInt = Field(
        500, description="Anchor steps: a checkpoint, and one job, every so many steps; others are replayed from them."
    )


class Chaos(Section):
    """The chaos effect (Zhou 2025a, Fig. 3): perturb at t0, compare at t1."""

    perturbation_steps: StepGrid = Field(description="Steps t0 at which a branch leaves the parent.")
    comparison_steps: StepGrid = Field(description="Steps t1 at which branch and parent are compared; those above t0.")
    kinds: Annotated[list[Literal["gaussian", "gradient"]], AfterValidator(_distinct)] = Field(
        ["gaussian"], description="Direction: Gaussian over all trainable parameters, or a minibatch gradient."
    )
    relative_norms: Annotated[list[NonNegativeFloat], AfterValidator(_distinct)] = Field(
        description="Sizes |perturbation| / |theta_t0| (L2). The control, 0, is always added."
    )
    draws: PositiveInt = Field(1, description="Independent perturbations of each kind and size.")
    growth_steps: NonNegativeInt = Field(50, description="Steps after t0 in which |theta - theta'| is kept at each.")
    interpolation_points: int = Field(11, ge=3, description="Points on the line between branch and parent, ends too.")
    evaluation_examples: PositiveInt = Field(2000, description="Images of each split on which losses are computed.")
    batch_norm_examples: PositiveInt = Field(
        1000, description="Training images from which BatchNorm statistics are recomputed at each point."
    )


class Cone(Section):
    """The cone effect (Zhou 2025a, Figs. 4 and 5): the eNTK along the parent."""

    kernel_steps: StepGrid = Field(description="Steps at which the eNTK is computed.")
    reference_steps: StepGrid = Field([0], description="Steps tau of Fig. 5a; each one of kernel_steps.")
    intervals: list[PositiveInt] = Field(
        [], description="Intervals dt in steps of Fig. 5b; pairs (t, t + dt) are taken from kernel_steps."
    )
    probe_examples: PositiveInt = Field(100, description="Class-balanced, unaugmented training images of the eNTK.")
    kernel: Literal["full", "trace"] = Field("full", description="All pairs of logits, or their class trace.")


class Study(Section):
    """One network on one data set: its trajectories and what is measured along them."""

    data: Data = Data()
    model: Model = Model()
    optimizer: Annotated[SGD | AdamW, Field(discriminator="name")] = SGD()
    schedule: Annotated[Constant | Milestones | Cosine, Field(discriminator="name")] = Constant()
    training: Training = Training()
    seeds: Annotated[list[NonNegativeInt], AfterValidator(_distinct)] = Field(
        [0, 1, 2], description="Independent repetitions; each seeds initialisation, batch order and augmentation."
    )
    chaos: Chaos | None = Field(None, description="The chaos effect; null leaves it out.")
    cone: Cone | None = Field(None, description="The cone effect; null leaves it out.")

    def steps_per_epoch(self) -> float:
        """Training images over batch size; batches run on across epochs, so that none is cut short."""
        return self.data.train_size() / self.training.batch_size

    def length(self) -> int:
        """Length T of the run in steps."""
        return self.training.length.steps(self.steps_per_epoch())

    def schedule_in_steps(self) -> dict[str, Any]:
        """The schedule with every duration in steps; a cosine without length ends with the run."""
        per_epoch = self.steps_per_epoch()
        settings = {"name": self.schedule.name, "warmup": self.schedule.warmup.steps(per_epoch)}
        if isinstance(self.schedule, Milestones):
            settings["milestones"] = [m.steps(per_epoch) for m in self.schedule.milestones]
            settings["factor"] = self.schedule.factor
        if isinstance(self.schedule, Cosine):
            settings["length"] = (self.schedule.length or self.training.length).steps(per_epoch)
        return settings

    def run_settings(self) -> dict[str, Any]:
        """What decides a trajectory's checkpoints besides the data: no grids, no length, no anchors."""
        return {
            "model": self.model.canonical(),
            "optimizer": self.optimizer.model_dump(),
            "schedule": self.schedule_in_steps(),
            **self.training.model_dump(include={"batch_size", "crop_padding", "horizontal_flip", "dtype"}),
        }

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for what lies between fields."""
        data_problems = list(self.data.problems())
        yield from ((f"data.{key}", message) for key, message in data_problems)
        yield from ((f"model.{key}", message) for key, message in self.model.problems())
        if data_problems:
            return
        length = self.length()
        if length < 1:
            yield "training.length", f"must be at least 1 step, got {length}"
        if self.training.batch_size > self.data.train_size():
            yield (
                "training.batch_size",
                f"{self.training.batch_size} exceeds the {self.data.train_size()} training images",
            )
        if isinstance(self.optimizer, SGD) and self.optimizer.nesterov and not self.optimizer.momentum:
            yield "optimizer.nesterov", "needs a momentum above 0"
        yield from self._chaos_problems(length)
        yield from self._cone_problems(length)

    def _chaos_problems(self, length: int) -> Iterator[tuple[str, str]]:
        if self.chaos is None:
            return
        beyond = [t0 for t0 in self.chaos.perturbation_steps if t0 >= length]
        if beyond:
            yield "chaos.perturbation_steps", f"{beyond} must lie below the run's length of {length} steps"
        beyond = [t1 for t1 in self.chaos.comparison_steps if t1 > length]
        if beyond:
            yield "chaos.comparison_steps", f"{beyond} lies beyond the run's length of {length} steps"
        last = max(self.chaos.comparison_steps)
        idle = [t0 for t0 in self.chaos.perturbation_steps if t0 >= last]
        if idle:
            yield "chaos.perturbation_steps", f"{idle} has no comparison step above it (the last is {last})"
        smallest_split = min(self.data.train_size(), self.data.test_size())
        for key, there in (("evaluation_examples", smallest_split), ("batch_norm_examples", self.data.train_size())):
            wanted = getattr(self.chaos, key)
            if wanted > there:
                yield f"chaos.{key}", f"asks for {wanted} images, the study has {there}"

    def _cone_problems(self, length: int) -> Iterator[tuple[str, str]]:
        if self.cone is None:
            return
        steps = set(self.cone.kernel_steps)
        beyond = [step for step in self.cone.kernel_steps if step > length]
        if beyond:
            yield "cone.kernel_steps", f"{beyond} lies beyond the run's length of {length} steps"
        missing = [tau for tau in self.cone.reference_steps if tau not in steps]
        if missing:
            yield "cone.reference_steps", f"{missing} is not among kernel_steps"
        for dt in self.cone.intervals:
            if not any(step + dt in steps for step in steps):
                yield "cone.intervals", f"no two of kernel_steps lie {dt} steps apart"
        if self.cone.probe_examples > self.data.train_size():
            yield "cone.probe_examples", f"asks for {self.cone.probe_examples}, the study has {self.data.train_size()}"


class Figures(Section):
    """How figures look; changing these redraws figures and nothing else."""

    dpi: PositiveInt = Field(150, description="Resolution of the PNG files, dots per inch.")
    font_size: PositiveFloat = Field(9, description="Size of text in points.")
    sequential_colormap: str = Field("cividis", description="Matplotlib colour map of heat maps.")


StudyName = Annotated[str, Field(pattern=NAME_PATTERN)]


class Config(Section):
    """The whole config: named studies, which of them to run, and the figures' looks."""

    studies: dict[StudyName, Study] = Field(description="Named studies; the name is the folder below results/.")
    run: list[str] | None = Field(None, description="Names of the studies that the targets make; null means all.")
    figures: Figures = Figures()

    def selected(self) -> dict[str, Study]:
        """The studies that the target rules make."""
        return self.studies if self.run is None else {name: self.studies[name] for name in self.run}

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (dotted key, message) for what the types can't see, in the studies that are selected."""
        if not self.studies:
            yield "studies", "is empty; name at least one study"
        unknown = [name for name in self.run or [] if name not in self.studies]
        for name in unknown:
            yield "run", f"names {name!r}, which is not a study{_suggestion(name, self.studies)}"
        if self.run == []:
            yield "run", "is empty; name at least one study, or leave it out"
        for name, study in self.studies.items():
            if self.run is None or name in self.run:
                yield from ((f"studies.{name}.{key}", message) for key, message in study.problems())


def _suggestion(wrong: str, right: Any) -> str:
    close = difflib.get_close_matches(str(wrong), [str(name) for name in right], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def config_schema() -> dict[str, Any]:
    """JSON schema of the config, draft 2020-12."""
    return Config.model_json_schema()


def read_config(raw: dict[str, Any]) -> Config:
    """Check a config as Snakemake read it.

    Args:
        raw: Nested dictionaries of plain values; not changed.

    Returns:
        The typed config.

    Raises:
        ConfigError: Listing every problem with its dotted key, what was expected and what came.
    """
    problems: dict[str, str] = {}
    pruned = json.loads(json.dumps(raw))
    config = None
    while config is None:
        try:
            config = Config.model_validate(pruned)
        except ValidationError as error:
            # What is wrong is noted and taken out, so that the checks between fields run on the rest.
            if not _note_and_prune(error, pruned, problems):
                break
    if config is not None:
        for key, message in config.problems():
            problems.setdefault(key, message)
    if problems:
        lines = "\n".join(f"  {key}: {message}" for key, message in problems.items())
        raise ConfigError(f"The config has {len(problems)} problem(s):\n{lines}")
    return config


def _note_and_prune(error: ValidationError, pruned: dict[str, Any], problems: dict[str, str]) -> bool:
    """Add the errors to ``problems`` and delete the keys that they stand at; False if there was nothing to delete."""
    deleted = False
    for entry in error.errors():
        path = _path_in(pruned, entry["loc"])
        key = ".".join(map(str, path))
        if not any(key == noted or key.startswith(noted + ".") for noted in problems):
            problems[key] = _explain(entry, path)
        deleted |= _delete(pruned, path[:-1] if entry["type"] == "missing" else path)
    return deleted


def _delete(nested: dict[str, Any], path: list) -> bool:
    """Delete the key at ``path``; False if it isn't there."""
    for part in path[:-1]:
        nested = nested.get(part)
        if not isinstance(nested, dict):
            return False
    return bool(path) and nested.pop(path[-1], None) is not None


def _path_in(raw: Any, location: tuple) -> list:
    """The location without the tags and type names that pydantic adds inside unions, cut at the key in a section."""
    path: list = []
    for part in location:
        if isinstance(raw, dict) and (part in raw or part == location[-1]):
            path.append(part)
            raw = raw.get(part)
        elif isinstance(raw, list):
            break  # an entry of a list: name the list's key
    return path


def _explain(entry: dict[str, Any], path: list) -> str:
    if entry["type"] == "extra_forbidden":
        names = {name for section in config_schema()["$defs"].values() for name in section.get("properties", {})}
        return f"unknown key{_suggestion(path[-1], names | set(Config.model_fields))}"
    if entry["type"] == "missing":
        return "is missing"
    message = entry["msg"].removeprefix("Value error, ")
    return message if entry["type"] == "value_error" else f"{message}, got {entry['input']!r}"
