"""A prepared data set: written once as netCDF, read by every job as normalised tensors.

Jobs start often, so nothing here imports xarray, pandas or torchvision.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import netCDF4
import numpy as np
import torch
from torch import Tensor

from twophase import __version__
from twophase.errors import ArtifactError
from twophase.files import whole_file
from twophase.subsets import class_balanced_subset

# Every variable of the file: type, dimensions, long name.
LAYOUT = {
    "train_images": ("u1", ("train_example", "channel", "row", "column"), "training images, 0 is black"),
    "train_labels": ("i8", ("train_example",), "class index of each training image"),
    "test_images": ("u1", ("test_example", "channel", "row", "column"), "test images, 0 is black"),
    "test_labels": ("i8", ("test_example",), "class index of each test image"),
    "class": (str, ("class",), "class name"),
    "channel_mean": ("f8", ("channel",), "mean of the training images divided by 255"),
    "channel_std": ("f8", ("channel",), "standard deviation of the training images divided by 255; 1 if constant"),
}
BLOCK = 512  # examples handled together, so that no second copy of a data set is needed


@dataclass(frozen=True, eq=False)
class RawImages:
    """Images as they come from a source: uint8 ``(n, H, W, C)`` with int64 labels ``(n,)``, for both splits.

    Raises:
        ValueError: If the arrays don't fit each other.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self):
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self.train_images.shape[1:]:
                raise ValueError(
                    f"{split}_images must be uint8 (n, H, W, C) with one H, W, C for both splits, "
                    f"got {images.dtype} {images.shape} beside training images {self.train_images.shape}"
                )
            if labels.shape != images.shape[:1]:
                raise ValueError(f"{split}_labels must have shape {images.shape[:1]}, got {labels.shape}")


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set on one device.

    Attributes:
        train_images: ``(n, C, H, W)`` in the run's dtype, ``(x / 255 - mean) / std`` by training statistics.
        train_labels: ``(n,)`` int64.
        test_images: ``(m, C, H, W)``, normalised by the same training statistics.
        test_labels: ``(m,)`` int64.
        class_names: One name a class.
        black: ``(C,)``, the normalised value of a black pixel; pads crops.
        recipe: Canonical JSON of the settings and code that made the file.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    black: Tensor
    recipe: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of an image."""
        return tuple(self.train_images.shape[1:])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def write_images(path: str | os.PathLike, raw: RawImages, recipe: str) -> None:
    """Write a prepared data set, whole or not at all.

    Args:
        path: netCDF-4 file to write; images are uncompressed uint8, channels first, with checksums.
        raw: The images; not changed.
        recipe: Canonical JSON of what makes the file; kept as it stands.
    """
    mean, std = _channel_statistics(raw.train_images)
    with whole_file(path) as temporary, netCDF4.Dataset(temporary, "w") as file:
        file.set_fill_off()
        file.setncatts(
            {
                "Conventions": "CF-1.11",
                "title": f"Images of {len(raw.class_names)} classes, prepared for training",
                "source": f"twophase {__version__}",
                "recipe": recipe,
            }
        )
        _, rows, columns, channels = raw.train_images.shape
        sizes = {"train_example": len(raw.train_labels), "test_example": len(raw.test_labels)}
        sizes |= {"class": len(raw.class_names), "channel": channels, "row": rows, "column": columns}
        for name, size in sizes.items():
            file.createDimension(name, size)
        for name, (kind, dimensions, long_name) in LAYOUT.items():
            # Checksums, so that a damaged file is noticed when it is read; text can't have them.
            chunks = (min(BLOCK, sizes[dimensions[0]]), *(sizes[other] for other in dimensions[1:]))
            variable = file.createVariable(
                name, kind, dimensions, **({} if kind is str else {"fletcher32": True, "chunksizes": chunks})
            )
            variable.setncatts({"long_name": long_name} | ({} if kind is str else {"units": "1"}))
        for split in ("train", "test"):
            _write_channels_first(file[f"{split}_images"], getattr(raw, f"{split}_images"))
            file[f"{split}_labels"][:] = getattr(raw, f"{split}_labels")
        file["class"][:] = np.array(raw.class_names, dtype=object)
        file["channel_mean"][:], file["channel_std"][:] = mean, std


def _write_channels_first(variable: netCDF4.Variable, images: np.ndarray) -> None:
    for rows in _blocks(len(images)):
        variable[rows] = images[rows].transpose(0, 3, 1, 2)


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))


def _channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation a channel of uint8 ``(n, H, W, C)`` scaled to [0, 1], float64.

    Sums are whole numbers and therefore exact; a constant channel is told from a nearly constant one and gets 1.
    """
    channels = images.shape[-1]
    sums, squares = np.zeros(channels, np.uint64), np.zeros(channels, np.uint64)
    for rows in _blocks(len(images)):
        pixels = images[rows].reshape(-1, channels)
        sums += pixels.sum(axis=0, dtype=np.uint64)
        squares += np.square(pixels, dtype=np.uint16).sum(axis=0, dtype=np.uint64)
    count = images.size // channels
    mean = [int(total) / count / 255 for total in sums]
    spread = [count * int(square) - int(total) ** 2 for total, square in zip(sums, squares, strict=True)]
    return np.array(mean), np.array([(s / count**2) ** 0.5 / 255 if s else 1.0 for s in spread])


def load_images(path: str | os.PathLike, *, device: str | torch.device, dtype: torch.dtype) -> ImageData:
    """Read a prepared data set onto a device.

    A pixel has 256 values, so each is normalised once, in float64 on the CPU, and looked up: the tensors hold the
    same bits on every device, and memory beyond them is one block of images.

    Args:
        path: File that ``write_images`` wrote.
        device: Where the tensors go.
        dtype: Floating-point type of the images.

    Returns:
        The data set, images normalised by training statistics.

    Raises:
        ArtifactError: If the file is missing, damaged, or isn't a prepared data set; names the file and what's wrong.
    """
    with _open(path) as file:
        file.set_auto_maskandscale(False)
        _check_layout(path, file)
        names = tuple(_read(path, file["class"]))
        mean, std = _read(path, file["channel_mean"]), _read(path, file["channel_std"])
        values = (np.arange(256) / 255 - mean[:, None]) / std[:, None]
        table = torch.from_numpy(values).to(dtype).to(device)
        tensors = {}
        for split in ("train", "test"):
            tensors[f"{split}_images"] = _look_up(path, file[f"{split}_images"], table)
            labels = _read(path, file[f"{split}_labels"])
            if labels.min() < 0 or labels.max() >= len(names):
                raise ArtifactError(f"{path}: {split}_labels must lie in 0 to {len(names) - 1}, found others")
            tensors[f"{split}_labels"] = torch.from_numpy(labels).to(device)
        return ImageData(**tensors, class_names=names, black=table[:, 0].clone(), recipe=file.recipe)


def _open(path: str | os.PathLike) -> netCDF4.Dataset:
    try:
        return netCDF4.Dataset(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} can't be opened as it is missing; run the workflow again") from error
    except (OSError, RuntimeError) as error:
        raise ArtifactError(f"{path} is truncated, damaged or not netCDF ({error}); delete it and run again") from error


def _check_layout(path: str | os.PathLike, file: netCDF4.Dataset) -> None:
    """Refuse a netCDF file that isn't a prepared data set."""
    if "recipe" not in file.ncattrs():
        raise ArtifactError(f"{path} is not a prepared data set: it lacks the attribute 'recipe'")
    for name, (kind, dimensions, _) in LAYOUT.items():
        if name not in file.variables:
            raise ArtifactError(f"{path} is not a prepared data set: it lacks the variable {name!r}")
        found = file.variables[name]
        if found.dtype != kind or found.dimensions != dimensions:
            raise ArtifactError(
                f"{path} is not a prepared data set: {name!r} should be {np.dtype(kind).name} over {dimensions}, "
                f"is {found.dtype} over {found.dimensions}"
            )
        if not found.size:
            raise ArtifactError(f"{path}: {name!r} is empty")


def _read(path: str | os.PathLike, variable: netCDF4.Variable, rows: slice = slice(None)) -> np.ndarray:
    try:
        return variable[rows]
    except (OSError, RuntimeError) as error:
        raise ArtifactError(
            f"{path} is truncated, damaged or not netCDF ({variable.name!r} can't be read: {error}); "
            "delete it and run again"
        ) from error


def _look_up(path: str | os.PathLike, variable: netCDF4.Variable, table: Tensor) -> Tensor:
    """Replace each pixel ``x`` of channel ``c`` by ``table[c, x]``; table ``(C, 256)``, result ``(n, C, H, W)``."""
    images = torch.empty(variable.shape, dtype=table.dtype, device=table.device)
    for rows in _blocks(len(images)):
        block = torch.from_numpy(_read(path, variable, rows)).to(table.device, torch.int32)
        for channel, values in enumerate(table):
            pixels = block[:, channel]
            images[rows, channel] = values.index_select(0, pixels.reshape(-1)).view(pixels.shape)
    return images


def class_balanced_examples(labels: Tensor, count: int) -> Tensor:
    """A fixed class-balanced subset: the same on every device, and part of every larger one.

    Args:
        labels: Class of each example, int64 ``(n,)``; not changed.
        count: Size of the subset; class sizes differ by at most one.

    Returns:
        Indices in ascending order, int64 ``(count,)``, on the device of ``labels``.

    Raises:
        DataError: If a class has too few examples.
    """
    return torch.from_numpy(class_balanced_subset(labels.cpu().numpy(), count)).to(labels.device)
