"""Where the phases meet: every curve in which a transition is sought over one axis, and the growth exponents."""

import textwrap
from collections.abc import Callable

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from twophase.phase_boundary import velocities, velocity_interval
from twophase.plotting.axes import set_logarithmic, set_step_axis
from twophase.plotting.style import add_note, compact, named_line, new_figure, ordered_line, text_scale
from twophase.plotting.summary import average_draws, deviation_note, sample_note, seed_mean, seed_spread

SHORT_NAMES = {
    "test_loss_barrier": "barrier",
    "disagreement_rate": "disagreement",
    "growth_exponent": "growth exponent",
    "kernel_velocity": "kernel velocity",
}
REASON_WIDTH = 72  # characters in a line of a reason
WIDTH = 7.2  # inches


def plot_transitions(
    boundary: xr.Dataset,
    chaos: xr.Dataset | None = None,
    cone: xr.Dataset | None = None,
    pointwise: xr.Dataset | None = None,
) -> Figure:
    """The transitions with their intervals above the curves they come from, on one axis of training steps.

    Args:
        boundary: As `twophase.phase_boundary` makes it.
        chaos: The branches' comparisons, if the study has them.
        cone: The kernels' geometry, if the study has it.
        pointwise: Gradient coherence and sharpness along the parent, if the study has them.

    Returns:
        A figure of one panel for the transitions and one for each quantity.
    """
    panels: list[tuple[Callable, xr.Dataset]] = []
    if chaos is not None:
        panels += [(_draw_barrier, chaos), (_draw_disagreement, chaos)]
    if "growth_exponent" in boundary:
        panels.append((_draw_exponent, boundary))
    if cone is not None:
        panels.append((_draw_velocity, cone))
    if pointwise is not None:
        panels += [(_draw_coherence, pointwise), (_draw_sharpness, pointwise)]
    rows = boundary.sizes["curve"]
    top = 0.5 + 0.27 * rows
    figure = new_figure(WIDTH, top + 1.25 * len(panels) + 0.9)
    grid = figure.subplots(1 + len(panels), 1, sharex=True, height_ratios=[top] + [1.25] * len(panels))
    for axes, (draw, data) in zip(grid[1:], panels, strict=True):
        draw(axes, data)
        _mark_transitions(axes, boundary, draw)
    _draw_intervals(grid[0], boundary)
    set_step_axis(grid[-1], _steps(boundary, chaos, cone, pointwise), 6 * text_scale())
    grid[-1].set_xlabel("training step t, for perturbed runs t₀")
    last = "" if chaos is None else f"barrier and disagreement at the last t₁ = {int(chaos['t1'].max())}"
    add_note(
        figure,
        f"transitions and exponents: mean over seeds with {boundary.attrs['confidence']:.0%} t interval",
        last,
        "other panels: mean over seeds, thin lines are seeds",
        sample_note(chaos if chaos is not None else cone),
        "" if chaos is None else deviation_note(chaos, "bars of barrier and disagreement"),
        "shaded: the curve's own transition",
    )
    return figure


def plot_exponents(boundary: xr.Dataset, kind: str) -> Figure:
    """Finite-time Lyapunov exponents against t0 and size, and the level at which the distance saturates.

    Args:
        boundary: As `twophase.phase_boundary` makes it, with growth.
        kind: Which direction of perturbation.

    Returns:
        A figure of four panels, or a few words if the distance was kept at step t0 alone.
    """
    if "growth_exponent" not in boundary:
        figure = new_figure(5, 1.5)
        figure.text(0.5, 0.5, "No exponent: chaos.growth_steps is 0.", ha="center", va="center")
        return figure
    growth = boundary.sel(kind=kind)
    figure = new_figure(WIDTH, 5.6)
    (by_step, by_size), (by_rate, saturation) = figure.subplots(2, 2)
    _draw_against_t0(by_step, growth, "growth_exponent", _near_rounding(growth))
    by_step.set_ylabel("exponent (1 / step)")
    _draw_against_t0(by_rate, growth, "growth_rate_exponent", _near_rounding(growth))
    by_rate.set_ylabel("exponent\n(1 / (learning rate · step))")
    _draw_saturation(saturation, growth)
    _draw_against_size(by_size, growth)
    for axes in (by_step, by_rate, saturation):
        set_step_axis(axes, growth["t0"].values, 2.6 * text_scale())
        axes.set_xlabel("perturbed at step t₀")
    figure.legend(*by_step.get_legend_handles_labels(), title="relative norm", loc="outside upper center", ncols=6)
    verdicts = ", ".join(f"t₀ = {int(t0)} {growth['chaos_verdict'].sel(t0=t0).item()}" for t0 in growth["t0"].values)
    add_note(
        figure,
        f"{kind} perturbation, mean over seeds with {boundary.attrs['confidence']:.0%} t interval, draws averaged",
        f"n = {boundary.sizes['seed']} seeds",
        f"verdicts: {verdicts}",
        "hollow: near rounding" if growth["near_rounding"].values.any() else "",
    )
    return figure


def _steps(boundary: xr.Dataset, *others: xr.Dataset | None) -> np.ndarray:
    """Every step drawn; a transition lies between two of them."""
    parts = [data[name].values for data in others if data is not None for name in ("t0", "step") if name in data.dims]
    return np.concatenate(parts) if parts else boundary["transition_step"].values


def _draw_intervals(axes: Axes, boundary: xr.Dataset) -> None:
    """One row a curve: its transition with the interval, or why it has none."""
    names = []
    for row, curve in enumerate(boundary["curve"].values):
        found = boundary.sel(curve=curve)
        names.append(_label(found))
        if not found["found"]:
            reason = textwrap.fill(f"none: {found['reason'].item()}", REASON_WIDTH)
            place = {"xycoords": ("axes fraction", "data"), "va": "center", "linespacing": 0.9}
            axes.annotate(reason, (0.01, row), fontsize="small", **place)
            continue
        step, lower, upper = (float(found[f"transition_{end}"]) for end in ("step", "lower", "upper"))
        line = _line_of(boundary, found) | {"linestyle": "none"}
        axes.errorbar(step, row, xerr=[[step - lower], [upper - step]], **line)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_title("transition steps", loc="left")
    axes.grid(axis="x", color="0.9")


def _label(curve: xr.Dataset) -> str:
    name = SHORT_NAMES[curve["measure"].item()]
    kind, norm = curve["curve_kind"].item(), float(curve["curve_relative_norm"])
    return f"{name}, {kind} {compact(norm)}" if kind else name


def _line_of(boundary: xr.Dataset, curve: xr.Dataset) -> dict:
    """The line of a curve's size, as in the panels; the kernel's is black."""
    norm = float(curve["curve_relative_norm"])
    if not np.isfinite(norm):
        return {"color": "black", "marker": "s"}
    sizes = sorted(set(boundary["curve_relative_norm"].values[np.isfinite(boundary["curve_relative_norm"].values)]))
    return named_line(sizes.index(norm))


def _mark_transitions(axes: Axes, boundary: xr.Dataset, draw: Callable) -> None:
    """Shade the intervals of the panel's own curves."""
    for curve in boundary["curve"].values:
        found = boundary.sel(curve=curve)
        if found["found"] and MEASURE_OF.get(draw) == found["measure"].item():
            ends = float(found["transition_lower"]), float(found["transition_upper"])
            axes.axvspan(*ends, color=_line_of(boundary, found)["color"], alpha=0.12, linewidth=0)


def _draw_chaos(axes: Axes, chaos: xr.Dataset, name: str, label: str) -> None:
    last = chaos["t1"].max()
    sizes = [float(norm) for norm in chaos["relative_norm"].values if norm > 0]
    for kind_index, kind in enumerate(chaos["kind"].values):
        for index, norm in enumerate(sizes):
            values = chaos[name].sel(kind=kind, relative_norm=norm, t1=last)
            spread = seed_spread(values)
            line = named_line(index) | {"markerfacecolor": "white" if kind_index else None, "linewidth": 1}
            bars = None if spread is None else spread.values
            text = f"{kind} {norm:g}"
            axes.errorbar(chaos["t0"].values, seed_mean(values).values, yerr=bars, label=text, **line)
    axes.set_ylabel(label)
    axes.axhline(0, color="0.7", linewidth=0.6)


def _draw_barrier(axes: Axes, chaos: xr.Dataset) -> None:
    _draw_chaos(axes, chaos, "test_loss_barrier", "test barrier\n(nat)")
    axes.legend(fontsize="x-small", ncols=3)


def _draw_disagreement(axes: Axes, chaos: xr.Dataset) -> None:
    _draw_chaos(axes, chaos, "disagreement_rate", "disagreement\nrate")


def _draw_exponent(axes: Axes, boundary: xr.Dataset) -> None:
    for index, kind in enumerate(boundary["kind"].values):
        hollow = [index > 0] * boundary.sizes["relative_norm"]  # as in the panels above
        _draw_against_t0(axes, boundary.sel(kind=kind), "growth_exponent", hollow)
    axes.set_ylabel("growth exponent\n(1 / step)")


def _draw_velocity(axes: Axes, cone: xr.Dataset) -> None:
    axes.set_ylabel("kernel velocity\n(1 / step)")
    dt = velocity_interval(cone)
    if np.isfinite(dt):
        velocity = velocities(cone)
        _draw_seeds(axes, velocity["step"].values, velocity)
        axes.annotate(f"dt = {dt:g} steps", (0.99, 0.9), xycoords="axes fraction", ha="right", fontsize="small")
        set_logarithmic(axes)


def _draw_coherence(axes: Axes, pointwise: xr.Dataset) -> None:
    _draw_seeds(axes, pointwise["step"].values, pointwise["gradient_signal_to_noise"])
    axes.axhline(0, color="0.7", linewidth=0.6)
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_ylabel("gradient signal\nto noise")


def _draw_sharpness(axes: Axes, pointwise: xr.Dataset) -> None:
    steps = pointwise["step"].values
    _draw_seeds(axes, steps, pointwise["sharpness"])
    threshold = pointwise["stability_threshold"]
    threshold = threshold.mean("seed") if "seed" in threshold.dims else threshold
    axes.plot(steps, threshold, color="0.3", linestyle=":", label="edge of stability")
    axes.legend(fontsize="x-small")
    axes.set_ylabel("sharpness")
    set_logarithmic(axes, plain=True)


MEASURE_OF = {
    _draw_barrier: "test_loss_barrier",
    _draw_disagreement: "disagreement_rate",
    _draw_exponent: "growth_exponent",
    _draw_velocity: "kernel_velocity",
}


def _draw_seeds(axes: Axes, steps: np.ndarray, values: xr.DataArray) -> None:
    """Each seed thin, their mean thick; ``values`` over (seed, step)."""
    values = average_draws(values).transpose("seed", ...)
    for seed in values.values:
        axes.plot(steps, seed, color="0.6", linewidth=0.7)
    axes.plot(steps, values.mean("seed", skipna=False), color="black", marker="s", markersize=3, linewidth=1.2)


def _near_rounding(growth: xr.Dataset) -> list[bool]:
    """Whether each size is near rounding at some t0."""
    return [bool(growth["near_rounding"].sel(relative_norm=norm).any()) for norm in growth["relative_norm"].values]


def _draw_against_t0(axes: Axes, growth: xr.Dataset, name: str, hollow: list[bool]) -> None:
    """A quantity of the growth with its interval, one line a size; ``growth`` is of one kind."""
    for index, norm in enumerate(growth["relative_norm"].values):
        values = growth.sel(relative_norm=norm)
        ends = np.stack([values[name] - values[f"{name}_lower"], values[f"{name}_upper"] - values[name]])
        line = named_line(index) | {"linewidth": 1, "elinewidth": 0.9, "label": f"{norm:g}"}
        if hollow[index]:
            line["markerfacecolor"] = "white"
        bars = ends if np.isfinite(ends).any() else None
        axes.errorbar(values["t0"].values, values[name].values, yerr=bars, **line)
    axes.axhline(0, color="0.7", linewidth=0.6)


def _draw_against_size(axes: Axes, growth: xr.Dataset) -> None:
    count = growth.sizes["t0"]
    for index, t0 in enumerate(growth["t0"].values):
        values = growth.sel(t0=t0)
        line = ordered_line(index, count) | {"label": f"t₀ = {int(t0)}", "marker": "o"}
        axes.plot(values["relative_norm"], values["growth_exponent"], **line)
    axes.set_xscale("log")
    axes.axhline(0, color="0.7", linewidth=0.6)
    axes.legend(fontsize="x-small")
    axes.set(xlabel="relative norm of the perturbation", ylabel="exponent (1 / step)")


def _draw_saturation(axes: Axes, growth: xr.Dataset) -> None:
    """The saturation level, or why there is none."""
    axes.set_ylabel("saturation |θ - θ'|₂")
    if np.isfinite(growth["saturation"]).any():
        _draw_against_t0(axes, growth, "saturation", _near_rounding(growth))
        return
    reasons = textwrap.fill("none: " + " / ".join(sorted(set(growth["saturation_reason"].values.ravel()))), 34)
    axes.annotate(reasons, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center")
    axes.set_yticks([])
