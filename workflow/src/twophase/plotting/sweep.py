"""A sweep: when training settles, and how wide its cone is, against each setting that varies."""

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from twophase.plotting.style import LINE_STYLES, MARKERS, add_note, compact, new_figure, sequential_colors
from twophase.plotting.summary import sample_note

PANEL = (2.9, 1.75)  # inches
LABELS = {
    "width": "width",
    "depth": "depth",
    "normalization": "normalisation",
    "output_scale": "output scale",
    "batch_size": "batch size",
    "learning_rate": "learning rate",
    "label_noise": "label noise",
}
MOST_NAMED = 12  # lines in a legend
CROSS = 0.95  # height of the crosses, as a share of the panel


def plot_sweep(sweep: xr.Dataset) -> Figure:
    """Transition steps and cone radius with their intervals: a row for each quantity, a column for each axis.

    Args:
        sweep: As `twophase.sweep.grid_of_cells` gives it.

    Returns:
        The figure; crosses mark where a curve has no transition.
    """
    axes_of_sweep = [axis for axis in LABELS if axis in sweep.dims]
    rows = _rows(sweep)
    figure = new_figure(PANEL[0] * len(axes_of_sweep) + 0.6, PANEL[1] * len(rows) + 1.1)
    panels = figure.subplots(len(rows), len(axes_of_sweep), squeeze=False, sharex="col", sharey="row")
    for column, axis in zip(panels.T, axes_of_sweep, strict=True):
        for panel, (label, lines) in zip(column, rows.items(), strict=True):
            _draw_quantity(panel, sweep, axis, lines)
            if axis == axes_of_sweep[0]:
                panel.set_ylabel(label)
        _set_values_axis(column[-1], sweep[axis].values)
        column[-1].set_xlabel(LABELS[axis])
        _add_legend(column[0], _other_cells(sweep, axis), _line_names(sweep))
    for row in panels:
        _widen_for_crosses(row)
    missing = int((sweep["found"] == 0).sum())
    add_note(
        figure,
        f"{sample_note(sweep)}; {np.prod([sweep.sizes[axis] for axis in axes_of_sweep])} combinations of settings",
        "bars: confidence intervals over seeds",
        f"crosses: number of combinations without a transition ({missing} of {sweep['found'].size} curves have none)",
    )
    return figure


def _rows(sweep: xr.Dataset) -> dict[str, list[dict[str, Any]]]:
    """What each row draws, by its label: names of variables and the curve they are taken from."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for curve in sweep["curve"].values.tolist():
        measure, _, perturbation = curve.partition(" ")
        names = {"mean": "transition_step", "lower": "transition_lower", "upper": "transition_upper"}
        label = f"transition step\n({measure.replace('_', ' ')})"
        rows.setdefault(label, []).append(names | {"curve": curve, "perturbation": perturbation})
    if "cone_radius_mean" in sweep:
        names = {part: f"cone_radius_{part}" for part in ("mean", "lower", "upper")}
        rows["cone radius\n(degrees)"] = [names | {"curve": None, "perturbation": ""}]
    return rows


def _line_names(sweep: xr.Dataset) -> list[str]:
    """The perturbations that tell the lines of a panel from each other, in order."""
    curves = sweep["curve"].values.tolist()
    return list(dict.fromkeys(perturbation for curve in curves if (perturbation := curve.partition(" ")[2])))


def _other_cells(sweep: xr.Dataset, axis: str) -> list[dict[str, Any]]:
    """Each combination of the other axes' values."""
    others = [name for name in LABELS if name in sweep.dims and name != axis]
    places = np.ndindex(*(sweep.sizes[name] for name in others))
    return [{name: sweep[name].values[at] for name, at in zip(others, place, strict=True)} for place in places]


def _draw_quantity(panel: Axes, sweep: xr.Dataset, axis: str, lines: list[dict[str, Any]]) -> None:
    places = _places(sweep[axis].values)
    cells, perturbations = _other_cells(sweep, axis), _line_names(sweep)
    colors = sequential_colors(len(cells))
    absent = np.zeros(len(places), dtype=int)
    for line in lines:
        style = perturbations.index(line["perturbation"]) if line["perturbation"] else 0
        data = sweep if line["curve"] is None else sweep.sel(curve=line["curve"])
        for color, cell in zip(colors, cells, strict=True):
            mean, lower, upper = (data[line[part]].sel(cell).values for part in ("mean", "lower", "upper"))
            absent += ~np.isfinite(mean)
            below, above = (np.where(np.isfinite(gap), np.maximum(gap, 0), 0) for gap in (mean - lower, upper - mean))
            panel.errorbar(
                places,
                mean,
                yerr=[below, above],
                color=color,
                linestyle=LINE_STYLES[style % len(LINE_STYLES)],
                marker=MARKERS[style % len(MARKERS)],
            )
    _draw_crosses(panel, places, absent, len(lines) * len(cells))


def _draw_crosses(panel: Axes, places: np.ndarray, absent: np.ndarray, count: int) -> None:
    """Mark at the upper edge how many of the points at a place have no number."""
    height = panel.get_xaxis_transform()
    for place, number in zip(places, absent, strict=True):
        if number:
            panel.plot([place], [CROSS], transform=height, color="black", marker="x", clip_on=False)
            panel.annotate(
                f"{number}" if count > 1 else "none",
                (place, CROSS),
                xycoords=height,
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=0.75 * mpl.rcParams["font.size"],
            )


def _widen_for_crosses(row: Sequence[Axes]) -> None:
    """Logarithmic where values span a decade; and room above the points for crosses."""
    panel = row[0]  # the others share its y axis
    values = np.concatenate([np.asarray(points, dtype=float) for points in _drawn(row)] or [np.array([np.nan])])
    values = values[np.isfinite(values)]
    if not len(values):
        panel.set_ylim(0, 1)
        panel.set_yticks([])
        return
    if values.min() > 0 and values.max() >= 10 * values.min():
        panel.set_yscale("log")
        low, high = values.min() / 1.5, values.max() * (values.max() / values.min()) ** 0.35
    else:
        spread = values.max() - min(values.min(), 0) or 1.0
        low, high = min(values.min(), 0) - 0.05 * spread, values.max() + 0.35 * spread
    panel.set_ylim(low, high)


def _drawn(row: Sequence[Axes]) -> Iterator[np.ndarray]:
    """Heights of points and of the ends of their bars, crosses left out."""
    for panel in row:
        for container in panel.containers:
            yield container.lines[0].get_ydata()
            for bars in container.lines[2]:
                for segment in bars.get_segments():  # empty where there is no point
                    yield np.reshape(segment, (-1, 2))[:, 1]


def _places(values: np.ndarray) -> np.ndarray:
    """Where values lie on their axis: numbers as they are, words one after the other."""
    return values.astype(float) if values.dtype.kind in "fiu" else np.arange(len(values), dtype=float)


def _set_values_axis(panel: Axes, values: np.ndarray) -> None:
    """Label an axis with the values of the sweep; logarithmic if they span a decade."""
    places = _places(values)
    logarithmic = values.dtype.kind in "fiu" and places.min() > 0 and places.max() >= 10 * places.min()
    if logarithmic:
        panel.set_xscale("log")
    texts = [compact(value) for value in places] if values.dtype.kind in "fiu" else values.tolist()
    along = np.log(places) if logarithmic else places
    kept = [int(np.argmin(along))]
    for index in np.argsort(along):  # labels that would touch are left out
        if along[index] - along[kept[-1]] > 0.14 * (np.ptp(along) or 1):
            kept.append(int(index))
    panel.set_xticks(places[kept], [texts[index] for index in kept])
    panel.set_xticks([], minor=True)
    margin = 0.1 * (np.ptp(along) or 1)
    ends = np.array([along.min() - margin, along.max() + margin])
    panel.set_xlim(np.exp(ends) if logarithmic else ends)


def _add_legend(panel: Axes, cells: list[dict[str, Any]], perturbations: list[str]) -> None:
    """Name colours and line styles above a column, as many of them as have room."""
    handles = []
    if len(cells) > 1:
        for color, cell in zip(sequential_colors(len(cells)), cells, strict=True):
            text = ", ".join(f"{LABELS[axis]} {_text(value)}" for axis, value in cell.items())
            handles.append(Line2D([], [], color=color, label=text))
    if len(perturbations) > 1:
        for style, text in enumerate(perturbations):
            line, marker = LINE_STYLES[style % len(LINE_STYLES)], MARKERS[style % len(MARKERS)]
            handles.append(Line2D([], [], color="black", linestyle=line, marker=marker, label=text))
    if len(handles) > MOST_NAMED:
        more = len(handles) - MOST_NAMED + 1
        handles = [*handles[: MOST_NAMED - 1], Line2D([], [], linestyle="", label=f"and {more} more")]
    if handles:
        panel.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.02))


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str) else compact(float(value))
