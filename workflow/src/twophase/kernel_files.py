"""eNTK tensors as netCDF: a kernel with the probe examples that it belongs to."""

from pathlib import Path

import numpy as np
import xarray as xr
from torch import Tensor

from twophase.errors import ArtifactError
from twophase.storage import describe, read_dataset

DESCRIPTIONS = {
    "entk": ("H[i,k,j,l] = <d f_k(x_i)/d theta, d f_l(x_j)/d theta>, without normalisation", "1"),
    "example": ("index of the probe example among the study's training images", "1"),
    "example_other": ("index of the other probe example among the study's training images", "1"),
    "class": ("logit", "1"),
    "class_other": ("logit of the other example", "1"),
    "label": ("class index of the probe example", "1"),
    "seed": ("seed of the run", "1"),
    "step": ("step of the parent", "step"),
}


def kernel_dataset(
    kernel: Tensor, probe: Tensor, labels: Tensor, class_names: tuple[str, ...], *, seed: int, step: int
) -> xr.Dataset:
    """A kernel as a data set.

    Args:
        kernel: eNTK ``(n, K, n, K)`` or its class trace ``(n, n)``.
        probe: Indices of the probe examples among the study's training images, ``(n,)``.
        labels: Their classes, ``(n,)``.
        class_names: Names of the K classes.
        seed: Seed of the run.
        step: Step of the parent.

    Returns:
        ``entk`` over example, class, example_other, class_other; a trace has no class dimensions.
    """
    indices, names = probe.cpu().numpy(), list(class_names)
    dimensions = ("example", "class", "example_other", "class_other")
    coordinates = {
        "example": indices,
        "example_other": indices,
        "label": ("example", labels.cpu().numpy()),
        "seed": seed,
        "step": step,
    }
    if kernel.ndim == 2:
        dimensions = ("example", "example_other")
    else:
        coordinates |= {"class": names, "class_other": names}
    dataset = xr.Dataset({"entk": (dimensions, kernel.cpu().numpy())}, coords=coordinates)
    dataset.attrs["classes"] = len(names)
    return describe(dataset, DESCRIPTIONS)


def read_kernels(
    paths: list[Path | str], seed: int, steps: list[int], *, recipe: dict
) -> tuple[list[np.ndarray], np.ndarray, int]:
    """The kernels of one seed, which must belong to the same probe examples.

    Args:
        paths: One file a step.
        seed: The seed that the files must state.
        steps: The steps that they must state.
        recipe: The recipe that must have made them.

    Returns:
        Kernels, labels of the probe examples ``(n,)`` and the number of classes.

    Raises:
        ArtifactError: If a file is damaged, was made otherwise, or holds another seed, step or probe set.
    """
    datasets = []
    for path, step in zip(paths, steps, strict=True):
        dataset = read_dataset(path, recipe=recipe)
        found = (int(dataset["seed"]), int(dataset["step"]))
        if found != (seed, step):
            raise ArtifactError(f"{path} holds (seed, step) {found}, expected {(seed, step)}; delete it and run again")
        if datasets and not np.array_equal(dataset["example"], datasets[0]["example"]):
            raise ArtifactError(f"{path} has other probe examples than {paths[0]}; delete both and run again")
        datasets.append(dataset)
    first = datasets[0]
    return [dataset["entk"].values for dataset in datasets], first["label"].values, int(first.attrs["classes"])
