"""Growth of a perturbation on synthetic distances with known rates: coverage, shape, saturation, verdicts, refusals."""

import math

import numpy as np
import pytest

from twophase.transition.growth import judge_sizes, measure_growth

RATE, SPREAD = 0.1, 0.01


def logistic(rng, *, runs, steps, start, level=1e9, rate=RATE, noise=0.05):
    """d' = rate d (1 - d / level) from ``start``, each run with its own rate."""
    own = rate + SPREAD * abs(rate) / RATE * rng.standard_normal((runs, 1))
    curve = level / (1 + (level / start - 1) * np.exp(-own * np.arange(steps + 1)))
    return curve * np.exp(noise * rng.standard_normal(curve.shape))


def algebraic(rng, *, runs, steps, power, noise=0.05):
    own = 0.3 * (1 + 0.1 * rng.standard_normal((runs, 1)))
    curve = 1e-4 * (1 + own * np.arange(steps + 1)) ** power
    return curve * np.exp(noise * rng.standard_normal(curve.shape))


def grown(distances, **options):
    settings = {"parameter_norm": 10.0, "dtype": np.float64} | options
    rates = settings.pop("learning_rates", np.full(np.shape(distances)[-1] - 1, 0.1))
    return measure_growth(distances, rates, **settings)


@pytest.mark.parametrize("runs", [2, 3, 5, 10])
@pytest.mark.parametrize("saturating", [False, True])
def test_a_known_rate_is_covered(runs, saturating):
    rng = np.random.default_rng([1, runs])
    options = {"steps": 300, "level": 1.0} if saturating else {"steps": 50}
    growths = [grown(logistic(rng, runs=runs, start=1e-6, **options)) for _ in range(400)]
    coverage = np.mean([one.lower <= RATE <= one.upper for one in growths])
    by_rate = np.mean([one.rate_lower <= RATE / 0.1 <= one.rate_upper for one in growths])
    error = math.sqrt(0.09 / len(growths))
    assert 0.85 - 2 * error <= coverage <= 0.95 + 2 * error
    assert by_rate == pytest.approx(coverage, abs=0.01)
    assert np.mean([one.exponent for one in growths]) == pytest.approx(RATE, rel=0.02)
    assert np.mean([one.shape == "exponential" for one in growths]) > 0.9
    if saturating:
        assert np.mean([one.saturation for one in growths]) == pytest.approx(1, rel=0.02)
        assert all(90 < one.last_step < 160 for one in growths)  # d = 0.1 after ln(1e5) / 0.1 = 115 steps
    else:
        assert {one.saturation_reason for one in growths} == {"not reached"}


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_algebraic_growth_is_not_exponential(power):
    rng = np.random.default_rng(2)
    growths = [grown(algebraic(rng, runs=3, steps=200, power=power)) for _ in range(200)]
    assert not any(one.shape == "exponential" for one in growths)
    assert np.mean([one.shape == "slower" for one in growths]) > 0.9
    assert all(one.lower > 0 for one in growths)
    assert not any(math.isfinite(one.saturation) for one in growths)


def test_distances_that_stay_do_not_grow():
    rng = np.random.default_rng(3)
    growths = [grown(1e-2 * np.exp(0.05 * rng.standard_normal((5, 101)))) for _ in range(400)]
    assert np.mean([one.lower > 0 for one in growths]) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)
    assert all(one.shape == "undecided" for one in growths)


def test_a_linear_model_contracts():
    rng = np.random.default_rng(4)
    features = rng.standard_normal((20, 40))
    step = np.eye(40) - 0.02 * features.T @ features / 20
    growths = []
    for size in (1e-6, 1e-4, 1e-2):
        runs = []
        for _ in range(4):
            difference = size * features.T @ rng.standard_normal(20)
            runs.append([np.linalg.norm(difference := step @ difference) for _ in range(61)])
        growths.append(grown(np.array(runs)))
    assert all(one.upper < 0 for one in growths)
    assert judge_sizes([1e-6, 1e-4, 1e-2], growths).verdict == "contracting"


def test_contraction_ends_at_rounding():
    distances = np.maximum(1e-3 * np.exp(-0.5 * np.arange(101)), 1e-15) * np.array([[1.0], [1.1]])
    one = grown(distances)
    assert one.exponent == pytest.approx(-0.5)
    assert one.last_step < 60


def test_the_exponent_by_learning_rate_follows_the_schedule():
    rates = np.where(np.arange(60) < 30, 0.1, 0.01)
    times = np.concatenate([[0], np.cumsum(rates)])
    one = grown(1e-6 * np.exp(2 * times) * np.array([[1.0], [1.2]]), learning_rates=rates)
    assert one.rate_exponent == pytest.approx(2)
    still = grown(1e-6 * np.exp(0.1 * np.arange(11)) * np.ones((2, 1)), learning_rates=np.zeros(10))
    assert still.exponent == pytest.approx(0.1)
    assert math.isnan(still.rate_exponent)


def test_one_run_has_no_interval_and_says_so():
    one = grown(logistic(np.random.default_rng(5), runs=1, steps=50, start=1e-6))
    assert one.exponent == pytest.approx(RATE, abs=0.05)
    assert math.isnan(one.lower)
    assert one.reason == "one run: no interval"
    assert one.shape == "undecided"


def test_draws_of_a_seed_are_one_run():
    distances = logistic(np.random.default_rng(6), runs=4, steps=50, start=1e-6)
    one, apart = grown(distances, groups=["a", "b", "a", "b"]), grown(distances)
    assert (one.runs, apart.runs) == (2, 4)
    assert one.exponents == pytest.approx([apart.exponents[[0, 2]].mean(), apart.exponents[[1, 3]].mean()])


def test_sizes_near_rounding_are_marked():
    distances = logistic(np.random.default_rng(7), runs=3, steps=50, start=1e-6)
    assert grown(distances, dtype=np.float32).near_rounding  # a relative size of 1e-7
    assert not grown(distances, dtype=np.float64).near_rounding
    assert grown(distances).relative_size == pytest.approx(1e-7, rel=0.1)


def test_too_large_a_perturbation_has_no_linear_range():
    one = grown(logistic(np.random.default_rng(8), runs=3, steps=100, start=0.3, level=1.0))
    assert math.isnan(one.exponent)
    assert one.reason.startswith("saturates at once")
    assert one.saturation == pytest.approx(1, rel=0.05)


def test_runs_that_cannot_be_used_are_left_out():
    distances = logistic(np.random.default_rng(9), runs=4, steps=50, start=1e-6)
    distances[1, 7], distances[2] = np.nan, 0
    one = grown(distances)
    assert one.runs == 2
    assert np.isnan(one.exponents).tolist() == [False, True, True, False]
    none = grown(np.zeros((3, 20)))
    assert (none.runs, none.reason) == (0, "no run with distances that are finite and above 0")
    assert grown(np.ones((2, 2))).reason == "fewer than 5 steps in the linear range"


def sizes_of(rng, make, sizes=(1e-6, 1e-5, 1e-4)):
    return judge_sizes(sizes, [grown(make(rng, size)) for size in sizes])


def common(runs, seed=0):
    """The rate of each run, the same at every size."""
    return RATE + 0.01 * np.random.default_rng(seed).standard_normal((runs, 1))


def exponential(rng, size, change=0.0):
    rate = common(5) * (1 + change * np.log10(size / 1e-6))
    return 10 * size * np.exp(rate * np.arange(51) + 0.05 * rng.standard_normal((5, 51)))


def test_verdicts_over_sizes():
    rng = np.random.default_rng(10)
    for _ in range(50):
        assert sizes_of(rng, exponential).verdict == "chaotic"
        assert sizes_of(rng, lambda rng, size: exponential(rng, size, -0.3)).verdict == "sensitive"
        assert sizes_of(rng, lambda rng, size: size * algebraic(rng, runs=5, steps=200, power=1)).verdict == "sensitive"
    short = sizes_of(rng, exponential, (1e-6, 1e-5))
    assert (short.verdict, short.reason) == ("undecided", "the sizes span less than 2 decades")
    still = sizes_of(rng, lambda rng, size: size * np.exp(0.05 * rng.standard_normal((5, 51))))
    assert still.verdict == "undecided"


def test_sizes_near_rounding_or_without_interval_do_not_count():
    rng = np.random.default_rng(11)
    sizes = [1e-7, 1e-5, 1e-4, 1e-3]
    growths = [grown(exponential(rng, size), dtype=np.float32) for size in sizes]
    one = judge_sizes(sizes, growths)
    assert one.verdict == "chaotic"
    assert one.sizes == (1e-5, 1e-4, 1e-3)
    assert "1 of 4 sizes left out" in one.reason
    alone = [grown(exponential(rng, size)[:1]) for size in sizes]
    assert judge_sizes(sizes, alone).reason.startswith("no size has an exponent with an interval")
    assert judge_sizes([], []).verdict == "undecided"


@pytest.mark.parametrize(
    ("distances", "options", "message"),
    [
        (np.ones(5), {"learning_rates": np.ones(4)}, "shape"),
        (np.ones((2, 5)), {"learning_rates": np.ones(5)}, "shape"),
        (np.ones((0, 5)), {}, "shape"),
        (-np.ones((2, 5)), {}, "negative"),
        (np.ones((2, 5)), {"learning_rates": [0.1, np.nan, 0.1, 0.1]}, "Learning rates"),
        (np.ones((2, 5)), {"first": 4}, "first"),
        (np.ones((2, 5)), {"groups": [0]}, "groups"),
        (np.ones((2, 5)), {"parameter_norm": 0}, "parameter_norm"),
        (np.ones((2, 5)), {"confidence": 1.0}, "confidence"),
    ],
)
def test_what_makes_no_sense_is_refused(distances, options, message):
    with pytest.raises(ValueError, match=message):
        grown(distances, **options)


def test_sizes_that_do_not_fit_are_refused():
    one, other = grown(np.ones((2, 20))), grown(np.ones((3, 20)))
    with pytest.raises(ValueError, match="one growth a size"):
        judge_sizes([1e-3, 1e-2], [one, other])
    with pytest.raises(ValueError, match="different"):
        judge_sizes([1e-3, 1e-3], [one, one])
