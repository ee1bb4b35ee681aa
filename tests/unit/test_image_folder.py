from pathlib import Path

import pytest

from twophase.errors import DataError
from twophase.image_folder import list_image_folder


def make_folder(root: Path, names: list[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (1 + len(name)))
    return root


NAMES = ["train/dog/b.png", "train/dog/a.JPG", "train/cat/a.png", "test/cat/z.bmp", "test/dog/y.tiff"]


def test_files_are_listed_by_split_and_class_in_the_order_of_their_names(tmp_path):
    root = make_folder(tmp_path, [*NAMES, "train/cat/notes.txt", "train/readme.md"])
    listing = list_image_folder(root)
    assert listing.class_names == ("cat", "dog")
    assert listing.files["train"] == (
        (root / "train/cat/a.png",),
        (root / "train/dog/a.JPG", root / "train/dog/b.png"),
    )
    assert listing.files["test"] == ((root / "test/cat/z.bmp",), (root / "test/dog/y.tiff",))
    assert (listing.count("train"), listing.count("test")) == (3, 2)


def test_the_signature_changes_with_names_and_sizes_only(tmp_path):
    root = make_folder(tmp_path, NAMES)
    before = list_image_folder(root).signature()
    assert before == [
        ("train/cat/a.png", 16),
        ("train/dog/a.JPG", 16),
        ("train/dog/b.png", 16),
        ("test/cat/z.bmp", 15),
        ("test/dog/y.tiff", 16),
    ]
    (root / "train/cat/a.png").touch()
    assert list_image_folder(root).signature() == before
    (root / "train/cat/a.png").write_bytes(b"longer than it was")
    assert list_image_folder(root).signature() != before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "train is not a folder"),
        (["train/cat/a.png", "train/dog/a.png"], "test is not a folder"),
        (["train/cat/a.png", "test/cat/a.png"], r"needs at least two class folders, found \['cat'\]"),
        ([*NAMES, "test/cow/a.png"], r"only one of them has \['cow'\]"),
        ([*NAMES, "train/cow/a.txt", "test/cow/a.png"], "train/cow has no images"),
    ],
)
def test_what_is_missing_is_named(tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        list_image_folder(make_folder(tmp_path, names))
