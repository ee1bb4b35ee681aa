import errno
import os
import platform
import subprocess
import time

import pytest

from twophase.errors import DiskError
from twophase.files import whole_file


def test_the_file_appears_with_all_of_its_content_at_the_end(tmp_path):
    path = tmp_path / "values.txt"
    with whole_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("all")
    assert path.read_text() == "all"
    assert os.listdir(tmp_path) == ["values.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path, error):
    path = tmp_path / "values.txt"
    path.write_text("old")

    def write_half():
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["values.txt"]


def test_the_temporary_file_is_hidden_beside_the_target_and_keeps_its_suffix(tmp_path):
    with whole_file(str(tmp_path / "kernel.nc")) as one, whole_file(tmp_path / "kernel.nc") as other:
        for temporary in (one, other):
            assert temporary.parent == tmp_path
            assert temporary.name.startswith(".")
            assert temporary.suffix == ".nc"
            temporary.touch()
        assert one != other


def test_the_content_reaches_the_disk_before_the_name_does(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    with whole_file(tmp_path / "values.txt") as temporary:
        temporary.write_text("all")
    assert calls == ["fsync", "replace"]


def test_a_body_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "values.txt"):
        pass
    assert os.listdir(tmp_path) == []


def test_the_file_gets_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with whole_file(tmp_path / "whole") as temporary:
        temporary.touch()
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (PermissionError(errno.EROFS, os.strerror(errno.EROFS)), "Read-only file system"),
        (RuntimeError("[enforce fail at inline_container.cc:858] . file write failed\nframe #0"), "file write failed"),
        (RuntimeError("NetCDF: HDF error"), "NetCDF: HDF error"),
    ],
)
def test_a_disk_that_takes_no_more_is_one_clear_error_and_the_old_file_stays(tmp_path, error, text):
    path = tmp_path / "values.txt"
    path.write_text("old")
    with pytest.raises(
        DiskError, match=rf"values\.txt can't be written \(.*{text}.*\); [\d,]+ MB of its disk are free"
    ):
        write_until(path, error)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["values.txt"]


def write_until(path, error):
    with whole_file(path) as temporary:
        temporary.write_text("half")
        raise error


def test_what_a_killed_writer_left_is_removed_by_the_next_one_not_what_another_one_writes(tmp_path):
    path = tmp_path / "step5.pt"
    old, young, other = (tmp_path / name for name in (".step5.1-00000000.pt", ".step5.2-11111111.pt", ".step50.1-2.pt"))
    for left in (old, young, other):
        left.write_text("half")
    for left in (old, other):
        os.utime(left, (time.time() - 7200, time.time() - 7200))
    with whole_file(path) as temporary:
        temporary.write_text("all")
    assert sorted(os.listdir(tmp_path)) == [young.name, other.name, path.name]


def test_what_a_dead_process_of_this_machine_left_is_removed_at_once(tmp_path):
    path = tmp_path / "step5.pt"
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / f".step5.{platform.node()}-{dead.pid}-00000000.pt"
    alive = tmp_path / f".step5.{platform.node()}-{os.getpid()}-11111111.pt"
    elsewhere = tmp_path / f".step5.another.machine-{dead.pid}-22222222.pt"
    for file in (left, alive, elsewhere):
        file.write_text("half")
    with whole_file(path) as temporary:
        temporary.write_text("all")
    assert sorted(os.listdir(tmp_path)) == sorted([alive.name, elsewhere.name, path.name])
