import pytest
import torch

from twophase.config import SGD, AdamW
from twophase.optimizers import build_optimizer


def _trajectory(settings, gradients, start, rates):
    theta = start.clone().requires_grad_()
    optimizer = build_optimizer(settings, [theta])
    for gradient, rate in zip(gradients, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        theta.grad = gradient.clone()
        optimizer.step()
    return theta.detach()


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, generator=generator, dtype=torch.float64)
    return torch.randn(4, 5, generator=generator, dtype=torch.float64), start, [0.1, 0.1, 0.05, 0.01]


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_is_the_plain_formula(problem, momentum, nesterov):
    gradients, theta, rates = problem
    settings = SGD(momentum=momentum, nesterov=nesterov, weight_decay=1e-2).model_dump()
    result = _trajectory(settings, gradients, theta, rates)
    velocity = torch.zeros_like(theta)
    for gradient, rate in zip(gradients, rates, strict=True):
        decayed = gradient + 1e-2 * theta
        velocity = momentum * velocity + decayed
        theta = theta - rate * (decayed + momentum * velocity if nesterov else velocity)
    torch.testing.assert_close(result, theta, rtol=1e-12, atol=0)


def test_adamw_is_the_plain_formula(problem):
    gradients, theta, rates = problem
    settings = AdamW(name="adamw", beta1=0.8, beta2=0.95, epsilon=1e-6, weight_decay=0.1).model_dump()
    result = _trajectory(settings, gradients, theta, rates)
    mean, square = torch.zeros_like(theta), torch.zeros_like(theta)
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        theta = theta * (1 - rate * 0.1)
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        theta = theta - rate * (mean / (1 - 0.8**step)) / ((square / (1 - 0.95**step)).sqrt() + 1e-6)
    torch.testing.assert_close(result, theta, rtol=1e-12, atol=0)


def test_base_learning_rate():
    optimizer = build_optimizer(SGD(learning_rate=0.3).model_dump(), [torch.zeros(1, requires_grad=True)])
    assert [group["lr"] for group in optimizer.param_groups] == [0.3]


def test_unknown_name():
    with pytest.raises(ValueError, match="sgd or adamw, got 'lion'"):
        build_optimizer({"name": "lion"}, [torch.zeros(1, requires_grad=True)])
