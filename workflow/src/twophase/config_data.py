"""The config's section on images, and how many of them each source has."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from twophase.config_types import Fraction, PositiveInt, Section
from twophase.image_folder import FolderListing, list_image_folder

# Images of each split, (training, test).
PUBLISHED_SIZES = {
    "embedded_fashion_mnist": (10_000, 2_000),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "mnist": (60_000, 10_000),
    "fashion_mnist": (60_000, 10_000),
}
# Channels, rows and columns of an image, and the number of classes.
PUBLISHED_SHAPES = {
    "embedded_fashion_mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "mnist": ((1, 28, 28), 10),
    "fashion_mnist": ((1, 28, 28), 10),
}
# Where classes differ in size: their number times the smallest one.
BALANCED_SIZES = {"mnist": (54_210, 8_920)}


class Data(Section):
    """Which images, and what is done to them once, before any training."""

    source: Literal["embedded_fashion_mnist", "cifar10", "cifar100", "mnist", "fashion_mnist", "image_folder"] = Field(
        "embedded_fashion_mnist",
        description="Data set: the one that ships with the project, one that torchvision downloads, or a folder.",
    )
    folder: str | None = Field(
        None, description="image_folder only: folder with train/CLASS/* and test/CLASS/*, relative to the work folder."
    )
    image_size: PositiveInt | None = Field(
        None, description="Side in pixels to which images are resized (box filter); null keeps their size."
    )
    grey: bool = Field(False, description="Convert to one grey channel.")
    train_examples: PositiveInt | None = Field(
        None, description="Class-balanced subset of the training images; null takes all."
    )
    test_examples: PositiveInt | None = Field(
        None, description="Class-balanced subset of the test images; null takes all."
    )
    label_noise: Fraction = Field(
        0.0,
        description="Share of the training labels that are replaced by another class, drawn at random once, alike for "
        "all seeds; class-balanced subsets go by the labels as they are then. Not for phase diagrams.",
    )

    def canonical(self) -> dict[str, Any]:
        """What decides the prepared images; without label noise nothing of it."""
        return self.model_dump(exclude=set() if self.label_noise else {"label_noise"})

    def listing(self) -> FolderListing:
        """The image files of an ``image_folder``, by split and class.

        Raises:
            DataError: If the folder, a split or a class has no images.
        """
        return list_image_folder(Path(self.folder))

    def available(self) -> tuple[int, int]:
        """Training and test images that the source has, before any subset is taken."""
        if self.source == "image_folder":
            listing = self.listing()
            return listing.count("train"), listing.count("test")
        return PUBLISHED_SIZES[self.source]

    def train_size(self) -> int:
        """Training images that the study uses."""
        return self.train_examples or self.available()[0]

    def test_size(self) -> int:
        """Test images that the study uses."""
        return self.test_examples or self.available()[1]

    def classes(self) -> int:
        """Number of classes K."""
        if self.source == "image_folder":
            return len(self.listing().class_names)
        return PUBLISHED_SHAPES[self.source][1]

    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of a prepared image."""
        folder = self.source == "image_folder"
        channels = 3 if folder else PUBLISHED_SHAPES[self.source][0][0]
        if self.image_size:
            rows = columns = self.image_size
        else:
            rows, columns = self._sides_of_first_image() if folder else PUBLISHED_SHAPES[self.source][0][1:]
        return 1 if self.grey else channels, rows, columns

    def _sides_of_first_image(self) -> tuple[int, int]:
        from PIL import Image

        with Image.open(self.listing().files["train"][0][0]) as picture:
            return picture.height, picture.width

    def balanced_sizes(self) -> tuple[int, int]:
        """The largest class-balanced subset of each split of the source, (training, test)."""
        if self.source == "image_folder":
            files = self.listing().files
            return tuple(len(files[split]) * min(map(len, files[split])) for split in ("train", "test"))
        return BALANCED_SIZES.get(self.source, PUBLISHED_SIZES[self.source])

    def balanced_with_noise(self, size: int) -> int:
        """The class-balanced subset that is there for certain once label noise is added to so many balanced images.

        A class's number then varies, with a variance of at most ``2 label_noise`` times itself: as many leave it as
        come from the others. Five standard deviations are taken off.
        """
        of_class = size / self.classes()
        return max(0, math.floor(self.classes() * (of_class - 5 * math.sqrt(2 * self.label_noise * of_class))))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for what the types can't see."""
        if self.source == "image_folder" and self.folder is None:
            yield "folder", "is needed with source 'image_folder'"
            return
        if self.source != "image_folder" and self.folder is not None:
            yield "folder", f"has no meaning with source {self.source!r}; remove it, or use 'image_folder'"
            return
        try:
            available, balanced = self.available(), self.balanced_sizes()
        except Exception as error:  # a missing or empty folder: the message names it
            yield "folder", str(error)
            return
        if self.label_noise and self.classes() < 2:
            yield "label_noise", f"needs a second class, the source has {self.classes()}"
        wanted = {"train_examples": self.train_examples, "test_examples": self.test_examples}
        for (key, count), there, most in zip(wanted.items(), available, balanced, strict=True):
            if count is not None and count > there:
                yield key, f"asks for {count} images, the source has {there}"
            elif count is not None and count > most:
                yield key, f"asks for {count} images, as many of each class as of any other; the source has {most} such"
