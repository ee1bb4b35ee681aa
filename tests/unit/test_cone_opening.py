import numpy as np
import pytest
import xarray as xr
from kernel_paths import confined, distances_of, geodesic, walk

from twophase.cone_opening import (
    AVERAGED,
    DESCRIPTIONS,
    angles,
    angles_to_mean,
    effective_dimension,
    opening_of_cone,
    rate_sums,
)
from twophase.free_drift import free_drift, saturating_distance
from twophase.storage import read_dataset, write_dataset
from twophase.transition.intervals import mean_interval

STEPS = [0, 5, 10, 20, 30, 50, 60]
MILESTONES = {"name": "milestones", "warmup": 0, "milestones": [25], "factor": 0.1}
SETTINGS = {"late_from": 10, "confidence": 0.9, "base_rate": 0.2, "schedule": MILESTONES}


def cone_of(paths, steps=STEPS):
    seeds = list(range(7, 7 + len(paths)))
    paths = np.array(paths)
    growing = np.add.outer(np.arange(1.0, len(paths) + 1), np.arange(len(steps)))
    return xr.Dataset(
        {
            "kernel_distance": (("seed", "step", "step_other"), paths),
            "kernel_norm": (("seed", "step"), growing),
            "label_alignment": (("seed", "step"), growing / 10),
        },
        {"seed": seeds, "step": steps, "step_other": steps, "reference_step": [20, 0, 60]},
    )


def paths_of(seeds=3):
    random = np.random.default_rng(seeds)
    return [confined(random, len(STEPS), 30) for _ in range(seeds)]


def opening(seeds=3, **changes):
    return opening_of_cone(cone_of(paths_of(seeds)), **SETTINGS | changes)


@pytest.mark.parametrize("angle", [1e-7, 0.01, 1.0, 2.0])
def test_angles_of_distances(angle):
    half = 2 * np.sin(angle / 2) ** 2
    assert angles(half) == pytest.approx(np.degrees(angle), rel=1e-9)


@pytest.mark.parametrize("size", [1e-6, 0.1, 3])
def test_angles_to_the_mean_are_those_of_the_vectors(size):
    points = np.ones((6, 5)) + size * np.random.default_rng(0).normal(size=(6, 5))
    late = np.array([False, False, True, True, False, True])
    units = points / np.linalg.norm(points, axis=1, keepdims=True)
    mean = units[late].mean(axis=0)
    mean /= np.linalg.norm(mean)
    expected = np.degrees(2 * np.arcsin(np.linalg.norm(units - mean, axis=1) / 2))
    np.testing.assert_allclose(angles_to_mean(distances_of(points), late), expected, rtol=1e-6)


def test_kernels_that_are_the_same_have_no_angle_to_their_mean():
    assert angles_to_mean(np.zeros((4, 4)), np.array([False, True, True, True])).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("late", [0, 1])
def test_a_mean_of_fewer_than_two_kernels_is_none(late):
    assert np.isnan(angles_to_mean(np.zeros((3, 3)), np.arange(3) < late)).all()


def test_effective_dimensions_of_known_paths():
    assert effective_dimension(1 - np.eye(6)) == pytest.approx(5)
    assert effective_dimension(geodesic(20, angle=1e-3)) == pytest.approx(1, abs=1e-6)
    eigenvalues = np.array([4.0, 1.0, 0.25])
    points = np.concatenate([np.diag(np.sqrt(eigenvalues)), -np.diag(np.sqrt(eigenvalues))])
    path = distances_of(np.concatenate([np.full((6, 1), 1e4), points], axis=1))
    assert effective_dimension(path) == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-3)


def test_free_drift_has_a_low_dimension_by_itself():
    """5/2 for many even steps: (sum 1/k^2)^2 / sum 1/k^4 (Antognini and Sohl-Dickstein 2018)."""
    assert effective_dimension(free_drift(saturating_distance(np.full(400, 1e-6), 0))) == pytest.approx(2.5, abs=0.02)
    path = walk(np.random.default_rng(1), 10, 20_000, decay=0.2)
    assert effective_dimension(path) == pytest.approx(effective_dimension(free_drift(path)), rel=0.03)


@pytest.mark.parametrize("distances", [np.zeros((5, 5)), np.full((5, 5), np.nan), geodesic(2)])
def test_no_dimension_without_motion_or_with_two_kernels(distances):
    assert np.isnan(effective_dimension(distances))


def test_rates_are_summed_from_step_to_step_milestones_included():
    found = rate_sums(STEPS, 0.2, MILESTONES)
    np.testing.assert_allclose(found[:-1], [1, 1, 2, 5 * 0.2 + 5 * 0.02, 0.4, 0.2], rtol=1e-12)
    assert np.isnan(found[-1])


def test_each_measure_is_that_of_the_matrix():
    cone, found = cone_of(paths_of()), opening()
    distances = cone["kernel_distance"].values
    for seed in range(3):
        at = found.isel(seed=seed)
        for tau in (0, 20):
            place = STEPS.index(tau)
            cosine = 1 - distances[seed, place, place + 1 :].max()
            assert at["opening_angle"].sel(reference_step=tau).item() == pytest.approx(np.degrees(np.arccos(cosine)))
        late = np.arange(len(STEPS)) >= 2
        radius = angles_to_mean(distances[seed], late)
        np.testing.assert_allclose(at["angular_radius"], radius)
        assert at["cone_radius"].item() == pytest.approx(np.sqrt(np.mean(radius[2:] ** 2)))
        velocity = np.diagonal(distances[seed], 1) / rate_sums(STEPS, 0.2, MILESTONES)[:-1]
        np.testing.assert_allclose(at["velocity_per_rate"], [*velocity, np.nan])
        assert at["alignment_drift"].item() == pytest.approx(0.4)
        assert at["norm_change"].item() == pytest.approx((seed + 7) / (seed + 3))
        np.testing.assert_array_equal(at["late_distance"].values[2:, 2:], distances[seed, 2:, 2:])
        assert np.isnan(at["late_distance"].values[:2]).all()
        np.testing.assert_allclose(at["late_drift_distance"].values[2:, 2:], free_drift(distances[seed, 2:, 2:]))
    assert np.isnan(found["opening_angle"].sel(reference_step=60)).all(), "no later kernel"


def test_a_rate_of_zero_leaves_no_velocity():
    cosine = {"name": "cosine", "warmup": 0, "length": 30}
    found = opening(schedule=cosine)["velocity_per_rate"].values
    assert np.isnan(found[:, 4:]).all()
    assert np.isfinite(found[:, :4]).all()


def test_intervals_are_students_over_seeds():
    found = opening()
    for name in AVERAGED:
        expected = mean_interval(found[name].values, 0.9)
        assert [found[f"{name}_{end}"].item() for end in ("mean", "lower", "upper")] == pytest.approx(expected)
        assert np.isfinite(expected).all()


def test_one_seed_has_means_but_no_intervals():
    found = opening(seeds=1)
    for name in AVERAGED:
        assert found[f"{name}_mean"].item() == found[name].item()
        assert np.isnan([found[f"{name}_lower"], found[f"{name}_upper"]]).all()
    assert (found["drift_verdict"].item(), found["drift_reason"].item()) == ("undecided", "one seed: no interval")


@pytest.mark.parametrize(("late_from", "count"), [(61, 0), (60, 1), (50, 2), (30, 3)])
def test_too_few_late_kernels_leave_out_what_they_cannot_say(late_from, count):
    found = opening(late_from=late_from)
    assert found["drift_reason"].item() == f"fewer than 4 late kernels: {count}"
    assert np.isfinite(found["cone_radius"]).all() == (count >= 2)
    assert np.isfinite(found["norm_change"]).all() == (count >= 2)
    assert np.isnan(found["inverse_saturation"]).all()
    assert np.isfinite(found["effective_dimension"]).all()
    assert np.isfinite(found["effective_dimension_late"]).all() == (count >= 3)


def test_a_seed_that_diverged_is_left_out_and_said():
    paths = paths_of(4)
    paths[1][4:] = paths[1][:, 4:] = np.nan
    found = opening_of_cone(cone_of(paths), **SETTINGS)
    for name in AVERAGED:
        assert np.isfinite(found[name]).values.tolist() == [True, False, True, True]
        assert np.isfinite(found[f"{name}_upper"])
    assert found["drift_reason"].item().endswith("(1 of 4 seeds left out: not finite)")
    assert np.isnan(found["opening_angle"].isel(seed=1)).all()


@pytest.mark.parametrize("distance", [0, 1e-16])
def test_a_linear_model_has_a_cone_of_no_width(distance):
    paths = [distance * (1 - np.eye(len(STEPS)))] * 3
    found = opening_of_cone(cone_of(paths), **SETTINGS)
    assert found["cone_radius_mean"].item() < 1e-5
    assert found["drift_reason"].item() == "kernels don't move"
    assert np.isnan(found["drift_ratio"]).all()
    np.testing.assert_allclose(found["velocity_per_rate"].values[:, :-1], 0, atol=1e-14)


def test_it_is_described_and_survives_its_file(tmp_path):
    found = opening()
    assert set(found.variables) == set(DESCRIPTIONS)
    write_dataset(tmp_path / "opening.nc", found, title="test", recipe="{}")
    stored = read_dataset(tmp_path / "opening.nc", recipe={})
    xr.testing.assert_equal(stored, found)
    assert stored["drift_verdict"].item() == "confined"
    assert stored["cone_radius_lower"].attrs["units"] == "degree"
