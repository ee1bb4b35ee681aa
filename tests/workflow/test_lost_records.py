"""Results without Snakemake's records, or that others wrote: what they carry decides, never in silence."""

import os
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import xarray as xr
from project import Project
from test_control_and_interruption import assert_same_bits

AFTER_A_CHECKPOINT = {"advance", "compare_branch", "compute_entk", "record_history", "advance_linearized"}


@pytest.fixture
def copied(finished, tmp_path) -> Project:
    """The finished studies in a folder of their own, file times kept."""
    return finished.copied(tmp_path / "copy")


def without_records(project: Project) -> Project:
    shutil.rmtree(project.folder / ".snakemake")
    return project


def learning_rate(config):
    config["studies"]["tiny"]["optimizer"]["learning_rate"] = 0.06


def test_without_records_nothing_runs_that_is_not_stale_and_they_are_restored(copied):
    text = without_records(copied).snakemake("--dry-run", "--cores", "2").stdout
    assert "results of which Snakemake has no record" in text
    assert "Nothing to be done" in text
    assert "missing provenance" not in text
    text = copied.snakemake("--dry-run", "--cores", "2").stdout
    assert "has no record" not in text
    assert "Nothing to be done" in text


def test_an_edit_is_noticed_without_records_as_with_them(copied, finished):
    config = finished.edited(learning_rate)
    assert without_records(copied).plan(config).files() == finished.plan(config).files()
    assert copied.plan().outputs == {}  # the edit taken back


def test_results_of_another_study_are_noticed(copied, finished):
    """Copied over this one's, with their times: as if another study had been renamed to this one."""
    other = finished.edited(learning_rate)["studies"]["tiny"]
    without_records(copied)
    copied.config = {"studies": {"tiny": other}, "phase_diagrams": {}}
    expected = finished.plan(finished.edited(learning_rate)).files()
    assert copied.plan(copied.config).files() == expected


@pytest.mark.parametrize(
    "name", ["seed0/parent/step10.pt", "seed0/entk/step6.nc", "data.nc", "figures/chaos_gaussian.png"]
)
def test_a_truncated_file_is_made_anew(copied, finished, name):
    path = copied.folder / "results/tiny" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"results/tiny/{name}" in str(copied.plan().outputs)
    copied.snakemake("--cores", "2")
    original = finished.folder / "results/tiny" / name
    if path.suffix == ".nc":
        assert_same_bits(xr.open_dataset(original), xr.open_dataset(path), name)
    else:
        assert path.read_bytes() == original.read_bytes()
    assert copied.plan().outputs == {}


READERS = {"seed0/parent/step10.pt": "record_history", "seed0/entk/step6.nc": "measure_cone", "data.nc": "compute_entk"}


@pytest.mark.parametrize("name", READERS)
def test_a_changed_byte_is_noticed_by_its_time(copied, name):
    change_a_byte(copied.folder / "results/tiny" / name)
    assert f"results/tiny/{name}" in str(copied.plan().outputs)


@pytest.mark.parametrize("name", READERS)
def test_a_changed_byte_under_an_old_time_is_refused_by_the_job_that_reads_it(copied, name):
    path = copied.folder / "results/tiny" / name
    before = path.stat()
    change_a_byte(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = copied.snakemake("--cores", "2", "--forcerun", READERS[name], check=False)
    assert done.returncode == 1
    assert f"results/tiny/{name} is truncated, damaged or not" in done.stdout


def change_a_byte(path: Path) -> None:
    """Of a number, in place."""
    content = bytearray(path.read_bytes())
    content[byte_of_a_number(path)] ^= 0xFF
    path.write_bytes(content)


def byte_of_a_number(path: Path) -> int:
    """Where a byte lies that is no padding."""
    if path.suffix == ".nc":
        return path.stat().st_size // 2
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    return path.read_bytes().index(zipfile.ZipFile(path).read(largest)) + largest.file_size // 2


def test_a_copy_of_a_neighbours_file_is_noticed(copied):
    folder = copied.folder / "results/tiny/seed0"
    shutil.copy2(folder / "control_at0/comparison.nc", folder / "control_at5/comparison.nc")
    transition = {"find_transitions": 1, "plot_transition": 1, "plot_exponents": 1}
    assert copied.plan().counts == {"compare_branch": 1, "collect_chaos": 1, "plot_chaos": 1, **transition}


def test_a_deleted_result_is_made_anew(copied):
    (copied.folder / "results/tiny/chaos.nc").unlink()
    assert copied.plan().outputs.keys() >= {"collect_chaos"}


def test_the_time_of_a_clock_set_back_or_forward_is_no_edit(copied):
    choose = random.Random(1)
    for path in sorted((copied.folder / "results").rglob("*.*")):
        if path.is_file():
            moved = path.stat().st_mtime + choose.choice([-86400, 86400, 0])
            os.utime(path, (moved, moved))
    assert copied.plan().outputs == {}


def test_a_job_that_outlived_a_killed_snakemake_leaves_no_result_without_a_record(copied):
    """Its file is there, its record not, and the file is of the config before the last edit."""
    record_of = next(
        path for path in (copied.folder / ".snakemake/metadata").iterdir() if is_record_of(path, "chaos.nc")
    )
    record_of.unlink()
    config = copied.edited(lambda config: config["studies"]["tiny"]["chaos"].update(growth_steps=3))
    assert copied.plan(config).counts["collect_chaos"] == 1
    assert copied.plan().outputs == {}


def is_record_of(path: Path, name: str) -> bool:
    import base64

    return base64.urlsafe_b64decode(path.name).decode() == f"results/tiny/{name}"
