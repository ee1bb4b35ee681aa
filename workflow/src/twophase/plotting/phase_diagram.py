"""Maps over the plane (gamma, gamma'): S_w and the kernel distance, with theory's boundary (Luo 2021)."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator

from twophase.phase_diagram.relative_distance import ARRIVED
from twophase.phase_diagram.theory import (
    CONDENSED,
    KNOWN_POINTS,
    LINEAR,
    REGIMES,
    UNDECIDED,
    boundary_path,
    theoretical_regime,
)
from twophase.plotting.plane import GAMMA, GAMMA_PRIME, left_out, positive
from twophase.plotting.style import add_note, compact, new_figure, text_scale
from twophase.plotting.summary import sample_note

SLOPE_COLORMAP = "RdBu_r"  # red and blue ends, told apart by colour-blind readers
MAP_SIZE = (3.1, 2.9)  # inches of one map
SIDES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)])  # of a point, for its label
LONE_CELL = 0.25  # side of a cell without neighbours


def plot_phase_diagram(regime: xr.Dataset, relative_distance: xr.Dataset) -> Figure:
    """Slope S_w and kernel distance over (gamma, gamma'), with theory's boundary (Luo 2021) and known scalings.

    Args:
        regime: ``slope``, ``slope_standard_error``, ``regime``, ``theoretical_regime`` and ``networks`` over (gamma,
            gamma_prime); scalar ``confidence``, and ``critical_slope`` if there is one.
        relative_distance: ``kernel_distance`` and ``status`` over (gamma, gamma_prime, width, seed).

    Returns:
        A figure of two maps; crosses and circles in the left one mark where the test doesn't say what theory says.
    """
    kernel = relative_distance.sel(width=relative_distance["width"].max())
    kernel = kernel["kernel_distance"].where(kernel["status"].isin(ARRIVED) & np.isfinite(kernel["kernel_distance"]))
    mean = kernel.mean("seed")
    marks = _marks(regime)
    figure = new_figure(2 * MAP_SIZE[0] + 1.4, MAP_SIZE[1] + 2.3)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    _draw_slopes(figure, panels[0], regime["slope"])
    mesh = _draw_map(panels[1], mean, Normalize(0, positive(np.nanmax(mean.values, initial=0))))
    _add_bar(figure, mesh, f"kernel distance S at m = {int(relative_distance['width'].max())}")
    _draw_theory(panels, np.concatenate(list(marks.values())))
    _draw_marks(panels[0], marks, regime["slope"].sizes)
    panels[0].set_ylabel(GAMMA_PRIME)
    handles, names = panels[0].get_legend_handles_labels()
    if names:
        figure.legend(handles, names, loc="outside upper center", ncols=3)
    add_note(
        figure,
        f"{sample_note(relative_distance)}; networks in each fit of S_w: {_range(regime['networks'])}",
        f"standard error of S_w: {_median_and_largest(regime['slope_standard_error'])}",
        f"regimes by the {100 * float(regime['confidence']):g} % confidence interval of S_w{_band(regime)}",
        *(f"{name}: {len(cells)} of {regime['slope'].size} cells" for name, cells in marks.items() if len(cells)),
        f"S: {_seed_deviation(kernel)}",
        left_out(~relative_distance["status"].isin(ARRIVED), "did not arrive and are left out"),
        "hatched: no number" if not np.isfinite(regime["slope"]).all() or not np.isfinite(mean).all() else "",
    )
    return figure


def _marks(regime: xr.Dataset) -> dict[str, np.ndarray]:
    """Cells, ``(k, 2)``, where a slope was measured and its regime is undecided, or another than theory's."""
    measured = np.isfinite(regime["slope"])
    undecided = measured & (regime["regime"] == UNDECIDED)
    other = measured & ~undecided & (regime["regime"] != regime["theoretical_regime"])
    return {"not theory's regime": _places(other), "undecided": _places(undecided)}


def _places(cells: xr.DataArray) -> np.ndarray:
    """(gamma, gamma') of the cells that are true, ``(k, 2)``."""
    columns, rows = np.nonzero(cells.transpose("gamma", "gamma_prime").values)
    return np.column_stack([cells["gamma"].values[columns], cells["gamma_prime"].values[rows]])


def _draw_slopes(figure: Figure, axes: Axes, slope: xr.DataArray) -> None:
    """The map of S_w; colours are symmetric about 0 and end where the sign that reaches less far does."""
    finite = slope.values[np.isfinite(slope.values)]
    reach = [positive(np.max(sign * finite, initial=0)) for sign in (-1, 1) if (sign * finite > 0).any()]
    shown = min(reach, default=1.0)
    mesh = _draw_map(axes, slope, Normalize(-shown, shown), SLOPE_COLORMAP)
    beyond = (bool((finite < -shown).any()), bool((finite > shown).any()))
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    label = "$S_w$, slope of log RD against log m"
    _add_bar(figure, mesh, label, extend)


def _draw_marks(axes: Axes, marks: dict[str, np.ndarray], cells: Mapping[str, int]) -> None:
    """Draw marks ``(k, 2)`` of a size that fits into one of so many cells."""
    side = min(MAP_SIZE[0] / cells["gamma"], MAP_SIZE[1] / cells["gamma_prime"]) * 72
    style = {"s": (np.clip(0.45 * side, 2, 5) * text_scale()) ** 2, "linewidths": 0.9, "zorder": 4}
    style["path_effects"] = [Stroke(linewidth=2.4, foreground="white"), Normal()]
    shapes = ({"marker": "x", "color": "black"}, {"marker": "o", "facecolors": "none", "edgecolors": "black"})
    for (name, places), shape in zip(marks.items(), shapes, strict=True):
        if len(places):
            axes.scatter(*places.T, label=name, **style, **shape)


def _add_bar(figure: Figure, mesh: QuadMesh, label: str, extend: str = "neither") -> None:
    bar = figure.colorbar(mesh, ax=mesh.axes, location="top", label=label, extend=extend)
    bar.ax.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
    bar.ax.xaxis.set_major_formatter("{x:.3g}")


def _draw_map(axes: Axes, values: xr.DataArray, normalization: Normalize, colormap: str | None = None) -> QuadMesh:
    """Draw ``values(gamma, gamma_prime)`` as cells that meet midway between the grid's values; NaN stays hatched."""
    axes.patch.set(facecolor="0.93", edgecolor="0.6", hatch="////", linewidth=0)
    masked = np.ma.masked_invalid(values.transpose("gamma_prime", "gamma").values)
    x, y = (_edges(values[name].values) for name in ("gamma", "gamma_prime"))
    mesh = axes.pcolormesh(x, y, masked, norm=normalization, cmap=colormap, linewidth=0)
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), xlabel=GAMMA)
    axes.spines[:].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    return mesh


def _edges(values: np.ndarray) -> np.ndarray:
    """Edges ``(n + 1,)`` midway between ascending values ``(n,)``; the outer cells reach as far out as in."""
    if len(values) == 1:
        return values[0] + LONE_CELL * np.array([-0.5, 0.5])
    middles = (values[1:] + values[:-1]) / 2
    return np.concatenate([[2 * values[0] - middles[0]], middles, [2 * values[-1] - middles[-1]]])


def _draw_theory(panels: np.ndarray, marks: np.ndarray) -> None:
    """Draw boundary, known points and names of regimes into both maps, keeping clear of ``marks``, ``(n, 2)``."""
    limits = np.array([panels[0].get_xlim(), panels[0].get_ylim()])
    path = boundary_path(*map(tuple, limits))
    path = path[np.isfinite(path).all(axis=1)]
    known = {point: name for point, name in KNOWN_POINTS.items() if _inside(point, limits)}
    labels = _place_labels(limits, known, path, marks)
    outline = [Stroke(linewidth=3.2, foreground="white"), Normal()]
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    for axes in panels:
        if len(path) > 1:
            axes.plot(*path.T, color="black", path_effects=outline, label="theory's boundary (critical)")
        for point in known:
            size = 7 * text_scale()  # a mark fits into it
            axes.plot(*point, "D", color="black", fillstyle="none", markersize=size, path_effects=outline, zorder=5)
        for text, place, style in labels:
            axes.annotate(text, xytext=place, ha="center", va="center", bbox=box, linespacing=1.0, zorder=6, **style)


def _place_labels(
    limits: np.ndarray, known: dict[tuple[float, float], str], path: np.ndarray, marks: np.ndarray
) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    """Find places where names of known points, then of regimes, hide as little as may be.

    Args:
        limits: Of both axes, ``(2, 2)``.
        known: Names of the points inside.
        path: The boundary, ``(k, 2)``.
        marks: What should stay visible, ``(n, 2)``.

    Returns:
        Text, centre (gamma, gamma') and further arguments of each annotation; a regime without room has none.
    """
    inches = np.array(MAP_SIZE) / (limits[:, 1] - limits[:, 0])
    points = np.array(list(known)).reshape(-1, 2)
    steps = np.linspace(0, 1, 40)[:, None]
    sampled = [start + steps * (end - start) for start, end in pairwise(path)]
    diamonds = [_box_points(point * inches, np.array([0.07, 0.07])) for point in points]
    taken = np.concatenate([np.concatenate([marks, *sampled]) * inches, *diamonds])
    labels = []
    for point, name in known.items():
        text = name.replace(", ", ",\n")
        half = _half_size(text, 0.8)
        around = [point * inches + sides * (half + gap) for gap in (0.12, 0.25) for sides in SIDES]
        where, _ = _free_place(np.array(around), taken, half, limits * inches[:, None], enough=1)
        style = {"xy": point, "fontsize": 0.8 * mpl.rcParams["font.size"]}
        style["arrowprops"] = {"arrowstyle": "-", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4 * text_scale()}
        style["arrowprops"]["path_effects"] = [Stroke(linewidth=2, foreground="white"), Normal()]
        labels.append((text, where / inches, style))
        taken = np.concatenate([taken, _box_points(where, half)])
    lattice = np.stack(np.meshgrid(*np.linspace(*limits.T, 25).T), axis=-1).reshape(-1, 2)
    regimes = theoretical_regime(*lattice.T)
    for code in (LINEAR, CONDENSED):
        half = _half_size(REGIMES[code], 1)
        where, free = _free_place(lattice[regimes == code] * inches, taken, half, limits * inches[:, None])
        if free:
            labels.append((REGIMES[code], where / inches, {"xy": where / inches, "fontstyle": "italic"}))
            taken = np.concatenate([taken, _box_points(where, half)])
    return labels


def _free_place(
    candidates: np.ndarray, taken: np.ndarray, half: np.ndarray, frame: np.ndarray, enough: float = np.inf
) -> tuple[np.ndarray, bool]:
    """Choose the centre of a box that hides nothing, or as little as may be; all in inches.

    Args:
        candidates: Centres, ``(k, 2)``, preferred ones first.
        taken: Points to keep clear of, ``(n, 2)``.
        half: Half width and half height of the box.
        frame: Lower and upper limits of both axes, ``(2, 2)``, within which the box should stay.
        enough: Room, in half boxes, above which more is no better.

    Returns:
        The first of the centres with the most room, and whether its box hides nothing.
    """
    if not len(candidates):
        return np.full(2, np.nan), False
    gaps = abs(candidates[:, None] - taken) / (half + 0.04)  # (k, n, 2), in half boxes
    room = gaps.max(axis=2).min(axis=1, initial=enough)
    margin = np.minimum(candidates - frame[:, 0], frame[:, 1] - candidates) - half
    room = np.where((margin >= 0).all(axis=1), room, np.minimum(margin.min(axis=1), 0))
    return candidates[room.argmax()], bool(room.max() >= 1)


def _half_size(text: str, scale: float) -> np.ndarray:
    """Half width and half height in inches (at 9 point text) of a text that is ``scale`` times as large as others."""
    lines = text.split("\n")
    return np.array([0.3 * max(map(len, lines)) + 0.3, 0.6 * len(lines) + 0.15]) * 9 / 72 * scale


def _box_points(centre: np.ndarray, half: np.ndarray) -> np.ndarray:
    return centre + half * np.array([(x, y) for x in np.linspace(-1, 1, 7) for y in (-1, 0, 1)])


def _inside(point: tuple[float, float], limits: np.ndarray) -> bool:
    return all(low <= value <= high for value, (low, high) in zip(point, limits, strict=True))


def _seed_deviation(values: xr.DataArray) -> str:
    """The words for the standard deviation over seeds of a map that shows their mean."""
    if values.sizes["seed"] < 2:
        return "one seed, no spread"
    enough = values.where(values.count("seed") > 1)  # a deviation takes two
    return f"mean over seeds, their standard deviation: {_median_and_largest(enough.std('seed', ddof=1))}"


def _median_and_largest(values: xr.DataArray) -> str:
    finite = values.values[np.isfinite(values.values)]
    if not finite.size:
        return "none"
    return f"median {compact(float(np.median(finite)))}, largest {compact(float(finite.max()))}"


def _range(values: xr.DataArray) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _band(regime: xr.Dataset) -> str:
    if "critical_slope" not in regime:
        return ""
    return f", critical: within ±{compact(float(regime['critical_slope']))}"
