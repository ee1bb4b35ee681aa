"""Where the phases meet, as one data set: growth of each perturbation, the transitions of four curves, and their pairs.

The curves, each over the steps at which it was measured, one value a seed (the mean over draws):

- ``test_loss_barrier`` and ``disagreement_rate`` at the last t1 against t0;
- ``growth_exponent`` against t0, as `twophase.transition.growth` defines it;
- ``kernel_velocity`` S(t, t + dt) / dt, its decadic logarithm, against t + dt / 2, for the shortest of the study's
  intervals dt that has enough pairs of steps. One dt for the whole curve: where S saturates, a velocity falls with the
  length of its interval, so that one over unequal intervals would find the grid's transition in place of the kernel's.

`twophase.transition.change_point` says what counts as a transition; steps count as log(1 + t / first step above 0).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike

from twophase.storage import describe
from twophase.transition.change_point import (
    FEWEST_POSITIONS,
    Comparison,
    Transition,
    compare,
    find_transition,
    none_found,
)
from twophase.transition.growth import Growth, Verdict, judge_sizes, measure_growth

SMALLEST_DISTANCE = 1e-12  # kernels closer than that are the same but for rounding
KERNEL_VELOCITY = "kernel_velocity"

DESCRIPTIONS = {
    "seed": ("seed of the run", "1"),
    "kind": ("direction of the perturbation", "1"),
    "relative_norm": ("|perturbation| / |theta_t0|, L2 over trainable parameters", "1"),
    "t0": ("step at which the branch leaves the parent", "step"),
    "growth_exponent": ("finite-time Lyapunov exponent: slope of log |theta - theta'| over the linear range", "1/step"),
    "growth_exponent_lower": ("lower end of its interval over seeds", "1/step"),
    "growth_exponent_upper": ("upper end of its interval over seeds", "1/step"),
    "growth_rate_exponent": ("the same per unit of learning rate times step", "1"),
    "growth_rate_exponent_lower": ("lower end of its interval over seeds", "1"),
    "growth_rate_exponent_upper": ("upper end of its interval over seeds", "1"),
    "growth_seed_exponent": ("exponent of each seed, mean over draws", "1/step"),
    "growth_seeds": ("seeds that the exponent rests on", "1"),
    "growth_reason": ("why the exponent or its interval is missing", "1"),
    "growth_first_step": ("first step after t0 of the linear range", "step"),
    "growth_last_step": ("last step after t0 of the linear range", "step"),
    "growth_factor": ("geometric mean over runs of the distance at the range's end over that at its start", "1"),
    "growth_shape": ("whether the distance grows exponentially, slower, or that can't be said", "1"),
    "growth_rate_ratio": ("mean rate over the range's second half by that over its first", "1"),
    "saturation": ("level at which the distance saturates", "1"),
    "saturation_lower": ("lower end of its interval over seeds", "1"),
    "saturation_upper": ("upper end of its interval over seeds", "1"),
    "saturation_reason": ("why there is no saturation level", "1"),
    "relative_size": ("mean of |theta - theta'| at t0 over |theta_t0|", "1"),
    "near_rounding": ("1 if that is so small that rounding counts", "1"),
    "chaos_verdict": ("chaotic, sensitive, contracting or undecided, from the growth at all sizes", "1"),
    "chaos_reason": ("what the verdict rests on", "1"),
    "chaos_exponent": ("mean of the exponents over the sizes used", "1/step"),
    "exponent_per_decade": ("change of the exponent with a perturbation 10 times larger", "1/step"),
    "exponent_per_decade_lower": ("lower end of its interval over seeds", "1/step"),
    "exponent_per_decade_upper": ("upper end of its interval over seeds", "1/step"),
    "curve": ("curve whose transition is sought", "1"),
    "measure": ("what the curve shows", "1"),
    "curve_kind": ("direction of the perturbation; empty for a curve without one", "1"),
    "curve_relative_norm": ("size of the perturbation; NaN for a curve without one", "1"),
    "found": ("1 if the curve has a transition", "1"),
    "reason": ("why it has none", "1"),
    "transition_step": ("step of the transition, mean over seeds on the scale log(1 + t / first step)", "step"),
    "transition_lower": ("lower end of its interval over seeds", "step"),
    "transition_upper": ("upper end of its interval over seeds", "step"),
    "seeds_used": ("seeds that it rests on", "1"),
    "seed_transition_step": ("transition of each seed", "step"),
    "plateau_level": ("mean over seeds of the curve after the transition, in its unit", "1"),
    "change": ("mean over seeds of the curve at its first step minus that level", "1"),
    "velocity_interval": ("interval dt of the kernel velocity; NaN if none has enough pairs of steps", "step"),
    "noise_floor": ("change of the curve that means nothing; NaN where none is known", "1"),
    "pair": ("two curves whose transitions are compared", "1"),
    "first_curve": ("first of them", "1"),
    "second_curve": ("second of them", "1"),
    "verdict": ("together, apart or undecided", "1"),
    "pair_reason": ("what the verdict rests on", "1"),
    "difference": ("mean over seeds of first minus second transition", "step"),
    "difference_lower": ("lower end of its interval over seeds", "step"),
    "difference_upper": ("upper end of its interval over seeds", "step"),
    "tolerance": ("largest difference that the steps of the two curves can't tell from none", "step"),
    "pair_seeds": ("seeds with both transitions", "1"),
}
# Attributes of Growth and Verdict by the variable that holds them.
OF_GROWTH = {
    "growth_exponent": "exponent",
    "growth_exponent_lower": "lower",
    "growth_exponent_upper": "upper",
    "growth_rate_exponent": "rate_exponent",
    "growth_rate_exponent_lower": "rate_lower",
    "growth_rate_exponent_upper": "rate_upper",
    "growth_seeds": "runs",
    "growth_reason": "reason",
    "growth_first_step": "first_step",
    "growth_last_step": "last_step",
    "growth_factor": "growth_factor",
    "growth_shape": "shape",
    "growth_rate_ratio": "rate_ratio",
    "saturation": "saturation",
    "saturation_lower": "saturation_lower",
    "saturation_upper": "saturation_upper",
    "saturation_reason": "saturation_reason",
    "relative_size": "relative_size",
    "near_rounding": "near_rounding",
}
OF_VERDICT = {
    "chaos_verdict": "verdict",
    "chaos_reason": "reason",
    "chaos_exponent": "exponent",
    "exponent_per_decade": "per_decade",
    "exponent_per_decade_lower": "per_decade_lower",
    "exponent_per_decade_upper": "per_decade_upper",
}
OF_TRANSITION = {
    "found": "found",
    "reason": "reason",
    "transition_step": "step",
    "transition_lower": "lower",
    "transition_upper": "upper",
    "seeds_used": "seeds",
    "plateau_level": "level",
    "change": "change",
}
OF_COMPARISON = {
    "verdict": "verdict",
    "pair_reason": "reason",
    "difference": "difference",
    "difference_lower": "lower",
    "difference_upper": "upper",
    "pair_seeds": "seeds",
}


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve in which a transition is sought.

    Attributes:
        measure: What it shows.
        steps: Where, ``(n,)``.
        values: What, ``(seeds, n)``.
        kind: Direction of the perturbation, if there is one.
        relative_norm: Its size, or NaN.
        noise_floor: Change that means nothing, in the unit of the values, or None.
        missing: Why there are no values to look at; empty if there are.
    """

    measure: str
    steps: np.ndarray
    values: np.ndarray
    kind: str = ""
    relative_norm: float = math.nan
    noise_floor: float | None = None
    missing: str = ""

    @property
    def name(self) -> str:
        """Measure, and kind and size of the perturbation if there is one."""
        return f"{self.measure} {self.kind} {self.relative_norm:g}" if self.kind else self.measure


def phase_boundary(
    chaos: xr.Dataset | None,
    cone: xr.Dataset | None,
    *,
    learning_rate_at: Callable[[int], float],
    dtype: DTypeLike,
    test_examples: int,
    confidence: float,
) -> xr.Dataset:
    """All that the chaos side and the kernel side say of where the first phase ends.

    Args:
        chaos: The branches' comparisons (`twophase.chaos`), if there are any.
        cone: The kernels' geometry (`twophase.cone`) of the same seeds, if there is one.
        learning_rate_at: Learning rate of the update at a step.
        dtype: Type in which the parents were trained.
        test_examples: Images over which disagreement was counted.
        confidence: Level of every interval.

    Returns:
        Data set over curve and pair, and if there is ``chaos`` over (kind, relative_norm, t0).
    """
    parts, curves = [], []
    if chaos is not None:
        growths = _growths(chaos, learning_rate_at, dtype, confidence)
        parts += [_growth_dataset(chaos, growths), _verdict_dataset(chaos, growths, confidence)]
        curves += list(_chaos_curves(chaos, growths, test_examples))
    if cone is not None:
        curves.append(_velocity_curve(cone))
        parts.append(xr.Dataset({"velocity_interval": velocity_interval(cone)}))
    seeds = (chaos if chaos is not None else cone)["seed"].values
    transitions = [_transition(curve, confidence) for curve in curves]
    parts += [_transition_dataset(curves, transitions, seeds), _pair_dataset(curves, transitions, confidence)]
    return describe(xr.merge(parts).assign_attrs(confidence=confidence), DESCRIPTIONS)


Cell = tuple[str, float, int]  # kind, relative norm, t0


def _growths(chaos: xr.Dataset, learning_rate_at: Callable, dtype: DTypeLike, confidence: float) -> dict[Cell, Growth]:
    """The growth of each perturbation; none if the distances after it weren't kept."""
    steps, draws = chaos.sizes["steps_after"] - 1, chaos.sizes["draw"]
    if steps < 1:
        return {}
    growths = {}
    for cell in itertools.product(chaos["kind"].values, sizes_of(chaos), chaos["t0"].values):
        kind, norm, t0 = cell
        distances = chaos["growth_distance"].sel(kind=kind, relative_norm=norm, t0=t0)
        growths[cell] = measure_growth(
            distances.transpose("seed", "draw", "steps_after").values.reshape(-1, steps + 1),
            [learning_rate_at(int(t0) + step) for step in range(steps)],
            parameter_norm=np.repeat(chaos["parameter_norm"].sel(t0=t0).values, draws),
            dtype=dtype,
            confidence=confidence,
            groups=np.repeat(chaos["seed"].values, draws).tolist(),
        )
    return growths


def sizes_of(chaos: xr.Dataset) -> list[float]:
    """Relative norms of the perturbations, the control left out."""
    return [float(norm) for norm in chaos["relative_norm"].values if norm > 0]


def _growth_dataset(chaos: xr.Dataset, growths: dict[Cell, Growth]) -> xr.Dataset:
    if not growths:
        return xr.Dataset()
    axes = {"kind": chaos["kind"].values, "relative_norm": sizes_of(chaos), "t0": chaos["t0"].values}
    shape = tuple(map(len, axes.values()))
    variables = {
        name: (tuple(axes), _column(growths.values(), attribute).reshape(shape))
        for name, attribute in OF_GROWTH.items()
    }
    exponents = np.stack([growth.exponents for growth in growths.values()]).reshape(*shape, -1)
    variables["growth_seed_exponent"] = ((*axes, "seed"), exponents)
    return xr.Dataset(variables, coords=axes | {"seed": chaos["seed"].values})


def _verdict_dataset(chaos: xr.Dataset, growths: dict[Cell, Growth], confidence: float) -> xr.Dataset:
    if not growths:
        return xr.Dataset()
    axes = {"kind": chaos["kind"].values, "t0": chaos["t0"].values}
    sizes = sizes_of(chaos)
    verdicts: list[Verdict] = [
        judge_sizes(sizes, [growths[kind, size, t0] for size in sizes], confidence=confidence)
        for kind, t0 in itertools.product(*axes.values())
    ]
    shape = tuple(map(len, axes.values()))
    variables = {
        name: (tuple(axes), _column(verdicts, attribute).reshape(shape)) for name, attribute in OF_VERDICT.items()
    }
    return xr.Dataset(variables, coords=axes)


def _chaos_curves(chaos: xr.Dataset, growths: dict[Cell, Growth], test_examples: int) -> Iterator[Curve]:
    """Barrier, disagreement and exponent against t0, for each kind and size."""
    last = chaos["t1"].values.max()
    before = chaos["t0"].values[chaos["t0"].values < last]
    for kind, norm in itertools.product(chaos["kind"].values, sizes_of(chaos)):
        place = {"kind": str(kind), "relative_norm": norm}
        at_last = chaos.sel(kind=kind, relative_norm=norm, t1=last, t0=before).mean("draw", skipna=False)
        for name in ("test_loss_barrier", "disagreement_rate"):
            values = at_last[name].transpose("seed", "t0").values
            floor = _disagreement_floor(values, test_examples) if name == "disagreement_rate" else None
            yield Curve(name, before, values, **place, noise_floor=floor)
        if growths:
            of_t0 = [growths[kind, norm, t0] for t0 in chaos["t0"].values]
            near = any(growth.near_rounding for growth in of_t0)
            exponents = np.stack([growth.exponents for growth in of_t0], axis=1)
            missing = "the perturbation is so small that rounding counts" if near else ""
            yield Curve("growth_exponent", chaos["t0"].values, exponents, **place, missing=missing)


def _disagreement_floor(rates: np.ndarray, examples: int) -> float:
    """Two standard errors of the difference of two rates counted on so many images, at the rate of the last step."""
    rate = float(np.clip(np.nanmean(rates[:, -1]) if np.isfinite(rates[:, -1]).any() else 0.5, 1 / examples, 0.5))
    return 2 * math.sqrt(2 * rate * (1 - rate) / examples)


def velocity_interval(cone: xr.Dataset) -> float:
    """The shortest interval dt with enough pairs of kernel steps for a transition; NaN if there is none."""
    pairs = np.isfinite(cone["interval_distance"]).any("seed").sum("step")
    return min((float(dt) for dt in cone["interval"].values[pairs.values >= FEWEST_POSITIONS]), default=math.nan)


def velocities(cone: xr.Dataset) -> xr.DataArray:
    """Kernel velocities of equal intervals, 1/step, over (seed, step), ``step`` being the middle of the interval.

    Args:
        cone: Content of ``cone.nc``, with an interval that `velocity_interval` finds.
    """
    dt = velocity_interval(cone)
    distance = cone["interval_distance"].sel(interval=dt).transpose("seed", "step")
    distance = distance.sel(step=np.isfinite(distance).any("seed"))
    return (distance / dt).assign_coords(step=distance["step"] + dt / 2)


def _velocity_curve(cone: xr.Dataset) -> Curve:
    """The logarithm of the kernel's velocity; a kernel that doesn't move has the velocity of rounding."""
    dt = velocity_interval(cone)
    if math.isnan(dt):
        few = f"no interval dt of the cone has {FEWEST_POSITIONS} pairs of kernel steps"
        return Curve(KERNEL_VELOCITY, np.empty(0), np.empty((cone.sizes["seed"], 0)), missing=few)
    velocity, smallest = velocities(cone), SMALLEST_DISTANCE / dt
    values = np.log10(np.where(np.isfinite(velocity), np.maximum(velocity, smallest), np.nan))
    missing = "the kernel doesn't move" if (velocity <= smallest).all() else ""
    return Curve(KERNEL_VELOCITY, velocity["step"].values, values, missing=missing)


def _transition(curve: Curve, confidence: float) -> Transition:
    if curve.missing:
        return none_found(len(curve.values), 0, confidence, "log")(curve.missing)
    return find_transition(
        curve.steps, curve.values, confidence=confidence, transform="log", noise_floor=curve.noise_floor
    )


def _transition_dataset(curves: list[Curve], transitions: list[Transition], seeds: np.ndarray) -> xr.Dataset:
    variables = {name: ("curve", _column(transitions, attribute)) for name, attribute in OF_TRANSITION.items()}
    variables |= {
        "measure": ("curve", np.array([curve.measure for curve in curves])),
        "curve_kind": ("curve", np.array([curve.kind for curve in curves])),
        "curve_relative_norm": ("curve", np.array([curve.relative_norm for curve in curves])),
        "noise_floor": ("curve", np.array([curve.noise_floor for curve in curves], dtype=np.float64)),
        "seed_transition_step": (("curve", "seed"), np.stack([transition.seed_steps for transition in transitions])),
    }
    return xr.Dataset(variables, coords={"curve": [curve.name for curve in curves], "seed": seeds})


def _pair_dataset(curves: list[Curve], transitions: list[Transition], confidence: float) -> xr.Dataset:
    """Each two curves of the same perturbation, and each of them with the kernel's."""
    found = dict(zip((curve.name for curve in curves), transitions, strict=True))
    pairs = [
        (first, second)
        for first, second in itertools.combinations(curves, 2)
        if KERNEL_VELOCITY in (first.measure, second.measure)
        or (first.kind, first.relative_norm) == (second.kind, second.relative_norm)
    ]
    if not pairs:
        return xr.Dataset()
    tolerances = [_tolerance(first, second, found) for first, second in pairs]
    compared: list[Comparison] = [
        compare(found[first.name], found[second.name], confidence=confidence, tolerance=tolerance)
        for (first, second), tolerance in zip(pairs, tolerances, strict=True)
    ]
    variables = {name: ("pair", _column(compared, attribute)) for name, attribute in OF_COMPARISON.items()}
    variables |= {
        "first_curve": ("pair", np.array([first.name for first, _ in pairs])),
        "second_curve": ("pair", np.array([second.name for _, second in pairs])),
        "tolerance": ("pair", np.array(tolerances, dtype=np.float64)),
    }
    return xr.Dataset(variables, coords={"pair": [f"{first.name} | {second.name}" for first, second in pairs]})


def _tolerance(first: Curve, second: Curve, found: dict[str, Transition]) -> float | None:
    """The distance between the steps around the two transitions, of the curve that has the larger one there."""
    spacings = []
    for curve in (first, second):
        step = found[curve.name].step
        if not math.isfinite(step):
            return None
        right = int(np.clip(np.searchsorted(curve.steps, step), 1, len(curve.steps) - 1))
        spacings.append(float(curve.steps[right] - curve.steps[right - 1]))
    return max(spacings)


def _column(records, attribute: str) -> np.ndarray:
    """One attribute of all records; truth values as integers, which netCDF can hold."""
    values = np.array([getattr(record, attribute) for record in records])
    return values.astype(np.int8) if values.dtype == bool else values
