"""Two networks: how far apart their parameters lie, what they disagree on, and the barrier between them."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from twophase.training import TrainingRun, global_generators_kept, trainable_parameters

EVALUATION_BATCH = 500  # images at once; changes memory, not results beyond rounding

Examples = tuple[Tensor, Tensor]


def parameter_distance(theta: list[Tensor], other: list[Tensor]) -> float:
    """|theta - theta'|_2 over all entries, in float64; exactly 0.0 for equal parameters.

    Args:
        theta: Parameters of one network, any shapes.
        other: Those of the other, the same shapes.

    Returns:
        The L2 distance.
    """
    return float(_squared_distance(theta, other).sqrt())


def parameter_dissimilarity(theta: list[Tensor], other: list[Tensor]) -> float:
    """C = 1 - cos(theta, theta'), in float64 (Zhou 2025a).

    It is computed as ``|u - u'|^2 / 2`` over the unit vectors, which doesn't cancel where the two are nearly parallel.

    Args:
        theta: Parameters of one network, any shapes.
        other: Those of the other, the same shapes.

    Returns:
        A number from 0 to 2; exactly 0.0 for equal parameters.
    """
    flat, flat_other = (torch.cat([part.double().flatten() for part in parts]) for parts in (theta, other))
    return float((flat / flat.norm() - flat_other / flat_other.norm()).square().sum() / 2)


def _squared_distance(theta: list[Tensor], other: list[Tensor]) -> Tensor:
    return torch.stack([(a.double() - b.double()).square().sum() for a, b in zip(theta, other, strict=True)]).sum()


@torch.no_grad()
def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Logits ``(n, K)`` in evaluation mode, in batches; the network's mode is left as found."""
    training = network.training
    network.eval()
    logits = torch.cat([network(batch) for batch in images.split(EVALUATION_BATCH)])
    network.train(training)
    return logits


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy of logits ``(n, K)`` and labels ``(n,)``, in float64."""
    return float(functional.cross_entropy(logits.double(), labels))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of examples whose largest logit is their label's."""
    return float((logits.argmax(dim=1) == labels).double().mean())


def disagreement_rate(logits: Tensor, other: Tensor) -> float:
    """Share of inputs for which two networks predict different classes; logits ``(n, K)`` each."""
    return float((logits.argmax(dim=1) != other.argmax(dim=1)).double().mean())


def interpolation_losses(
    network: nn.Module,
    other: nn.Module,
    *,
    points: int,
    examples: dict[str, Examples],
    batch_norm_batches: list[Tensor],
) -> dict[str, np.ndarray]:
    """Loss along the straight line (1 - a) theta + a theta', at equidistant a from 0 to 1.

    BatchNorm's running statistics are recomputed at every point, both ends included: without that the barrier would
    measure BatchNorm, not the landscape. A network without BatchNorm keeps its buffers.

    Args:
        network: At a = 0; not changed.
        other: At a = 1; not changed.
        points: Number of points, at least 2.
        examples: For each split, images ``(n, C, H, W)`` and labels ``(n,)``.
        batch_norm_batches: Training images for the statistics, in batches of a training step's size.

    Returns:
        For each split the losses, float64, shape ``(points,)``.
    """
    theta, theta_other = trainable_parameters(network), trainable_parameters(other)
    between = copy.deepcopy(network)
    fractions = np.linspace(0.0, 1.0, points)
    if _squared_distance(theta, theta_other) == 0:
        fractions = fractions[:1]  # one network: every point of the line is the same
    losses: dict[str, list[float]] = {split: [] for split in examples}
    for fraction in fractions:
        for parameter, start, end in zip(trainable_parameters(between), theta, theta_other, strict=True):
            parameter.copy_(torch.lerp(start, end, float(fraction)))
        with global_generators_kept(theta[0].device):
            torch.manual_seed(0)  # dropout's masks are the same at every point
            update_bn(batch_norm_batches, between)
        for split, (images, labels) in examples.items():
            losses[split].append(mean_loss(logits_of(between, images), labels))
    return {split: np.broadcast_to(values, points).copy() for split, values in losses.items()}


def loss_barrier(losses: np.ndarray) -> float:
    """Barrier along a line: max over a of L(a) - ((1 - a) L(0) + a L(1)).

    Args:
        losses: Losses at equidistant a from 0 to 1, shape ``(points,)``.

    Returns:
        At least 0, as the ends count; exactly 0.0 for a constant loss; NaN if a loss is.
    """
    fractions = np.linspace(0.0, 1.0, len(losses))
    chord = losses[0] + fractions * (losses[-1] - losses[0])
    return float(np.max(losses - chord))


def distances_while_training(
    run: TrainingRun, other: TrainingRun, steps: int, *, progress: Callable[[int], None] | None = None
) -> np.ndarray:
    """|theta_t - theta'_t|_2 at t0, t0 + 1, ..., t0 + steps, training both runs side by side.

    Args:
        run: At step t0; advanced.
        other: At step t0; advanced.
        steps: Updates after t0.
        progress: Called with the number of updates done.

    Returns:
        Distances, float64, shape ``(steps + 1,)``.
    """
    theta, theta_other = trainable_parameters(run.network), trainable_parameters(other.network)
    squared = [_squared_distance(theta, theta_other)]
    for done in range(1, steps + 1):
        run.advance(run.step + 1)
        other.advance(other.step + 1)
        squared.append(_squared_distance(theta, theta_other))
        if progress:
            progress(done)
    return torch.stack(squared).sqrt().cpu().numpy()
