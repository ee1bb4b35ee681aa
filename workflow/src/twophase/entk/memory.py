"""How much memory the engine may take, and the blocks that keep it within that."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from twophase.differentiation.functional import FunctionalNetwork

CONTROL_GROUPS = Path("/sys/fs/cgroup")
CPU_SHARE = 0.25  # of the available memory: other jobs run beside this one
CUDA_SHARE = 0.5  # of the device's free memory
PIECE = 32  # examples differentiated together at most: more took no less time on the CPU
# A gradient as the backward pass leaves it, a copy that some operations make of theirs, and its place in a row.
GRADIENT_COPIES = 3
# Bytes alive in the backward pass of one logit, over those of the largest activation: at most 7 was measured, on
# residual networks; on a multilayer perceptron 1.
BACKWARD_FACTOR = 8


@dataclass(frozen=True)
class Footprint:
    """What one example costs.

    Attributes:
        gradient: Bytes of one logit's gradient with respect to all trainable parameters.
        activations: Bytes that the forward pass keeps for the backward pass.
        largest: Bytes of the largest of these activations.
        shared: Bytes that the forward pass keeps for all examples together, such as weights times numbers; counted
            among the activations if 0.
    """

    gradient: int
    activations: int
    largest: int
    shared: int = 0

    def piece(self, examples: int, classes: int) -> int:
        """Bytes needed to differentiate so many logits of so many examples together."""
        per_logit = GRADIENT_COPIES * self.gradient + BACKWARD_FACTOR * self.largest
        return examples * (self.activations + classes * per_logit)


@dataclass(frozen=True)
class Blocks:
    """How the gradients are cut.

    Attributes:
        held: Examples whose gradients are held as rows of the kernel.
        piece: Examples differentiated together.
        classes: Logits differentiated together; fewer than K only if ``held`` and ``piece`` are 1.
    """

    held: int
    piece: int
    classes: int


def default_budget(device: torch.device) -> int:
    """Return a share of what is free, in bytes: 1/2 of a GPU's memory, 1/4 of the main memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(CUDA_SHARE * (free + cached))
    return int(CPU_SHARE * _available_memory())


def _available_memory() -> int:
    """Bytes of main memory that can be had without swapping, within what SLURM or a container allows."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
    except (OSError, StopIteration):
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return min([available, *_left_in_control_groups()])


def _left_in_control_groups() -> list[int]:
    """What the process's control group (version 2) and those above it have left, where they have a limit."""
    try:
        own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    group = CONTROL_GROUPS / own.removeprefix("0::").lstrip("/")
    left = []
    for folder in (group, *group.parents):
        if not folder.is_relative_to(CONTROL_GROUPS):
            break
        with suppress(OSError, ValueError):  # no limit ("max"), no such file at the root
            left.append(int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text()))
    return left


def measure_footprint(network: FunctionalNetwork, example: Tensor) -> Footprint:
    """Measure what one example costs, by an ordinary forward pass that counts what it keeps.

    Args:
        network: The network.
        example: One input, shape ``(1, *d)``.

    Returns:
        The example's footprint.
    """
    kept = _kept(network, example)
    return Footprint(network.size * network.dtype.itemsize, sum(kept), max(kept))


def measure_growth(network: FunctionalNetwork, example: Tensor) -> Footprint:
    """Measure what each example costs and what all of them share, by passes of one example and of two.

    Args:
        network: The network.
        example: One input, shape ``(1, *d)``.

    Returns:
        The footprint of each example; that of `measure_footprint` if the passes can't be compared.
    """
    one, two = _kept(network, example), _kept(network, torch.cat([example, example]))
    if len(one) != len(two):  # PyTorch takes other operations for one example
        return measure_footprint(network, example)
    grown = [max(0, of_two - of_one) for of_one, of_two in zip(one, two, strict=True)]
    return Footprint(network.size * network.dtype.itemsize, sum(grown), max(grown), max(0, sum(one) - sum(grown)))


def _kept(network: FunctionalNetwork, inputs: Tensor) -> list[int]:
    """Bytes of all that a forward pass keeps for the backward pass, in the order in which it does; its outputs last."""
    leaves = network.leaves()
    constant = {t.untyped_storage().data_ptr() for t in (*leaves.values(), *network.constants.values())}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        for part in _parts(tensor):
            storage = part.untyped_storage()
            if storage.data_ptr() not in constant:
                kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        # The outputs hold the graph, and so the addresses apart, until the counting is over.
        outputs = network(leaves, inputs)
    return [*kept.values(), outputs.numel() * outputs.element_size()]


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """What a tensor consists of: sparse ones of indices and values. Rare layouts aren't counted."""
    match tensor.layout:
        case torch.strided:
            return (tensor,)
        case torch.sparse_coo:
            return tensor._indices(), tensor._values()
        case torch.sparse_csr:
            return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return ()


def plan_blocks(footprint: Footprint, examples: int, classes: int, budget: int) -> Blocks:
    """Choose blocks that stay within the budget: few large ones, since each block differentiates the others anew.

    Args:
        footprint: What one example costs.
        examples: Number n of examples that make the kernel's rows.
        classes: Number K of logits.
        budget: Bytes for gradients and activations.

    Returns:
        The blocks.

    Raises:
        ValueError: If the budget doesn't hold one logit's gradient and what it takes to compute another.
    """
    row = classes * footprint.gradient
    if row + footprint.piece(1, classes) <= budget:
        quarter = budget // 4 // footprint.piece(1, classes)
        piece = max(1, min(PIECE, quarter, examples))
        held = (budget - footprint.piece(piece, classes)) // row
        return Blocks(min(held, examples), piece, classes)
    needed = footprint.piece(1, 1) + footprint.gradient
    if needed > budget:
        raise ValueError(
            f"memory_budget is {budget:,} bytes; a network of this size needs at least {needed:,} "
            f"({GRADIENT_COPIES + 1} gradients of {footprint.gradient:,} bytes, and activations)."
        )
    most = (budget - footprint.activations) // (footprint.piece(1, 1) - footprint.activations + footprint.gradient)
    return Blocks(held=1, piece=1, classes=min(most, classes))
