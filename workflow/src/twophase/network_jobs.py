"""What the scripts that train or evaluate networks read: a study's images and its checkpoints, checked."""

import logging
from pathlib import Path

import torch

from twophase.checkpoint import Checkpoint, load_checkpoint
from twophase.data import ImageData, load_images
from twophase.devices import environment
from twophase.provenance import check_recipe
from twophase.trajectories import PARENT


def load_data(path: Path | str, run_recipe: dict, device: torch.device) -> ImageData:
    """A study's images on the device, in the run's dtype.

    Args:
        path: Prepared images.
        run_recipe: The recipe of the parent's checkpoints: for the run's dtype, and what must have made the images.
        device: Where they go.

    Returns:
        The images.

    Raises:
        ArtifactError: If the file is damaged, or was made by other settings or other code.
    """
    data = load_images(path, device=device, dtype=getattr(torch, run_recipe["settings"]["dtype"]))
    check_recipe(data.recipe, run_recipe["inputs"]["data"], path)
    return data


def load_start(path: Path | str, recipe: dict, seed: int, device: torch.device, log: logging.Logger) -> Checkpoint:
    """A checkpoint, checked; a warning is logged if it was computed elsewhere, as then the last bits may differ.

    Args:
        path: The checkpoint.
        recipe: The recipe that must have made it.
        seed: Seed of the run.
        device: Device of this job.
        log: Takes the warning.

    Returns:
        The checkpoint, on the CPU.
    """
    checkpoint = load_checkpoint(path, recipe=recipe, seed=seed)
    here = environment(device)
    other = {key: value for key, value in checkpoint.environment.items() if value != here[key]}
    if other:
        log.warning(
            "warning: %s was computed with %s, this job has %s; bit-for-bit equality is not to be expected",
            path,
            other,
            {key: here[key] for key in other},
        )
    return checkpoint


def load_linearized_start(
    path: Path | str, recipe: dict, seed: int, device: torch.device, log: logging.Logger
) -> Checkpoint:
    """As `load_start`, for a linearised run: one of its own checkpoints, or of the parent's below the switch.

    Args:
        path: The checkpoint.
        recipe: The recipe of the linearised run's checkpoints, whose input are the parent's.
        seed: Seed of the run.
        device: Device of this job.
        log: Takes a warning if it was computed elsewhere.

    Returns:
        The checkpoint, on the CPU.
    """
    own = Path(path).parent.name != PARENT
    return load_start(path, recipe if own else recipe["inputs"]["checkpoint"], seed, device, log)
