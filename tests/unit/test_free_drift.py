import itertools

import numpy as np
import pytest
from kernel_paths import confined, distances_of, geodesic, walk

from twophase.free_drift import (
    confinement,
    distance_exponent,
    drift_ratio,
    free_drift,
    inverse_saturation,
    judge,
    reversal_shares,
    saturating_distance,
)

MOVES = [0.1, 0.02, 0.05, 0.003, 0.04]


@pytest.mark.parametrize("inverse", [-30.0, 0.0, 1e-9, 1.0, 5.0, 40.0])
def test_the_family_is_a_product_over_moves(inverse):
    found = saturating_distance(MOVES, inverse)
    for a, b in itertools.combinations(range(len(MOVES) + 1), 2):
        factors = [1 - min(inverse * move, 1) for move in MOVES[a:b]]
        expected = (1 - np.prod(factors)) / inverse if abs(inverse) > 1e-6 else sum(MOVES[a:b])
        assert found[a, b] == found[b, a] == pytest.approx(expected, rel=1e-6 if 0 < inverse < 1e-6 else 1e-12)
    assert not np.diagonal(found).any()


def test_free_drift_keeps_the_moves_between_neighbours():
    distances = walk(np.random.default_rng(0), 6, 3, length=1)
    np.testing.assert_allclose(np.diagonal(free_drift(distances), 1), np.diagonal(distances, 1), rtol=1e-12)


def test_isotropic_moves_on_a_sphere_reach_p_on_average_however_large():
    random = np.random.default_rng(1)
    cosines, expected = np.cos([0.5, 0.9, 0.2, 0.7]), []
    found = []
    for _ in range(4000):
        points = [np.array([0.0, 0.0, 1.0])]
        for cosine in cosines:
            direction = random.normal(size=3)
            direction -= (direction @ points[-1]) * points[-1]
            points.append(cosine * points[-1] + np.sqrt(1 - cosine**2) * direction / np.linalg.norm(direction))
        found.append(distances_of(np.array(points)))
        expected = free_drift(found[-1])
    np.testing.assert_allclose(np.mean(found, axis=0), expected, atol=0.03)
    assert expected[0, -1] > 0.5, "far from the sum of moves"


@pytest.mark.parametrize("decay", [1, 0.03])
def test_a_walk_in_many_dimensions_reaches_p(decay):
    distances = walk(np.random.default_rng(2), 12, 20_000, length=1.5, decay=decay)
    np.testing.assert_allclose(distances, free_drift(distances), rtol=0.1)
    assert drift_ratio(distances) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("scale", [1, 1e-8])
@pytest.mark.parametrize("inverse", [-20.0, 0.5, 1.0, 9.0])
def test_inverse_saturation_is_found_from_exact_distances(inverse, scale):
    distances = saturating_distance(np.array(MOVES) * scale, inverse / scale)
    assert inverse_saturation(distances) == pytest.approx(inverse / scale, rel=1e-5)
    expected = (inverse / scale - 1) * sum(MOVES) * scale
    assert confinement(distances) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_kernels_equally_far_from_each_other_saturate_at_once():
    distances = 0.03 * (1 - np.eye(6))
    assert inverse_saturation(distances) == pytest.approx(1 / 0.03)
    assert distance_exponent(distances) == pytest.approx(0)


@pytest.mark.parametrize("kernels", [8, 20])
@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_saturation_of_a_confined_path_is_close_to_the_truth(kernels, memory):
    random = np.random.default_rng(3)
    found = [inverse_saturation(confined(random, kernels, 500, memory=memory)) for _ in range(40)]
    assert 1 / np.mean(found) == pytest.approx(0.02, rel=0.08)


def test_distance_exponents_of_known_paths():
    random = np.random.default_rng(4)
    assert distance_exponent(walk(random, 20, 20_000)) == pytest.approx(1, abs=0.05)
    assert distance_exponent(geodesic(20)) == pytest.approx(2, abs=0.05)
    assert distance_exponent(confined(random, 40, 20_000, memory=0.3)) == pytest.approx(0, abs=0.05)


def rates(make, seeds, repetitions):
    verdicts = [judge([make() for _ in range(seeds)], confidence=0.9).verdict for _ in range(repetitions)]
    return {verdict: verdicts.count(verdict) / repetitions for verdict in ("confined", "free", "directed")}


@pytest.mark.parametrize("kernels", [4, 8, 20])
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("decay", [1, 0.01])
def test_free_drift_is_seldom_called_anything_else(seeds, kernels, decay):
    """Nominal 5 % each; of 120 repetitions, 11 % or more come with a chance below 1 % of a rate of 5 %."""
    random = np.random.default_rng([seeds, kernels])
    found = rates(lambda: walk(random, kernels, 30, decay=decay), seeds, 120)
    assert max(found["confined"], found["directed"]) < 0.11


@pytest.mark.parametrize("kernels", [8, 20])
def test_free_drift_in_two_dimensions_is_seldom_called_confined(kernels):
    random = np.random.default_rng(kernels)
    assert rates(lambda: walk(random, kernels, 2), 5, 120)["confined"] < 0.11


def test_free_drift_in_many_dimensions_is_called_free():
    random = np.random.default_rng(5)
    assert rates(lambda: walk(random, 8, 5000), 3, 40)["free"] == 1


@pytest.mark.parametrize(("kernels", "memory", "least"), [(4, 0.0, 0.9), (8, 0.5, 0.9), (20, 0.8, 0.9)])
def test_a_confined_path_is_found(kernels, memory, least):
    random = np.random.default_rng(6)
    found = rates(lambda: confined(random, kernels, 500, memory=memory), 3, 40)
    assert found["confined"] >= least
    assert found["free"] == found["directed"] == 0


def test_one_large_move_is_no_evidence_of_free_drift():
    """With one move that makes up the way, S is near P whatever the motion after it."""
    random = np.random.default_rng(7)
    assert rates(lambda: walk(random, 4, 500, decay=0.001), 3, 40)["free"] <= 0.05


def test_a_geodesic_is_directed():
    paths = [geodesic(8, angle) for angle in (0.2, 0.3, 0.4)]
    assert judge(paths, confidence=0.9).verdict == "directed"
    assert all(inverse_saturation(path) < 0 for path in paths)


def test_jitter_around_a_drifting_mean_is_confined_and_still_grows():
    random = np.random.default_rng(8)
    paths = [confined(random, 20, 2000, saturation=0.01, memory=0, drift=0.2) for _ in range(3)]
    assert judge(paths, confidence=0.9).verdict == "confined"
    assert min(distance_exponent(path) for path in paths) > 0.2


def test_reversals_are_those_of_all_signs():
    random = np.random.default_rng(9)
    moves = 1e-3 * random.normal(size=(4, 3))
    path = distances_of(_path(moves))
    ratios = [
        drift_ratio(distances_of(_path(moves * np.array(s)[:, None]))) for s in itertools.product([1, -1], repeat=4)
    ]
    least, most = reversal_shares([path])
    assert least == pytest.approx(np.mean(np.array(ratios) <= drift_ratio(path) * (1 + 1e-6)), abs=0.02)
    assert most == pytest.approx(np.mean(np.array(ratios) >= drift_ratio(path) * (1 - 1e-6)), abs=0.02)
    assert reversal_shares([path]) == (least, most), "the same each time"


def _path(moves):
    offsets = np.concatenate([np.zeros((1, 3)), np.cumsum(moves, axis=0)])
    return np.concatenate([np.ones((len(offsets), 1)), offsets], axis=1)


def test_too_little_to_judge_by_says_so():
    random = np.random.default_rng(10)
    paths = [confined(random, 8, 50) for _ in range(3)]
    broken = np.full((8, 8), np.nan)
    still = np.zeros((8, 8))
    wanted = [
        ([path[:3, :3] for path in paths], "fewer than 4 late kernels: 3"),
        ([], "fewer than 4 late kernels: 0"),
        (paths[:1], "one seed: no interval"),
        ([paths[0], broken], r"one seed: no interval (1 of 2 seeds left out: not finite)"),
        ([broken, broken], "no seed whose late kernels are finite"),
        ([still] * 3, "kernels don't move"),
        ([still + 1e-16] * 3, "kernels don't move"),
        ([paths[0], still], "kernels don't move in 1 of 2 seeds"),
        ([saturating_distance([0.1, 0, 0], 1)] * 2, "no two late moves in one of the seeds"),
    ]
    for given, reason in wanted:
        found = judge(given, confidence=0.9)
        assert (found.verdict, found.reason) == ("undecided", reason)


def test_what_cannot_be_had_is_not_a_number():
    for measure in (drift_ratio, inverse_saturation, confinement, distance_exponent):
        for distances in (np.zeros((5, 5)), np.full((5, 5), np.nan), geodesic(3), np.zeros((0, 0))):
            assert np.isnan(measure(distances))


def test_seeds_that_agree_but_moves_too_few_to_tell_are_undecided():
    """Two seeds of three moves have 16 different reversals: a share below 5 % can't be."""
    paths = [0.03 * (1 - np.eye(4)), 0.031 * (1 - np.eye(4))]
    found = judge(paths, confidence=0.9)
    assert found.verdict == "undecided"
    assert "says confined, but moves reversed at random get no further in 6" in found.reason


def test_a_level_that_is_none_is_refused():
    with pytest.raises(ValueError, match="confidence"):
        judge([geodesic(5)] * 2, confidence=1)
