import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from project import ROOT, Project, netcdf_files

FOLDER = "results/phase_diagram/tiny_line"
DISTANCES = f"{FOLDER}/relative_distance.nc"
AFTER_TILES = {"collect_phase_diagram": 1, "fit_regime": 1, "plot_phase_diagram": 1}
EVERYTHING = {"prepare_examples": 1, "measure_tile": 4, "record_orientations": 1, **AFTER_TILES}
ON_NEW_NEURONS = {"record_orientations": 1, "plot_phase_diagram": 1}


def tiny_line() -> dict:
    return yaml.safe_load((ROOT / "studies" / "tiny.yaml").read_text())["phase_diagrams"]["tiny_line"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Project:
    """A small map, run to the end; tests plan edits of it and leave it as it was."""
    project = Project(tmp_path_factory.mktemp("map"), {}, {"tiny_line": tiny_line()})
    project.snakemake("--cores", "2")
    return project


@pytest.fixture
def copied(finished, tmp_path) -> Project:
    """The finished map in a folder of its own, for tests that run it again."""
    return finished.copied(tmp_path / "copy")


def edited(project: Project, **values) -> dict:
    return project.edited(lambda config: config["phase_diagrams"]["tiny_line"].update(values))


def limits_of_time(project: Project, speed: float) -> list[int]:
    """Minutes of each tile, of a map so large that they count."""
    large = edited(project, widths=[10_000_000]) | {"device_speed": speed}
    project.write_config(large)
    text = project.snakemake("--dry-run", "--cores", "2", "--forcerun", "measure_tile").stdout
    project.write_config(project.config)
    jobs = re.findall(r"^rule measure_tile:\n((?:    .*\n)*)", text, re.MULTILINE)
    return [int(re.search(r"runtime=(\d+)", job)[1]) for job in jobs]


def test_a_fast_device_for_networks_leaves_the_limit_of_a_tile_on_the_cpu(copied):
    slow, fast = limits_of_time(copied, 1), limits_of_time(copied, 20)
    assert len(slow) == 4
    assert min(slow) > 20  # the estimate's part outweighs that of the start
    assert fast == slow


def distances(project: Project) -> xr.Dataset:
    return xr.load_dataset(project.folder / FOLDER / "relative_distance.nc")


def kept(project: Project) -> dict[str, str]:
    """What each tile's log says of kept networks."""
    logs = (project.folder / FOLDER / "logs" / "measure_tile").glob("*.log")
    return {log.stem: log.read_text().split("measure_tile: ")[1].splitlines()[0] for log in logs}


EDITS = {
    "nothing": ({}, {}),
    "one more seed": ({"seeds": [0, 1]}, {"measure_tile": 4, **AFTER_TILES}),
    "one more width": ({"widths": [20, 60, 90]}, {"measure_tile": 4, **AFTER_TILES}),
    "a finer grid": ({"gamma": [0.5, 0.75, 1.75]}, {"measure_tile": 2, **AFTER_TILES}),
    "a larger grid": ({"gamma_prime": [0, 0.5, 1.25]}, {"measure_tile": 2, **AFTER_TILES}),
    "the same grid as a range": ({"gamma_prime": [{"start": 0, "stop": 0.5, "every": 0.5}]}, {}),
    "confidence": ({"confidence": 0.9}, {"fit_regime": 1, "plot_phase_diagram": 1}),
    "critical slope": ({"critical_slope": 0.2}, {"fit_regime": 1, "plot_phase_diagram": 1}),
    "other points shown": ({"shown_points": [{"gamma": 1.75, "gamma_prime": 0}]}, ON_NEW_NEURONS),
    "width of the shown": ({"shown_width": 40}, ON_NEW_NEURONS),
    "tolerance": ({"tolerance": 5e-4}, {**EVERYTHING, "prepare_examples": 0}),
    "loss tolerance": ({"loss_tolerance": 1e-4}, {**EVERYTHING, "prepare_examples": 0}),
    "targets": ({"points": {"inputs": [-1, 0, 1], "targets": [0.3, -0.2, 0.5]}}, EVERYTHING),
}


@pytest.mark.parametrize("name", EDITS)
def test_edit_of_the_config(finished, name):
    values, expected = EDITS[name]
    found = finished.plan(edited(finished, **values)).counts
    assert dict(found) == {rule: number for rule, number in expected.items() if number}


MODULES = {
    "two_layer/passes.py": {**EVERYTHING, "prepare_examples": 0},
    "two_layer/network.py": {**EVERYTHING, "prepare_examples": 0},
    "phase_diagram/regimes.py": {"fit_regime": 1, "plot_phase_diagram": 1},
    "phase_diagram/orientations.py": ON_NEW_NEURONS,
    "phase_diagram/examples.py": EVERYTHING,
    "plotting/phase_diagram.py": {"plot_phase_diagram": 1},
    "training.py": {},
}


@pytest.mark.parametrize("module", MODULES)
def test_edit_of_a_module(finished, module):
    path = finished.folder / "workflow" / "src" / "twophase" / module
    before = path.read_text()
    try:
        path.write_text(before + "\nADDED = 1\n")
        assert dict(finished.plan().counts) == {rule: number for rule, number in MODULES[module].items() if number}
    finally:
        path.write_text(before)


def test_memory_and_threads_are_no_edits(finished):
    arguments = ("--set-threads", "measure_tile=2", "--set-resources", "measure_tile:flow_memory_mb=500")
    assert finished.plan(None, *arguments).counts == {}


def test_only_new_networks_are_integrated_and_equal_those_of_a_map_made_at_once(copied, tmp_path):
    before = distances(copied)
    more = {"gamma": [0.5, 0.75, 1.75], "seeds": [0, 1], "widths": [20, 60, 90]}
    copied.write_config(edited(copied, **more))
    copied.snakemake("--cores", "2")
    assert kept(copied) == {
        "gamma0.5_gamma_prime0": "12 networks, 2 of them kept",
        "gamma0.5_gamma_prime0.5": "12 networks, 2 of them kept",
        "gamma1.5_gamma_prime0": "6 networks, 2 of them kept",
        "gamma1.5_gamma_prime0.5": "6 networks, 2 of them kept",
    }
    after = distances(copied)
    xr.testing.assert_identical(after.sel(before.coords).drop_attrs(), before.drop_attrs())
    at_once = Project(tmp_path / "at_once", {}, {"tiny_line": tiny_line() | more})
    at_once.snakemake("--cores", "1", DISTANCES)
    xr.testing.assert_identical(distances(at_once).drop_attrs(), after.drop_attrs())


def test_fewer_networks_are_only_dropped(copied):
    copied.write_config(edited(copied, widths=[60]))
    copied.snakemake("--cores", "2", DISTANCES)
    assert set(kept(copied).values()) == {"1 networks, 1 of them kept"}
    assert distances(copied).width.values.tolist() == [60]


def test_a_damaged_tile_is_made_anew(copied):
    before = distances(copied)
    tile = copied.folder / FOLDER / "tiles" / "gamma0.5_gamma_prime0.nc"
    tile.write_bytes(tile.read_bytes()[:2000])
    copied.snakemake("--cores", "1", DISTANCES)
    assert kept(copied)[tile.stem] == "2 networks, 0 of them kept"
    xr.testing.assert_identical(distances(copied).drop_attrs(), before.drop_attrs())


def test_tiles_of_other_settings_are_noticed_without_snakemakes_records(copied):
    shutil.rmtree(copied.folder / ".snakemake")
    plan = copied.plan(edited(copied, loss_tolerance=1e-4))
    assert plan.counts == {rule: jobs for rule, jobs in EVERYTHING.items() if rule != "prepare_examples"}


def test_killed_at_any_moment_the_map_is_the_same(finished, tmp_path):
    project = Project(tmp_path / "killed", {}, {"tiny_line": tiny_line()})
    for seconds in np.random.default_rng(3).uniform(2, 8, size=3):
        project.killed_after(seconds)
    project.snakemake("--cores", "2")
    whole, interrupted = netcdf_files(finished.folder), netcdf_files(project.folder)
    assert list(whole) == list(interrupted)
    for name, path in whole.items():
        expected, found = xr.load_dataset(path), xr.load_dataset(interrupted[name])
        xr.testing.assert_identical(found.drop_attrs(), expected.drop_attrs())


def test_killed_while_tiles_grow_they_keep_their_networks(copied):
    before = distances(copied)
    copied.write_config(edited(copied, widths=[20, 60, 2000], seeds=[0, 1, 2]))
    for seconds in (4.0, 6.0):
        copied.killed_after(seconds, DISTANCES)
    copied.snakemake("--cores", "2", DISTANCES)
    after = distances(copied)
    assert np.isfinite(after.input_distance).all()
    xr.testing.assert_identical(after.sel(before.coords).drop_attrs(), before.drop_attrs())


def test_tiles_of_another_grid_are_noticed_without_snakemakes_records(copied):
    shutil.rmtree(copied.folder / ".snakemake")
    (copied.folder / DISTANCES).unlink()
    copied.write_config(edited(copied, widths=[20, 60, 90]))
    copied.snakemake("--cores", "1", DISTANCES)
    assert distances(copied).width.values.tolist() == [20, 60, 90]
    assert set(kept(copied).values()) == {"3 networks, 2 of them kept"}


def test_images_are_learned_too(tmp_path):
    images = {"source": "embedded_fashion_mnist", "image_size": 4, "train_examples": 10}
    diagram = tiny_line() | {"points": None, "images": images, "widths": [20, 30], "loss_tolerance": 0.1}
    project = Project(tmp_path, {}, {"images": diagram})
    project.snakemake("--cores", "2")
    folder: Path = project.folder / "results" / "phase_diagram" / "images"
    assert xr.load_dataset(folder / "data.nc").inputs.shape == (10, 17)
    assert np.isfinite(xr.load_dataset(folder / "relative_distance.nc").input_distance).all()
    assert (folder / "figures" / "orientations.png").is_file()
