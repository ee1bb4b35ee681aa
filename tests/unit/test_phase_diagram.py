import importlib.util
import itertools
import json
import re
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import netCDF4
import numpy as np
import pytest
import xarray as xr

from twophase.errors import ArtifactError
from twophase.phase_diagram import details, examples, orientations, regimes, relative_distance, theory, tile_files
from twophase.phase_diagram.grid import TILE_PATTERN, TILE_SIDE, networks_of, tiles
from twophase.phase_diagram.orientations import count_clusters, principal_direction
from twophase.phase_diagram.regimes import classify, fit_line, fit_regimes
from twophase.phase_diagram.relative_distance import MEASURES, WHOLE_NUMBERS, grid_of, results_of, rows_of
from twophase.phase_diagram.theory import CONDENSED, CRITICAL, LINEAR, UNDECIDED, boundary_distance, boundary_path
from twophase.provenance import canonical, make_recipe
from twophase.storage import read_dataset, write_dataset
from twophase.two_layer import STATUS, Accuracy, Trained, TwoLayer, integrate, outputs, with_bias

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"
AXES = ("gamma", "gamma_prime", "width", "seed")


# Theory: the boundary and the regimes on its two sides


def sampled_boundary(reach=8.0, step=1e-3):
    """Points of the boundary, no two neighbours further apart than the step."""
    along = np.arange(0, reach, step / 2)
    vertical = np.stack([np.ones_like(along), -along], axis=1)
    return np.concatenate([vertical, np.stack([1 + along, along], axis=1)])


def test_the_distance_is_that_to_the_nearest_of_many_points_of_the_boundary():
    points = np.random.default_rng(0).uniform([-2, -3], [4, 3], size=(400, 2))
    boundary = sampled_boundary()
    nearest = [np.hypot(*(boundary - point).T).min() for point in points]
    gamma, gamma_prime = points.T
    condensed = (gamma > 1) & (gamma_prime < gamma - 1)
    assert 0.1 < condensed.mean() < 0.9
    np.testing.assert_allclose(
        boundary_distance(gamma, gamma_prime), np.where(condensed, nearest, -np.array(nearest)), atol=1e-3
    )


@pytest.mark.parametrize(
    ("gamma", "gamma_prime", "distance"),
    [
        *[(3.0, -2.0, 2.0), (0.25, -1.0, -0.75), (1.5, 0.5, 0.0), (1.0, -0.5, 0.0), (1.0, 0.0, 0.0)],
        *[(1.0, 2.0, -np.sqrt(2)), (2.0, 0.0, np.sqrt(0.5)), (0.0, 1.0, -np.sqrt(2)), (0.0, 0.5, -np.sqrt(1.25))],
    ],
)
def test_distances_by_hand(gamma, gamma_prime, distance):
    assert boundary_distance(gamma, gamma_prime) == pytest.approx(distance, abs=1e-12)


def test_a_grid_of_distances():
    gamma, gamma_prime = np.linspace(0, 2, 9), np.linspace(-1, 1, 5)
    found = boundary_distance(gamma[:, None], gamma_prime)
    assert found.shape == (9, 5)
    for row, column in np.ndindex(found.shape):
        assert found[row, column] == boundary_distance(gamma[row], gamma_prime[column])


@pytest.mark.parametrize(
    ("point", "regime"),
    [
        *[((0.5, 0.0), LINEAR), ((0.5, 0.5), LINEAR), ((1.0, 0.0), CRITICAL), ((1.0, -3.0), CRITICAL)],
        *[((1.7, 0.7), CRITICAL), ((1.1, 0.1), CRITICAL), ((1.75, 0.0), CONDENSED), ((1.01, -1.0), CONDENSED)],
        *[((1.0, 0.2), LINEAR), ((0.99, -5.0), LINEAR), ((2.0, 1.01), LINEAR), ((2.0, 0.99), CONDENSED)],
    ],
)
def test_the_regime_by_theory(point, regime):
    found = theory.theoretical_regime(*point)
    assert found == regime
    assert found.dtype == np.int8


def test_the_usual_initialisations_are_where_the_paper_has_them():
    assert set(theory.KNOWN_POINTS) == {(0.5, 0.0), (1.0, 0.0), (0.5, 0.5)}
    assert [int(theory.theoretical_regime(*point)) for point in theory.KNOWN_POINTS] == [LINEAR, CRITICAL, LINEAR]
    assert theory.REGIMES == ("linear", "critical", "condensed", "undecided")


def length_within(gamma_range, gamma_prime_range):
    """Length of the boundary within a rectangle, each of its lines cut by itself."""
    (left, right), (bottom, top) = gamma_range, gamma_prime_range
    vertical = max(0.0, min(0.0, top) - bottom) if left <= 1 <= right else 0.0
    diagonal = max(0.0, min(right - 1, top) - max(left - 1, bottom, 0.0))
    return vertical + np.sqrt(2) * diagonal


def check_path(gamma_range, gamma_prime_range):
    path = boundary_path(gamma_range, gamma_prime_range)
    assert path.ndim == 2
    assert path.shape[1] == 2
    assert (np.isnan(path[:, 0]) == np.isnan(path[:, 1])).all()
    halves = (path[1:] + path[:-1]) / 2  # a line between two of its points stays on the boundary
    for gamma, gamma_prime in [*path, *halves]:
        if not np.isnan(gamma):
            assert boundary_distance(gamma, gamma_prime) == pytest.approx(0, abs=1e-12)
            assert gamma_range[0] - 1e-12 <= gamma <= gamma_range[1] + 1e-12
            assert gamma_prime_range[0] - 1e-12 <= gamma_prime <= gamma_prime_range[1] + 1e-12
    drawn = np.nansum(np.hypot(*np.diff(path, axis=0).T))
    assert drawn == pytest.approx(length_within(gamma_range, gamma_prime_range), abs=1e-12), path


@pytest.mark.parametrize(
    ("gamma_range", "gamma_prime_range"),
    [
        *[((0.5, 2), (-1, 1)), ((0.5, 2), (-1, -0.5)), ((0.5, 2), (0.2, 3)), ((0.5, 1.2), (0.1, 3)), ((1, 1), (-1, 1))],
        *[((1, 2), (0, 1)), ((0.5, 1), (-1, 0)), ((0, 5), (-1, 0)), ((0, 5), (0, 0))],
        *[((0, 0.9), (-1, 1)), ((0, 1.5), (0.6, 1)), ((1.5, 2), (-1, 0.4)), ((2, 3), (-2, -1))],  # without any of it
        *[((1.2, 2), (-1, 1)), ((1.2, 3), (0.5, 1)), ((1.5, 2), (0.5, 1)), ((1.2, 3), (0.1, 1))],  # beyond the vertical
    ],
)
def test_the_boundary_within_a_rectangle(gamma_range, gamma_prime_range):
    check_path(gamma_range, gamma_prime_range)


def test_the_boundary_within_random_rectangles():
    random = np.random.default_rng(1)
    for _ in range(1000):
        left, right = np.sort(random.uniform(-0.5, 3, size=2))
        bottom, top = np.sort(random.uniform(-2, 2, size=2))
        check_path((left, right), (bottom, top))


@pytest.mark.parametrize("rectangle", [((0, 0.9), (-1, 1)), ((1.5, 2), (-1, 0.4)), ((0, 1.5), (0.6, 1))])
def test_nothing_is_drawn_where_there_is_no_boundary(rectangle):
    assert np.isnan(boundary_path(*rectangle)).all()


# The grid and its tiles


def corner_of(name):
    assert re.fullmatch(TILE_PATTERN, name)
    return tuple(float(part) for part in re.fullmatch(r"gamma([-.\d]+)_gamma_prime([-.\d]+)", name).groups())


def random_axis(random):
    """Values of a grid: round ones, odd ones, and corners of tiles, on both sides of 0."""
    pool = [*np.arange(-40, 41) / 4, *np.round(np.arange(-200, 201) * 0.05, 10), *random.uniform(-10, 10, size=20)]
    return [float(value) + 0.0 for value in {*random.choice(pool, size=random.integers(1, 12))}]


def test_tiles_partition_any_grid():
    random = np.random.default_rng(2)
    for _ in range(300):
        gammas, gamma_primes = random_axis(random), random_axis(random)
        found = [
            (name, point)
            for name, tile in tiles(gammas, gamma_primes).items()
            for point in itertools.product(tile["gamma"], tile["gamma_prime"])
        ]
        assert sorted(point for _, point in found) == sorted(itertools.product(gammas, gamma_primes))
        for name, point in found:
            for value, corner in zip(point, corner_of(name), strict=True):
                assert corner <= value < corner + TILE_SIDE
                assert corner % TILE_SIDE == 0


def test_the_names_of_tiles():
    found = tiles([0.49, -0.5, 0.5, 0.0, 1.25], [-10.0, 10.0, -0.01])
    assert set(found) == {
        f"gamma{gamma}_gamma_prime{gamma_prime}"
        for gamma in ("-0.5", "0", "0.5", "1")
        for gamma_prime in ("-10", "-0.5", "10")
    }
    assert found["gamma0_gamma_prime-0.5"] == {"gamma": [0.0, 0.49], "gamma_prime": [-0.01]}
    assert set(tiles([-0.0], [-0.0])) == {"gamma0_gamma_prime0"}


def test_values_that_are_added_leave_other_tiles_as_they_are():
    random = np.random.default_rng(3)
    for _ in range(100):
        gammas, gamma_primes, more = (random_axis(random) for _ in range(3))
        before = tiles(gammas, gamma_primes)
        for after in (tiles([*gammas, *more], gamma_primes), tiles(gammas, [*more, *gamma_primes])):
            assert set(before) <= set(after)
        after = tiles(sorted({*gammas, *more}), gamma_primes)
        touched = {np.floor(value / TILE_SIDE) * TILE_SIDE for value in set(more) - set(gammas)}
        for name, tile in before.items():
            if corner_of(name)[0] not in touched:
                assert after[name] == tile


def test_the_order_of_values_does_not_matter():
    assert tiles([1.5, -2, 0.1, 0.2], [3, 0]) == tiles([0.2, 0.1, -2, 1.5], [0, 3])


def test_networks_of_a_grid():
    networks = networks_of([0, 0.5], [1], [10, 20], [3, 1])
    assert networks == [(g, 1.0, width, seed) for g in (0.0, 0.5) for width in (10, 20) for seed in (3, 1)]
    assert {tuple(map(type, network)) for network in networks} == {(float, float, int, int)}


# What became of the networks, by tile and on one grid

GRID = {"gamma": [1.5, -0.25, 0.1], "gamma_prime": [0.5, -1.0, 0.0, 0.1], "widths": [100, 10], "seeds": [7, 0, 3]}
ODD_NUMBERS = [np.nan, np.inf, 5e-324, 0.1 + 0.2, 1.7e308, -0.0, 1 / 3]


def measured(networks):
    """A result for each network, all numbers different, some of them odd."""
    random, results = np.random.default_rng(4), {}
    for place, network in enumerate(networks):
        measures = {name: float(random.standard_normal()) for name in MEASURES}
        measures |= {"kernel_distance": ODD_NUMBERS[place % len(ODD_NUMBERS)], "status": place % 4}
        results[network] = measures | {"steps": 10**12 + place, "evaluations": place}
    return results


def as_text(results):
    """All keys and numbers, with their types, exactly; NaN equals NaN."""
    return repr([(key, [measures[name] for name in MEASURES]) for key, measures in results.items()])


def tiles_of(results):
    for tile in tiles(GRID["gamma"], GRID["gamma_prime"]).values():
        wanted = networks_of(**tile, widths=GRID["widths"], seeds=GRID["seeds"])
        yield rows_of({key: results[key] for key in wanted})


def test_rows_and_results_are_inverse():
    results = measured(networks_of(**GRID))
    rows = rows_of(results)
    assert as_text(results_of(rows)) == as_text(dict(sorted(results.items())))
    xr.testing.assert_identical(rows_of(results_of(rows)), rows)
    assert dict(rows.sizes) == {"network": 3 * 4 * 2 * 3}


def test_types_and_descriptions_of_rows_and_grid():
    results = measured(networks_of(**GRID))
    for dataset in (rows_of(results), grid_of(tiles_of(results), **GRID)):
        assert set(dataset.variables) == {*AXES, *MEASURES}
        for name in MEASURES:
            assert dataset[name].dtype == WHOLE_NUMBERS.get(name, np.float64)
        assert [dataset[axis].dtype for axis in AXES] == [np.float64, np.float64, np.int64, np.int64]
        for name, variable in dataset.variables.items():
            assert (variable.attrs["long_name"], variable.attrs["units"]) == relative_distance.DESCRIPTIONS[name]
    assert (WHOLE_NUMBERS["steps"], WHOLE_NUMBERS["status"]) == (np.int64, np.int8)


def test_every_network_is_in_its_place_on_the_grid():
    results = measured(networks_of(**GRID))
    grid = grid_of(tiles_of(results), **GRID)
    assert dict(zip(grid["status"].dims, grid["status"].shape, strict=True)) == dict(
        zip(AXES, (3, 4, 2, 3), strict=True)
    )
    for (gamma, gamma_prime, width, seed), measures in results.items():
        cell = grid.sel(gamma=gamma, gamma_prime=gamma_prime, width=width, seed=seed)
        for name in MEASURES:
            np.testing.assert_array_equal(cell[name], measures[name])
    for axis in ("gamma", "gamma_prime", "width"):
        assert (np.diff(grid[axis]) > 0).all()


def test_neither_the_order_of_tiles_nor_networks_beyond_the_grid_matter():
    results = measured(networks_of(**GRID))
    parts = list(tiles_of(results))
    grid = grid_of(parts, **GRID)
    xr.testing.assert_identical(grid_of(reversed(parts), **GRID), grid)
    small = GRID | {"gamma": [0.1], "seeds": [3]}
    xr.testing.assert_identical(grid_of(iter(parts), **small), grid.sel(gamma=[0.1], seed=[3]))


@pytest.mark.parametrize("missing", [(-0.25, 0.1, 10, 3), (1.5, -1.0, 100, 7)])
def test_a_missing_network_is_named(missing):
    results = measured(networks_of(**GRID))
    parts = [rows_of({key: measures for key, measures in results.items() if key != missing})]
    with pytest.raises(ArtifactError, match=re.escape(str(missing))):
        grid_of(parts, **GRID)


# The measured regime


def test_a_fit_by_hand():
    # Residuals -1/6, 1/3, -1/6: with one degree of freedom their variance is 1/6, over sum (x - 1)^2 = 2.
    found = fit_line(np.array([0.0, 1.0, 2.0]), np.exp([0.0, 1.0, 1.0]), 0.95)
    error, quantile = np.sqrt(1 / 12), 12.706204736432095  # Student's t, two-sided 95 %, one degree of freedom
    expected = (0.5, 1 / 6, error, 0.5 - quantile * error, 0.5 + quantile * error, 3)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_fit_is_numpys_with_the_textbooks_error(confidence):
    random = np.random.default_rng(5)
    for _ in range(20):
        x = np.log(random.choice([10, 30, 100, 1000], size=random.integers(4, 30)))
        if len(np.unique(x)) < 2:
            continue
        y = random.uniform(-2, 2) * x + random.normal(size=len(x))
        (slope, intercept), covariance = np.polyfit(x, y, 1, cov=True)
        residuals = y - slope * x - intercept
        error = np.sqrt((residuals**2).sum() / (len(x) - 2) / ((x - x.mean()) ** 2).sum())
        assert error == pytest.approx(np.sqrt(covariance[0, 0]), rel=1e-8)
        found = fit_line(x, np.exp(y), confidence)
        assert found[:3] == pytest.approx((slope, intercept, error), rel=1e-8, abs=1e-10)
        assert found[3] + found[4] == pytest.approx(2 * slope, rel=1e-8, abs=1e-10)
        inside = regimes.stats.t.cdf((found[4] - slope) / error, len(x) - 2)
        assert 2 * inside - 1 == pytest.approx(confidence, rel=1e-8)
        assert found[5] == len(x)


def test_a_fit_leaves_out_what_has_no_logarithm():
    x = np.log([10, 10, 100, 100, 1000, 1000, 1000, 10])
    values = np.array([1.0, 2.0, 3.0, np.nan, 5.0, 0.0, np.inf, -1.0])
    kept = [0, 1, 2, 4]
    assert fit_line(x, values, 0.95) == pytest.approx(fit_line(x[kept], values[kept], 0.95), rel=1e-12)
    assert fit_line(x, values, 0.95)[5] == 4


@pytest.mark.parametrize(
    ("widths", "values", "known", "count"),
    [
        ([], [], 0, 0),
        ([10, 10, 10], [1, 2, 3], 0, 3),
        ([10, 100], [np.nan, 2], 0, 1),
        ([10, 100], [1, 10], 2, 2),
        ([10, 100, 100], [1, 10, 0], 2, 2),
        ([10, 100, 1000], [1, 10, 100], 5, 3),
    ],
)
def test_what_few_networks_tell(widths, values, known, count):
    found = fit_line(np.log(np.array(widths, dtype=float)), np.array(values, dtype=float), 0.95)
    assert np.isfinite(found[:5]).tolist() == [place < known for place in range(5)]
    assert found[5] == count
    if known:
        assert found[:2] == pytest.approx((1, -np.log(10)), rel=1e-9)


def synthetic(slope, *, noise=0.3, repetitions, widths=(100, 300, 1000, 3000), seeds=4, seed=6, **changed):
    """Measures whose RD is m^slope exp(noise), a repetition at each point."""
    shape = (*repetitions, len(widths), seeds)
    random = np.random.default_rng(seed)
    variables = {
        f"{layer}_distance": (AXES, np.array(widths)[:, None] ** power * np.exp(random.normal(0, noise, shape)))
        for layer, power in (("input", slope), ("output", slope - 1), ("kernel", slope + 1))
    }
    variables["status"] = (AXES, np.zeros(shape, dtype=np.int8))
    coordinates = {"gamma": np.linspace(0, 2, shape[0]), "gamma_prime": np.linspace(-1, 1, shape[1])}
    dataset = xr.Dataset(variables, coords=coordinates | {"width": list(widths), "seed": range(seeds)})
    return dataset.assign({name: (AXES, value) for name, value in changed.items()})


def binomial_error(share):
    """Standard error of the share of 2,000 repetitions."""
    return np.sqrt(share * (1 - share) / 2000)


@cache
def repeated_fits():
    """Ends of the 95 % interval of 2,000 repetitions of a flat line, ``(2000, 2)``; another slope moves both."""
    distances = synthetic(0.0, repetitions=(2000, 1))
    log_width = np.log(np.repeat(distances["width"].values, 4))
    return np.array([fit_line(log_width, cell.ravel(), 0.95)[3:5] for cell in distances["input_distance"].values])


def shares_of(slope, critical_slope):
    """Share of the repetitions in each regime."""
    return np.bincount(classify(*(slope + repeated_fits()).T, critical_slope), minlength=4) / 2000


def test_intervals_move_with_the_slope():
    flat, steep = (
        fit_regimes(synthetic(slope, repetitions=(3, 3)), confidence=0.95, critical_slope=0.1) for slope in (0.0, 0.7)
    )
    for name in ("slope", "slope_low", "slope_high"):
        np.testing.assert_allclose(steep[name], flat[name] + 0.7, atol=1e-10)
    np.testing.assert_allclose(steep["slope_standard_error"], flat["slope_standard_error"], rtol=1e-7)


def test_intervals_hold_the_slope_as_often_as_they_say():
    low, high = repeated_fits().T
    inside = np.mean((low <= 0) & (high >= 0))
    assert inside == pytest.approx(0.95, abs=3.5 * binomial_error(0.95))  # 3.5 standard errors are 1.7 %
    assert np.mean(low > 0) == pytest.approx(0.025, abs=3.5 * binomial_error(0.025))
    assert np.mean(high < 0) == pytest.approx(0.025, abs=3.5 * binomial_error(0.025))


@pytest.mark.parametrize("critical_slope", [1e-12, 0.05, 0.1])
def test_a_flat_line_is_rarely_called_linear_or_condensed(critical_slope):
    shares = shares_of(0.0, critical_slope)
    assert shares[LINEAR] + shares[CONDENSED] <= 0.05 + 3.5 * binomial_error(0.05)
    if critical_slope < 1e-9:  # the test is as sharp as it says, not merely cautious
        assert shares[LINEAR] + shares[CONDENSED] >= 0.05 - 3.5 * binomial_error(0.05)


@pytest.mark.parametrize(("slope", "wrong"), [(0.1, CONDENSED), (-0.1, LINEAR)])
def test_the_edge_of_the_band_is_rarely_called_beyond_or_within_it(slope, wrong):
    shares = shares_of(slope, 0.1)
    assert shares[wrong] == pytest.approx(0.025, abs=3.5 * binomial_error(0.025))
    assert shares[CRITICAL] <= 0.025 + 3.5 * binomial_error(0.025)


@pytest.mark.parametrize(("slope", "right"), [(-0.5, LINEAR), (0.0, CRITICAL), (0.5, CONDENSED)])
def test_clear_slopes_are_called_by_their_names(slope, right):
    distances = synthetic(slope, noise=0.05, repetitions=(5, 4))
    found = fit_regimes(distances, confidence=0.95, critical_slope=0.1)
    assert (found["regime"] == right).all()
    np.testing.assert_allclose(found["slope"], slope, atol=0.05)
    np.testing.assert_allclose(found["output_slope"], slope - 1, atol=0.05)
    np.testing.assert_allclose(found["kernel_slope"], slope + 1, atol=0.05)


def test_classes_of_intervals():
    low = np.array([-0.3, -0.3, -0.1, 0.05, 0.2, -0.3, np.nan, 0.1, 0.1001])
    high = np.array([-0.2, 0.0, 0.1, 0.15, 0.4, 0.3, np.nan, 0.1, 0.2])
    expected = [LINEAR, UNDECIDED, CRITICAL, UNDECIDED, CONDENSED, UNDECIDED, UNDECIDED, CRITICAL, CONDENSED]
    found = classify(low, high, 0.1)
    assert found.tolist() == expected
    assert found.dtype == np.int8


def small(**changed):
    return synthetic(0.5, repetitions=(3, 2), noise=0.2, **changed)


def test_networks_that_have_not_arrived_are_left_out():
    shape = (3, 2, 4, 4)
    status = np.random.default_rng(7).integers(0, 4, size=shape)
    arrived = status < 2
    absurd = {name: np.where(arrived, small()[name], 1e9) for name in ("input_distance", "output_distance")}
    found = fit_regimes(small(status=status, **absurd), confidence=0.9, critical_slope=0.1)
    unknown = {name: np.where(arrived, small()[name], np.nan) for name in ("input_distance", "output_distance")}
    unknown["kernel_distance"] = np.where(arrived, small()["kernel_distance"], 0.0)
    xr.testing.assert_identical(found, fit_regimes(small(**unknown), confidence=0.9, critical_slope=0.1))
    assert found["networks"].values.tolist() == arrived.sum(axis=(2, 3)).tolist()
    assert np.isfinite(found.to_array()).all()


def test_the_fit_of_a_point_is_that_of_its_networks():
    distances = small()
    found = fit_regimes(distances, confidence=0.9, critical_slope=0.1)
    log_width = np.log(np.repeat(distances["width"].values, 4))
    for place in np.ndindex(3, 2):
        values = distances["input_distance"].values[place].ravel()
        cell = found.isel(gamma=place[0], gamma_prime=place[1])
        assert [float(cell[name]) for name in regimes.FITTED] == pytest.approx(fit_line(log_width, values, 0.9))
        gamma, gamma_prime = float(cell["gamma"]), float(cell["gamma_prime"])
        assert cell["theoretical_regime"] == theory.theoretical_regime(gamma, gamma_prime)
        assert cell["boundary_distance"] == boundary_distance(gamma, gamma_prime)
    assert (found["confidence"], found["critical_slope"]) == (0.9, 0.1)
    assert found["networks"].dtype == np.int64
    shuffled = distances.transpose("seed", "gamma_prime", "width", "gamma")
    xr.testing.assert_identical(fit_regimes(shuffled, confidence=0.9, critical_slope=0.1), found)


@pytest.mark.parametrize(
    ("shape", "fitted", "decided"),
    [
        ({"widths": (100,), "seeds": 5}, False, False),
        ({"widths": (100, 300, 1000), "seeds": 1}, True, True),
        ({"widths": (100, 1000), "seeds": 1}, True, False),
    ],
)
def test_one_width_or_one_seed(shape, fitted, decided):
    found = fit_regimes(small(**shape), confidence=0.95, critical_slope=0.1)
    assert np.isfinite(found["slope"]).all() == fitted
    assert np.isfinite(found["slope_standard_error"]).all() == np.isfinite(found["slope_low"]).all() == decided
    if not decided:
        assert (found["regime"] == UNDECIDED).all()
    assert (found["networks"] == len(shape["widths"]) * shape["seeds"]).all()


def test_regimes_are_described():
    found = fit_regimes(small(), confidence=0.95, critical_slope=0.1)
    for name, variable in found.variables.items():
        assert (variable.attrs["long_name"], variable.attrs["units"]) == regimes.DESCRIPTIONS[name]


# Orientations


def neurons(directions, amplitude, random):
    """Weights that point along rows of ``directions`` with these amplitudes, shared at random between the layers."""
    directions = np.asarray(directions, dtype=float) / np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = np.exp(random.normal(size=len(directions)))
    last = np.asarray(amplitude) / lengths * random.choice([-1, 1], size=len(directions))
    return random.permutation(np.concatenate([directions * lengths[:, None], last[:, None]], axis=1))


def at_angles(degrees, amplitude=1.0, seed=0):
    radians = np.deg2rad(np.asarray(degrees, dtype=float))
    directions = np.stack([np.cos(radians), np.sin(radians)], axis=1)
    return neurons(directions, np.broadcast_to(amplitude, radians.shape), np.random.default_rng(seed))


@pytest.mark.parametrize("groups", range(1, 13))
@pytest.mark.parametrize("stragglers", [0, 200])
def test_groups_are_counted(groups, stragglers):
    random = np.random.default_rng(groups)
    centres = random.uniform(0, 360) + np.arange(groups) * 360 / groups
    angles = (centres[:, None] + random.uniform(-2, 2, size=(groups, 30))).ravel()
    amplitude = np.tile(random.dirichlet(np.ones(30)), groups)
    others = 0.049 / 0.951 * groups * random.dirichlet(np.ones(stragglers)) if stragglers else []
    weights = at_angles([*angles, *random.uniform(0, 360, size=stragglers)], [*amplitude, *others], seed=groups)
    assert count_clusters(weights) == groups


@pytest.mark.parametrize("groups", [1, 5, 12])
def test_groups_are_counted_in_many_dimensions(groups):
    random = np.random.default_rng(groups)
    centres = np.concatenate([np.eye(6), -np.eye(6)])[:groups]  # opposite directions among them
    jitter = random.standard_normal((groups, 30, 6))
    jitter *= (
        np.tan(np.deg2rad(2)) * random.uniform(size=(groups, 30, 1)) / np.linalg.norm(jitter, axis=2, keepdims=True)
    )
    weights = neurons((centres[:, None] + jitter).reshape(-1, 6), random.uniform(1, 2, size=30 * groups), random)
    assert count_clusters(weights) == groups


@pytest.mark.parametrize(
    ("degrees", "amplitude", "clusters"),
    [
        ([0, 180], [1, 1], 2),
        ([179.5, -179.5], [1, 1], 1),  # neighbours, though their polar angles are far apart
        ([0, 4.9], [1, 1], 1),
        ([0, 5.1], [1, 1], 2),
        ([0, 4, 8], [1, 2, 1], 1),
        ([0, 4, 8], [2, 1, 1], 2),
        ([0, 90], [0.96, 0.04], 1),
        ([0, 90], [0.94, 0.06], 2),
        ([0, 90, 180, 270], [1, 1, 1, 0], 3),
        ([0, 90, 180], [0, 0, 0], 0),
    ],
)
def test_clusters_by_hand(degrees, amplitude, clusters):
    assert count_clusters(at_angles(degrees, amplitude)) == clusters


def test_only_shares_of_amplitude_count():
    random = np.random.default_rng(8)
    for _ in range(30):
        weights = random.standard_normal((60, 4)) * np.exp(0.5 * random.normal(size=(60, 1)))
        expected = count_clusters(weights)
        assert expected > 1
        for scale in (1e-30, 0.125, 1e30):
            assert count_clusters(scale * weights) == expected
        assert count_clusters(weights * [1, 1, 1, -7]) == expected
        lengths = np.exp(random.normal(size=(60, 1)))  # from one layer to the other, neuron by neuron
        assert count_clusters(weights * np.concatenate([lengths, lengths, lengths, 1 / lengths], axis=1)) == expected
        assert count_clusters(weights[::-1]) == expected


@pytest.mark.parametrize("shape", [(1, 3), (10, 3), (10, 9)])
def test_no_weights_no_clusters(shape):
    weights = np.zeros(shape)
    assert count_clusters(weights) == 0
    weights[:, -1] = 1.0  # no direction
    assert count_clusters(weights) == 0
    assert np.isnan(orientations.orientations(weights, np.ones(shape[1] - 1))).all()
    assert (orientations.amplitudes(weights) == 0).all()


def test_amplitudes():
    weights = np.array([[3.0, 4.0, -2.0], [0.0, 1.0, 0.5], [0.0, 0.0, 9.0]])
    np.testing.assert_allclose(orientations.amplitudes(weights), [10, 0.5, 0])


def test_orientations_in_two_dimensions_are_polar_angles():
    degrees = np.array([0, 45, 90, 179, -179, -90, -30])
    weights = np.stack([3 * np.cos(np.deg2rad(degrees)), 3 * np.sin(np.deg2rad(degrees)), -np.ones(7)], axis=1)
    np.testing.assert_allclose(orientations.orientations(weights), np.deg2rad(degrees))


@pytest.mark.parametrize("dimension", [3, 10])
def test_orientations_in_more_dimensions_are_angles_to_the_reference(dimension):
    random = np.random.default_rng(9)
    basis = np.linalg.qr(random.standard_normal((dimension, dimension)))[0]
    angles = np.array([0, 0.3, 1, np.pi / 2, 3, np.pi])
    vectors = np.cos(angles)[:, None] * basis[0] + np.sin(angles)[:, None] * basis[1]
    weights = np.concatenate([vectors * np.exp(random.normal(size=(6, 1))), random.standard_normal((6, 1))], axis=1)
    for length in (1.0, 1e-3, 50.0):
        np.testing.assert_allclose(orientations.orientations(weights, length * basis[0]), angles, atol=1e-7)
    weights[2, :-1] = 0
    assert np.isnan(orientations.orientations(weights, basis[0])).tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("dimension", [2, 3, 10])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_principal_direction_points_where_most_neurons_point(dimension, sign):
    random = np.random.default_rng(10)
    axis = sign * random.standard_normal(dimension)
    axis /= np.linalg.norm(axis)
    directions = np.concatenate([np.tile(axis, (30, 1)), np.tile(-axis, (10, 1))])
    directions += 0.01 * random.standard_normal(directions.shape)
    found = principal_direction(neurons(directions, random.uniform(1, 2, size=40), random))
    assert np.linalg.norm(found) == pytest.approx(1)
    assert found @ axis > 0.999


def test_the_principal_direction_weighs_by_amplitude():
    weights = np.array([[1.0, 0, 0, 5.0], [0, 1.0, 0, 1.0], [0, 1.0, 0, 1.0], [0, 0, -1e-3, 1.0]])
    np.testing.assert_allclose(principal_direction(weights), [1, 0, 0], atol=1e-12)
    weights[0, :-1] *= -1
    np.testing.assert_allclose(principal_direction(weights), [-1, 0, 0], atol=1e-12)


# Examples


def test_examples_of_points():
    found = examples.examples_from_points([-1, 0.1, 2], [3, 0.25, -1])
    assert found["inputs"].values.tolist() == [[-1, 1], [0.1, 1], [2, 1]]
    assert found["targets"].values.tolist() == [3, 0.25, -1]
    check_examples(found)


@pytest.mark.parametrize("classes", [2, 3, 10, 200])
@pytest.mark.parametrize("label_type", [np.int64, np.uint8])
def test_examples_of_images(classes, label_type):
    random = np.random.default_rng(11)
    images = random.integers(0, 256, size=(classes, 3, 2, 4), dtype=np.uint8)
    images.flat[:2] = 0, 255
    found = examples.examples_from_images(images, np.arange(classes).astype(label_type), classes)
    assert found["inputs"].shape == (classes, 3 * 2 * 4 + 1)
    assert found["inputs"].values[0, :2].tolist() == [0, 1]
    for row, image in zip(found["inputs"].values, images, strict=True):
        assert row.tolist() == [*(image.astype(float) / 255).ravel(), 1]
    np.testing.assert_allclose(found["targets"], np.linspace(-1, 1, classes), atol=1e-15)
    check_examples(found)


def test_images_of_one_class_have_one_target():
    found = examples.examples_from_images(np.zeros((5, 2, 2, 1), np.uint8), np.zeros(5, np.int64), 1)
    assert found["targets"].values.tolist() == [-1] * 5


def check_examples(found):
    assert (found["inputs"].values[:, -1] == 1).all()
    assert (found["inputs"].dims, found["targets"].dims) == (("example", "feature"), ("example",))
    for name, variable in found.variables.items():
        assert variable.dtype == np.float64
        assert (variable.attrs["long_name"], variable.attrs["units"]) == examples.DESCRIPTIONS[name]


# Single networks looked at closely

X, Y = np.array([-1.0, -0.35, 0.4, 1.0]), np.array([0.3, -0.1, 0.2, -0.2])
SHOWN = [(0.5, 0.0), (1.75, 0.0)]  # linear, condensed


@pytest.fixture(scope="module")
def shown():
    return details.details_of_points(SHOWN, with_bias(X), Y, width=300, seed=0, accuracy=Accuracy())


def test_condensed_neurons_gather_at_few_orientations_and_others_stay(shown):
    (linear_start, linear_end), (condensed_start, condensed_end) = shown["clusters"].values
    assert linear_start == condensed_start > 20
    assert condensed_end <= 8
    assert linear_end == pytest.approx(linear_start, rel=0.2)


def test_what_is_shown_of_the_start_is_the_initial_network(shown):
    for point, (gamma, gamma_prime) in enumerate(SHOWN):
        network = TwoLayer(gamma, gamma_prime, 300, 0)
        weights, start = network.initial_weights(2), shown.isel(point=point).sel(time="start")
        np.testing.assert_allclose(start["orientation"], np.arctan2(weights[:, 1], weights[:, 0]))
        np.testing.assert_allclose(start["amplitude"], np.abs(weights[:, 2]) * np.hypot(weights[:, 0], weights[:, 1]))
        expected = outputs(weights, with_bias(shown["position"].values), network.kappa)
        np.testing.assert_allclose(start["function"], expected, rtol=1e-12, atol=1e-12)
        assert start["clusters"] == count_clusters(weights)


def test_the_learned_function_passes_through_the_examples(shown):
    assert shown["status"].values.tolist() == [STATUS.index("converged")] * 2
    for point in range(2):
        learned = shown["function"].isel(point=point).sel(time="end")
        np.testing.assert_allclose(np.interp(X, shown["position"], learned), Y, atol=1e-2)
        before = shown["function"].isel(point=point).sel(time="start")
        assert np.abs(np.interp(X, shown["position"], before) - Y).max() > 0.1
    assert shown["train_input"].values.tolist() == X.tolist()
    assert shown["train_target"].values.tolist() == Y.tolist()
    assert shown["position"].min() == pytest.approx(-1.5)
    assert shown["position"].max() == pytest.approx(1.5)


def test_shapes_and_descriptions_of_details(shown):
    assert shown["orientation"].dims == shown["amplitude"].dims == ("point", "time", "neuron")
    assert dict(shown.sizes) == {"point": 2, "time": 2, "neuron": 300, "position": details.POSITIONS, "example": 4}
    assert list(zip(shown["gamma"].values, shown["gamma_prime"].values, strict=True)) == SHOWN
    assert (shown["width"], shown["seed"]) == (300, 0)
    for name, variable in shown.variables.items():
        assert (variable.attrs["long_name"], variable.attrs["units"]) == details.DESCRIPTIONS[name]


def test_beyond_one_dimension_there_is_no_function_and_angles_are_to_the_final_direction():
    plane = with_bias(np.array([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.5]]))
    accuracy = Accuracy(loss_tolerance=1e-3)
    found = details.details_of_points([(1.75, 0.0)], plane, Y[:3], width=50, seed=1, accuracy=accuracy)
    assert not {"function", "position", "train_input", "train_target"} & set(found.variables)
    angles = found["orientation"].isel(point=0)
    assert ((angles >= 0) & (angles <= np.pi)).all()
    mean = (angles * found["amplitude"].isel(point=0)).sum("neuron") / found["amplitude"].isel(point=0).sum("neuron")
    assert mean.sel(time="end") < mean.sel(time="start")  # they turned towards it


def test_one_example_is_shown_with_a_margin():
    found = details.details_of_points([(0.5, 0.0)], with_bias(X[:1]), Y[:1], width=10, seed=0, accuracy=Accuracy())
    assert (found["position"].min(), found["position"].max()) == (-2, 0)


# A tile's file

RECIPE = make_recipe("measure_tile", {"tolerance": 1e-4}, "c0de", data=make_recipe("prepare_examples", {}, "f00"))


@pytest.fixture
def tile_file(tmp_path):
    results = measured(networks_of(**GRID))
    write_dataset(tmp_path / "tile.nc", rows_of(results), title="test", recipe=canonical(RECIPE))
    return tmp_path / "tile.nc", results


def test_what_the_same_recipe_made_is_kept_bit_for_bit(tile_file):
    path, results = tile_file
    assert as_text(tile_files.kept_results(path, RECIPE)) == as_text(dict(sorted(results.items())))
    assert as_text(tile_files.kept_results(str(path), RECIPE)) == as_text(dict(sorted(results.items())))


@pytest.mark.parametrize(
    "other",
    [
        make_recipe("measure_tile", {"tolerance": 1e-3}, "c0de", data=RECIPE["inputs"]["data"]),
        make_recipe("measure_tile", {"tolerance": 1e-4}, "0ther", data=RECIPE["inputs"]["data"]),
        make_recipe("measure_tile", {"tolerance": 1e-4}, "c0de", data=make_recipe("prepare_examples", {}, "f01")),
    ],
)
def test_nothing_of_another_recipe_is_kept(tile_file, other):
    assert tile_files.kept_results(tile_file[0], other) == {}


def test_nothing_is_kept_of_no_file(tmp_path):
    assert tile_files.kept_results(tmp_path / "none.nc", RECIPE) == {}
    assert tile_files.kept_results(tmp_path / "no/such/folder/none.nc", RECIPE) == {}


def test_nothing_is_kept_of_a_damaged_file(tile_file):
    path, _ = tile_file
    whole = path.read_bytes()
    with netCDF4.Dataset(path) as file:
        assert file["input_distance"].filters()["fletcher32"]
    for damaged in (b"", b"text", whole[:100], whole[: len(whole) // 2], whole[:-50]):
        path.write_bytes(damaged)
        assert tile_files.kept_results(path, RECIPE) == {}


def test_a_file_keeps_all_measures_of_a_network():
    values = {name: float(place) for place, name in enumerate(MEASURES) if name != "status"}
    trained = Trained(network=TwoLayer(0.5, 0.0, 10, 0), status="evaluations spent", **values)
    assert tile_files.measures_of(trained) == values | {"status": 2}


# The scripts

EXACTNESS = {"tolerance": 1e-2, "loss_tolerance": 0.05, "most_evaluations": 3000}
MADE = {
    "prepare_examples": make_recipe("prepare_examples", {"points": {"inputs": X.tolist(), "targets": Y.tolist()}}, "a")
}
MADE["measure_tile"] = make_recipe("measure_tile", EXACTNESS, "b", data=MADE["prepare_examples"])
MAP = {"gamma": [0.5, 0.75, 1.5], "gamma_prime": [-0.25, 0.0, 0.5], "widths": [8, 24], "seeds": [0, 3]}


class Named(dict):
    """Resources or wildcards as Snakemake hands them to a script: a mapping with attributes."""

    __getattr__ = dict.__getitem__


class Project:
    """A folder with the examples, and scripts to run in it."""

    def __init__(self, folder):
        self.folder = folder
        self.run("prepare_examples", self.of("prepare_examples", source=[]), output={"data": folder / "data.nc"})

    def of(self, rule, recipe=None, **inputs):
        return {"recipe": recipe or MADE[rule], "input": inputs}

    def run(self, rule, job, *, output, script=None, **params):
        smk = SimpleNamespace(
            log=[str(self.folder / f"logs/{rule}.log")],
            rule=rule,
            threads=1,
            input=SimpleNamespace(**job["input"]),
            output=SimpleNamespace(**{name: str(path) for name, path in output.items()}),
            params=SimpleNamespace(recipe=canonical(job["recipe"]), **params),
            resources=Named(flow_memory_mb=200),
            wildcards=Named(diagram="map", tile="gamma0.5_gamma_prime0"),
        )
        (script or load_script(rule)).main(smk)

    def measure(self, name, axes, *, recipe=None, script=None):
        path = self.folder / f"{name}.nc"
        job = self.of("measure_tile", recipe, data=str(self.folder / "data.nc"))
        self.run("measure_tile", job, output={"tile": path}, script=script, networks=json.dumps(axes))
        return path

    def results(self, path, recipe=None):
        return results_of(read_dataset(path, recipe=recipe or MADE["measure_tile"]))


def load_script(name):
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    return Project(tmp_path)


@pytest.fixture
def watched():
    """The script that measures a tile, and the networks that it integrates."""
    script = load_script("measure_tile")
    asked, integrate = [], script.integrate

    def watching(networks, *arguments, **options):
        asked.append([(n.gamma, n.gamma_prime, n.width, n.seed) for n in networks])
        return integrate(networks, *arguments, **options)

    script.integrate = watching
    return SimpleNamespace(script=script, asked=asked)


FIRST = {"gamma": [0.5, 0.75], "gamma_prime": [0.25], "widths": [8], "seeds": [0, 3]}


@pytest.mark.parametrize(
    "more", [{"gamma": [0.5, 0.6, 0.75]}, {"gamma_prime": [0.1, 0.25]}, {"widths": [24, 8]}, {"seeds": [0, 1, 3]}]
)
def test_a_tile_that_grows_computes_only_what_is_new(project, watched, more):
    old = project.results(project.measure("tile", FIRST, script=watched.script))
    marked = {key: measures | {"integration_error": 0.1 + place} for place, (key, measures) in enumerate(old.items())}
    write_dataset(project.folder / "tile.nc", rows_of(marked), title="", recipe=canonical(MADE["measure_tile"]))
    wanted = networks_of(**FIRST | more)
    found = project.results(project.measure("tile", FIRST | more, script=watched.script))
    assert watched.asked[1] == [key for key in wanted if key not in old]
    assert len(watched.asked[1]) < len(wanted) == len(found)
    assert as_text({key: found[key] for key in old}) == as_text(marked)
    alone = project.results(project.measure("alone", FIRST | more))
    new = watched.asked[1]
    assert as_text({key: found[key] for key in new}) == as_text({key: alone[key] for key in new})


def test_a_tile_is_what_its_networks_become_at_the_accuracy_of_the_recipe(project):
    found = project.results(project.measure("tile", FIRST))
    networks = [TwoLayer(*key) for key in networks_of(**FIRST)]
    trained = integrate(networks, with_bias(X), Y, accuracy=Accuracy(**EXACTNESS))
    expected = {key: tile_files.measures_of(result) for key, result in zip(networks_of(**FIRST), trained, strict=True)}
    assert as_text(found) == as_text(expected)
    assert {measures["evaluations"] for measures in found.values()} != {1}


def test_a_tile_that_has_all_computes_nothing(project, watched):
    path = project.measure("tile", FIRST, script=watched.script)
    before = read_dataset(path, recipe=MADE["measure_tile"])
    project.measure("tile", FIRST, script=watched.script)
    assert list(map(len, watched.asked)) == [4, 0]
    after = read_dataset(path, recipe=MADE["measure_tile"])
    xr.testing.assert_identical(after.drop_attrs(deep=False), before.drop_attrs(deep=False))


def test_a_tile_that_shrinks_holds_only_what_is_wanted(project, watched):
    project.measure("tile", FIRST, script=watched.script)
    found = project.results(project.measure("tile", FIRST | {"seeds": [3]}, script=watched.script))
    assert sorted(found) == sorted(networks_of(**FIRST | {"seeds": [3]}))
    assert list(map(len, watched.asked)) == [4, 0]


def test_a_tile_that_other_settings_made_or_that_is_damaged_is_computed_anew(project, watched):
    path = project.measure("tile", FIRST, script=watched.script)
    other = make_recipe("measure_tile", EXACTNESS | {"loss_tolerance": 0.5}, "b", data=MADE["prepare_examples"])
    found = project.results(project.measure("tile", FIRST, recipe=other, script=watched.script), other)
    path.write_bytes(path.read_bytes()[:-100])
    again = project.results(project.measure("tile", FIRST, recipe=other, script=watched.script), other)
    assert as_text(again) == as_text(found)
    assert list(map(len, watched.asked)) == [4, 4, 4]


def test_a_tile_refuses_examples_that_others_made(project, capsys):
    other = make_recipe("measure_tile", EXACTNESS, "b", data=make_recipe("prepare_examples", {}, "a"))
    with pytest.raises(SystemExit):
        project.measure("tile", FIRST, recipe=other)
    assert "data.nc was made by other settings" in capsys.readouterr().err
    assert not (project.folder / "tile.nc").exists()


@pytest.fixture(scope="module")
def tilings(tmp_path_factory):
    """Files of one map, cut in three ways."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        project = Project(tmp_path_factory.mktemp("map"))
        both = {"widths": MAP["widths"], "seeds": MAP["seeds"]}
        columns = [{**MAP, "gamma": [gamma], "widths": [24, 8], "seeds": [3, 0]} for gamma in reversed(MAP["gamma"])]
        cuts = {
            "ours": [axes | both for axes in tiles(MAP["gamma"], MAP["gamma_prime"]).values()],
            "whole": [MAP],
            "columns": columns,
        }
        files = {
            name: [project.measure(f"{name}{place}", axes) for place, axes in enumerate(parts)]
            for name, parts in cuts.items()
        }
        yield project, files


def test_how_the_map_is_cut_changes_no_bit(tilings):
    _, files = tilings
    recipe = MADE["measure_tile"]
    assert len(files["ours"]) == 6
    grids = [grid_of((read_dataset(path, recipe=recipe) for path in paths), **MAP) for paths in files.values()]
    for grid in grids[1:]:
        xr.testing.assert_identical(grid, grids[0])
        for name in MEASURES:
            assert grid[name].values.tobytes() == grids[0][name].values.tobytes()
    assert len(np.unique(grids[0]["input_distance"])) == 36
    assert (grids[0]["status"] == STATUS.index("converged")).mean() > 0.9  # all but a narrow one that gets stuck


def test_from_tiles_to_regimes(tilings):
    project, files = tilings
    folder = project.folder
    collected = make_recipe("collect_phase_diagram", MAP, "c", tile=MADE["measure_tile"])
    job = project.of("collect_phase_diagram", collected, tiles=list(map(str, files["ours"])))
    project.run("collect_phase_diagram", job, output={"distances": folder / "distances.nc"})
    levels = {"confidence": 0.95, "critical_slope": 0.1}
    fitted = make_recipe("fit_regime", levels, "d", distances=collected)
    job = project.of("fit_regime", fitted, distances=str(folder / "distances.nc"))
    project.run("fit_regime", job, output={"regime": folder / "regime.nc"})
    tile = read_dataset(files["whole"][0], recipe=MADE["measure_tile"])
    expected = fit_regimes(grid_of([tile], **MAP), **levels)
    xr.testing.assert_identical(read_dataset(folder / "regime.nc", recipe=fitted).drop_attrs(deep=False), expected)


def test_the_script_that_records_orientations(tilings):
    project, _ = tilings
    settings = {"points": [{"gamma": 1.5, "gamma_prime": -0.25}], "width": 24, "seed": 3, "accuracy": EXACTNESS}
    recipe = make_recipe("record_orientations", settings, "e", data=MADE["prepare_examples"])
    job = project.of("record_orientations", recipe, data=str(project.folder / "data.nc"))
    project.run("record_orientations", job, output={"orientations": project.folder / "orientations.nc"})
    found = read_dataset(project.folder / "orientations.nc", recipe=recipe).drop_attrs(deep=False)
    accuracy = Accuracy(**EXACTNESS)
    expected = details.details_of_points([(1.5, -0.25)], with_bias(X), Y, width=24, seed=3, accuracy=accuracy)
    xr.testing.assert_identical(found, expected)


def test_the_script_that_prepares_points(project):
    found = read_dataset(project.folder / "data.nc", recipe=MADE["prepare_examples"]).drop_attrs(deep=False)
    xr.testing.assert_identical(found, examples.examples_from_points(X.tolist(), Y.tolist()))


def test_the_script_that_prepares_images(project):
    data = {"source": "embedded_fashion_mnist", "folder": None, "image_size": 4, "grey": True}
    data |= {"train_examples": 20, "test_examples": 10}
    recipe = make_recipe("prepare_examples", {"data": data, "files": "0"}, "a")
    source = SCRIPTS.parent / "resources/fashion_mnist/images.nc"
    job = project.of("prepare_examples", recipe, source=[str(source)])
    project.run("prepare_examples", job, output={"data": project.folder / "images.nc"})
    found = read_dataset(project.folder / "images.nc", recipe=recipe)
    assert found["inputs"].shape == (20, 17)
    assert found["inputs"].values[:, :-1].min() >= 0
    assert 0.5 < found["inputs"].values[:, :-1].max() <= 1
    np.testing.assert_allclose(np.sort(found["targets"].values), np.repeat(np.linspace(-1, 1, 10), 2))
