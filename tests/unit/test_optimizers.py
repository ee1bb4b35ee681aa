import pytest
import torch

from twophase.config import SGD, AdamW
from twophase.optimizers import build_optimizer, update_parameters


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


OPTIMIZERS = {
    "sgd": SGD(momentum=0.0, weight_decay=1e-2),
    "momentum": SGD(momentum=0.9, weight_decay=1e-2),
    "nesterov": SGD(momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adamw": AdamW(name="adamw", beta1=0.8, beta2=0.95, epsilon=1e-6, weight_decay=0.1),
}


def _offsets(settings, gradients, starts, rates, origins):
    """What becomes of parameters by the project's own update; one of their gradients may be None."""
    parameters = [start.clone().requires_grad_() for start in starts]
    optimizer = build_optimizer(settings, parameters)
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        for i, parameter in enumerate(parameters):
            parameter.grad = None if i == 1 else gradient.clone()
        update_parameters(optimizer, origins)
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_an_origin_an_update_is_the_optimizers_own(problem, name):
    gradients, theta, rates = problem
    settings = OPTIMIZERS[name].model_dump()
    (found,) = _offsets(settings, gradients, [theta], rates, ())
    assert torch.equal(found, _trajectory(settings, gradients, theta, rates))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_acts_on_origin_and_offset(problem, name):
    """Offsets from an origin go the way of the parameters themselves; those without gradient stay, undecayed."""
    gradients, theta, rates = problem
    settings, origin = OPTIMIZERS[name].model_dump(), theta.flip(0) - 2
    before = origin.clone()
    offset, still = _offsets(settings, gradients, [theta - origin, theta], rates, [origin, origin])
    torch.testing.assert_close(origin + offset, _trajectory(settings, gradients, theta, rates), rtol=1e-13, atol=0)
    assert torch.equal(still, theta)
    assert torch.equal(origin, before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_that_share_memory_decay_apart(name):
    """Autograd may hand out the same memory as the gradient of two parameters, as where they are added."""
    found = []
    for shared in (True, False):
        parts = [torch.ones(4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        gradient = torch.ones(4, dtype=torch.float64)
        for part in parts:
            part.grad = gradient.view(4) if shared else gradient.clone()
        update_parameters(build_optimizer(OPTIMIZERS[name].model_dump(), parts), [gradient + 1, gradient * 5])
        found.append([part.tolist() for part in parts])
    assert found[0] == found[1]


def test_base_learning_rate():
    optimizer = build_optimizer(SGD(learning_rate=0.3).model_dump(), [torch.zeros(1, requires_grad=True)])
    assert [group["lr"] for group in optimizer.param_groups] == [0.3]


def test_unknown_name():
    with pytest.raises(ValueError, match="sgd or adamw, got 'lion'"):
        build_optimizer({"name": "lion"}, [torch.zeros(1, requires_grad=True)])
