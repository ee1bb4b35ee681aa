"""What every script of the workflow needs: its log, its recipe, one clear error, progress."""

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from twophase.errors import TwophaseError

SECONDS_BETWEEN_PROGRESS = 10.0


@dataclass(frozen=True)
class Job:
    """A running job: its log and the recipe of its output."""

    log: logging.Logger
    recipe_text: str
    recipe: dict

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
    """Run a script's body with its log; end it with one message if the user can mend what went wrong.

    Messages go to the rule's log file and to stderr. A `TwophaseError`, a full disk or exhausted memory, of a GPU
    too, ends the process with that message alone, its traceback being in the log file. Any other exception, a mistake
    of ours or of a user's network, ends it with the traceback on stderr as well.

    Args:
        smk: Snakemake's object, or anything with ``log``, ``params.recipe`` and ``rule``.

    Yields:
        The job.
    """
    # A user's network is imported by its path from the work folder, as `python -c` run there would.
    sys.path.insert(0, str(Path.cwd()))
    log_file = Path(smk.log[0])
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger(f"twophase.{smk.rule}")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [logging.FileHandler(log_file, mode="w"), logging.StreamHandler(sys.stderr)]
    for handler in log.handlers:
        handler.setFormatter(logging.Formatter(f"%(asctime)s {smk.rule}: %(message)s", datefmt="%H:%M:%S"))
    start = time.monotonic()
    try:
        yield Job(log, smk.params.recipe, json.loads(smk.params.recipe))
        log.info("done in %.1f s", time.monotonic() - start)
    except Exception as error:
        # PyTorch's error for an exhausted GPU is told by its name: jobs that only draw don't import PyTorch.
        if isinstance(error, TwophaseError | OSError | MemoryError) or type(error).__name__ == "OutOfMemoryError":
            log.error("error: %s", str(error) or type(error).__name__)
            log.handlers[0].stream.write(traceback.format_exc())
        else:
            log.exception("error: unexpected")
        sys.exit(1)
    finally:
        for handler in log.handlers:
            handler.close()
