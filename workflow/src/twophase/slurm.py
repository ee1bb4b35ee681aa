"""Before jobs go to SLURM: none that no partition takes, and none left over from a run that was killed."""

import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from twophase.errors import SchedulerError

SECONDS_UNTIL_GONE = 120.0


def check_limits(jobs: Iterable, partition_of: Callable[[object], str | None], partitions: str) -> None:
    """Refuse jobs that SLURM would let wait for ever, or send away hours later.

    SLURM takes a job whose time exceeds its partition's limit, and never starts it.

    Args:
        jobs: Snakemake's jobs that are to be submitted, with ``rule.name`` and ``resources``.
        partition_of: The partition to which a job will go; None if none takes it.
        partitions: Where the user says what partitions there are, for the message.

    Raises:
        SchedulerError: Naming for each rule what it asks for and what there is.
    """
    limits = limits_of_time()
    problems: dict[str, str] = {}
    for job in jobs:
        name, partition = job.rule.name, partition_of(job)
        asked = ", ".join(f"{key} {job.resources.get(key)}" for key in ("runtime", "mem_mb", "gpu"))
        if partition is None:
            problems.setdefault(name, f"{name} asks for {asked}; no partition of {partitions} takes that")
        elif partition not in limits:
            problems.setdefault(name, f"{name} goes to partition {partition!r}; SLURM has {', '.join(sorted(limits))}")
        elif job.resources.get("runtime", 0) > limits[partition]:
            limit = f"partition {partition!r} ends jobs after {limits[partition]:.0f} minutes"
            problems.setdefault(name, f"{name} asks for {asked}; {limit}")
    if problems:
        raise SchedulerError(
            "SLURM would never start these jobs:\n  "
            + "\n  ".join(problems.values())
            + f"\nSee {partitions}; set device_speed to what a job's device does, a smaller training.checkpoint_every, "
            "or the resource itself (--set-resources RULE:runtime=...)."
        )


def limits_of_time() -> dict[str, float]:
    """SLURM's limit of each partition in minutes."""
    lines = _ask("sinfo", "--noheader", "--format=%R|%l").splitlines()
    return {name: _minutes(limit) for name, limit in (line.split("|") for line in lines)}


def _minutes(text: str) -> float:
    """Read SLURM's ``[days-]hours:minutes:seconds``, ``minutes:seconds`` or ``infinite``."""
    if not text[0].isdigit():
        return float("inf")
    days, _, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    hours, minutes, seconds = [0] * (3 - len(parts)) + parts
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def cancel_left_over_jobs(prefix: str, folder: Path) -> list[str]:
    """Cancel the jobs of a killed Snakemake, which would write the same files as the jobs that replace them.

    Only to be called where no other Snakemake works in the folder.

    Args:
        prefix: How the names of this project's jobs begin.
        folder: The working folder; jobs of other folders are left alone.

    Returns:
        Their numbers.

    Raises:
        SchedulerError: If they don't end.
    """
    found = _left_over_jobs(prefix, folder)
    if found:
        _ask("scancel", *found)
    end = time.monotonic() + SECONDS_UNTIL_GONE
    while left := _left_over_jobs(prefix, folder):
        if time.monotonic() > end:
            raise SchedulerError(f"SLURM jobs {', '.join(left)} of a killed run were cancelled but don't end; wait")
        time.sleep(1.0)
    return found


def _left_over_jobs(prefix: str, folder: Path) -> list[str]:
    lines = (line.split("|") for line in _ask("squeue", "--me", "--noheader", "--format=%i|%j|%Z").splitlines())
    return [number for number, name, place in lines if name.startswith(f"{prefix}_") and Path(place) == folder]


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except FileNotFoundError as error:
        raise SchedulerError(f"{command[0]} was not found: this is no machine that submits jobs to SLURM") from error
    except subprocess.SubprocessError as error:
        said = " ".join((getattr(error, "stderr", None) or str(error)).split())
        raise SchedulerError(f"{' '.join(command)} failed: {said}") from error
