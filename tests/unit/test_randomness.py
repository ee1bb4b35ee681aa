import itertools
import random

import numpy as np
import pytest
import torch

from twophase.randomness import Source, numpy_generator, random_order, spawned_sequence, torch_seed

KEYS = [(), (0,), (1,), (0, 0), (0, 1), (1, 0)]


def test_the_values_of_sources_never_change():
    assert {source.name: source.value for source in Source} == {
        "INITIALISATION": 0,
        "BATCH_ORDER": 1,
        "AUGMENTATION": 2,
        "PERTURBATION": 3,
        "NETWORK": 4,
        "GRADIENT_NOISE": 5,
    }


@pytest.mark.parametrize("source", Source)
def test_a_seed_is_spawned_not_added(source):
    plain = np.random.SeedSequence(entropy=3, spawn_key=(source.value, 5, 2))
    assert spawned_sequence(3, source, 5, 2).state == plain.state
    expected = np.random.Generator(np.random.PCG64(plain)).random(4)
    np.testing.assert_array_equal(numpy_generator(3, source, 5, 2).random(4), expected)
    assert torch_seed(3, source, 5, 2) == int(plain.generate_state(1, np.uint64)[0]) // 2


def test_seeds_sources_and_positions_all_give_other_numbers():
    seeds = [torch_seed(seed, *rest) for seed, rest in _places()]
    draws = [numpy_generator(seed, *rest).random() for seed, rest in _places()]
    assert len(set(seeds)) == len(set(draws)) == 3 * len(Source) * len(KEYS)
    assert all(0 <= seed < 2**63 for seed in seeds)


def _places():
    return [(seed, (source, *key)) for seed, source, key in itertools.product(range(3), Source, KEYS)]


def test_numbers_that_are_part_of_every_result():
    assert torch_seed(0, Source.INITIALISATION) == 4_334_430_513_956_379_144
    assert random_order(6, spawned_sequence(0, Source.BATCH_ORDER, 0)).tolist() == [4, 1, 3, 2, 5, 0]


def test_a_random_order_is_a_permutation_and_every_place_is_as_likely():
    orders = np.array([random_order(5, spawned_sequence(seed, Source.BATCH_ORDER, 0)) for seed in range(2000)])
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(5), (2000, 1)))
    for place in range(5):
        counts = np.bincount(orders[:, place], minlength=5)
        assert abs(counts - 400).max() < 5 * np.sqrt(2000 * 0.2 * 0.8)


def test_global_generators_are_left_as_found():
    def states():
        legacy = np.random.get_state()  # noqa: NPY002
        return random.getstate(), legacy[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    numpy_generator(0, Source.PERTURBATION).random(3)
    torch_seed(0, Source.NETWORK)
    random_order(9, spawned_sequence(0, Source.BATCH_ORDER))
    assert states() == before
