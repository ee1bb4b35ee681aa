"""Derivatives of a network's outputs along directions of its parameters, ``J u``, and which ways to them are exact."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from twophase.differentiation.checks import check_decoupled, check_finite, check_outputs, fixed_weights
from twophase.differentiation.functional import FunctionalNetwork
from twophase.errors import ModelError

TOGETHER = 3  # examples on which a network is checked

Direction = dict[str, Tensor]  # a vector of parameters, by name
Push = Callable[[FunctionalNetwork, Tensor, list[Direction]], Tensor]


@contextmanager
def differentiable_attention() -> Iterator[None]:
    """Attention as products: its fused forms have neither forward-mode nor second derivatives."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def few_examples(inputs: Tensor) -> Tensor:
    """A few evenly spaced examples; some of them twice if there are fewer."""
    return inputs[torch.linspace(0, len(inputs) - 1, TOGETHER).round().long().to(inputs.device)]


def pull_back(outputs: Tensor, leaves: Direction, cotangent: Tensor, *, again: bool = False) -> Direction:
    """Gradients of the outputs times a cotangent ``(n, K)``, by parameter; those that are zero anyway left out."""
    if not outputs.requires_grad:
        return {}
    found = torch.autograd.grad(outputs, list(leaves.values()), cotangent, retain_graph=again, allow_unused=True)
    return {name: g.to_dense() for name, g in zip(leaves, found, strict=True) if g is not None}


def forward_mode(network: FunctionalNetwork, inputs: Tensor, directions: list[Direction]) -> Tensor:
    """J u, ``(n, K, c)``, from tangents that go forward with the activations."""
    pushed = []
    for direction in directions:
        with forward_ad.dual_level():
            duals = {name: forward_ad.make_dual(p, direction[name]) for name, p in network.parameters.items()}
            outputs, tangent = forward_ad.unpack_dual(network(duals, inputs))
        check_outputs(outputs, len(inputs), network.dtype)
        pushed.append(torch.zeros_like(outputs) if tangent is None else tangent)
    return torch.stack(pushed, dim=2)


def twice_backward(network: FunctionalNetwork, inputs: Tensor, directions: list[Direction]) -> Tensor:
    """J u, ``(n, K, c)``, as the gradient of <J^T w, u>, linear in w, with respect to w."""
    leaves = network.leaves()
    with torch.enable_grad():
        outputs = network(leaves, inputs)
        check_outputs(outputs, len(inputs), network.dtype)
        if not outputs.requires_grad:
            return outputs.new_zeros(*outputs.shape, len(directions))
        w = fixed_weights(outputs.detach()).requires_grad_()
        found = torch.autograd.grad(outputs, list(leaves.values()), w, create_graph=True, allow_unused=True)
    pulled = {name: g for name, g in zip(leaves, found, strict=True) if g is not None and g.requires_grad}
    pushed = [
        torch.autograd.grad(
            list(pulled.values()), w, [direction[name] for name in pulled], retain_graph=True, materialize_grads=True
        )[0]
        for direction in directions
    ]
    return torch.stack(pushed, dim=2)


def exact_push(network: FunctionalNetwork, examples: Tensor, pushes: dict[str, Push]) -> Push:
    """The first way of computing J u that agrees with backward passes on a few examples, which must be independent.

    Forward mode doesn't see a hook, ``no_grad`` or the padding of an embedding, and a second backward pass may leave
    out without a word what it can't differentiate: so <w, J u> is compared with <J^T w, u>, for w and u that favour no
    parameter and no logit.

    Args:
        network: The network.
        examples: A few inputs, ``(n, *d)``.
        pushes: Ways by name, the fastest first; one may raise RuntimeError where it can't.

    Returns:
        The way.

    Raises:
        ModelError: If none agrees, or the network lets one example's output depend on the others, or isn't finite.
    """
    leaves = network.leaves()
    with torch.enable_grad():
        outputs = network(leaves, examples)
    check_outputs(outputs, len(examples), network.dtype)
    if not outputs.requires_grad:  # nothing to compare; other examples may depend on parameters
        return twice_backward
    check_decoupled(network, examples)
    w = fixed_weights(outputs.detach())
    u = _random_direction(network)
    expected = sum((g * u[name]).sum() for name, g in pull_back(outputs, leaves, w).items())
    check_finite(expected, "gradients or their products")
    reasons = []
    for name, push in pushes.items():
        try:
            with warnings.catch_warnings():  # PyTorch compiles some of its own rules
                warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
                terms = w * push(network, examples, [u])[..., 0]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reasons.append(f"{name}: " + str(error).partition("\n")[0].rstrip("."))
            continue
        if (terms.sum() - expected).abs() <= torch.finfo(w.dtype).eps ** 0.5 * terms.abs().sum():
            return push
        reasons.append(f"{name}: its <w, J u> is {terms.sum():.3g}, but <J^T w, u> is {expected:.3g}")
    raise ModelError(
        "This network can't be differentiated along its parameters; empirical_ntk needs no such derivative. "
        f"{'. '.join(reasons)}."
    )


def _random_direction(network: FunctionalNetwork) -> Direction:
    """Always the same noise, every parameter's of norm about 1."""
    generator = torch.Generator(network.device).manual_seed(0)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device) / p.numel() ** 0.5
        for name, p in network.parameters.items()
    }
