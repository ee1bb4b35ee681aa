"""Sweeps: declared once, expanded into studies, put on one grid and drawn."""

import copy
import itertools
import re

import numpy as np
import pytest
import xarray as xr
from test_config import BASE, changed, problems_of
from test_plotting import _check_layout, _note

from twophase.config import read_config
from twophase.plotting import plot_sweep, save_figure, style_context
from twophase.storage import describe, read_dataset, write_dataset
from twophase.sweep import DESCRIPTIONS, grid_of_cells

CURVES = ["test_loss_barrier gaussian 0.01", "growth_exponent gaussian 0.01", "kernel_velocity"]
SEEDS = [0, 1]


# ---- declared and expanded


def sweep(axes, *edits):
    return changed(("sweep", axes), *edits)


def test_a_sweep_becomes_a_study_for_each_combination():
    config = read_config(sweep({"learning_rate": [0.1, 1], "width": [8, 4]}))
    assert list(config.studies) == [
        "tiny__width8__learning_rate0.1",
        "tiny__width8__learning_rate1.0",
        "tiny__width4__learning_rate0.1",
        "tiny__width4__learning_rate1.0",
    ]
    assert config.run == list(config.studies) == list(config.selected())
    assert config.selected_sweeps() == ["tiny"]
    assert config.axes_of("tiny") == [("width", [8, 4]), ("learning_rate", [0.1, 1.0])]
    assert config.sweeps()["tiny"]["tiny__width4__learning_rate0.1"] == {"width": 4, "learning_rate": 0.1}


@pytest.mark.parametrize(
    ("axis", "value", "section", "name"),
    [
        ("width", 7, "model", "tiny__width7"),
        ("depth", 3, "model", "tiny__depth3"),
        ("normalization", "group", "model", "tiny__normalizationgroup"),
        ("output_scale", 1e-5, "model", "tiny__output_scale1e-05"),
        ("batch_size", 10, "training", "tiny__batch_size10"),
        ("learning_rate", 1e16, "optimizer", "tiny__learning_rate1e+16"),
        ("label_noise", 0, "data", "tiny__label_noise0.0"),
    ],
)
def test_a_cell_is_the_study_written_out(axis, value, section, name):
    plain = [("model/normalization", "none"), ("optimizer/learning_rate", 0.02)]
    config = read_config(sweep({axis: [value]}, *plain))
    assert list(config.studies) == [name]
    assert config.studies[name] == read_config(changed(*plain, (f"{section}/{axis}", value))).studies["tiny"]


def test_names_are_those_of_files_and_never_meet():
    rates = [0.1, 0.10000000000000002, 1e-7, 1, 10, 100]
    names = list(read_config(sweep({"learning_rate": rates, "width": [1, 11, 110]})).studies)
    assert len(set(names)) == 18
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_.+-]*", name) for name in names)


def test_the_order_of_the_axes_in_the_file_does_not_matter():
    one, other = ({"width": [4], "label_noise": [0.1]}, {"label_noise": [0.1], "width": [4]})
    assert list(read_config(sweep(one)).studies) == list(read_config(sweep(other)).studies)


def test_run_may_name_a_sweep_or_single_cells():
    axes = {"width": [4, 8]}
    assert read_config(sweep(axes, ("/run", None))).run is None
    assert read_config(sweep(axes, ("/run", None))).selected_sweeps() == ["tiny"]
    one = read_config(sweep(axes, ("/run", ["tiny__width8"])))
    assert (list(one.selected()), one.selected_sweeps()) == (["tiny__width8"], [])
    other = read_config(sweep(axes, ("/studies/other", {}), ("/run", ["other"])))
    assert (list(other.selected()), other.selected_sweeps()) == (["other"], [])


# (axes, further edits, the key at which it is wrong, what the message says)
BROKEN = {
    "misspelt axis": ({"widht": [4]}, [], "sweep.widht", "unknown key; did you mean 'width'"),
    "no axis": ({}, [], "sweep", "at least one axis, some of width, depth"),
    "no value": ({"width": []}, [], "sweep.width", "empty; give at least one value"),
    "a value twice": ({"learning_rate": [0.1, "1e-1"]}, [], "sweep.learning_rate", r"\[0.1\] is repeated"),
    "a value alone": ({"width": 4}, [], "sweep.width", "expected a list, got 4"),
    "width 0": ({"width": [4, 0]}, [], "sweep.width[1]", "greater than 0, got 0"),
    "bool for a width": ({"width": [True]}, [], "sweep.width[0]", "expected a number, got True"),
    "depth in words": ({"depth": ["deep"]}, [], "sweep.depth[0]", "valid integer.*got 'deep'"),
    "batch of none": ({"batch_size": [0]}, [], "sweep.batch_size[0]", "greater than 0, got 0"),
    "negative rate": ({"learning_rate": [-1]}, [], "sweep.learning_rate[0]", "greater than 0, got -1"),
    "scale 0": ({"output_scale": [0]}, [], "sweep.output_scale[0]", "greater than 0, got 0"),
    "all labels wrong": ({"label_noise": [1]}, [], "sweep.label_noise[0]", "less than 1, got 1"),
    "unknown layer": ({"normalization": ["layer"]}, [], "sweep.normalization[0]", "'none', got 'layer'"),
    "too many": ({"width": list(range(1, 1002))}, [], "sweep", "1001 combinations of values; expected at most 1000"),
    "depth of vgg16": ({"depth": [2]}, [("model/name", "vgg16")], "sweep.depth", "no effect on the network 'vgg16'"),
    "width of a user's": ({"width": [2]}, [("model", {"name": "a:b"})], "sweep.width", "no effect .* 'a:b'"),
    "resnet of no depth": (
        {"depth": [8, 9, 10]},
        [("model/name", "resnet"), ("model/depth", 8)],
        "model.depth",
        r"6n\+2.*got 9 \(sweep: depth 9\); .*got 10 \(sweep: depth 10\)",
    ),
    "batch too large": (
        {"batch_size": [20, 500], "width": [4, 8]},
        [],
        "training.batch_size",
        r"asks for 500, .* 200 training images \(sweep: width 4, batch_size 500; so in 2 of its cells\)$",
    ),
    "scale with BatchNorm": (
        {"normalization": ["batch", "none"], "output_scale": [3]},
        [],
        "model.output_scale",
        r"got 3 with 'batch' \(sweep: normalization batch, output_scale 3.0\)$",
    ),
    "wrong whatever the sweep": (
        {"width": [4, 8]},
        [("training/batch_size", 500)],
        "training.batch_size",
        "200 training images$",
    ),
    "too little to compare": (
        {"width": [4]},
        [("chaos", None), ("cone", None)],
        "sweep",
        "needs a section chaos or cone; .* nothing to compare",
    ),
    "the name of another study": (
        {"width": [4]},
        [("/studies/tiny__width4", {})],
        "sweep",
        "makes a study 'tiny__width4', a name that another one has",
    ),
    "the name of another cell": (
        {"width": [4], "depth": [2]},
        [("/studies/tiny__width4", copy.deepcopy(BASE["studies"]["tiny"]) | {"sweep": {"depth": [2]}})],
        "studies.tiny__width4.sweep",
        "makes a study 'tiny__width4__depth2'",
    ),
    "run of no cell": ({"width": [4]}, [("/run", ["tiny__width5"])], "run", "names 'tiny__width5', which is neither"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_sweep_names_axis_key_and_value(name):
    axes, edits, key, message = BROKEN[name]
    found = problems_of(sweep(axes, *edits))
    assert list(found) == [key]
    assert re.search(message, found[key]), found[key]


# ---- on one grid


def make_cells(axes, *, curves=CURVES, missing=(), seeds=SEEDS):
    """Transitions and openings of every cell: numbers that tell cells and curves apart."""
    transitions, openings = [], []
    for number, _ in enumerate(itertools.product(*axes.values())):
        found = np.array([(number, place) not in missing for place in range(len(curves))], dtype=np.int8)
        steps = np.where(found, 100.0 * (number + 1) + np.arange(len(curves)), np.nan)
        variables = {
            "found": ("curve", found),
            "reason": ("curve", np.array(["" if one else "it never falls" for one in found], dtype=object)),
            "transition_step": ("curve", steps),
            "transition_lower": ("curve", steps - 20),
            "transition_upper": ("curve", steps + 30),
            "seeds_used": ("curve", np.full(len(curves), len(seeds))),
        }
        transitions.append(xr.Dataset(variables, coords={"curve": np.array(curves, dtype=object)}))
        radius = 5.0 + number + 0.1 * np.arange(len(seeds))
        parts = {"mean": radius.mean(), "lower": radius.mean() - 1, "upper": radius.mean() + 1}
        ends = {f"cone_radius_{part}": value for part, value in parts.items()}
        openings.append(xr.Dataset({"cone_radius": ("seed", radius), **ends}, coords={"seed": list(seeds)}))
    return transitions, openings


def make_sweep(axes, *, seeds=SEEDS, **changes):
    return grid_of_cells(*make_cells(axes, seeds=seeds, **changes), axes=axes, seeds=seeds)


AXES = {"width": [4, 8, 16], "normalization": ["batch", "none"]}


def test_every_cell_is_in_its_place():
    found = make_sweep(AXES, missing=[(3, 1)])
    assert found["transition_step"].dims == ("width", "normalization", "curve")
    assert found["cone_radius"].dims == ("width", "normalization", "seed")
    assert found["transition_step"].sel(width=8, normalization="none", curve=CURVES[2]) == 402
    assert found["cone_radius_mean"].sel(width=16, normalization="batch") == pytest.approx(9.05)
    gone = found.sel(width=8, normalization="none", curve=CURVES[1])
    assert np.isnan(gone["transition_step"])
    assert (gone["found"].item(), gone["reason"].item()) == (0, "it never falls")
    assert (found["found"] == 0).sum() == 1


def test_a_sweep_without_a_cone_has_transitions_only():
    found = grid_of_cells(make_cells(AXES)[0], [], axes=AXES, seeds=SEEDS)
    assert "cone_radius" not in found
    assert found["seed"].values.tolist() == SEEDS


def test_every_variable_is_described_and_read_back(tmp_path):
    found = make_sweep(AXES)
    assert describe(found, DESCRIPTIONS).equals(found)
    write_dataset(tmp_path / "sweep.nc", found, title="A sweep", recipe="{}")
    again = read_dataset(tmp_path / "sweep.nc", recipe={})
    xr.testing.assert_equal(again, found)
    assert again["cone_radius"].attrs["units"] == "degree"


def test_cells_that_do_not_fit_are_refused():
    transitions, openings = make_cells(AXES)
    with pytest.raises(ValueError, match=r"sizes \(3, 2\) need 6 cells, got 5"):
        grid_of_cells(transitions[:5], openings, axes=AXES, seeds=SEEDS)
    with pytest.raises(ValueError, match="need 6 cells, got 4"):
        grid_of_cells(transitions, openings[:4], axes=AXES, seeds=SEEDS)
    with pytest.raises(ValueError, match="same curves"):
        grid_of_cells([*transitions[:5], transitions[5].isel(curve=[0])], openings, axes=AXES, seeds=SEEDS)
    with pytest.raises(ValueError, match=r"the seeds \[0, 1, 2\]"):
        grid_of_cells(transitions, openings, axes=AXES, seeds=[0, 1, 2])


# ---- drawn

DRAWN = {
    "one axis": {"learning_rate": [0.001, 0.01, 0.1, 1.0]},
    "one value": {"width": [4]},
    "words": {"normalization": ["batch", "group", "none"]},
    "from zero": {"label_noise": [0.0, 0.2, 0.4]},
    "three axes": {"width": [4, 8, 64], "depth": [1, 2], "learning_rate": [0.01, 0.1]},
}
MANY = [f"test_loss_barrier {kind} {norm}" for kind in ("gaussian", "gradient") for norm in (1e-07, 1e-5, 0.001)]


@pytest.mark.parametrize("curves", [CURVES, MANY], ids=["curves", "perturbations"])
@pytest.mark.parametrize("name", DRAWN)
def test_it_draws_fits_and_states_n(name, curves, tmp_path):
    with style_context():
        figure = plot_sweep(make_sweep(DRAWN[name], curves=curves, missing=[(0, 0), (1, 0)], seeds=[0, 1, 2]))
        _check_layout(figure)
        assert "n = 3 seeds" in _note(figure)
        save_figure(figure, [tmp_path / "sweep.png", tmp_path / "sweep.svg"])


def test_points_bars_and_crosses_are_where_they_belong():
    figure = plot_sweep(make_sweep(DRAWN["one axis"], missing=[(1, 0), (3, 0), (3, 2)]))
    barrier, growth, velocity, cone = figure.axes
    drawn = barrier.containers[0].lines[0]
    np.testing.assert_array_equal(drawn.get_xdata(), [0.001, 0.01, 0.1, 1.0])
    np.testing.assert_array_equal(drawn.get_ydata(), [100, np.nan, 300, np.nan])
    bars = growth.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[100 * n - 19, 100 * n + 31] for n in (1, 2, 3, 4)])
    crosses = [[line.get_xdata()[0] for line in axes.lines if line.get_marker() == "x"] for axes in figure.axes]
    assert crosses == [[0.01, 1.0], [], [1.0], []]
    assert barrier.texts[0].get_text() == "none"
    assert barrier.get_xscale() == "log"
    assert "kernel velocity" in velocity.get_ylabel()
    np.testing.assert_allclose(cone.containers[0].lines[0].get_ydata(), [5.05, 6.05, 7.05, 8.05])


def test_a_curve_without_any_transition_is_drawn():
    missing = [(cell, curve) for cell in range(4) for curve in range(3)]
    figure = plot_sweep(make_sweep(DRAWN["one axis"], missing=missing))
    _check_layout(figure)
    assert "12 of 12 curves have none" in _note(figure)


def test_crosses_count_the_cells_of_the_other_axes():
    figure = plot_sweep(make_sweep(AXES, missing=[(0, 0), (1, 0), (2, 0)]))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["2", "1"]
