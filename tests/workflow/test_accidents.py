"""Accidents on one machine: the user is told once what to do, and the next run ends with the bits of a calm one."""

import copy
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
import xarray as xr
from conftest import bare_study, tiny_study
from project import Project, netcdf_files
from test_control_and_interruption import assert_same_bits

CHECKPOINT = "results/short/seed0/parent/step5.pt"
HISTORY = "results/short/history.nc"
FIGURE = "results/short/figures/history.png"
ADVANCE_LOG = "results/short/logs/advance/seed0_parent_step5.log"
GB = 1 << 30
MANUAL_WORK = ("--unlock", "--cleanup-metadata", "--rerun-incomplete", "remove the lock")
GATED_NETWORK = """
import os
import time
from pathlib import Path

from torch import nn

GATE = Path("gate")


def build(*, image_shape, classes):
    channels, rows, columns = image_shape
    return Gated(nn.Flatten(), nn.Linear(channels * rows * columns, 1000), nn.ReLU(), nn.Linear(1000, classes))


class Gated(nn.Sequential):
    def forward(self, images):
        if GATE.is_dir():
            (GATE / str(os.getpid())).touch()
        while GATE.is_dir():
            time.sleep(0.02)
        return super().forward(images)
"""


@dataclass
class Running:
    """A Snakemake that runs; its output goes to a file."""

    process: subprocess.Popen
    output: Path

    def ended(self) -> tuple[int, str]:
        """Exit code and output, errors too."""
        return self.process.wait(timeout=60), self.output.read_text()


@contextmanager
def running(project: Project, *arguments: str) -> Iterator[Running]:
    """Snakemake in a process group of its own, of which nothing is left after the block."""
    output = project.folder / f"output{len(list(project.folder.glob('output*')))}.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            project.command("--cores", "2", *arguments),
            cwd=project.folder,
            env=project.environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Running(process, output)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def close_gate(project: Project) -> None:
    (project.folder / "gate").mkdir()


def open_gate(project: Project) -> None:
    """Let the jobs go on that wait at the gate."""
    shutil.move(project.folder / "gate", project.folder / "opened")
    shutil.rmtree(project.folder / "opened")


def waiting_jobs(project: Project, count: int = 1) -> list[int]:
    """Process ids of the jobs that wait in their network's forward pass, as soon as there are so many."""
    gate = project.folder / "gate"
    wait_until(lambda: len(list(gate.iterdir())) >= count)
    return [int(path.name) for path in gate.iterdir()]


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mount something over a folder; where that is refused, skip the test."""
    if reason := mount_refused(*options, str(folder)):
        pytest.skip(reason)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def mount_refused(*arguments: str) -> str:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    return done.stderr


@contextmanager
def disk_of_its_own(folder: Path) -> Iterator[Callable[[int], None]]:
    """Move a folder to a disk of its own; yields a function that leaves so many bytes free on it."""
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)

    def leave(room: int) -> None:
        status = os.statvfs(folder)
        size = (status.f_blocks - status.f_bfree) * status.f_frsize + room
        assert not mount_refused("-o", f"remount,size={size}", str(folder))

    try:
        with mounted(folder, "-t", "tmpfs", "-o", f"size={GB}", "tmpfs"):
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            yield leave
    finally:
        shutil.rmtree(kept)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and bytes of every file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def finish(project: Project, *arguments: str) -> str:
    """Run until the history is there; nothing but the same command as ever may be needed."""
    text = project.snakemake("--cores", "2", *arguments, "--", HISTORY).stdout
    assert not [word for word in MANUAL_WORK if word in text], text
    return text


def assert_as_undisturbed(project: Project, undisturbed: Project) -> None:
    assert_same_network(project, undisturbed)
    assert_same_bits(xr.load_dataset(undisturbed.folder / HISTORY), xr.load_dataset(project.folder / HISTORY), HISTORY)


def assert_same_network(project: Project, undisturbed: Project) -> None:
    expected, found = (
        torch.load(one.folder / CHECKPOINT, weights_only=True)["network"] for one in (undisturbed, project)
    )
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def unfinished_files(project: Project) -> list[Path]:
    return list((project.folder / "results").rglob(".*"))


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Project:
    """A short study whose jobs wait where there is a folder ``gate``; images and first checkpoint are made."""
    study = bare_study() | {"model": {"name": "gated:build"}}
    project = Project(tmp_path_factory.mktemp("begun"), {"short": study})
    (project.folder / "gated.py").write_text(GATED_NETWORK)
    project.snakemake("--cores", "2", "results/short/seed0/parent/step0.pt")
    return project


@pytest.fixture(scope="module")
def undisturbed(begun, tmp_path_factory) -> Project:
    """The same study, run until its figure is there."""
    project = begun.copied(tmp_path_factory.mktemp("undisturbed") / "copy")
    project.snakemake("--cores", "2", FIGURE)
    return project


@pytest.fixture
def project(begun, tmp_path) -> Project:
    return begun.copied(tmp_path / "copy")


def learning_rate(config: dict) -> None:
    config["studies"]["short"]["optimizer"]["learning_rate"] = 0.07


@pytest.mark.parametrize("edited", [False, True])
def test_a_job_that_outlives_a_killed_snakemake_does_no_harm(project, undisturbed, edited):
    """It is stopped, and writes its checkpoint when the next run is through; or that of the config before an edit."""
    if edited:
        project.write_config(project.edited(learning_rate))
    close_gate(project)
    with running(project, HISTORY) as killed:
        [survivor] = waiting_jobs(project)
        os.kill(survivor, signal.SIGSTOP)
        killed.process.kill()
        killed.process.wait()
        open_gate(project)
        project.write_config(project.config)
        finish(project)
        assert_as_undisturbed(project, undisturbed)
        before = contents(project.folder / "results/short/seed0")
        os.kill(survivor, signal.SIGCONT)
        psutil.Process(survivor).wait(timeout=60)
        assert contents(project.folder / "results/short/seed0") != before
    finish(project)
    assert_as_undisturbed(project, undisturbed)
    assert not unfinished_files(project)


def test_a_killed_job_is_named_by_its_log_and_made_anew(project, undisturbed):
    close_gate(project)
    with running(project, HISTORY) as disturbed:
        os.kill(*waiting_jobs(project), signal.SIGKILL)
        code, text = disturbed.ended()
    assert code == 1
    assert f"log: {ADVANCE_LOG} (check log file(s) for error details)" in text
    open_gate(project)
    finish(project)
    assert_as_undisturbed(project, undisturbed)
    assert not unfinished_files(project)


def test_a_job_killed_while_it_writes_leaves_nothing_behind(project):
    close_gate(project)
    with running(project, CHECKPOINT) as disturbed:
        [job] = waiting_jobs(project)
        open_gate(project)
        end = time.monotonic() + 60
        while not unfinished_files(project):
            assert time.monotonic() < end
        os.kill(job, signal.SIGKILL)
        assert disturbed.ended()[0] == 1
    assert not (project.folder / CHECKPOINT).exists()
    project.snakemake("--cores", "2", CHECKPOINT)
    assert not unfinished_files(project)


def test_sigterm_of_snakemake_lets_the_running_jobs_finish(project, undisturbed):
    close_gate(project)
    with running(project, HISTORY) as terminated:
        waiting_jobs(project)
        terminated.process.terminate()
        wait_until(lambda: "Will exit after finishing currently running jobs" in terminated.output.read_text())
        open_gate(project)
        assert terminated.ended()[0] == 1
    assert_same_network(project, undisturbed)
    assert not (project.folder / HISTORY).exists()
    assert "rule advance:" not in finish(project)
    assert_as_undisturbed(project, undisturbed)


def test_sigterm_of_a_job_is_told_in_its_log(project, undisturbed):
    close_gate(project)
    with running(project, HISTORY) as disturbed:
        os.kill(*waiting_jobs(project), signal.SIGTERM)
        code, text = disturbed.ended()
    assert code == 1
    assert "advance: error: ended by SIGTERM" in text
    assert "Traceback" not in text
    assert "ended by SIGTERM" in (project.folder / ADVANCE_LOG).read_text()
    assert not unfinished_files(project)
    open_gate(project)
    finish(project)
    assert_as_undisturbed(project, undisturbed)


def test_a_second_snakemake_refuses_and_a_dry_run_works_and_neither_changes_anything(project, undisturbed):
    close_gate(project)
    with running(project, HISTORY) as first:
        waiting_jobs(project)
        before = contents(project.folder / "results")
        second = project.snakemake("--cores", "2", check=False)
        assert second.returncode == 1
        assert second.stdout.count("Directory cannot be locked") == 1
        assert "make sure that no other Snakemake process is trying to create the same files" in second.stdout
        assert "rule advance:" in project.snakemake("--dry-run", "--cores", "2", HISTORY).stdout
        assert contents(project.folder / "results") == before
        open_gate(project)
        code, text = first.ended()
    assert code == 0, text
    assert_as_undisturbed(project, undisturbed)


def test_a_second_snakemake_refuses_even_if_the_first_started_beside_a_dry_run(project):
    """The dry run waits for its reader, as with ``snakemake --dry-run | less``."""
    close_gate(project)
    dry_run = subprocess.Popen(
        project.command("--dry-run", "--cores", "2", "--quiet", "--", CHECKPOINT),
        cwd=project.folder,
        env=project.environment(),
    )
    try:
        wait_until(lambda: holds_lock(dry_run.pid))
        dry_run.send_signal(signal.SIGSTOP)
        with running(project, CHECKPOINT) as first:
            wait_until(lambda: "works in this folder; waiting for it to end" in first.output.read_text())
            dry_run.kill()
            dry_run.wait()
            waiting_jobs(project)
            with running(project, CHECKPOINT) as second:
                wait_until(lambda: second.process.poll() is not None or len(list(project.folder.glob("gate/*"))) > 1)
                assert "Directory cannot be locked" in second.output.read_text()
    finally:
        dry_run.kill()
        dry_run.wait()


def holds_lock(process: int) -> bool:
    return any(file.path.endswith("twophase.lock") for file in psutil.Process(process).open_files())


@pytest.mark.parametrize(("file", "mounting"), [(CHECKPOINT, True), (CHECKPOINT, False), (HISTORY, True)])
def test_a_full_disk_is_named_and_leaves_no_half_written_file(project, undisturbed, file, mounting):
    room = (undisturbed.folder / file).stat().st_size // 2
    if file == HISTORY:
        project.snakemake("--cores", "2", CHECKPOINT)
    close_gate(project)
    with disk_of_its_own(project.folder / "results") if mounting else nullcontext(None) as leave:
        with running(project, file) as disturbed:
            [job] = waiting_jobs(project)
            if mounting:
                leave(room)
            else:
                resource.prlimit(job, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            open_gate(project)
            code, text = disturbed.ended()
        assert code == 1
        assert re.search(rf"error: {file} can't be written \(.+\); [\d,]+ MB of its disk are free", text)
        assert not (project.folder / file).exists()
        assert not unfinished_files(project)
        if mounting:
            leave(GB)
        finish(project)
        assert_as_undisturbed(project, undisturbed)


def test_a_full_disk_is_told_in_the_log_and_once(project, undisturbed):
    close_gate(project)
    with disk_of_its_own(project.folder / "results") as leave:
        with running(project, CHECKPOINT) as disturbed:
            waiting_jobs(project)
            leave((undisturbed.folder / CHECKPOINT).stat().st_size // 2)
            open_gate(project)
            text = disturbed.ended()[1]
        assert f"{CHECKPOINT} can't be written" in (project.folder / ADVANCE_LOG).read_text()
        assert "Logging error" not in text


@pytest.mark.parametrize("folder", ["logs", "benchmarks"])
def test_a_full_disk_of_logs_or_benchmarks_leaves_no_wrong_result(project, undisturbed, folder):
    folder = project.folder / "results/short" / folder
    close_gate(project)
    with disk_of_its_own(folder) as leave:
        with running(project, HISTORY) as disturbed:
            waiting_jobs(project)
            leave(0)
            open_gate(project)
            code, text = disturbed.ended()
        assert code == 0 or "No space left on device" in text
        leave(GB)
        finish(project)
        assert_as_undisturbed(project, undisturbed)


def test_read_only_results_are_refused_before_any_job(project, undisturbed):
    results = project.folder / "results"
    before = contents(results)
    with mounted(results, "--bind", str(results)):
        assert not mount_refused("-o", "remount,bind,ro", str(results))
        refused = project.snakemake("--cores", "2", HISTORY, check=False)
    assert refused.returncode == 1
    assert f"{results} can't be written to" in refused.stdout
    assert "rule advance" not in refused.stdout
    assert "Traceback" not in refused.stdout
    assert contents(results) == before
    finish(project)
    assert_as_undisturbed(project, undisturbed)


def test_results_of_other_code_are_refused_where_only_file_times_count_and_else_made_anew(undisturbed, tmp_path):
    project = undisturbed.copied(tmp_path / "copy")
    with (project.folder / "workflow/src/twophase/comparison.py").open("a") as module:
        module.write("SPARE = 1\n")
    by_time = ("--rerun-triggers", "mtime", "--forcerun", "plot_history", "--", FIGURE)
    refused = project.snakemake("--cores", "2", *by_time, check=False)
    assert refused.returncode == 1
    assert f"{HISTORY} was made by other settings or other code (code: file has" in refused.stdout
    assert project.plan(None, FIGURE).counts == {"record_history": 1, "plot_history": 1}
    finish(project)
    assert_as_undisturbed(project, undisturbed)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="the two devices are pretended")
def test_jobs_that_outlive_a_killed_snakemake_keep_their_devices_and_free_them_when_killed(
    project, undisturbed, tmp_path, monkeypatch
):
    (tmp_path / "locks").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "locks"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    project.config = project.edited(lambda config: config["studies"]["short"].update(seeds=[0, 1]))
    project.write_config(project.config)
    arguments = ("--cores", "4", "--resources", "gpu=2", "--", HISTORY)
    close_gate(project)
    with running(project, *arguments) as killed:
        survivors = waiting_jobs(project, count=2)
        killed.process.kill()
        killed.process.wait()
        with running(project, *arguments) as following:
            wait_until(lambda: "waiting for 1 of 2 GPU(s)" in following.output.read_text())
            for survivor in survivors:
                os.kill(survivor, signal.SIGKILL)
            waiting_jobs(project, count=4)
            open_gate(project)
            code, text = following.ended()
    assert code == 0, text
    assert_same_network(project, undisturbed)
    both = xr.load_dataset(project.folder / HISTORY)
    assert_same_bits(xr.load_dataset(undisturbed.folder / HISTORY), both.sel(seed=[0]), HISTORY)


def test_without_keeping_checkpoints_the_results_are_the_same_and_only_the_parents_stay(tmp_path):
    kept = Project(tmp_path / "kept", {"short": study_with_branches()})
    kept.snakemake("--cores", "2", "results/short/seed0/parent/step3.pt")
    project = kept.copied(tmp_path / "deleted")
    project.config["keep_checkpoints"] = False
    project.write_config(project.config)
    targets = ("results/short/chaos.nc", "results/short/switching.nc")
    for one in (kept, project):
        one.snakemake("--cores", "2", *targets)
    expected, found = netcdf_files(kept.folder), netcdf_files(project.folder)
    for name in targets:
        assert_same_bits(xr.load_dataset(expected[name]), xr.load_dataset(found[name]), name)
    owners = {path.parent.name for path in (kept.folder / "results").rglob("*.pt")}
    assert {owner.split("_")[0] for owner in owners} == {"parent", "control", "gaussian", "linearized"}
    assert {path.parent.name for path in (project.folder / "results").rglob("*.pt")} == {"parent"}
    assert project.plan(None, *targets).outputs == {}
    more = project.edited(lambda config: config["studies"]["short"]["chaos"].update(perturbation_steps=[0, 2]))
    plan = project.plan(more, *targets)
    assert plan.counts == {"advance": 2, "compare_branch": 2, "collect_chaos": 1}
    assert all("_at2" in path for path in plan.files() - {"results/short/chaos.nc"})


def study_with_branches() -> dict:
    study = bare_study()
    study["training"]["checkpoint_every"] = 3
    grid = {"perturbation_steps": [0], "comparison_steps": [4], "growth_steps": 2}
    study["chaos"] = tiny_study()["chaos"] | grid
    study["switching"] = tiny_study()["switching"] | {"switch_steps": [2], "learning_rates": [0.05]}
    return study


def test_a_study_larger_than_the_disk_is_refused_before_any_job(project):
    assert_refused_for_its_size(project, width=10**8)


def test_a_study_larger_than_the_disk_of_its_results_is_refused_before_any_job(project):
    with disk_of_its_own(project.folder / "results") as leave:
        leave(1 << 20)
        assert_refused_for_its_size(project, width=1000)


def assert_refused_for_its_size(project: Project, *, width: int) -> None:
    config = copy.deepcopy(project.config)
    config["studies"]["short"]["training"]["checkpoint_every"] = 1
    config["studies"]["short"]["model"] = {"name": "mlp", "depth": 2, "width": width}
    project.write_config(config)
    before = contents(project.folder / "results")
    refused = project.snakemake("--cores", "2", check=False)
    assert refused.returncode == 1
    assert re.search(r"twophase: short takes [\d.]+ [MG]B of disk when it is finished", refused.stdout)
    assert re.search(r"The studies need [\d.]+ [MG]B more, [\d.]+ [MG]B are free here", refused.stdout)
    assert "keep_checkpoints: false" in refused.stdout
    assert contents(project.folder / "results") == before
