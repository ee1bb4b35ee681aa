"""The typed config: what may stand in it, what it means, and every mistake in it at once.

Nothing here imports PyTorch: the Snakefile reads this module, and Snakemake reads the Snakefile for each job.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr

from twophase.config_data import Data
from twophase.config_errors import shown, spoils, suggestion, validate_piecewise
from twophase.config_phase_diagram import DIAGRAM_RESTS_ON, PhaseDiagram
from twophase.config_sweep import PLACES, Sweep, cell_name
from twophase.config_types import (
    LARGEST,
    NOT_BOOL,
    Duration,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Span,
    StepGrid,
    distinct,
    unrepeated,
)
from twophase.errors import ConfigError

NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_-]*$"
RESERVED_NAMES = ("downloads", "phase_diagram")  # folders below results/ that belong to no study


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
    output_scale: PositiveFloat | None = Field(
        None,
        description="Scale of lazy training (arXiv 1812.07956): train scale * (f(x; theta) - f(x; theta_init)), at all "
        "the study's learning rates over scale^2. Needs sgd and a network without BatchNorm; null trains f itself.",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for what the types can't see."""
        if self.name == "resnet" and (self.depth < 8 or (self.depth - 2) % 6):
            yield "depth", f"of a resnet is 6n+2 (8, 14, 20, ...), got {self.depth}"
        if ":" not in self.name and self.arguments:
            yield "arguments", f"has no meaning with the built-in network {self.name!r}"
        try:
            json.dumps(self.arguments, allow_nan=False)
        except (TypeError, ValueError) as error:
            yield (
                "arguments",
                f"expected finite numbers, text, lists and mappings ({error}), got {shown(self.arguments)}",
            )

        if self.output_scale and ":" not in self.name and self.normalization == "batch":
            yield (
                "output_scale",
                "needs normalization 'group' or 'none', as the network at initialisation would need BatchNorm "
                f"statistics of its own; got {self.output_scale:g} with 'batch'",
            )

    def canonical(self) -> dict[str, Any]:
        """What decides the network: a user's callable gets only its own arguments, vgg16 has a fixed depth."""
        scale = {} if self.output_scale is None else {"output_scale": self.output_scale}
        if ":" in self.name:
            return {"name": self.name, "arguments": self.arguments} | scale
        settings = self.model_dump(exclude={"arguments", "output_scale"})
        if self.name == "vgg16":
            del settings["depth"]
        return settings | scale


class SGD(Section):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = Field("sgd", description="Chooses this optimiser.")
    learning_rate: PositiveFloat = Field(0.1, description="Step size before warm-up and schedule.")
    momentum: Fraction = Field(0.9, description="Momentum.")
    nesterov: bool = Field(False, description="Nesterov's form of momentum.")
    weight_decay: NonNegativeFloat = Field(1e-4, description="Added as weight_decay * theta to the gradient.")


class AdamW(Section):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = Field(description="Chooses this optimiser.")
    learning_rate: PositiveFloat = Field(1e-3, description="Step size before warm-up and schedule.")
    beta1: Fraction = Field(0.9, description="Decay of the gradient's mean.")
    beta2: Fraction = Field(0.999, description="Decay of the squared gradient's mean.")
    epsilon: PositiveFloat = Field(1e-8, description="Added to the root in the denominator.")
    weight_decay: NonNegativeFloat = Field(1e-2, description="Decoupled weight decay.")


class Constant(Section):
    """The learning rate stays."""

    name: Literal["constant"] = Field("constant", description="Chooses this schedule.")
    warmup: Duration = Field(Span(count=0, unit="steps"), description="Linear rise from 0; steps or epochs.")


class Milestones(Section):
    """The learning rate is multiplied by a factor at each milestone."""

    name: Literal["milestones"] = Field(description="Chooses this schedule.")
    warmup: Duration = Field(Span(count=0, unit="steps"), description="Linear rise from 0; steps or epochs.")
    milestones: list[Duration] = Field(description="When the factor is applied; steps or epochs.")
    factor: PositiveFloat = Field(0.1, description="Factor applied at each milestone.")


class Cosine(Section):
    """The learning rate falls to zero along half a cosine."""

    name: Literal["cosine"] = Field(description="Chooses this schedule.")
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


def _some_above_zero(sizes: list[float]) -> list[float]:
    if not any(size > 0 for size in distinct(sizes)):
        raise ValueError("expected a size above 0; the control, 0, is added by itself")
    return sizes


class Chaos(Section):
    """The chaos effect (Zhou 2025a, Fig. 3): perturb at t0, compare at t1."""

    perturbation_steps: StepGrid = Field(description="Steps t0 at which a branch leaves the parent.")
    comparison_steps: StepGrid = Field(description="Steps t1 at which branch and parent are compared; those above t0.")
    kinds: Annotated[list[Literal["gaussian", "gradient"]], AfterValidator(distinct)] = Field(
        ["gaussian"], description="Direction: Gaussian over all trainable parameters, or a minibatch gradient."
    )
    relative_norms: Annotated[list[NonNegativeFloat], AfterValidator(_some_above_zero)] = Field(
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
    intervals: Annotated[list[PositiveInt], AfterValidator(unrepeated)] = Field(
        [], description="Intervals dt in steps of Fig. 5b; pairs (t, t + dt) are taken from kernel_steps."
    )
    probe_examples: Annotated[int, Field(ge=2, le=LARGEST), NOT_BOOL] = Field(
        100, description="Class-balanced, unaugmented training images of the eNTK."
    )
    kernel: Literal["full", "trace"] = Field("full", description="All pairs of logits, or their class trace.")


def _with_zero(steps: list[int]) -> list[int]:
    return sorted({0, *steps})


class Switching(Section):
    """Linearised switching (Zhou 2025a, Fig. 6): train to step s, then the network linearised there, to T."""

    switch_steps: Annotated[StepGrid, AfterValidator(_with_zero)] = Field(
        description="Steps s at which the parent is linearised; 0, linear from the start, is always added."
    )
    learning_rates: Annotated[list[PositiveFloat], AfterValidator(distinct)] | None = Field(
        None, description="Base learning rates of the linearised runs; null takes the parent's."
    )
    schedule: Annotated[Constant | Milestones | Cosine, Field(discriminator="name")] | None = Field(
        None, description="Their schedule, steps counted from the parent's start; null goes on with the parent's."
    )
    optimizer_state: Literal["carried", "reset"] = Field(
        "carried", description="What becomes of the parent's momentum (or moments) at the switch."
    )
    evaluation_examples: PositiveInt = Field(
        2000, description="Training images on which accuracy and loss are measured; of the test images all are."
    )
    probe_examples: PositiveInt = Field(
        100, description="Class-balanced, unaugmented training images of the kernel whose top eigenvalue is reported."
    )
    published_test_accuracy: dict[NonNegativeInt, Fraction] = Field(
        {}, description="A paper's test accuracy at T by switch step, drawn beside ours."
    )


class Pointwise(Section):
    """What single points of the parent say: the gradient's signal-to-noise ratio and the Hessian's top eigenvalue."""

    steps: StepGrid = Field(description="Steps of the parent at which both are measured.")
    probe_examples: PositiveInt = Field(
        500, description="Class-balanced, unaugmented training images of the Hessian, all in one batch."
    )
    batches: Annotated[int, Field(ge=2, le=LARGEST), NOT_BOOL] = Field(
        16, description="Batches, drawn beside those of the run, whose gradients give signal and noise."
    )


class Analysis(Section):
    """What is computed from the measured curves; changing it trains nothing again."""

    confidence: Annotated[float, Field(gt=0, lt=1), NOT_BOOL] = Field(0.9, description="Level of every interval.")
    late_from: Duration | None = Field(
        None, description="Step from which on kernels count as late, those of the cone; null takes half of the run."
    )


class Study(Section):
    """One network on one data set: its trajectories and what is measured along them."""

    data: Data = Field(Data(), description="Which images.")
    model: Model = Field(Model(), description="Which network is trained.")
    optimizer: Annotated[SGD | AdamW, Field(discriminator="name")] = Field(
        SGD(), description="How weights are updated."
    )
    schedule: Annotated[Constant | Milestones | Cosine, Field(discriminator="name")] = Field(
        Constant(), description="How the learning rate changes along the run."
    )
    training: Training = Field(Training(), description="Length, batches, augmentation and checkpoints of a run.")
    seeds: Annotated[list[NonNegativeInt], AfterValidator(distinct)] = Field(
        [0, 1, 2], description="Independent repetitions; each seeds initialisation, batch order and augmentation."
    )
    chaos: Chaos | None = Field(None, description="The chaos effect; null leaves it out.")
    cone: Cone | None = Field(None, description="The cone effect; null leaves it out.")
    switching: Switching | None = Field(None, description="Linearised switching; null leaves it out.")
    pointwise: Pointwise | None = Field(
        None, description="Gradient signal-to-noise ratio and sharpness along the parent; null leaves them out."
    )
    analysis: Analysis = Field(Analysis(), description="Estimates with intervals, from what the others measured.")
    sweep: Sweep | None = Field(
        None, description="Settings that vary, one study for each combination; null makes this the only study."
    )

    def cells(self) -> list[tuple[dict[str, Any], "Study"]]:
        """The studies of a sweep, each with its value on each axis."""
        return [(values, self._cell(values)) for values in self.sweep.cells()]

    def _cell(self, values: dict[str, Any]) -> "Study":
        """This study without its sweep, and with some settings."""
        sections: dict[str, Section] = {}
        for axis, value in values.items():
            section, key = PLACES[axis]
            sections[section] = sections.get(section, getattr(self, section)).model_copy(update={key: value})
        return self.model_copy(update={"sweep": None, **sections})

    def steps_per_epoch(self) -> float:
        """Training images over batch size; batches run on across epochs, so that none is cut short."""
        return self.data.train_size() / self.training.batch_size

    def length(self) -> int:
        """Length T of the run in steps."""
        return self.training.length.steps(self.steps_per_epoch())

    def late_from(self) -> int:
        """Step from which on kernels are those of the cone."""
        late_from = self.analysis.late_from
        return late_from.steps(self.steps_per_epoch()) if late_from else self.length() // 2

    def schedule_in_steps(self, schedule: Constant | Milestones | Cosine | None = None) -> dict[str, Any]:
        """A schedule, by default the parent's, in steps; a cosine without length ends with the run."""
        schedule = schedule or self.schedule
        per_epoch = self.steps_per_epoch()
        settings = {"name": schedule.name, "warmup": schedule.warmup.steps(per_epoch)}
        if isinstance(schedule, Milestones):
            settings["milestones"] = [m.steps(per_epoch) for m in schedule.milestones]
            settings["factor"] = schedule.factor
        if isinstance(schedule, Cosine):
            settings["length"] = (schedule.length or self.training.length).steps(per_epoch)
        return settings

    def run_settings(self) -> dict[str, Any]:
        """What decides a trajectory's checkpoints besides the data: no grids, no length, no anchors."""
        return {
            "model": self.model.canonical(),
            "optimizer": self.optimizer.model_dump() | {"learning_rate": self.rate_used(self.optimizer.learning_rate)},
            "schedule": self.schedule_in_steps(),
            **self.training.model_dump(include={"batch_size", "crop_padding", "horizontal_flip", "dtype"}),
        }

    def linearized_settings(self) -> dict[str, Any]:
        """What decides a linearised run's checkpoints besides the parent's, its switch and its learning rate."""
        return {
            "optimizer_state": self.switching.optimizer_state,
            "schedule": self.schedule_in_steps(self.switching.schedule),
        }

    def rate_used(self, learning_rate: float) -> float:
        """The learning rate that is used in place of a stated one: with an output scale, that over its square."""
        scale = self.model.output_scale
        return learning_rate if scale is None else learning_rate / scale**2

    def linearized_rates(self) -> list[float]:
        """Base learning rates of the linearised runs, as they are used."""
        return [self.rate_used(rate) for rate in self.switching.learning_rates or [self.optimizer.learning_rate]]

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for what lies between fields; of a sweep, for what does so in its cells."""
        if self.sweep:
            yield from self._sweep_problems()
            return
        data_problems = list(self.data.problems())
        yield from ((f"data.{key}", message) for key, message in data_problems)
        yield from ((f"model.{key}", message) for key, message in self.model.problems())
        if isinstance(self.optimizer, SGD) and self.optimizer.nesterov and not self.optimizer.momentum:
            yield "optimizer.nesterov", "needs a momentum above 0, got 0"
        if self.model.output_scale and self.optimizer.name != "sgd":
            yield (
                "model.output_scale",
                f"needs optimizer 'sgd', whose learning rate it divides by its square, got {self.optimizer.name!r}",
            )
        if not data_problems:
            yield from self._size_problems()
        if not data_problems or self.training.length.unit == "steps":  # else the length is not known
            length = self.training.length.steps(0 if data_problems else self.steps_per_epoch())
            if length < 1:
                yield "training.length", f"must be at least 1 step, got {length}"
                return
            yield from self._chaos_problems(length)
            yield from self._cone_problems(length)
            yield from self._switching_problems(length)
            yield from self._pointwise_problems(length)
            if self.analysis.late_from and self.late_from() >= length:
                yield "analysis.late_from", f"must lie below the run's length of {length} steps, got {self.late_from()}"

    def _sweep_problems(self) -> Iterator[tuple[str, str]]:
        own = [(f"sweep.{key}".rstrip("."), message) for key, message in self.sweep.problems(self.model.name)]
        if self.chaos is None and self.cone is None:
            own.append(("sweep", "needs a section chaos or cone; without them a sweep has nothing to compare"))
        yield from own
        if own:
            return
        everywhere = list(self._cell({}).problems())
        found: dict[str, dict[str, list[str]]] = {}  # cells by message, by key
        for values, cell in self.cells():
            named = ", ".join(f"{axis} {value}" for axis, value in values.items())
            for problem in cell.problems():
                found.setdefault(problem[0], {}).setdefault(problem[1], []).append(
                    "" if problem in everywhere else named
                )
        for key, messages in found.items():
            yield key, "; ".join(_in_cells(message, named) for message, named in messages.items())

    def _size_problems(self) -> Iterator[tuple[str, str]]:
        train, test = self.data.train_size(), self.data.test_size()
        wanted = [("training.batch_size", self.training.batch_size, train, "training images")]
        if self.chaos:
            wanted += [
                ("chaos.evaluation_examples", self.chaos.evaluation_examples, min(train, test), "images in a split"),
                ("chaos.batch_norm_examples", self.chaos.batch_norm_examples, train, "training images"),
            ]
        if self.cone:
            wanted.append(("cone.probe_examples", self.cone.probe_examples, train, "training images"))
        if self.switching:
            wanted += [
                ("switching.evaluation_examples", self.switching.evaluation_examples, train, "training images"),
                ("switching.probe_examples", self.switching.probe_examples, train, "training images"),
            ]
        if self.pointwise:
            wanted.append(("pointwise.probe_examples", self.pointwise.probe_examples, train, "training images"))
        for key, asked, there, what in wanted:
            if asked > there:
                yield key, f"asks for {asked}, the study has {there} {what}"
        yield from self._balance_problems()

    def _balance_problems(self) -> Iterator[tuple[str, str]]:
        """Class-balanced subsets that the smallest class of the source is too small for."""
        noisy = self.data.label_noise > 0
        if self.data.train_examples and self.data.test_examples and not noisy:
            return  # these are class-balanced themselves
        train, test = self.data.balanced_sizes()
        train, test = self.data.train_examples or train, self.data.test_examples or test
        if noisy:
            train = self.data.balanced_with_noise(train)
        wanted = []
        if self.chaos:
            wanted += [
                ("chaos.evaluation_examples", self.chaos.evaluation_examples, min(train, test)),
                ("chaos.batch_norm_examples", self.chaos.batch_norm_examples, train),
            ]
        if self.cone:
            wanted.append(("cone.probe_examples", self.cone.probe_examples, train))
        if self.switching:
            wanted += [
                ("switching.evaluation_examples", self.switching.evaluation_examples, train),
                ("switching.probe_examples", self.switching.probe_examples, train),
            ]
        if self.pointwise:
            wanted.append(("pointwise.probe_examples", self.pointwise.probe_examples, train))
        for key, asked, most in wanted:
            if most < asked <= self.data.train_size():
                so = f" for certain, with data.label_noise {self.data.label_noise:g}" if noisy else ""
                yield (
                    key,
                    f"asks for {asked}, as many of each class as of any other; the study has {most} such images{so}",
                )

    def _chaos_problems(self, length: int) -> Iterator[tuple[str, str]]:
        if self.chaos is None:
            return
        beyond = [t0 for t0 in self.chaos.perturbation_steps if t0 >= length]
        if beyond:
            yield "chaos.perturbation_steps", f"must lie below the run's length of {length} steps, got {shown(beyond)}"
        beyond = [t1 for t1 in self.chaos.comparison_steps if t1 > length]
        if beyond:
            yield "chaos.comparison_steps", f"must not exceed the run's length of {length} steps, got {shown(beyond)}"
        last = max(self.chaos.comparison_steps)
        idle = [t0 for t0 in self.chaos.perturbation_steps if t0 >= last]
        if idle:
            yield (
                "chaos.perturbation_steps",
                f"needs a comparison step above it (the last is {last}), got {shown(idle)}",
            )

    def _cone_problems(self, length: int) -> Iterator[tuple[str, str]]:
        if self.cone is None:
            return
        steps = set(self.cone.kernel_steps)
        beyond = [step for step in self.cone.kernel_steps if step > length]
        if beyond:
            yield "cone.kernel_steps", f"must not exceed the run's length of {length} steps, got {shown(beyond)}"
        if len(steps) < 2:
            yield "cone.kernel_steps", f"needs at least two steps to compare, got {shown(sorted(steps))}"
        missing = [tau for tau in self.cone.reference_steps if tau not in steps]
        if missing:
            yield "cone.reference_steps", f"must be among kernel_steps, got {shown(missing)}"
        unpaired = [dt for dt in self.cone.intervals if not any(step + dt in steps for step in steps)]
        if unpaired:
            yield "cone.intervals", f"needs two of kernel_steps that far apart, got {shown(unpaired)}"

    def _switching_problems(self, length: int) -> Iterator[tuple[str, str]]:
        if self.switching is None:
            return
        beyond = [step for step in self.switching.switch_steps if step >= length]
        if beyond:
            yield "switching.switch_steps", f"must lie below the run's length of {length} steps, got {shown(beyond)}"

    def _pointwise_problems(self, length: int) -> Iterator[tuple[str, str]]:
        if self.pointwise is None:
            return
        beyond = [step for step in self.pointwise.steps if step > length]
        if beyond:
            yield "pointwise.steps", f"must not exceed the run's length of {length} steps, got {shown(beyond)}"


def _in_cells(message: str, named: list[str]) -> str:
    """A problem with the cells of a sweep that have it; not if the study has it whatever the sweep."""
    if not all(named):
        return message
    more = f"; so in {len(named)} of its cells" if len(named) > 1 else ""
    return f"{message} (sweep: {named[0]}{more})"


# What a check between fields of a study rests on: where one of these is wrong itself, the check would only confuse.
_DATA = ("data", "data.source", "data.folder", "data.train_examples", "data.test_examples")
_EPOCH = (*_DATA, "training.batch_size")
_LENGTH = ("training", "training.length", "training.length.count", "training.length.unit")  # in epochs, on those too
RESTS_ON = {
    "data.folder": ("data.source",),
    "data.train_examples": ("data.source", "data.folder"),
    "data.test_examples": ("data.source", "data.folder"),
    "model.depth": ("model", "model.name"),
    "model.arguments": ("model", "model.name"),
    "model.output_scale": ("model", "model.name", "model.normalization", "optimizer", "optimizer.name"),
    "data.label_noise": ("data.source", "data.folder"),
    "sweep": ("chaos", "cone", *(f"sweep.{axis}" for axis in PLACES)),
    "sweep.width": ("model", "model.name"),
    "sweep.depth": ("model", "model.name"),
    "sweep.normalization": ("model", "model.name"),
    "optimizer.nesterov": ("optimizer.momentum",),
    "training.length": _LENGTH,
    "training.batch_size": _DATA,
    "chaos.perturbation_steps": (*_LENGTH, "chaos.comparison_steps"),
    "chaos.comparison_steps": _LENGTH,
    "chaos.evaluation_examples": _DATA,
    "chaos.batch_norm_examples": _DATA,
    "cone.kernel_steps": _LENGTH,
    "cone.reference_steps": ("cone.kernel_steps",),
    "cone.intervals": ("cone.kernel_steps",),
    "cone.probe_examples": _DATA,
    "analysis.late_from": _LENGTH,
    "switching.switch_steps": _LENGTH,
    "switching.evaluation_examples": _DATA,
    "switching.probe_examples": _DATA,
    "pointwise.steps": _LENGTH,
    "pointwise.probe_examples": _DATA,
}


class Figures(Section):
    """How figures look; changing these redraws figures and nothing else."""

    dpi: PositiveInt = Field(150, description="Resolution of the PNG files, dots per inch.")
    font_size: PositiveFloat = Field(9, description="Size of text in points.")
    sequential_colormap: Literal["cividis", "viridis", "plasma", "inferno", "magma", "gray"] = Field(
        "cividis", description="Matplotlib colour map of heat maps."
    )


StudyName = Annotated[str, Field(pattern=NAME_PATTERN)]


class Config(Section):
    """The whole config: named studies and phase diagrams, which of them to run, and the figures' looks."""

    studies: dict[StudyName, Study] = Field({}, description="Named studies; the name is the folder below results/.")
    phase_diagrams: dict[StudyName, PhaseDiagram] = Field(
        {}, description="Named phase diagrams; the name is the folder below results/phase_diagram/."
    )
    run: list[str] | None = Field(
        None, description="Names of the studies and phase diagrams that the targets make; null means all."
    )
    figures: Figures = Field(Figures(), description="How figures look.")
    keep_checkpoints: bool = Field(
        True,
        description="Keep the checkpoints of branches and linearised runs; false deletes each when all that reads it "
        "is done, so that a later change of what is measured on them trains them again.",
    )
    device_speed: PositiveFloat = Field(
        1,
        description="How many times as fast as one CPU core a job's device trains; limits of time on SLURM are derived "
        "from it. Changes no result.",
    )

    _sweeps: dict[str, Study] = PrivateAttr(default_factory=dict)  # what `expanded` has replaced
    _named: list[str] | None = PrivateAttr(None)

    def selected(self) -> dict[str, Study]:
        """The studies that the target rules make."""
        return self._named_in_run(self.studies)

    def sweeps(self) -> dict[str, dict[str, dict[str, Any]]]:
        """For each sweep, the name of each cell with its value on each axis."""
        return {name: _cells_by_name(name, study) for name, study in self._sweeps.items()}

    def axes_of(self, sweep: str) -> list[tuple[str, list]]:
        """The axes of a sweep with their values, in order."""
        return list(self._sweeps[sweep].sweep.axes().items())

    def selected_sweeps(self) -> list[str]:
        """The sweeps that the target rules make."""
        return [name for name in self._sweeps if self._named is None or name in self._named]

    def expanded(self) -> "Config":
        """The config with the cells of each sweep in its place, among the studies and in ``run``."""
        sweeps = {name: study for name, study in self.studies.items() if study.sweep}
        cells = {
            name: {cell_name(name, values): cell for values, cell in study.cells()} for name, study in sweeps.items()
        }
        studies = {
            cell: study for name, own in self.studies.items() for cell, study in cells.get(name, {name: own}).items()
        }
        run = self.run and list(dict.fromkeys(cell for name in self.run for cell in cells.get(name, [name])))
        config = self.model_copy(update={"studies": studies, "run": run})
        # One that isn't run, and so wasn't checked, may have no cells.
        config._sweeps = {name: study for name, study in sweeps.items() if cells[name]}
        config._named = self.run
        return config

    def selected_diagrams(self) -> dict[str, PhaseDiagram]:
        """The phase diagrams that the target rules make."""
        return self._named_in_run(self.phase_diagrams)

    def _runs(self, name: str, section: Study | PhaseDiagram) -> bool:
        """Whether ``run`` names a study, one of its cells or a phase diagram."""
        names = {name}
        if isinstance(section, Study) and section.sweep:
            names |= set(_cells_by_name(name, section))
        return self.run is None or not names.isdisjoint(self.run)

    def _cell_name_problems(self, names: list[str]) -> Iterator[tuple[str, str]]:
        """Yield a problem for each sweep with a cell that has the name of something else."""
        taken = set(names)
        for name, study in self.studies.items():
            if study.sweep:
                cells = _cells_by_name(name, study)
                repeated = sorted(taken & set(cells))
                taken |= set(cells)
                if repeated:
                    yield f"studies.{name}.sweep", f"makes a study {repeated[0]!r}, a name that another one has"

    def _named_in_run(self, sections: dict[str, Any]) -> dict[str, Any]:
        return sections if self.run is None else {name: sections[name] for name in self.run if name in sections}

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (dotted key, message) for what the types can't see, in what is selected."""
        names = [*self.studies, *self.phase_diagrams]
        yield from self._cell_name_problems(names)
        if not names:
            yield "studies", "is empty; name at least one study or phase diagram"
        for name in set(RESERVED_NAMES) & set(self.studies):
            yield f"studies.{name}", f"is a folder of another use below results/; rename the study, got {name!r}"
        for name in set(self.phase_diagrams) & set(self.studies):
            yield f"phase_diagrams.{name}", f"is the name of a study too; rename one of them, got {name!r}"
        cells = [cell for name, study in self.studies.items() if study.sweep for cell in _cells_by_name(name, study)]
        unknown = [name for name in self.run or [] if name not in names and name not in cells]
        for name in unknown:
            close = suggestion(name, names) or f"; expected some of {shown(names)}"
            yield "run", f"names {name!r}, which is neither a study nor a phase diagram{close}"
        if self.run == []:
            yield "run", "is empty; name at least one study or phase diagram, or leave it out"
        for part in ("studies", "phase_diagrams"):
            for name, section in getattr(self, part).items():
                if self._runs(name, section):
                    yield from ((f"{part}.{name}.{key}", message) for key, message in section.problems())


def _cells_by_name(name: str, study: Study) -> dict[str, dict[str, Any]]:
    """Value on each axis by name of the cell."""
    return {cell_name(name, values): values for values in study.sweep.cells()}


def config_schema() -> dict[str, Any]:
    """JSON schema of the config, draft 2020-12."""
    return Config.model_json_schema()


def read_config(raw: Any) -> Config:
    """Check a config as Snakemake read it.

    Args:
        raw: Nested dictionaries of plain values; not changed.

    Returns:
        The typed config, each sweep replaced by its cells.

    Raises:
        ConfigError: Listing every problem with its dotted key, what was expected and what came.
    """
    config, problems = validate_piecewise(Config, raw)
    if config is not None:
        noted = list(problems)
        for key, message in config.problems():
            bases = noted if key == "studies" else [key, *_bases_of(key, config)]
            if not any(_explains(wrong, basis, key) for wrong in noted for basis in bases):
                problems.setdefault(key, message)
    if problems:
        lines = "\n".join(f"  {key or 'config'}: {message}" for key, message in problems.items())
        raise ConfigError(f"The config has {len(problems)} problem(s):\n{lines}")
    return config.expanded()


def _explains(wrong: str, basis: str, key: str) -> bool:
    """Whether a problem noted at ``wrong`` makes a check between fields moot that rests on ``basis``.

    A phase diagram, or its points, falls out as a whole with a required key; studies have defaults.
    """
    falls_out = "." in basis and (key == "run" or key.startswith("phase_diagrams."))
    return spoils(wrong, basis) or (falls_out and wrong.startswith(f"{basis}."))


def _bases_of(key: str, config: Config) -> list[str]:
    """The keys on which a check between fields rests."""
    if key == "run":
        parts = ("studies", "phase_diagrams")
        return [*parts, *(f"{part}.{name}" for name in config.run for part in parts)]
    part, name, rest = (*key.split(".", 2), "")[:3]
    if part == "phase_diagrams":
        return [f"{part}.{name}.{basis}" for basis in DIAGRAM_RESTS_ON.get(rest, ())]
    bases = RESTS_ON.get(rest, ())
    if "training.length" in bases and config.studies[name].training.length.unit == "epochs":
        bases += _EPOCH
    return [f"{part}.{name}.{basis}" for basis in bases]
