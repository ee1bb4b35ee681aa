"""Checkpoints: everything that the rest of a run depends on, and what made it, in one file without pickled code."""

import copy
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from twophase.errors import ArtifactError
from twophase.files import whole_file
from twophase.provenance import check_recipe
from twophase.training import TrainingRun


@dataclass(frozen=True)
class Checkpoint:
    """A trajectory at a step.

    ``losses`` are the training losses of the updates ``step - len(losses)`` up to ``step - 1``, those of the job that
    wrote the file; ``environment`` says on what they were computed. ``diverged_at`` is the update at which a run that
    may diverge did so.
    """

    recipe: str
    seed: int
    trajectory: str
    step: int
    network: dict[str, Tensor]
    optimizer: dict
    losses: Tensor
    environment: dict[str, str]
    diverged_at: int | None = None


def checkpoint_of(
    run: TrainingRun, *, trajectory: str, recipe: str, losses: Tensor, environment: dict[str, str]
) -> Checkpoint:
    """The checkpoint of a run at its present step; shares the run's memory."""
    return Checkpoint(
        recipe=recipe,
        seed=run.seed,
        trajectory=trajectory,
        step=run.step,
        network=run.network.state_dict(),
        optimizer=run.optimizer.state_dict(),
        losses=losses,
        environment=environment,
        diverged_at=run.diverged_at,
    )


def restore(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Put a run where the checkpoint was: weights, buffers, optimiser state and step; the two share no memory."""
    run.network.load_state_dict(checkpoint.network)
    run.optimizer.load_state_dict(copy.deepcopy(checkpoint.optimizer))  # PyTorch would keep the tensors themselves
    run.step, run.diverged_at = checkpoint.step, checkpoint.diverged_at


def save_checkpoint(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all."""
    with whole_file(Path(path)) as temporary, temporary.open("wb") as file:  # given a path, it stores the path's name
        torch.save(asdict(checkpoint), file)


def load_checkpoint(path: Path | str, *, recipe: dict, seed: int) -> Checkpoint:
    """Read a checkpoint and check that it is the one that was asked for.

    Args:
        path: A file ``.../seed{seed}/{trajectory}/step{step}.pt``.
        recipe: The recipe that must have made it.
        seed: The run's seed.

    Returns:
        The checkpoint, on the CPU; `restore` puts it where the run is.

    Raises:
        ArtifactError: If the file is damaged, or holds another seed, trajectory or step than its path says, or was
            made by other settings or other code.
    """
    path = Path(path)
    try:
        _check_sums(path)
        checkpoint = Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        first_line = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
        raise ArtifactError(
            f"{path} is truncated, damaged or not a checkpoint ({first_line}); delete it and run again"
        ) from error
    found = (checkpoint.seed, checkpoint.trajectory, f"step{checkpoint.step}")
    expected = (seed, path.parent.name, path.stem)
    if found != expected:
        raise ArtifactError(f"{path} holds (seed, trajectory, step) {found}, expected {expected}; delete it and rerun")
    check_recipe(checkpoint.recipe, recipe, path)
    return checkpoint


def _check_sums(path: Path) -> None:
    """Compare the file's content with its checksums, which ``torch.load`` doesn't look at."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"checksum of {damaged} is wrong")
