"""What the benchmarks of training steps share: images, clocks, and how numbers are written."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from twophase.data import ImageData, load_images, write_images
from twophase.sources import Selection, read_images

EMBEDDED_IMAGES = Path(__file__).parents[1] / "workflow" / "resources" / "fashion_mnist" / "images.nc"


def timed(block: Callable[[], object], device: torch.device) -> float:
    """Seconds that a block takes."""
    synchronise(device)
    start = time.perf_counter()
    block()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(values: np.ndarray, digits: int = 2) -> str:
    """Median and quartiles, as text."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return f"{median:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def fashion_mnist(device: torch.device) -> ImageData:
    """The images of the default study, 14x14."""
    raw = read_images(Selection(image_size=14), EMBEDDED_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "data.nc", raw, recipe="{}")
        return load_images(Path(folder) / "data.nc", device=device, dtype=torch.float32)


def random_images(device: torch.device) -> ImageData:
    """Noise of the size of CIFAR-10's images, of which there are 10,000."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(10_000, 3, 32, 32, generator=generator).to(device)
    labels = torch.randint(10, (10_000,), generator=generator).to(device)
    return ImageData(
        train_images=images,
        train_labels=labels,
        test_images=images[:100],
        test_labels=labels[:100],
        class_names=tuple("0123456789"),
        black=torch.full((3,), -2.0, device=device),
        recipe="{}",
    )
