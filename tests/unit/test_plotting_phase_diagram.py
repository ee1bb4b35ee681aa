from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace

import docutils.core
import jinja2
import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure

from twophase import plotting
from twophase.phase_diagram.theory import (
    CONDENSED,
    CRITICAL,
    KNOWN_POINTS,
    LINEAR,
    UNDECIDED,
    boundary_distance,
    theoretical_regime,
)

ROOT = Path(__file__).parents[2]
GAMMA = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
GAMMA_PRIME = (-0.5, 0.0, 0.5, 1.0)
UNEVEN = {"gamma": (0.3, 0.5, 0.6, 1.0, 1.5, 2.5), "gamma_prime": (-1.0, -0.2, 0.0, 0.1, 0.5, 1.5)}
FINE = {"gamma": np.linspace(0, 2, 21).round(3), "gamma_prime": np.linspace(-1, 1, 21).round(3)}
ONE = {"gamma": (1.0,), "gamma_prime": (0.0,)}
EIGHT = [(0.25, 0), (0.5, 0), (0.75, 0), (1, 0), (1.25, 0), (1.5, 0), (1.75, 0), (0.5, 0.5)]
SIX = [(0.5, 0), (1, 0), (1.75, 0), (0.5, 0.5), (1.5, 0.5), (1.5, -1)]


def make_distances(gamma=GAMMA, gamma_prime=GAMMA_PRIME, widths=(250, 1000, 4000), seeds=3):
    """As rule collect_phase_diagram writes it, with slopes that grow with the distance to theory's boundary."""
    rng = np.random.default_rng(0)
    slope = theoretical_slope(gamma, gamma_prime)[..., None, None]
    axes = ("gamma", "gamma_prime", "width", "seed")
    noise = np.exp(0.05 * rng.standard_normal((len(gamma), len(gamma_prime), len(widths), seeds)))
    input_distance = np.exp(slope * np.log(np.asarray(widths) / 100)[:, None]) * noise
    data = {
        "input_distance": (axes, input_distance),
        "output_distance": (axes, 0.5 * input_distance),
        "kernel_distance": (axes, input_distance**2 / (1 + input_distance**2)),
        "status": (axes, np.zeros(noise.shape, dtype=np.int8)),
    }
    coords = {"gamma": list(gamma), "gamma_prime": list(gamma_prime), "width": list(widths), "seed": np.arange(seeds)}
    return xr.Dataset(data, coords)


def theoretical_slope(gamma, gamma_prime):
    distance = boundary_distance(np.asarray(gamma, dtype=float)[:, None], np.asarray(gamma_prime, dtype=float))
    return np.where(distance < 0, distance, distance / 2)


def make_regime(gamma=GAMMA, gamma_prime=GAMMA_PRIME):
    """As rule fit_regime writes it, every cell in theory's regime."""
    axes = ("gamma", "gamma_prime")
    slope = theoretical_slope(gamma, gamma_prime)
    theory = theoretical_regime(np.asarray(gamma, dtype=float)[:, None], np.asarray(gamma_prime, dtype=float))
    data = {
        "slope": (axes, slope),
        "intercept": (axes, -slope * np.log(100)),
        "slope_standard_error": (axes, np.full(slope.shape, 0.02)),
        "networks": (axes, np.full(slope.shape, 9)),
        "regime": (axes, theory.copy()),
        "theoretical_regime": (axes, theory),
        "confidence": 0.95,
        "critical_slope": 0.05,
    }
    return xr.Dataset(data, {"gamma": list(gamma), "gamma_prime": list(gamma_prime)})


def make_orientations(points=SIX, neurons=200, one_dimensional=True):
    rng = np.random.default_rng(1)
    angle = rng.uniform(-np.pi, np.pi, (len(points), 2, neurons))
    angle[:, 1] = np.where(np.array([gamma > 1 for gamma, _ in points])[:, None], angle[:, 1].round(), angle[:, 0])
    amplitude = rng.exponential(1, (len(points), 2, neurons)) * np.array([1, 30])[:, None]
    axes = ("point", "time", "neuron")
    orientations = xr.Dataset(
        {
            "orientation": (axes, angle if one_dimensional else abs(angle)),
            "amplitude": (axes, amplitude),
            "clusters": (("point", "time"), np.column_stack([np.full(len(points), 31), np.arange(len(points)) + 2])),
            "width": neurons,
            "seed": 4,
        },
        {
            "gamma": ("point", [gamma for gamma, _ in points]),
            "gamma_prime": ("point", [gamma_prime for _, gamma_prime in points]),
            "time": ["start", "end"],
        },
    )
    if one_dimensional:
        position = np.linspace(-1.5, 1.5, 51)
        both = np.stack([0.1 * np.sin(position), np.sin(3 * position)])
        inputs = np.array([-1.0, -0.4, 0.3, 1.0])
        orientations = orientations.assign_coords(position=position)
        orientations["function"] = (("point", "time", "position"), np.tile(both, (len(points), 1, 1)))
        orientations["train_input"] = ("example", inputs)
        orientations["train_target"] = ("example", np.sin(3 * inputs))
    return orientations


def draw_map(**grid):
    return plotting.plot_phase_diagram(make_regime(**grid), make_distances(**grid))


FIGURES = {
    "phase_diagram": draw_map,
    "relative_distance": lambda: plotting.plot_relative_distance(make_regime(), make_distances(), EIGHT),
    "orientations": lambda: plotting.plot_orientations(make_orientations(SIX[:4], neurons=300)),
    "learned_functions": lambda: plotting.plot_learned_functions(make_orientations(SIX[:4])),
    "words": lambda: plotting.plot_learned_functions(make_orientations(one_dimensional=False)),
}


@pytest.fixture(autouse=True)
def _style():
    with plotting.style_context({"dpi": 60}):
        yield


def _note(figure):
    return " ".join(figure.get_supxlabel().split())


def _legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def _meshes(figure):
    """The two maps; meshes of colour bars are left out."""
    return [next(c for c in axes.collections if isinstance(c, QuadMesh)) for axes in figure.axes[:2]]


def _marks(axes):
    """Places of the marks of a map by their label, sorted."""
    scatters = [c for c in axes.collections if isinstance(c, PathCollection)]
    return {scatter.get_label(): sorted(map(tuple, scatter.get_offsets().tolist())) for scatter in scatters}


def _named(axes):
    return {text.get_text().replace("\n", " "): text for text in axes.texts}


def _check_layout(figure):
    """No text leaves the figure, no two tick labels of an axis touch, and no two labels within a panel."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    box = figure.get_tightbbox(renderer)
    assert min(box.x0, box.y0) > -0.02
    assert box.x1 * figure.dpi < figure.bbox.width + 2
    assert box.y1 * figure.dpi < figure.bbox.height + 2
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [
                tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high and tick.label1.get_visible()
            ]
            boxes = [tick.label1.get_window_extent(renderer) for tick in ticks]
            for one, other in pairwise(sorted((b for b in boxes if b.width), key=lambda b: (b.x0, b.y0))):
                assert not one.overlaps(other), (axes.get_ylabel(), axis.axis_name)
        frames = [text.get_bbox_patch().get_window_extent(renderer) for text in axes.texts]
        assert not any(one.overlaps(other) for one, other in combinations(frames, 2)), "labels overlap"
        for frame in frames:
            assert axes.bbox.padded(1).containsx(frame.x0)
            assert axes.bbox.padded(1).containsx(frame.x1)
            assert axes.bbox.padded(1).containsy(frame.y0)
            assert axes.bbox.padded(1).containsy(frame.y1)


# All figures


@pytest.mark.parametrize("size", [9, 13])
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_fits(name, size):
    with plotting.style_context({"dpi": 60, "font_size": size}):
        figure = FIGURES[name]()
        assert isinstance(figure, Figure)
        _check_layout(figure)
    assert "n = " in _note(figure) or name == "words"


@pytest.mark.parametrize("name", FIGURES)
def test_saved_bytes_are_the_same_every_time(name, tmp_path):
    for folder in ("once", "again"):
        (tmp_path / folder).mkdir()
        paths = [tmp_path / folder / "figure.png", tmp_path / folder / "figure.svg"]
        plotting.save_figure(FIGURES[name](), paths)
    for suffix in ("png", "svg"):
        once, again = ((tmp_path / folder / f"figure.{suffix}").read_bytes() for folder in ("once", "again"))
        assert once == again
    assert b"<text" in once, "text in the SVG is kept as text"


@pytest.mark.parametrize("name", ["phase_diagram", "relative_distance", "orientations", "learned_functions"])
def test_captions_name_the_diagram_and_the_source(name):
    template = jinja2.Template((ROOT / f"workflow/report/{name}.rst").read_text(), undefined=jinja2.StrictUndefined)
    text = template.render(snakemake=SimpleNamespace(wildcards=SimpleNamespace(diagram="tiny")))
    settings = {"halt_level": 2, "report_level": 2}
    html = docutils.core.publish_string(text, writer="html5", settings_overrides=settings)
    assert b"tiny" in html
    assert b"arXiv 2007.07497" in html.replace(b"\n", b" ")


# The map


@pytest.mark.parametrize("grid", [{}, UNEVEN, FINE, ONE], ids=["even", "uneven", "fine", "one point"])
def test_maps_hold_the_slope_and_the_mean_kernel_distance(grid):
    figure = draw_map(**grid)
    _check_layout(figure)
    slope, kernel = _meshes(figure)
    np.testing.assert_allclose(slope.get_array(), make_regime(**grid)["slope"].values.T)
    largest = make_distances(**grid)["kernel_distance"].sel(width=4000)
    np.testing.assert_allclose(kernel.get_array(), largest.mean("seed").values.T)
    assert slope.norm.vmin == -slope.norm.vmax
    assert kernel.norm.vmin == 0
    assert kernel.norm.vmax == pytest.approx(float(largest.mean("seed").max()))


def test_cells_meet_midway_between_uneven_values():
    figure = draw_map(**UNEVEN)
    corners = _meshes(figure)[0].get_coordinates()
    np.testing.assert_allclose(corners[0, :, 0], [0.2, 0.4, 0.55, 0.8, 1.25, 2.0, 3.0])
    np.testing.assert_allclose(corners[:, 0, 1], [-1.4, -0.6, -0.1, 0.05, 0.3, 1.0, 2.0])
    for axes in figure.axes[:2]:
        assert axes.get_xlim() == pytest.approx((0.2, 3.0))
        assert axes.get_ylim() == pytest.approx((-1.4, 2.0))


def test_a_single_point_is_a_cell_around_it():
    axes = draw_map(**ONE).axes[0]
    assert np.mean(axes.get_xlim()) == pytest.approx(1)
    assert np.mean(axes.get_ylim()) == pytest.approx(0)
    assert axes.get_xlim()[1] > 1


def test_colours_end_where_the_sign_that_reaches_less_far_ends():
    regime = make_regime(**FINE)
    regime["slope"][0, :3] = -40.0
    figure = plotting.plot_phase_diagram(regime, make_distances(**FINE))
    assert _meshes(figure)[0].norm.vmax == regime["slope"].max()
    assert _meshes(figure)[0].norm.vmin == -regime["slope"].max()
    assert _meshes(figure)[0].colorbar.extend == "min"
    linear = draw_map(**ONE | {"gamma": (0.5, 0.75)})
    assert _meshes(linear)[0].colorbar.extend == "neither"


def test_boundary_and_known_points_are_in_both_maps():
    for axes in draw_map().axes[:2]:
        boundary, *diamonds = axes.lines
        np.testing.assert_allclose(boundary.get_xydata(), [[1, -0.75], [1, 0], [1, 0], [1.875, 0.875]])
        assert {tuple(line.get_xydata()[0]) for line in diamonds} == set(KNOWN_POINTS)
        assert set(_named(axes)) == {*KNOWN_POINTS.values(), "linear", "condensed"}


def test_only_what_lies_inside_is_drawn():
    figure = draw_map(gamma=(0.4, 0.5, 0.6), gamma_prime=(-0.2, 0.0, 0.2))
    assert set(_named(figure.axes[0])) == {"NTK", "linear"}
    assert len(figure.axes[0].lines) == 1
    assert _legend(figure) == []


def test_names_of_regimes_stand_in_their_regions():
    for grid in ({}, UNEVEN, FINE):
        for axes in draw_map(**grid).axes[:2]:
            names = _named(axes)
            assert boundary_distance(*names["linear"].get_position()) < 0
            assert boundary_distance(*names["condensed"].get_position()) > 0


def test_labels_hide_no_mark():
    regime = make_regime(**FINE)
    near = abs(boundary_distance(regime["gamma"].values[:, None], regime["gamma_prime"].values)) < 0.15
    regime["regime"] = regime["regime"].where(~near, UNDECIDED)
    figure = plotting.plot_phase_diagram(regime, make_distances(**FINE))
    _check_layout(figure)
    axes, renderer = figure.axes[0], figure.canvas.get_renderer()
    places = axes.transData.transform(_marks(axes)["undecided"])
    assert len(places) == near.sum()
    for text in axes.texts:
        frame = text.get_bbox_patch().get_window_extent(renderer)
        assert not any(frame.contains(*place) for place in places), text.get_text()


def test_crosses_and_circles_mark_what_the_test_says():
    regime = make_regime()
    regime["regime"].loc[{"gamma": 0.5, "gamma_prime": 0.5}] = CONDENSED
    regime["regime"].loc[{"gamma": 1.0, "gamma_prime": 0.0}] = LINEAR
    regime["regime"].loc[{"gamma": 1.5, "gamma_prime": 0.0}] = CRITICAL
    regime["regime"].loc[{"gamma": 1.25, "gamma_prime": 0.5}] = UNDECIDED
    regime["regime"].loc[{"gamma": 0.25, "gamma_prime": -0.5}] = UNDECIDED
    regime["slope"].loc[{"gamma": 0.25, "gamma_prime": -0.5}] = np.nan
    figure = plotting.plot_phase_diagram(regime, make_distances())
    marks = _marks(figure.axes[0])
    assert marks["not theory's regime"] == [(0.5, 0.5), (1.0, 0.0), (1.5, 0.0)]
    assert marks["undecided"] == [(1.25, 0.5)], "a cell without a slope is hatched, not marked"
    assert _marks(figure.axes[1]) == {}
    assert _legend(figure) == ["theory's boundary (critical)", "not theory's regime", "undecided"]
    assert "not theory's regime: 3 of 28 cells; undecided: 1 of 28 cells" in _note(figure)
    assert "hatched: no number" in _note(figure)


def test_agreement_leaves_no_marks():
    figure = draw_map()
    assert _marks(figure.axes[0]) == {}
    assert _legend(figure) == ["theory's boundary (critical)"]
    assert "hatched" not in _note(figure)


def test_the_note_says_n_spread_and_the_test():
    regime = make_regime()
    regime["networks"][0, 0] = 7
    regime["slope_standard_error"][0, 0] = 0.1
    note = _note(plotting.plot_phase_diagram(regime, make_distances()))
    assert "n = 3 seeds; networks in each fit of S_w: 7 to 9" in note
    assert "standard error of S_w: median 0.02, largest 0.1" in note
    assert "95 % confidence interval of S_w, critical: within ±0.05" in note
    deviation = make_distances()["kernel_distance"].sel(width=4000).std("seed", ddof=1)
    assert f"largest {float(deviation.max()):.3g}" in note.replace("\u00a0", " ")
    assert "S: one seed, no spread" in _note(plotting.plot_phase_diagram(regime, make_distances(seeds=1)))
    del regime["critical_slope"]
    assert "critical: within" not in _note(plotting.plot_phase_diagram(regime, make_distances()))


@pytest.mark.filterwarnings("error")
def test_networks_that_did_not_arrive_are_left_out_of_the_mean():
    distances = make_distances()
    distances["status"].loc[{"gamma": 0.5, "gamma_prime": 0.0, "width": 4000, "seed": 1}] = 2
    distances["status"].loc[{"gamma": 1.5, "gamma_prime": 0.0, "width": 4000}] = 3
    distances["kernel_distance"].loc[{"gamma": 1.5, "gamma_prime": 0.0, "width": 4000}] = np.nan
    distances["kernel_distance"].loc[{"gamma": 1.75, "gamma_prime": 0.0, "width": 4000}] = np.inf
    figure = plotting.plot_phase_diagram(make_regime(), distances)
    cells = xr.DataArray(_meshes(figure)[1].get_array().filled(-1), coords=make_regime()["slope"].T.coords)
    kept = distances["kernel_distance"].sel(gamma=0.5, gamma_prime=0.0, width=4000, seed=[0, 2])
    assert float(cells.sel(gamma=0.5, gamma_prime=0.0)) == pytest.approx(float(kept.mean()))
    assert (cells == -1).sum() == 2
    assert "4 of 252 networks did not arrive and are left out" in _note(figure)
    assert "hatched: no number" in _note(figure)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_maps_without_any_number_are_drawn(value):
    regime, distances = make_regime(), make_distances(seeds=1, widths=(100,))
    for name in ("slope", "slope_standard_error"):
        regime[name][:] = value
    regime["regime"][:] = UNDECIDED
    for name in ("input_distance", "kernel_distance"):
        distances[name][:] = value
    figure = plotting.plot_phase_diagram(regime, distances)
    _check_layout(figure)
    assert [(mesh.norm.vmin, mesh.norm.vmax) for mesh in _meshes(figure)] == [(-1, 1), (0, 1)]
    assert ("hatched: no number" in _note(figure)) == np.isnan(value)


# Relative distance against width


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("widths", [(1000,), (250, 500, 1000, 2000, 4000)], ids=["one width", "five widths"])
def test_lines_are_means_with_their_seeds_and_fits(widths, seeds):
    regime, distances = make_regime(), make_distances(widths=widths, seeds=seeds)
    figure = plotting.plot_relative_distance(regime, distances, EIGHT)
    _check_layout(figure)
    panels = dict(zip(("input_distance", "output_distance"), figure.axes, strict=True))
    for name, axes in panels.items():
        means = [line for line in axes.lines if line.get_linestyle() == "-"]
        dots = [line for line in axes.lines if line.get_marker() == "."]
        assert len(means) == len(dots) == 8
        assert len({(line.get_color(), line.get_marker()) for line in means}) == 8
        for (gamma, gamma_prime), mean, seed in zip(EIGHT, means, dots, strict=True):
            values = distances[name].sel(gamma=gamma, gamma_prime=gamma_prime)
            np.testing.assert_array_equal(mean.get_xdata(), widths)
            np.testing.assert_allclose(mean.get_ydata(), np.exp(np.log(values).mean("seed")))
            np.testing.assert_array_equal(seed.get_ydata(), values.values.ravel())
        assert axes.get_xscale() == axes.get_yscale() == "log"
        ticks = [text.get_text() for text in axes.get_xticklabels()]
        assert ticks == [f"{width}" for width in widths]
    assert ("n = 1 seed;" if seeds == 1 else "n = 3 seeds;") in _note(figure)


def test_fits_are_drawn_for_input_weights_only():
    regime, distances = make_regime(), make_distances()
    inputs, outputs = plotting.plot_relative_distance(regime, distances, [(0.5, 0), (1.5, 0.5)]).axes
    fits = [line for line in inputs.lines if line.get_linestyle() == "--"]
    for (gamma, gamma_prime), line in zip([(0.5, 0), (1.5, 0.5)], fits, strict=True):
        fit = regime.sel(gamma=gamma, gamma_prime=gamma_prime)
        expected = np.exp(float(fit["intercept"])) * np.array([250, 4000]) ** float(fit["slope"])
        np.testing.assert_array_equal(line.get_xdata(), [250, 4000])
        np.testing.assert_allclose(line.get_ydata(), expected)
    assert not [line for line in outputs.lines if line.get_linestyle() == "--"]


def test_the_legend_gives_slopes_with_standard_errors():
    regime = make_regime()
    regime["slope_standard_error"].loc[{"gamma": 1.5, "gamma_prime": 0.0}] = np.nan
    regime["slope"].loc[{"gamma": 1.0, "gamma_prime": 0.0}] = np.nan
    points = [(0.5, 0), (1.5, 0), (1, 0)]
    figure = plotting.plot_relative_distance(regime, make_distances(), points)
    assert _legend(figure) == ["0.5, 0: $S_w$ = -0.500 ± 0.020", "1.5, 0: $S_w$ = 0.177", "1, 0: no fit"]
    assert sum(line.get_linestyle() == "--" for line in figure.axes[0].lines) == 2


@pytest.mark.filterwarnings("error")
def test_what_is_not_a_number_or_never_moved_is_left_out_and_counted():
    distances = make_distances()
    cell = {"gamma": 0.5, "gamma_prime": 0.0}
    distances["input_distance"].loc[cell | {"width": 250, "seed": 0}] = 0.0
    distances["input_distance"].loc[cell | {"width": 1000}] = np.nan
    distances["status"].loc[cell | {"width": 4000, "seed": 2}] = 2
    figure = plotting.plot_relative_distance(make_regime(), distances, [(0.5, 0)])
    _check_layout(figure)
    mean, dots, _ = figure.axes[0].lines
    values = distances["input_distance"].sel(cell)
    kept = [values.sel(width=250, seed=[1, 2]), values.sel(width=4000, seed=[0, 1])]
    expected = [np.exp(np.log(some).mean()) for some in kept]
    np.testing.assert_allclose(mean.get_ydata(), [expected[0], np.nan, expected[1]])
    assert np.isfinite(dots.get_ydata()).sum() == 4
    assert "6 of 18 values left out: never moved, or did not arrive" in _note(figure)
    assert "left out" not in _note(plotting.plot_relative_distance(make_regime(), make_distances(), [(0.5, 0)]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_points_that_never_moved_are_drawn(value):
    regime, distances = make_regime(**ONE), make_distances(**ONE, seeds=1, widths=(100,))
    regime["slope"][:] = np.nan
    for name in ("input_distance", "output_distance"):
        distances[name][:] = value
    figure = plotting.plot_relative_distance(regime, distances, [(1, 0)])
    _check_layout(figure)
    assert "2 of 2 values left out" in _note(figure)


def test_points_off_the_grid_and_too_many_points_are_refused():
    with pytest.raises(KeyError):
        plotting.plot_relative_distance(make_regime(), make_distances(), [(0.51, 0)])
    with pytest.raises(ValueError, match="at most 8 points, got 9"):
        plotting.plot_relative_distance(make_regime(), make_distances(), [*EIGHT, (1, 0.5)])


# Single networks


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("plot", [plotting.plot_orientations, plotting.plot_learned_functions])
def test_one_panel_for_each_point_three_a_row(plot, count):
    figure = plot(make_orientations(SIX[:count]))
    _check_layout(figure)
    assert len(figure.axes) == count
    assert len({axes.get_position().y0.round(3) for axes in figure.axes}) == -(-count // 3)
    expected = [f"γ = {gamma:g}, γ' = {gamma_prime:g}" for gamma, gamma_prime in SIX[:count]]  # noqa: RUF001
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == expected
    assert "n = 1 network of width m = 200 (seed 4) in each panel, so no spread" in _note(figure)
    assert "first" not in _note(figure)


@pytest.mark.parametrize("plot", [plotting.plot_orientations, plotting.plot_learned_functions])
def test_more_than_six_points_are_cut_and_said(plot):
    figure = plot(make_orientations(EIGHT))
    assert len(figure.axes) == 6
    assert "the first 6 of 8 points" in _note(figure)


def test_neurons_are_drawn_at_start_and_end():
    orientations = make_orientations()
    figure = plotting.plot_orientations(orientations)
    for place, axes in enumerate(figure.axes):
        assert axes.get_title().endswith(f"clusters: 31 → {place + 2}")
        assert axes.get_yscale() == "log"
        scatters = [scatter for scatter in axes.collections if len(scatter.get_offsets())]
        for scatter, time in zip(scatters, ("start", "end"), strict=True):
            network = orientations.isel(point=place).sel(time=time)
            expected = np.column_stack([network["orientation"], network["amplitude"]])
            np.testing.assert_allclose(scatter.get_offsets(), expected)
        assert axes.get_xlim() == pytest.approx((-1.04 * np.pi, 1.04 * np.pi))
    assert _legend(figure) == ["start", "end"]
    assert "polar angle of (w, b)" in _note(figure)
    assert "not drawn" not in _note(figure)


def test_angles_to_a_direction_go_from_zero_to_pi():
    figure = plotting.plot_orientations(make_orientations(SIX[:2], one_dimensional=False))
    axes = figure.axes[0]
    assert axes.get_xlim() == pytest.approx((-0.04 * np.pi, 1.04 * np.pi))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", r"$\pi/2$", r"$\pi$"]
    assert "angle to the final main direction" in _note(figure)


def test_many_neurons_are_one_picture_in_an_svg_and_few_are_not():
    for neurons, rasterized in ((200, False), (5000, True)):
        axes = plotting.plot_orientations(make_orientations(SIX[:1], neurons)).axes[0]
        scatters = [scatter for scatter in axes.collections if len(scatter.get_offsets())]
        assert {bool(scatter.get_rasterized()) for scatter in scatters} == {rasterized}


@pytest.mark.filterwarnings("error")
def test_neurons_without_weight_or_angle_are_left_out_and_counted():
    orientations = make_orientations(SIX[:2])
    orientations["amplitude"][0, 1, :5] = 0.0
    orientations["orientation"][0, 1, :5] = np.nan
    orientations["amplitude"][0, 0, 7] = np.nan
    orientations["orientation"][1, 0, 3] = np.nan
    orientations["amplitude"][1, 1] = 0.0
    figure = plotting.plot_orientations(orientations)
    _check_layout(figure)
    first, second = ([len(scatter.get_offsets()) for scatter in axes.collections[:2]] for axes in figure.axes)
    assert (first, second) == ([199, 195], [199, 0])
    assert "not drawn: amplitude 0 or no number" in _note(figure)
    assert "207 of 800 marks" in _note(figure)
    orientations["amplitude"][:] = 0.0
    _check_layout(plotting.plot_orientations(orientations))


def test_functions_are_drawn_with_their_examples():
    orientations = make_orientations()
    figure = plotting.plot_learned_functions(orientations)
    for place, axes in enumerate(figure.axes):
        start, end, examples = axes.lines
        function = orientations["function"].isel(point=place)
        np.testing.assert_array_equal(start.get_ydata(), function.sel(time="start"))
        np.testing.assert_array_equal(end.get_ydata(), function.sel(time="end"))
        np.testing.assert_array_equal(examples.get_xdata(), orientations["train_input"])
        np.testing.assert_array_equal(examples.get_ydata(), orientations["train_target"])
        assert (start.get_linestyle(), end.get_linestyle(), examples.get_linestyle()) == ("--", "-", "None")
        assert start.get_linewidth() < end.get_linewidth()
    assert _legend(figure) == ["f at the start", "f at the end", "training examples"]
    assert "trained on 4 examples" in _note(figure)
    assert "arrive" not in _note(figure)


@pytest.mark.parametrize("plot", [plotting.plot_orientations, plotting.plot_learned_functions])
def test_networks_that_did_not_arrive_are_counted(plot):
    orientations = make_orientations()
    orientations["status"] = ("point", [0, 1, 2, 0, 3, 0])
    assert "2 of them did not arrive" in _note(plot(orientations))


def test_functions_that_are_not_finite_leave_a_gap():
    orientations = make_orientations(SIX[:1])
    orientations["function"][0, 1] = np.nan
    figure = plotting.plot_learned_functions(orientations)
    _check_layout(figure)
    assert np.isnan(figure.axes[0].lines[1].get_ydata()).all()


def test_functions_of_images_are_words():
    figure = plotting.plot_learned_functions(make_orientations(one_dimensional=False))
    assert figure.axes == []
    assert "only for 1-D data" in figure.texts[0].get_text()
