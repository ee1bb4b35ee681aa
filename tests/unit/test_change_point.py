"""The transition step on synthetic curves with known answers: bias, coverage, false transitions, refusals."""

import math

import numpy as np
import pytest

from twophase.transition.change_point import compare, find_transition

EVEN = {n: np.linspace(0, 600, n) for n in (6, 10, 20)}
LOG = {n: np.concatenate([[0], np.geomspace(5, 600, n - 1)]) for n in (6, 10, 20)}
REPETITIONS = 250


def over(x, transform):
    return np.log1p(x / x[1]) if transform == "log" else x


def back(u, x, transform):
    return np.expm1(u) * x[1] if transform == "log" else u


def hinges(rng, x, *, seeds, tau, spread=0.0, noise=0.0, transform="linear"):
    """Curves that fall by about 1 to a plateau; ``tau`` and its ``spread`` over seeds in units of u, as amplitudes."""
    u = over(x, transform)
    own = tau + spread * rng.standard_normal((seeds, 1))
    slope = (1 + 0.2 * rng.standard_normal((seeds, 1))) / (tau - u[0])
    level = 0.1 * rng.standard_normal((seeds, 1))
    return level - slope * np.minimum(u - own, 0) + noise * rng.standard_normal((seeds, len(x)))


# seeds, positions, transform, noise as a share of the fall, transition in cells, its spread over seeds in cells
DESIGNS = [
    (3, 6, "linear", 0.02, 3.0, 0.0),
    (3, 6, "linear", 0.02, 2.5, 0.3),
    (3, 10, "linear", 0.05, 5.0, 0.0),
    (3, 10, "log", 0.02, 4.5, 0.3),
    (3, 20, "linear", 0.05, 9.5, 0.3),
    (5, 6, "log", 0.02, 3.0, 0.3),
    (5, 10, "linear", 0.05, 4.5, 0.3),
    (5, 20, "log", 0.1, 10.0, 0.3),
    (10, 6, "linear", 0.05, 3.0, 0.0),
    (10, 10, "log", 0.05, 4.5, 0.3),
    (10, 20, "linear", 0.1, 9.5, 0.3),
]


@pytest.mark.parametrize(("seeds", "n", "transform", "noise", "cell", "spread"), DESIGNS)
def test_intervals_cover_and_steps_are_unbiased(seeds, n, transform, noise, cell, spread):
    x = (LOG if transform == "log" else EVEN)[n]
    u = over(x, transform)
    width = np.diff(u).mean()
    tau = np.interp(cell, np.arange(n), u)
    truth = back(tau, x, transform)
    rng = np.random.default_rng([7, seeds, n])
    found = []
    for _ in range(REPETITIONS):
        curves = hinges(rng, x, seeds=seeds, tau=tau, spread=spread * width, noise=noise, transform=transform)
        found.append(find_transition(x, curves, confidence=0.9, transform=transform))
    found = [one for one in found if one.found]
    assert len(found) > 0.5 * REPETITIONS
    coverage = np.mean([one.lower <= truth <= one.upper for one in found])
    error = math.sqrt(0.9 * 0.1 / len(found))
    assert 0.85 - 2 * error <= coverage <= 0.95 + 2 * error
    bias = np.mean(over(np.array([0, x[1], *(one.step for one in found)]), transform)[2:] - tau)
    assert abs(bias) < 0.1 * width


NULLS = {
    "constant": lambda rng, place, amplitude: np.zeros_like(amplitude * place),
    "straight line": lambda rng, place, amplitude: amplitude * place,
    "random walk": lambda rng, place, amplitude: 0.3 * np.cumsum(rng.standard_normal((len(amplitude), place.size)), 1),
    "drifting walk": lambda rng, place, amplitude: (
        place + 0.1 * np.cumsum(rng.standard_normal((len(amplitude), place.size)), 1)
    ),
    "decay, 61 % left": lambda rng, place, amplitude: amplitude * np.exp(-0.5 * place) / 0.39,
    "decay, 37 % left": lambda rng, place, amplitude: amplitude * np.exp(-place) / 0.63,
    "decay, 5 % left": lambda rng, place, amplitude: amplitude * np.exp(-3 * place),
    "late onset": lambda rng, place, amplitude: amplitude * np.maximum(place - 0.6, 0) / 0.4,
}


@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize("noise", [0.03, 0.3])
def test_null_curves_have_no_transition(name, noise):
    rng = np.random.default_rng([11, len(name)])
    found = 0
    repetitions = 80
    designs = [(3, EVEN[10]), (5, EVEN[6]), (5, LOG[10]), (10, EVEN[20])]
    for seeds, x in designs:
        for _ in range(repetitions):
            amplitude = 1 + 0.2 * rng.standard_normal((seeds, 1))
            curves = NULLS[name](rng, x / x[-1], amplitude) + noise * rng.standard_normal((seeds, len(x)))
            one = find_transition(x, curves)
            found += one.found
            assert one.found or (one.reason and math.isnan(one.step) and math.isnan(one.lower))
    share = len(designs) * repetitions
    assert found / share <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / share)


def test_exact_curves_give_the_exact_step_rising_or_falling():
    x = np.array([0, 5, 20, 60, 150, 300, 600.0])
    for tau in (20, 60, 97.3, 250):
        for sign in (1, -1):
            curves = 2 + sign * np.array([[1.5], [2.0], [2.5]]) * np.minimum(x - tau, 0)
            one = find_transition(x, curves)
            assert one.found
            assert not one.reason
            assert one.step == pytest.approx(tau, abs=1e-6)
            assert one.level == pytest.approx(2)
            assert one.change == pytest.approx(-2 * sign * tau)
            assert one.seed_steps == pytest.approx([tau] * 3)


def test_the_fit_is_the_least_squares_one():
    rng = np.random.default_rng(0)
    x = LOG[10]
    fine = np.linspace(x[1], x[-2], 20_001)
    for _ in range(20):
        curves = hinges(rng, x, seeds=3, tau=150, spread=30, noise=0.03)
        one = find_transition(x, curves)
        for row, step in zip(curves, one.seed_steps, strict=True):
            if one.found:
                assert residual(x, row, step) <= min(residual(x, row, tau) for tau in fine[::40]) + 1e-12


def residual(x, row, tau):
    design = np.stack([np.ones_like(x), np.minimum(x - tau, 0)], axis=1)
    return float(np.sum((row - design @ np.linalg.lstsq(design, row)[0]) ** 2))


def test_a_logarithmic_grid_is_fitted_in_its_logarithm():
    x = LOG[10]
    curves = np.array([[1.0], [1.1], [0.9]]) * -np.minimum(np.log1p(x / 5) - np.log1p(80 / 5), 0)
    assert find_transition(x, curves, transform="log").step == pytest.approx(80)
    positive = x[1:]
    curves = np.array([[1.0], [1.1], [0.9]]) * -np.minimum(np.log(positive / 80), 0)
    assert find_transition(positive, curves, transform="log").step == pytest.approx(80)


def test_the_answer_does_not_depend_on_units():
    x = EVEN[10]
    curves = hinges(np.random.default_rng(1), x, seeds=5, tau=250, spread=20, noise=0.03)
    one, other = find_transition(x, curves), find_transition(10 * x, 3 - 1e-6 * curves)
    assert one.found
    assert other.found
    assert [other.step, other.lower, other.upper] == pytest.approx([10 * one.step, 10 * one.lower, 10 * one.upper])


def test_one_seed_has_no_interval_and_says_so():
    one = find_transition(EVEN[10], hinges(np.random.default_rng(2), EVEN[10], seeds=1, tau=250))
    assert (one.found, one.reason, one.seeds) == (False, "one seed: no interval", 1)
    assert math.isnan(one.step)


def test_missing_values_and_seeds_are_left_out():
    rng = np.random.default_rng(3)
    x = EVEN[10]
    curves = hinges(rng, x, seeds=6, tau=250, spread=15, noise=0.02)
    whole = find_transition(x, curves[:5])
    curves[5] = np.nan
    curves[0, 7] = curves[3, 2] = np.nan
    one = find_transition(x, curves)
    assert one.found
    assert one.seeds == 5
    assert np.isnan(one.seed_steps).tolist() == [False] * 5 + [True]
    assert one.step == pytest.approx(whole.step, abs=15)
    assert find_transition(x, np.full((3, 10), np.nan)).reason == "no seed with enough values"


@pytest.mark.parametrize("value", [0.0, 0.1, -3e8])
def test_constant_curves_are_constant_up_to_rounding(value):
    curves = np.full((4, 10), value) * (1 + 1e-16 * np.arange(10))
    assert find_transition(EVEN[10], curves).reason.startswith("constant in 4 of 4 seeds")


def test_seeds_without_a_change_leave_none():
    curves = hinges(np.random.default_rng(4), EVEN[10], seeds=5, tau=250)
    curves[2] = 0
    assert find_transition(EVEN[10], curves).reason.startswith("constant in 1 of 5 seeds")


def test_few_positions_have_no_transition():
    for n in (1, 2, 3):
        one = find_transition(np.arange(n), np.random.default_rng(5).standard_normal((3, n)))
        assert not one.found
        assert one.reason == f"{n} steps: fewer than 4"
    four = np.array([0.0, 20, 60, 150])
    one = find_transition(four, np.array([[1.0], [1.1], [0.9]]) * np.maximum(1 - four / 40, 0))
    assert one.step == pytest.approx(40)


def test_a_noise_floor_rules_out_smaller_changes():
    curves = hinges(np.random.default_rng(6), EVEN[10], seeds=5, tau=250, noise=0.01)
    assert find_transition(EVEN[10], curves, noise_floor=0.2).found
    assert find_transition(EVEN[10], curves, noise_floor=2.0).reason == "no change beyond the noise floor of 2"
    assert find_transition(EVEN[10], 1 - curves, noise_floor=0.2).found


@pytest.mark.parametrize(
    ("positions", "values", "options", "message"),
    [
        ([0, 2, 1, 3], np.ones((2, 4)), {}, "increase"),
        ([0, 1, 1, 3], np.ones((2, 4)), {}, "increase"),
        ([0, 1, np.nan, 3], np.ones((2, 4)), {}, "finite"),
        ([0, 1, 2, 3], np.ones(4), {}, "shape"),
        ([0, 1, 2], np.ones((2, 4)), {}, "shape"),
        ([0, 1, 2, 3], np.full((2, 4), np.inf), {}, "infinity"),
        ([0, 1, 2, 3], np.ones((2, 4)), {"confidence": 90}, "confidence"),
        ([0, 1, 2, 3], np.ones((2, 4)), {"noise_floor": -1}, "noise_floor"),
        ([0, 1, 2, 3], np.ones((2, 4)), {"transform": "root"}, "transform"),
        ([-1, 1, 2, 3], np.ones((2, 4)), {"transform": "log"}, "negative"),
    ],
)
def test_what_makes_no_sense_is_refused(positions, values, options, message):
    with pytest.raises(ValueError, match=message):
        find_transition(positions, values, **options)


def pair(rng, seeds, gap, noise=0.02):
    """Transitions of two curves of the same seeds, whose own steps vary together."""
    x = EVEN[20]
    own = 250 + 40 * rng.standard_normal((seeds, 1))
    both = [np.maximum(own + shift - x, 0) / 250 for shift in (0, gap)]
    return [find_transition(x, curve + noise * rng.standard_normal((seeds, 20))) for curve in both]


def test_the_difference_of_two_transitions_is_covered():
    rng = np.random.default_rng(8)
    compared = [compare(*pair(rng, 5, 60)) for _ in range(250)]
    compared = [one for one in compared if one.seeds == 5]
    coverage = np.mean([one.lower <= -60 <= one.upper for one in compared])
    error = math.sqrt(0.09 / len(compared))
    assert len(compared) > 200
    assert 0.85 - 2 * error <= coverage <= 0.95 + 2 * error


def test_transitions_are_apart_together_or_undecided():
    rng = np.random.default_rng(9)
    far, near = pair(rng, 5, 120), pair(rng, 5, 0)
    assert compare(*far).verdict == "apart"
    assert compare(*far, tolerance=300).verdict == "together"
    assert compare(*near).verdict == "undecided"
    assert compare(*near, tolerance=60).verdict == "together"
    assert compare(near[0], near[0]).difference == 0
    none = find_transition(EVEN[20], rng.standard_normal((5, 20)))
    one = compare(near[0], none)
    assert one.verdict == "undecided"
    assert none.reason in one.reason
    assert math.isnan(one.difference)


def test_transitions_of_other_seeds_are_not_compared():
    rng = np.random.default_rng(10)
    with pytest.raises(ValueError, match="seed by seed; got 5 and 4"):
        compare(pair(rng, 5, 0)[0], pair(rng, 4, 0)[0])
    with pytest.raises(ValueError, match="tolerance"):
        compare(*pair(rng, 3, 0), tolerance=-1)
