import json
import subprocess
import sys

import netCDF4
import numpy as np
import pytest
import xarray as xr

from twophase import __version__
from twophase.errors import ArtifactError, DiskError
from twophase.provenance import canonical, make_recipe
from twophase.storage import describe, read_dataset, write_dataset

RECIPE = make_recipe("measure", {"steps": [0, 5], "norm": 0.1}, "abcd", data=make_recipe("prepare", {"size": 8}, "ef"))
DESCRIPTIONS = {
    "loss": ("cross-entropy", "nat"),
    "count": ("number of examples", "1"),
    "name": ("name of the class", "1"),
    "step": ("step of the run", "step"),
    "class": ("class", "1"),
    "seed": ("seed", "1"),
}


def example(rows=3):
    loss = np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32)
    loss[0, 0] = np.nan
    return xr.Dataset(
        {"loss": (("step", "class"), loss), "count": ("step", np.arange(rows)), "name": ("class", ["cät", "dog"])},
        coords={"step": 5 * np.arange(rows), "class": ["a", "b"], "seed": 3},
        attrs={"classes": 2},
    )


def write(path, dataset=None, **arguments):
    dataset = describe(example(), DESCRIPTIONS) if dataset is None else dataset
    write_dataset(path, dataset, **{"title": "An example", "recipe": canonical(RECIPE)} | arguments)
    return path


def test_what_was_written_is_read(tmp_path):
    path = write(tmp_path / "example.nc")
    found = read_dataset(path, recipe=RECIPE)
    xr.testing.assert_equal(found, example())
    assert {name: found[name].dtype.kind for name in found.variables} == {
        **{"loss": "f", "count": "i", "step": "i", "seed": "i"},
        **dict.fromkeys(["name", "class"], found["name"].dtype.kind),
    }
    assert found["loss"].dtype == np.float32
    assert found["loss"].values.tobytes() == example()["loss"].values.tobytes()
    assert [file.name for file in tmp_path.iterdir()] == ["example.nc"]


def test_large_variables_are_compressed_without_loss(tmp_path):
    dataset = describe(example(rows=50_000), DESCRIPTIONS)
    dataset["loss"][:] = 1.5
    path = write(tmp_path / "large.nc", dataset)
    assert path.stat().st_size - dataset["step"].nbytes < dataset["loss"].nbytes / 2  # coordinates stay as they are
    xr.testing.assert_equal(read_dataset(path, recipe=RECIPE), dataset)
    with netCDF4.Dataset(path) as file:
        assert file["loss"].filters()["zlib"]


def test_a_file_explains_itself_to_xarray_alone(tmp_path):
    path = write(tmp_path / "example.nc", environment={"device": "cpu (x86_64)", "torch": "9.9"})
    code = (
        "import sys, xarray as xr; d = xr.open_dataset(sys.argv[1]); print(sorted(d.attrs), d.loss.units, int(d.seed))"
    )
    shown = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    assert shown.endswith("] nat 3\n")
    with xr.open_dataset(path) as found:
        assert json.loads(found.attrs["recipe"]) == RECIPE
        assert found.attrs["Conventions"] == "CF-1.12"
        assert found.attrs["title"] == "An example"
        assert found.attrs["source"].startswith(f"twophase {__version__}")
        assert found.attrs["history"].endswith(f"written by {found.attrs['source']}")
        assert "arXiv 2505.13900" in found.attrs["references"]
        assert f"numpy {np.__version__}" in found.attrs["libraries"]
        assert found.attrs["computed_on_device"] == "cpu (x86_64)"
        assert found.attrs["computed_on_torch"] == "9.9"
        assert found.attrs["classes"] == 2
        for name in found.variables:
            assert (found[name].attrs["long_name"], found[name].attrs["units"]) == DESCRIPTIONS[name]


def test_describing_leaves_the_data_set_alone_and_sets_attributes_afresh():
    dataset = example()
    dataset["loss"].attrs = {"units": "bit", "note": "old"}
    described = describe(dataset, DESCRIPTIONS)
    assert dataset["loss"].attrs == {"units": "bit", "note": "old"}
    assert dataset["step"].attrs == {}
    assert described["loss"].attrs == {"long_name": "cross-entropy", "units": "nat"}
    assert described["step"].attrs == {"long_name": "step of the run", "units": "step"}


def test_a_variable_without_description_is_refused():
    with pytest.raises(ValueError, match=r"no description: \['loss', 'seed'\]"):
        describe(example(), {name: DESCRIPTIONS[name] for name in ("count", "name", "step", "class")})


@pytest.mark.parametrize("kept", [0, 1, 7, 100, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = write(tmp_path / "example.nc", describe(example(rows=3000), DESCRIPTIONS))
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(
        ArtifactError, match=r"example\.nc is truncated, damaged or not netCDF .*; delete it and run again"
    ):
        read_dataset(path, recipe=RECIPE)


def message_of(path):
    try:
        read_dataset(path, recipe=RECIPE)
    except ArtifactError as error:
        return str(error)
    return ""


def test_whatever_a_damaged_file_raises_names_it(tmp_path):
    path = write(tmp_path / "example.nc", describe(example(rows=3000), DESCRIPTIONS))
    whole = path.read_bytes()
    refused = 0
    for start in range(0, len(whole) - 64, len(whole) // 40):
        path.write_bytes(whole[:start] + bytes(64) + whole[start + 64 :])
        refused += message_of(path).startswith(str(path))
    assert refused > 5


@pytest.mark.parametrize("content", [b"", b"some text\n", b"\x89HDF\r\n\x1a\n" + bytes(100), b"CDF\x01" + bytes(50)])
def test_what_is_no_netcdf_is_refused(tmp_path, content):
    (tmp_path / "odd.nc").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"odd\.nc (is truncated, damaged or not netCDF|has no attribute)"):
        read_dataset(tmp_path / "odd.nc", recipe=RECIPE)


def test_a_file_of_others_is_refused(tmp_path):
    example().to_netcdf(tmp_path / "foreign.nc")
    with pytest.raises(ArtifactError, match=r"foreign\.nc has no attribute 'recipe': this project did not write it"):
        read_dataset(tmp_path / "foreign.nc", recipe=RECIPE)


def test_a_missing_file_is_just_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_dataset(tmp_path / "none.nc", recipe=RECIPE)


@pytest.mark.parametrize("recipe", ["", "{}", 3, canonical(RECIPE | {"code": "other"})])
def test_a_file_of_another_recipe_is_refused(tmp_path, recipe):
    path = write(tmp_path / "example.nc", recipe=recipe)
    with pytest.raises(ArtifactError, match=r"example\.nc was made by other settings or other code"):
        read_dataset(path, recipe=RECIPE)


def test_a_recipe_may_be_long(tmp_path):
    recipe = make_recipe("measure", {"steps": list(range(50_000))}, "abcd")
    path = write(tmp_path / "example.nc", recipe=canonical(recipe))
    assert read_dataset(path, recipe=recipe)


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = write(tmp_path / "example.nc")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write(path, describe(example(), DESCRIPTIONS).assign_attrs(bad={"a": 1}))

    def fail_half_way(self, file, **_):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail_half_way)
    with pytest.raises(DiskError, match="No space left"):
        write(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["example.nc"]


def test_a_changed_byte_is_noticed(tmp_path):
    values = np.random.default_rng(0).normal(size=2000)
    dataset = describe(xr.Dataset({"a": ("x", values)}, coords={"x": range(2000)}), {"a": ("a", "1"), "x": ("x", "1")})
    path = tmp_path / "a.nc"
    write_dataset(path, dataset, title="t", recipe="{}")
    content = bytearray(path.read_bytes())
    refused = 0
    for place in range(len(content) // 2, len(content), 997):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            found = read_dataset(path, recipe={})
        except ArtifactError:
            refused += 1
        else:  # the byte was one of the file's unused ones
            np.testing.assert_array_equal(found["a"].values, values)
    assert refused
