"""The lease of a device, with pretended ones: CUDA_VISIBLE_DEVICES names them, and nobody opens them."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from twophase import device_lease
from twophase.device_lease import lease_devices, visible_devices
from twophase.errors import DeviceError

# Takes a slot, says when it has it and which, works, says when it ends; a killed one says nothing more.
HOLDER = """
import sys, time
from twophase.device_lease import lease_devices
count, slots, seconds, trace = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
devices = lease_devices(count, jobs_per_device=slots, waiting=print)
def say(what):
    with open(trace, "a") as file:
        file.write(f"{time.monotonic():.6f} {what} {sys.argv[5]} {devices}\\n")
say("start")
time.sleep(seconds)
say("end")
"""


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    """Locks and tools of this test alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(device_lease.tempfile, "tempdir", None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    yield
    for lock in device_lease._held:
        lock.release()
    device_lease._held.clear()


def nvidia_smi(tmp_path: Path, *lines: str) -> None:
    (tmp_path / "bin").mkdir(exist_ok=True)
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    tool.chmod(0o755)


def start(tmp_path: Path, name: str, *, devices: str, count=1, slots=1, seconds=0.0) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLDER, str(count), str(slots), str(seconds), str(tmp_path / "trace"), name]
    return subprocess.Popen(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": devices}, stdout=subprocess.PIPE)


def wait_until_started(tmp_path: Path, *names: str) -> None:
    for _ in range(600):
        text = (tmp_path / "trace").read_text() if (tmp_path / "trace").exists() else ""
        if all(f"start {name} " in text for name in names):
            return
        time.sleep(0.05)
    raise AssertionError(f"{names} did not start: {text}")


def test_without_a_gpu_jobs_run_on_the_cpu_and_nothing_is_set():
    assert lease_devices(1) == ""
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_job_that_asks_for_none_sees_none(tmp_path):
    nvidia_smi(tmp_path, "GPU 0: Model (UUID: GPU-aaaa)")
    lease_devices(0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_devices_are_listed_by_nvidia_smi_and_leased_one_by_one(tmp_path):
    nvidia_smi(tmp_path, "GPU 0: Model (UUID: GPU-aaaa)", "GPU 1: Model (UUID: GPU-bbbb)")
    assert lease_devices(1) == "GPU-aaaa"
    del os.environ["CUDA_VISIBLE_DEVICES"]
    assert lease_devices(1) == "GPU-bbbb"


def test_a_gpu_cut_into_instances_is_leased_by_instance(tmp_path):
    nvidia_smi(
        tmp_path,
        "GPU 0: Model (UUID: GPU-aaaa)",
        "  MIG 1g.10gb     Device  0: (UUID: MIG-1111)",
        "  MIG 1g.10gb     Device  1: (UUID: MIG-2222)",
        "GPU 1: Model (UUID: GPU-bbbb)",
    )
    assert list(visible_devices()) == ["MIG-1111", "MIG-2222", "GPU-bbbb"]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [("1", {"1": "GPU-bbbb"}), ("GPU-aaaa", {"GPU-aaaa": "GPU-aaaa"}), ("", {}), ("0,-1,1", {"0": "GPU-aaaa"})],
)
def test_the_choice_of_slurm_or_the_user_stands(tmp_path, monkeypatch, chosen, expected):
    nvidia_smi(tmp_path, "GPU 0: Model (UUID: GPU-aaaa)", "GPU 1: Model (UUID: GPU-bbbb)")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_devices() == expected


def test_a_number_and_a_uuid_are_the_same_device(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, "GPU 0: Model (UUID: GPU-aaaa)", "GPU 1: Model (UUID: GPU-bbbb)")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert lease_devices(1) == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaaa,GPU-bbbb")
    assert lease_devices(1) == "GPU-bbbb"


def test_more_devices_than_there_are_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    with pytest.raises(DeviceError, match=r"gpu=3, this machine shows 2: 3, 7"):
        lease_devices(3)


def test_several_jobs_share_a_device_if_told_to_the_emptiest_first(monkeypatch):
    taken = []
    for _ in range(4):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        taken.append(lease_devices(1, jobs_per_device=2))
    assert taken == ["0", "1", "0", "1"]


def test_a_slurm_job_has_what_slurm_gave_it(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    lease_devices(1)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert lease_devices(1) == "0"  # on the same machine both may be called 0, and be two


def test_cuda_must_not_have_started(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(DeviceError, match="before a device was leased"):
        lease_devices(1)


def test_a_killed_holder_frees_its_slot_and_who_waits_says_so(tmp_path):
    holder = start(tmp_path, "holder", devices="0", seconds=60)
    wait_until_started(tmp_path, "holder")
    waiter = start(tmp_path, "waiter", devices="0")
    assert waiter.stdout.readline() == b"waiting for 1 of 1 GPU(s), 1 job(s) each\n"
    holder.kill()
    assert waiter.wait(timeout=30) == 0
    holder.wait()


def test_jobs_that_want_several_devices_do_not_wait_for_each_other(tmp_path):
    jobs = [start(tmp_path, str(number), devices="0,1,2", count=2, seconds=0.05) for number in range(6)]
    assert [job.wait(timeout=120) for job in jobs] == [0] * 6


@pytest.mark.parametrize("slots", [1, 2])
def test_no_two_jobs_share_a_slot_over_hundreds_of_starts_and_kills(tmp_path, slots):
    choose = random.Random(slots)
    jobs: list[subprocess.Popen] = []
    for number in range(150):
        jobs.append(start(tmp_path, str(number), devices="0,1,2,3", slots=slots, seconds=choose.uniform(0.0, 0.1)))
        alive = [job for job in jobs if job.poll() is None]
        if number % 5 == 0:
            choose.choice(alive).send_signal(signal.SIGKILL)
        while len(alive) > 16:
            time.sleep(0.005)
            alive = [job for job in alive if job.poll() is None]
    ends = [job.wait(timeout=300) for job in jobs]
    assert set(ends) == {0, -signal.SIGKILL}
    assert ends.count(0) > 100
    most = most_at_once(tmp_path / "trace")
    assert set(most) == {"0", "1", "2", "3"}
    assert max(most.values()) == slots


def most_at_once(trace: Path) -> dict[str, int]:
    """For each device the largest number of jobs that held it at a time; of a killed job only its start counts."""
    events = [line.split() for line in trace.read_text().splitlines()]
    killed = {name for _, _, name, _ in events} - {name for _, what, name, _ in events if what == "end"}
    holding: dict[str, int] = {}
    most: dict[str, int] = {}
    for _, what, name, device in sorted(events, key=lambda event: float(event[0])):
        holding[device] = holding.get(device, 0) + (1 if what == "start" else -1)
        most[device] = max(most.get(device, 0), holding[device])
        if name in killed and what == "start":
            holding[device] -= 1
    return most
