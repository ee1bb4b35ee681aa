import itertools

import numpy as np
import pytest
import xarray as xr

from twophase.chaos import DESCRIPTIONS, MEASURES, grid_of_comparisons
from twophase.trajectories import branch_of, grid_of_branches

GRID = {
    "seeds": [0, 7],
    "kinds": ["gaussian", "gradient"],
    "relative_norms": [0.1, 1e-7],
    "draws": 2,
    "perturbation_steps": [0, 5],
    "comparison_steps": [3, 5, 9],
}
POINTS = [0.0, 0.5, 1.0]


def number(seed, branch, t1, measure):
    """A number of its own for each seed, branch, t1 and measure."""
    kind = ["control", "gaussian", "gradient"].index(branch.kind)
    norm = [0.0, 1e-7, 0.1].index(branch.relative_norm)
    return float(f"{MEASURES.index(measure) + 1}{seed}{kind}{norm}{branch.draw}{branch.t0}{t1}")


def comparison(seed, branch, comparison_steps):
    """What rule compare_branch writes."""
    steps = [t1 for t1 in comparison_steps if t1 > branch.t0]
    variables = {name: ("t1", [number(seed, branch, t1, name) for t1 in steps]) for name in MEASURES}
    for split in ("test", "train"):
        curves = [[number(seed, branch, t1, f"{split}_loss_barrier") + point for point in POINTS] for t1 in steps]
        variables[f"{split}_interpolation_loss"] = (("t1", "interpolation"), curves)
    variables["growth_distance"] = ("steps_after", [10.0 * seed + branch.t0, branch.relative_norm])
    variables["parameter_norm"] = ((), 100.0 * seed + branch.t0)
    return xr.Dataset(variables, coords={"t1": steps, "interpolation": POINTS, "steps_after": [0, 1]})


def comparisons(grid):
    branches = grid_of_branches(*(grid[key] for key in ("perturbation_steps", "kinds", "relative_norms", "draws")))
    return {
        (seed, branch.name): comparison(seed, branch, grid["comparison_steps"])
        for seed in grid["seeds"]
        for branch in branches
    }


@pytest.fixture(scope="module")
def chaos():
    return grid_of_comparisons(comparisons(GRID), **GRID)


def cells(chaos):
    axes = ("seed", "kind", "relative_norm", "draw", "t0", "t1")
    for values in itertools.product(*(chaos[axis].values.tolist() for axis in axes)):
        yield dict(zip(axes, values, strict=True))


def test_the_axes(chaos):
    assert dict(chaos.sizes) == {
        **{"seed": 2, "kind": 2, "relative_norm": 3, "draw": 2, "t0": 2, "t1": 3},
        **{"interpolation": 3, "steps_after": 2},
    }
    assert chaos["relative_norm"].values.tolist() == [0.0, 1e-7, 0.1]  # ascending, and the control added
    assert chaos["draw"].values.tolist() == [0, 1]
    assert chaos["seed"].values.tolist() == [0, 7]
    for name in MEASURES:
        assert chaos[name].dims == ("seed", "kind", "relative_norm", "draw", "t0", "t1")
        assert chaos[name].dtype == np.float64


def test_every_cell_holds_its_branch_and_norm_zero_the_control(chaos):
    for cell in cells(chaos):
        branch = branch_of(cell["kind"], cell["relative_norm"], cell["draw"], cell["t0"])
        assert (branch.kind == "control") == (cell["relative_norm"] == 0)
        for name in MEASURES:
            found = chaos[name].sel(cell).item()
            if cell["t1"] <= cell["t0"]:
                assert np.isnan(found)
            else:
                assert found == number(cell["seed"], branch, cell["t1"], name)


def test_the_curves_and_the_growth(chaos):
    curve = chaos["train_interpolation_loss"]
    assert curve.dims == ("seed", "kind", "relative_norm", "draw", "t0", "t1", "interpolation")
    middle = curve.sel(interpolation=0.5, drop=True)
    xr.testing.assert_equal(middle, (chaos["train_loss_barrier"] + 0.5).drop_attrs())
    assert np.isnan(curve.sel(t0=5, t1=5)).all()
    growth = chaos["growth_distance"]
    assert growth.dims == ("seed", "kind", "relative_norm", "draw", "t0", "steps_after")
    assert not growth.isnull().any()
    assert (growth.sel(seed=7, t0=5, steps_after=0) == 75).all()
    assert (growth.sel(steps_after=1) == chaos["relative_norm"]).all()


def test_the_norm_of_the_parameters_is_the_parents(chaos):
    assert chaos["parameter_norm"].dims == ("seed", "t0")
    assert chaos["parameter_norm"].values.tolist() == [[0.0, 5.0], [700.0, 705.0]]


def test_every_variable_is_described(chaos):
    for name in chaos.variables:
        assert (chaos[name].attrs["long_name"], chaos[name].attrs["units"]) == DESCRIPTIONS[name]
    assert set(chaos.variables) == set(DESCRIPTIONS)


def test_the_order_of_the_files_does_not_matter(chaos):
    backwards = dict(reversed(comparisons(GRID).items()))
    xr.testing.assert_identical(grid_of_comparisons(backwards, **GRID), chaos)


def test_the_grid_may_be_of_the_control_alone():
    grid = GRID | {"relative_norms": [0.0], "kinds": ["gaussian"], "draws": 1, "seeds": [3]}
    found = grid_of_comparisons(comparisons(grid), **grid)
    assert found["relative_norm"].values.tolist() == [0.0]
    assert found["parameter_distance"].sel(t0=0).notnull().all()


def test_a_missing_branch_is_an_error():
    missing = comparisons(GRID)
    del missing[7, "gradient_norm0.1_draw1_at5"]
    with pytest.raises(KeyError, match=r"gradient_norm0\.1_draw1_at5"):
        grid_of_comparisons(missing, **GRID)
