"""Figures of the two-phase measurements: each function takes a data set and returns a Matplotlib figure."""

from twophase.plotting.chaos import plot_barrier_against_t0, plot_chaos, plot_growth
from twophase.plotting.cone import (
    plot_distance_matrix,
    plot_interval_distance,
    plot_kernel_scale,
    plot_projection,
    plot_reference_distance,
)
from twophase.plotting.cone_opening import plot_cone_opening
from twophase.plotting.history import plot_history
from twophase.plotting.neurons import plot_learned_functions, plot_orientations
from twophase.plotting.phase_diagram import plot_phase_diagram
from twophase.plotting.pointwise import plot_pointwise
from twophase.plotting.relative_distance import plot_relative_distance
from twophase.plotting.style import save_figure, style_context
from twophase.plotting.sweep import plot_sweep
from twophase.plotting.switching import plot_switching

__all__ = [
    "plot_barrier_against_t0",
    "plot_chaos",
    "plot_cone_opening",
    "plot_distance_matrix",
    "plot_growth",
    "plot_history",
    "plot_interval_distance",
    "plot_kernel_scale",
    "plot_learned_functions",
    "plot_orientations",
    "plot_phase_diagram",
    "plot_pointwise",
    "plot_projection",
    "plot_reference_distance",
    "plot_relative_distance",
    "plot_sweep",
    "plot_switching",
    "save_figure",
    "style_context",
]
