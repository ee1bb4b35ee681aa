import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import docutils.core
import jinja2
import numpy as np
import pytest
import xarray as xr
import yaml
from matplotlib.figure import Figure

from twophase import plotting
from twophase.cone_opening import opening_of_cone
from twophase.errors import DiskError
from twophase.plotting.axes import spaced_labels
from twophase.plotting.history import block_mean, moving_mean
from twophase.plotting.style import compact

ROOT = Path(__file__).parents[2]
SMALL_GRID = {"t0": [0, 20, 50, 100, 250, 500], "t1": [100, 250, 500, 1000]}
LARGE_GRID = {"t0": [*range(0, 500, 100), *range(500, 4500, 500)], "t1": list(range(500, 10_500, 500))}
SMALL_STEPS = [0, 10, 20, 50, 100, 150, 200, 300, 500, 700, 1000]
LARGE_STEPS = list(range(0, 10_100, 100))


def make_history(seeds=3, updates=1000, steps=SMALL_STEPS):
    rng = np.random.default_rng(0)
    seed, update, step = np.arange(seeds), np.arange(updates), np.asarray(steps)
    time = np.geomspace(1, 1 + updates, updates)
    loss = 2.3 * time**-0.25 * np.exp(0.2 * rng.standard_normal((seeds, updates)))
    accuracy = 0.1 + 0.75 * (1 - np.exp(-3 * (step / step[-1]) ** 0.5)) + 0.01 * rng.standard_normal((seeds, len(step)))
    return xr.Dataset(
        {
            "training_loss": (("seed", "update"), loss),
            "learning_rate": ("update", np.where(update < updates // 2, 0.1, 0.01)),
            "test_accuracy": (("seed", "step"), accuracy),
            "test_loss": (("seed", "step"), 2.4 * np.exp(-2 * accuracy)),
        },
        {"seed": seed, "update": update, "step": step},
    )


def make_chaos(seeds=3, draws=2, t0=SMALL_GRID["t0"], t1=SMALL_GRID["t1"], norms=(0.0, 1e-4, 1e-2), growth_steps=50):
    rng = np.random.default_rng(1)
    coords = {
        "seed": np.arange(seeds),
        "kind": ["gaussian", "gradient"],
        "relative_norm": list(norms),
        "draw": np.arange(draws),
        "t0": np.asarray(t0),
        "t1": np.asarray(t1),
    }
    shape = tuple(len(values) for values in coords.values())
    size = np.asarray(norms)[:, None, None, None]
    start, end = np.asarray(t0)[:, None], np.asarray(t1)
    scale = 0.1 * end[-1]
    noise = np.exp(0.3 * rng.standard_normal(shape))
    chaotic = (np.where(size > 0, 1 + 0.1 * np.log10(np.maximum(size, 1e-9)), 0) * np.exp(-start / scale)) * noise
    chaotic = np.where(end > start, chaotic, np.nan)
    data = {
        name: (tuple(coords), factor * chaotic)
        for name, factor in {
            "parameter_dissimilarity": 8e-4,
            "parameter_distance": 12.0,
            "test_loss_barrier": 1.5,
            "train_loss_barrier": 1.1,
            "disagreement_rate": 0.15,
        }.items()
    }
    after = np.arange(growth_steps + 1)
    rate = 0.15 * np.exp(-np.asarray(t0) / scale)
    growth = 25 * size * np.exp(rate[:, None] * after) * np.exp(0.1 * rng.standard_normal((*shape[:-1], 1)))
    growth = growth / (1 + growth / 12)
    data["growth_distance"] = ((*list(coords)[:-1], "steps_after"), growth)
    data["parameter_norm"] = (("seed", "t0"), np.full((seeds, len(t0)), 25.0))
    return xr.Dataset(data, coords | {"steps_after": after})


def make_cone(seeds=3, steps=SMALL_STEPS, references=(0, 100, 500), intervals=(50, 100, 200)):
    rng = np.random.default_rng(2)
    steps = np.asarray(steps)
    time = np.log1p(steps / steps[1])
    path = np.stack([1 - np.exp(-time), 0.3 * np.sin(time), 0.05 * time], axis=-1)
    path = path + 0.02 * rng.standard_normal((seeds, *path.shape)).cumsum(axis=1) / np.sqrt(len(steps))
    distance = 0.6 * (1 - np.exp(-2 * np.linalg.norm(path[:, :, None] - path[:, None], axis=-1)))
    index = {step: position for position, step in enumerate(steps)}
    between = np.full((seeds, len(intervals), len(steps)), np.nan)
    for row, dt in enumerate(intervals):
        for position, step in enumerate(steps):
            if step + dt in index:
                between[:, row, position] = distance[:, position, index[step + dt]]
    velocity = np.full((seeds, len(steps)), np.nan)
    velocity[:, :-1] = np.diagonal(distance, 1, 1, 2) / np.diff(steps)
    wobble = np.exp(0.05 * rng.standard_normal((seeds, len(steps))))
    return xr.Dataset(
        {
            "kernel_distance": (("seed", "step", "step_other"), distance),
            "kernel_norm": (("seed", "step"), 1e3 * (1 + time) ** 2 * wobble),
            "label_alignment": (("seed", "step"), 0.1 + 0.1 * time / time[-1] * wobble),
            "effective_rank": (("seed", "step"), (20 - 2 * time) * wobble),
            "reference_distance": (("seed", "reference_step", "step"), distance[:, [index[t] for t in references]]),
            "interval_distance": (("seed", "interval", "step"), between),
            "kernel_velocity": (("seed", "step"), velocity),
            "projection": (("seed", "step", "axis"), path[..., :2]),
            "projection_share": (("seed", "axis"), np.tile([0.63, 0.21], (seeds, 1))),
        },
        {
            "seed": np.arange(seeds),
            "step": steps,
            "step_other": steps,
            "reference_step": list(references),
            "interval": np.asarray(intervals, dtype=int),
            "axis": [0, 1],
        },
    )


SWITCH_STEPS = [0, 20, 50, 100, 250, 500]


def make_switching(seeds=3, switch_steps=SWITCH_STEPS, rates=(0.1, 0.02), length=1000, diverged=()):
    """As rule collect_switching writes it; ``diverged`` are places (seed, learning rate, switch step)."""
    rng = np.random.default_rng(3)
    coords = {"seed": np.arange(seeds), "learning_rate": list(rates), "switch_step": np.asarray(switch_steps)}
    axes, shape = tuple(coords), tuple(len(values) for values in coords.values())
    steps = np.array(sorted({*switch_steps, *range(0, length, length // 5), length}))

    def share(time):
        return 0.1 + 0.75 * (1 - np.exp(-3 * (np.asarray(time) / length) ** 0.5))

    slower = np.asarray(rates)[:, None] ** 0.1
    accuracy = 0.3 + (share(switch_steps) - 0.1) * 0.7 * slower + 0.01 * rng.standard_normal(shape)
    nonlinear = share(steps) + 0.01 * rng.standard_normal((seeds, len(steps)))
    stable = (0.05 + 0.4 * share(switch_steps)) * np.exp(0.1 * rng.standard_normal((seeds, 1, 1)))
    number = np.zeros(shape, dtype=int)
    for place in diverged:
        number[place] = 1
    loss = np.where(number, 400.0, 2.4 * np.exp(-2 * accuracy))
    data = {
        "test_accuracy": (axes, accuracy),
        "test_loss": (axes, loss),
        "disagreement_rate": (axes, 0.9 - accuracy),
        "diverged": (axes, number),
        "stable_learning_rate": (axes, np.broadcast_to(stable, shape).copy()),
        "nonlinear_test_accuracy": (("seed", "step"), nonlinear),
        "nonlinear_test_loss": (("seed", "step"), 2.4 * np.exp(-2 * nonlinear)),
    }
    return xr.Dataset(data, coords | {"step": steps})


def make_opening(late_from=150, **settings):
    schedule = {"name": "constant", "warmup": 0}
    return opening_of_cone(make_cone(**settings), late_from=late_from, confidence=0.9, base_rate=0.1, schedule=schedule)


def make_pointwise(seeds=3, steps=SMALL_STEPS, rate=0.1, sign=1.0):
    """As rule collect_pointwise writes it; late ratios have the sign that is asked for."""
    rng = np.random.default_rng(4)
    steps = np.asarray(steps)
    time = np.log1p(steps / steps[-1] * 20)
    wobble = np.exp(0.1 * rng.standard_normal((3, seeds, len(steps))))
    ratio = 1.2 * np.exp(-1.5 * time) * wobble[0]
    ratio[:, -2:] *= sign
    data = {
        "gradient_signal_to_noise": (("seed", "step"), ratio),
        "gradient_norm": (("seed", "step"), (0.3 + 0.6 * np.exp(-time)) * wobble[1]),
        "sharpness": (("seed", "step"), (2 + 6 * time * np.exp(-time)) * wobble[2]),
        "stability_threshold": ("step", 3.8 / np.where(steps < steps[-1] // 2, rate, rate / 10)),
    }
    whole = {"batches": 16, "batch_size": 64, "probe_examples": 500}
    return xr.Dataset(data | whole, {"seed": np.arange(seeds), "step": steps})


PUBLISHED = {0: 0.1, 200: 0.13, 1000: 0.4, 5000: 0.82}


FIGURES = {
    "history": (plotting.plot_history, make_history, {"updates": 10_000, "steps": LARGE_STEPS}),
    "chaos": (lambda data: plotting.plot_chaos(data, kind="gaussian"), make_chaos, LARGE_GRID),
    "barrier": (lambda data: plotting.plot_barrier_against_t0(data, "gradient"), make_chaos, LARGE_GRID),
    "growth": (lambda data: plotting.plot_growth(data, "gaussian"), make_chaos, LARGE_GRID),
    "switching": (
        lambda data: plotting.plot_switching(data, published_test_accuracy=PUBLISHED),
        make_switching,
        {"switch_steps": [0, 10, 50, *range(500, 10_000, 500)], "rates": (1, 0.3, 0.1, 1e-3), "length": 10_000},
    ),
}
FIGURES["pointwise"] = (plotting.plot_pointwise, make_pointwise, {"steps": LARGE_STEPS, "sign": -1.0})
for _name in ("distance_matrix", "reference_distance", "interval_distance", "projection", "kernel_scale"):
    _large_cone = {"steps": LARGE_STEPS, "references": range(0, 10_000, 2000), "intervals": range(100, 600, 100)}
    FIGURES[_name] = (getattr(plotting, f"plot_{_name}"), make_cone, _large_cone)
FIGURES["cone_opening"] = (plotting.plot_cone_opening, make_opening, _large_cone)


@pytest.fixture(autouse=True)
def _style():
    with plotting.style_context({"dpi": 60}):
        yield


def _note(figure):
    return " ".join(figure.get_supxlabel().split())


def _images(figure):
    """Heat maps by the title or label of their colour bar, top to bottom."""
    return [image for axes in figure.axes for image in axes.images]


def _texts(axes):
    return [text.get_text() for text in axes.texts]


def _check_layout(figure):
    """No text is cut off at the figure's edge, and no two tick labels of an axis touch."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    frame = figure.bbox
    box = figure.get_tightbbox(renderer)
    assert box.x0 > -0.02
    assert box.y0 > -0.02
    assert box.x1 * figure.dpi < frame.width + 2
    assert box.y1 * figure.dpi < frame.height + 2
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [tick.get_window_extent(renderer) for tick in axis.get_ticklabels() if tick.get_text()]
            labels = sorted((box for box in labels if box.width), key=lambda box: (box.x0, box.y0))
            for one, other in pairwise(labels):
                assert not one.overlaps(other), (axes.get_ylabel(), axis.axis_name)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_fits_and_states_n(name, seeds, large):
    plot, make, large_grid = FIGURES[name]
    figure = plot(make(seeds=seeds, **(large_grid if large else {})))
    assert isinstance(figure, Figure)
    _check_layout(figure)
    assert ("n = 1 seed" if seeds == 1 else "n = 3 seeds") in _note(figure)
    if make is make_chaos:
        assert "2 draws" in _note(figure)


@pytest.mark.parametrize("name", FIGURES)
def test_saved_bytes_are_the_same_every_time(name, tmp_path):
    plot, make, _ = FIGURES[name]
    for folder in ("once", "again"):
        (tmp_path / folder).mkdir()
        plotting.save_figure(plot(make()), [tmp_path / folder / "figure.png", tmp_path / folder / "figure.svg"])
    for suffix in ("png", "svg"):
        once, again = ((tmp_path / folder / f"figure.{suffix}").read_bytes() for folder in ("once", "again"))
        assert once == again
    assert b"<text" in once, "text in the SVG is kept as text"
    assert b"<dc:date>" not in once
    assert sorted(path.name for path in (tmp_path / "once").iterdir()) == ["figure.png", "figure.svg"]


def test_saved_bytes_do_not_depend_on_the_process(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_plotting as t\n"
        "with t.plotting.style_context({'dpi': 60}):\n"
        "    t.plotting.save_figure(t.plotting.plot_growth(t.make_chaos(), 'gaussian'), sys.argv[2:])\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    there = [tmp_path / "there.png", tmp_path / "there.svg"]
    here = [tmp_path / "here.png", tmp_path / "here.svg"]
    subprocess.run([sys.executable, "-c", code, Path(__file__).parent, *there], check=True)
    plotting.save_figure(plotting.plot_growth(make_chaos(), "gaussian"), here)
    assert [path.read_bytes() for path in here] == [path.read_bytes() for path in there]


def test_a_figure_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    figure = plotting.plot_history(make_history())

    def write_half(path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", write_half)
    with pytest.raises(DiskError, match="disk full"):
        plotting.save_figure(figure, tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []


def test_other_formats_and_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"figure\.jpg"):
        plotting.save_figure(Figure(), tmp_path / "figure.jpg")
    with (
        pytest.raises(ValueError, match="colour map 'cividi'"),
        plotting.style_context({"sequential_colormap": "cividi"}),
    ):
        pass
    with pytest.raises(ValueError, match="fontsize"), plotting.style_context({"fontsize": 9}):
        pass


def test_style_sets_resolution_text_size_and_colours():
    with plotting.style_context({"dpi": 77, "font_size": 12, "sequential_colormap": "viridis"}):
        figure = plotting.plot_distance_matrix(make_cone())
    assert figure.dpi == 77
    assert _images(figure)[0].cmap.name == "viridis"
    assert figure.axes[0].xaxis.label.get_size() == 12


# Heat maps of the chaos effect


def test_chaos_heat_maps_hold_the_means():
    chaos = make_chaos()
    images = _images(plotting.plot_chaos(chaos, kind="gradient"))
    assert len(images) == 3 * 4
    names = ["parameter_dissimilarity", "test_loss_barrier", "train_loss_barrier", "disagreement_rate"]
    cells = [(norm, name) for norm in (1e-4, 1e-2, 0.0) for name in names]
    for image, (norm, name) in zip(images, cells, strict=True):
        mean = chaos[name].sel(kind="gradient", relative_norm=norm).mean(["seed", "draw"]).transpose("t0", "t1").values
        np.testing.assert_allclose(image.get_array().filled(np.nan), mean, rtol=1e-12)
        column = [other for other, (_, other_name) in zip(images, cells, strict=True) if other_name == name]
        assert {other.norm.vmax for other in column} == {image.norm.vmax}


def test_small_chaos_grid_is_annotated_with_mean_and_deviation_over_seeds():
    chaos = make_chaos()
    axes = plotting.plot_chaos(chaos, kind="gaussian").axes[1]
    barrier = chaos["test_loss_barrier"].sel(kind="gaussian", relative_norm=1e-4)
    per_seed = barrier.mean("draw").sel(t0=50, t1=250).values
    expected = f"{compact(per_seed.mean())}\n±{compact(per_seed.std(ddof=1))}"
    assert expected in _texts(axes)
    assert len(axes.texts) == int(np.isfinite(barrier.isel(seed=0, draw=0)).sum())


def test_one_seed_is_annotated_without_deviation():
    figure = plotting.plot_chaos(make_chaos(seeds=1), kind="gaussian")
    assert not any("±" in text for text in _texts(figure.axes[0]))
    assert "one seed: no spread" in _note(figure)


def test_large_chaos_grid_has_colours_only():
    figure = plotting.plot_chaos(make_chaos(**LARGE_GRID), kind="gaussian")
    assert not any(axes.texts for axes in figure.axes)
    assert "too large to write the spread" in _note(figure)


def test_chaos_axes_are_even_cells_labelled_with_steps():
    figure = plotting.plot_chaos(make_chaos(), kind="gaussian")
    figure.draw_without_rendering()
    assert [label.get_text() for label in figure.axes[8].get_yticklabels()] == ["0", "20", "50", "100", "250", "500"]
    assert [label.get_text() for label in figure.axes[8].get_xticklabels()] == ["100", "250", "500", "1000"]


def test_control_of_zero_is_reported_as_zero():
    figure = plotting.plot_chaos(make_chaos(), kind="gaussian")
    assert "control: max |difference| = 0 over" in _note(figure)
    assert figure.axes[9].get_title() == "control: max |difference| = 0"
    growth = plotting.plot_growth(make_chaos(), "gaussian")
    assert "control: max over seeds,\nt₀ and steps = 0" in _texts(growth.axes[0])


def test_control_above_zero_is_shown():
    chaos = make_chaos()
    cell = {"seed": 2, "relative_norm": 0.0, "draw": 1, "t0": 50, "t1": 250, "kind": "gaussian"}
    chaos["test_loss_barrier"].loc[cell] = 0.25
    chaos["growth_distance"].loc[{key: cell[key] for key in cell if key != "t1"} | {"steps_after": 7}] = 3e-9
    figure = plotting.plot_chaos(chaos, kind="gaussian")
    assert "control: max |difference| = 0.25 (not 0) over" in _note(figure)
    assert figure.axes[9].get_title() == "control: max |difference| = 0.25"
    assert "control: max |difference| = 0 over" in _note(plotting.plot_chaos(chaos, kind="gradient"))
    assert any("= 3e-09 (not 0)" in text for text in _texts(plotting.plot_growth(chaos, "gaussian").axes[0]))


def test_a_value_missing_above_the_diagonal_is_told_from_one_that_cannot_be():
    chaos = make_chaos()
    assert "not finite" not in _note(plotting.plot_chaos(chaos, kind="gaussian"))
    chaos["test_loss_barrier"].loc[{"seed": 0, "relative_norm": 1e-2, "draw": 0, "t0": 0, "t1": 100}] = np.inf
    figure = plotting.plot_chaos(chaos, kind="gaussian")
    assert "crosses: not finite in some run" in _note(figure)
    assert len(figure.axes[5].collections) == 1
    assert not figure.axes[1].collections


# Lines of the chaos effect


def test_barrier_against_t0_shows_the_last_t1_with_deviations():
    chaos = make_chaos()
    axes = plotting.plot_barrier_against_t0(chaos, "gaussian").axes[0]
    per_seed = chaos["test_loss_barrier"].sel(kind="gaussian", relative_norm=1e-2, t1=1000).mean("draw")
    line, _, (bars,) = axes.containers[1]
    np.testing.assert_allclose(line.get_ydata(), per_seed.mean("seed"))
    heights = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(heights, 2 * per_seed.std("seed", ddof=1))


def test_growth_lines_are_geometric_means_over_seeds_and_draws():
    chaos = make_chaos()
    figure = plotting.plot_growth(chaos, "gaussian")
    values = chaos["growth_distance"].sel(kind="gaussian", relative_norm=1e-4, t0=20).values.reshape(6, -1)
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), np.exp(np.log(values).mean(axis=0)))
    assert [axes.get_title() for axes in figure.axes] == ["relative norm 0.0001", "relative norm 0.01"]


def test_growth_without_steps_says_so():
    figure = plotting.plot_growth(make_chaos(growth_steps=0), "gaussian")
    assert "chaos.growth_steps is 0" in figure.texts[0].get_text()


def test_growth_names_at_most_twenty_lines():
    figure = plotting.plot_growth(make_chaos(t0=range(0, 45), t1=[50], growth_steps=5), "gaussian")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [str(t0) for t0 in range(0, 45, 3)]
    assert "some of the t₀ are not named" in _note(figure)
    assert len(figure.axes[0].lines) == 45


def test_growth_survives_distances_that_vanish():
    chaos = make_chaos()
    chaos["growth_distance"][:] = 0.0
    _check_layout(plotting.plot_growth(chaos, "gaussian"))


# The cone effect


def test_distance_matrix_holds_mean_and_deviation():
    cone = make_cone()
    mean, deviation = _images(plotting.plot_distance_matrix(cone))
    np.testing.assert_allclose(mean.get_array(), cone["kernel_distance"].mean("seed"))
    np.testing.assert_allclose(deviation.get_array(), cone["kernel_distance"].std("seed", ddof=1))
    alone = plotting.plot_distance_matrix(make_cone(seeds=1))
    assert len(_images(alone)) == 1
    assert "one seed: no spread" in _note(alone)


def test_labels_of_a_hundred_kernel_steps_are_thinned():
    figure = plotting.plot_distance_matrix(make_cone(steps=LARGE_STEPS, references=(0,), intervals=(100,)))
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == [f"{step}" for step in range(0, 10_100, 1000)]


def test_reference_distance_starts_at_its_reference():
    cone = make_cone()
    absolute, since = plotting.plot_reference_distance(cone).axes[:2]
    line = absolute.lines[1]
    expected = cone["reference_distance"].sel(reference_step=100).where(cone["step"] >= 100, drop=True).mean("seed")
    assert line.get_xdata()[0] == 100
    np.testing.assert_allclose(line.get_ydata(), expected)
    np.testing.assert_array_equal(since.lines[1].get_xdata(), line.get_xdata() - 100)


def test_interval_distance_without_intervals_says_so():
    figure = plotting.plot_interval_distance(make_cone(intervals=()))
    assert "cone.intervals is empty" in _texts(figure.axes[0])


def test_projection_names_method_share_start_and_end():
    figure = plotting.plot_projection(make_cone())
    assert figure.axes[0].get_xlabel() == "classical scaling, axis 1 (63 %)"
    assert figure.axes[0].get_ylabel() == "classical scaling, axis 2 (21 %)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["start (step 0)", "end (step 1000)"]
    np.testing.assert_allclose(figure.axes[1].collections[0].get_offsets(), make_cone()["projection"][1])


def test_a_single_kernel_step_is_drawn():
    cone = make_cone(steps=[0, 10], references=(0,), intervals=()).isel(step=[0], step_other=[0])
    for plot in (plotting.plot_distance_matrix, plotting.plot_reference_distance, plotting.plot_projection):
        plot(cone).draw_without_rendering()
    plotting.plot_kernel_scale(cone).draw_without_rendering()
    plotting.plot_interval_distance(cone).draw_without_rendering()


def test_opening_of_the_cone_shows_seeds_mean_verdict_and_intervals():
    opening = make_opening()
    figure = plotting.plot_cone_opening(opening)
    radius, drift, angles, _ = figure.axes
    np.testing.assert_array_equal(
        [line.get_ydata() for line in radius.lines[:3]], opening["angular_radius"].transpose("seed", "step")
    )
    np.testing.assert_allclose(radius.lines[3].get_ydata(), opening["angular_radius"].mean("seed"))
    assert [len(line.get_xdata()) for line in drift.lines[:3]] == [6 * 5 / 2] * 3
    assert angles.lines[0].get_xdata().tolist() == [0, 100, 500]
    note = _note(figure)
    assert f"late motion: {opening['drift_verdict'].item()}" in note
    assert "90 % t intervals over seeds" in note
    assert "cone radius" in note


@pytest.mark.parametrize("late_from", [300, 700, 1000, 2000])
@pytest.mark.parametrize("seeds", [1, 3, 8])
def test_opening_of_a_cone_of_few_late_kernels_draws(seeds, late_from):
    figure = plotting.plot_cone_opening(make_opening(late_from=late_from, seeds=seeds))
    _check_layout(figure)
    assert ("one seed: no intervals" in _note(figure)) == (seeds == 1)


def test_opening_of_a_cone_that_does_not_move_draws():
    cone = make_cone()
    cone["kernel_distance"] = 0 * cone["kernel_distance"]
    schedule = {"name": "constant", "warmup": 0}
    opening = opening_of_cone(cone, late_from=100, confidence=0.9, base_rate=0.1, schedule=schedule)
    figure = plotting.plot_cone_opening(opening)
    _check_layout(figure)
    assert "kernels don't move" in _note(figure)


# Linearised switching


def draw_switching(published=None, **settings):
    switching = make_switching(**settings)
    return switching, plotting.plot_switching(switching, published_test_accuracy=published or {})


def _names(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("published", [{}, PUBLISHED], ids=["alone", "published"])
@pytest.mark.parametrize("rates", [(0.1,), (0.1, 0.02)], ids=["one rate", "two rates"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_switching_has_a_line_for_each_rate_and_both_baselines(seeds, rates, published):
    switching, figure = draw_switching(published, seeds=seeds, rates=rates)
    _check_layout(figure)
    for axes, name in zip(figure.axes, ("test_accuracy", "test_loss", "disagreement_rate"), strict=False):
        values = switching[name].mean("seed")
        assert len(axes.containers) == len(rates)
        for (line, _, bars), rate in zip(axes.containers, rates, strict=True):
            np.testing.assert_allclose(line.get_ydata(), values.sel(learning_rate=rate))
            assert len(bars) == (seeds > 1)
    expected = {"non-linear to T", "non-linear, stopped at s", "largest stable learning rate"}
    expected |= {f"linearised, learning rate {rate:g}" for rate in rates} | ({"published"} if published else set())
    assert set(_names(figure)) == expected
    note = _note(figure)
    assert "at T = 1000" in note
    assert ("one seed: no spread" if seeds == 1 else "standard deviation over seeds") in note
    assert ("published: one run" in note) == bool(published)
    assert "diverged" not in note


def test_switching_shows_both_baselines():
    switching, figure = draw_switching()
    for axes, name in zip(figure.axes, ("test_accuracy", "test_loss"), strict=False):
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        parent = switching[f"nonlinear_{name}"].mean("seed")
        np.testing.assert_allclose(lines["non-linear to T"], parent.sel(step=1000))
        np.testing.assert_allclose(lines["non-linear, stopped at s"], parent.sel(step=switching["switch_step"]))
    assert not {"non-linear to T"} & {line.get_label() for line in figure.axes[2].lines}


@pytest.mark.parametrize("keys", [int, str])
def test_published_accuracies_stand_at_their_steps(keys):
    _, figure = draw_switching({keys(step): value for step, value in PUBLISHED.items()})
    (stars,) = [line for line in figure.axes[0].lines if line.get_label() == "published"]
    assert stars.get_xdata().tolist() == list(PUBLISHED)
    assert list(stars.get_ydata()) == list(PUBLISHED.values())
    assert figure.axes[0].get_xlim()[1] > 5000


def test_diverged_runs_are_crossed_out_and_do_not_stretch_the_axes():
    switching, figure = draw_switching(diverged=[(2, 0, 0), (0, 1, 3), (1, 1, 3)])
    assert "crosses: diverged in some seed" in _note(figure)
    for axes in figure.axes[:3]:
        crosses = [line for line in axes.lines if line.get_marker() == "x"]
        assert [line.get_xdata().tolist() for line in crosses] == [[0], [100]]
        assert len({line.get_ydata()[0] for line in crosses}) == 2  # two rates at one step would hide each other
    places = {(0.1, 0), (0.02, 100)}  # one seed is enough
    for (line, *_), rate in zip(figure.axes[1].containers, (0.1, 0.02), strict=True):
        drawn = dict(zip(line.get_xdata().tolist(), line.get_ydata(), strict=True))
        assert {(rate, step) for step, value in drawn.items() if np.isnan(value)} == {p for p in places if p[0] == rate}
    assert switching["test_loss"].mean("seed").max() > 100
    assert all(np.isfinite(line.get_ydata()).all() for line, *_ in figure.axes[0].containers)
    assert figure.axes[1].get_ylim()[1] < 5
    _check_layout(figure)


def test_switching_survives_runs_without_any_number():
    switching = make_switching(diverged=[(seed, 0, step) for seed in range(3) for step in range(6)])
    for name in ("test_accuracy", "test_loss", "disagreement_rate", "stable_learning_rate"):
        switching[name][:, 0] = np.nan
    switching["stable_learning_rate"][:] = np.nan  # as with AdamW
    figure = plotting.plot_switching(switching, published_test_accuracy={})
    _check_layout(figure)
    assert "stable" not in " ".join([*_names(figure), figure.axes[3].get_ylabel()])


def test_rates_are_drawn_beside_the_largest_stable_one():
    switching, figure = draw_switching()
    axes = figure.axes[3]
    assert axes.get_yscale() == "log"
    (stable,) = axes.containers
    np.testing.assert_allclose(stable[0].get_ydata(), switching["stable_learning_rate"][:, 0].mean("seed"))
    assert {0.1, 0.02} <= {line.get_ydata()[0] for line in axes.lines}


# Single points


@pytest.mark.parametrize("seeds", [1, 3])
def test_single_points_show_every_seed_their_mean_and_the_threshold(seeds):
    data = make_pointwise(seeds=seeds)
    figure = plotting.plot_pointwise(data)
    assert len(figure.axes) == 3
    for axes, name in zip(figure.axes, ("gradient_signal_to_noise", "gradient_norm", "sharpness"), strict=True):
        drawn = [line.get_ydata() for line in axes.lines[: seeds + 1]]
        np.testing.assert_allclose(drawn, [*data[name].values, data[name].mean("seed")])
        assert len(axes.collections) == (seeds > 1)
        assert axes.get_yscale() == "log"
    threshold = figure.axes[2].lines[-1]
    assert threshold.get_label() == "stability threshold"
    np.testing.assert_allclose(threshold.get_ydata(), data["stability_threshold"])
    note = _note(figure)
    assert "16 batches of 64 images, Hessian on 500 images" in note
    assert ("one seed: no spread" if seeds == 1 else "bands: standard deviation over seeds") in note
    assert "negative" not in note
    assert "gaps" not in note


def test_negative_ratios_are_seen():
    data = make_pointwise(sign=-1.0)
    figure = plotting.plot_pointwise(data)
    _check_layout(figure)
    axes, lowest = figure.axes[0], float(data["gradient_signal_to_noise"].min())
    assert axes.get_yscale() == "symlog"
    assert axes.get_ylim()[0] < lowest < 0
    assert f"linear within ±{-lowest:.2g}" in _note(figure)


def test_what_was_not_found_is_a_gap():
    data = make_pointwise()
    data["sharpness"][1, 3] = np.nan
    data["stability_threshold"][:] = np.nan  # as with AdamW
    figure = plotting.plot_pointwise(data)
    _check_layout(figure)
    assert np.isnan(figure.axes[2].lines[3].get_ydata()[3])
    assert len(figure.axes[2].lines) == 4
    assert "gaps: not found in some seed" in _note(figure)
    data["sharpness"][:] = np.nan
    data["gradient_signal_to_noise"][:] = np.inf
    data["stability_threshold"][:] = np.inf  # a learning rate of 0
    _check_layout(plotting.plot_pointwise(data))
    _check_layout(plotting.plot_pointwise(make_pointwise().isel(step=[0])))


# Small parts


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.12345, "0.123"), (0.00123, "0.0012"), (-1.234e-5, "-1.2e-5"), (12.34, "12.3"), (np.inf, "inf")],
)
def test_compact_numbers(value, text):
    assert compact(value) == text


def test_step_labels_prefer_the_ends_and_round_numbers():
    steps = np.arange(0, 1100, 10)
    chosen = sorted(steps[spaced_labels(steps, steps / 1090 * 4)])
    assert chosen[0] == 0
    assert chosen[-1] == 1090
    assert {100, 200, 500} <= set(chosen)


def test_block_and_moving_means():
    np.testing.assert_allclose(block_mean(np.array([1.0, 3.0, 5.0]), 2), [2, 5])
    np.testing.assert_allclose(moving_mean(np.array([1.0, 2.0, 3.0, 4.0]), 3), [1.5, 2, 3, 3.5])
    np.testing.assert_allclose(moving_mean(np.array([1.0, 2.0]), 1), [1, 2])


# Captions and published numbers


@pytest.mark.parametrize("path", sorted((ROOT / "workflow/report").glob("*.rst")), ids=lambda path: path.stem)
def test_captions_are_valid_restructuredtext(path):
    wildcards = SimpleNamespace(study="tiny", kind="gaussian", diagram="tiny", sweep="tiny")
    text = jinja2.Template(path.read_text(), undefined=jinja2.StrictUndefined).render(
        snakemake=SimpleNamespace(wildcards=wildcards)
    )
    html = docutils.core.publish_string(text, writer="html5", settings_overrides={"halt_level": 2, "report_level": 2})
    assert b"tiny" in html or path.stem in ("resources", "summary", "workflow")  # which are about all studies


def test_every_figure_of_the_report_has_a_caption():
    rules = [path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk")]
    wanted = set(re.findall(r'caption="../report/(\w+)\.rst"', "".join(rules)))
    wanted |= set(re.findall(r'report: "workflow/report/(\w+)\.rst"', (ROOT / "Snakefile").read_text()))
    assert wanted == {path.stem for path in (ROOT / "workflow/report").glob("*.rst")}


def test_published_numbers_name_source_and_runs():
    published = yaml.safe_load((ROOT / "tests/reference/zhou2025a.yaml").read_text())
    assert published["source"]["arxiv"] == "2505.13900"
    assert published["setup"]["runs"] == 1
    for entry in published["reported"]:
        assert set(entry) - {"value", "at_most"} == {"figure", "network", "quantity", "condition"}
        assert "value" in entry or "at_most" in entry
    assert {entry["figure"] for entry in published["reported"]} == {"3", "4", "5a", "5b", "6"}
