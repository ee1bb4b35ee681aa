"""Which image files a folder holds, by split and class; listing only, nothing is opened."""

from dataclasses import dataclass
from pathlib import Path

from twophase.errors import DataError

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SPLITS = ("train", "test")


@dataclass(frozen=True)
class FolderListing:
    """Image files below ``root``: ``files[split][class_index]`` are sorted paths; classes are sorted by name."""

    root: Path
    class_names: tuple[str, ...]
    files: dict[str, tuple[tuple[Path, ...], ...]]

    def count(self, split: str) -> int:
        """Images in one split."""
        return sum(map(len, self.files[split]))

    def signature(self) -> list[tuple[str, int]]:
        """Relative name and size in bytes of every file: changes when a file is added, removed or replaced."""
        return [
            (path.relative_to(self.root).as_posix(), path.stat().st_size)
            for split in SPLITS
            for paths in self.files[split]
            for path in paths
        ]


def list_image_folder(root: Path) -> FolderListing:
    """List ``root/train/CLASS/*`` and ``root/test/CLASS/*``.

    Args:
        root: Folder with the two splits.

    Returns:
        The files of both splits, whose classes must agree.

    Raises:
        DataError: Naming the folder that is missing, empty, or has other classes than the training split.
    """
    classes: dict[str, list[str]] = {}
    for split in SPLITS:
        folder = root / split
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; an image folder holds train/CLASS/* and test/CLASS/*")
        classes[split] = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if len(classes["train"]) < 2:
        raise DataError(f"{root / 'train'} needs at least two class folders, found {classes['train']}")
    if classes["train"] != classes["test"]:
        odd = sorted(set(classes["train"]) ^ set(classes["test"]))
        raise DataError(f"{root}: train and test must have the same classes; only one of them has {odd}")
    files = {split: tuple(_images_in(root / split / class_name) for class_name in classes[split]) for split in SPLITS}
    return FolderListing(root, tuple(classes["train"]), files)


def _images_in(folder: Path) -> tuple[Path, ...]:
    images = tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES))
    if not images:
        raise DataError(f"{folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return images
