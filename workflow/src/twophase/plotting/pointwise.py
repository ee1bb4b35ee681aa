"""Point-wise companions of the transitions: gradient signal-to-noise ratio, gradient norm and sharpness over steps."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from twophase.plotting.axes import set_logarithmic, set_step_axis
from twophase.plotting.style import add_note, marked_line, new_figure, text_scale
from twophase.plotting.summary import deviation_note, sample_note, seed_mean, seed_spread

LABELS = {
    "gradient_signal_to_noise": "gradient\nsignal to noise",
    "gradient_norm": "gradient norm\n(nats)",
    "sharpness": "sharpness\n(nats)",
}


def plot_pointwise(pointwise: xr.Dataset) -> Figure:
    """Signal-to-noise ratio of a batch's gradient, gradient norm, and sharpness beside its threshold, over steps.

    Args:
        pointwise: ``gradient_signal_to_noise``, ``gradient_norm`` and ``sharpness`` over (seed, step),
            ``stability_threshold(step)``, ``batches``, ``batch_size`` and ``probe_examples``.

    Returns:
        A figure of three panels above each other.
    """
    figure = new_figure(6.5, 6.5)
    grid = figure.subplots(3, 1, sharex=True)
    for index, (axes, (name, label)) in enumerate(zip(grid, LABELS.items(), strict=True)):
        _draw_measure(axes, pointwise[name], index)
        axes.set_ylabel(label)
    threshold = pointwise["stability_threshold"]
    shown = np.isfinite(threshold.values)
    if shown.any():
        line = {"color": "black", "linestyle": "--", "linewidth": 1, "drawstyle": "steps-post"}
        grid[-1].plot(threshold["step"].values[shown], threshold.values[shown], label="stability threshold", **line)
        grid[-1].legend(loc="best")
    linear_within = _set_signed_logarithmic(grid[0], pointwise["gradient_signal_to_noise"])
    for axes in grid[1:]:
        set_logarithmic(axes, plain=True)
    set_step_axis(grid[-1], pointwise["step"].values, 5.4 * text_scale())
    grid[-1].set_xlabel("training step (optimiser updates)")
    figure.align_ylabels()
    batches, size, probe = (int(pointwise[name]) for name in ("batches", "batch_size", "probe_examples"))
    finite = np.isfinite(pointwise[list(LABELS)].to_array().values).all()
    add_note(
        figure,
        sample_note(pointwise),
        f"gradients of {batches} batches of {size} images, Hessian on {probe} images",
        "thin: single seeds, thick: their mean",
        deviation_note(pointwise, "bands"),
        f"top: linear within ±{linear_within:.2g}, negative by chance" if linear_within else "",
        "" if finite else "gaps: not found in some seed",
    )
    return figure


def _draw_measure(axes: Axes, values: xr.DataArray, index: int) -> None:
    """Each seed of ``values(seed, step)`` thin, their mean with its spread."""
    values = values.where(np.isfinite(values)).transpose("seed", "step")
    mean, spread = seed_mean(values), seed_spread(values)
    for one in values:
        axes.plot(values["step"], one, color="0.75", linewidth=0.7)
    line = marked_line(index, mean.size) | {"linestyle": "-"}
    axes.plot(values["step"], mean, **line)
    if spread is not None:
        axes.fill_between(values["step"], mean - spread, mean + spread, color=line["color"], alpha=0.2, linewidth=0)


def _set_signed_logarithmic(axes: Axes, values: xr.DataArray) -> float:
    """Make y logarithmic; with negative values linear up to the size of the most negative; that size, or 0."""
    lowest = float(np.nanmin(values.values, initial=0.0))
    if not lowest < 0 or not np.isfinite(lowest):
        set_logarithmic(axes, plain=True)
        return 0.0
    axes.set_yscale("symlog", linthresh=-lowest)
    highest = max(float(np.nanmax(np.where(np.isfinite(values), values, np.nan))), -lowest)
    decades = np.arange(np.ceil(np.log10(-lowest)), np.floor(np.log10(highest)) + 1)
    axes.yaxis.set_ticks([0.0, *10**decades], ["0", *(f"{10**decade:g}" for decade in decades)])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.axhline(0.0, color="0.6", linewidth=0.6, zorder=0)
    return -lowest
