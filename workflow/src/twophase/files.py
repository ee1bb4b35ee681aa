"""Files written whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Write beside ``path``, then rename, so that ``path`` holds all of the new content or none of it.

    The temporary file is hidden, keeps the suffix (some writers choose the format by it), and carries the process
    id and a random part, so that writers of one file on several machines don't meet.

    Args:
        path: The file to write; its folder must exist. An older file stays as it is until the new one is complete.

    Yields:
        Path to write to. After an exception in the body it is removed.

    Raises:
        FileNotFoundError: If the body ends without having written the file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
