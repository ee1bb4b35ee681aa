"""What a training step of a linearised network costs, beside an ordinary one of the same network: time and memory.

Both are runs of the project on the same batches, trained in one process in alternating blocks. Memory is the growth of
a process of its own, from before the run is built to the peak of a few steps. Run it on a calm machine:

    python benchmarks/linearized_step.py

It prints a table and exits with 1 if a median ratio exceeds its limit. A step of a linearised network takes three
products where an ordinary forward pass takes one (W x, W dx, dW x), and the same backward pass: 5/3 of an ordinary
step's operations.
"""

import argparse
import ctypes
import gc
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from side_by_side import fashion_mnist, random_images, spread, timed

from twophase.config import Study
from twophase.data import ImageData
from twophase.devices import environment, prepare_device
from twophase.linearized_runs import linearized_run_at
from twophase.training import TrainingRun
from twophase.trajectories import Switch

TIME_LIMIT, MEMORY_LIMIT = 1.8, 2.5
SWITCHING = {"optimizer_state": "carried", "schedule": {"name": "constant", "warmup": 0}}
KINDS = ("ordinary", "linearised")


@dataclass(frozen=True)
class Case:
    """A network on a data set, and how long it trains in a block."""

    name: str
    data: Callable[[torch.device], ImageData]
    model: dict
    batch_size: int
    cpu_steps: int
    gpu_steps: int

    def settings(self) -> dict:
        """Settings of the run."""
        training = {"batch_size": self.batch_size, "crop_padding": 1, "horizontal_flip": True}
        optimizer = {"name": "sgd", "learning_rate": 0.01}
        return Study.model_validate({"model": self.model, "optimizer": optimizer, "training": training}).run_settings()

    def run(self, kind: str, data: ImageData) -> TrainingRun:
        """A run at its start."""
        if kind == "ordinary":
            return TrainingRun(data, self.settings(), seed=0)
        start = {"seed": 0, "switch": Switch(0, 0.01), "step": 0, "start": None}
        return linearized_run_at(data, self.settings(), SWITCHING, **start)[0]


def main() -> int:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9, help="pairs of blocks a case (default: 9)")
    parser.add_argument("--threads", type=int, default=1, help="threads on the CPU (default: 1)")
    arguments = parser.parse_args()
    device = prepare_device(threads=arguments.threads)
    print(", ".join(f"{key} {value}" for key, value in environment(device).items()))
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores, {arguments.threads} threads")
    print(f"median [quartiles] of {arguments.pairs} pairs of blocks; milliseconds a step; ratios within each pair")
    print(f"{'case':<42} {'steps':>5}  {'ordinary':<22} {'linearised':<22} {'ratio':<20} memory, MB")
    within = True
    for number, case in enumerate(CASES):
        steps = case.gpu_steps if device.type == "cuda" else case.cpu_steps
        seconds = measure(case, device, steps=steps, pairs=arguments.pairs)
        ratio = seconds["linearised"] / seconds["ordinary"]
        memory = [peak_memory(number, kind, arguments.threads) / 1e6 for kind in KINDS]
        within &= float(np.median(ratio)) <= TIME_LIMIT and memory[1] <= MEMORY_LIMIT * memory[0]
        times = " ".join(f"{spread(1000 * seconds[kind]):<22}" for kind in KINDS)
        used = f"{memory[0]:.0f}, {memory[1]:.0f} ({memory[1] / memory[0]:.2f} times)"
        print(f"{case.name:<42} {steps:>5}  {times} {spread(ratio, 3):<20} {used}", flush=True)
    print(f"limits: {TIME_LIMIT} times, memory {MEMORY_LIMIT} times: {'held' if within else 'exceeded'}")
    return 0 if within else 1


def measure(case: Case, device: torch.device, *, steps: int, pairs: int) -> dict[str, np.ndarray]:
    """Seconds a step of both kinds, one entry a pair of blocks."""
    data = case.data(device)
    runs = {kind: case.run(kind, data) for kind in KINDS}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for pair in range(-1, pairs):  # the first one warms up
        for kind in sorted(KINDS, reverse=bool(pair % 2)):
            elapsed = timed(lambda run=runs[kind]: run.advance(run.step + steps), device)
            if pair >= 0:
                seconds[kind].append(elapsed / steps)
    return {kind: np.array(values) for kind, values in seconds.items()}


def peak_memory(number: int, kind: str, threads: int) -> int:
    """Bytes by which a process of its own grows: the run, and its first steps."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (number, kind, threads))


def _growth(number: int, kind: str, threads: int) -> int:
    device = prepare_device(threads=threads)
    case = CASES[number]
    data = case.data(device)
    CASES[0].run(kind, fashion_mnist(device)).advance(2)  # loads the libraries
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        case.run(kind, data).advance(3)
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    case.run(kind, data).advance(3)
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


CASES = (
    Case(
        "ResNet-8, width 8, 1x14x14, batch 64", fashion_mnist, {"name": "resnet", "depth": 8, "width": 8}, 64, 30, 200
    ),
    Case("ResNet-20, width 16, 3x32x32, batch 128", random_images, {"name": "resnet", "depth": 20}, 128, 3, 100),
    Case("VGG-16, 3x32x32, batch 128", random_images, {"name": "vgg16", "width": 64}, 128, 1, 50),
)

if __name__ == "__main__":
    sys.exit(main())
