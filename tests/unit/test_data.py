import subprocess
import sys

import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr

from twophase.data import RawImages, class_balanced_examples, load_images, write_images
from twophase.errors import ArtifactError, DataError

RECIPE = '{"seed":1,"source":"made up"}'


def make_raw(channels: int = 3, train: int = 1100, test: int = 30) -> RawImages:
    """Random images, more than one block of them; the channels have different ranges."""
    rng = np.random.default_rng(5)
    tops = np.array([255, 90, 30])[:channels] + 1
    images = [rng.integers(0, tops, (count, 4, 5, channels), dtype=np.uint8) for count in (train, test)]
    labels = [rng.integers(0, 3, count) for count in (train, test)]
    return RawImages(images[0], labels[0], images[1], labels[1], ("cat", "dog", "cow"))


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "images.nc"
    write_images(path, make_raw(), RECIPE)
    return path


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 5e-3)])
def test_images_are_normalised_by_training_statistics(tmp_path, channels, dtype, tolerance):
    raw = make_raw(channels)
    write_images(tmp_path / "images.nc", raw, RECIPE)
    data = load_images(tmp_path / "images.nc", device="cpu", dtype=dtype)
    scaled = raw.train_images.astype(np.float64) / 255
    mean, std = scaled.mean(axis=(0, 1, 2)), scaled.std(axis=(0, 1, 2))
    for split in ("train", "test"):
        loaded = getattr(data, f"{split}_images")
        plain = (getattr(raw, f"{split}_images") / 255 - mean) / std
        assert loaded.dtype == dtype
        assert loaded.is_contiguous()
        np.testing.assert_allclose(loaded.double().numpy(), plain.transpose(0, 3, 1, 2), rtol=0, atol=tolerance)
        labels = getattr(data, f"{split}_labels")
        assert labels.dtype == torch.int64
        assert labels.tolist() == getattr(raw, f"{split}_labels").tolist()
    np.testing.assert_allclose(data.black.double().numpy(), -mean / std, atol=tolerance)
    assert data.image_shape == (channels, 4, 5)
    assert data.classes == 3
    assert data.class_names == ("cat", "dog", "cow")
    assert data.recipe == RECIPE


def test_black_is_what_a_black_pixel_becomes_bit_for_bit(written):
    raw, data = make_raw(), load_images(written, device="cpu", dtype=torch.float32)
    for channel in range(3):
        black = torch.from_numpy(raw.train_images[..., channel] == 0)
        assert black.any()
        assert (data.train_images[:, channel][black] == data.black[channel]).all()


def test_a_constant_channel_has_standard_deviation_one(tmp_path):
    raw = make_raw()
    raw.train_images[..., 1] = 51
    raw.test_images[..., 1] = 102
    write_images(tmp_path / "images.nc", raw, RECIPE)
    with netCDF4.Dataset(tmp_path / "images.nc") as file:
        assert file["channel_std"][1] == 1
        assert file["channel_mean"][1] == pytest.approx(0.2, abs=1e-15)
    data = load_images(tmp_path / "images.nc", device="cpu", dtype=torch.float32)
    assert data.train_images[:, 1].abs().max() < 1e-7
    np.testing.assert_allclose(data.test_images[:, 1].numpy(), 0.2, atol=1e-6)


def test_statistics_of_nearly_constant_bright_images_are_exact(tmp_path):
    raw = make_raw(channels=1, train=20_000)
    raw.train_images[:] = 255
    raw.train_images[0, 0, 0, 0] = 254
    write_images(tmp_path / "images.nc", raw, RECIPE)
    share = 1 / 400_000
    with netCDF4.Dataset(tmp_path / "images.nc") as file:
        assert file["channel_mean"][0] == pytest.approx(1 - share / 255, abs=1e-15)
        assert file["channel_std"][0] == pytest.approx((share * (1 - share)) ** 0.5 / 255, rel=1e-12)


def test_the_file_explains_itself(written):
    with xr.open_dataset(written) as file:
        assert file["train_images"].dims == ("train_example", "channel", "row", "column")
        assert file["train_images"].dtype == np.uint8
        assert file["train_labels"].dtype == np.int64
        assert file["class"].values.tolist() == ["cat", "dog", "cow"]
        assert {"Conventions", "title", "source", "recipe"} <= set(file.attrs)
        assert all("long_name" in variable.attrs for variable in file.variables.values())
        np.testing.assert_array_equal(file["test_images"].values, make_raw().test_images.transpose(0, 3, 1, 2))
    with netCDF4.Dataset(written) as file:
        assert not file["train_images"].filters()["zlib"]


def test_a_failed_write_leaves_no_file(tmp_path):
    raw = make_raw()
    with pytest.raises((TypeError, AttributeError)):
        write_images(tmp_path / "images.nc", RawImages(**vars(raw) | {"class_names": (1, 2)}), RECIPE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: {"train_images": raw.train_images.astype(float)}, "train_images must be uint8"),
        (lambda raw: {"test_images": raw.test_images[:, :3]}, r"test_images .* got uint8 \(30, 3, 5, 3\)"),
        (lambda raw: {"test_labels": raw.test_labels[:1]}, r"test_labels must have shape \(30,\), got \(1,\)"),
    ],
)
def test_raw_images_must_fit_each_other(change, message):
    raw = make_raw()
    with pytest.raises(ValueError, match=message):
        RawImages(**vars(raw) | change(raw))


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_named(written, share):
    written.write_bytes(written.read_bytes()[: int(share * written.stat().st_size)])
    with pytest.raises(
        ArtifactError, match=rf"{written} is truncated, damaged or not netCDF .*; delete it and run again"
    ):
        load_images(written, device="cpu", dtype=torch.float32)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"absent\.nc can't be opened .* missing"):
        load_images(tmp_path / "absent.nc", device="cpu", dtype=torch.float32)


def edit_recipe(file):
    file.delncattr("recipe")


def edit_mean(file):
    file.renameVariable("channel_mean", "average")


def edit_images(file):
    file.renameVariable("train_images", "old")
    file.createVariable("train_images", "f4", ("train_example", "channel", "row", "column"))


def edit_labels(file):
    file["test_labels"][4] = 3


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edit_recipe, "lacks the attribute 'recipe'"),
        (edit_mean, "lacks the variable 'channel_mean'"),
        (edit_images, r"'train_images' should be uint8 over .*, is float32 over"),
        (edit_labels, "test_labels must lie in 0 to 2"),
    ],
)
def test_a_foreign_file_is_refused_with_the_reason(written, edit, message):
    with netCDF4.Dataset(written, "a") as file:
        edit(file)
    with pytest.raises(ArtifactError, match=rf"{written}.*{message}"):
        load_images(written, device="cpu", dtype=torch.float32)


def test_jobs_start_without_heavy_imports(written):
    code = (
        "import sys, torch; from twophase.data import load_images\n"
        f"load_images({str(written)!r}, device='cpu', dtype=torch.float32)\n"
        "heavy = {'xarray', 'pandas', 'torchvision', 'PIL', 'twophase.sources'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loading_needs_little_more_memory_than_the_tensors(tmp_path):
    write_images(tmp_path / "images.nc", make_raw(train=400_000), RECIPE)
    code = (
        "import torch; from twophase.data import load_images\n"
        # Of this program alone: ru_maxrss starts at the peak of the process that started it.
        "lines = lambda: open('/proc/self/status')\n"
        "peak = lambda: next(int(line.split()[1]) for line in lines() if line.startswith('VmHWM')) / 1024\n"
        "before = peak()\n"
        f"data = load_images({str(tmp_path / 'images.nc')!r}, device='cpu', dtype=torch.float32)\n"
        "print(peak() - before, data.train_images.nbytes / 2**20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    growth, size = map(float, done.stdout.split())
    assert size > 90
    assert size < growth < 2 * size


def test_probe_examples_are_balanced_sorted_and_nested():
    labels = torch.arange(300) % 10
    chosen = class_balanced_examples(labels, 100)
    assert chosen.dtype == torch.int64
    assert torch.bincount(labels[chosen]).tolist() == [10] * 10
    assert (chosen.diff() > 0).all()
    assert set(chosen.tolist()) < set(class_balanced_examples(labels, 110).tolist())
    assert torch.equal(labels, torch.arange(300) % 10)


def test_probe_examples_of_a_small_class_are_refused():
    with pytest.raises(DataError, match="needs 3 of class '1', which has 2"):
        class_balanced_examples(torch.tensor([0, 0, 0, 1, 1]), 6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gets_the_same_bits(written):
    on_cpu = load_images(written, device="cpu", dtype=torch.float32)
    on_gpu = load_images(written, device="cuda", dtype=torch.float32)
    for name in ("train_images", "train_labels", "test_images", "test_labels", "black"):
        assert getattr(on_gpu, name).is_cuda
        assert torch.equal(getattr(on_gpu, name).cpu(), getattr(on_cpu, name))
    chosen = class_balanced_examples(on_gpu.train_labels, 30)
    assert torch.equal(chosen.cpu(), class_balanced_examples(on_cpu.train_labels, 30))
