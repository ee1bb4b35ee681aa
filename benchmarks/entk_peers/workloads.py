"""What is measured: networks with their weights and inputs, and numbers of examples."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from entk_peers.serving import CHECKED_LOGITS
from entk_peers.transformer import VisionTransformer
from twophase.models import build_model

CLASSES = 10
EXACT_EXAMPLES = 2
IMAGE_SHAPE = (3, 32, 32)


def _of_project(**settings: str | int) -> Callable[[], nn.Module]:
    return partial(build_model, settings, image_shape=IMAGE_SHAPE, classes=CLASSES)


def _resnet18() -> nn.Module:
    """Torchvision's, changed as usual for small images: a window of 3 first, no pooling after it."""
    model = resnet18(num_classes=CLASSES)
    model.conv1, model.maxpool = nn.Conv2d(IMAGE_SHAPE[0], 64, 3, padding=1, bias=False), nn.Identity()
    return model


NETWORKS = {
    "vgg16": _of_project(name="vgg16", width=64, normalization="batch"),
    "resnet20": _of_project(name="resnet", depth=20, width=16, normalization="batch"),
    "mlp": _of_project(name="mlp", depth=3, width=512, normalization="none"),
    "wide-mlp": _of_project(name="mlp", depth=2, width=4096, normalization="none"),
    "resnet18": _resnet18,
    "transformer": partial(VisionTransformer, IMAGE_SHAPE, CLASSES),
}


@dataclass(frozen=True)
class Workload:
    """A kernel of so many examples on one of the networks."""

    network: str
    examples: int

    @property
    def name(self) -> str:
        """What tables and files call it."""
        return f"{self.network}-{self.examples}"


WORKLOADS = (
    Workload("vgg16", 32),
    Workload("vgg16", 128),
    Workload("resnet20", 64),
    Workload("resnet20", 256),
    Workload("mlp", 500),
    Workload("wide-mlp", 256),
    Workload("resnet18", 32),
    Workload("transformer", 64),
)
SCALING = tuple(Workload("resnet20", examples) for examples in (16, 32, 64, 128, 256))


def build_network(name: str) -> nn.Module:
    """Build a network in evaluation mode, whose weights and statistics are as little special as a trained one's.

    Running statistics come from passes in training mode; biases and the scales of normalisation are random too.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = NETWORKS[name]()
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for _ in range(5):
            model(torch.randn(64, *IMAGE_SHAPE))
    return model.eval()


def example_inputs(examples: int) -> Tensor:
    """Return the random images of every workload, ``(n, C, H, W)``; fewer are the first ones of more."""
    return torch.randn(examples, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(1))


def exact_kernel(network: str) -> np.ndarray:
    """Return the full kernel of the first two examples, computed in float64 by ordinary backward passes."""
    model = build_network(network).double()
    logits = model(example_inputs(EXACT_EXAMPLES).double())
    parameters = list(model.parameters())
    gradients = torch.empty(logits.numel(), sum(parameter.numel() for parameter in parameters), dtype=torch.float64)
    for row, logit in zip(gradients, logits.flatten(), strict=True):
        torch.cat([part.flatten() for part in torch.autograd.grad(logit, parameters, retain_graph=True)], out=row)
    return (gradients @ gradients.T).view(*logits.shape, *logits.shape).numpy()


def export(name: str, examples: int, path: Path) -> None:
    """Write a network's weights, random inputs and the first few logits for the workers to read."""
    model = build_network(name)
    inputs = example_inputs(examples)
    with torch.no_grad():
        logits = model(inputs[:CHECKED_LOGITS])
    state = {f"state/{key}": value.numpy() for key, value in model.state_dict().items()}
    np.savez(path, inputs=inputs.numpy(), logits=logits.numpy(), **state)
