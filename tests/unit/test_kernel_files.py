import numpy as np
import pytest
import torch
import xarray as xr

from twophase.errors import ArtifactError
from twophase.kernel_files import DESCRIPTIONS, kernel_dataset, read_kernels
from twophase.provenance import canonical, make_recipe
from twophase.storage import write_dataset

RECIPE = make_recipe("compute_entk", {"kernel": "full"}, "abcd")
PROBE = torch.tensor([7, 2, 30])
LABELS = torch.tensor([1, 0, 1])
NAMES = ("cat", "dog")


def kernel(step=0, dtype=torch.float32):
    return torch.randn(3, 2, 3, 2, generator=torch.Generator().manual_seed(step), dtype=dtype)


def write(folder, step=0, seed=4, probe=PROBE, values=None, recipe=RECIPE):
    path = folder / f"step{step}.nc"
    dataset = kernel_dataset(kernel(step) if values is None else values, probe, LABELS, NAMES, seed=seed, step=step)
    write_dataset(path, dataset, title="A kernel", recipe=canonical(recipe))
    return path


def test_a_kernel_carries_its_examples_classes_and_origin():
    dataset = kernel_dataset(kernel(), PROBE, LABELS, NAMES, seed=4, step=10)
    assert dataset["entk"].dims == ("example", "class", "example_other", "class_other")
    assert dataset["entk"].dtype == np.float32
    assert dataset["entk"].values.tobytes() == kernel().numpy().tobytes()
    assert dataset["example"].values.tolist() == dataset["example_other"].values.tolist() == [7, 2, 30]
    assert dataset["class"].values.tolist() == dataset["class_other"].values.tolist() == ["cat", "dog"]
    assert dataset["label"].dims == ("example",)
    assert dataset["label"].values.tolist() == [1, 0, 1]
    assert (dataset["seed"].item(), dataset["step"].item(), dataset.attrs["classes"]) == (4, 10, 2)
    # H[i, k, j, l] by its names: example 2's logit dog with example 30's logit cat
    cell = dataset["entk"].sel(example=2, example_other=30, **{"class": "dog", "class_other": "cat"})
    assert cell.item() == kernel()[1, 1, 2, 0].item()


def test_a_trace_has_no_classes():
    trace = torch.einsum("ikjk->ij", kernel(dtype=torch.float64))
    dataset = kernel_dataset(trace, PROBE, LABELS, NAMES, seed=4, step=10)
    assert dataset["entk"].dims == ("example", "example_other")
    assert dataset["entk"].dtype == np.float64
    assert dataset.attrs["classes"] == 2
    assert not {"class", "class_other"} & set(dataset.variables)


def test_every_variable_is_described(tmp_path):
    with xr.open_dataset(write(tmp_path)) as found:
        for name in found.variables:
            assert (found[name].attrs["long_name"], found[name].attrs["units"]) == DESCRIPTIONS[name]


def test_kernels_are_read_in_order(tmp_path):
    paths = [write(tmp_path, step) for step in (20, 0, 5)]
    kernels, labels, classes = read_kernels(paths, 4, [20, 0, 5], recipe=RECIPE)
    assert [array.tobytes() for array in kernels] == [kernel(step).numpy().tobytes() for step in (20, 0, 5)]
    assert labels.tolist() == [1, 0, 1]
    assert classes == 2


def test_another_step_or_seed_is_refused(tmp_path):
    paths = [write(tmp_path, 0), write(tmp_path, 5)]
    with pytest.raises(ArtifactError, match=r"step0\.nc holds \(seed, step\) \(4, 0\), expected \(4, 5\)"):
        read_kernels(paths, 4, [5, 0], recipe=RECIPE)
    with pytest.raises(ArtifactError, match=r"step5\.nc holds \(seed, step\) \(3, 5\), expected \(4, 5\)"):
        read_kernels([paths[0], write(tmp_path, 5, seed=3)], 4, [0, 5], recipe=RECIPE)


@pytest.mark.parametrize("probe", [[2, 7, 30], [7, 2, 31]])
def test_other_probe_examples_are_refused(tmp_path, probe):
    paths = [write(tmp_path, 0), write(tmp_path, 5, probe=torch.tensor(probe))]
    with pytest.raises(ArtifactError, match=r"step5\.nc has other probe examples than .*step0\.nc"):
        read_kernels(paths, 4, [0, 5], recipe=RECIPE)


def test_another_recipe_or_a_truncated_file_is_refused(tmp_path):
    path = write(tmp_path, recipe=make_recipe("compute_entk", {"kernel": "trace"}, "abcd"))
    with pytest.raises(ArtifactError, match=r"settings\.kernel: file has 'trace', expected 'full'"):
        read_kernels([path], 4, [0], recipe=RECIPE)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ArtifactError, match=r"step0\.nc is truncated"):
        read_kernels([path], 4, [0], recipe=RECIPE)


def test_paths_and_steps_must_be_as_many(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        read_kernels([write(tmp_path)], 4, [0, 5], recipe=RECIPE)
