"""What is checked before jobs go to SLURM, with stand-ins for its commands."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from twophase import slurm
from twophase.errors import SchedulerError
from twophase.slurm import cancel_left_over_jobs, check_limits, limits_of_time


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A folder of commands, the only one on the path."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(slurm, "SECONDS_UNTIL_GONE", 0.1)

    def command(name: str, body: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)

    command("sinfo", "echo 'cpu|1-00:00:00'; echo 'gpu|2:00:00'; echo 'fast|30:00'; echo 'free|infinite'")
    return command


def job(name="advance", **resources):
    return SimpleNamespace(rule=SimpleNamespace(name=name), resources=resources)


def test_limits_are_read_in_all_of_slurms_forms(commands):
    assert limits_of_time() == {"cpu": 1440, "gpu": 120, "fast": 30, "free": float("inf")}


def test_jobs_that_fit_pass(commands):
    jobs = [job(runtime=120), job(runtime=10), job("compute_entk")]
    check_limits(jobs, lambda job: "gpu", "partitions.yaml")
    check_limits([job(runtime=10**6)], lambda job: "free", "partitions.yaml")
    check_limits([], lambda job: None, "partitions.yaml")


def test_every_rule_that_would_wait_for_ever_is_named_once_with_what_it_asks_for(commands):
    places = {"advance": "gpu", "compute_entk": None, "measure_tile": "typo"}
    jobs = [job("advance", runtime=121, mem_mb=4000, gpu=1), job("advance", runtime=200, gpu=1)]
    jobs += [job("compute_entk", runtime=10, mem_mb=99000, gpu=1), job("measure_tile", runtime=10)]
    with pytest.raises(SchedulerError) as caught:
        check_limits(jobs, lambda job: places[job.rule.name], "partitions.yaml")
    lines = str(caught.value).splitlines()
    assert lines[1:4] == [
        "  advance asks for runtime 121, mem_mb 4000, gpu 1; partition 'gpu' ends jobs after 120 minutes",
        "  compute_entk asks for runtime 10, mem_mb 99000, gpu 1; no partition of partitions.yaml takes that",
        "  measure_tile goes to partition 'typo'; SLURM has cpu, fast, free, gpu",
    ]
    assert "device_speed" in lines[4]


def test_only_jobs_of_this_folder_and_of_ours_are_cancelled(commands, tmp_path):
    ours, others = Path("/data/study"), Path("/data/another")
    listing = tmp_path / "listing"
    listing.write_text(f"7|twophase_ab|{ours}\n8|twophase_cd|{others}\n9|twophased|{ours}\n10|twophase_ef|{ours}\n")
    commands("squeue", f"cat {listing}")
    commands("scancel", f'echo "$@" > {tmp_path}/cancelled; echo "8|twophase_cd|{others}" > {listing}')
    assert cancel_left_over_jobs("twophase", ours) == ["7", "10"]
    assert (tmp_path / "cancelled").read_text() == "7 10\n"
    assert cancel_left_over_jobs("twophase", ours) == []


def test_jobs_that_do_not_end_are_one_clear_error(commands):
    commands("squeue", "echo '7|twophase_ab|/data/study'")
    commands("scancel", "true")
    with pytest.raises(SchedulerError, match="SLURM jobs 7 of a killed run were cancelled but don't end"):
        cancel_left_over_jobs("twophase", Path("/data/study"))


def test_a_scheduler_that_can_not_be_asked_is_one_clear_error(commands, tmp_path):
    commands("sinfo", "echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SchedulerError, match=r"sinfo .* failed: slurm_load_partitions: Unable to contact"):
        limits_of_time()
    (tmp_path / "sinfo").unlink()
    os.environ["PATH"] = str(tmp_path)
    with pytest.raises(SchedulerError, match="sinfo was not found"):
        limits_of_time()
