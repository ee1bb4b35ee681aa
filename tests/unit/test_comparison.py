import copy
import math

import numpy as np
import pytest
import torch
from tiny import DROPOUT, bits, run_settings, state_of, tiny_images
from torch import nn
from torch.nn import functional as F

from twophase.comparison import (
    accuracy,
    disagreement_rate,
    distances_while_training,
    interpolation_losses,
    logits_of,
    loss_barrier,
    mean_loss,
    parameter_dissimilarity,
    parameter_distance,
)
from twophase.perturbation import perturb
from twophase.training import TrainingRun, trainable_parameters
from twophase.trajectories import branch_of

POINTS = 5


def _random_parameters(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in ((4, 3, 2), (5,), ())]


def _numbers(parameters):
    return [float(entry) for part in parameters for entry in part.flatten()]


def test_distance_and_dissimilarity_are_their_formulas():
    theta, other = _random_parameters(0), _random_parameters(1)
    a, b = _numbers(theta), _numbers(other)
    distance = math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
    norms = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(y * y for y in b))
    cosine = math.fsum(x * y for x, y in zip(a, b, strict=True)) / norms
    assert parameter_distance(theta, other) == pytest.approx(distance, rel=1e-13)
    assert parameter_dissimilarity(theta, other) == pytest.approx(1 - cosine, rel=1e-12)


def test_equal_parameters_are_exactly_zero_apart():
    theta = _random_parameters(0)
    assert parameter_distance(theta, copy.deepcopy(theta)) == 0.0
    assert parameter_dissimilarity(theta, copy.deepcopy(theta)) == 0.0


def test_dissimilarity_of_opposite_scaled_and_orthogonal_parameters():
    theta = _random_parameters(0, torch.float64)
    assert parameter_dissimilarity(theta, [-part for part in theta]) == pytest.approx(2, rel=1e-14)
    assert parameter_dissimilarity(theta, [3 * part for part in theta]) == pytest.approx(0, abs=1e-30)
    one, other = [torch.tensor([1.0, 0.0]), torch.tensor(0.0)], [torch.tensor([0.0, 0.0]), torch.tensor(2.0)]
    assert parameter_dissimilarity(one, other) == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize("dissimilarity", [1e-4, 1e-12, 1e-20])
def test_a_tiny_dissimilarity_is_accurate(dissimilarity):
    angle = 2 * math.asin(math.sqrt(dissimilarity / 2))  # 1 - cos(angle)
    one = [torch.tensor([3.0, 0.0], dtype=torch.float64)]
    other = [torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)]
    assert parameter_dissimilarity(one, other) == pytest.approx(dissimilarity, rel=1e-9, abs=0)


def test_a_tiny_distance_is_accurate():
    theta = [torch.full((1000,), 100.0, dtype=torch.float64)]
    assert parameter_distance(theta, [theta[0] + 2.0**-30]) == pytest.approx(
        2.0**-30 * math.sqrt(1000), rel=1e-12, abs=0
    )


def test_loss_accuracy_and_disagreement_are_their_formulas():
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 50, 4, generator=generator)
    labels = torch.arange(50) % 4
    rows, rows_other = logits.double().tolist(), other.double().tolist()
    losses = [math.log(math.fsum(map(math.exp, row))) - row[label] for row, label in zip(rows, labels, strict=True)]
    classes, classes_other = ([row.index(max(row)) for row in table] for table in (rows, rows_other))
    right = sum(a == int(b) for a, b in zip(classes, labels, strict=True))
    different = sum(a != b for a, b in zip(classes, classes_other, strict=True))
    assert 0 < different < 50
    assert mean_loss(logits, labels) == pytest.approx(math.fsum(losses) / 50, rel=1e-13)
    assert accuracy(logits, labels) == right / 50
    assert disagreement_rate(logits, other) == different / 50
    assert disagreement_rate(logits, 2 * logits) == 0.0
    assert disagreement_rate(logits, logits.roll(1, dims=1)) == 1.0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("count", [3, 500, 1001])
def test_logits_are_those_of_evaluation_mode(training, count):
    network = TrainingRun(tiny_images(), run_settings(model=DROPOUT), seed=0).network.train(training)
    images = tiny_images(count).train_images
    before = bits(network.state_dict())
    logits = logits_of(network, images)
    assert network.training is training
    assert bits(network.state_dict()) == before
    assert not logits.requires_grad
    network.eval()
    torch.testing.assert_close(logits, torch.cat([network(image[None]) for image in images]))


@pytest.mark.parametrize(
    ("losses", "barrier"),
    [
        ([1.0, 4.0, 2.0], 2.5),
        ([0.0, 0.5, 3.0, 0.0, 1.0], 2.5),
        ([3.0, 1.0, 2.0], 0.0),  # below its chord: no barrier
        ([2.0, 0.1, 0.5, 4.5, 5.0], 0.25),
        ([0.7] * 11, 0.0),
        ([1.0, 2.0], 0.0),
    ],
)
def test_barrier_of_known_curves(losses, barrier):
    assert loss_barrier(np.array(losses)) == barrier


def test_barrier_of_a_parabola_and_of_a_line():
    a = np.linspace(0, 1, 11)
    assert loss_barrier(1 + 2 * a + 3 * a * (1 - a)) == pytest.approx(0.75, rel=1e-12)
    assert loss_barrier(0.3 + 1.7 * a) == pytest.approx(0, abs=1e-15)
    assert math.isnan(loss_barrier(np.array([1.0, math.nan, 1.0])))


def _two_networks(model=None, dtype=torch.float64, classes=4):
    """Two runs that share nothing but their architecture, each a few steps old, and their images."""
    data = tiny_images(dtype=dtype, classes=classes)
    runs = [TrainingRun(data, run_settings(model=model), seed) for seed in (0, 1)]
    for run in runs:
        run.advance(4)
    return data, *(run.network for run in runs)


def _losses(data, network, other, *, points=POINTS, batches=None):
    return interpolation_losses(
        network,
        other,
        points=points,
        examples={
            "test": (data.test_images, data.test_labels),
            "train": (data.train_images[:12], data.train_labels[:12]),
        },
        batch_norm_batches=list(data.train_images[:24].split(10)) if batches is None else batches,
    )


def _plain_loss(parameters, batches, images, labels):
    """Loss of the convolution, BatchNorm, ReLU, mean, linear network, its statistics those of the batches."""
    kernel, scale, shift, weight, bias = parameters
    hidden = [F.conv2d(batch, kernel, padding=1) for batch in batches]
    mean = torch.stack([maps.mean(dim=(0, 2, 3)) for maps in hidden]).mean(dim=0)
    variance = torch.stack([maps.var(dim=(0, 2, 3), unbiased=True) for maps in hidden]).mean(dim=0)
    maps = F.conv2d(images, kernel, padding=1)
    maps = (maps - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    maps = (maps * scale[:, None, None] + shift[:, None, None]).clamp(min=0)
    logits = maps.mean(dim=(2, 3)) @ weight.T + bias
    return float((logits.logsumexp(dim=1) - logits[torch.arange(len(labels)), labels]).mean())


def test_every_point_of_the_line_has_batch_norm_statistics_of_its_own():
    data, network, other = _two_networks()
    losses = _losses(data, network, other)
    thetas = [list(map(torch.clone, trainable_parameters(net))) for net in (network, other)]
    for point, fraction in enumerate((0, 0.25, 0.5, 0.75, 1)):
        between = [(1 - fraction) * a + fraction * b for a, b in zip(*thetas, strict=True)]
        batches = data.train_images[:24].split(10)
        test = _plain_loss(between, batches, data.test_images, data.test_labels)
        train = _plain_loss(between, batches, data.train_images[:12], data.train_labels[:12])
        assert losses["test"][point] == pytest.approx(test, rel=1e-11)
        assert losses["train"][point] == pytest.approx(train, rel=1e-11)
    kept = mean_loss(logits_of(network, data.test_images), data.test_labels)
    assert abs(losses["test"][0] - kept) > 1e-3  # the network's own statistics would give another loss


def test_the_statistics_take_nothing_from_the_networks_own():
    data, network, other = _two_networks()
    expected = _losses(data, network, other)
    for net in (network, other):
        net[1].running_mean.add_(3)
        net[1].running_var.mul_(5)
        net[1].momentum = 0.7
    losses = _losses(data, network, other)
    for split in expected:
        np.testing.assert_array_equal(losses[split], expected[split])


def test_without_batch_norm_the_ends_are_the_networks_losses():
    model = {"name": "cnn", "depth": 2, "width": 4, "normalization": "group"}
    data, network, other = _two_networks(model)
    losses = _losses(data, network, other)["test"]
    for end, net in ((0, network), (-1, other)):
        assert losses[end] == mean_loss(logits_of(net, data.test_images), data.test_labels)
    middle = copy.deepcopy(network)
    with torch.no_grad():
        for mid, a, b in zip(middle.parameters(), network.parameters(), other.parameters(), strict=True):
            mid.copy_((a + b) / 2)
    expected = mean_loss(logits_of(middle, data.test_images), data.test_labels)
    assert losses[POINTS // 2] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_the_two_networks_are_not_changed(training):
    data, network, other = _two_networks(DROPOUT)
    for net in (network, other):
        net.train(training)
    before = [bits(net.state_dict()) for net in (network, other)]
    random_state = torch.get_rng_state()
    _losses(data, network, other)
    assert [bits(net.state_dict()) for net in (network, other)] == before
    assert [net.training for net in (network, other)] == [training] * 2
    assert [net[2].momentum for net in (network, other)] == [0.1] * 2
    assert torch.equal(torch.get_rng_state(), random_state)


def test_dropout_makes_no_difference_to_a_repetition():
    data, network, other = _two_networks(DROPOUT)
    first = _losses(data, network, other)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        again = _losses(data, network, other)
    np.testing.assert_array_equal(first["test"], again["test"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_network_has_no_barrier(dtype):
    data, network, _ = _two_networks(dtype=dtype)
    losses = _losses(data, network, copy.deepcopy(network), points=11)
    expected = _losses(data, network, _shifted(network), points=2)
    for split in losses:
        assert losses[split].shape == (11,)
        assert set(losses[split]) == {losses[split][0]} == {expected[split][0]}
        assert loss_barrier(losses[split]) == 0.0


def _shifted(network):
    other = copy.deepcopy(network)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    return other


def test_two_equivalent_networks_have_a_barrier():
    """Hidden units in another order: the same function, and yet no straight path of low loss."""
    data = tiny_images(200, dtype=torch.float64)
    settings = run_settings(model={"name": "mlp", "depth": 1, "width": 8, "normalization": "none"})
    run = TrainingRun(data, settings | {"crop_padding": 0, "horizontal_flip": False}, seed=0)
    run.advance(150)
    other = copy.deepcopy(run.network)
    hidden, output = (layer for layer in other if isinstance(layer, nn.Linear))
    order = torch.arange(8).roll(1)
    with torch.no_grad():
        for part in (hidden.weight, hidden.bias):
            part.copy_(part[order])
        output.weight.copy_(output.weight[:, order])
    losses = _losses(data, run.network, other, points=11)["test"]
    assert losses[0] == pytest.approx(losses[-1], rel=1e-12)
    assert loss_barrier(losses) > 0.05


@pytest.mark.parametrize("norm", [0.0, 0.1])
def test_distances_while_training_are_those_of_runs_trained_apart(norm):
    data, settings = tiny_images(), run_settings()

    def pair():
        runs = [TrainingRun(data, settings, seed=0) for _ in range(2)]
        for run in runs:
            run.advance(3)
        perturb(runs[1], branch_of("gaussian", norm, 0, 3))
        return runs

    told = []
    together = pair()
    distances = distances_while_training(*together, 6, progress=told.append)
    assert told == [1, 2, 3, 4, 5, 6]
    assert distances.shape == (7,)
    assert distances.dtype == np.float64
    for after, distance in enumerate(distances):
        apart = pair()
        for run in apart:
            run.advance(3 + after)
        assert distance == parameter_distance(*(trainable_parameters(run.network) for run in apart))
        assert (distance == 0.0) == (norm == 0.0)
    assert [state_of(run) for run in together] == [state_of(run) for run in apart]
