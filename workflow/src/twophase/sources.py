"""Where raw images come from: the data set that ships with the project, torchvision's downloads, image folders.

Only the rule that prepares a study's data reads this module; torchvision is imported when it is needed.

Nothing here unpickles a file whose digest hasn't been compared with a published one.
"""

import gzip
import hashlib
import os
import struct
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPException
from pathlib import Path

import netCDF4
import numpy as np
from PIL import Image, ImageOps

from twophase.data import RawImages
from twophase.errors import DataError
from twophase.image_folder import list_image_folder
from twophase.label_noise import with_label_noise
from twophase.subsets import class_balanced_subset

CIFAR = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
IDX = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}  # images and labels as gzipped arrays, no pickles
# Debian's package dataset-fashion-mnist has the published archives (left) without name and time in their gzip headers.
DEBIAN_MD5 = {
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d": "cf8536b0aa1a6ac5fa3f23001093305c",
    "25c81989df183df01b3e8a0aad5dffbe": "10bea18fdb374794d4bb42e356e600c9",
    "bef4ecab320f06d8554ea6380940ec79": "f78720b4224f21cce2f2ccf2d7a94c9a",
    "bb300cfdad3c16e7a12a480ee83cd310": "0d30e22e447f3c33dab9ed536400ac01",
}
DECODED_TOGETHER = 64  # files that a thread takes at once
LARGE_FILE = 16_000  # bytes


@dataclass(frozen=True)
class Selection:
    """Which images of a source a study uses, and how; fields as in `twophase.config.Data`."""

    source: str = "embedded_fashion_mnist"
    image_size: int | None = None
    grey: bool = False
    train_examples: int | None = None
    test_examples: int | None = None
    label_noise: float = 0.0


def read_images(settings: Selection, location: Path) -> RawImages:
    """Read a study's images: the subset that it uses, in the size and colours that it uses.

    Args:
        settings: What is used of them.
        location: The netCDF file that ships with the project, the folder that ``download`` filled, or the image folder.

    Returns:
        Both splits; a subset keeps the order of its source. Label noise is added to the training labels of the subset.

    Raises:
        DataError: Naming the file that is missing, damaged or of another size, or the class with too few images.
    """
    images = _read_selection(settings, location)
    noisy = with_label_noise(images.train_labels, settings.label_noise, len(images.class_names))
    return replace(images, train_labels=noisy)


def _read_selection(settings: Selection, location: Path) -> RawImages:
    if settings.source == "image_folder":
        return _read_folder(settings, location)
    if settings.source == "embedded_fashion_mnist":
        raw = _read_embedded(location)
    elif settings.source in CIFAR:
        raw = _read_cifar(settings.source, location)
    else:
        raw = _read_idx_files(settings.source, location)
    return _adapt(raw, settings)


def read_selected(settings: dict, source: Sequence[str]) -> RawImages:
    """Read what a rule's recipe selects.

    Args:
        settings: The config's section on images, as plain values.
        source: The rule's file that stands for the raw images, ``verified.json`` beside a download; none for a folder.

    Returns:
        As :func:`read_images`.

    Raises:
        DataError: As :func:`read_images`.
    """
    location = Path(source[0] if source else settings["folder"])
    selection = Selection(**{key: value for key, value in settings.items() if key != "folder"})
    return read_images(selection, location.parent if location.name == "verified.json" else location)


def download(source: str, folder: Path) -> None:
    """Download and verify one of torchvision's data sets; files that are there already are only verified.

    Args:
        source: ``cifar10``, ``cifar100``, ``mnist`` or ``fashion_mnist``.
        folder: Where torchvision keeps its data sets; made if need be.

    Raises:
        DataError: If a file can't be had; says which files to put where by hand.
    """
    dataset = _torchvision_class(source)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if source in CIFAR:
            dataset(folder, train=False, download=True)  # verifies both splits, then reads the smaller one
        else:
            for name, md5 in dataset.resources:
                path = folder / IDX[source] / "raw" / name
                if not path.is_file() or _md5(path.read_bytes()) not in (md5, DEBIAN_MD5.get(md5)):
                    _download_from_any(dataset.mirrors, path, md5)
    except (OSError, RuntimeError, HTTPException, tarfile.TarError) as error:
        raise DataError(f"Downloading {source} failed ({_one_line(error)}); {_by_hand(source, folder)}") from error


def _torchvision_class(source: str) -> type:
    from torchvision import datasets

    return getattr(datasets, (CIFAR | IDX)[source])


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _download_from_any(mirrors: Sequence[str], path: Path, md5: str) -> None:
    """Download from the first mirror that works, and verify."""
    from torchvision.datasets.utils import download_url

    for mirror in mirrors:
        try:
            download_url(mirror + path.name, path.parent, path.name, md5)
            return
        except (OSError, RuntimeError, HTTPException):
            if mirror == mirrors[-1]:
                raise


def _by_hand(source: str, folder: Path) -> str:
    """What to do without a network."""
    dataset = _torchvision_class(source)
    if source in CIFAR:
        return f"put {dataset.filename} (md5 {dataset.tgz_md5}) into {folder} and download again, which unpacks it"
    names = ", ".join(name for name, _ in dataset.resources)
    return f"put {names} into {folder / IDX[source] / 'raw'}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _read_cifar(source: str, folder: Path) -> RawImages:
    # CIFAR comes as pickles. torchvision's constructor, with download=False too, compares the md5 of every batch of
    # both splits with the published one (_check_integrity) before it unpickles the first, and the md5 of the class
    # names before it unpickles those (_load_meta); read in the source of torchvision 0.29.2.
    dataset = _torchvision_class(source)
    try:
        train, test = (dataset(folder, train=is_train, download=False) for is_train in (True, False))
    except (OSError, RuntimeError) as error:
        raise DataError(f"{source} in {folder} is missing or damaged; {_by_hand(source, folder)}") from error
    labels = [np.array(split.targets, dtype=np.int64) for split in (train, test)]
    return RawImages(train.data, labels[0], test.data, labels[1], tuple(train.classes))


def _read_idx_files(source: str, folder: Path) -> RawImages:
    # torchvision's MNIST classes verify what they download, but construct from any unpacked file, or any torch.load-ed
    # "processed" one, that bears the right name; so the verified archives themselves are read.
    dataset = _torchvision_class(source)
    arrays = {}
    for name, md5 in dataset.resources:
        path = folder / IDX[source] / "raw" / name
        if not path.is_file():
            raise DataError(f"{path} is missing; {_by_hand(source, folder)}")
        archive = path.read_bytes()
        found = _md5(archive)
        if found not in (md5, DEBIAN_MD5.get(md5)):
            raise DataError(f"{path} is damaged: its md5 should be {md5}, is {found}; {_by_hand(source, folder)}")
        arrays[name.removesuffix("-ubyte.gz")] = parse_idx(gzip.decompress(archive))
    return RawImages(
        arrays["train-images-idx3"][..., None],
        arrays["train-labels-idx1"].astype(np.int64),
        arrays["t10k-images-idx3"][..., None],
        arrays["t10k-labels-idx1"].astype(np.int64),
        tuple(dataset.classes),
    )


def parse_idx(content: bytes) -> np.ndarray:
    """The uint8 array in an IDX file: two zero bytes, type 8, number of dimensions, big-endian sizes, data."""
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def _read_embedded(path: Path) -> RawImages:
    try:
        with netCDF4.Dataset(path) as file:
            file.set_auto_maskandscale(False)
            splits = [
                array
                for split in ("train", "test")
                for array in (file[f"{split}_images"][:][..., None], file[f"{split}_labels"][:].astype(np.int64))
            ]
            return RawImages(*splits, tuple(file["class"][:]))
    except (OSError, RuntimeError, LookupError) as error:
        raise DataError(f"{path}, the data set that ships with the project, can't be read: {error}") from error


def _adapt(raw: RawImages, settings: Selection) -> RawImages:
    """Take the subsets, then convert and resize what is left."""
    arrays = []
    for split in ("train", "test"):
        images, labels = getattr(raw, f"{split}_images"), getattr(raw, f"{split}_labels")
        chosen = _choose(split, labels, raw.class_names, settings)
        arrays += [_convert_arrays(images[chosen], settings.grey, settings.image_size), labels[chosen]]
    return RawImages(*arrays, raw.class_names)


def _choose(split: str, labels: np.ndarray, class_names: Sequence[str], settings: Selection) -> np.ndarray | slice:
    count = getattr(settings, f"{split}_examples")
    if count is None:
        return slice(None)
    return class_balanced_subset(labels, count, class_names=class_names, what=f"{split} images")


def _convert_arrays(images: np.ndarray, grey: bool, size: int | None) -> np.ndarray:
    """Convert and resize uint8 ``(n, H, W, C)``, C being 1 or 3."""
    if size is None and (not grey or images.shape[-1] == 1):
        return images
    colour = "L" if grey or images.shape[-1] == 1 else "RGB"
    pictures = (Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in images)
    return np.stack([_to_array(picture.convert(colour), size) for picture in pictures])


def _to_array(picture: Image.Image, size: int | None) -> np.ndarray:
    """Resize an L or RGB picture to a square and return it as uint8 ``(H, W, C)``."""
    if size is not None:
        picture = picture.resize((size, size), Image.Resampling.BOX)
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array


def _read_folder(settings: Selection, root: Path) -> RawImages:
    """Read an image folder: RGB, or one grey channel if the settings say so, whatever the files hold."""
    listing = list_image_folder(root)
    paths, labels = [], []
    for split in ("train", "test"):
        files = [path for of_class in listing.files[split] for path in of_class]
        classes = np.repeat(np.arange(len(listing.class_names)), [len(of_class) for of_class in listing.files[split]])
        chosen = np.arange(len(files))[_choose(split, classes, listing.class_names, settings)]
        paths += [files[index] for index in chosen]
        labels.append(classes[chosen].astype(np.int64))
    images = _decode_files(paths, partial(_decode, grey=settings.grey, size=settings.image_size))
    train_size = len(labels[0])
    return RawImages(images[:train_size], labels[0], images[train_size:], labels[1], listing.class_names)


def _decode_files(paths: Sequence[Path], decode: Callable[[Path], np.ndarray]) -> np.ndarray:
    """Decode files of one size into one array ``(n, H, W, C)``.

    Threads pay only for large files: Pillow decodes without Python's lock, but opens a file with it (on two cores,
    two threads were a third slower than one at 32 x 32 pixels and a third faster at 400 x 400).
    """
    first = decode(paths[0])
    images = np.empty((len(paths), *first.shape), np.uint8)

    def fill(start: int) -> None:
        for index in range(start, min(start + DECODED_TOGETHER, len(paths))):
            image = decode(paths[index])
            if image.shape != first.shape:
                raise DataError(
                    f"{paths[index]} has {_pixels(image)}, {paths[0]} has {_pixels(first)}; "
                    "set data.image_size to bring all images to one size"
                )
            images[index] = image

    threads = min(8, os.cpu_count() or 1) if paths[0].stat().st_size > LARGE_FILE else 1
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(fill, range(0, len(paths), DECODED_TOGETHER)):  # raises the first error, stops the rest
            pass
    return images


def _pixels(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]} pixels"


def _decode(path: Path, *, grey: bool, size: int | None) -> np.ndarray:
    """Read one image file as uint8 ``(H, W, C)``, the way up that its EXIF data say.

    Raises:
        DataError: Naming the file.
    """
    try:
        with Image.open(path) as picture:
            picture = ImageOps.exif_transpose(_to_8_bit(picture))
            return _to_array(picture.convert("L" if grey else "RGB"), size)
    except Exception as error:  # Pillow's readers raise many types, for a damaged file almost any
        raise DataError(f"{path} can't be read as an image: {_one_line(error)}") from error


def _to_8_bit(picture: Image.Image) -> Image.Image:
    """Bring 16-bit grey to 8 bits by its upper byte, and put transparent pictures on black."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"grey values {values.min()} to {values.max()} are no 16-bit ones, 0 to 65535")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if picture.has_transparency_data:
        colours = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, (0, 0, 0, 255)), colours)
    return picture
