"""Branches: a tiny change of all trainable parameters at step t0."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from twophase.errors import ModelError
from twophase.randomness import Source, numpy_generator
from twophase.training import TrainingRun, trainable_parameters
from twophase.trajectories import Branch

# Position of a kind in the perturbation's seed; part of every result. A control of norm 0 takes a Gaussian direction.
KIND_KEYS = {"control": 0, "gaussian": 0, "gradient": 1}


def perturb(run: TrainingRun, branch: Branch) -> None:
    r"""Turn a run of the parent at t0 into a branch, in place: theta' = theta + epsilon.

    ``epsilon = relative_norm * |theta| * direction / |direction|`` (L2 norms over all trainable parameters). The
    optimiser's state and the buffers stay as they are.

    Args:
        run: The parent at the branch's t0.
        branch: Kind, size and draw.

    Raises:
        ValueError: If the run isn't at t0.
        ModelError: If the gradient is zero.
    """
    if run.step != branch.t0:
        raise ValueError(f"a branch at step {branch.t0} can't start from step {run.step}")
    direction = _gradient_direction(run, branch) if branch.kind == "gradient" else _gaussian_direction(run, branch)
    theta, length = trainable_parameters(run.network), l2_norm(direction)
    if not length:
        raise ModelError(f"the {branch.kind} of seed {run.seed} at step {branch.t0} is zero and so gives no direction")
    scale = branch.relative_norm * l2_norm(theta) / length
    for parameter, along in zip(theta, direction, strict=True):
        parameter.add_((scale * along).to(parameter))


def l2_norm(tensors: list[Tensor]) -> float:
    """L2 norm over all entries of several tensors, accumulated in float64."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def _gaussian_direction(run: TrainingRun, branch: Branch) -> list[Tensor]:
    """Independent standard normal entries, float64, the same on every device."""
    generator = numpy_generator(run.seed, Source.PERTURBATION, KIND_KEYS[branch.kind], branch.draw, branch.t0)
    return [
        torch.from_numpy(generator.standard_normal(tuple(parameter.shape))).to(parameter.device)
        for parameter in trainable_parameters(run.network)
    ]


def _gradient_direction(run: TrainingRun, branch: Branch) -> list[Tensor]:
    """Gradient of the training loss on one unaugmented random minibatch, in evaluation mode."""
    generator = numpy_generator(run.seed, Source.PERTURBATION, KIND_KEYS[branch.kind], branch.draw, branch.t0)
    labels = run.data.train_labels
    chosen = generator.choice(len(labels), size=run.batch_size, replace=False)
    indices = torch.from_numpy(np.sort(chosen)).to(labels.device)
    parameters = [parameter for parameter in run.network.parameters() if parameter.requires_grad]
    run.network.eval()
    loss = functional.cross_entropy(run.network(run.data.train_images[indices]), labels[indices])
    return [gradient.double() for gradient in torch.autograd.grad(loss, parameters, materialize_grads=True)]
