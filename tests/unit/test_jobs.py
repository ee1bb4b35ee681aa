import logging
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from twophase import jobs
from twophase.errors import ArtifactError, ConfigError, TwophaseError
from twophase.files import whole_file
from twophase.jobs import logged_job
from twophase.provenance import canonical, make_recipe

RECIPE = make_recipe("measure", {"steps": 3}, "abcd", data=make_recipe("prepare", {"size": 8}, "ef"))


@pytest.fixture
def smk(tmp_path, monkeypatch):
    """What Snakemake hands to a script, as far as a job reads it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    return SimpleNamespace(
        log=[str(tmp_path / "logs/deep/measure.log")],
        rule="measure",
        params=SimpleNamespace(recipe=canonical(RECIPE)),
        resources={},
        wildcards={"study": "tiny", "seed": "3"},
    )


def run(smk, action, capsys):
    """Exit code, log file and stderr of a job."""
    code = 0
    try:
        with logged_job(smk) as job:
            action(job)
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, Path(smk.log[0]).read_text(), captured.err


def raise_(error):
    def action(job):
        raise error

    return action


def test_a_job_knows_its_recipe(smk):
    with logged_job(smk) as job:
        assert job.settings == {"steps": 3}
        assert job.recipe == RECIPE
        assert job.recipe_text == smk.params.recipe
        assert job.recipe_of("data") == RECIPE["inputs"]["data"]
        assert job.place == '{"seed":"3"}'


def test_messages_go_to_the_log_file_and_to_stderr(smk, capsys):
    code, log, err = run(smk, lambda job: job.log.info("loss %.2f", 0.5), capsys)
    assert code == 0
    assert log == err
    lines = log.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d measure: loss 0\.50", lines[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d measure: done in \d+\.\d s", lines[1])
    assert len(lines) == 2


def test_a_log_file_holds_one_job_and_messages_are_not_doubled(smk, capsys, caplog):
    run(smk, lambda job: job.log.info("first"), capsys)
    _, log, err = run(smk, lambda job: job.log.info("second"), capsys)
    assert "first" not in log
    assert caplog.text == ""  # nothing for the handlers of others
    assert err.count("second") == log.count("second") == 1
    assert all(handler.stream is None for handler in logging.getLogger("twophase.measure").handlers[:1])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TwophaseError("seed 3 diverged at step 12"), "seed 3 diverged at step 12"),
        (ArtifactError("x.nc is truncated"), "x.nc is truncated"),
        (ConfigError("bad"), "bad"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (FileNotFoundError(2, "No such file", "x.nc"), "[Errno 2] No such file: 'x.nc'"),
        (
            MemoryError(),
            "memory is exhausted (MemoryError); run fewer jobs at a time (--cores), on SLURM raise the rule's mem_mb",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line_on_stderr(smk, capsys, error, message):
    code, log, err = run(smk, raise_(error), capsys)
    assert code == 1
    assert re.fullmatch(rf"\d\d:\d\d:\d\d measure: error: {re.escape(message)}\n", err)
    assert log.startswith(err)
    assert "Traceback (most recent call last)" in log
    assert "raise error" in log


def test_an_unexpected_error_keeps_its_traceback(smk, capsys):
    code, log, err = run(smk, lambda job: 1 / 0, capsys)
    assert code == 1
    for text in (log, err):
        assert "error: unexpected" in text
        assert "Traceback (most recent call last)" in text
        assert "ZeroDivisionError: division by zero" in text
    assert "done in" not in log


def test_an_unreadable_recipe_is_logged(smk, capsys):
    smk.params.recipe = "{"
    code, log, _ = run(smk, lambda job: None, capsys)
    assert code == 1
    assert "JSONDecodeError" in log


def test_exhausted_memory_says_what_to_set(smk, capsys):
    import torch

    _, _, err = run(smk, raise_(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0")), capsys)
    assert "the GPU's memory is exhausted (CUDA out of memory); let fewer jobs share it (jobs_per_gpu" in err
    _, _, err = run(smk, lambda job: torch.empty(1 << 50), capsys)
    assert re.search(r"memory is exhausted \(.*can't allocate memory.*\); run fewer jobs at a time", err)


def test_sigterm_is_one_message_and_leaves_no_half_written_file(smk, tmp_path, capsys):
    def killed_while_writing(job):
        with whole_file(tmp_path / "values.txt") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    code, log, err = run(smk, killed_while_writing, capsys)
    assert code == 143
    assert re.search(r"error: ended by SIGTERM after \d+ s; cancelled, or at its time limit", err)
    assert log == err
    assert not list(tmp_path.glob("*values*"))
    assert not list(tmp_path.glob(".values*"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_sigterm_interrupts_neither_cleaning_nor_the_message(smk, tmp_path, capsys, monkeypatch):
    """At a time limit SLURM sends two, 10 to 30 ms apart."""

    def killed_while_writing(job):
        try:
            with whole_file(tmp_path / "values.txt") as temporary:
                temporary.write_text("half")
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            job.log.info("cleaned")

    def killed_while_saying(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        say(*arguments)

    log = logging.getLogger(f"twophase.{smk.rule}")
    say = log.error
    monkeypatch.setattr(log, "error", killed_while_saying)
    ended_before_it_was_said = []
    before = signal.signal(signal.SIGTERM, lambda *_: ended_before_it_was_said.append(True))
    try:
        code, text, err = run(smk, killed_while_writing, capsys)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not ended_before_it_was_said
    assert code == 143
    assert [line.split(": ", 1)[1] for line in text.splitlines()] == [
        "cleaned",
        "error: ended by SIGTERM after 0 s; cancelled, or at its time limit",
    ]
    assert text == err
    assert not list(tmp_path.glob("*values*"))


def test_a_job_that_asks_for_no_gpu_sees_none_another_leases_one(smk, capsys):
    run(smk, lambda job: job.log.info("%r", os.environ["CUDA_VISIBLE_DEVICES"]), capsys)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    os.environ["CUDA_VISIBLE_DEVICES"] = "7"
    smk.resources = {"gpu": 2}
    code, _, err = run(smk, lambda job: None, capsys)
    assert code == 1
    assert "the job asks for gpu=2, this machine shows 1: 7" in err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interruption_passes(smk, error):
    with pytest.raises(type(error)) as caught, logged_job(smk):
        raise error
    assert caught.value is error


def test_a_users_network_is_found_in_the_work_folder(smk, tmp_path):
    (tmp_path / "mine_of_this_test.py").write_text("x = 7\n")
    with logged_job(smk):
        import mine_of_this_test
    assert mine_of_this_test.x == 7


def test_progress_tells_rate_and_time_left(smk, capsys, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(jobs.time, "monotonic", lambda: clock.now)

    def action(job):
        report = job.progress(200)
        for seconds, done in [(0, 0), (9.9, 30), (10, 40), (15, 80), (19.9, 90), (20, 100), (40, 200)]:
            clock.now = 100.0 + seconds
            report(done)

    _, log, _ = run(smk, action, capsys)
    assert [line.split("measure: ")[1] for line in log.splitlines()[:-1]] == [
        "40 of 200 steps, 4 steps/s, 40 s left",
        "100 of 200 steps, 5 steps/s, 20 s left",
        "200 of 200 steps, 5 steps/s, 0 s left",
    ]


def test_progress_without_progress_says_nothing(smk, capsys, monkeypatch):
    clock = iter([0.0, 0.0, 50.0, 60.0, 60.0])
    monkeypatch.setattr(jobs.time, "monotonic", lambda: next(clock, 60.0))

    def action(job):
        report = job.progress(10, "kernels")
        report(0)
        report(5)

    _, log, _ = run(smk, action, capsys)
    assert "5 of 10 kernels" in log
    assert "0 of 10" not in log.replace("10 of", "")
