import numpy as np
import pytest
import xarray as xr

from twophase import kernels as measures
from twophase.cone import DESCRIPTIONS, cone_of_seed, cone_of_seeds

STEPS = [0, 10, 20, 50]
LABELS = np.array([0, 1, 2, 0, 1, 2])
SETTINGS = {"classes": 3, "steps": STEPS, "reference_steps": [50, 10], "intervals": [30, 10]}


def kernels(seed=0, dtype=np.float64):
    random = np.random.default_rng(seed)
    factors = random.normal(size=(len(STEPS), 18, 40))
    return [(factor @ factor.T).reshape(6, 3, 6, 3).astype(dtype) for factor in factors]


def cone(seed=0, **changes):
    return cone_of_seed(kernels(seed), LABELS, **SETTINGS | changes)


def test_distances_are_those_of_all_pairs():
    found = cone()["kernel_distance"]
    assert found.dims == ("step", "step_other")
    for step, a in zip(STEPS, kernels(), strict=True):
        for other, b in zip(STEPS, kernels(), strict=True):
            expected = measures.kernel_distance(a, b)
            assert found.sel(step=step, step_other=other).item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_each_kernel_is_measured_at_its_step():
    found = cone()
    for step, kernel in zip(STEPS, kernels(), strict=True):
        at = found.sel(step=step)
        trace = np.einsum("ikjk->ij", kernel)
        assert at["kernel_norm"].item() == pytest.approx(np.linalg.norm(kernel), rel=1e-12)
        assert at["label_alignment"].item() == pytest.approx(measures.label_alignment(trace, LABELS, 3), rel=1e-12)
        assert at["effective_rank"].item() == pytest.approx(measures.effective_rank(trace), rel=1e-12)


def test_reference_distances_are_rows_of_the_matrix_in_the_order_asked():
    found = cone()
    assert found["reference_distance"].dims == ("reference_step", "step")
    assert found["reference_step"].values.tolist() == [50, 10]
    for tau in (50, 10):
        row = found["reference_distance"].sel(reference_step=tau).values
        assert row.tolist() == found["kernel_distance"].sel(step_other=tau).values.tolist()
        assert row[STEPS.index(tau)] == 0


def test_interval_distances_stand_at_their_start_and_are_missing_elsewhere():
    found = cone()
    distances = found["kernel_distance"]
    expected = {
        30: [np.nan, np.nan, distances.sel(step=20, step_other=50), np.nan],
        10: [distances.sel(step=0, step_other=10), distances.sel(step=10, step_other=20), np.nan, np.nan],
    }
    assert found["interval_distance"].dims == ("interval", "step")
    for interval, row in expected.items():
        np.testing.assert_array_equal(found["interval_distance"].sel(interval=interval), np.array(row, dtype=float))


def test_the_velocity_is_that_to_the_next_step():
    found = cone()
    distances = found["kernel_distance"].values
    expected = [distances[0, 1] / 10, distances[1, 2] / 10, distances[2, 3] / 30, np.nan]
    np.testing.assert_allclose(found["kernel_velocity"], expected, rtol=1e-14)


def test_the_projection_is_the_classical_scaling():
    found = cone()
    coordinates, share = measures.classical_scaling(found["kernel_distance"].values)
    np.testing.assert_array_equal(found["projection"], coordinates)
    np.testing.assert_array_equal(found["projection_share"], share)
    assert found["projection"].dims == ("step", "axis")


def test_a_trace_kernel_gives_the_same_alignment_and_rank():
    traces = [np.einsum("ikjk->ij", kernel) for kernel in kernels()]
    of_traces = cone_of_seed(traces, LABELS, **SETTINGS)
    for name in ("label_alignment", "effective_rank"):
        np.testing.assert_allclose(of_traces[name], cone()[name], rtol=1e-12)
    np.testing.assert_allclose(of_traces["kernel_norm"], [np.linalg.norm(trace) for trace in traces], rtol=1e-12)


def test_float32_kernels_are_measured_in_float64():
    single = cone_of_seed(kernels(dtype=np.float32), LABELS, **SETTINGS)
    for name in single.data_vars:
        assert single[name].dtype == np.float64
        if name != "projection":  # its axes may point either way
            np.testing.assert_allclose(single[name], cone()[name], rtol=1e-5, atol=1e-7)


def test_without_intervals():
    assert cone(intervals=[])["interval_distance"].shape == (0, 4)


def test_two_kernels_are_enough():
    found = cone_of_seed(kernels()[:2], LABELS, classes=3, steps=[0, 10], reference_steps=[0], intervals=[10])
    assert found["kernel_velocity"].values[0] == found["kernel_distance"].values[0, 1] / 10


def test_a_reference_that_is_no_step_is_an_error():
    with pytest.raises(ValueError, match="7 is not in list"):
        cone(reference_steps=[7])


def test_seeds_stand_side_by_side_and_everything_is_described():
    cones = {5: cone(5), 2: cone(2)}
    found = cone_of_seeds(cones)
    assert found["seed"].values.tolist() == [5, 2]
    for seed, single in cones.items():
        for name in single.data_vars:
            np.testing.assert_array_equal(found[name].sel(seed=seed), single[name])
            assert found[name].dims == ("seed", *single[name].dims)
    for name in found.variables:
        assert (found[name].attrs["long_name"], found[name].attrs["units"]) == DESCRIPTIONS[name]
    assert set(found.variables) == set(DESCRIPTIONS)
    assert "seed" not in cones[5].coords


def test_seeds_of_other_steps_are_refused():
    other = cone(1).assign_coords(step=[0, 10, 20, 60])
    with pytest.raises((ValueError, xr.AlignmentError)):
        cone_of_seeds({0: cone(), 1: other})
