"""The staleness table: after each edit of a finished study, exactly what could change is planned."""

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# What follows a change of the chaos side, of the kernels, of either.
TRANSITION = {"find_transitions": 1, "plot_transition": 1, "plot_exponents": 1}
CHAOS = {"collect_chaos": 1, "plot_chaos": 1, **TRANSITION}
CONE = {"measure_cone": 1, "plot_cone": 1, "measure_cone_opening": 1, "plot_cone_opening": 1, **TRANSITION}
POINTWISE = {"collect_pointwise": 1, "plot_pointwise": 1, "plot_transition": 1}
FIGURES = {
    "plot_chaos": 1,
    "plot_cone": 1,
    "plot_cone_opening": 1,
    "plot_transition": 1,
    "plot_exponents": 1,
    "plot_pointwise": 1,
    "plot_switching": 1,
}
MEASURED = {"measure_linearized": 8, "collect_switching": 1, "plot_switching": 1}
LINEARIZED = {"advance_linearized": 16, **MEASURED}
EVERYTHING_OF_TINY = {
    "prepare_data": 0,
    "advance": 22,
    "compare_branch": 8,
    "compute_entk": 8,
    "measure_pointwise": 2,
    **CHAOS,
    **CONE,
    **POINTWISE,
    "record_history": 1,
    "plot_history": 1,
    **LINEARIZED,
    **FIGURES,
}


def set_value(path: str, value):
    """An edit of the config: set a dotted key."""

    def edit(config):
        *sections, key = path.split(".")
        for section in sections:
            config = config[section]
        config[key] = value

    return edit


def append(path: str, value):
    def edit(config):
        for section in path.split("."):
            config = config[section]
        config.append(value)

    return edit


TINY = "studies.tiny."
EDITS = {
    "figure resolution": (set_value("figures", {"dpi": 70}), {"plot_history": 2, **FIGURES}),
    "one more kernel step": (
        append(TINY + "cone.kernel_steps", 15),
        {"compute_entk": 2, **CONE},
    ),
    "one reference step less": (
        set_value(TINY + "cone.reference_steps", [10]),
        CONE,
    ),
    "one more t0": (
        append(TINY + "chaos.perturbation_steps", 12),
        {"advance": 4, "compare_branch": 4, **CHAOS},
    ),
    "one more size": (
        append(TINY + "chaos.relative_norms", 0.1),
        {"advance": 8, "compare_branch": 4, **CHAOS},
    ),
    "one more draw": (
        set_value(TINY + "chaos.draws", 2),
        {"advance": 8, "compare_branch": 4, **CHAOS},
    ),
    "one more kind": (
        set_value(TINY + "chaos.kinds", ["gaussian", "gradient"]),
        {"advance": 8, "compare_branch": 4, **CHAOS, "plot_chaos": 2, "plot_exponents": 2},
    ),
    "one more seed": (
        append(TINY + "seeds", 7),
        {
            "advance": 11,
            "compare_branch": 4,
            "compute_entk": 4,
            "measure_pointwise": 1,
            **CHAOS,
            **CONE,
            **POINTWISE,
            "record_history": 1,
            "plot_history": 1,
            "advance_linearized": 8,
            "measure_linearized": 4,
            "collect_switching": 1,
            **FIGURES,
        },
    ),
    "a longer run": (
        set_value(TINY + "training.length", 40),
        {
            "advance": 4,
            "record_history": 1,
            "plot_history": 1,
            "measure_cone_opening": 1,  # half of a longer run is later
            "plot_cone_opening": 1,
            **LINEARIZED,
        },
    ),
    "more probe examples": (
        set_value(TINY + "cone.probe_examples", 20),
        {"compute_entk": 8, **CONE},
    ),
    "trace instead of full kernel": (
        set_value(TINY + "cone.kernel", "trace"),
        {"compute_entk": 8, **CONE},
    ),
    "one more step of the point-wise measures": (
        append(TINY + "pointwise.steps", 14),
        {"measure_pointwise": 2, **POINTWISE},
    ),
    "level of the intervals": (
        set_value(TINY + "analysis", {"confidence": 0.8}),
        {"measure_cone_opening": 1, "plot_cone_opening": 1, **TRANSITION},
    ),
    "from when on kernels are late": (
        set_value(TINY + "analysis", {"late_from": 6}),
        {"measure_cone_opening": 1, "plot_cone_opening": 1},
    ),
    "more interpolation points": (
        set_value(TINY + "chaos.interpolation_points", 13),
        {"compare_branch": 8, **CHAOS},
    ),
    "one more switch step": (
        append(TINY + "switching.switch_steps", 12),
        {"advance_linearized": 4, "measure_linearized": 4, "collect_switching": 1, "plot_switching": 1},
    ),
    "one switch step less": (
        set_value(TINY + "switching.switch_steps", [0]),
        {"collect_switching": 1, "plot_switching": 1},
    ),
    "one more learning rate": (
        append(TINY + "switching.learning_rates", 0.02),
        {"advance_linearized": 8, "measure_linearized": 4, "collect_switching": 1, "plot_switching": 1},
    ),
    "momentum reset at the switch": (set_value(TINY + "switching.optimizer_state", "reset"), LINEARIZED),
    "a schedule of the linearised runs' own": (
        set_value(TINY + "switching.schedule", {"name": "milestones", "milestones": [15]}),
        LINEARIZED,
    ),
    "more examples to evaluate linearised runs": (set_value(TINY + "switching.evaluation_examples", 60), MEASURED),
    "more examples for the eigenvalue": (set_value(TINY + "switching.probe_examples", 12), MEASURED),
    "published accuracies": (
        set_value(TINY + "switching.published_test_accuracy", {0: 0.1, 6: 0.3}),
        {"plot_switching": 1},
    ),
    "no linearised runs": (set_value(TINY + "switching", None), {}),
    "learning rate": (set_value(TINY + "optimizer.learning_rate", 0.06), EVERYTHING_OF_TINY),
    "batch size": (set_value(TINY + "training.batch_size", 25), EVERYTHING_OF_TINY),
    "model": (set_value(TINY + "model.width", 6), EVERYTHING_OF_TINY),
    "data set": (set_value(TINY + "data.train_examples", 220), EVERYTHING_OF_TINY | {"prepare_data": 1}),
    "constant schedule to a cosine of the same length": (
        set_value(TINY + "schedule", {"name": "cosine"}),
        EVERYTHING_OF_TINY,
    ),
}


@contextmanager
def edited_file(path: Path, added: str, *, old_time: bool = False) -> Iterator[None]:
    """Text added to a file while the context lasts."""
    before, time = path.read_bytes(), path.stat().st_mtime
    path.write_bytes(before + added.encode())
    if old_time:
        os.utime(path, (time, time))
    yield
    path.write_bytes(before)


def without_zeros(counts: dict) -> dict:
    return {rule: number for rule, number in counts.items() if number}


def test_nothing_edited_nothing_runs(finished):
    assert finished.plan().outputs == {}


def test_the_table_of_resources_follows_whatever_runs(finished):
    config = finished.edited(set_value("figures", {"dpi": 70}))
    assert finished.plan(config).outputs["collect_resources"] == ["results/resources.html"]


@pytest.mark.parametrize("name", EDITS)
def test_edit_of_the_config(finished, name):
    edit, expected = EDITS[name]
    assert without_zeros(finished.plan(finished.edited(edit)).counts) == without_zeros(expected)


def test_only_the_new_step_only_the_new_branches(finished):
    plan = finished.plan(finished.edited(EDITS["one more kernel step"][0]))
    assert sorted(plan.outputs["compute_entk"]) == [f"results/tiny/seed{s}/entk/step15.nc" for s in (0, 1)]
    plan = finished.plan(finished.edited(EDITS["one more t0"][0]))
    assert all(re.search(r"/(control|gaussian_norm0.01_draw0)_at12/", path) for path in plan.outputs["advance_branch"])
    plan = finished.plan(finished.edited(EDITS["a longer run"][0]))
    assert sorted(plan.outputs["advance"]) == [
        f"results/tiny/seed{seed}/parent/step{step}.pt" for seed in (0, 1) for step in (30, 40)
    ]
    assert sorted(plan.outputs["advance_linearized"]) == sorted(
        f"results/tiny/seed{seed}/linearized_at{s}_rate{rate}/step{step}.pt"
        for seed, s, rate, step in itertools.product((0, 1), (0, 6), (0.05, 0.01), (30, 40))
    )
    plan = finished.plan(finished.edited(EDITS["one more switch step"][0]))
    assert sorted(plan.outputs["advance_linearized"]) == [
        f"results/tiny/seed{seed}/linearized_at12_rate{rate}/step20.pt" for seed in (0, 1) for rate in (0.01, 0.05)
    ]
    plan = finished.plan(finished.edited(EDITS["one more learning rate"][0]))
    assert all("_rate0.02/" in path for path in plan.outputs["advance_linearized"] + plan.outputs["measure_linearized"])


def test_swapping_two_values_is_an_edit(finished):
    def swap(config):
        optimizer = config["studies"]["tiny"]["optimizer"]
        optimizer["momentum"], optimizer["learning_rate"] = 0.05, 0.9

    assert finished.plan(finished.edited(swap)).counts["advance"] == EVERYTHING_OF_TINY["advance"]


def test_comments_order_of_keys_and_defaults_are_no_edits(finished):
    def reorder(config):
        study = config["studies"]["tiny"]
        study["training"]["length"] = "20 steps"
        study["schedule"] = {"name": "constant", "warmup": 0}
        study["switching"] |= {"switch_steps": [6], "schedule": {"name": "constant"}, "optimizer_state": "carried"}
        config["studies"]["tiny"] = dict(reversed(study.items()))
        config["run"] = ["other", "tiny"]

    assert finished.plan(finished.edited(reorder)).counts == {}


def test_file_times_are_no_edits(finished):
    for path in [*(finished.folder / "workflow").rglob("*"), finished.folder / "Snakefile"]:
        os.utime(path)
    assert finished.plan().counts == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--set-threads", "advance=2"),
        ("--set-threads", "advance_linearized=2", "measure_linearized=2"),
        ("--set-resources", "compute_entk:entk_memory_mb=500"),
        ("--resources", "gpu=1"),
    ],
)
def test_speed_settings_are_no_edits(finished, arguments):
    assert finished.plan(None, *arguments).counts == {}


ADVANCED = {**EVERYTHING_OF_TINY, "advance": 24, "record_history": 2, "plot_history": 2}
KERNELS = {"compute_entk": 8, **CONE}
MODULES = {
    "kernels.py": {**CONE, **MEASURED},
    "cone.py": CONE,
    "plotting/chaos.py": {"plot_history": 2, **FIGURES},  # the package imports all of its modules
    "entk/plain.py": {**KERNELS, **MEASURED},
    "plotting/switching.py": {"plot_history": 2, **FIGURES},
    "switching.py": MEASURED,
    "linearized_measures.py": MEASURED,
    "linearization/network.py": LINEARIZED,  # no branch, no parent
    "linearization/tangent_mode.py": LINEARIZED,
    "linearized_runs.py": LINEARIZED,
    "differentiation/tangents.py": {**KERNELS, **LINEARIZED},
    "branch_comparison.py": {"compare_branch": 8, **CHAOS},
    "batches.py": ADVANCED,
    "models/layers.py": ADVANCED,  # reached through other modules only
    "sources.py": {**ADVANCED, "prepare_data": 2},
    "config.py": {},  # what it decides stands in the recipes
}


@pytest.mark.parametrize("module", MODULES)
def test_edit_of_a_module_reaches_the_scripts_that_import_it(finished, module):
    path = finished.folder / "workflow" / "src" / "twophase" / module
    with edited_file(path, "\nADDED_BY_A_TEST = 1\n", old_time=True):
        assert without_zeros(finished.plan().counts) == without_zeros(MODULES[module])
    with edited_file(path, "\n# a comment\n"):
        assert finished.plan().counts == {}


def test_edit_of_a_script(finished):
    path = finished.folder / "workflow" / "scripts" / "measure_cone.py"
    with edited_file(path, "\nADDED_BY_A_TEST = 1\n"):
        assert finished.plan().counts == CONE


def test_edit_of_the_users_network_and_what_it_imports(project):
    package = project.folder / "mynet"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "net.py").write_text(
        "from torch import nn\n"
        "from .parts import WIDTH\n"
        "def build(*, image_shape, classes):\n"
        "    pixels = image_shape[0] * image_shape[1] * image_shape[2]\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, WIDTH), nn.Linear(WIDTH, classes))\n"
    )
    (package / "parts.py").write_text("WIDTH = 3\n")
    project.config["studies"]["short"]["model"] = {"name": "mynet.net:build"}
    project.write_config(project.config)
    project.snakemake("--cores", "2")
    (package / "parts.py").write_text("WIDTH = 3  # units\n")
    assert project.plan().counts == {}
    (package / "parts.py").write_text("WIDTH = 4\n")
    assert project.plan().counts == {"advance": 2, "record_history": 1, "plot_history": 1}
