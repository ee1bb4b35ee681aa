"""The cone effect as one data set: where the eNTK points along the parent, how large it is, how it moves."""

from collections.abc import Callable

import numpy as np
import xarray as xr

from twophase.kernels import (
    class_trace,
    classical_scaling,
    effective_rank,
    interval_distances,
    kernel_distance_matrix,
    kernel_norm,
    kernel_velocity,
    label_alignment,
)
from twophase.storage import describe

DESCRIPTIONS = {
    "seed": ("seed of the run", "1"),
    "step": ("step t of the parent", "step"),
    "step_other": ("another step of the parent", "step"),
    "reference_step": ("reference step tau", "step"),
    "interval": ("interval dt between two kernels", "step"),
    "axis": ("axis of the projection", "1"),
    "kernel_distance": ("S = 1 - <H, H'>_F / (|H|_F |H'|_F) between eNTKs", "1"),
    "kernel_norm": ("|H|_F of the stored kernel", "1"),
    "label_alignment": ("centred alignment of the class-trace kernel with the labels' Gram matrix", "1"),
    "effective_rank": ("exponential of the entropy of the class-trace kernel's normalised eigenvalues", "1"),
    "reference_distance": ("kernel distance S(theta_tau, theta_t) from a reference step", "1"),
    "interval_distance": ("kernel distance S(theta_t, theta_{t+dt})", "1"),
    "kernel_velocity": ("S(theta_t, theta_t') / (t' - t), t' being the next of the steps", "1/step"),
    "projection": ("classical scaling of the kernel distances, each seed for itself", "1"),
    "projection_share": ("share of the positive spectrum that the axis explains", "1"),
}


def cone_of_seed(
    kernels: list[np.ndarray],
    labels: np.ndarray,
    *,
    classes: int,
    steps: list[int],
    reference_steps: list[int],
    intervals: list[int],
) -> xr.Dataset:
    """Everything that one run's kernels say, each value a function of the kernels alone.

    Args:
        kernels: eNTKs at ``steps``, ``(n, K, n, K)`` or ``(n, n)``, float32 or float64.
        labels: Classes of the probe examples, ``(n,)``.
        classes: Number of classes.
        steps: Ascending steps.
        reference_steps: Some of them, for Fig. 5a of Zhou 2025a.
        intervals: Differences of some of them, for Fig. 5b.

    Returns:
        Data set over step, step_other, reference_step, interval and axis.
    """
    distances = kernel_distance_matrix(kernels)
    traces = [class_trace(kernel) for kernel in kernels]
    coordinates, share = classical_scaling(distances)
    reference = [distances[steps.index(tau)] for tau in reference_steps]
    velocity = np.full(len(steps), np.nan)
    _, velocity[:-1] = kernel_velocity(steps, distances)
    return xr.Dataset(
        {
            "kernel_distance": (("step", "step_other"), distances),
            "kernel_norm": ("step", _each(kernel_norm, kernels)),
            "label_alignment": ("step", [label_alignment(trace, labels, classes) for trace in traces]),
            "effective_rank": ("step", _each(effective_rank, traces)),
            "reference_distance": (("reference_step", "step"), np.reshape(reference, (-1, len(steps)))),
            "interval_distance": (("interval", "step"), _on_grid(steps, distances, intervals)),
            "kernel_velocity": ("step", velocity),
            "projection": (("step", "axis"), coordinates),
            "projection_share": ("axis", share),
        },
        coords={
            "step": steps,
            "step_other": steps,
            "reference_step": reference_steps,
            "interval": intervals,
            "axis": range(coordinates.shape[1]),
        },
    )


def cone_of_seeds(cones: dict[int, xr.Dataset]) -> xr.Dataset:
    """The cones of several runs side by side, described, along a new dimension ``seed``."""
    joined = xr.concat(list(cones.values()), dim="seed", join="exact", coords="minimal", compat="equals")
    return describe(joined.assign_coords(seed=list(cones)), DESCRIPTIONS)


def _each(measure: Callable[[np.ndarray], float], kernels: list[np.ndarray]) -> list[float]:
    return [measure(kernel) for kernel in kernels]


def _on_grid(steps: list[int], distances: np.ndarray, intervals: list[int]) -> np.ndarray:
    """S(theta_t, theta_{t+dt}) for each interval at each step, NaN where t + dt is not among the steps."""
    grid = np.full((len(intervals), len(steps)), np.nan)
    for row, interval in zip(grid, intervals, strict=True):
        starts, values = interval_distances(steps, distances, interval)
        row[np.searchsorted(steps, starts)] = values
    return grid
