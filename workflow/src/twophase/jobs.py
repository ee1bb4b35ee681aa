"""What every script of the workflow needs: its device, its log, its recipe, one clear error, progress."""

import json
import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from twophase.device_lease import lease_devices
from twophase.errors import TwophaseError
from twophase.provenance import place_of

SECONDS_BETWEEN_PROGRESS = 10.0
PEAK_OF_GPU = "peak GPU memory"  # in the last line of a log, from where the table of resources takes it


@dataclass(frozen=True)
class Job:
    """A running job: its log, the recipe of its output, and the output's place (`twophase.provenance.place_of`)."""

    log: logging.Logger
    recipe_text: str
    recipe: dict
    place: str

    @property
    def settings(self) -> dict:
        """The settings that decide the output."""
        return self.recipe["settings"]

    def recipe_of(self, input_name: str) -> dict:
        """The recipe that must have made an input."""
        return self.recipe["inputs"][input_name]

    def progress(self, total: int, unit: str = "steps") -> Callable[[int], None]:
        """A function that takes the number done and logs rate and time left, at most every ten seconds."""
        start = last = time.monotonic()

        def report(done: int) -> None:
            nonlocal last
            now = time.monotonic()
            if done > 0 and now - last >= SECONDS_BETWEEN_PROGRESS:
                last = now
                rate = done / (now - start)
                self.log.info(
                    "%d of %d %s, %.3g %s/s, %.0f s left", done, total, unit, rate, unit, (total - done) / rate
                )

        return report


@contextmanager
def logged_job(smk) -> Iterator[Job]:
    """Run a script's body with its log and its device; end it with one message if the user can mend what went wrong.

    Messages go to the rule's log file and to stderr. A `TwophaseError`, a full disk or exhausted memory, of a GPU
    too, and a SIGTERM end the process with one message, the traceback being in the log file. Any other exception, a
    mistake of ours or of a user's network, ends it with the traceback on stderr as well.

    Args:
        smk: Snakemake's object, or anything with ``log``, ``params.recipe``, ``wildcards``, ``resources`` and
            ``rule``. Of the resources ``gpu`` and ``jobs_per_gpu`` count: see `twophase.device_lease`.

    Yields:
        The job.
    """
    # A user's network is imported by its path from the work folder, as `python -c` run there would.
    sys.path.insert(0, str(Path.cwd()))
    log = _open_log(Path(smk.log[0]), smk.rule)
    start = time.monotonic()
    with _terminated_by_signal():
        try:
            slots = smk.resources.get("jobs_per_gpu", 1)
            lease_devices(smk.resources.get("gpu", 0), jobs_per_device=slots, waiting=log.info)
            yield Job(log, smk.params.recipe, json.loads(smk.params.recipe), place_of(smk.wildcards))
            log.info("done in %.1f s%s", time.monotonic() - start, _peak_of_gpu())
        except Terminated:
            log.error("error: ended by SIGTERM after %.0f s; cancelled, or at its time limit", time.monotonic() - start)
            sys.exit(128 + signal.SIGTERM)
        except Exception as error:
            message = _message(error)
            if message is None:
                log.exception("error: unexpected")
            else:
                log.error("error: %s", message)
                with suppress(OSError):
                    log.handlers[0].stream.write(traceback.format_exc())
            sys.exit(1)
        finally:
            for handler in log.handlers:
                with suppress(OSError):  # the log's disk is full; stderr has the message
                    handler.close()


class Terminated(BaseException):
    """The process was told to end by SIGTERM: by ``scancel``, a time limit, a shutdown."""


@contextmanager
def _terminated_by_signal() -> Iterator[None]:
    """Let SIGTERM raise `Terminated`, so that unfinished files are removed and the log says what happened.

    Once: at a time limit SLURM sends two within 30 ms, and the second would end the process half-way through that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set handlers
        return

    def terminate(number, frame):
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _open_log(path: Path, rule: str) -> logging.Logger:
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.raiseExceptions = False  # a log that can't be written, its disk being full, is no reason to fail
    log = logging.getLogger(f"twophase.{rule}")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [logging.FileHandler(path, mode="w"), logging.StreamHandler(sys.stderr)]
    for handler in log.handlers:
        handler.setFormatter(logging.Formatter(f"%(asctime)s {rule}: %(message)s", datefmt="%H:%M:%S"))
    return log


def _message(error: Exception) -> str | None:
    """What the user can do about an error; None if it is no user's."""
    text = str(error) or type(error).__name__
    # PyTorch's errors are told by their names and texts: jobs that only draw don't import PyTorch.
    if type(error).__name__ == "OutOfMemoryError":
        return (
            f"the GPU's memory is exhausted ({text.split('. ')[0]}); let fewer jobs share it (jobs_per_gpu, other "
            "users), choose a larger one, or set a smaller training.batch_size"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "not enough memory" in text:
        return f"memory is exhausted ({text}); run fewer jobs at a time (--cores), on SLURM raise the rule's mem_mb"
    return text if isinstance(error, TwophaseError | OSError) else None


def _peak_of_gpu() -> str:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return ""
    return f", {PEAK_OF_GPU} {torch.cuda.max_memory_reserved() / 1e6:.0f} MB"
