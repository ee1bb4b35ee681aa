"""Files written whole or not at all."""

import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twophase.errors import DiskError

SECONDS_UNTIL_LEFT_OVER = 3600.0  # a file that nobody has written to for so long belongs to a writer that was killed


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Write beside ``path``, then rename, so that ``path`` holds all of the new content or none of it.

    The temporary file is hidden, keeps the suffix (some writers choose the format by it), and carries the machine's
    name, the process id and a random part, so that writers of one file on several machines don't meet. What a killed
    writer of the same file left behind is removed.

    Args:
        path: The file to write; its folder must exist. An older file stays as it is until the new one is complete.

    Yields:
        Path to write to. After an exception in the body it is removed.

    Raises:
        DiskError: If the file can't be written; says why, and how much space is left.
        FileNotFoundError: If the body ends without having written the file.
    """
    path = Path(path)
    _remove_left_overs(path)
    temporary = path.with_name(f"{_start_of_name(path)}{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except FileNotFoundError:
        temporary.unlink(missing_ok=True)
        raise
    except (OSError, RuntimeError) as error:  # writers in C, PyTorch's and netCDF's, raise RuntimeError for a full disk
        free = _free_space(path)  # before the unfinished file makes room
        _remove(temporary)
        raise DiskError(f"{path} can't be written ({_first_line(error)}); {free}") from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(temporary: Path) -> None:
    with suppress(OSError):
        os.truncate(temporary, 0)  # a writer in C may still have it open, and would keep its space
    temporary.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_left_overs(path: Path) -> None:
    for other in path.parent.glob(f".{path.stem}.*-????????{path.suffix}"):
        with suppress(OSError):  # another job was quicker, or it isn't ours to remove
            if _ended(other, _start_of_name(path)) or time.time() - other.stat().st_mtime > SECONDS_UNTIL_LEFT_OVER:
                other.unlink()


def _start_of_name(path: Path) -> str:
    return f".{path.stem}.{platform.node()}-"


def _ended(temporary: Path, start: str) -> bool:
    """Whether the process that wrote a temporary file was one of this machine, and is no more."""
    process = temporary.name.removeprefix(start).split("-")[0]
    if not temporary.name.startswith(start) or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    return False


def _free_space(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path.parent).free / 1e6:,.0f} MB of its disk are free"
    except OSError:
        return f"the folder {path.parent} can't be read"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
