"""Gradient noise and sharpness along the parents of a study, side by side."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from twophase.storage import describe

DESCRIPTIONS = {
    "seed": ("seed of the run", "1"),
    "step": ("training step", "step"),
    "gradient_signal_to_noise": (
        "gradient_signal over gradient_noise, negative where chance has it; batch_size over it is the simple noise "
        "scale (McCandlish 2018)",
        "1",
    ),
    "gradient_signal": ("unbiased estimate of |G|^2, G the expectation of a batch's gradient", "nat2"),
    "gradient_noise": ("unbiased estimate of the trace of the covariance of a batch's gradient", "nat2"),
    "gradient_norm": ("L2 norm of the mean of the batches' gradients; larger than |G| by noise / batches", "nat"),
    "sharpness": (
        "largest eigenvalue of the Hessian of the mean cross-entropy on the probe examples, BatchNorm on their "
        "statistics, without weight decay; NaN if it was not found",
        "nat",
    ),
    "hessian_products": ("products with the Hessian that the sharpness took", "1"),
    "stability_threshold": (
        "sharpness above which full-batch descent is unstable at the learning rate and momentum of update step: "
        "2 (1 + momentum) / learning rate; NaN for other optimisers than SGD",
        "nat",
    ),
    "batches": ("batches whose gradients gave signal and noise", "1"),
    "batch_size": ("images in a batch", "1"),
    "probe_examples": ("training images of the Hessian", "1"),
}
OF_THE_STUDY = ("stability_threshold", "batches", "batch_size", "probe_examples")  # the same for all seeds


def runs_side_by_side(runs: Mapping[int, xr.Dataset], *, seeds: list[int]) -> xr.Dataset:
    """Put the measures of all seeds in one data set.

    Args:
        runs: For each seed what `twophase.pointwise_measures.measure_pointwise` returned, over the same steps.
        seeds: Seeds, in the order that they shall have.

    Returns:
        The measures over (seed, step), and what all seeds have in common.

    Raises:
        ValueError: If two runs have other steps.
    """
    steps = {tuple(runs[seed]["step"].values.tolist()) for seed in seeds}
    if len(steps) > 1:
        raise ValueError(f"all seeds must be measured at the same steps, got {sorted(steps)}")
    first = runs[seeds[0]]
    variables: dict[str, tuple] = {name: (first[name].dims, first[name].values) for name in OF_THE_STUDY}
    for name in set(first.data_vars) - set(OF_THE_STUDY):
        variables[name] = (("seed", "step"), np.stack([runs[seed][name].values for seed in seeds]))
    dataset = xr.Dataset(dict(sorted(variables.items())), coords={"seed": seeds, "step": first["step"].values})
    return describe(dataset, DESCRIPTIONS)
