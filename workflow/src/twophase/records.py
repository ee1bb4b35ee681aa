"""Snakemake's records of results, restored from the results themselves where they are lost or lie.

Snakemake notices a changed setting by its record of the last run, in ``.snakemake/``. A file without a record (the
folder was deleted, the results were copied, a job outlived a killed Snakemake) would be taken as it is, for ever. But
every file of ours carries what made it. So before anything is planned, each file that Snakemake has no record of, or
that was written again after its record, is read: if it is whole and carries what the config asks for now, it gets that
as its record, else one that says that it was made otherwise, which makes Snakemake run its rule again.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from twophase.provenance import digest

MADE_OTHERWISE = "made by other settings or other code, or damaged"
HEAD = 65536  # bytes of a figure among which the digest of its recipe stands
TAIL = 32  # bytes at the end of a figure, among which stands how a whole one ends
ENDS = {".png": b"IEND", ".svg": b"</svg>", ".html": b"</html>"}
RECORD_FORMAT_VERSION = 6


@dataclass(frozen=True)
class Expected:
    """What a result must carry: the texts of its rule's parameters, and in a netCDF file its place in the study.

    ``inputs`` gives the files from which its rule makes it.
    """

    rule: str
    parameters: tuple[str, ...]
    place: str
    inputs: Callable[[], list[str]] = list


def restore_records(
    persistence,
    results: Path,
    expected: Callable[[str], Expected | None],
    *,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, bool]:
    """Give every result a record that agrees with its content.

    Args:
        persistence: Snakemake's ``FilePersistence``.
        results: The folder ``results``, relative to the working folder, as Snakemake names files.
        expected: What the file of a path must carry; None for a file that no rule makes.
        progress: Takes one message if there are files to read.

    Returns:
        For each file that was read, whether it carries what is expected.
    """
    unknown = {}
    for path in sorted(path for path in results.rglob("*") if path.is_file() and not path.name.startswith(".")):
        record = persistence._read_record(str(path))
        if _vouched(record, path):
            continue
        wanted = expected(str(path))
        if wanted and not _known_to_differ(record, path, wanted):
            unknown[path] = wanted
    if unknown:
        progress(f"reading {len(unknown)} results of which Snakemake has no record, to see what made them")
    agrees = {path: carries(path, wanted) for path, wanted in unknown.items()}
    checksum = cache(_checksum)
    for path, wanted in unknown.items():
        # By these Snakemake knows that an input is newer by its time alone (copied, the clock set), not by content.
        inputs = [Path(name) for name in wanted.inputs()] if agrees[path] else []
        checksums = {str(one): checksum(one) for one in inputs if one.is_file()}
        _write_record(persistence, path, wanted, agrees[path], checksums)
    return {str(path): agreed for path, agreed in agrees.items()}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _vouched(record, path: Path) -> bool:
    """Whether the record was made for the file as it is now, by the job that wrote it or by us."""
    return _fresh(record, path) and not any(MADE_OTHERWISE in parameter for parameter in record.params or [])


def _known_to_differ(record, path: Path, wanted: Expected) -> bool:
    """Whether it was found to be another file than this one when it was last read."""
    return _fresh(record, path) and record.params == [_otherwise(wanted)]


def _fresh(record, path: Path) -> bool:
    return record is not None and record.endtime is not None and abs(record.endtime - path.stat().st_mtime) < 1e-3


def _otherwise(wanted: Expected) -> str:
    """The record's parameter of a file that was made otherwise; names what was wanted then."""
    return repr(f"{MADE_OTHERWISE} (wanted: {digest(' '.join((*wanted.parameters, wanted.place)))})")


def _write_record(persistence, path: Path, wanted: Expected, agrees: bool, checksums: dict[str, str]) -> None:
    from snakemake.persistence import MetadataRecord

    time = path.stat().st_mtime
    record = MetadataRecord(
        rule=wanted.rule,
        params=sorted(map(repr, wanted.parameters)) if agrees else [_otherwise(wanted)],
        record_format_version=RECORD_FORMAT_VERSION,
        starttime=time,
        endtime=time,
        incomplete=False,
        input_checksums=checksums,
    )
    persistence._write_record(str(path), record)


def carries(path: Path, wanted: Expected) -> bool:
    """Whether a result is whole and was made by what is expected; reads all of it."""
    reader = READERS.get(path.suffix, _figure_carries)
    try:
        return reader(path, wanted)
    except (OSError, RuntimeError, ValueError, LookupError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
        return False  # truncated, damaged, or of another kind


def _checkpoint_carries(path: Path, wanted: Expected) -> bool:
    with zipfile.ZipFile(path) as archive:
        if archive.testzip():
            return False
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        content = archive.read(names[0])  # searched, never unpickled
    return all(text.encode() in content for text in wanted.parameters)


def _dataset_carries(path: Path, wanted: Expected) -> bool:
    import netCDF4

    with netCDF4.Dataset(path) as file:
        attributes = {name: file.getncattr(name) for name in file.ncattrs()}
        for variable in file.variables.values():
            variable[...]  # compares checksums
    texts = {str(value) for value in attributes.values()}
    return texts.issuperset(wanted.parameters) and attributes.get("place", wanted.place) == wanted.place


def _text_carries(path: Path, wanted: Expected) -> bool:
    return path.read_text().strip() in wanted.parameters


def _figure_carries(path: Path, wanted: Expected) -> bool:
    with path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(max(0, path.stat().st_size - TAIL))
        whole = ENDS.get(path.suffix, b"") in file.read()
    return whole and all(digest(text).encode() in head for text in wanted.parameters)


READERS = {".pt": _checkpoint_carries, ".nc": _dataset_carries, ".json": _text_carries}
