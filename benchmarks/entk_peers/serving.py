"""What every worker does: answer requests, one JSON object a line, over its standard streams.

A worker serves one engine on one network in a process of its own. It says hello with its versions and implementations
and how far its logits are from PyTorch's, then answers each request until its input ends.
"""

import argparse
import ctypes
import gc
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

CHECKED_LOGITS = 4  # examples on which a network's logits are compared


class Engine(ABC):
    """One peer on one network.

    Attributes:
        packages: Distributions whose versions matter.
        implementations: Names of its ways to compute a kernel, and whether each cuts the kernel into blocks itself.
    """

    packages: ClassVar[tuple[str, ...]]
    implementations: ClassVar[dict[str, bool]]

    @abstractmethod
    def __init__(self, network: str, weights: Path, *, threads: int, device: str):
        """Load a network and its inputs from the file that ``workloads.export`` wrote."""

    @abstractmethod
    def logits(self, examples: int) -> np.ndarray:
        """Return the logits of the first examples, shape ``(examples, K)``."""

    @abstractmethod
    def kernel(self, implementation: str, kernel: str, rows: slice, columns: slice | None) -> np.ndarray:
        """Return one block of a kernel, finished: ``(n, K, m, K)`` for "full", ``(n, m)`` for "trace".

        Without ``columns`` it is the square block of the rows with themselves.
        """

    def matrix_rate(self) -> float:
        """Return the floating-point operations a second of a plain matrix product."""
        raise NotImplementedError

    def start_peak(self) -> int:
        """Forget the peak of the memory in use, and return the bytes in use now."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what C kept for itself would hide a part of the peak
        Path("/proc/self/clear_refs").write_text("5")
        return _process_memory("VmRSS")

    def peak(self) -> int:
        """Return the peak of the bytes in use since ``start_peak``."""
        return _process_memory("VmHWM")


def serve(engine_class: type[Engine]) -> None:
    """Build the engine that the command line asks for, and answer requests."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", required=True)
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--threads", required=True, type=int)
    parser.add_argument("--device", required=True)
    arguments = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes to the log
    engine = engine_class(arguments.network, arguments.weights, threads=arguments.threads, device=arguments.device)
    hello = {
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in engine.packages},
        "implementations": engine.implementations,
        "logits_difference": _logits_difference(engine, arguments.weights),
    }
    print(json.dumps(hello), file=replies, flush=True)
    warm = set()
    for line in sys.stdin:
        print(json.dumps(_answer(engine, json.loads(line), warm)), file=replies, flush=True)


def _answer(engine: Engine, request: dict[str, Any], warm: set[tuple]) -> dict[str, Any]:
    try:
        return {"rate": engine.matrix_rate()} if request["do"] == "rate" else _measure(engine, request, warm)
    except Exception as error:
        message = str(error).strip().split("\n")[0]
        return {"error": f"{type(error).__name__}: {message[:300]}"}


def _measure(engine: Engine, request: dict[str, Any], warm: set[tuple]) -> dict[str, Any]:
    """Time a kernel of the first ``rows`` examples, or the block right of it with so many ``columns``.

    What this process has not computed before is computed once without being timed, and noted in ``warm``.
    """
    rows = slice(0, request["rows"])
    columns = slice(rows.stop, rows.stop + request["columns"]) if request["columns"] else None
    work = (engine, request["implementation"], request["kernel"], rows, columns, request["block"])
    key = tuple(request[name] for name in ("implementation", "kernel", "rows", "columns", "block"))
    if key not in warm:
        _by_blocks(*work)
        warm.add(key)
    before = engine.start_peak()
    start = time.perf_counter()
    kernel = _by_blocks(*work)
    seconds = time.perf_counter() - start
    peak = engine.peak()
    if request["save"]:
        np.save(request["save"], kernel)
    return {"seconds": seconds, "peak": peak, "peak_above_start": peak - before}


def _by_blocks(
    engine: Engine, implementation: str, kernel: str, rows: slice, columns: slice | None, block: int
) -> np.ndarray:
    """A block whole, or a square one in smaller blocks on and above its diagonal, mirrored."""
    if columns is not None or block >= rows.stop:
        return engine.kernel(implementation, kernel, rows, columns)
    cuts = [slice(start, min(start + block, rows.stop)) for start in range(0, rows.stop, block)]
    result = None  # (n, K, n, K); K is 1 for a class trace
    for i, first in enumerate(cuts):
        for second in cuts[i:]:
            part = engine.kernel(implementation, kernel, first, None if first == second else second)
            part = part if kernel == "full" else part[:, None, :, None]
            if result is None:
                result = np.empty((rows.stop, part.shape[1]) * 2, part.dtype)
            result[first, :, second] = part
            result[second, :, first] = part.transpose(2, 3, 0, 1)
    return result if kernel == "full" else result[:, 0, :, 0]


def _logits_difference(engine: Engine, weights: Path) -> float:
    """Largest difference of the logits from PyTorch's, over the largest logit."""
    with np.load(weights) as file:
        expected = file["logits"]
    return float(np.abs(engine.logits(len(expected)) - expected).max() / np.abs(expected).max())


def _process_memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024
