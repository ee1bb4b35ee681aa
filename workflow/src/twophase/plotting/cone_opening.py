"""The cone, measured: its radius, whether it saturates, its opening angles, how fast the kernel moves in it."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from twophase.free_drift import saturating_distance
from twophase.plotting.axes import set_logarithmic, set_step_axis
from twophase.plotting.style import add_note, compact, named_line, new_figure, text_scale
from twophase.plotting.summary import sample_note, seed_mean

MOST_SEEDS_NAMED = 6
STEP_LABEL = "training step t"


def plot_cone_opening(opening: xr.Dataset) -> Figure:
    """Radius, distance against free drift, opening angles and velocity of the cone, each seed and the mean.

    Args:
        opening: What `twophase.cone_opening.opening_of_cone` returns.

    Returns:
        A figure of four panels; its foot gives n, the verdict and the intervals.
    """
    figure = new_figure(7.6, 6.2)
    (radius, drift), (angles, velocity) = figure.subplots(2, 2)
    steps = opening["step"].values
    for axes in (radius, velocity):
        if opening["late_from"] < steps[-1]:
            axes.axvspan(float(opening["late_from"]), steps[-1], color="0.9", linewidth=0, label="late steps")
    _draw_each_seed(radius, "step", opening["angular_radius"], "mean over seeds")
    radius.set(xlabel=STEP_LABEL, ylabel="angle to late mean (degrees)")
    radius.set_ylim(bottom=0)
    _draw_each_seed(velocity, "step", opening["velocity_per_rate"], "mean over seeds")
    set_logarithmic(velocity)
    velocity.set(xlabel=STEP_LABEL, ylabel="kernel distance S to the next step\nover the sum of learning rates")
    for axes in (radius, velocity):
        set_step_axis(axes, steps, 2.6 * text_scale())
    _draw_drift(drift, opening)
    references = opening["reference_step"].values
    _draw_each_seed(angles, "reference_step", opening["opening_angle"].sortby("reference_step"), "mean over seeds")
    angles.set(xlabel=r"reference step $\tau$", ylabel="largest later angle (degrees)")
    angles.set_ylim(bottom=0)
    set_step_axis(angles, references, 2.6 * text_scale())
    radius.legend()
    add_note(figure, *_sentences(opening))
    return figure


def _seed_line(index: int, opening: xr.Dataset | xr.DataArray) -> dict:
    """Colour, marker and name of a seed; of many seeds, one colour and one name for all."""
    seeds = opening["seed"].values
    if len(seeds) > MOST_SEEDS_NAMED:
        return {"color": "0.6", "marker": "o", "label": "seeds" if index == 0 else None}
    line = named_line(index)
    return {"color": line["color"], "marker": line["marker"], "label": f"seed {seeds[index]}"}


def _draw_each_seed(axes: Axes, dim: str, values: xr.DataArray, mean_label: str) -> None:
    """Thin lines with markers for the seeds, a black one for their mean."""
    values = values.transpose("seed", dim)
    for index, row in enumerate(values.values):
        line = _seed_line(index, values)
        axes.plot(values[dim], row, **line, linewidth=0.7, markersize=2.5, alpha=0.9)
    if values.sizes["seed"] > 1:
        axes.plot(values[dim], seed_mean(values), color="black", linewidth=1.6, label=mean_label)


def _draw_drift(axes: Axes, opening: xr.Dataset) -> None:
    """S against P of all pairs of late kernels, the line of free drift, and the family with the mean 1/A."""
    late = opening["step"].values >= opening["late_from"].item()
    upper = np.triu_indices(int(late.sum()), 1)
    axes.set(xlabel="distance P expected of free drift", ylabel="kernel distance S, late pairs")
    if not len(upper[0]):
        axes.text(0.5, 0.5, "no two late kernels", ha="center", va="center", transform=axes.transAxes)
        return
    expected, found = (
        opening[name].transpose("seed", "step", "step_other").values[:, late][:, :, late]
        for name in ("late_drift_distance", "late_distance")
    )
    for index in range(opening.sizes["seed"]):
        points = _seed_line(index, opening) | {"label": None}
        axes.plot(expected[index][upper], found[index][upper], **points, linestyle="none", markersize=2.5, alpha=0.7)
    largest = np.nanmax(expected, initial=0) or 1.0
    axes.plot([0, largest], [0, largest], color="black", linestyle=":", linewidth=1, label="free drift, S = P")
    inverse = float(opening["inverse_saturation_mean"])
    if np.isfinite(inverse):
        moves = np.full(int(late.sum()) - 1, np.nanmean(np.diagonal(found, 1, 1, 2)))
        family = saturating_distance(moves, 1.0)[0], saturating_distance(moves, inverse)[0]
        axes.plot(*family, color="black", linestyle="--", linewidth=1.2, label="fit (for even moves)")
    axes.set_xlim(0, 1.03 * largest)
    axes.set_ylim(0, max(1.05 * np.nanmax(found, initial=0), 0.3 * largest))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(scilimits=(-3, 3))
    axes.legend(loc="lower right")


def _sentences(opening: xr.Dataset) -> list[str]:
    """The figure's foot."""
    late = int((opening["step"] >= opening["late_from"]).sum())
    dimension, drift = (seed_mean(opening[f"{kind}_dimension_late"]).item() for kind in ("effective", "drift"))
    return [
        sample_note(opening) + f", {late} late kernels (from step {opening['late_from'].item():g})",
        "thin lines and points: one seed each",
        f"late motion: {opening['drift_verdict'].item()} ({opening['drift_reason'].item()})",
        f"brackets: {100 * opening['confidence'].item():g} % t intervals over seeds"
        if opening.sizes["seed"] > 1
        else "one seed: no intervals",
        _with_interval(opening, "cone_radius", "cone radius", " degrees"),
        _with_interval(opening, "inverse_saturation", "1/A", " (1 for free drift)"),
        _with_interval(opening, "distance_exponent", "distance exponent", " (1 for free drift, 0 saturated)"),
        f"effective dimension of the late path {compact(dimension)}, of free drift with its moves {compact(drift)}"
        if np.isfinite(dimension)
        else "",
    ]


def _with_interval(opening: xr.Dataset, name: str, words: str, unit: str) -> str:
    mean, lower, upper = (float(opening[f"{name}_{end}"]) for end in ("mean", "lower", "upper"))
    if not np.isfinite(mean):
        return ""
    interval = f" [{compact(lower)}, {compact(upper)}]" if np.isfinite(lower) else ""
    return f"{words} {compact(mean)}{interval}{unit}"
