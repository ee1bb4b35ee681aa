"""Sharpness against full Hessians in float64, closed forms, and gradient descent itself."""

import copy
import logging
import math

import numpy as np
import pytest
import torch
from tiny import ADAMW, DROPOUT, PARTLY_FROZEN, bits, run_settings, tiny_images
from torch import nn
from torch.func import functional_call, hessian
from torch.nn import functional

from twophase import sharpness as module
from twophase.batches import Batches
from twophase.linearized_measures import stable_learning_rate
from twophase.models import build_model
from twophase.sharpness import loss_hessian, sharpness, stability_threshold
from twophase.training import TrainingRun

CONSTANT = {"name": "constant", "warmup": 0}
LOG = logging.getLogger("test_sharpness")
NETWORKS = {
    "batch norm": {"name": "cnn", "depth": 1, "width": 4, "normalization": "batch"},
    "group norm": {"name": "cnn", "depth": 1, "width": 4, "normalization": "group"},
    "two layers": {"name": "mlp", "depth": 1, "width": 3, "normalization": "batch"},
    "partly frozen": PARTLY_FROZEN,
    "attention": {"name": "test_sharpness:attention_network"},
}


class _Attention(nn.Module):
    def __init__(self, pixels, classes):
        super().__init__()
        self.query, self.output = nn.Linear(pixels, pixels), nn.Linear(pixels, classes)

    def forward(self, images):
        rows = images.flatten(1, 2)
        return self.output(functional.scaled_dot_product_attention(self.query(rows), rows, rows).mean(dim=1))


def attention_network(*, image_shape, classes):
    """Its fastest attention has no second derivative."""
    return _Attention(image_shape[2], classes)


class _PlainBatchNorm(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias, self.epsilon = layer.weight, layer.bias, layer.eps

    def forward(self, maps):
        over = [0, *range(2, maps.ndim)]
        shape = (1, -1) + (1,) * (maps.ndim - 2)
        centred = maps - maps.mean(dim=over, keepdim=True)
        scale = (centred.square().mean(dim=over, keepdim=True) + self.epsilon).rsqrt()
        return centred * scale * self.weight.view(shape) + self.bias.view(shape)


def setup(name, *, examples=24, dtype=torch.float64):
    data = tiny_images(train=examples, shape=(1, 4, 4), dtype=dtype)
    run = TrainingRun(data, run_settings(model=NETWORKS[name], dtype=str(dtype).removeprefix("torch.")), seed=1)
    run.advance(3)
    return run.network.train(), data.train_images, data.train_labels


def full_hessian(network, images, labels):
    """(P, P) by torch.func, forward over reverse mode, BatchNorm written out.

    Of PyTorch's own BatchNorm this mode makes (2.13) a matrix that isn't symmetric, and other than finite differences.
    """
    network = copy.deepcopy(network)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            network.set_submodule(name, _PlainBatchNorm(layer))
    free = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in free.values()]

    def loss(vector):
        parts = [part.view(p.shape) for part, p in zip(vector.split(sizes), free.values(), strict=True)]
        return functional.cross_entropy(
            functional_call(network, dict(zip(free, parts, strict=True)), (images,)), labels
        )

    return hessian(loss)(torch.cat([p.flatten() for p in free.values()])).numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_products_and_eigenvalue_are_those_of_the_full_hessian(name):
    network, images, labels = setup(name)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        full = full_hessian(network, images, labels)
    operator = loss_hessian(network, images, labels)
    found = np.stack([operator.matvec(column) for column in np.eye(len(full))], axis=1)
    np.testing.assert_allclose(found, full, rtol=0, atol=1e-12 * abs(full).max())
    largest, products = sharpness(network, images, labels, seed=3)
    assert largest == pytest.approx(np.linalg.eigvalsh(full)[-1], rel=1e-4)
    assert 2 <= products <= 100


def test_single_precision_finds_the_same():
    network, images, labels = setup("batch norm", dtype=torch.float32)
    expected = np.linalg.eigvalsh(full_hessian(network.double(), images.double(), labels))[-1]
    assert sharpness(network.float(), images, labels, seed=3)[0] == pytest.approx(expected, rel=1e-4)


def test_the_algebraically_largest_is_taken():
    """Whatever lies below zero, however far."""
    network, images, labels = setup("two layers")
    other = labels.roll(1)  # a bad fit bends downwards too
    eigenvalues = np.linalg.eigvalsh(full_hessian(network, images, other))
    assert eigenvalues[0] < -1e-3
    assert sharpness(network, images, other, seed=0)[0] == pytest.approx(eigenvalues[-1], rel=1e-4)


def test_of_a_linear_network_at_zero_in_closed_form():
    """H = (I - 11^T / K) / K (x) X^T X / n, as all K classes are as likely."""
    classes, images = 4, tiny_images(train=30, shape=(1, 3, 3), dtype=torch.float64).train_images
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, classes, bias=False)).double().train()
    nn.init.zeros_(network[1].weight)
    inputs = images.flatten(1).numpy()
    expected = np.linalg.eigvalsh(inputs.T @ inputs / len(inputs))[-1] / classes
    found = sharpness(network, images, torch.arange(30) % classes, seed=0)[0]
    assert found == pytest.approx(expected, rel=1e-5)


def test_dropout_is_drawn_once_and_the_same_every_time():
    data = tiny_images(dtype=torch.float64)
    network = build_model(DROPOUT | {"arguments": {}}, image_shape=(1, 8, 8), classes=4).double().train()
    before = torch.get_rng_state()
    first, second = (sharpness(network, data.train_images, data.train_labels, seed=1) for _ in range(2))
    assert first == second
    assert sharpness(network, data.train_images, data.train_labels, seed=2)[0] != first[0]
    assert torch.equal(torch.get_rng_state(), before)
    products = loss_hessian(network, data.train_images, data.train_labels)
    one, other = (np.eye(products.shape[0])[index] for index in (0, 40))
    assert other @ products.matvec(one) == pytest.approx(one @ products.matvec(other), rel=1e-9, abs=1e-14)


def test_what_does_not_converge_is_nan_and_a_warning(monkeypatch, caplog):
    network, images, labels = setup("batch norm")
    monkeypatch.setattr(module, "TOLERANCE", 1e-15)
    monkeypatch.setattr(module, "LANCZOS_VECTORS", 3)
    monkeypatch.setattr(module, "MOST_RESTARTS", 1)
    largest, products = sharpness(network, images, labels, seed=0, log=LOG)
    assert math.isnan(largest)
    assert products > 1
    assert f"no sharpness after {products} products" in caplog.text


def test_an_infinite_loss_has_no_sharpness(caplog):
    network, images, labels = setup("two layers")
    next(network.parameters()).data[:] = torch.nan
    assert math.isnan(sharpness(network, images, labels, seed=0, log=LOG)[0])
    assert "no sharpness after" in caplog.text


def test_evaluation_mode_is_refused():
    network, images, labels = setup("batch norm")
    with pytest.raises(ValueError, match=r"needs network\.train\(\)"):
        loss_hessian(network.eval(), images, labels)


def test_the_loss_is_that_of_training():
    """On one of the run's batches the gradient that is differentiated is the one that training takes."""
    data, settings = tiny_images(dtype=torch.float64), run_settings(dtype="float64")
    network = TrainingRun(data, settings, 0).network.train()
    images, labels = Batches(data, 0, batch_size=8, crop_padding=1, horizontal_flip=True)(0)
    parameters = list(network.parameters())
    step, direction = 1e-5, [torch.randn_like(p, generator=torch.Generator().manual_seed(0)) for p in parameters]
    gradients = []
    for sign in (1, -1):
        moved = copy.deepcopy(network)
        with torch.no_grad():
            for p, along in zip(moved.parameters(), direction, strict=True):
                p.add_(along, alpha=sign * step)
        functional.cross_entropy(moved(images), labels).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in moved.parameters()]))
    expected = (gradients[0] - gradients[1]) / (2 * step)
    vector = torch.cat([along.flatten() for along in direction]).numpy()
    found = loss_hessian(network, images, labels).matvec(vector)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-6 * abs(found).max())


# The threshold


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_descent_on_a_quadratic_is_stable_below_the_threshold_and_not_above(momentum, nesterov):
    if nesterov and not momentum:
        return
    optimizer = {"name": "sgd", "learning_rate": 0.1, "momentum": momentum, "nesterov": nesterov}
    threshold = stability_threshold(0, optimizer, CONSTANT)
    for factor, grows in ((0.98, False), (1.02, True)):
        theta = nn.Parameter(torch.ones(1, dtype=torch.float64))
        descent = torch.optim.SGD([theta], lr=0.1, momentum=momentum, nesterov=nesterov)
        for _ in range(2000):
            theta.grad = factor * threshold * theta.detach()
            descent.step()
        assert (abs(theta.item()) > 1) == grows
        assert grows or abs(theta.item()) < 1e-3


def test_the_threshold_follows_the_schedule_and_the_stable_learning_rate():
    optimizer = {"name": "sgd", "learning_rate": 0.2, "momentum": 0.9, "nesterov": False}
    schedule = {"name": "milestones", "warmup": 4, "milestones": [10], "factor": 0.1}
    found = [stability_threshold(step, optimizer, schedule) for step in (0, 4, 10)]
    np.testing.assert_allclose(found, [3.8 / 0.05, 3.8 / 0.2, 3.8 / 0.02], rtol=1e-12)
    curvature = 2 * found[1]  # of the kernel, of which the loss has at most half
    for nesterov in (False, True):
        same = optimizer | {"nesterov": nesterov}
        curvature = 2 * stability_threshold(4, same, schedule)
        assert stable_learning_rate(curvature, same) == pytest.approx(0.2)
    cosine = {"name": "cosine", "warmup": 0, "length": 10}
    assert stability_threshold(10, optimizer, cosine) == math.inf
    assert math.isnan(stability_threshold(0, ADAMW, CONSTANT))


def test_a_measured_network_keeps_its_parameters():
    network, images, labels = setup("batch norm")
    before = bits([p.detach().clone() for p in network.parameters()])
    sharpness(network, images, labels, seed=0)
    assert bits([p.detach() for p in network.parameters()]) == before
