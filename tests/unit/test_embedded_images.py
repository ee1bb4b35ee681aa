import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

FOLDER = Path(__file__).parents[2] / "workflow" / "resources" / "fashion_mnist"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("select_images", FOLDER / "select_images.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_file_is_small_balanced_and_says_where_it_is_from():
    assert (FOLDER / "images.nc").stat().st_size <= 6_000_000
    with xr.open_dataset(FOLDER / "images.nc") as file:
        assert file["train_images"].shape == (10_000, 28, 28)
        assert file["test_images"].shape == (2_000, 28, 28)
        assert np.bincount(file["train_labels"]).tolist() == [1000] * 10
        assert np.bincount(file["test_labels"]).tolist() == [200] * 10
        assert file["class"].values.tolist()[::9] == ["T-shirt/top", "Ankle boot"]
        assert {"title", "source", "license", "references", "seed"} <= set(file.attrs)
        for split in ("train", "test"):
            assert file[f"{split}_images"].dtype == file[f"{split}_labels"].dtype == np.uint8
            assert (np.diff(file[f"{split}_original_index"].values) > 0).all()


def test_the_readme_has_the_digest_of_the_file():
    digest = hashlib.sha256((FOLDER / "images.nc").read_bytes()).hexdigest()
    assert digest in (FOLDER / "README.md").read_text()


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_script_makes_the_committed_arrays(script, tmp_path):
    script.main(["--source", str(DEBIAN), "--output", str(tmp_path / "images.nc")])
    with xr.open_dataset(tmp_path / "images.nc") as made, xr.open_dataset(FOLDER / "images.nc") as committed:
        xr.testing.assert_identical(made.load(), committed.load())


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_images_are_those_at_their_original_positions():
    with xr.open_dataset(FOLDER / "images.nc") as file:
        for split, prefix in (("train", "train"), ("test", "t10k")):
            pixels = gzip.decompress((DEBIAN / f"{prefix}-images-idx3-ubyte.gz").read_bytes())[16:]
            labels = gzip.decompress((DEBIAN / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:]
            for example in (0, 777, 1999):
                position = int(file[f"{split}_original_index"][example])
                assert (
                    file[f"{split}_images"][example].values.tobytes() == pixels[784 * position : 784 * (position + 1)]
                )
                assert int(file[f"{split}_labels"][example]) == labels[position]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            gzip.compress(b"other"),
            r"is not the published file: unpacked, its sha256 should be \w{64}, is d9298a10d1b0735",
        ),
        (b"other", "can't be unpacked"),
        (gzip.compress(b"other")[:-3], "can't be unpacked"),
    ],
)
def test_other_files_are_refused(script, tmp_path, content, message):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(SystemExit, match=rf"train-images-idx3-ubyte\.gz {message}"):
        script.main(["--source", str(tmp_path), "--output", str(tmp_path / "images.nc")])
    assert not (tmp_path / "images.nc").exists()
