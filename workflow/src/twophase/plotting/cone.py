"""The cone effect (Zhou 2025a, Figs. 4 and 5): the empirical tangent kernel along the parents."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure

from twophase.plotting.axes import draw_cells, label_cells, label_colors, set_logarithmic, set_step_axis, spaced_labels
from twophase.plotting.style import MOST_MARKERS, OKABE_ITO, add_note, marked_line, new_figure, ordered_line, text_scale
from twophase.plotting.summary import deviation_note, extremes, extremes_note, sample_note, seed_mean, seed_spread

STEP_LABEL = "training step t"


def plot_distance_matrix(cone: xr.Dataset) -> Figure:
    """Kernel distance between all pairs of steps (Zhou 2025a, Fig. 4), and its spread over seeds.

    Args:
        cone: With ``kernel_distance(seed, step, step_other)``.

    Returns:
        A figure of the mean over seeds and, for several seeds, of the standard deviation beside it.
    """
    distance = cone["kernel_distance"].transpose("seed", "step", "step_other")
    spread = seed_spread(distance)
    side = min(max(2.8, 0.06 * cone.sizes["step"]), 3.6)
    count = 1 if spread is None else 2
    figure = new_figure(count * (side + 0.8), side + 1.6)
    panels = figure.subplots(1, count, squeeze=False)[0]
    _draw_matrix(figure, panels[0], seed_mean(distance), "kernel distance S, mean over seeds", side)
    if spread is not None:
        _draw_matrix(figure, panels[1], spread, "standard deviation over seeds", side)
    add_note(
        figure,
        sample_note(cone),
        "one cell for each step, whatever lies between two of them",
        "one seed: no spread over seeds is shown" if spread is None else "",
    )
    return figure


def plot_reference_distance(cone: xr.Dataset) -> Figure:
    """Kernel distance from reference steps tau onwards (Zhou 2025a, Fig. 5a).

    Args:
        cone: With ``reference_distance(seed, reference_step, step)``.

    Returns:
        A figure of two panels: against the step t, and against the steps since tau.
    """
    distance = cone["reference_distance"]
    references = distance["reference_step"].values
    figure = new_figure(7.6, 3.5)
    absolute, since = figure.subplots(1, 2, sharey=True)
    for index, tau in enumerate(references):
        values = distance.sel(reference_step=tau).where(distance["step"] >= tau, drop=True)
        line = ordered_line(index, len(references)) | {"label": f"{tau:g}"}
        _draw_seeds(absolute, values["step"].values, values, line)
        _draw_seeds(since, values["step"].values - tau, values, line)
    lags = cone["step"].values[None, :] - references[:, None]
    absolute.set(xlabel=STEP_LABEL, ylabel=r"kernel distance S from step $\tau$")
    absolute.set_ylim(bottom=0)
    set_step_axis(since, lags[lags >= 0], 2.8 * text_scale())
    since.set_xlabel(r"steps since the reference, t - $\tau$")
    figure.legend(*absolute.get_legend_handles_labels(), title=r"$\tau$ (step)", loc="outside right upper")
    add_note(figure, "lines: mean over seeds", sample_note(cone), deviation_note(cone, "bands"))
    return figure


def plot_interval_distance(cone: xr.Dataset) -> Figure:
    """Kernel distance between steps dt apart (Zhou 2025a, Fig. 5b) and the kernel's velocity.

    Args:
        cone: With ``interval_distance(seed, interval, step)`` and ``kernel_velocity(seed, step)``.

    Returns:
        A figure of two panels with logarithmic distances.
    """
    figure = new_figure(7.6, 3.5)
    intervals, velocity = figure.subplots(1, 2)
    _draw_intervals(intervals, cone["interval_distance"])
    _draw_seeds(
        velocity, cone["step"].values, cone["kernel_velocity"], marked_line(0, cone.sizes["step"]), logarithmic=True
    )
    velocity.set_ylabel("kernel velocity v(t) (1/step)")
    for axes in (intervals, velocity):
        set_step_axis(axes, cone["step"].values, 2.6 * text_scale())
        axes.set_xlabel(STEP_LABEL)
    add_note(
        figure,
        "lines: mean over seeds",
        sample_note(cone),
        extremes_note(cone, "bands"),
        "velocity: between a step and the next one measured",
    )
    return figure


def plot_projection(cone: xr.Dataset) -> Figure:
    """Kernels of each seed in the plane of classical scaling of their distances, in place of Zhou 2025a, Fig. 5c.

    Args:
        cone: With ``projection(seed, step, axis)`` and ``projection_share(seed, axis)``.

    Returns:
        A figure with a panel for each seed; points are coloured by step and joined in the order of steps.
    """
    steps = cone["step"].values.astype(float)
    normalization = step_normalization(steps)
    columns = min(cone.sizes["seed"], 3)
    rows = -(-cone.sizes["seed"] // columns)
    panel = 2.9 if columns > 1 else 3.9
    figure = new_figure(panel * columns + 1, panel * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, seed in zip(grid.flat, cone["seed"].values, strict=False):
        points = cone["projection"].sel(seed=seed).transpose("step", "axis").values
        _draw_path(axes, points, steps, normalization)
        for set_label, share, number in zip(
            (axes.set_xlabel, axes.set_ylabel), cone["projection_share"].sel(seed=seed).values, (1, 2), strict=False
        ):
            set_label(f"classical scaling, axis {number} ({100 * share:.0f} %)")
        axes.set_title(f"seed {seed}")
    for axes in grid.flat[cone.sizes["seed"] :]:
        axes.set_visible(False)
    _add_step_bar(figure, grid, steps, normalization)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    add_note(
        figure,
        sample_note(cone) + ", one panel each, so no spread",
        "in brackets: share of the squared distances 2 S between unit kernels that the axis explains",
        "the direction of an axis is arbitrary",
    )
    return figure


def plot_kernel_scale(cone: xr.Dataset) -> Figure:
    """What the kernel distance doesn't see: the kernel's norm, its alignment with the labels, its effective rank.

    Args:
        cone: With ``kernel_norm(seed, step)``, ``label_alignment(seed, step)`` and ``effective_rank(seed, step)``.

    Returns:
        A figure of three panels against the training step.
    """
    figure = new_figure(9, 3)
    panels = figure.subplots(1, 3)
    labels = {
        "kernel_norm": "kernel norm |H|",
        "label_alignment": "alignment with the labels",
        "effective_rank": "effective rank",
    }
    for index, (axes, (name, label)) in enumerate(zip(panels, labels.items(), strict=True)):
        _draw_seeds(axes, cone["step"].values, cone[name], marked_line(index, cone.sizes["step"]) | {"linestyle": "-"})
        set_step_axis(axes, cone["step"].values, 2.2 * text_scale())
        axes.set(xlabel=STEP_LABEL, ylabel=label)
    add_note(figure, "lines: mean over seeds", sample_note(cone), deviation_note(cone, "bands"))
    return figure


def step_normalization(steps: np.ndarray) -> SymLogNorm:
    """From steps to colours: logarithmic above the first step after 0."""
    positive = steps[steps > 0]
    threshold = positive.min() if positive.size else 1.0
    return SymLogNorm(threshold, linscale=0.5, vmin=0, vmax=max(steps.max(), threshold))


def _draw_matrix(figure: Figure, axes: Axes, values: xr.DataArray, label: str, side: float) -> None:
    normalization = Normalize(0, max(float(values.max()), 1e-12))
    image = draw_cells(axes, values.values, normalization=normalization, excluded=np.zeros(values.shape, dtype=bool))
    for axis, name in ((axes.xaxis, "step_other"), (axes.yaxis, "step")):
        label_cells(axis, values[name].values, side * text_scale())
    axes.set(xlabel="training step t'", ylabel=STEP_LABEL)
    bar = figure.colorbar(image, ax=axes, location="top", label=label, aspect=25, pad=0.03)
    label_colors(bar)


def _draw_seeds(axes: Axes, x: np.ndarray, values: xr.DataArray, line: dict, *, logarithmic: bool = False) -> None:
    """A mean over seeds with its band: the standard deviation, or the extremes on a logarithmic axis."""
    mean = seed_mean(values)
    axes.plot(x, mean, **line)
    if logarithmic:
        set_logarithmic(axes)
        band = extremes(values)
    else:
        spread = seed_spread(values)
        band = None if spread is None else (mean - spread, mean + spread)
    if band is not None:
        axes.fill_between(x, *band, color=line["color"], alpha=0.2, linewidth=0)


def _draw_intervals(axes: Axes, distance: xr.DataArray) -> None:
    count = distance.sizes["interval"]
    axes.set_ylabel("kernel distance S from t to t + dt")
    if count == 0:
        axes.text(0.5, 0.5, "cone.intervals is empty", ha="center", va="center", transform=axes.transAxes)
        return
    for index, interval in enumerate(distance["interval"].values):
        values = distance.sel(interval=interval).dropna("step", how="all")
        line = ordered_line(index, count) | {"label": f"{interval:g}"}
        if values.sizes["step"] <= MOST_MARKERS:
            line |= {"marker": "o", "markersize": 2.5}
        _draw_seeds(axes, values["step"].values, values, line, logarithmic=True)
    axes.legend(title="dt (steps)", ncols=-(-count // 6))


def _draw_path(axes: Axes, points: np.ndarray, steps: np.ndarray, normalization: SymLogNorm) -> None:
    axes.plot(points[:, 0], points[:, 1], color="0.7", linewidth=0.8, zorder=1)
    axes.scatter(points[:, 0], points[:, 1], c=steps, norm=normalization, s=14, zorder=2)
    for index, marker, color, name in ((0, "s", OKABE_ITO[1], "start"), (-1, "*", OKABE_ITO[3], "end")):
        axes.plot(
            *points[index, :2],
            marker=marker,
            markersize=10,
            markerfacecolor="none",
            markeredgecolor=color,
            markeredgewidth=1.5,
            linestyle="none",
            label=f"{name} (step {steps[index]:g})",
            zorder=3,
        )
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.1)


def _add_step_bar(figure: Figure, grid: np.ndarray, steps: np.ndarray, normalization: SymLogNorm) -> None:
    colors = mpl.cm.ScalarMappable(norm=normalization, cmap=mpl.rcParams["image.cmap"])
    bar = figure.colorbar(colors, ax=list(grid.flat), location="right", label=STEP_LABEL, aspect=30)
    places = np.asarray(normalization(steps)) * 2.2 * text_scale() * grid.shape[0]
    shown = sorted(steps[spaced_labels(steps, places)])
    bar.set_ticks(shown, labels=[f"{step:g}" for step in shown])
    bar.ax.minorticks_off()
