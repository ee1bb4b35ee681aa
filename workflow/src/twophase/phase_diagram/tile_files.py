"""A tile's file: what of it can be kept when its networks change, and what must be computed."""

from pathlib import Path

from twophase.errors import ArtifactError
from twophase.phase_diagram.relative_distance import MEASURES, results_of
from twophase.storage import read_dataset
from twophase.two_layer import Trained


def kept_results(path: Path | str, recipe: dict) -> dict[tuple, dict[str, float]]:
    """The networks of an older file that the same settings and the same code made; none if there is no such file.

    Each network is integrated by itself, so what is kept equals, bit for bit, what would be computed again.
    """
    try:
        return results_of(read_dataset(path, recipe=recipe))
    except (FileNotFoundError, ArtifactError):
        return {}


def measures_of(trained: Trained) -> dict[str, float]:
    """What a tile's file keeps of a network."""
    measures = {name: getattr(trained, name) for name in MEASURES if name != "status"}
    return measures | {"status": trained.status_number}
