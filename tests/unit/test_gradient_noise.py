"""Signal and noise of gradients against stacked gradients, known noise, and the enumeration of all batches."""

import itertools

import numpy as np
import pytest
import torch
from tiny import DROPOUT, PARTLY_FROZEN, bits, run_settings, tiny_images
from torch import nn
from torch.nn import functional

from twophase.batches import Batches
from twophase.gradient_noise import batch_gradients, signal_and_noise
from twophase.models import build_model
from twophase.randomness import Source, torch_seed
from twophase.training import TrainingRun

SHAPES = [(3, 2), (5,), ()]


def random_gradients(count, *, mean=0.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [[mean + torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES] for _ in range(count)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [2, 7])
def test_streamed_sums_are_those_of_stacked_gradients(count, dtype):
    gradients = random_gradients(count, mean=1e4, dtype=dtype)  # nearly all signal: cancellation would show
    found = signal_and_noise(iter(gradients))
    stacked = np.stack([np.concatenate([part.double().numpy().ravel() for part in parts]) for parts in gradients])
    noise = stacked.var(axis=0, ddof=1).sum()
    squared = np.sum(stacked.mean(axis=0) ** 2)
    expected = {
        "gradient_norm": np.sqrt(squared),
        "gradient_signal": squared - noise / count,
        "gradient_noise": noise,
        "gradient_signal_to_noise": (squared - noise / count) / noise,
    }
    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-12)


@pytest.mark.parametrize("signal", [0.0, 3.0])
def test_signal_and_noise_are_unbiased(signal):
    """Gaussian gradients of known expectation and covariance; the plain |gbar|^2 is far off."""
    scales, batches, draws = np.array([2.0, 1.0, 0.5]), 4, 4000
    mean = np.sqrt(signal) * np.array([0.6, 0.8, 0.0])
    noise = np.random.default_rng(0).standard_normal((draws, batches, 3)) * scales
    found = [signal_and_noise([torch.from_numpy(mean + one)] for one in cell) for cell in noise]
    for name, expected in (("gradient_signal", signal), ("gradient_noise", np.sum(scales**2))):
        values = np.array([one[name] for one in found])
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(draws), name
    squared = np.array([one["gradient_norm"] ** 2 for one in found])
    assert squared.mean() - signal > 20 * squared.std() / np.sqrt(draws)
    if not signal:
        assert 0.3 < np.mean([one["gradient_signal_to_noise"] < 0 for one in found]) < 0.8


def test_equal_gradients_have_no_noise():
    gradient = [torch.tensor([3.0, 4.0])]
    found = signal_and_noise([gradient, gradient])
    assert found == {
        "gradient_norm": 5.0,
        "gradient_signal": 25.0,
        "gradient_noise": 0.0,
        "gradient_signal_to_noise": float("inf"),
    }
    assert np.isnan(signal_and_noise([[torch.zeros(2)]] * 2)["gradient_signal_to_noise"])


@pytest.mark.parametrize("count", [0, 1])
def test_one_gradient_is_refused(count):
    with pytest.raises(ValueError, match=f"at least two gradients, got {count}"):
        signal_and_noise(random_gradients(count))


# Gradients of batches


def prepared(model=None, **training):
    data = tiny_images(dtype=torch.float64)
    settings = run_settings(model=model, dtype="float64", **training)
    run = TrainingRun(data, settings, 1)
    run.advance(2)
    return run.network.train(), data, settings


@pytest.mark.parametrize("model", [None, PARTLY_FROZEN, DROPOUT], ids=["cnn", "partly frozen", "dropout"])
def test_a_gradient_is_that_of_another_runs_first_batch(model):
    network, data, settings = prepared(model)
    found = list(batch_gradients(network, data, settings, seed=1, step=2, batches=3))
    assert len(found) == 3
    for number, gradient in enumerate(found):
        seed = torch_seed(1, Source.GRADIENT_NOISE, 2, number)
        images, labels = Batches(data, seed, batch_size=8, crop_padding=1, horizontal_flip=True)(0)
        torch.manual_seed(torch_seed(seed, Source.NETWORK, 0))  # as the first update of that run
        network.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        parameters = [p for p in network.parameters() if p.requires_grad]
        expected = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        assert bits(gradient) == bits(expected)


def test_batches_differ_between_numbers_steps_and_seeds_and_from_the_runs_own():
    network, data, settings = prepared()
    places = [(1, 2), (1, 3), (2, 2)]
    texts = [
        str(bits(gradient))
        for seed, step in places
        for gradient in batch_gradients(network, data, settings, seed=seed, step=step, batches=3)
    ]
    own = Batches(data, 1, batch_size=8, crop_padding=1, horizontal_flip=True)
    for step in range(6):
        loss = functional.cross_entropy(network(own(step)[0]), own(step)[1])
        texts.append(str(bits(list(torch.autograd.grad(loss, list(network.parameters()))))))
    assert len(set(texts)) == 9 + 6
    again = batch_gradients(network, data, settings, seed=1, step=2, batches=1)
    assert [str(bits(gradient)) for gradient in again] == texts[:1]


def test_the_global_random_state_stays_between_gradients():
    network, data, settings = prepared(DROPOUT)
    before = torch.get_rng_state()
    for _ in batch_gradients(network, data, settings, seed=1, step=2, batches=2):
        assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_mode_is_refused():
    network, data, settings = prepared()
    with pytest.raises(ValueError, match=r"needs network\.train\(\)"):
        next(batch_gradients(network.eval(), data, settings, seed=0, step=0, batches=2))


def test_of_a_linear_network_the_estimates_are_those_of_all_batches():
    """Every batch of 2 of 6 images enumerated: G is the gradient of all, the noise the spread over the 15 batches."""
    data = tiny_images(train=6, shape=(1, 2, 2), classes=3, dtype=torch.float64)
    settings = run_settings(dtype="float64", batch_size=2, crop_padding=0, horizontal_flip=False)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double().train()

    def gradient(indices):
        loss = functional.cross_entropy(network(data.train_images[indices]), data.train_labels[indices])
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(network.parameters()))]).numpy()

    every = np.stack([gradient(list(pair)) for pair in itertools.combinations(range(6), 2)])
    whole = gradient(list(range(6)))
    np.testing.assert_allclose(every.mean(axis=0), whole, atol=1e-14)
    found = [
        signal_and_noise(batch_gradients(network, data, settings, seed=0, step=step, batches=4)) for step in range(600)
    ]
    expected = {"gradient_signal": whole @ whole, "gradient_noise": every.var(axis=0).sum()}
    for name, value in expected.items():
        values = np.array([one[name] for one in found])
        assert abs(values.mean() - value) < 4 * values.std() / np.sqrt(len(values)), name
        assert values.std() / np.sqrt(len(values)) < 0.1 * expected["gradient_noise"]


def test_the_built_in_networks_have_gradients_in_training_mode():
    data = tiny_images(dtype=torch.float64)
    model = {"name": "resnet", "depth": 8, "width": 4, "normalization": "batch"}
    network = build_model(model, image_shape=(1, 8, 8), classes=4).double().train()
    settings = run_settings(model=model, dtype="float64")
    found = signal_and_noise(batch_gradients(network, data, settings, seed=0, step=0, batches=3))
    assert all(np.isfinite(value) for value in found.values())
