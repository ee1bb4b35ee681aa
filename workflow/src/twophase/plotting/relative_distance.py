"""Relative distance against width, and the fits whose slope is S_w (Luo 2021)."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from twophase.phase_diagram.relative_distance import ARRIVED
from twophase.plotting.axes import set_logarithmic, spaced_labels
from twophase.plotting.plane import GAMMA, GAMMA_PRIME, left_out, positive
from twophase.plotting.style import MARKERS, OKABE_ITO, add_note, new_figure, text_scale
from twophase.plotting.summary import sample_note

LINE_COLORS = (*OKABE_ITO, "#999999")
LINE_MARKERS = (*MARKERS, "*")


def plot_relative_distance(
    regime: xr.Dataset, relative_distance: xr.Dataset, points: Sequence[tuple[float, float]]
) -> Figure:
    """Relative distance RD of the weights against the width m at a few points, with the fits whose slope is S_w.

    Args:
        regime: ``slope``, ``intercept`` and ``slope_standard_error`` over (gamma, gamma_prime).
        relative_distance: ``input_distance``, ``output_distance`` and ``status`` over (gamma, gamma_prime, width,
            seed).
        points: At most 8 pairs (gamma, gamma') of the grid.

    Returns:
        A figure of two logarithmic panels: input weights with their fits, and output weights.

    Raises:
        ValueError: If there are more than 8 points.
        KeyError: If a point is not on the grid.
    """
    if len(points) > len(LINE_COLORS):
        raise ValueError(f"plot_relative_distance draws at most {len(LINE_COLORS)} points, got {len(points)}")
    names = {"input_distance": "input weights w", "output_distance": "output weights a"}
    figure = new_figure(7.6, 4.1 + 0.18 * -(-len(points) // 3))
    panels = figure.subplots(1, 2)
    unusable = []
    for index, point in enumerate(points):
        networks, fit = _at(relative_distance, point), _at(regime, point)
        for axes, name in zip(panels, names, strict=True):
            usable = networks["status"].isin(ARRIVED) & np.isfinite(networks[name]) & (networks[name] > 0)
            _draw_networks(axes, networks[name].where(usable), index, _fit_label(point, fit))
            unusable.append(~usable)
        _draw_fit(panels[0], relative_distance["width"].values, fit, index)
    for axes, label in zip(panels, names.values(), strict=True):
        _set_scales(axes, relative_distance["width"].values)
        axes.set_ylabel(f"relative distance RD of {label}")
    handles, labels = panels[0].get_legend_handles_labels()
    title = f"{GAMMA}, {GAMMA_PRIME}: slope ± its standard error (dashed: fit)"
    figure.legend(handles, labels, title=title, loc="outside upper center", ncols=3)
    add_note(
        figure,
        "RD = |θ(end) - θ(0)| / |θ(0)|; lines: geometric mean over seeds; dots: single seeds, the spread",
        sample_note(relative_distance),
        "dashed: least squares of log RD against log m over all widths and seeds, slope S_w",
        left_out(xr.concat(unusable, "panel"), "left out: never moved, or did not arrive", "values") if points else "",
    )
    return figure


def _at(dataset: xr.Dataset, point: tuple[float, float]) -> xr.Dataset:
    return dataset.sel(gamma=point[0], gamma_prime=point[1], method="nearest", tolerance=1e-9)


def _fit_label(point: tuple[float, float], fit: xr.Dataset) -> str:
    slope, error = float(fit["slope"]), float(fit["slope_standard_error"])
    if not np.isfinite(slope):
        return f"{point[0]:g}, {point[1]:g}: no fit"
    spread = f" ± {error:.3f}" if np.isfinite(error) else ""
    return f"{point[0]:g}, {point[1]:g}: $S_w$ = {slope:.3f}{spread}"


def _draw_networks(axes: Axes, values: xr.DataArray, index: int, label: str) -> None:
    """Each network of ``values(width, seed)`` as a dot, and the geometric mean over the seeds as a line."""
    values = values.transpose("width", "seed")
    widths = values["width"].values
    mean = np.exp(np.log(values).mean("seed"))
    style = {"color": LINE_COLORS[index], "marker": LINE_MARKERS[index], "markerfacecolor": "white", "linewidth": 1.2}
    axes.plot(widths, mean, label=label, **style)
    axes.plot(
        np.repeat(widths, values.sizes["seed"]),
        values.values.ravel(),
        linestyle="none",
        marker=".",
        markersize=2.5,
        color=LINE_COLORS[index],
        zorder=3,
    )


def _draw_fit(axes: Axes, widths: np.ndarray, fit: xr.Dataset, index: int) -> None:
    if np.isfinite(fit["slope"]):
        ends = np.array([widths.min(), widths.max()], dtype=float)
        fitted = np.exp(float(fit["intercept"]) + float(fit["slope"]) * np.log(ends))
        axes.plot(ends, fitted, "--", color=LINE_COLORS[index], linewidth=0.9, zorder=1)


def _set_scales(axes: Axes, widths: np.ndarray) -> None:
    """Logarithmic axes; x is labelled with the widths that were measured, as many as fit."""
    low, high = axes.dataLim.intervaly
    set_logarithmic(axes, plain=high < 1000 * low)
    axes.set_xscale("log")
    places = np.log(widths / widths.min())
    length = positive(places.max())
    margin = np.exp(0.05 * length)
    axes.set_xlim(widths.min() / margin, widths.max() * margin)
    shown = sorted(widths[spaced_labels(widths, places / length * 2.7 * text_scale())])
    axes.xaxis.set_ticks(shown, [f"{width:g}" for width in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("width m")
