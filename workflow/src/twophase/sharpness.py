"""Sharpness: the largest eigenvalue of the training loss's Hessian, and the one above which training is unstable."""

import logging
import math
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from twophase.randomness import Source, numpy_generator, torch_seed
from twophase.schedule import learning_rate_at
from twophase.training import global_generators_kept

TOLERANCE = 1e-3  # of the residual, relative to the eigenvalue, whose own error is smaller
LANCZOS_VECTORS = 8  # kept at a time; 9 to 21 products with the Hessian were enough for a ResNet-8 on its way
MOST_RESTARTS = 60  # some 4 products each


def loss_hessian(network: nn.Module, images: Tensor, labels: Tensor) -> LinearOperator:
    """The Hessian of the mean cross-entropy as an operator, each product one more backward pass through the gradient.

    All examples are in one batch, since BatchNorm couples them. The graph of the gradient is kept as long as the
    operator: its memory is a few times that of the activations. At kinks, as of a ReLU, it is PyTorch's derivative.

    Args:
        network: In training mode; BatchNorm's running statistics change, which the loss doesn't see. What the network
            draws at random, such as dropout's masks, is drawn once, from PyTorch's global generator.
        images: ``(n, C, H, W)``.
        labels: ``(n,)``.

    Returns:
        A symmetric operator, float64 outside, in the network's number type within; shape ``(P, P)`` over all trainable
        parameters in the network's order.

    Raises:
        ValueError: If the network is in evaluation mode.
    """
    if not network.training:
        raise ValueError("loss_hessian needs network.train(), got evaluation mode")
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        loss = functional.cross_entropy(network(images), labels)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    curved = [part for part in gradient if part.requires_grad]  # others are constant

    def product(vector: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(vector.ravel()).to(images).split([part.numel() for part in gradient])
        along = [part.view(slope.shape) for part, slope in zip(parts, gradient, strict=True) if slope.requires_grad]
        products = torch.autograd.grad(
            curved, parameters, grad_outputs=along, retain_graph=True, materialize_grads=True
        )
        return torch.cat([part.flatten() for part in products]).double().cpu().numpy()

    size = sum(part.numel() for part in gradient)
    return LinearOperator((size, size), matvec=product, dtype=np.float64)


def sharpness(
    network: nn.Module, images: Tensor, labels: Tensor, *, seed: int, log: logging.Logger | None = None
) -> tuple[float, int]:
    """Largest eigenvalue of the Hessian of the mean training loss (Cohen 2021, arXiv 2103.00065), by Lanczos.

    It is that of the loss which training descends: BatchNorm on the statistics of the batch, here of all examples.
    Weight decay is left out; SGD's adds its coefficient to every eigenvalue. A network that draws random numbers
    (dropout) is measured at one draw, the same at every step of a run.

    Args:
        network: In training mode; see `loss_hessian`.
        images: ``(n, C, H, W)``.
        labels: ``(n,)``.
        seed: Seed of the run, from which the start vector and the network's draw come.
        log: Takes a warning if the iterations don't converge.

    Returns:
        The algebraically largest eigenvalue, NaN if the iterations don't converge; and the number of products.
    """
    with global_generators_kept(images.device):
        torch.manual_seed(torch_seed(seed, Source.GRADIENT_NOISE))
        hessian = loss_hessian(network, images, labels)
    products = 0

    def counted(vector: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return hessian.matvec(vector)

    size = hessian.shape[0]
    try:
        (largest,) = eigsh(
            LinearOperator(hessian.shape, matvec=counted, dtype=np.float64),
            k=1,
            which="LA",
            v0=numpy_generator(seed, Source.GRADIENT_NOISE).standard_normal(size),
            ncv=min(LANCZOS_VECTORS, size),
            maxiter=MOST_RESTARTS,
            tol=TOLERANCE,
            return_eigenvectors=False,
        )
    except ArpackError as error:  # a result for one step, not the end of a job of hours
        if log:
            log.warning("warning: no sharpness after %d products with the Hessian (%s)", products, error)
        return math.nan, products
    return float(largest), products


def stability_threshold(step: int, optimizer: dict[str, Any], schedule: dict[str, Any]) -> float:
    """The sharpness above which full-batch gradient descent on a quadratic is unstable at the step's learning rate.

    ``2 (1 + mu) / eta`` with momentum mu and learning rate eta, with Nesterov's form ``2 (1 + mu) / ((1 + 2 mu) eta)``
    (Cohen 2021, arXiv 2103.00065, appendix B). Minibatches make training unstable below it already.

    Args:
        step: Number of the update.
        optimizer: Settings of the optimiser.
        schedule: Schedule in steps.

    Returns:
        The threshold; infinite at a learning rate of 0; NaN for optimisers other than SGD.
    """
    if optimizer["name"] != "sgd":
        return math.nan
    momentum = optimizer["momentum"]
    slowed = 1 + 2 * momentum if optimizer["nesterov"] else 1
    rate = learning_rate_at(step, optimizer["learning_rate"], schedule)
    return 2 * (1 + momentum) / (slowed * rate) if rate else math.inf
