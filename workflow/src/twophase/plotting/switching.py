"""Linearised switching (Zhou 2025a, Fig. 6): what is lost by training linearly from step s on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from twophase.plotting.axes import set_logarithmic, set_step_axis
from twophase.plotting.style import OKABE_ITO, add_note, named_line, new_figure, text_scale
from twophase.plotting.summary import deviation_note, sample_note, seed_mean, seed_spread

LABELS = {
    "test_accuracy": "test accuracy",
    "test_loss": "test loss (nats)",
    "disagreement_rate": "disagreement with\nthe non-linear run",
}
STABLE = OKABE_ITO[-1]  # the last that learning rates would take


def plot_switching(switching: xr.Dataset, *, published_test_accuracy: Mapping[Any, float]) -> Figure:
    """Accuracy, loss and disagreement at T against the switch step, with both baselines, and stable learning rates.

    Args:
        switching: The measures over (seed, learning_rate, switch_step), ``{measure}_along`` over step too,
            ``nonlinear_*`` over (seed, step), ``stable_learning_rate`` and ``diverged``.
        published_test_accuracy: A paper's test accuracy at T by switch step; may be empty.

    Returns:
        A figure of four panels, with one line for each learning rate of the linearised runs.
    """
    figure = new_figure(7.4, 5.8)
    grid = figure.subplots(2, 2, sharex=True)
    for axes, (name, label) in zip(grid.flat, LABELS.items(), strict=False):
        for index, rate in enumerate(switching["learning_rate"].values):
            cell = switching.sel(learning_rate=rate)
            diverged = cell["diverged"].any("seed") & (name == "test_loss")  # such a loss may be of any size
            _draw_measure(axes, cell[name].where(~diverged), index, rate)
        _draw_baselines(axes, switching, name)
        _cross_out_diverged(axes, switching)
        axes.set_ylabel(label)
    if published_test_accuracy:
        steps = np.array([int(step) for step in published_test_accuracy])
        grid[0, 0].plot(steps, list(published_test_accuracy.values()), "*", color="black", label="published", zorder=4)
    _draw_rates(grid[1, 1], switching)
    for axes in grid.flat:
        steps = [*switching["switch_step"].values, *map(int, published_test_accuracy)]
        set_step_axis(axes, np.array(steps), 2.9 * text_scale())
    for axes in grid[-1]:
        axes.set_xlabel("switched to linearised training at step s")
    labelled = [axes.get_legend_handles_labels() for axes in (grid[0, 0], grid[1, 1])]
    handles, names = ([*first, *last] for first, last in zip(*labelled, strict=True))
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 3))
    add_note(
        figure,
        f"at T = {int(switching['step'].max())}, mean over seeds; s = 0 is linear from the start",
        sample_note(switching),
        deviation_note(switching, "bars and bands"),
        "crosses: diverged in some seed, loss not drawn" if bool(switching["diverged"].any()) else "",
        "published: one run, no spread" if published_test_accuracy else "",
    )
    return figure


def _draw_measure(axes: Axes, values: xr.DataArray, index: int, rate: float) -> None:
    """The mean of ``values(seed, switch_step)``, with its spread."""
    spread = seed_spread(values)
    line = named_line(index) | {"linewidth": 1.2, "markerfacecolor": "white", "elinewidth": 0.9}
    label = f"linearised, learning rate {rate:g}"
    axes.errorbar(
        values["switch_step"].values,
        seed_mean(values).values,
        yerr=None if spread is None else spread.values,
        label=label,
        **line,
    )


def _cross_out_diverged(axes: Axes, switching: xr.Dataset) -> None:
    """Mark switch steps at which a run diverged, at the foot of the axes, a row for each learning rate."""
    diverged = switching["diverged"].any("seed")
    if diverged.any():
        axes.set_ymargin(0.05 + 0.07 * diverged.sizes["learning_rate"])  # room for the rows
    for index, rate in enumerate(switching["learning_rate"].values):
        steps = switching["switch_step"].values[diverged.sel(learning_rate=rate).values]
        if len(steps):  # a line without points would upset the layout
            foot = {"transform": axes.get_xaxis_transform(), "clip_on": False}  # x in steps, y from 0 to 1
            axes.plot(steps, np.full(len(steps), 0.03 + 0.05 * index), "x", color=named_line(index)["color"], **foot)


def _draw_baselines(axes: Axes, switching: xr.Dataset, name: str) -> None:
    """The non-linear run at T, and the network as it was at the switch."""
    if f"nonlinear_{name}" not in switching:
        return
    at_the_end = switching[f"nonlinear_{name}"].isel(step=-1)
    mean, spread = float(seed_mean(at_the_end)), seed_spread(at_the_end)
    axes.axhline(mean, color="black", linewidth=1, label="non-linear to T")
    if spread is not None:
        axes.axhspan(mean - float(spread), mean + float(spread), color="black", alpha=0.12, linewidth=0)
    at_the_switch = switching[f"nonlinear_{name}"].sel(step=switching["switch_step"].values)
    axes.plot(switching["switch_step"], seed_mean(at_the_switch), ":", color="0.45", label="non-linear, stopped at s")


def _draw_rates(axes: Axes, switching: xr.Dataset) -> None:
    """The largest stable learning rate by the kernel's top eigenvalue, beside those that were used."""
    stable = switching["stable_learning_rate"].isel(learning_rate=0)
    for index, rate in enumerate(switching["learning_rate"].values):
        line = named_line(index) | {"marker": "", "linewidth": 1.2}
        axes.plot(switching["switch_step"], np.full(switching.sizes["switch_step"], rate), **line)
    if np.isfinite(stable.values).any():
        spread = seed_spread(stable)
        bars = None if spread is None else spread.values
        line = {"color": STABLE, "marker": "D", "markerfacecolor": "white", "linewidth": 1.2, "elinewidth": 0.9}
        label = "largest stable learning rate"
        axes.errorbar(stable["switch_step"].values, seed_mean(stable).values, yerr=bars, label=label, **line)
    set_logarithmic(axes, plain=True)
    axes.set_ylabel("learning rate")
