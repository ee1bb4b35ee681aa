"""One GPU for each job: a lock file per slot, held as long as the process lives.

Snakemake counts GPUs (``--resources gpu=N``) but assigns none. A job takes the lock of a free slot and shows CUDA that
device alone. The operating system frees a lock when its process ends, however it ends, so that no slot is ever lost,
and a job that outlives a killed Snakemake keeps the GPU that it still uses.
"""

import getpass
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from twophase.errors import DeviceError

VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS_BETWEEN_TRIES = 0.2

_held: list[FileLock] = []  # until the process ends


def lease_devices(
    count: int, *, jobs_per_device: int = 1, waiting: Callable[[str], None] = lambda message: None
) -> str:
    """Take free slots, wait for them if need be, and set ``CUDA_VISIBLE_DEVICES`` to their devices.

    Devices are those of ``CUDA_VISIBLE_DEVICES`` where SLURM or the user set it, else all that ``nvidia-smi`` lists.
    Locks lie in a folder of the user's on this machine; those of a SLURM job are kept apart from all others, as
    what SLURM has given the job is its own.

    Args:
        count: Devices that the job asks for; 0 hides them all, so that no job uses one that it didn't ask for.
        jobs_per_device: Slots of a device, at least 1. Devices with the most free slots are taken first.
        waiting: Takes one message if there is no free slot at once.

    Returns:
        ``CUDA_VISIBLE_DEVICES`` as the job has it; empty on a machine without GPUs, where jobs run on the CPU.

    Raises:
        DeviceError: If ``count`` exceeds the devices there are, or CUDA has started already.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise DeviceError("CUDA has started before a device was leased, so another job's device may be in use")
    if not count:
        os.environ[VISIBLE] = ""
        return ""
    devices = visible_devices()
    if not devices:
        return os.environ.get(VISIBLE, "")
    if count > len(devices):
        raise DeviceError(f"the job asks for gpu={count}, this machine shows {len(devices)}: {', '.join(devices)}")
    os.environ[VISIBLE] = ",".join(_take(devices, count, jobs_per_device, waiting))
    return os.environ[VISIBLE]


def visible_devices() -> dict[str, str]:
    """The devices that this process may use: by the name that CUDA takes, one that all processes lock them by.

    A number and a UUID may name the same GPU, so both lock the UUID, taking CUDA to count as ``nvidia-smi`` does. (By
    default CUDA counts the fastest first, which differs where a machine has several models.)
    """
    uuids = _listed_devices()
    chosen = os.environ.get(VISIBLE)
    if chosen is None:
        return dict(zip(uuids, uuids, strict=True))
    names = [name.strip() for name in chosen.split(",")]
    if "-1" in names:
        names = names[: names.index("-1")]  # as CUDA reads it
    return {name: uuids[int(name)] if name.isdecimal() and int(name) < len(uuids) else name for name in names if name}


def _listed_devices() -> list[str]:
    """UUIDs of the GPUs, in ``nvidia-smi``'s order; of a GPU that is cut into MIG instances those of the instances."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    devices: list[str] = []
    for line in listing.splitlines():
        if "UUID: " not in line:
            continue
        uuid = line.split("UUID: ")[1].split(")")[0].strip()
        if uuid.startswith("MIG-") and devices and devices[-1].startswith("GPU-"):
            devices.pop()  # the GPU itself can't be used then
        devices.append(uuid)
    return devices


def _take(devices: dict[str, str], count: int, jobs_per_device: int, waiting: Callable[[str], None]) -> list[str]:
    folder = _lock_folder()
    told = False
    while True:
        locks = _free_slots(folder, devices, count, jobs_per_device)
        if locks:
            _held.extend(locks.values())
            return list(locks)
        if not told:
            waiting(f"waiting for {count} of {len(devices)} GPU(s), {jobs_per_device} job(s) each")
            told = True
        time.sleep(SECONDS_BETWEEN_TRIES)


def _free_slots(folder: Path, devices: dict[str, str], count: int, jobs_per_device: int) -> dict[str, FileLock]:
    """Locks by device: all that were asked for, or none, so that jobs that want several don't wait for each other."""
    locks: dict[str, FileLock] = {}
    with FileLock(folder / "choosing.lock") if count > 1 else nullcontext():
        for slot in range(jobs_per_device):
            for device, identity in devices.items():
                if device in locks or len(locks) == count:
                    continue
                lock = FileLock(folder / f"{identity.replace('/', '_')}_slot{slot}.lock", thread_local=False)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                locks[device] = lock
    if len(locks) < count:
        for lock in locks.values():
            lock.release()
        return {}
    return locks


def _lock_folder() -> Path:
    """On this machine, not on a shared file system, whose locks are not to be trusted; the user's own."""
    scheduler_job = os.environ.get("SLURM_JOB_ID")
    user_folder = Path(tempfile.gettempdir()) / f"twophase-{getpass.getuser()}"
    user_folder.mkdir(mode=0o700, exist_ok=True)
    if user_folder.is_symlink() or user_folder.stat().st_uid != os.getuid():
        raise DeviceError(f"{user_folder} belongs to somebody else; it should be your own folder of GPU locks")
    folder = user_folder / (f"slurm-{scheduler_job}" if scheduler_job else "local")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
