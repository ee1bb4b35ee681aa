"""Choose the Fashion-MNIST images that ship with the project and write them to ``images.nc``.

    python select_images.py --source FOLDER_WITH_THE_FOUR_GZ_FILES

The same files give the same images, in the same order. Needs the package ``twophase``.
"""

import argparse
import gzip
import hashlib
import zlib
from pathlib import Path

import netCDF4
import numpy as np

from twophase.files import whole_file
from twophase.sources import parse_idx
from twophase.subsets import class_balanced_subset

SEED = 170807747  # arXiv 1708.07747
COUNTS = {"train": 10_000, "test": 2_000}
SHA256 = {  # of the unpacked files, since Debian packs them anew
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
PREFIXES = {"train": "train", "test": "t10k"}
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
ATTRIBUTES = {
    "Conventions": "CF-1.11",
    "title": "Class-balanced subset of Fashion-MNIST: 10,000 training and 2,000 test images",
    "source": "https://github.com/zalandoresearch/fashion-mnist",
    "license": "MIT, Copyright (c) 2017 Zalando SE, https://tech.zalando.com",
    "references": "Xiao, Rasul, Vollgraf: Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning "
    "Algorithms, arXiv:1708.07747 (2017)",
    "history": f"Chosen by select_images.py with seed {SEED}; pixels as published.",
    "seed": SEED,
}


def read_verified(folder: Path, name: str) -> np.ndarray:
    """Unpack one of the four published files.

    Args:
        folder: Where the file lies, with ``.gz`` at its end.
        name: A key of ``SHA256``.

    Returns:
        Its uint8 array: images ``(n, 28, 28)`` or labels ``(n,)``.

    Raises:
        SystemExit: If the file isn't the published one; names the file and both digests.
    """
    path = folder / f"{name}.gz"
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise SystemExit(f"{path} can't be unpacked: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise SystemExit(f"{path} is not the published file: unpacked, its sha256 should be {SHA256[name]}, is {found}")
    return parse_idx(content)


def select(folder: Path, split: str) -> dict[str, np.ndarray]:
    """Choose the images of one split.

    Args:
        folder: Where the published files lie.
        split: ``train`` or ``test``.

    Returns:
        ``images`` uint8 ``(n, 28, 28)``, ``labels`` uint8 ``(n,)``, ``original_index`` int32 ``(n,)``, ascending.
    """
    images = read_verified(folder, f"{PREFIXES[split]}-images-idx3-ubyte")
    labels = read_verified(folder, f"{PREFIXES[split]}-labels-idx1-ubyte")
    chosen = class_balanced_subset(labels, COUNTS[split], class_names=CLASS_NAMES, what=f"{split} images", seed=SEED)
    return {"images": images[chosen], "labels": labels[chosen], "original_index": chosen.astype(np.int32)}


def write(path: Path, splits: dict[str, dict[str, np.ndarray]]) -> None:
    """Write the chosen images as compressed netCDF-4, whole or not at all.

    Args:
        path: File to write.
        splits: What ``select`` returned, by split.
    """
    with whole_file(path) as temporary, netCDF4.Dataset(temporary, "w") as file:
        file.setncatts(ATTRIBUTES)
        for name, size in {"row": 28, "column": 28, "class": len(CLASS_NAMES)}.items():
            file.createDimension(name, size)
        file.createVariable("class", str, ("class",)).long_name = "class name"
        file["class"][:] = np.array(CLASS_NAMES, dtype=object)
        for split, arrays in splits.items():
            example = f"{split}_example"
            file.createDimension(example, COUNTS[split])
            add(file, f"{split}_images", arrays["images"], (example, "row", "column"), "0 is black, 255 is white")
            add(file, f"{split}_labels", arrays["labels"], (example,), "index of the image's class")
            long_name = f"position in the published {split} split, from 0"
            add(file, f"{split}_original_index", arrays["original_index"], (example,), long_name)


def add(file: netCDF4.Dataset, name: str, values: np.ndarray, dimensions: tuple[str, ...], long_name: str) -> None:
    """Add one compressed variable.

    Args:
        file: Open for writing; changed.
        name: The variable's name.
        values: Its values, whose type it gets.
        dimensions: Names of its dimensions.
        long_name: What it is.
    """
    chunks = (min(1000, len(values)), *values.shape[1:])
    variable = file.createVariable(
        name, values.dtype, dimensions, zlib=True, complevel=9, shuffle=False, chunksizes=chunks
    )
    variable.setncatts({"long_name": long_name, "units": "1"})
    variable[:] = values


def main(arguments: list[str] | None = None) -> None:
    """Command line.

    Args:
        arguments: By default those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source",
        type=Path,
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="folder with the four published .gz files; default: where Debian's dataset-fashion-mnist puts them",
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("images.nc"), help="netCDF to write")
    options = parser.parse_args(arguments)
    write(options.output, {split: select(options.source, split) for split in COUNTS})


if __name__ == "__main__":
    main()
