"""Single networks of a phase diagram: the orientations of their neurons, and the functions that they learned."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from twophase.phase_diagram.relative_distance import ARRIVED
from twophase.plotting.plane import GAMMA, GAMMA_PRIME, left_out
from twophase.plotting.style import OKABE_ITO, add_note, new_figure, text_scale

MOST_PANELS = 6
MOST_VECTOR_NEURONS = 200  # of a panel in an SVG; more are drawn as one picture
MOST_LARGE_MARKS = 500  # neurons of a panel; the marks of more are smaller
TIMES = {
    "start": {"color": OKABE_ITO[0], "marker": "o", "facecolors": "none", "s": 14, "linewidths": 0.6},
    "end": {"color": OKABE_ITO[1], "marker": "^", "s": 9, "linewidths": 0},
}


def plot_orientations(orientations: xr.Dataset) -> Figure:
    """Amplitude against orientation of every neuron at start and end, one network a panel.

    Args:
        orientations: ``orientation`` in radians and ``amplitude`` over (point, time, neuron), ``clusters(point,
            time)``; coordinates ``gamma(point)``, ``gamma_prime(point)`` and time "start", "end"; scalars ``width``
            and ``seed``.

    Returns:
        A figure with a panel for each of the first six points, amplitudes logarithmic.
    """
    figure, grid = _point_panels(orientations)
    drawn = np.isfinite(orientations["orientation"]) & np.isfinite(orientations["amplitude"])
    drawn &= orientations["amplitude"] > 0
    for place, axes in enumerate(grid):
        network = orientations.isel(point=place)
        clusters = [int(network["clusters"].sel(time=time)) for time in TIMES]
        axes.set_title(f"{_name(network)}\nclusters: {clusters[0]} → {clusters[1]}")
        for time, style in TIMES.items():
            _draw_neurons(axes, network.sel(time=time), drawn.isel(point=place).sel(time=time).values, style)
    for time, style in TIMES.items():
        grid[0].scatter([], [], label=time, **style)  # for the legend, of a size that is seen
    _set_angle_axis(grid, orientations)
    _finish_panels(figure, grid, "orientation (rad)", "amplitude |a||w|")
    one_dimensional = "position" in orientations.dims
    add_note(
        figure,
        _network_note(orientations, len(grid)),
        "orientation: polar angle of (w, b)" if one_dimensional else "orientation: angle to the final main direction",
        "clusters (start → end): orientations at which neurons with nearly all of the summed amplitude gather",
        left_out(~drawn.isel(point=slice(len(grid))), "not drawn: amplitude 0 or no number", "marks"),
    )
    return figure


def plot_learned_functions(orientations: xr.Dataset) -> Figure:
    """The function f(x) of every network at start and end, with the training examples.

    Args:
        orientations: ``function(point, time, position)``, ``train_input(example)`` and ``train_target(example)``;
            coordinates and scalars as in :func:`plot_orientations`.

    Returns:
        A figure with a panel for each of the first six points, or a few words if inputs are not one-dimensional.
    """
    if "function" not in orientations:
        figure = new_figure(4.5, 1.2)
        figure.text(0.5, 0.5, "Learned functions are drawn only for 1-D data.", ha="center", va="center")
        return figure
    figure, grid = _point_panels(orientations)
    lines = {
        "f at the start": ("start", {"color": OKABE_ITO[0], "linestyle": "--", "linewidth": 0.9}),
        "f at the end": ("end", {"color": OKABE_ITO[1], "linewidth": 1.6}),
    }
    for place, axes in enumerate(grid):
        network = orientations.isel(point=place)
        axes.set_title(_name(network))
        for label, (time, line) in lines.items():
            axes.plot(network["position"], network["function"].sel(time=time), label=label, **line)
        examples = {"color": "black", "marker": "o", "linestyle": "none", "markerfacecolor": "white", "zorder": 3}
        axes.plot(network["train_input"], network["train_target"], label="training examples", **examples)
    _finish_panels(figure, grid, "input x", "output f(x)")
    examples = orientations.sizes["example"]
    add_note(figure, _network_note(orientations, len(grid)), f"trained on {examples} example{_plural(examples)}")
    return figure


def _point_panels(orientations: xr.Dataset) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each point, three a row, at most :data:`MOST_PANELS`; and its panels."""
    count = min(orientations.sizes["point"], MOST_PANELS)
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = new_figure(max(2.5 * columns + 0.3, 4), 2.4 * rows + 1.1)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[count:]:
        axes.remove()
    return figure, list(grid.flat[:count])


def _finish_panels(figure: Figure, grid: list[Axes], x_label: str, y_label: str) -> None:
    """Label the panels and name the marks above all."""
    for place, axes in enumerate(grid):
        axes.set_xlabel(x_label)
        if place % 3 == 0:
            axes.set_ylabel(y_label)
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))


def _draw_neurons(axes: Axes, neurons: xr.Dataset, shown: np.ndarray, style: dict[str, Any]) -> None:
    angle, amplitude = neurons["orientation"].values, neurons["amplitude"].values
    thinner = min(1.0, (MOST_LARGE_MARKS / len(angle)) ** 0.5)
    style = style | {"s": style["s"] * thinner * text_scale() ** 2, "linewidths": style["linewidths"] * thinner}
    axes.scatter(
        angle[shown],
        amplitude[shown],
        alpha=0.7,
        rasterized=len(angle) > MOST_VECTOR_NEURONS,
        **style,
    )
    if shown.any():
        axes.set_yscale("log")


def _set_angle_axis(grid: list[Axes], orientations: xr.Dataset) -> None:
    """From -pi to pi for polar angles, from 0 to pi for angles to a direction."""
    low = -1 if "position" in orientations.dims or bool((orientations["orientation"] < 0).any()) else 0
    halves = np.arange(2 * low, 3)
    names = {-2: r"$-\pi$", -1: r"$-\pi/2$", 0: "0", 1: r"$\pi/2$", 2: r"$\pi$"}
    for axes in grid:
        axes.set_xlim(np.pi * (low - 0.04), np.pi * 1.04)
        axes.xaxis.set_ticks(halves * np.pi / 2, [names[half] for half in halves])


def _name(network: xr.Dataset) -> str:
    return f"{GAMMA} = {float(network['gamma']):g}, {GAMMA_PRIME} = {float(network['gamma_prime']):g}"


def _network_note(orientations: xr.Dataset, panels: int) -> str:
    width, seed = int(orientations["width"]), int(orientations["seed"])
    note = f"n = 1 network of width m = {width} (seed {seed}) in each panel, so no spread"
    points = orientations.sizes["point"]
    note += f"; the first {panels} of {points} points" if panels < points else ""
    if "status" in orientations and (missing := int((~orientations["status"][:panels].isin(ARRIVED)).sum())):
        note += f"; {missing} of them did not arrive"
    return note


def _plural(count: int) -> str:
    return "" if count == 1 else "s"
