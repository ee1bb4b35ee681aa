"""Tensors derived from parameters: which they are, how Jacobians pass through them, and that rules reach behind."""

import pytest
import torch
from entk_networks import Net, contracted, fresh, jacobians
from torch import nn
from torch.nn import functional as F

from twophase.differentiation.functional import FunctionalNetwork
from twophase.entk import derived, empirical_ntk, kernel_costs, layer_kernels
from twophase.entk.derived import can_be_pulled_back, find_derivations, pulled_back
from twophase.entk.inspection import inspect
from twophase.entk.uses import find_uses
from twophase.errors import ModelError

F64 = torch.float64


def leaf(*shape):
    return torch.randn(shape, dtype=F64).requires_grad_()


def uses_behind(function, leaves, examples=3):
    """Uses of parameters in a function of them and of inputs ``(n, 4)``, with derived tensors looked through."""
    outputs = function(leaves, torch.randn(examples, 4, dtype=F64))
    alone = function(leaves, torch.randn(1, 4, dtype=F64))
    derivations = find_derivations(outputs, leaves, alone, leaves)
    return find_uses(outputs, leaves, derivations), derivations


# Networks of which the plain engine has nothing to do.
WITH_RULES = [
    "attention_batch_first",
    "attention_batch_second",
    "attention_by_einsum",
    "cross_attention",
    "derived_in_two_ways",
    "embedded_positions",
    "last_token",
    "lstm",
    "masked_weights",
    "one_weight_in_many_orders",
    "scaled_lookup",
    "scaled_weights",
    "split_weights",
    "token_transformer",
    "transformer_norm_first",
    "transformer_norm_last",
    "transformer_tokens_first",
    "transposed1d",
    "transposed2d",
    "transposed2d_groups",
    "vision_transformer",
    "weights_first",
    "weight_norm",
]


@pytest.mark.parametrize("name", WITH_RULES)
def test_no_parameter_is_left_to_the_plain_engine(name):
    """Whether an example is alone or not: PyTorch takes other operations for one."""
    model, x = fresh(name)
    assert None not in inspect(FunctionalNetwork.of(model), x).values()
    for examples in (1, 2, 5):
        assert "without a rule" not in kernel_costs(model, x[:examples]).passes


NUMBER = torch.tensor(0.5, dtype=F64)
SCALED = {
    "times": (lambda w, x: x @ (w * 3), 3, []),
    "from the left": (lambda w, x: x @ (3 * w), 3, []),
    "times a tensor": (lambda w, x: x @ (NUMBER * w), 0.5, []),
    "over": (lambda w, x: x @ (w / 4), 0.25, []),
    "negative": (lambda w, x: x @ -w, -1, []),
    "twice": (lambda w, x: x @ (2 * -(w / 8)), -0.25, []),
    "before it is transposed": (lambda w, x: F.linear(x, w * 3), 3, [((4, 4), (1, 0))]),
    "after it is transposed": (lambda w, x: x @ (w.t() * 3), 3, [((4, 4), (1, 0))]),
    "transposed by axes": (lambda w, x: x @ w.T, 1, [((4, 4), (1, 0))]),
    "transposed by negative axes": (lambda w, x: x @ w.transpose(-1, -2), 1, [((4, 4), (1, 0))]),
    "transposed and back": (lambda w, x: x @ (2 * w.mT).T, 2, []),
    "axes in their order": (lambda w, x: x @ w.permute(0, 1), 1, []),
    "one axis": (lambda w, x: x @ w.transpose(1, 1), 1, []),
    "other axes": (lambda w, x: x @ (w.view(2, 2, 4).permute(-2, 2, 0) * 2).reshape(4, 4), 2, [((2, 2, 4), (1, 2, 0))]),
    "copied": (lambda w, x: x @ w.clone().t().contiguous(), 1, [((4, 4), (1, 0))]),
    "of a view": (lambda w, x: x @ (w.view(1, 4, 4) * 2).squeeze(0), 2, []),
}


@pytest.mark.parametrize("name", SCALED)
def test_numbers_and_permutations_are_looked_through(name):
    function, scale, permutations = SCALED[name]
    leaves = {"w": leaf(4, 4)}
    (use,) = find_uses(function(leaves["w"], torch.randn(3, 4, dtype=F64)), leaves)["w"]
    assert (use.node.name(), use.slot, use.scale) == ("MmBackward0", 1, scale)
    assert list(use.arrangement.permutations) == permutations
    assert use.derived is None


NOT_SCALED = {
    "by elements": lambda p, x: x @ (p["w"] * torch.arange(4.0, dtype=F64)),
    "by another parameter": lambda p, x: x @ (p["w"] * p["s"]),
    "under a number": lambda p, x: x @ (2 / p["w"]),
    "under a tensor": lambda p, x: x @ (NUMBER / p["w"]),
    "part of it": lambda p, x: (x @ p["a"].permute(0, 2, 1)[1]).sum(0),
}


@pytest.mark.parametrize("name", NOT_SCALED)
def test_other_operations_derive(name):
    leaves = {"w": leaf(4, 4), "s": leaf(), "a": leaf(2, 4, 4)}
    uses, derivations = uses_behind(NOT_SCALED[name], leaves)
    found = [use for of_one in uses.values() for use in of_one]
    assert found
    assert derivations
    assert all(use.derived is not None for use in found)


def test_uses_behind_derived_tensors():
    def function(p, x):
        h = x @ p["w"].sin() + (x @ p["w"])
        return h * (p["b"].exp() * p["b"].cos()) + p["b"].tanh().sum()

    leaves = {"w": leaf(4, 4), "b": leaf(4)}
    uses, derivations = uses_behind(function, leaves)
    assert sorted((use.node.name(), use.derived is not None) for use in uses["w"]) == [
        ("MmBackward0", False),
        ("MmBackward0", True),
    ]
    # The product of both ways is one tensor, the sum another.
    assert sorted((use.node.name(), use.derived.node.name()) for use in uses["b"]) == [
        ("AddBackward0", "SumBackward0"),
        ("MulBackward0", "MulBackward0"),
    ]
    assert {name for name, _ in derivations} == {"w", "b"}
    again = find_uses(function(leaves, torch.randn(7, 4, dtype=F64)), leaves, derivations)
    assert {n: [u.signature for u in found] for n, found in again.items()} == {
        n: [u.signature for u in found] for n, found in uses.items()
    }


@pytest.mark.parametrize(
    ("shape", "function"),
    [
        ((4, 3), lambda p: p / p.norm(dim=1, keepdim=True)),
        ((4, 3), lambda p: F.embedding(torch.tensor([1, 1, 0]), p)),
        ((4, 3), lambda p: (p * p).sum()),
        ((), lambda p: p.exp()),
        ((6, 2), lambda p: p.chunk(3)[1]),
        ((3, 3), lambda p: p.triu() + p.triu(1).T),
    ],
)
def test_jacobians_pass_to_the_parameter(shape, function):
    torch.manual_seed(0)
    p = leaf(*shape)
    tensor = function(p)
    edge = torch.autograd.graph.get_gradient_edge(tensor)
    assert can_be_pulled_back(edge, p)
    jacobian = torch.randn(2, 5, *tensor.shape, dtype=F64)
    found = pulled_back(edge, p, jacobian)
    matrix = torch.autograd.functional.jacobian(function, p.detach()).reshape(tensor.numel(), p.numel())
    expected = (jacobian.reshape(10, -1) @ matrix).view(2, 5, *shape)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def product_or_sum(net, x):
    """The same numbers by a rule of another kind where an example is alone."""
    return x @ net.w if len(x) > 1 else (x[:, :, None] * net.w).sum(1)


def order_of_uses(net, x):
    """One use is of a derived tensor of another size, and comes first or last."""
    plain, derived = x @ net.w, x @ (net.w @ net.w.T)
    both = (derived[:, :3], plain) if len(x) > 1 else (plain, derived[:, :3])
    return both[0] + both[1]


@pytest.mark.parametrize("forward", [product_or_sum, order_of_uses])
@pytest.mark.parametrize("examples", [1, 2, 5])
def test_other_operations_for_one_example(forward, examples):
    torch.manual_seed(0)
    model = Net(forward, w=nn.Parameter(leaf(4, 3))).eval()
    x = torch.randn(examples, 4, dtype=F64)
    value, expected = empirical_ntk(model, x), contracted(jacobians(model, x), "full")
    assert float((value - expected).norm()) <= 1e-12 * float(expected.norm())


class Doubled(torch.autograd.Function):
    """An operation whose gradient PyTorch can't take for several cotangents together."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (2 if gradient.sum().item() == gradient.sum().item() else 0)


def test_what_does_not_pass_is_left_to_the_plain_engine():
    p = leaf(4, 3)
    assert not can_be_pulled_back(torch.autograd.graph.get_gradient_edge(Doubled.apply(p)), p)
    torch.manual_seed(0)
    model = Net(
        lambda net, x: (x @ Doubled.apply(net.w)).tanh() @ net.u, w=nn.Parameter(p.data), u=nn.Parameter(leaf(3, 2))
    )
    known = inspect(FunctionalNetwork.of(model.eval()), torch.randn(5, 4, dtype=F64))
    assert known["w"] is None
    assert known["u"] is not None


@pytest.mark.parametrize(("operations", "followed"), [(60, True), (300, False)])
def test_long_chains_are_left_to_the_plain_engine(operations, followed):
    def forward(net, x):
        w = net.w
        for _ in range(operations):
            w = w.sin()
        return x @ w

    torch.manual_seed(0)
    model, x = Net(forward, w=nn.Parameter(leaf(4, 3))).eval(), torch.randn(5, 4, dtype=F64)
    assert (inspect(FunctionalNetwork.of(model), x)["w"] is not None) == followed
    value, expected = empirical_ntk(model, x), contracted(jacobians(model, x), "full")
    assert float((value - expected).norm()) <= 1e-12 * float(expected.norm())


def test_wrong_derivatives_of_several_cotangents_are_noticed(monkeypatch):
    """PyTorch differentiates several together by rules of their own."""
    p = leaf(4, 3)
    monkeypatch.setattr(derived, "pulled_back", lambda *args: 1.001 * pulled_back(*args))
    assert not can_be_pulled_back(torch.autograd.graph.get_gradient_edge(p.exp()), p)


# Only tensors of parameters alone may pass: examples that have a part in them depend on each other.
COUPLED = {
    "a number of one example": lambda net, x: F.linear(x, net.a.weight * x[0, 0]),
    "a number of all examples": lambda net, x: F.linear(x, net.a.weight / x.abs().mean()),
    "how many examples": lambda net, x: F.linear(x, net.a.weight / len(x)),
    "elements of one example": lambda net, x: F.linear(x, net.a.weight * x[0]),
    "elements of all examples": lambda net, x: F.linear(x, net.a.weight + x.mean(0)),
    "the last example": lambda net, x: F.linear(x, net.a.weight + x[-1]),
    "a product over examples": lambda net, x: x @ (net.a.weight + x.T @ x),
}


@pytest.mark.parametrize("function", [empirical_ntk, layer_kernels])
@pytest.mark.parametrize("case", COUPLED)
def test_refuses_examples_in_derived_tensors(case, function):
    torch.manual_seed(0)
    model = Net(COUPLED[case], a=nn.Linear(4, 4)).double().eval()
    with pytest.raises(ModelError, match="depends on the others"):
        function(model, torch.randn(6, 4, dtype=F64))
