"""Locks that a killed Snakemake left behind: removed when it is certain that nobody holds them."""

from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout


def clear_stale_locks(state_folder: Path, *, remove: bool = True) -> BaseFileLock | None:
    """Mark this process as one that uses a working folder, and remove Snakemake's locks if no other one does.

    Snakemake's own locks are plain files, which outlive a process that is killed; a run started after that would
    refuse to work until told ``--unlock``. The operating system frees our lock when its process dies, so whoever gets
    it knows that the files are stale. A Snakemake that runs keeps it, and its files are left alone.

    Args:
        state_folder: Snakemake's folder ``.snakemake``.
        remove: Whether to remove Snakemake's locks; not once it has made its own.

    Returns:
        The lock, to be kept as long as the process lives; None if another process has it, if the folder can't be
        written to, or its file system has no locks.
    """
    lock = FileLock(state_folder / "twophase.lock", timeout=0)
    try:
        state_folder.mkdir(exist_ok=True)
        lock.acquire()
    except (Timeout, OSError, NotImplementedError):  # the last: a file system without locks
        return None
    for path in (state_folder / "locks").glob("*.lock") if remove else ():
        path.unlink(missing_ok=True)
    return lock


def held_elsewhere(state_folder: Path) -> bool:
    """Whether another process holds the lock of a working folder; False where its file system has no locks."""
    try:
        with FileLock(state_folder / "twophase.lock", timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
