"""Small images, settings and networks for tests of training; and equality of runs, bit for bit."""

import torch
from torch import nn

from twophase.config import Study
from twophase.data import ImageData
from twophase.models.layers import SpatialMean


def tiny_images(train=40, test=20, *, shape=(1, 8, 8), classes=4, dtype=torch.float32, seed=0):
    """Noise around a pattern a class; labels go round; black is another value in each channel."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(classes, *shape, generator=generator, dtype=torch.float64)
    tensors = {}
    for split, size in (("train", train), ("test", test)):
        labels = torch.arange(size) % classes
        noise = torch.randn(size, *shape, generator=generator, dtype=torch.float64)
        tensors |= {f"{split}_images": (patterns[labels] + noise).to(dtype), f"{split}_labels": labels}
    black = -3.0 - torch.arange(shape[0], dtype=dtype)
    return ImageData(**tensors, class_names=tuple(map(str, range(classes))), black=black, recipe="{}")


def run_settings(*, model=None, optimizer=None, schedule=None, **training):
    """Run settings as a config gives them."""
    study = {
        "model": {"name": "cnn", "depth": 1, "width": 4} if model is None else model,
        "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-3} if optimizer is None else optimizer,
        "schedule": {"name": "constant"} if schedule is None else schedule,
        "training": {"batch_size": 8, "crop_padding": 1, "horizontal_flip": True} | training,
    }
    return Study.model_validate(study).run_settings()


ADAMW = {"name": "adamw", "learning_rate": 0.01}
DROPOUT = {"name": "tiny:dropout_network"}
PARTLY_FROZEN = {"name": "tiny:partly_frozen_network"}


def dropout_network(*, image_shape, classes):
    """A network that draws from PyTorch's global generator in training, before BatchNorm."""
    layers = [nn.Conv2d(image_shape[0], 4, 3, padding=1), nn.Dropout(0.5), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*layers, SpatialMean(), nn.Linear(4, classes))


class _PartlyFrozen(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.frozen = nn.Conv2d(channels, 4, 3)
        self.frozen.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(3))
        self.norm = nn.BatchNorm2d(4)
        self.mean = SpatialMean()
        self.output = nn.Linear(4, classes)

    def forward(self, images):
        return self.output(self.mean(self.norm(self.frozen(images)).relu()))


def partly_frozen_network(*, image_shape, classes):
    """A network with a frozen layer, and a trainable parameter that has no effect."""
    return _PartlyFrozen(image_shape[0], classes)


def bits(value):
    """The bits of every tensor in a nested state, beside its plain values; equal exactly if those are."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().cpu().numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [bits(part) for part in value]
    return value


def state_of(run):
    """Everything that the rest of a run depends on, as bits."""
    return bits([run.step, run.seed, run.network.state_dict(), run.optimizer.state_dict()])
