"""The chaos effect (Zhou 2025a, Fig. 3): runs perturbed at t0, compared at t1."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from twophase.plotting.axes import annotate_cells, draw_cells, label_cells, label_colors, set_logarithmic, set_step_axis
from twophase.plotting.style import add_note, compact, named_line, new_figure, ordered_line, text_scale
from twophase.plotting.summary import (
    deviation_note,
    extremes,
    extremes_note,
    geometric_mean,
    largest_difference,
    sample_note,
    seed_mean,
    seed_spread,
)

MEASURES = {
    "parameter_dissimilarity": "parameter dissimilarity C",
    "test_loss_barrier": "test loss barrier",
    "train_loss_barrier": "train loss barrier",
    "disagreement_rate": "disagreement rate",
}
LARGEST_ANNOTATED_GRID = 8
MOST_NAMED_LINES = 20
DISTANCE_LABEL = "|θ - θ'|₂"


def plot_chaos(chaos: xr.Dataset, *, kind: str) -> Figure:
    """Heat maps over (t0, t1) of Zhou 2025a, Fig. 3: a row for each size of the perturbation, the control last.

    Args:
        chaos: The measures over (seed, kind, relative_norm, draw, t0, t1); relative norm 0 is the control.
        kind: Which direction of perturbation.

    Returns:
        A figure of rows for sizes and columns for measures; a column has one colour scale.
    """
    chaos = chaos.sel(kind=kind)
    norms = [*chaos["relative_norm"].values[chaos["relative_norm"].values > 0], 0.0]
    width, height = _panel_size(chaos.sizes["t0"], chaos.sizes["t1"])
    figure = new_figure(4 * width + 1.6, len(norms) * (height + 0.25) + 1.7)
    grid = figure.subplots(len(norms), len(MEASURES), sharex=True, sharey=True, squeeze=False)
    for column, (name, label) in zip(grid.T, MEASURES.items(), strict=True):
        normalization = _shared_normalization(seed_mean(chaos[name]))
        for axes, norm in zip(column, norms, strict=True):
            image = _draw_measure(axes, chaos[name].sel(relative_norm=norm), normalization)
        column[0].set_title(label)
        control = largest_difference(chaos[name].sel(relative_norm=0.0))
        column[-1].set_title(f"control: max |difference| = {compact(control)}", fontsize="small")
        column[-1].set_xlabel("compared at step t₁")
        label_cells(column[-1].xaxis, chaos["t1"].values, width * text_scale())
        bar = figure.colorbar(image, ax=list(column), location="bottom", label=label, aspect=25, pad=0.02)
        label_colors(bar)
    for axes, norm in zip(grid[:, 0], norms, strict=True):
        label_cells(axes.yaxis, chaos["t0"].values, height * text_scale())
        axes.set_ylabel((f"relative norm {norm:g}" if norm else "control: no perturbation") + "\nperturbed at step t₀")
    spread_shown_as = "below each mean ±" if _is_annotated(chaos) else ""
    add_note(
        figure,
        f"{kind} perturbation, mean over seeds and draws",
        sample_note(chaos),
        deviation_note(chaos, spread_shown_as) if spread_shown_as else "the grid is too large to write the spread",
        "hatched: t₁ ≤ t₀" if _excluded(chaos).any() else "",
        "crosses: not finite in some run" if _lacks_values(chaos) else "",
        control_note(chaos, "seeds, draws, t₀ and t₁"),
    )
    return figure


def plot_barrier_against_t0(chaos: xr.Dataset, kind: str) -> Figure:
    """Barriers, disagreement and distance at the last t1, against t0, with their spread.

    Args:
        chaos: The measures over (seed, kind, relative_norm, draw, t0, t1); relative norm 0 is the control.
        kind: Which direction of perturbation.

    Returns:
        A figure of four panels, with one line for each size of the perturbation and one for the control.
    """
    last = int(chaos["t1"].max())
    chaos = chaos.sel(kind=kind, t1=last)
    figure = new_figure(7.4, 5.6)
    grid = figure.subplots(2, 2, sharex=True)
    labels = {name: MEASURES[name] for name in ("test_loss_barrier", "train_loss_barrier", "disagreement_rate")}
    for axes, (name, label) in zip(grid.flat, labels.items(), strict=False):
        control = seed_mean(chaos[name].sel(relative_norm=0.0))
        axes.plot(chaos["t0"], control, color="0.4", linewidth=1, label="0 (control)")
        for index, norm in enumerate(_sizes(chaos)):
            values = chaos[name].sel(relative_norm=norm)
            _draw_bars(axes, values, seed_spread(values), **_size_line(index, norm))
        axes.set_ylabel(label)
    _draw_distance(grid[1, 1], chaos)
    for axes in grid.flat:
        set_step_axis(axes, chaos["t0"].values, 2.9 * text_scale())
    for axes in grid[-1]:
        axes.set_xlabel("perturbed at step t₀")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, title="relative norm", loc="outside upper center", ncols=min(len(names), 6))
    add_note(
        figure,
        f"{kind} perturbation, compared at the last t₁ = {last}, mean over seeds and draws",
        sample_note(chaos),
        deviation_note(chaos, "bars"),
        f"bars of {DISTANCE_LABEL}: smallest to largest run" if extremes(chaos["parameter_distance"]) else "",
        control_note(chaos, "seeds, draws and t₀") + ", not drawn on the logarithmic axis",
    )
    return figure


def plot_growth(chaos: xr.Dataset, kind: str) -> Figure:
    """Distance between perturbed run and parent in the steps after the perturbation.

    Args:
        chaos: With ``growth_distance(seed, kind, relative_norm, draw, t0, steps_after)``.
        kind: Which direction of perturbation.

    Returns:
        A figure with a panel for each size of the perturbation and a line for each t0, or a few words if the
        distance was kept at step t0 alone.
    """
    distance = chaos["growth_distance"].sel(kind=kind)
    if distance.sizes["steps_after"] < 2:
        return _placeholder("The distance after the perturbation was not kept:\nchaos.growth_steps is 0.")
    norms = _sizes(chaos)
    columns = min(len(norms), 3)
    rows = -(-len(norms) // columns)
    figure = new_figure(3 * columns + 1.6, 2.9 * rows + 0.8)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    control = largest_difference(distance.sel(relative_norm=0.0))
    for axes, norm in zip(grid.flat, norms, strict=False):
        _draw_growth(axes, distance.sel(relative_norm=norm))
        axes.set_title(f"relative norm {norm:g}")
        text = f"control: max over seeds,\nt₀ and steps = {_measured(control)}"
        axes.annotate(text, (0.98, 0.03), xycoords="axes fraction", ha="right", va="bottom", fontsize="small")
        axes.set_xlabel("steps after the perturbation")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if (limits := _limits(distance.where(chaos["relative_norm"] > 0))) is not None:
        grid[0, 0].set_ylim(limits)  # shared by all panels
    for axes in grid.flat[len(norms) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"parameter distance {DISTANCE_LABEL}")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, title="t₀ (step)", loc="outside right upper")
    add_note(
        figure,
        f"{kind} perturbation, lines: geometric mean over seeds and draws",
        sample_note(chaos),
        extremes_note(chaos, "bands"),
        "some of the t₀ are not named" if len(names) < chaos.sizes["t0"] else "",
        "exact zeros have no place on a logarithmic axis",
    )
    return figure


def control_note(chaos: xr.Dataset, over: str) -> str:
    """What the control measured: the largest of all measures of the runs with a perturbation of size zero."""
    control = chaos.sel(relative_norm=0.0)
    largest = largest_difference(control["parameter_distance"], *(control[name] for name in MEASURES))
    return f"control: max |difference| = {_measured(largest)} over measures, {over}"


def _measured(control: float) -> str:
    return "0" if control == 0 else f"{control:.3g} (not 0)"


def _sizes(chaos: xr.Dataset) -> list[float]:
    return [float(norm) for norm in chaos["relative_norm"].values if norm > 0]


def _size_line(index: int, norm: float) -> dict:
    return named_line(index) | {"label": f"{norm:g}", "linewidth": 1.2, "markerfacecolor": "white", "elinewidth": 0.9}


def _is_annotated(chaos: xr.Dataset) -> bool:
    return max(chaos.sizes["t0"], chaos.sizes["t1"]) <= LARGEST_ANNOTATED_GRID


def _panel_size(rows: int, columns: int) -> tuple[float, float]:
    """Width and height in inches of one heat map."""
    if max(rows, columns) <= LARGEST_ANNOTATED_GRID:
        return max(1.9, 0.5 * columns), max(1.5, 0.32 * rows)
    return min(max(1.9, 0.14 * columns), 3.2), min(max(1.5, 0.14 * rows), 3.2)


def _shared_normalization(means: xr.DataArray) -> Normalize:
    finite = means.values[np.isfinite(means.values)]
    low, high = (min(finite.min(), 0.0), finite.max()) if finite.size else (0.0, 0.0)
    return Normalize(low, high if high > low else low + 1)


def _excluded(values: xr.DataArray) -> np.ndarray:
    return values["t1"].values[None, :] <= values["t0"].values[:, None]


def _lacks_values(chaos: xr.Dataset) -> bool:
    means = [seed_mean(chaos[name]).transpose(..., "t0", "t1").values for name in MEASURES]
    return any((~np.isfinite(values) & ~_excluded(chaos)).any() for values in means)


def _draw_measure(axes: Axes, values: xr.DataArray, normalization: Normalize) -> AxesImage:
    """One heat map: the mean of ``values(seed, draw, t0, t1)``, with numbers if the grid is small."""
    mean = seed_mean(values).transpose("t0", "t1").values
    image = draw_cells(axes, mean, normalization=normalization, excluded=_excluded(values))
    if max(mean.shape) <= LARGEST_ANNOTATED_GRID:
        spread = seed_spread(values)
        annotate_cells(image, None if spread is None else spread.transpose("t0", "t1").values)
    return image


def _draw_bars(axes: Axes, values: xr.DataArray, bars: xr.DataArray | None, **line: Any) -> None:
    """The mean of ``values(seed, draw, t0)`` against t0, with bars of shape ``(t0,)`` or ``(2, t0)``."""
    bars = None if bars is None else bars.values
    axes.errorbar(values["t0"].values, seed_mean(values).values, yerr=bars, **line)


def _draw_distance(axes: Axes, chaos: xr.Dataset) -> None:
    for index, norm in enumerate(_sizes(chaos)):
        values = chaos["parameter_distance"].sel(relative_norm=norm)
        mean, ends = seed_mean(values), extremes(values)
        bars = None if ends is None else xr.concat([mean - ends[0], ends[1] - mean], "end").clip(min=0)
        _draw_bars(axes, values, bars, **_size_line(index, norm))
    set_logarithmic(axes)
    axes.set_ylabel(f"parameter distance {DISTANCE_LABEL}")


def _draw_growth(axes: Axes, distance: xr.DataArray) -> None:
    count = distance.sizes["t0"]
    stride = -(-count // MOST_NAMED_LINES)
    for index, t0 in enumerate(distance["t0"].values):
        values = distance.sel(t0=t0)
        line = ordered_line(index, count)
        label = f"{t0:g}" if index % stride == 0 else "_unnamed"
        axes.plot(values["steps_after"], geometric_mean(values), **line, label=label, linewidth=1.1)
        if (ends := extremes(values)) is not None:
            axes.fill_between(values["steps_after"], *ends, color=line["color"], alpha=0.12, linewidth=0)
    set_logarithmic(axes)


def _limits(distance: xr.DataArray) -> tuple[float, float] | None:
    """Ends of the logarithmic axis that leave its lowest fifth for words; None if there is no value."""
    positive = distance.values[np.isfinite(distance.values) & (distance.values > 0)]
    if not positive.size:
        return None
    low, high = np.log10(positive.min()), np.log10(positive.max())
    room = max(high - low, 1)
    return 10 ** (low - 0.3 * room), 10 ** (high + 0.06 * room)


def _placeholder(text: str) -> Figure:
    figure = new_figure(5, 1.5)
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure
