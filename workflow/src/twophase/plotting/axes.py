"""Axes over training steps: even cells for uneven grids, and lines whose early steps can be seen."""

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from twophase.plotting.style import compact, text_scale

MOST_CELL_LABELS = 13


def draw_cells(axes: Axes, values: np.ndarray, *, normalization: Normalize, excluded: np.ndarray) -> AxesImage:
    """Draw a matrix as even cells, first row at the foot.

    Args:
        axes: Where to draw.
        values: Shape ``(rows, columns)``; a cell that is not a number and not excluded gets a cross.
        normalization: From values to the colour map.
        excluded: Shape of ``values``; cells that have no value by definition, left hatched.

    Returns:
        The image, whose array is ``values`` with what is not a number masked.
    """
    axes.patch.set(facecolor="0.93", edgecolor="0.75", hatch="////", linewidth=0)
    masked = np.ma.masked_invalid(values)
    image = axes.imshow(masked, norm=normalization, aspect="auto", origin="lower", interpolation="nearest")
    missing = np.argwhere(masked.mask & ~excluded) if masked.mask.any() else np.empty((0, 2))
    if len(missing):
        axes.scatter(missing[:, 1], missing[:, 0], marker="x", color="black", linewidths=1, s=18 * text_scale())
    axes.spines[:].set_visible(False)
    axes.tick_params(length=2)
    return image


def annotate_cells(image: AxesImage, spread: np.ndarray | None) -> None:
    """Write each cell's value, and its spread below, in black or white, whichever stands out.

    Args:
        image: From :func:`draw_cells`.
        spread: Shape of the image's array, or None to write values alone.
    """
    size = 0.7 * mpl.rcParams["font.size"]
    values = image.get_array()
    for row, column in np.argwhere(~np.ma.getmaskarray(values)):
        red, green, blue, _ = image.cmap(image.norm(values[row, column]))
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        text = compact(values[row, column]) + ("" if spread is None else f"\n±{compact(spread[row, column])}")
        color = "black" if light else "white"
        image.axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color, linespacing=1.05)


def label_cells(axis: Axis, steps: np.ndarray, length: float) -> None:
    """Label even cells with their steps, as many as fit without touching.

    Args:
        axis: An x or y axis over cells 0, 1, ...
        steps: Step of each cell.
        length: Length of the axis in inches.
    """
    labels = [f"{step:g}" for step in steps]
    upright = axis.axis_name == "x" and _widest(labels) * len(labels) > length
    room = _line_height() if upright or axis.axis_name == "y" else _widest(labels)
    count = max(2, min(len(labels), int(length / room), MOST_CELL_LABELS))
    strides = (factor * 10**power for power in range(7) for factor in (1, 2, 5))
    stride = next(stride for stride in strides if -(-len(labels) // stride) <= count)
    shown = np.arange(0, len(labels), stride)
    axis.set_ticks(shown, [labels[index] for index in shown])
    if upright:
        axis.set_tick_params(rotation=90)


def label_colors(bar: Colorbar) -> None:
    """Label a horizontal colour bar with few short numbers, none of them split into a factor and an offset."""
    bar.ax.xaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10)))
    bar.ax.xaxis.set_major_formatter("{x:.3g}")


def set_step_axis(axes: Axes, steps: np.ndarray, length: float) -> None:
    """Make x an axis of training steps, logarithmic above the first step if the grid spans more than a factor of 20.

    Args:
        axes: Whose x axis is set.
        steps: The steps drawn; some of them are labelled, round ones first.
        length: Length of the axis in inches.
    """
    steps = np.unique(np.asarray(steps, dtype=float))
    positive = steps[steps > 0]
    if len(positive) > 1 and positive[-1] / positive[0] > 20:
        axes.set_xscale("symlog", linthresh=positive[0], linscale=0.6)
    transform = axes.xaxis.get_transform()
    places = transform.transform(steps)
    first, last = places[0], max(places[-1], places[0] + 1e-3)
    margin = 0.03 * (last - first)
    axes.set_xlim(transform.inverted().transform(np.array([first - margin, last + margin])))
    places = (places - first) / (last - first)
    shown = sorted(steps[spaced_labels(steps, places * length)])
    axes.xaxis.set_ticks(shown, [f"{step:g}" for step in shown])
    axes.xaxis.set_minor_locator(NullLocator())


def set_logarithmic(axes: Axes, *, plain: bool = False) -> None:
    """Make y logarithmic, leaving out what is not positive.

    Args:
        axes: Whose y axis is set; if it shows no positive value it stays linear.
        plain: Label with plain numbers, 1, 2 and 5 in each decade: for quantities near 1.
    """
    shown = [line.get_ydata() for line in axes.lines]
    if not any(np.any(np.asarray(values, dtype=float) > 0) for values in shown):
        return
    axes.set_yscale("log", nonpositive="mask")
    if plain:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")


def spaced_labels(steps: np.ndarray, places: np.ndarray) -> list[int]:
    """Choose steps whose labels do not touch: the ends first, then round numbers, then the rest.

    Args:
        steps: Ascending steps.
        places: Where each lies along its axis, in inches.

    Returns:
        Indices of the chosen steps, in no order.
    """
    chosen: list[int] = []
    widths = [_widest([f"{step:g}"]) for step in steps]
    ends = {0, len(steps) - 1}
    for index in sorted(range(len(steps)), key=lambda i: (i not in ends, _roughness(steps[i]), i)):
        if all(abs(places[index] - places[other]) > (widths[index] + widths[other]) / 2 for other in chosen):
            chosen.append(index)
    return chosen


def _roughness(step: float) -> int:
    """0 for powers of ten, 1 for 2 and 5 times one, then by the number of digits that are not trailing zeros."""
    digits = f"{step:.0f}".rstrip("0")
    if digits in ("", "1"):
        return 0
    return 1 if digits in ("2", "5") else 1 + len(digits)


def _widest(labels: list[str]) -> float:
    """Width in inches of the widest tick label and the gap beside it."""
    return (max(map(len, labels)) + 1) * 0.64 * 0.85 * mpl.rcParams["font.size"] / 72


def _line_height() -> float:
    return 1.35 * 0.85 * mpl.rcParams["font.size"] / 72
