"""How fast this machine does what the forms of a term consist of: measured once, and kept."""

import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from twophase.files import whole_file

POSITIONS = (1, 4, 16, 64, 256, 1024)
ROUNDS = 5
MEASUREMENT = 2  # of what `Rates.measure` measures: rates of another number are measured anew


@dataclass(frozen=True)
class Rates:
    """Measured rates of one device, number type and number of threads.

    Attributes:
        product: Floating-point operations per second of a long matrix product.
        formation: The same of the products that form Jacobians, by the number of positions that they sum over.
        mixed: The same of the mixed form, by the number of positions.
        bandwidth: Bytes per second read and written by element-wise work in the cache.
    """

    product: float
    formation: dict[int, float]
    mixed: dict[int, float]
    bandwidth: float

    def at(self, rates: dict[int, float], positions: int) -> float:
        """Interpolate one of the tables."""
        known = sorted(rates)
        return float(np.interp(np.log(positions), np.log(known), [rates[p] for p in known]))

    @classmethod
    def of_machine(cls, device: torch.device, dtype: torch.dtype) -> "Rates":
        """Return this machine's rates: from the cache, or measured in about a second and put there.

        The cache is the folder ``twophase`` under ``$XDG_CACHE_HOME``, by default ``~/.cache``. A lock lets processes
        that start together share one measurement, so that they choose alike.

        Args:
            device: Where kernels are computed.
            dtype: Number type.

        Returns:
            The rates.
        """
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twophase"
        path = folder / f"rates-{MEASUREMENT}-{_machine(device, dtype)}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                return cls._read(path) or cls._measured_to(path, device, dtype)
        except OSError:  # no home folder, or one that can't be written to
            return cls.measure(device, dtype)

    @classmethod
    def _read(cls, path: Path) -> "Rates | None":
        try:
            stored = json.loads(path.read_text())
            tables = {name: {int(k): float(v) for k, v in stored[name].items()} for name in ("formation", "mixed")}
            rates = cls(float(stored["product"]), **tables, bandwidth=float(stored["bandwidth"]))
            return rates if rates._possible() else None
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return None

    def _possible(self) -> bool:
        tables = (self.formation, self.mixed)
        numbers = [self.product, self.bandwidth, *(rate for table in tables for rate in table.values())]
        return all(tables) and all(math.isfinite(number) and number > 0 for number in numbers)

    @classmethod
    def _measured_to(cls, path: Path, device: torch.device, dtype: torch.dtype) -> "Rates":
        rates = cls.measure(device, dtype)
        with whole_file(path) as partial:
            Path(partial).write_text(json.dumps(asdict(rates), indent=1))
        return rates

    @classmethod
    def measure(cls, device: torch.device, dtype: torch.dtype) -> "Rates":
        """Measure the rates on a device.

        Args:
            device: The device.
            dtype: Number type.

        Returns:
            The rates: of each, the best of a few rounds.
        """
        generator = torch.Generator(device).manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device, dtype=dtype)

        long = draw(512, 8192)
        product = 2 * 512 * 512 * 8192 / _seconds(lambda: long @ long.T, device)
        values, weights = draw(512, 2048), draw(512, 2048)
        written = 4 * values.nbytes / _seconds(lambda: values.addcmul_(values, weights, value=1e-9), device)
        formation = {s: _formation_rate(s, draw, device) for s in POSITIONS}
        mixed = {s: _mixed_rate(s, draw, device) for s in POSITIONS[:-1]}
        return cls(product, formation, mixed, written)


def _formation_rate(positions: int, draw: Callable[..., Tensor], device: torch.device) -> float:
    examples = max(1, 1024 // positions)
    gradients, dense = draw(examples, positions, 256), draw(examples, positions, 288)
    seconds = _seconds(lambda: torch.bmm(gradients.transpose(1, 2), dense), device)
    return 2 * examples * positions * 256 * 288 / seconds


def _mixed_rate(positions: int, draw: Callable[..., Tensor], device: torch.device) -> float:
    logits, examples, channels = 10, 4, max(16, min(512, 16384 // positions))
    own, gram = draw(examples, logits * channels, positions), draw(examples, positions, positions)
    column = draw(logits, channels * positions)

    def contract() -> Tensor:
        between = torch.bmm(own, gram).view(examples, logits, -1)
        return torch.bmm(between, column.T.expand(examples, -1, -1))

    operations = 2 * examples * logits * channels * positions * (positions + logits)
    return operations / _seconds(contract, device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    work()
    best = float("inf")
    for _ in range(ROUNDS):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _machine(device: torch.device, dtype: torch.dtype) -> str:
    """What rates depend on, as a part of a file name."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_processor()} {torch.get_num_threads()} threads"
    text = f"{name} {dtype} torch {torch.__version__}".replace("torch.", "")
    return "".join(c if c.isalnum() or c in ".+" else "-" for c in text)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
