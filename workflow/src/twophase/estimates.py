"""What the jobs of a study need, before any of them runs: time, memory, disk.

Time comes from operation counts over measured rates, with a margin, and serves as limit where a scheduler wants one;
memory likewise. Files are counted exactly, but for their compression. Nothing here decides any number of a result.
"""

from dataclasses import dataclass
from functools import cached_property

from twophase.config import Study
from twophase.config_phase_diagram import PhaseDiagram
from twophase.network_size import NetworkSize, network_size
from twophase.trajectories import (
    PARENT,
    Switch,
    anchors_from,
    checkpoint_at_or_below,
    departure,
    grid_of_branches,
    start_of_segment,
)

# One core of an AMD EPYC (Zen 4) in float32: a training step of ResNet-8, ResNet-20 and VGG-16 made 12, 27 and 42.
MULTIPLY_ADDS_PER_SECOND = 10e9
SECONDS_PER_STEP = 2e-3  # whatever the network
SECONDS_PER_JOB = 15.0  # start of Snakemake, Python and PyTorch, on a busy machine
BACKWARD = 3  # multiply-adds of a training step over those of a forward pass
LINEARIZED = 2  # a linearised step over an ordinary one; measured: 1.6 to 1.7 (benchmarks/linearized_step.py)
HESSIAN_PRODUCTS = 40  # for a sharpness; a ResNet-8 takes 9 to 21
HESSIAN_PRODUCT = 10  # forward passes that a product with the Hessian takes; measured: 4 (VGG-16), 6 and 10 (ResNets)
HESSIAN_GRAPH = 5  # memory of the graph of a gradient over that of activations; measured: 3 to 5
SECONDS_PER_NEURON = 7e-6  # of a two-layer flow, for each example and input; measured: 1e-6 (images), 7e-6 (points)
MARGIN = 2  # limit over estimate

# Megabytes. Measured on a CPU: 550 to 860 for the default study's jobs; on SLURM two more Snakemakes run beside a job.
JOB_MEMORY = 1300
GPU_MEMORY = 2500  # host memory of CUDA's libraries; not measured
NETWORK_RULES = (
    "advance",
    "advance_branch",
    "advance_linearized",
    "record_history",
    "compare_branch",
    "compute_entk",
    "measure_linearized",
    "measure_pointwise",
)
USERS_NETWORK = NetworkSize(parameters=20_000_000, buffers=0, multiply_adds=500_000_000, activations=2_000_000)


@dataclass(frozen=True)
class Work:
    """What one job needs.

    Attributes:
        seconds: On one CPU core.
        memory_mb: Peak of the process, GPU memory left out.
    """

    seconds: float
    memory_mb: float

    def limit_minutes(self, speed: float) -> int:
        """A limit of time on a device that is so many times as fast as one core."""
        return int((SECONDS_PER_JOB + MARGIN * self.seconds / speed) / 60) + 10


@dataclass(frozen=True)
class StudyEstimates:
    """Needs of a study's jobs and files."""

    study: Study

    @cached_property
    def network(self) -> NetworkSize:
        """The network's size; of a user's network, which isn't imported to find out, an assumption."""
        data = self.study.data
        size = network_size(self.study.model.canonical(), image_shape=data.image_shape(), classes=data.classes())
        return size or USERS_NETWORK

    @property
    def frozen_passes(self) -> int:
        """Forward passes of a frozen copy beside each one of the network."""
        return 0 if self.study.model.output_scale is None else 1

    @property
    def assumed(self) -> bool:
        """Whether the network's size is an assumption."""
        return ":" in self.study.model.name

    @property
    def bytes_per_number(self) -> int:
        """Of weights and images."""
        return 8 if self.study.training.dtype == "float64" else 4

    def checkpoint_bytes(self, *, linearized: bool = False) -> int:
        """Size of a checkpoint: weights, buffers, what the optimiser keeps; of a linearised run also the offset."""
        copies = 1 + {"sgd": 1, "adamw": 2}[self.study.optimizer.name] + linearized
        return self.bytes_per_number * (copies * self.network.parameters + self.network.buffers) + 10_000

    def kernel_bytes(self) -> int:
        """Size of a kernel's file, uncompressed."""
        rows = self.study.cone.probe_examples * (self.study.data.classes() if self.study.cone.kernel == "full" else 1)
        return self.bytes_per_number * rows**2

    def image_bytes(self) -> int:
        """Size of the prepared images, a byte a pixel and channel."""
        channels, rows, columns = self.study.data.image_shape()
        return (self.study.data.train_size() + self.study.data.test_size()) * channels * rows * columns

    def disk_bytes(self, *, keep_checkpoints: bool) -> dict[str, int]:
        """Size of a finished study's files by what they are; what is deleted on the way is left out."""
        study, seeds = self.study, len(self.study.seeds)
        every, length = study.training.checkpoint_every, study.length()
        sizes = {
            "images": self.image_bytes(),
            "parents": seeds * len(anchors_from(0, every, length)) * self.checkpoint_bytes(),
        }
        if study.chaos and keep_checkpoints:
            sizes["branches"] = seeds * len(self._branch_anchors()) * self.checkpoint_bytes()
        if study.cone:
            sizes["kernels"] = seeds * len(study.cone.kernel_steps) * self.kernel_bytes()
        if study.switching and keep_checkpoints:
            sizes["linearised runs"] = seeds * len(self._linearized_anchors()) * self.checkpoint_bytes(linearized=True)
        return sizes

    def _branch_anchors(self) -> set[tuple[str, int]]:
        """Checkpoints of branches, (trajectory, step), that something reads."""
        grid, every = self.study.chaos, self.study.training.checkpoint_every
        stored = {
            checkpoint_at_or_below(branch.name, t1, every)
            for branch in grid_of_branches(grid.perturbation_steps, grid.kinds, grid.relative_norms, grid.draws)
            for t1 in grid.comparison_steps
            if t1 > branch.t0
        }
        return self._with_those_before(stored)

    def _linearized_anchors(self) -> set[tuple[str, int]]:
        study, every = self.study, self.study.training.checkpoint_every
        stored = {
            checkpoint_at_or_below(Switch(step, rate).name, measured, every)
            for step in study.switching.switch_steps
            for rate in study.linearized_rates()
            for measured in anchors_from(step, every, study.length())
        }
        return self._with_those_before(stored)

    def _with_those_before(self, stored: set[tuple[str, int]]) -> set[tuple[str, int]]:
        """Each checkpoint, and those of its own trajectory from which it is reached."""
        reached: set[tuple[str, int]] = set()
        for trajectory, step in stored:
            while trajectory != PARENT and (trajectory, step) not in reached:
                reached.add((trajectory, step))
                trajectory, step = start_of_segment(trajectory, step, self.study.training.checkpoint_every)
        return reached

    def work(self, rule: str, wildcards: dict[str, str]) -> Work:
        """What a job needs.

        Args:
            rule: Name of its rule.
            wildcards: Its wildcards.

        Returns:
            Its needs; of a rule that works for seconds only the start.
        """
        estimate = getattr(self, f"_{rule}", None)
        seconds = estimate(**wildcards) if estimate else 0.0
        return Work(seconds, JOB_MEMORY + self._memory(rule))

    # Seconds, by rule.

    def _steps(self, count: int) -> float:
        operations = (BACKWARD + self.frozen_passes) * self.network.multiply_adds * self.study.training.batch_size
        return count * (SECONDS_PER_STEP + operations / MULTIPLY_ADDS_PER_SECOND)

    def _forward(self, examples: int) -> float:
        return (1 + self.frozen_passes) * examples * self.network.multiply_adds / MULTIPLY_ADDS_PER_SECOND

    def _replay(self, trajectory: str, step: int) -> int:
        """Steps from the checkpoint at or below a step."""
        return step - checkpoint_at_or_below(trajectory, step, self.study.training.checkpoint_every)[1]

    def _prepare_data(self, **_) -> float:
        return 2e-3 * (self.study.data.train_size() + self.study.data.test_size())

    def _advance(self, trajectory: str, step: str, **_) -> float:
        reached = int(step)
        if trajectory == PARENT and reached == 0:
            return 0.0
        return self._steps(reached - start_of_segment(trajectory, reached, self.study.training.checkpoint_every)[1])

    _advance_branch = _advance

    def _advance_linearized(self, linearized: str, step: str, **_) -> float:
        start = start_of_segment(linearized, int(step), self.study.training.checkpoint_every)[1]
        return LINEARIZED * self._steps(int(step) - start)

    def _record_history(self, **_) -> float:
        study = self.study
        checkpoints = len(anchors_from(0, study.training.checkpoint_every, study.length()))
        return len(study.seeds) * checkpoints * self._forward(study.data.test_size())

    def _compare_branch(self, trajectory: str, **_) -> float:
        chaos, t0 = self.study.chaos, departure(trajectory)
        compared = [t1 for t1 in chaos.comparison_steps if t1 > t0]
        replayed = 2 * (self._replay(PARENT, t0) + chaos.growth_steps) + sum(
            self._replay(name, t1) for name in (PARENT, trajectory) for t1 in compared
        )
        seen = chaos.interpolation_points * (2 * chaos.evaluation_examples + chaos.batch_norm_examples)
        return self._steps(replayed) + len(compared) * self._forward(seen + 2 * self.study.data.test_size())

    def _compute_entk(self, step: str, **_) -> float:
        """An upper bound: explicit Jacobians, contracted; where that is slow, the engine finds something faster."""
        rows = self.study.cone.probe_examples * self.study.data.classes()
        operations = rows**2 * self.network.parameters / 2 + 2 * rows * self.network.multiply_adds
        return self._steps(self._replay(PARENT, int(step))) + operations / MULTIPLY_ADDS_PER_SECOND

    def _measure_cone(self, **_) -> float:
        steps = len(self.study.cone.kernel_steps)
        numbers = self.kernel_bytes() / self.bytes_per_number
        return len(self.study.seeds) * (steps**2 * numbers / 1e9 + steps * 0.05)

    def _measure_linearized(self, linearized: str, **_) -> float:
        study, start = self.study, departure(linearized)
        measured = anchors_from(start, study.training.checkpoint_every, study.length())
        replayed = sum(self._replay(linearized, step) * LINEARIZED + self._replay(PARENT, step) for step in measured)
        seen = 2 * (study.switching.evaluation_examples + study.data.test_size())
        eigenvalue = 100 * LINEARIZED * study.switching.probe_examples * study.data.classes()
        return self._steps(replayed) + self._forward(LINEARIZED * len(measured) * seen + eigenvalue)

    def _measure_pointwise(self, **_) -> float:
        measured, replayed, reached = self.study.pointwise, 0, 0
        for step in measured.steps:  # on from the last step, or from a checkpoint above it
            replayed += min(step - reached, self._replay(PARENT, step))
            reached = step
        products = len(measured.steps) * HESSIAN_PRODUCTS * HESSIAN_PRODUCT
        noise = self._steps(len(measured.steps) * measured.batches)
        return self._steps(replayed) + noise + products * self._forward(measured.probe_examples)

    # Megabytes beyond what every job needs.

    def _memory(self, rule: str) -> float:
        if rule == "prepare_data":
            return 3 * self.image_bytes() / 1e6
        if rule == "measure_cone":
            return 3 * len(self.study.cone.kernel_steps) * self.kernel_bytes() / 1e6
        if rule not in NETWORK_RULES:
            return 0.0
        numbers = self.image_bytes() + 6 * self.network.parameters
        numbers += 2 * self.study.training.batch_size * self.network.activations
        if "linearized" in rule:
            numbers += 2 * self.study.training.batch_size * self.network.activations + 4 * self.network.parameters
        if rule == "measure_pointwise":  # the gradient's graph; Lanczos vectors, and sums of gradients, in float64
            numbers += HESSIAN_GRAPH * self.study.pointwise.probe_examples * self.network.activations
            numbers += 2 * 20 * self.network.parameters
        return GPU_MEMORY + self.bytes_per_number * numbers / 1e6


def tile_work(diagram: PhaseDiagram, tile: str | None) -> Work:
    """What the networks of a tile need, a CPU alone; without a tile, the networks whose neurons are drawn."""
    if diagram.points:
        examples, inputs = len(diagram.points.inputs), 2
    else:
        channels, rows, columns = diagram.images.image_shape()
        examples, inputs = diagram.images.train_size(), channels * rows * columns + 1
    if tile:
        axes = diagram.tiles()[tile]
        neurons = sum(axes["widths"]) * len(axes["gamma"]) * len(axes["gamma_prime"]) * len(axes["seeds"])
    else:
        neurons = len(diagram.shown_points) * diagram.shown_width
    kernel_mb = 16 * max(diagram.widths) * inputs / 1e6
    return Work(20 + SECONDS_PER_NEURON * neurons * examples * inputs, JOB_MEMORY + kernel_mb)
