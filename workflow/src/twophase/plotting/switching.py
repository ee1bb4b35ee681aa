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
            _draw_measure(axes, switching[name].sel(learning_rate=rate), index, rate)
            _cross_out(axes, switching.sel(learning_rate=rate), index)
        _draw_baselines(axes, switching, name)
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
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 4))
    add_note(
        figure,
        f"at T = {int(switching['step'].max())}, mean over seeds; s = 0 is linear from the start",
        sample_note(switching),
        deviation_note(switching, "bars and bands"),
        "crosses: diverged in some seed" if bool(switching["diverged"].any()) else "",
        "published: one run, no spread" if published_test_accuracy else "",
    )
    return figure


def _draw_measure(axes: Axes, values: xr.DataArray, index: int, rate: float) -> None:
    """The mean of ``values(seed, switch_step)``, with its spread."""
    spread = seed_spread(values)
    line = named_line(index) | {"linewidth": 1.2, "markerfacecolor": "white", "elinewidth": 0.9}
    label = f"linearised, learning rate {rate:g}"
    axes.errorbar(
        values["switch_step"],
        seed_mean(values),
        yerr=None if spread is None else spread.values,
        label=label,
        **line,
    )


def _cross_out(axes: Axes, switching: xr.Dataset, index: int) -> None:
    """Mark switch steps at which a run diverged, at the foot of the axes."""
    diverged = switching["switch_step"].values[switching["diverged"].any("seed").values]
    foot = axes.get_xaxis_transform()  # x in steps, y from 0 to 1
    axes.plot(diverged, np.full(len(diverged), 0.04), "x", color=named_line(index)["color"], transform=foot)


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
    if np.isfinite(stable.values).any():
        spread = seed_spread(stable)
        bars = None if spread is None else spread.values
        axes.errorbar(
            stable["switch_step"], seed_mean(stable), yerr=bars, color=OKABE_ITO[5], marker="D", label="largest stable"
        )
    for index, rate in enumerate(switching["learning_rate"].values):
        color = named_line(index)["color"]
        axes.plot(switching["switch_step"], np.full(switching.sizes["switch_step"], rate), color=color, linewidth=1.2)
    set_logarithmic(axes, plain=True)
    axes.set_ylabel("learning rate; ◇ largest stable one\nby the kernel's top eigenvalue")
