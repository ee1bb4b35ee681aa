import gzip
import hashlib
import os
import pickle
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from twophase import sources
from twophase.config_data import PUBLISHED_SIZES
from twophase.errors import DataError
from twophase.label_noise import with_label_noise
from twophase.sources import RawImages, Selection, download, parse_idx, read_images
from twophase.subsets import class_balanced_subset

EMBEDDED = Path(__file__).parents[2] / "workflow" / "resources" / "fashion_mnist" / "images.nc"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def read(folder: Path | None = None, **settings) -> RawImages:
    """Read an image folder, or the embedded images without one."""
    if folder is not None:
        settings |= {"source": "image_folder"}
    return read_images(Selection(**settings), folder or EMBEDDED)


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_folder(root: Path, per_class: int = 3, shape: tuple = (6, 4, 3)) -> dict[str, np.ndarray]:
    """Write PNG files of random pixels; returns the pixels by relative name."""
    pixels = {}
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(per_class):
                relative = f"{split}/{name}/{number:02}.png"
                pixels[relative] = random_pixels(*shape, seed=len(pixels))
                Image.fromarray(pixels[relative]).save(root / relative)
    return pixels


# ---- the images that ship with the project


def test_embedded_images_are_read_as_they_are():
    raw = read()
    assert (len(raw.train_images), len(raw.test_images)) == PUBLISHED_SIZES["embedded_fashion_mnist"]
    assert raw.train_images.shape[1:] == raw.test_images.shape[1:] == (28, 28, 1)
    assert raw.train_images.dtype == np.uint8
    assert raw.train_labels.dtype == raw.test_labels.dtype == np.int64
    assert np.bincount(raw.train_labels).tolist() == [1000] * 10
    assert raw.class_names[9] == "Ankle boot"


def test_a_subset_is_balanced_nested_and_in_the_original_order():
    whole, small, large = read(), read(train_examples=25, test_examples=10), read(train_examples=40, test_examples=20)
    assert np.bincount(small.train_labels).tolist() == [3] * 5 + [2] * 5
    assert np.bincount(small.test_labels).tolist() == [1] * 10
    position = {image.tobytes(): index for index, image in enumerate(whole.train_images)}
    small_at, large_at = ([position[image.tobytes()] for image in raw.train_images] for raw in (small, large))
    assert small_at == sorted(small_at)
    assert set(small_at) < set(large_at)
    assert small.train_labels.tolist() == whole.train_labels[small_at].tolist()


def test_resizing_averages_boxes_of_pixels():
    whole, halved = read(train_examples=20, test_examples=20), read(train_examples=20, test_examples=20, image_size=14)
    boxes = whole.train_images.reshape(20, 14, 2, 14, 2, 1).astype(float).mean(axis=(2, 4))
    assert halved.train_images.shape == (20, 14, 14, 1)
    assert np.abs(halved.train_images - boxes).max() <= 1  # Pillow rounds after each axis


def test_a_class_with_too_few_images_is_named():
    with pytest.raises(DataError, match="subset of 2010 test images needs 201 of class 'T-shirt/top', which has 200"):
        read(test_examples=2010)


def test_a_damaged_embedded_file_is_named(tmp_path):
    (tmp_path / "images.nc").write_bytes(EMBEDDED.read_bytes()[:100_000])
    with pytest.raises(DataError, match=r"images\.nc, the data set that ships with the project, can't be read"):
        read_images(Selection(), tmp_path / "images.nc")


def test_label_noise_replaces_a_share_of_the_training_labels_by_all_other_classes():
    clean, noisy = read(train_examples=5000), read(train_examples=5000, label_noise=0.3)
    np.testing.assert_array_equal(clean.train_images, noisy.train_images)
    np.testing.assert_array_equal(clean.test_labels, noisy.test_labels)
    replaced = clean.train_labels != noisy.train_labels
    assert (replaced.sum(), noisy.train_labels.dtype) == (1500, np.int64)
    pairs = np.zeros((10, 10), int)
    np.add.at(pairs, (clean.train_labels[replaced], noisy.train_labels[replaced]), 1)
    counts = pairs[~np.eye(10, dtype=bool)]
    assert np.trace(pairs) == 0
    assert ((counts - 1500 / 90) ** 2 / (1500 / 90)).sum() < 160  # chi-squared of 89 degrees of freedom: p = 5e-6


def test_label_noise_is_the_same_every_time_and_grows():
    labels = np.arange(1000) % 7
    small, large = (with_label_noise(labels, share, 7) for share in (0.1, 0.4))
    changed = small != labels
    np.testing.assert_array_equal(small[changed], large[changed])
    assert small[:12].tolist() == [0, 1, 2, 3, 6, 5, 6, 0, 1, 2, 3, 4]
    assert with_label_noise(labels, 0.0, 7) is labels
    assert with_label_noise(labels, 0.0004, 7) is labels
    assert set(with_label_noise(np.zeros(50, int), 0.999, 2).tolist()) == {1}


# ---- image folders


def test_a_folder_gives_its_pixels_in_the_order_of_classes_and_names(tmp_path):
    pixels = make_folder(tmp_path)
    raw = read(tmp_path)
    assert raw.class_names == ("cat", "dog")
    assert raw.train_labels.tolist() == raw.test_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert raw.train_labels.dtype == np.int64
    np.testing.assert_array_equal(raw.train_images, [pixels[name] for name in pixels if name.startswith("train")])
    np.testing.assert_array_equal(raw.test_images, [pixels[name] for name in pixels if name.startswith("test")])


@pytest.mark.parametrize("threads_from", [0, 10**9])
def test_many_files_are_read_alike_with_threads_and_without(tmp_path, monkeypatch, threads_from):
    monkeypatch.setattr(sources, "LARGE_FILE", threads_from)
    pixels = make_folder(tmp_path, per_class=70, shape=(2, 2, 3))
    raw = read(tmp_path)
    np.testing.assert_array_equal(np.concatenate([raw.train_images, raw.test_images]), list(pixels.values()))


def test_a_subset_of_a_folder_opens_only_the_chosen_files(tmp_path):
    pixels = make_folder(tmp_path, per_class=10)
    chosen = class_balanced_subset(np.repeat([0, 1], 10), 6)
    names = list(pixels)[:20]
    for index in set(range(20)) - set(chosen.tolist()):
        (tmp_path / names[index]).write_bytes(b"no image")
    raw = read(tmp_path, train_examples=6)
    np.testing.assert_array_equal(raw.train_images, [pixels[names[index]] for index in chosen])
    assert raw.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(raw.test_labels) == 20


def test_images_are_squashed_to_a_square(tmp_path):
    pixels = make_folder(tmp_path, shape=(6, 4, 3))
    image = pixels["train/cat/00.png"].astype(float)
    raw = read(tmp_path, image_size=2)
    boxes = image.reshape(2, 3, 2, 2, 3).mean(axis=(1, 3))
    assert np.abs(raw.train_images[0] - boxes).max() <= 1


def test_grey_weights_the_colours(tmp_path):
    pixels = make_folder(tmp_path)
    raw = read(tmp_path, grey=True)
    assert raw.train_images.shape == (6, 6, 4, 1)
    luma = pixels["train/cat/00.png"] @ np.array([0.299, 0.587, 0.114])
    assert np.abs(raw.train_images[0, ..., 0] - luma).max() <= 1


def test_images_of_several_sizes_need_image_size(tmp_path):
    make_folder(tmp_path)
    for name in ("train/dog/01.png", "test/cat/00.png"):
        Image.fromarray(random_pixels(5, 9, 3)).save(tmp_path / name)
    with pytest.raises(
        DataError,
        match=r"train/dog/01\.png has 9 x 5 pixels, \S+train/cat/00\.png has 4 x 6 pixels; set data\.image_size",
    ):
        read(tmp_path)
    assert read(tmp_path, image_size=3).train_images.shape == (6, 3, 3, 3)


def test_a_test_image_must_have_the_size_of_the_training_images(tmp_path):
    make_folder(tmp_path)
    Image.fromarray(random_pixels(4, 6, 3)).save(tmp_path / "test/cat/00.png")
    with pytest.raises(DataError, match=r"test/cat/00\.png has 6 x 4 pixels, \S+train/cat/00\.png has 4 x 6 pixels"):
        read(tmp_path)


@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"no image", lambda whole: whole[: len(whole) // 2]])
@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("format_name", ["png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"])
def test_an_image_that_cannot_be_read_is_named(tmp_path, format_name, damage):
    make_folder(tmp_path)
    odd = tmp_path / f"train/dog/zz.{format_name}"
    Image.fromarray(random_pixels(6, 4, 3)).save(odd)
    odd.write_bytes(damage(odd.read_bytes()))
    with pytest.raises(DataError, match=rf"train/dog/zz\.{format_name} can't be read as an image: ."):
        read(tmp_path)


def test_a_decompression_bomb_is_named(tmp_path, monkeypatch):
    make_folder(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"train/cat/00\.png can't be read as an image: .*decompression bomb"):
        read(tmp_path)


GREY = random_pixels(6, 4, seed=1)
COLOUR = random_pixels(6, 4, 3, seed=2)


def make_pictures() -> dict[str, tuple[Image.Image, np.ndarray]]:
    """Pictures in many modes, and the RGB pixels that they should give."""
    grey_as_rgb = np.repeat(GREY[..., None], 3, axis=2)
    palette = Image.fromarray(GREY % 4).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)[GREY % 4]
    indices = Image.fromarray(GREY % 4)
    palette = Image.new("P", indices.size)
    palette.putdata((GREY % 4).ravel().tolist())
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    opaque = (np.arange(24).reshape(6, 4) % 2).astype(np.uint8)
    on_black = COLOUR * opaque[..., None]
    return {
        "L": (Image.fromarray(GREY), grey_as_rgb),
        "1": (Image.fromarray(GREY > 127), np.where(grey_as_rgb > 127, 255, 0)),
        "P": (palette, colours),
        "RGBA": (Image.fromarray(np.dstack([COLOUR, 255 * opaque])), on_black),
        "LA": (Image.fromarray(np.dstack([GREY, 255 * opaque])), grey_as_rgb * opaque[..., None]),
        "I;16": (Image.fromarray(GREY.astype(np.uint16) * 256 + 200), grey_as_rgb),
        "I": (Image.fromarray(GREY.astype(np.int32) * 256 + 200), grey_as_rgb),
    }


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "I;16", "I"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    picture, expected = make_pictures()[mode]
    assert picture.mode == mode
    make_folder(tmp_path)
    (tmp_path / "train/cat/00.png").unlink()
    picture.save(tmp_path / "train/cat/00.tiff" if mode == "I" else tmp_path / "train/cat/00.png")
    np.testing.assert_array_equal(read(tmp_path).train_images[0], expected)


def test_a_palette_with_a_transparent_colour_goes_on_black(tmp_path):
    picture, expected = make_pictures()["P"]
    make_folder(tmp_path)
    picture.save(tmp_path / "train/cat/00.png", transparency=0)
    red = (expected == [255, 0, 0]).all(axis=2, keepdims=True)
    assert red.any()
    np.testing.assert_array_equal(read(tmp_path).train_images[0], np.where(red, 0, expected))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (GREY.astype(np.float32), "floating-point pixels have no agreed range"),
        (GREY.astype(np.int32) - 300, r"grey values -\d+ to -\d+ are no 16-bit ones"),
    ],
)
def test_pixels_without_a_known_range_are_refused(tmp_path, pixels, message):
    make_folder(tmp_path)
    Image.fromarray(pixels).save(tmp_path / "train/dog/zz.tiff")
    with pytest.raises(DataError, match=rf"zz\.tiff can't be read as an image: {message}"):
        read(tmp_path)


def test_images_stand_the_way_up_that_their_exif_data_say(tmp_path):
    pixels = make_folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    stored = Image.fromarray(pixels["train/cat/00.png"])
    stored.save(tmp_path / "train/cat/00.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path).train_images[0], pixels["train/cat/00.png"][::-1, ::-1])


# ---- torchvision's data sets


def put_debian_files(folder: Path) -> Path:
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in DEBIAN.glob("*.gz"):
        os.symlink(archive, raw / archive.name)
    return raw


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_put_by_hand_is_verified_and_read(tmp_path, no_network):
    raw_folder = put_debian_files(tmp_path)
    before = sorted(path.name for path in raw_folder.iterdir())
    download("fashion_mnist", tmp_path)
    assert sorted(path.name for path in raw_folder.iterdir()) == before
    raw = read_images(Selection(source="fashion_mnist"), tmp_path)
    assert (len(raw.train_labels), len(raw.test_labels)) == PUBLISHED_SIZES["fashion_mnist"]
    pixels = gzip.decompress((DEBIAN / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    assert raw.train_images.tobytes() == pixels
    assert raw.train_images.shape[1:] == (28, 28, 1)
    assert np.bincount(raw.test_labels).tolist() == [1000] * 10
    assert raw.class_names == read().class_names


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_debian_files_are_the_published_ones_but_for_the_gzip_header():
    from torchvision.datasets import FashionMNIST

    written_at = {"train": 1504176606, "t10k": 1504176627}
    for name, md5 in FashionMNIST.resources:
        packed = (DEBIAN / name).read_bytes()
        assert sources.DEBIAN_MD5[md5] == hashlib.md5(packed).hexdigest()
        time, stored_name = struct.pack("<I", written_at[name.split("-")[0]]), name.removesuffix(".gz").encode()
        published = packed[:3] + b"\x08" + time + packed[8:10] + stored_name + b"\0" + packed[10:]
        assert hashlib.md5(published).hexdigest() == md5


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_a_changed_archive_is_refused_even_if_an_unpacked_file_lies_beside_it(tmp_path, no_network):
    raw_folder = put_debian_files(tmp_path)
    archive = raw_folder / "t10k-labels-idx1-ubyte.gz"
    labels = bytearray(gzip.decompress(archive.read_bytes()))
    labels[-1] = (labels[-1] + 1) % 10
    archive.unlink()
    archive.write_bytes(gzip.compress(bytes(labels)))
    archive.with_suffix("").write_bytes(bytes(labels))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is damaged: its md5 should be bb300cf"):
        read_images(Selection(source="fashion_mnist"), tmp_path)
    with pytest.raises(DataError, match=r"Downloading fashion_mnist failed .*put train-images-idx3-ubyte\.gz, "):
        download("fashion_mnist", tmp_path)


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("cifar10", r"put cifar-10-python\.tar\.gz \(md5 c58f3\w+\) into {folder} "),
        ("cifar100", r"put cifar-100-python\.tar\.gz \(md5 eb90\w+\) into {folder} "),
        ("mnist", r"put train-images-idx3-ubyte\.gz, .* into {folder}/MNIST/raw"),
        ("fashion_mnist", r"put train-images-idx3-ubyte\.gz, .* into {folder}/FashionMNIST/raw"),
    ],
)
def test_without_a_network_the_message_says_what_to_put_where(tmp_path, no_network, source, advice):
    folder = tmp_path / "downloads"
    with pytest.raises(
        DataError, match=rf"Downloading {source} failed \(.*no network.*\); {advice}".format(folder=folder)
    ):
        download(source, folder)
    with pytest.raises(DataError, match=f"missing.*; {advice}".format(folder=folder)) as error:
        read_images(Selection(source=source), folder)
    assert "\n" not in str(error.value)


def write_pickle(folder: Path, name: str, content) -> list[str]:
    """Write one of CIFAR's files; returns what torchvision's tables say about it: its name and md5."""
    data = pickle.dumps(content)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return [name, hashlib.md5(data).hexdigest()]


def publish_tiny_cifar(monkeypatch, downloads: Path) -> Path:
    """Let torchvision take two tiny batches and a test batch for the published CIFAR-10."""
    from torchvision.datasets import CIFAR10

    folder = downloads / CIFAR10.base_folder
    train, test = [], []
    for number, published in enumerate((train, train, test)):
        data = random_pixels(4, 3 * 32 * 32, seed=number)
        published.append(write_pickle(folder, f"batch_{number}", {"data": data, "labels": [0, 1, 0, 1]}))
    name, md5 = write_pickle(folder, "batches.meta", {"label_names": ["cat", "dog"]})
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", test)
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return folder


def test_cifar_is_read_channels_last(tmp_path, monkeypatch, no_network):
    publish_tiny_cifar(monkeypatch, tmp_path)
    download("cifar10", tmp_path)
    raw = read_images(Selection(source="cifar10"), tmp_path)
    planes = np.concatenate([random_pixels(4, 3072, seed=number) for number in (0, 1)]).reshape(8, 3, 32, 32)
    np.testing.assert_array_equal(raw.train_images, planes.transpose(0, 2, 3, 1))
    assert raw.train_labels.tolist() == [0, 1] * 4
    assert raw.test_images.shape == (4, 32, 32, 3)
    assert raw.class_names == ("cat", "dog")
    grey = read_images(Selection(source="cifar10", grey=True, image_size=16), tmp_path)
    luma = planes.transpose(0, 2, 3, 1) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey.train_images[..., 0] - luma.reshape(8, 16, 2, 16, 2).mean(axis=(2, 4))).max() <= 1.5


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["batch_0", "batch_1", "batch_2", "batches.meta"])
def test_a_pickle_with_another_digest_is_never_loaded(tmp_path, monkeypatch, no_network, name):
    folder = publish_tiny_cifar(monkeypatch, tmp_path)
    write_pickle(folder, name, Harmful(tmp_path / "harm"))
    with pytest.raises(DataError, match=r"cifar10 in .* is missing or damaged; put cifar-10-python"):
        read_images(Selection(source="cifar10"), tmp_path)
    with pytest.raises(DataError, match="Downloading cifar10 failed"):
        download("cifar10", tmp_path)
    assert not (tmp_path / "harm").exists()
    pickle.loads((folder / name).read_bytes())  # it would have done harm
    assert (tmp_path / "harm").exists()


def test_idx_arrays_have_their_sizes_in_front():
    header = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3])
    assert parse_idx(header + bytes(range(6))).tolist() == [[[0, 1, 2]], [[3, 4, 5]]]


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder in the place of Fashion-MNIST's servers, with tiny files in the place of the published ones."""
    from torchvision.datasets import FashionMNIST

    folder = tmp_path / "mirror"
    folder.mkdir()
    resources = []
    for name, _ in FashionMNIST.resources:
        shape = (6, 4, 4) if "images" in name else (6,)
        values = random_pixels(*shape) if "images" in name else np.arange(6, dtype=np.uint8)
        header = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
        (folder / name).write_bytes(gzip.compress(header + values.tobytes()))
        resources.append((name, hashlib.md5((folder / name).read_bytes()).hexdigest()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    yield folder
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("damage", [lambda content: content[:40], lambda content: content[:-1] + b"\1"])
def test_a_download_cut_off_or_altered_is_refused_and_fetched_again_next_time(mirror, tmp_path, damage):
    served = mirror / "train-images-idx3-ubyte.gz"
    published = served.read_bytes()
    served.write_bytes(damage(published))
    with pytest.raises(DataError, match=r"Downloading fashion_mnist failed .*put train-images-idx3-ubyte\.gz, "):
        download("fashion_mnist", tmp_path / "downloads")
    with pytest.raises(DataError):
        read_images(Selection(source="fashion_mnist"), tmp_path / "downloads")
    served.write_bytes(published)
    download("fashion_mnist", tmp_path / "downloads")
    images = read_images(Selection(source="fashion_mnist"), tmp_path / "downloads")
    assert images.train_images.shape == (6, 4, 4, 1)
