"""The gradient's signal-to-noise ratio at one point: how far single batches agree on where to go."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from twophase.batches import Batches
from twophase.data import ImageData
from twophase.randomness import Source, torch_seed
from twophase.training import global_generators_kept


def batch_gradients(
    network: nn.Module, data: ImageData, settings: dict, *, seed: int, step: int, batches: int
) -> Iterator[list[Tensor]]:
    """Gradients of the loss on independent batches, at the network's parameters.

    Each batch is the one with which a run of another seed would begin: as large, as augmented, with dropout as in
    training. The run's own next batches wouldn't do: they leave out what the epoch has shown, and no two of an epoch
    share an image, so that neither their mean nor their spread is that of independent ones.

    Args:
        network: In training mode, so that BatchNorm takes each batch's statistics; its running ones change, which no
            gradient sees. A caller who needs them measures on a copy.
        data: Images on the network's device.
        settings: Settings of the run.
        seed: Seed of the run.
        step: Step of the run; other steps have other batches.
        batches: How many.

    Yields:
        One gradient at a time, a tensor for each trainable parameter; weight decay is left out. PyTorch's global
        random state is as found whenever one is given.

    Raises:
        ValueError: If the network is in evaluation mode.
    """
    if not network.training:
        raise ValueError("batch_gradients needs network.train(), got evaluation mode")
    augmentation = {name: settings[name] for name in ("batch_size", "crop_padding", "horizontal_flip")}
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for number in range(batches):
        others_seed = torch_seed(seed, Source.GRADIENT_NOISE, step, number)
        images, labels = Batches(data, others_seed, **augmentation)(0)
        with global_generators_kept(images.device):
            torch.manual_seed(torch_seed(others_seed, Source.NETWORK, 0))
            loss = functional.cross_entropy(network(images), labels)
            gradient = torch.autograd.grad(loss, parameters, materialize_grads=True)
        yield list(gradient)


def signal_and_noise(gradients: Iterable[list[Tensor]]) -> dict[str, float]:
    r"""Estimate signal and noise from independent gradients g_1, ..., g_m of the same expectation G.

    With the mean gbar, ``noise = sum_i |g_i - gbar|^2 / (m - 1)`` is an unbiased estimate of the trace of a gradient's
    covariance, and ``signal = |gbar|^2 - noise / m`` one of ``|G|^2``. The simple noise scale of McCandlish 2018 (arXiv
    1812.06162, appendix A), a batch size, is ``batch size / gradient_signal_to_noise``.

    Args:
        gradients: At least two, taken one at a time; a tensor for each parameter.

    Returns:
        ``gradient_norm`` = |gbar|, larger than |G| by the noise that is left in the mean; ``gradient_signal``, negative
        where chance has it; ``gradient_noise``; ``gradient_signal_to_noise``, their ratio, infinite without noise.
        Sums are float64, in memory of two gradients beside the one at hand.

    Raises:
        ValueError: If fewer than two came.
    """
    mean: list[Tensor] = []
    scatter, count = 0.0, 0
    for count, gradient in enumerate(gradients, start=1):
        mean = mean or [torch.zeros_like(part, dtype=torch.float64) for part in gradient]
        for average, part in zip(mean, gradient, strict=True):  # Welford: no difference of large sums
            deviation = part.double() - average
            average += deviation / count
            scatter += (1 - 1 / count) * deviation.square().sum()
    if count < 2:
        raise ValueError(f"signal_and_noise needs at least two gradients, got {count}")
    noise = np.float64(scatter) / (count - 1)
    squared = np.float64(sum(part.square().sum() for part in mean))
    signal = squared - noise / count
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = signal / noise
    names = ("gradient_norm", "gradient_signal", "gradient_noise", "gradient_signal_to_noise")
    return dict(zip(names, map(float, (np.sqrt(squared), signal, noise, ratio)), strict=True))
