"""What the project's training loop costs beyond the bare forward pass, backward pass and optimiser step.

Both train in one process, in alternating blocks, each its own copy of one network, on the same batches: the project's
loop makes them, the bare loop finds them on the device. Run it on a calm machine:

    python benchmarks/training_loop.py

It prints a table and exits with 1 if the median ratio of a case exceeds the limit.
"""

import argparse
import copy
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from side_by_side import fashion_mnist, random_images, spread, timed
from torch.nn import functional

from twophase.batches import Batches
from twophase.config import Study
from twophase.data import ImageData
from twophase.devices import environment, prepare_device
from twophase.training import TrainingRun

LIMIT = 1.15
BATCH_SIZE = 128


@dataclass(frozen=True)
class Case:
    """A network on a data set, and how long it trains in a block."""

    name: str
    data: Callable[[torch.device], ImageData]
    model: dict
    crop_padding: int
    cpu_steps: int
    gpu_steps: int


def main() -> int:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15, help="pairs of blocks a case (default: 15)")
    pairs = parser.parse_args().pairs
    device = prepare_device(threads=1)
    print(", ".join(f"{key} {value}" for key, value in environment(device).items()))
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores, {pairs} pairs of blocks a case")
    print("median [quartiles]; milliseconds a step; the ratio is taken within each pair")
    print(f"{'case':<32} {'steps':>5}  {'project':<22} {'bare':<22} ratio")
    within = True
    for case in CASES:
        steps = case.gpu_steps if device.type == "cuda" else case.cpu_steps
        project, bare = measure(case, device, steps=steps, pairs=pairs)
        ratio = project / bare
        within &= float(np.median(ratio)) <= LIMIT
        row = f"{case.name:<32} {steps:>5}  {spread(1000 * project):<22} {spread(1000 * bare):<22} {spread(ratio, 3)}"
        print(row, flush=True)
    print(f"limit of the median ratio: {LIMIT}: {'held' if within else 'exceeded'}")
    return 0 if within else 1


def measure(case: Case, device: torch.device, *, steps: int, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds a step of the project's loop and of the bare loop, one entry a pair of blocks."""
    settings = Study.model_validate(
        {
            "model": case.model,
            "training": {"batch_size": BATCH_SIZE, "crop_padding": case.crop_padding, "horizontal_flip": True},
        }
    ).run_settings()
    run = TrainingRun(case.data(device), settings, seed=0)
    bare = BareLoop(run)
    batches_of = Batches(run.data, 0, batch_size=BATCH_SIZE, crop_padding=case.crop_padding, horizontal_flip=True)
    seconds = {"project": [], "bare": []}
    for pair in range(-1, pairs):  # the first one warms up
        batches = [batches_of(step) for step in range(run.step, run.step + steps)]
        blocks = {"project": lambda: run.advance(run.step + steps), "bare": lambda batches=batches: bare.train(batches)}
        for name in sorted(blocks, reverse=pair % 2):
            elapsed = timed(blocks[name], device)
            if pair >= 0:
                seconds[name].append(elapsed / steps)
    for ours, theirs in zip(run.network.state_dict().values(), bare.network.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), "the two loops have to do the same work"
    return np.array(seconds["project"]), np.array(seconds["bare"])


class BareLoop:
    """Forward pass, backward pass and optimiser step, and nothing else."""

    def __init__(self, run: TrainingRun) -> None:
        """Copy the network of a run at step 0."""
        self.network = copy.deepcopy(run.network).train()
        group = run.optimizer.param_groups[0]
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), **{key: group[key] for key in ("lr", "momentum", "nesterov", "weight_decay")}
        )

    def train(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Take one step on each batch."""
        for images, labels in batches:
            self.optimizer.zero_grad()
            functional.cross_entropy(self.network(images), labels).backward()
            self.optimizer.step()


CASES = (
    Case("ResNet-8, width 8, 1x14x14", fashion_mnist, {"name": "resnet", "depth": 8, "width": 8}, 1, 50, 200),
    Case("ResNet-20, width 16, 3x32x32", random_images, {"name": "resnet", "depth": 20, "width": 16}, 4, 5, 100),
)

if __name__ == "__main__":
    sys.exit(main())
