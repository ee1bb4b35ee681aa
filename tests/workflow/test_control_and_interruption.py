"""The control experiment, and runs that are killed: what is finished later has the bits of an uninterrupted run."""

import random

import numpy as np
import xarray as xr
from project import Project, netcdf_files


def test_control_is_exactly_zero_and_the_perturbed_branches_are_not(finished):
    chaos = xr.open_dataset(finished.folder / "results/tiny/chaos.nc")
    later = chaos["t1"] > chaos["t0"]
    for name in ("parameter_distance", "parameter_dissimilarity", "disagreement_rate", "test_loss_barrier"):
        control = chaos[name].sel(relative_norm=0.0)
        assert (control.where(later, 0.0) == 0.0).all(), name
    assert (chaos["growth_distance"].sel(relative_norm=0.0) == 0.0).all()
    perturbed = chaos["parameter_distance"].sel(relative_norm=0.01)
    assert (perturbed.where(later, 1.0) > 0.0).all()
    # Step t0 = 5 is no anchor, t0 = 0 is one.
    assert list(chaos["t0"].values) == [0, 5]


def test_the_size_of_the_perturbation_is_the_configured_share(finished):
    chaos = xr.open_dataset(finished.folder / "results/tiny/chaos.nc")
    start = chaos["growth_distance"].sel(relative_norm=0.01, steps_after=0)
    expected = 0.01 * chaos["parameter_norm"]
    np.testing.assert_allclose(*xr.broadcast(start, expected), rtol=1e-5)


def test_linearised_runs_leave_the_parent_at_the_switch_and_keep_their_kernel(finished):
    switching = xr.open_dataset(finished.folder / "results/tiny/switching.nc")
    for s in (0, 6):  # step 6 is no anchor, step 0 is one
        start = switching.sel(switch_step=s, step=s)
        for name in ("test_accuracy", "test_loss", "train_accuracy", "train_loss"):
            assert (start[f"{name}_along"] == start[f"nonlinear_{name}"]).all(), (name, s)
        assert (start["distance_along"] == 0.0).all()
        assert (start["disagreement_rate_along"] == 0.0).all()
    assert (switching["distance"] > 0.0).all()
    assert (switching["kernel_change"] <= 1e-12).all()
    assert (switching["diverged"] == 0).all()


def test_every_netcdf_explains_itself(finished):
    for path in netcdf_files(finished.folder).values():
        dataset = xr.open_dataset(path)
        assert {"Conventions", "title", "source", "recipe"} <= set(dataset.attrs), path
        for name, variable in dataset.variables.items():
            assert variable.attrs.get("long_name"), (path, name)


def test_figures_are_there_and_the_report_is_one_file(finished):
    figures = finished.folder / "results" / "tiny" / "figures"
    assert len(list(figures.glob("*.png"))) == len(list(figures.glob("*.svg"))) == 14
    finished.snakemake("--cores", "1", "--report", "report.html")
    report = (finished.folder / "report.html").read_text()
    assert "classical scaling" in report.lower()
    assert "linearised switching in study" in report.lower()


def test_killed_at_random_moments_and_resumed_equals_uninterrupted(finished, tmp_path):
    """The whole process group is killed with SIGKILL, again and again; then the run is finished."""
    interrupted = Project(tmp_path, finished.config["studies"])
    moments = random.Random(20251122)
    for _ in range(5):
        interrupted.killed_after(moments.uniform(4.0, 16.0))
    interrupted.snakemake("--cores", "2")
    expected, found = netcdf_files(finished.folder), netcdf_files(interrupted.folder)
    assert expected.keys() == found.keys()
    assert sum(name.endswith("linearized.nc") for name in expected) == 8
    for name, path in expected.items():
        assert_same_bits(xr.open_dataset(path), xr.open_dataset(found[name]), name)


def assert_same_bits(expected: xr.Dataset, found: xr.Dataset, name: str) -> None:
    assert set(expected.variables) == set(found.variables), name
    for variable in expected.variables:
        one, other = expected[variable].values, found[variable].values
        assert one.dtype == other.dtype, (name, variable)
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f"), (name, variable)
