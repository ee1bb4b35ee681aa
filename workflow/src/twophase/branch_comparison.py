"""One branch against its parent: every measure of the chaos effect at every t1, and the growth after t0."""

from collections.abc import Callable, Iterable

import numpy as np
import xarray as xr

from twophase.chaos import DESCRIPTIONS
from twophase.comparison import (
    disagreement_rate,
    distances_while_training,
    interpolation_losses,
    logits_of,
    loss_barrier,
    parameter_dissimilarity,
    parameter_distance,
)
from twophase.data import ImageData, class_balanced_examples
from twophase.perturbation import l2_norm
from twophase.storage import describe
from twophase.training import TrainingRun, trainable_parameters


def compare_branch(
    pairs: Iterable[tuple[int, TrainingRun, TrainingRun]],
    both_at_t0: list[TrainingRun],
    data: ImageData,
    *,
    growth_steps: int,
    interpolation_points: int,
    evaluation_examples: int,
    batch_norm_examples: int,
    progress: Callable[..., None],
) -> xr.Dataset:
    """Compare a branch with its parent.

    Args:
        pairs: (t1, parent at t1, branch at t1), taken one at a time.
        both_at_t0: Parent and branch at t0; advanced by ``growth_steps``.
        data: Images.
        growth_steps: Steps after t0 in which the distance is kept at each.
        interpolation_points: Points on the line between the two.
        evaluation_examples: Class-balanced images of each split on which losses are computed.
        batch_norm_examples: Class-balanced training images from which BatchNorm statistics are recomputed.
        progress: Called with a message and its arguments after each t1.

    Returns:
        Data set over t1, interpolation and steps_after.
    """
    examples = {
        split: _subset(images, labels, evaluation_examples)
        for split, images, labels in (
            ("test", data.test_images, data.test_labels),
            ("train", data.train_images, data.train_labels),
        )
    }
    statistics_images, _ = _subset(data.train_images, data.train_labels, batch_norm_examples)
    norm = l2_norm(trainable_parameters(both_at_t0[0].network))
    growth = distances_while_training(*both_at_t0, growth_steps)
    progress("|theta - theta'| from %.3g at t0 to %.3g after %d steps", growth[0], growth[-1], growth_steps)
    at_t1 = {}
    for t1, parent, branch in pairs:
        theta, theta_branch = (trainable_parameters(run.network) for run in (parent, branch))
        curves = interpolation_losses(
            parent.network,
            branch.network,
            points=interpolation_points,
            examples=examples,
            batch_norm_batches=list(statistics_images.chunk(-(-batch_norm_examples // parent.batch_size))),
        )
        logits = [logits_of(run.network, data.test_images) for run in (parent, branch)]
        at_t1[t1] = {
            "parameter_dissimilarity": parameter_dissimilarity(theta, theta_branch),
            "parameter_distance": parameter_distance(theta, theta_branch),
            "disagreement_rate": disagreement_rate(*logits),
            **{f"{split}_loss_barrier": loss_barrier(curve) for split, curve in curves.items()},
            **{f"{split}_interpolation_loss": curve for split, curve in curves.items()},
        }
        progress("t1 = %d: test barrier %.3g", t1, at_t1[t1]["test_loss_barrier"])
    return _dataset(at_t1, growth, norm, interpolation_points)


def _subset(images, labels, count):
    chosen = class_balanced_examples(labels, count)
    return images[chosen], labels[chosen]


def _dataset(at_t1: dict[int, dict], growth: np.ndarray, norm: float, points: int) -> xr.Dataset:
    names = next(iter(at_t1.values()))
    variables = {}
    for name in names:
        values = np.array([measured[name] for measured in at_t1.values()])
        variables[name] = (("t1", "interpolation")[: values.ndim], values)
    dataset = xr.Dataset(
        variables | {"growth_distance": ("steps_after", growth), "parameter_norm": ((), norm)},
        coords={
            "t1": list(at_t1),
            "interpolation": np.linspace(0.0, 1.0, points),
            "steps_after": np.arange(len(growth)),
        },
    )
    return describe(dataset, DESCRIPTIONS)
