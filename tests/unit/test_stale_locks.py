import subprocess
import sys

from twophase.stale_locks import clear_stale_locks

HOLDER = """
import sys, time
from pathlib import Path
from twophase.stale_locks import clear_stale_locks
lock = clear_stale_locks(Path(sys.argv[1]))
print("held" if lock else "refused", flush=True)
time.sleep(60)
"""


def leave_locks(folder):
    (folder / "locks").mkdir(parents=True, exist_ok=True)
    (folder / "locks" / "0.input.lock").write_text("a file\n")


def test_locks_of_a_living_process_stay_those_of_a_killed_one_go(tmp_path):
    state = tmp_path / ".snakemake"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(state)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    leave_locks(state)
    assert clear_stale_locks(state) is None
    assert list((state / "locks").iterdir())
    holder.kill()
    holder.wait()
    assert clear_stale_locks(state) is not None
    assert not list((state / "locks").iterdir())


def test_a_folder_that_can_not_be_made_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    assert clear_stale_locks(tmp_path / "file" / ".snakemake") is None
