import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

from twophase import kernels
from twophase.kernels import (
    class_trace,
    classical_scaling,
    effective_rank,
    interval_distances,
    kernel_distance,
    kernel_distance_matrix,
    kernel_norm,
    kernel_velocity,
    label_alignment,
)


def random_kernel(seed, n=6, classes=3, dtype=np.float64):
    factor = np.random.default_rng(seed).normal(size=(n * classes, 2 * n * classes))
    return (factor @ factor.T).reshape(n, classes, n, classes).astype(dtype)


def turned(kernel, distance, seed=0):
    """A kernel of the same norm at a given kernel distance, S = 2 sin(angle / 2)^2."""
    other = np.random.default_rng(seed).normal(size=kernel.shape)
    unit = kernel / np.linalg.norm(kernel)
    other -= np.vdot(other, unit) * unit
    other /= np.linalg.norm(other)
    angle = 2 * math.asin(math.sqrt(distance / 2))
    return np.linalg.norm(kernel) * (math.cos(angle) * unit + math.sin(angle) * other)


def labelled(kernel, examples, **scalars):
    classes = kernel.shape[1]
    coords = {"example": examples, "class": range(classes), "example_other": examples, "class_other": range(classes)}
    return xr.DataArray(kernel, dims=("example", "class", "example_other", "class_other"), coords=coords | scalars)


def test_distance_follows_the_formula():
    a, b = random_kernel(0), random_kernel(1)
    expected = 1 - np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b))
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_distance_of_hand_made_kernels():
    a = np.diag([1.0, 0.0])
    assert kernel_distance(a, 2 * a) == 0
    assert kernel_distance(a, 3e7 * a) < 1e-30
    assert kernel_distance(a, np.diag([0.0, 5.0])) == pytest.approx(1, rel=1e-15)
    assert kernel_distance(a, np.eye(2)) == pytest.approx(1 - math.sqrt(0.5), rel=1e-14)
    assert kernel_distance(a, -a) == 2


@pytest.mark.parametrize("distance", [1e-16, 1e-10, 1e-7, 1e-3, 0.3])
def test_small_distances_do_not_drown(distance):
    a = random_kernel(0)
    kernel_list = [a, turned(a, distance)]
    assert kernel_distance(*kernel_list) == pytest.approx(distance, rel=1e-7)
    assert kernel_distance_matrix(kernel_list)[0, 1] == pytest.approx(distance, rel=1e-7)


def test_float32_kernels_are_measured_in_float64():
    a, b = random_kernel(0, dtype=np.float32), random_kernel(1, dtype=np.float32)
    expected = kernel_distance(a.astype(np.float64), b.astype(np.float64))
    assert kernel_distance(a, b) == expected
    assert kernel_distance_matrix([a, b])[0, 1] == pytest.approx(expected, rel=1e-13)


def test_kinds_of_arrays_can_be_mixed():
    a, b = random_kernel(0), random_kernel(1)
    expected = kernel_distance(a, b)
    assert kernel_distance(torch.tensor(a, requires_grad=True), torch.tensor(b)) == expected
    assert kernel_distance(labelled(a, range(6), step=1), labelled(b, range(6), step=2)) == expected
    assert kernel_distance(labelled(a, range(6)), torch.tensor(b)) == expected


def test_distance_refuses_what_does_not_fit():
    a = random_kernel(0)
    with pytest.raises(ValueError, match=r"one shape, got \(6, 3, 6, 3\) and \(6, 6\)"):
        kernel_distance(a, class_trace(a))
    with pytest.raises(ValueError, match="coordinates 'example' differ"):
        kernel_distance(labelled(a, range(6)), labelled(a, range(1, 7)))
    with pytest.raises(ValueError, match="same dimensions"):
        kernel_distance(labelled(a, range(6)), labelled(a, range(6)).transpose("class", ...))
    with pytest.raises(ValueError, match="zero"):
        kernel_distance(a, 0 * a)
    with pytest.raises(ValueError, match="NaN or infinity"):
        kernel_distance(a, np.nan * a)
    with pytest.raises(ValueError, match="coordinates 'example' differ"):
        kernel_distance_matrix([labelled(a, range(6)), labelled(a, range(6)), labelled(a, range(1, 7))])
    with pytest.raises(ValueError, match="at least one kernel"):
        kernel_distance_matrix([])


@pytest.mark.parametrize("block", [1, 100, 1 << 22])
def test_matrix_holds_all_pairs_whatever_the_blocks(block, monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK", block)
    several = [random_kernel(seed, n=4) * 10.0**seed for seed in range(4)]
    several += [several[0] * 3, turned(several[1], 1e-10)]
    matrix = kernel_distance_matrix(several)
    expected = [[kernel_distance(a, b) if a is not b else 0 for b in several] for a in several]
    np.testing.assert_allclose(matrix, expected, rtol=1e-10, atol=1e-30)
    assert matrix.dtype == np.float64
    assert np.array_equal(matrix, matrix.T)
    assert not np.diagonal(matrix).any()


def test_norm_and_class_trace():
    kernel = random_kernel(0, dtype=np.float32)
    assert kernel_norm(kernel) == pytest.approx(np.linalg.norm(kernel.astype(np.float64)), rel=1e-14)
    assert kernel_norm(np.zeros((2, 2))) == 0
    trace = class_trace(torch.tensor(kernel))
    assert trace.dtype == np.float64
    np.testing.assert_allclose(trace, np.einsum("ikjk->ij", kernel.astype(np.float64)), rtol=1e-14)
    np.testing.assert_array_equal(class_trace(trace), trace)
    assert class_trace(kernel[:2]).shape == (2, 6)
    with pytest.raises(ValueError, match=r"got \(6, 3, 6, 2\)"):
        class_trace(kernel[..., :2])


def test_label_alignment():
    labels = np.array([0, 0, 1, 1, 2, 2])
    onehot = np.eye(3)[labels]
    assert label_alignment(5 + 2 * onehot @ onehot.T, labels, 3) == pytest.approx(1, rel=1e-12)
    orthogonal = np.tile([1.0, -1.0], 3)  # within each class, against the labels
    assert label_alignment(np.outer(orthogonal, orthogonal), labels, 3) == pytest.approx(0, abs=1e-15)
    kernel = random_kernel(0)
    centring = np.eye(6) - 1 / 6
    centred, wanted = centring @ class_trace(kernel) @ centring, centring @ onehot @ onehot.T @ centring
    expected = np.sum(centred * wanted) / (np.linalg.norm(centred) * np.linalg.norm(wanted))
    assert label_alignment(kernel, labels, 3) == pytest.approx(expected, rel=1e-12)


def test_label_alignment_refuses_what_does_not_fit():
    kernel = random_kernel(0)
    with pytest.raises(ValueError, match=r"labels of shape \(6,\), got \(5,\)"):
        label_alignment(kernel, np.zeros(5, int), 3)
    with pytest.raises(ValueError, match="from 0 to 2, got 0 to 5"):
        label_alignment(kernel, np.arange(6), 3)
    with pytest.raises(ValueError, match="the same for all examples"):
        label_alignment(kernel, np.zeros(6, int), 3)
    with pytest.raises(ValueError, match="the same for all examples"):
        label_alignment(np.ones((6, 6)), np.arange(6) % 3, 3)
    with pytest.raises(ValueError, match="square"):
        label_alignment(kernel[:2], np.zeros(2, int), 3)


def test_effective_rank():
    assert effective_rank(3 * np.eye(7)) == pytest.approx(7, rel=1e-12)
    vector = np.arange(1.0, 6.0)
    assert effective_rank(np.outer(vector, vector).astype(np.float32)) == pytest.approx(1, abs=1e-4)
    assert effective_rank(np.diag([1.0, 1.0, 0.0, 0.0])) == pytest.approx(2, rel=1e-12)
    assert effective_rank(np.diag([1.0, 1.0, -1e-8])) == pytest.approx(2, rel=1e-12)
    shares = np.array([0.5, 0.3, 0.2])
    assert effective_rank(np.diag(4 * shares)) == pytest.approx(np.exp(-np.sum(shares * np.log(shares))))
    with pytest.raises(ValueError, match=r"from -0\.1 to 1"):
        effective_rank(np.diag([1.0, -0.1]))
    with pytest.raises(ValueError, match="other than zero"):
        effective_rank(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="symmetric"):
        effective_rank(np.array([[1.0, 0.1], [0.0, 1.0]]))


def test_classical_scaling_recovers_a_plane():
    points = np.random.default_rng(0).normal(size=(9, 2)) * [3, 1]
    squared = np.sum((points[:, None] - points[None]) ** 2, axis=-1)
    coordinates, explained = classical_scaling(squared / 2, 3)
    found = np.sum((coordinates[:, None] - coordinates[None]) ** 2, axis=-1)
    np.testing.assert_allclose(found, squared, atol=1e-12)
    np.testing.assert_allclose(coordinates.mean(axis=0), 0, atol=1e-7)
    assert explained[0] > explained[1] > 1e-3
    assert explained.sum() == pytest.approx(1)
    assert explained[2] < 1e-12


def test_classical_scaling_has_one_sign():
    points = np.array([[-3.0, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, -1.0]])
    squared = np.sum((points[:, None] - points[None]) ** 2, axis=-1)
    coordinates, _ = classical_scaling(squared / 2)
    np.testing.assert_allclose(coordinates, [[3, 0], [-1, 1], [-1, 0], [-1, -1]], atol=1e-12)


def test_classical_scaling_of_unit_kernels_is_their_principal_components():
    several = [random_kernel(seed, n=3) for seed in range(5)]
    units = np.stack([kernel.ravel() / np.linalg.norm(kernel) for kernel in several])
    centred = units - units.mean(axis=0)
    coordinates, _ = classical_scaling(kernel_distance_matrix(several), 4)
    np.testing.assert_allclose(coordinates @ coordinates.T, centred @ centred.T, atol=1e-12)


def test_classical_scaling_edges():
    coordinates, explained = classical_scaling(np.zeros((3, 3)))
    assert not coordinates.any()
    assert not explained.any()
    with pytest.raises(ValueError, match="from 1 to 3"):
        classical_scaling(np.zeros((3, 3)), 4)
    with pytest.raises(ValueError, match="symmetric"):
        classical_scaling(np.triu(np.ones((3, 3))))


def test_intervals_and_velocity():
    steps = np.array([0, 10, 20, 40])
    distances = np.abs(steps[:, None] - steps[None]) / 100 + (steps[:, None] * steps[None] == 200) * 0.5
    starts, values = interval_distances(steps, distances, 10)
    np.testing.assert_array_equal(starts, [0, 10])
    np.testing.assert_allclose(values, [0.1, 0.6])
    starts, values = interval_distances(steps, distances, 20)
    np.testing.assert_array_equal(starts, [0, 20])
    assert interval_distances(steps, distances, 7)[1].shape == (0,)
    midpoints, velocity = kernel_velocity(steps, distances)
    np.testing.assert_array_equal(midpoints, [5, 15, 30])
    np.testing.assert_allclose(velocity, [0.01, 0.06, 0.01])
    assert kernel_velocity([3], [[0.0]])[1].shape == (0,)
    with pytest.raises(ValueError, match="must increase"):
        kernel_velocity([0, 10, 10, 40], distances)
    with pytest.raises(ValueError, match=r"steps of shape \(4,\), got \(3,\)"):
        interval_distances([0, 10, 20], distances, 10)


def test_module_needs_neither_torch_nor_xarray():
    code = "import sys, twophase.kernels; assert not {'torch', 'xarray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
