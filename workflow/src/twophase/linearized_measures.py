"""One linearised run beside its parent: every measure from the switch to the end of the run."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from twophase.comparison import accuracy, disagreement_rate, logits_of, mean_loss
from twophase.data import ImageData, class_balanced_examples
from twophase.entk import kernel_product
from twophase.kernels import kernel_distance
from twophase.models import core_of
from twophase.perturbation import l2_norm
from twophase.storage import describe
from twophase.switching import BASELINES, DESCRIPTIONS, MEASURES
from twophase.training import TrainingRun, trainable_parameters

CHECKED_EXAMPLES = 5  # for the kernel of the linearised run, by backward passes of its own
EIGENVALUE_TOLERANCE, LANCZOS_VECTORS = 1e-3, 8  # relative; each is a product with the kernel


def measure_linearized(
    pairs: Iterable[tuple[int, TrainingRun, TrainingRun]],
    data: ImageData,
    *,
    evaluation_examples: int,
    probe_examples: int,
    optimizer: dict[str, Any],
) -> xr.Dataset:
    """Measure one linearised run beside its parent.

    Args:
        pairs: (step, linearised run, parent) from the switch to the end of the run, taken one at a time.
        data: Images.
        evaluation_examples: Class-balanced training images on which accuracy and loss are measured.
        probe_examples: Class-balanced training images of the top eigenvalue.
        optimizer: Settings of the optimiser.

    Returns:
        Data set over step, and numbers of the whole run.
    """
    chosen = class_balanced_examples(data.train_labels, evaluation_examples)
    train = data.train_images[chosen], data.train_labels[chosen]
    probe = data.train_images[class_balanced_examples(data.train_labels, probe_examples)]
    along: dict[int, dict[str, float]] = {}
    whole: dict[str, float] = {}
    for step, run, parent in pairs:
        if not along:  # the switch: linearised run and parent are one network
            network = parent.network.eval()
            whole["top_eigenvalue"] = top_eigenvalue(network, probe)
            kernel = _kernel_by_backward_passes(network, probe[:CHECKED_EXAMPLES])
        along[step] = _measured(run, parent, data, train)
    whole["stable_learning_rate"] = stable_learning_rate(whole["top_eigenvalue"], optimizer)
    last = _kernel_by_backward_passes(run.network, probe[:CHECKED_EXAMPLES])
    whole["kernel_change"] = kernel_distance(kernel, last)
    whole["diverged_at"] = np.nan if run.diverged_at is None else run.diverged_at
    losses = [measured["train_loss"] for measured in along.values()]
    whole["diverged"] = _has_diverged(losses, data.classes)
    variables = {name: ("step", [measured[name] for measured in along.values()]) for name in MEASURES + BASELINES}
    return describe(xr.Dataset(variables | whole, coords={"step": list(along)}), DESCRIPTIONS)


def _measured(run: TrainingRun, parent: TrainingRun, data: ImageData, train: tuple[Tensor, Tensor]) -> dict[str, float]:
    """All measures at one step; NaN where the run has diverged."""
    values = {}
    logits = {}
    for prefix, owner in (("", run), ("nonlinear_", parent)):
        logits[prefix] = logits_of(owner.network, data.test_images)
        of_train = logits_of(owner.network, train[0])
        values[f"{prefix}test_accuracy"] = accuracy(logits[prefix], data.test_labels)
        values[f"{prefix}test_loss"] = mean_loss(logits[prefix], data.test_labels)
        values[f"{prefix}train_accuracy"] = accuracy(of_train, train[1])
        values[f"{prefix}train_loss"] = mean_loss(of_train, train[1])
    values["disagreement_rate"] = disagreement_rate(logits[""], logits["nonlinear_"])
    values["distance"] = l2_norm(trainable_parameters(run.network))
    return values | (dict.fromkeys(MEASURES, np.nan) if run.diverged_at is not None else {})


def _kernel_by_backward_passes(network: nn.Module, inputs: Tensor) -> Tensor:
    """The eNTK in float64, ``(n K, n K)``, from one backward pass for each logit; for a few examples."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rows = [
        torch.autograd.grad(logit, parameters, retain_graph=True, materialize_grads=True, allow_unused=True)
        for logit in network(inputs).flatten()
    ]
    jacobian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]).double()
    return jacobian @ jacobian.T


def _has_diverged(train_losses: list[float], classes: int) -> int:
    """Whether training has made the training loss NaN, or worse than both the switch's and that of guessing, ln K."""
    return int(not train_losses[-1] <= max(train_losses[0], float(np.log(classes))))


def top_eigenvalue(network: nn.Module, probe: Tensor) -> float:
    """Largest eigenvalue of the eNTK over the number of examples, by Lanczos iterations on kernel products.

    Args:
        network: In evaluation mode.
        probe: Examples ``(n, C, H, W)``.

    Returns:
        lambda_max(H) / n, the largest curvature of the mean squared loss ``|f - y|^2 / (2 n)``.
    """
    core, scale = core_of(network)
    with torch.no_grad():
        shape = core(probe).shape

    def product(vector: np.ndarray) -> np.ndarray:
        vectors = torch.from_numpy(vector.reshape(shape)).to(probe)
        return kernel_product(core, probe, vectors).cpu().double().numpy().ravel()

    size = shape.numel()
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(size)
    (largest,) = eigsh(
        operator,
        k=1,
        which="LA",
        v0=start,
        ncv=min(LANCZOS_VECTORS, size),
        tol=EIGENVALUE_TOLERANCE,
        return_eigenvectors=False,
    )
    return scale**2 * float(largest) / len(probe)


def stable_learning_rate(top_eigenvalue: float, optimizer: dict[str, Any]) -> float:
    """Largest learning rate at which full-batch descent on the mean cross-entropy of a linear model is stable.

    The cross-entropy's curvature in the logits is at most 1/2, so that the loss's is at most half of the kernel's top
    eigenvalue lambda. Gradient descent with momentum mu is stable below ``2 (1 + mu) / (lambda / 2)``, Nesterov's form
    below ``2 (1 + mu) / ((1 + 2 mu) lambda / 2)``.

    Args:
        top_eigenvalue: As `top_eigenvalue` returns it.
        optimizer: Settings of the optimiser.

    Returns:
        The learning rate; NaN for optimisers other than SGD.
    """
    if optimizer["name"] != "sgd":
        return np.nan
    momentum = optimizer["momentum"]
    slowed = 1 + 2 * momentum if optimizer["nesterov"] else 1
    return 2 * (1 + momentum) / (slowed * top_eigenvalue / 2)
