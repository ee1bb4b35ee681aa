"""netCDF files that explain themselves: written whole, with what made them, and checked when read."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import netCDF4
import numpy as np
import xarray as xr

import twophase
from twophase.errors import ArtifactError
from twophase.files import whole_file
from twophase.provenance import check_recipe

REFERENCES = {
    "Zhou 2025a": "Zhou, Yang, Sugiyama, Yan: New Evidence of the Two-Phase Learning Dynamics of Neural Networks, "
    "arXiv 2505.13900",
    "Zhou 2025b": "Zhou, Yang, Ren, Sugiyama, Yan: On the Cone Effect in the Learning Dynamics, arXiv 2503.16316",
    "Luo 2021": "Luo, Xu, Ma, Zhang: Phase Diagram for Two-layer ReLU Neural Networks at Infinite-width Limit, JMLR "
    "22, arXiv 2007.07497",
    "Cohen 2021": "Cohen, Kaur, Li, Kolter, Talwalkar: Gradient Descent on Neural Networks Typically Occurs at the "
    "Edge of Stability, arXiv 2103.00065",
    "McCandlish 2018": "McCandlish, Kaplan, Amodei, OpenAI Dota Team: An Empirical Model of Large-Batch Training, "
    "arXiv 1812.06162",
}


def describe(dataset: xr.Dataset, descriptions: dict[str, tuple[str, str]]) -> xr.Dataset:
    """Give variables and coordinates their ``long_name`` and ``units`` ("1" if none).

    Args:
        dataset: Not changed.
        descriptions: (long name, unit) by variable; each variable of the data set must be there.

    Returns:
        The data set with attributes set afresh.

    Raises:
        ValueError: If a variable has no description.
    """
    missing = sorted(set(map(str, dataset.variables)) - set(descriptions))
    if missing:
        raise ValueError(f"these variables have no description: {missing}")
    described = dataset.copy()
    for name in described.variables:
        long_name, unit = descriptions[name]
        described[name].attrs = {"long_name": long_name, "units": unit}
    return described


def write_dataset(
    path: Path | str,
    dataset: xr.Dataset,
    *,
    title: str,
    recipe: str,
    place: str = "{}",
    environment: dict[str, str] | None = None,
) -> None:
    """Write a data set as netCDF4, whole or not at all.

    Args:
        path: File to write.
        dataset: Described variables.
        title: One line: what the file holds.
        recipe: Canonical JSON of what made it.
        place: Which of the rule's files it is, as `twophase.provenance.place_of` says it; by default the only one.
        environment: Device and versions on which it was computed, where they may matter.
    """
    source = f"twophase {twophase.__version__}" + (f", commit {commit}" if (commit := _commit()) else "")
    attributes = {
        "Conventions": "CF-1.12",
        "title": title,
        "source": source,
        "history": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} written by {source}",
        "references": "; ".join(REFERENCES.values()),
        "recipe": recipe,
        "place": place,
        "libraries": f"python {platform.python_version()}, numpy {np.__version__}, xarray {xr.__version__}, "
        f"netCDF4 {netCDF4.__version__}",
    }
    attributes |= {f"computed_on_{key}": value for key, value in (environment or {}).items()}
    # Checksums, so that a damaged file is noticed when it is read; they need chunks, which scalars can't have.
    encoding = {
        name: {"zlib": True, "complevel": 1, "shuffle": True, "fletcher32": True}
        for name, variable in dataset.data_vars.items()
        if variable.dtype.kind in "fiu" and variable.ndim
    }
    with whole_file(Path(path)) as temporary:
        dataset.assign_attrs(attributes).to_netcdf(temporary, engine="netcdf4", encoding=encoding)


def read_dataset(path: Path | str, *, recipe: dict | str, place: str | None = None) -> xr.Dataset:
    """Read a netCDF file into memory and check that the expected recipe made it.

    Args:
        path: The file.
        recipe: The recipe that must have made it, or its digest.
        place: Its place in the study; not checked if None.

    Returns:
        The data set.

    Raises:
        ArtifactError: If the file is damaged, was made by other settings or other code, or is another one's copy.
    """
    try:
        dataset = xr.load_dataset(path, engine="netcdf4")
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{path} is truncated, damaged or not netCDF ({error}); delete it and run again") from error
    if "recipe" not in dataset.attrs:
        raise ArtifactError(f"{path} has no attribute 'recipe': this project did not write it; delete it and run again")
    check_recipe(dataset.attrs["recipe"], recipe, path)
    found = dataset.attrs.get("place")
    if place not in (None, found):
        raise ArtifactError(f"{path} is a copy of the file of {found}, expected {place}; delete it and run again")
    return dataset


@cache
def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
