"""What results carry, and the records that they get for it."""

import os
import zipfile
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from matplotlib.figure import Figure
from snakemake.persistence.file import FilePersistence

from twophase import plotting
from twophase.records import Expected, carries, restore_records

RECIPE = '{"rule":"measure","settings":{"steps":3}}'
WANTED = Expected("measure", (RECIPE,), '{"seed":"0"}')


def checkpoint(path: Path, recipe: str = RECIPE) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("step3/data.pkl", b"\x80\x02}X" + recipe.encode() + b"q")
        archive.writestr("step3/data/0", bytes(10_000))
    return path


def dataset(path: Path, recipe: str = RECIPE, place: str = '{"seed":"0"}') -> Path:
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts({"recipe": recipe, "place": place})
        file.createDimension("x", 1000)
        file.createVariable("v", "f8", ("x",), fletcher32=True)[:] = np.random.default_rng(0).normal(size=1000)
    return path


def figure(path: Path, recipe: str = RECIPE) -> Path:
    plotting.save_figure(Figure(), path, recipe=recipe)
    return path


MAKERS = {"step3.pt": checkpoint, "a.nc": dataset, "a.png": figure, "a.svg": figure}


@pytest.mark.parametrize("name", MAKERS)
def test_a_result_carries_its_recipe_and_no_other(tmp_path, name):
    path = MAKERS[name](tmp_path / name)
    assert carries(path, WANTED)
    assert not carries(path, Expected("measure", (RECIPE.replace("3", "4"),), WANTED.place))
    assert not carries(path, Expected("measure", (RECIPE, '{"networks":[]}'), WANTED.place))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.97])
def test_a_truncated_result_carries_nothing(tmp_path, name, kept):
    path = MAKERS[name](tmp_path / name)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert not carries(path, WANTED)


@pytest.mark.parametrize("name", ["step3.pt", "a.nc"])
def test_a_changed_byte_among_the_numbers_is_seen(tmp_path, name):
    path = MAKERS[name](tmp_path / name)
    content = bytearray(path.read_bytes())
    content[-4000] ^= 0xFF
    path.write_bytes(content)
    assert not carries(path, WANTED)


def test_a_dataset_of_another_place_is_another_file(tmp_path):
    assert not carries(dataset(tmp_path / "a.nc", place='{"seed":"1"}'), WANTED)


def test_no_code_in_a_checkpoint_is_run_to_read_it(tmp_path):
    path = tmp_path / "step3.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("step3/data.pkl", f"cos\nsystem\n(S'touch {tmp_path}/ran'\ntR.{RECIPE}".encode())
    assert carries(path, WANTED)  # the job that loads it refuses it
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    """Three results: of this recipe, of another one, and of no rule."""
    monkeypatch.chdir(tmp_path)
    folder = Path("results")
    folder.mkdir()
    dataset(folder / "same.nc")
    dataset(folder / "other.nc", recipe="{}")
    (folder / "notes.txt").write_text("mine")
    return folder


def expected(path: str) -> Expected | None:
    return WANTED if path.endswith(".nc") else None


def test_results_get_records_by_what_they_carry_and_are_read_once(results):
    said = []
    persistence = FilePersistence(nolock=True)
    found = restore_records(persistence, results, expected, progress=said.append)
    assert found == {"results/same.nc": True, "results/other.nc": False}
    assert said == ["reading 2 results of which Snakemake has no record, to see what made them"]
    again = FilePersistence(nolock=True)
    assert again._read_record("results/same.nc").params == [repr(RECIPE)]
    assert repr(RECIPE) not in again._read_record("results/other.nc").params
    assert again._read_record("results/notes.txt") is None
    assert restore_records(again, results, expected) == {}


def test_a_file_that_is_written_again_is_read_again(results):
    restore_records(FilePersistence(nolock=True), results, expected)
    dataset(results / "other.nc")
    os.utime(results / "other.nc", (1, 1))
    assert restore_records(FilePersistence(nolock=True), results, expected) == {"results/other.nc": True}


def test_a_file_that_was_another_ones_is_read_again_when_another_is_wanted(results):
    restore_records(FilePersistence(nolock=True), results, expected)
    wanted = Expected("measure", ("{}",), WANTED.place)
    found = restore_records(FilePersistence(nolock=True), results, lambda path: wanted if "other" in path else None)
    assert found == {"results/other.nc": True}


def test_half_written_files_are_left_alone(results):
    (results / ".same.12-abcdef01.nc").write_bytes(b"half")
    assert ".same" not in str(restore_records(FilePersistence(nolock=True), results, lambda path: WANTED))
