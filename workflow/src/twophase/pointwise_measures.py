"""One parent, measured at single points of its way: gradient noise and sharpness."""

import copy
import logging
from collections.abc import Iterable

import xarray as xr

from twophase.data import ImageData, class_balanced_examples
from twophase.gradient_noise import batch_gradients, signal_and_noise
from twophase.pointwise import DESCRIPTIONS
from twophase.sharpness import sharpness, stability_threshold
from twophase.storage import describe
from twophase.training import TrainingRun


def measure_pointwise(
    runs: Iterable[TrainingRun],
    data: ImageData,
    settings: dict,
    *,
    probe_examples: int,
    batches: int,
    log: logging.Logger,
) -> xr.Dataset:
    """Measure a parent at single steps; the run, its network's buffers included, is left as it was.

    Args:
        runs: The run at each step, taken one at a time; it may be one object that is trained on in between.
        data: Images.
        settings: Settings of the run.
        probe_examples: Class-balanced, unaugmented training images of the Hessian.
        batches: Batches of the gradient's noise.
        log: Takes a line for each step.

    Returns:
        Data set over step.
    """
    chosen = class_balanced_examples(data.train_labels, probe_examples)
    probe = data.train_images[chosen], data.train_labels[chosen]
    measures: dict[int, dict[str, float]] = {}
    for run in runs:
        network = copy.deepcopy(run.network).train()  # its BatchNorm may count on
        gradients = batch_gradients(network, data, settings, seed=run.seed, step=run.step, batches=batches)
        values = signal_and_noise(gradients)
        values["sharpness"], values["hessian_products"] = sharpness(network, *probe, seed=run.seed, log=log)
        values["stability_threshold"] = stability_threshold(run.step, settings["optimizer"], settings["schedule"])
        log.info(
            "step %d: signal to noise %.3g, gradient norm %.3g, sharpness %.4g in %d products",
            run.step,
            *(values[name] for name in ("gradient_signal_to_noise", "gradient_norm", "sharpness", "hessian_products")),
        )
        measures[run.step] = values
    names = next(iter(measures.values()))
    variables = {name: ("step", [values[name] for values in measures.values()]) for name in names}
    whole = {"batches": batches, "batch_size": settings["batch_size"], "probe_examples": probe_examples}
    return describe(xr.Dataset(variables | whole, coords={"step": list(measures)}), DESCRIPTIONS)
