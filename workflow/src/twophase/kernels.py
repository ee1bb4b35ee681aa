"""Distances and geometry of kernels: how far they turned, how they lie to each other and to the labels.

Nothing here imports PyTorch or xarray; their tensors and arrays are taken as they come. Whatever the kernels' number
type, everything is computed in float64: in float32 a kernel distance carries noise of 5e-5.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

BLOCK = 1 << 22  # float64 numbers held at once: 32 MB
# A distance taken from inner products is a difference of numbers near 1, with a rounding error of about 1e-15. Below
# this one, where that would cost digits, it is computed again from the difference of the unit kernels.
NEAR = 1e-4
# Rounding of a float32 kernel moves its eigenvalues by less than this share of the largest.
EIGENVALUE_TOLERANCE = 1e-6


def kernel_distance(a: Any, b: Any) -> float:
    r"""Distance between the orientations of two kernels, blind to their scale.

    S = 1 - <H, H'>_F / (|H|_F |H'|_F) (Zhou 2025a, arXiv 2505.13900), computed as |u - v|_F^2 / 2 with the unit
    kernels u = H / |H|_F and v = H' / |H'|_F. That is the same number without the cancellation: its relative error
    is about 1e-16 / sqrt(S), so that 1e-10 keeps ten digits, where 1 - <u, v> keeps six.

    Args:
        a: Kernel H of any shape: a tensor on any device, NumPy array or ``xarray.DataArray``.
        b: Kernel H' of the same shape. Two DataArrays must agree in the coordinates along their dimensions.

    Returns:
        S, between 0 and 2; for positive semi-definite kernels between 0 and 1.

    Raises:
        ValueError: If shapes, dimensions or coordinates disagree, or a kernel is zero or not finite.
    """
    _check_coordinates(a, b)
    arrays = _flat_arrays([a, b])
    return _distance_of_directions(*arrays, *(_nonzero_norm(array) for array in arrays))


def kernel_distance_matrix(kernels: Sequence[Any]) -> np.ndarray:
    """Kernel distances between all pairs.

    Inner products of all pairs are summed over blocks of columns, so that no float64 copy of the kernels is made.

    Args:
        kernels: s kernels of one shape, as in :func:`kernel_distance`.

    Returns:
        Symmetric matrix of S, shape ``(s, s)``, float64, exactly 0 on the diagonal.

    Raises:
        ValueError: If there is no kernel, or as in :func:`kernel_distance`.
    """
    if not len(kernels):
        raise ValueError("kernel_distance_matrix needs at least one kernel, got none.")
    for other in kernels[1:]:
        _check_coordinates(kernels[0], other)
    arrays = _flat_arrays(kernels)
    norms = np.array([_nonzero_norm(array) for array in arrays])
    cosines = np.zeros((len(arrays), len(arrays)))
    for part in _parts(arrays[0].size, BLOCK // len(arrays)):
        units = np.stack([array[part] for array in arrays], dtype=np.float64, casting="same_kind") / norms[:, None]
        cosines += units @ units.T
    distances = np.clip(1 - (cosines + cosines.T) / 2, 0, 2)
    for i, j in zip(*np.nonzero(np.triu(distances < NEAR, 1)), strict=True):
        near = _distance_of_directions(arrays[i], arrays[j], norms[i], norms[j])
        distances[i, j] = distances[j, i] = near
    np.fill_diagonal(distances, 0)
    return distances


def kernel_norm(kernel: Any) -> float:
    """Frobenius norm of a kernel, the scale that the kernel distance is blind to.

    Args:
        kernel: Kernel of any shape and kind.

    Returns:
        The norm.

    Raises:
        ValueError: If the kernel is not finite.
    """
    return _norm(_flat_arrays([kernel])[0])


def class_trace(kernel: Any) -> np.ndarray:
    """Sum a kernel over equal classes, sum_k H[i, k, j, k].

    Args:
        kernel: Full kernel, shape ``(n, K, m, K)``, or a class trace, ``(n, m)``.

    Returns:
        The class trace, shape ``(n, m)``, float64.

    Raises:
        ValueError: If the shape is neither.
    """
    array = _as_array(kernel)
    if array.ndim == 2:
        return array.astype(np.float64)
    if array.ndim != 4 or array.shape[1] != array.shape[3]:
        raise ValueError(f"A kernel has shape (n, K, m, K) or (n, m), got {array.shape}.")
    return sum(array[:, k, :, k].astype(np.float64) for k in range(array.shape[1]))


def label_alignment(kernel: Any, labels: ArrayLike, classes: int) -> float:
    """Centred alignment of a kernel with its examples' labels.

    A = <C T C, C Y Y^T C>_F / (|C T C|_F |C Y Y^T C|_F) with the class trace T, the one-hot labels Y and the
    centring matrix C = I - 1 1^T / n (Cortes, Mohri, Rostamizadeh 2012, JMLR 13, equation 4).

    Args:
        kernel: Full kernel, shape ``(n, K, n, K)``, or class trace, ``(n, n)``.
        labels: Integers from 0 to ``classes`` - 1, shape ``(n,)``.
        classes: Number of classes.

    Returns:
        The alignment, from 0 (for a positive semi-definite kernel) to 1.

    Raises:
        ValueError: If labels and kernel don't fit each other, or one of the two is constant.
    """
    trace = _square_trace(kernel)
    labels = np.asarray(labels)
    if labels.shape != (len(trace),):
        raise ValueError(
            f"A kernel of {len(trace)} examples needs labels of shape ({len(trace)},), got {labels.shape}."
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"Labels must be integers from 0 to {classes - 1}, got {labels.min()} to {labels.max()}.")
    onehot = np.eye(classes)[labels]
    onehot -= onehot.mean(axis=0)
    centred, wanted = _centre(trace), onehot @ onehot.T
    norms = np.linalg.norm(centred), np.linalg.norm(wanted)
    if norms[0] <= 1e-12 * np.linalg.norm(trace) or norms[1] == 0:
        raise ValueError("The alignment is undefined: the kernel or the labels are the same for all examples.")
    return float(np.vdot(centred, wanted) / (norms[0] * norms[1]))


def effective_rank(kernel: Any) -> float:
    """Effective rank of a kernel's class trace, exp(-sum_i p_i log p_i) with p_i = lambda_i / sum_j lambda_j.

    The definition is Roy and Vetterli's (2007, EUSIPCO); eigenvalues that rounding made negative count as 0.

    Args:
        kernel: Full kernel, shape ``(n, K, n, K)``, or class trace, ``(n, n)``.

    Returns:
        A number from 1 (rank one) to n (a multiple of the identity).

    Raises:
        ValueError: If the kernel isn't symmetric and positive semi-definite up to float32 rounding, or is zero.
    """
    trace = _square_trace(kernel)
    if np.abs(trace - trace.T).max() > EIGENVALUE_TOLERANCE * np.abs(trace).max():
        raise ValueError("effective_rank needs a symmetric kernel.")
    values = np.linalg.eigvalsh(trace)
    if values[0] < -EIGENVALUE_TOLERANCE * values[-1] or values[-1] <= 0:
        raise ValueError(
            f"effective_rank needs a positive semi-definite kernel other than zero; "
            f"its eigenvalues go from {values[0]:.3g} to {values[-1]:.3g}."
        )
    shares = values[values > 0] / values[values > 0].sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def classical_scaling(distances: ArrayLike, dimensions: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Place kernels in few dimensions such that straight distances between them come close to sqrt(2 S).

    Torgerson's classical multidimensional scaling (1952, Psychometrika 17). The kernel distance S is half a squared
    distance, |u - v|^2 = 2 S between unit kernels, so that the doubly centred matrix is B = -C S C, with
    C = I - 1 1^T / s, and the coordinates are its leading eigenvectors times the roots of their eigenvalues.

    Args:
        distances: Kernel distances S (not their roots), symmetric, shape ``(s, s)``.
        dimensions: Number of coordinates, at most s.

    Returns:
        Coordinates, shape ``(s, dimensions)``, of mean 0, each axis with its largest entry (the first of them)
        positive; and each axis's share of the sum of the positive eigenvalues, shape ``(dimensions,)``.

    Raises:
        ValueError: If the distances aren't a symmetric matrix of at least ``dimensions`` rows.
    """
    matrix = _square(distances)
    if not 1 <= dimensions <= len(matrix):
        raise ValueError(f"dimensions must be from 1 to {len(matrix)}, the number of kernels, got {dimensions}.")
    if not np.allclose(matrix, matrix.T, rtol=1e-9, atol=1e-12):
        raise ValueError("classical_scaling needs a symmetric matrix of distances.")
    values, vectors = np.linalg.eigh(-_centre(matrix))
    values = np.clip(values[::-1], 0, None)
    axes = vectors[:, ::-1][:, :dimensions]
    sizes = np.abs(axes)
    first = np.argmax(sizes >= sizes.max(axis=0) * (1 - 1e-6), axis=0)  # the same one whatever the rounding
    signs = np.where(axes[first, np.arange(dimensions)] < 0, -1.0, 1.0)
    explained = values[:dimensions] / (values.sum() or 1.0)
    return axes * signs * np.sqrt(values[:dimensions]), explained


def interval_distances(steps: ArrayLike, distances: ArrayLike, interval: int) -> tuple[np.ndarray, np.ndarray]:
    """Kernel distances S(theta_t, theta_{t + dt}) over one interval dt.

    Args:
        steps: Training steps of the kernels, increasing integers, shape ``(s,)``.
        distances: Kernel distances S, shape ``(s, s)``.
        interval: The interval dt in steps.

    Returns:
        The steps t for which t and t + dt are both among ``steps``, and the distances there, float64; equally long,
        and empty if there is none.

    Raises:
        ValueError: If the steps don't increase or don't fit the distances.
    """
    steps, distances = _check_steps(steps, distances)
    starts, ends = np.nonzero(steps[None, :] - steps[:, None] == interval)
    return steps[starts], distances[starts, ends]


def kernel_velocity(steps: ArrayLike, distances: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Kernel velocity v = S(theta_t, theta_t') / (t' - t) between consecutive steps t and t'.

    Zhou 2025b (arXiv 2503.16316) after Fort 2020, with intervals as long as those between the steps.

    Args:
        steps: Training steps of the kernels, increasing integers, shape ``(s,)``.
        distances: Kernel distances S, shape ``(s, s)``.

    Returns:
        The midpoints (t + t') / 2 and the velocities in 1 per step, both float64 of shape ``(s - 1,)``.

    Raises:
        ValueError: If the steps don't increase or don't fit the distances.
    """
    steps, distances = _check_steps(steps, distances)
    return (steps[:-1] + steps[1:]) / 2, np.diagonal(distances, 1) / np.diff(steps)


def _as_array(kernel: Any) -> np.ndarray:
    """A NumPy array of a tensor, a DataArray or anything NumPy takes, copied only off a GPU."""
    if hasattr(kernel, "detach"):
        kernel = kernel.detach().cpu()
    return np.asarray(kernel)


def _flat_arrays(kernels: Sequence[Any]) -> list[np.ndarray]:
    """The kernels as one-dimensional arrays; refuses different shapes."""
    arrays = [_as_array(kernel) for kernel in kernels]
    for array in arrays:
        if array.shape != arrays[0].shape:
            raise ValueError(f"Kernels must have one shape, got {arrays[0].shape} and {array.shape}.")
    return [array.reshape(-1) for array in arrays]


def _check_coordinates(a: Any, b: Any) -> None:
    """Refuse two DataArrays of other dimensions or coordinates; scalar coordinates, such as a step, may differ."""
    if not (hasattr(a, "coords") and hasattr(b, "coords")):
        return
    if a.dims != b.dims:
        raise ValueError(f"Kernels must have the same dimensions, got {a.dims} and {b.dims}.")
    for name in a.coords:
        if name in b.coords and a[name].ndim and not np.array_equal(a[name].values, b[name].values):
            raise ValueError(f"Kernels must be of the same examples and classes; their coordinates {name!r} differ.")


def _parts(size: int, width: int) -> Iterator[slice]:
    """Slices of at most ``width`` that cover ``size``."""
    width = max(1, width)
    return (slice(start, start + width) for start in range(0, size, width))


def _norm(array: np.ndarray) -> float:
    """Frobenius norm in float64; refuses what isn't finite."""
    squares = (np.linalg.norm(array[part].astype(np.float64)) ** 2 for part in _parts(array.size, BLOCK))
    norm = math.sqrt(math.fsum(squares))
    if not math.isfinite(norm):
        raise ValueError("A kernel contains NaN or infinity.")
    return norm


def _nonzero_norm(array: np.ndarray) -> float:
    """Frobenius norm; refuses zero."""
    norm = _norm(array)
    if norm == 0:
        raise ValueError("A kernel is zero, so that it has no direction.")
    return norm


def _distance_of_directions(a: np.ndarray, b: np.ndarray, norm_a: float, norm_b: float) -> float:
    """|a / |a| - b / |b||^2 / 2, block by block."""
    squares = []
    for part in _parts(a.size, BLOCK):
        difference = a[part].astype(np.float64) / norm_a - b[part].astype(np.float64) / norm_b
        squares.append(np.vdot(difference, difference))
    return math.fsum(squares) / 2


def _square(matrix: ArrayLike) -> np.ndarray:
    """A square float64 matrix."""
    array = np.asarray(matrix, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
        raise ValueError(f"Expected a square matrix, got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError("The matrix contains NaN or infinity.")
    return array


def _square_trace(kernel: Any) -> np.ndarray:
    """The class trace of a kernel of examples with themselves."""
    return _square(class_trace(kernel))


def _centre(matrix: np.ndarray) -> np.ndarray:
    """C M C with C = I - 1 1^T / n."""
    rows = matrix - matrix.mean(axis=0)
    return rows - rows.mean(axis=1, keepdims=True)


def _check_steps(steps: ArrayLike, distances: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Increasing steps, and distances that fit them."""
    steps, distances = np.asarray(steps), _square(distances)
    if steps.shape != (len(distances),):
        raise ValueError(f"{len(distances)} kernels need steps of shape ({len(distances)},), got {steps.shape}.")
    if not (np.diff(steps) > 0).all():
        raise ValueError(f"Steps must increase, got {steps.tolist()}.")
    return steps, distances
