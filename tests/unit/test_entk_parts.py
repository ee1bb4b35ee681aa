"""The engine's parts, each against the plainest computation of the same thing."""

import itertools
import math
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from twophase.entk import products
from twophase.entk.arrangement import Arrangement
from twophase.entk.features import ConvolutionFeatures, DenseFeatures, IndexFeatures
from twophase.entk.operations import RULES, OuterProduct, operation_of
from twophase.entk.products import add_product, mirror
from twophase.entk.readout import add_jacobian
from twophase.entk.rows import GraphChanged, Rows, agrees, possible_rows
from twophase.entk.uses import find_uses

F32, F64 = torch.float32, torch.float64
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def randn(*shape, dtype=F64):
    return torch.randn(shape, dtype=dtype)


# Features -------------------------------------------------------------------------------------------------------------


def draw(generator, smallest, largest):
    return int(torch.randint(smallest, largest + 1, (1,), generator=generator))


def geometry(seed):
    """Features of a random convolution: 1 to 3 dimensions, with outputs, kernels that can be larger than the image."""
    generator = torch.Generator().manual_seed(seed)
    dimensions, images = 1 + seed % 3, 1 + seed // 3 % 2
    while True:
        axes = [
            [draw(generator, *limits) for limits in ((1, 7), (1, 4), (1, 3), (0, 5), (1, 3))] for _ in range(dimensions)
        ]
        image, kernel, stride, padding, dilation = map(tuple, zip(*axes, strict=True))
        features = ConvolutionFeatures((images, *image, 3), kernel, stride, padding, dilation, 1)
        if min(features.sides) > 0 and features.positions <= 150:
            return features


GEOMETRIES = [geometry(seed) for seed in range(90)] + [
    ConvolutionFeatures((1, 2, 2, 3), (4, 4), (1, 1), (3, 3), (1, 1), 1),  # a kernel larger than the image
    ConvolutionFeatures((1, 2, 2, 3), (2, 2), (1, 1), (3, 3), (1, 1), 1),  # a padding larger than the kernel
    ConvolutionFeatures((1, 1, 1, 3), (3, 3), (1, 1), (1, 1), (1, 1), 1),  # one pixel
    ConvolutionFeatures((1, 5, 5, 3), (2, 4), (3, 1), (1, 2), (1, 1), 1),  # an even kernel, skipped pixels
    ConvolutionFeatures((3, 4, 3), (3,), (1,), (1,), (1,), 1),  # three images of an example
    ConvolutionFeatures((1, 1, 3), (3,), (1,), (4,), (3,), 1),  # taps that see padding only
]


def patches(features, values):
    """All patches ``(n, S, taps, channels)``, pixel by pixel from the definition of a convolution."""
    n, images, *_, channels = values.shape
    padded = F.pad(values, [0, 0, *itertools.chain(*((pad, pad) for pad in reversed(features.padding)))])
    rows = []
    for image in range(images):
        for output in itertools.product(*map(range, features.sides)):
            for tap in itertools.product(*map(range, features.kernel)):
                steps = zip(output, features.stride, tap, features.dilation, strict=True)
                rows.append(padded[(slice(None), image, *(o * s + t * d for o, s, t, d in steps))])
    return torch.stack(rows, 1).view(n, features.positions, math.prod(features.kernel), channels)


def test_random_geometries_are_of_all_kinds():
    by_pixels = [f for f in GEOMETRIES if f._by_pixels]
    assert len(by_pixels) < len(GEOMETRIES)
    assert {len(f.kernel) for f in by_pixels} == {1, 2, 3}
    axes = [
        axis for f in by_pixels for axis in zip(f.image[1:-1], f.kernel, f.stride, f.padding, f.dilation, strict=True)
    ]
    assert sum(padding > kernel for _, kernel, _, padding, _ in axes) >= 5
    assert sum(kernel > side for side, kernel, *_ in axes) >= 5
    assert sum(stride > kernel for _, kernel, stride, *_ in axes) >= 5
    assert sum(kernel % 2 == 0 and dilation > 1 for _, kernel, *_, dilation in axes) >= 5


@pytest.mark.parametrize("features", GEOMETRIES)
def test_features_of_convolutions(features):
    torch.manual_seed(0)
    left, right = randn(3, *features.image), randn(2, *features.image)
    dense = patches(features, left)
    assert torch.equal(features.dense(left), dense.flatten(2))
    assert features.dense(left).shape == (3, features.positions, features.width)
    assert features.stored == left[0].numel()
    expected = torch.einsum("isd,jtd->isjt", dense.flatten(2), patches(features, right).flatten(2))
    torch.testing.assert_close(features.gram(left, right), expected, rtol=1e-12, atol=1e-12)
    transposed = left.transpose(1, -1).contiguous().transpose(1, -1)  # another order in memory
    torch.testing.assert_close(features.gram(transposed, right), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(features.dense(transposed), dense.flatten(2))

    # The same positions and features as PyTorch's convolution.
    weight = randn(4, 3, *features.kernel)
    convolve = CONV[len(features.kernel)]
    outputs = convolve(
        left.flatten(0, 1).movedim(-1, 1), weight, None, features.stride, features.padding, features.dilation
    )
    by_tap = weight.flatten(2).transpose(1, 2).flatten(1)  # (4, taps * channels)
    ours = (features.dense(left) @ by_tap.T).view(3, features.image[0], -1, 4)
    torch.testing.assert_close(outputs.flatten(2).transpose(1, 2).unflatten(0, (3, -1)), ours, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_features_of_grouped_convolutions(seed):
    torch.manual_seed(seed)
    random, groups = geometry(seed), 2
    features = ConvolutionFeatures(
        (*random.image[:-1], 6),
        *(getattr(random, name) for name in ("kernel", "stride", "padding", "dilation")),
        groups,
    )
    values = randn(2, *features.image)
    dense = patches(features, values).unflatten(3, (groups, 3)).transpose(2, 3).flatten(3)
    assert features.dense(values).shape == (2, features.positions, groups, features.width)
    assert torch.equal(features.dense(values), dense)


@pytest.mark.parametrize("positions", [1, 4])
def test_features_of_vectors_and_indices(positions):
    torch.manual_seed(0)
    vectors, other = randn(3, positions, 5), randn(2, positions, 5).transpose(0, 1).contiguous().transpose(0, 1)
    features = DenseFeatures(positions, 5)
    assert torch.equal(features.dense(vectors), vectors)
    torch.testing.assert_close(features.gram(vectors, other), torch.einsum("isd,jtd->isjt", vectors, other))

    indices, others = torch.randint(-1, 4, (30, positions)), torch.randint(-1, 4, (20, positions))
    features = IndexFeatures(positions, 4)
    dense = features.dense(indices)
    assert dense.shape == (30, positions, 4)
    for index, row in zip(indices.flatten().tolist(), dense.flatten(0, 1), strict=True):
        assert row.tolist() == [int(index == column) for column in range(4)]
    expected = torch.einsum("isd,jtd->isjt", dense.long(), features.dense(others).long())
    assert torch.equal(features.gram(indices, others).to(expected.dtype), expected)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_jacobians_from_gradients_and_features(groups):
    torch.manual_seed(0)
    gradients, dense = randn(3, 5, 2, 8), randn(3, 5, *([] if groups == 1 else [groups]), 7)
    result = randn(3, 2, 56)
    add_jacobian(result, gradients, dense)
    each = dense.view(3, 5, groups, 1, 7).expand(-1, -1, -1, 8 // groups, -1).flatten(2, 3)  # (n, S, C, D)
    expected = torch.einsum("iskc,iscd->ikcd", gradients, each).flatten(2)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


# Rows -----------------------------------------------------------------------------------------------------------------

BOTH = (True, False)
POSSIBLE = [
    # Shapes of 3 examples and of one, axis, rows of each, and orders that can't be told apart by shapes.
    ((3, 4), (1, 4), 0, 1, (True,)),
    ((4, 3), (4, 1), 1, 1, (True,)),
    ((12, 4), (4, 4), 0, 4, BOTH),
    ((5, 6, 4), (5, 2, 4), 1, 2, BOTH),
    ((3, 3, 3), (3, 1, 3), 1, 1, (True,)),
    ((3,), (1,), 0, 1, (True,)),
    ((0, 4), (0, 4), None, None, ()),
    ((4, 4), (4, 4), None, None, ()),  # none grows
    ((3, 3), (1, 1), None, None, ()),  # two grow
    ((4, 4), (1, 4), None, None, ()),  # grows otherwise
    ((2, 4), (1, 4), None, None, ()),
    ((3, 4), (4,), None, None, ()),
    ((), (), None, None, ()),
]


@pytest.mark.parametrize(("joint", "alone", "axis", "per_example", "orders"), POSSIBLE)
def test_possible_rows(joint, alone, axis, per_example, orders):
    assert possible_rows(joint, alone, 3) == [Rows(axis, per_example, order) for order in orders]


@pytest.mark.parametrize("example_major", BOTH)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("per_example", [1, 2])
def test_rows_are_split(axis, per_example, example_major):
    shape = [4, 5, 7]
    shape[axis] = 3 * per_example
    values = torch.arange(math.prod(shape)).view(shape)
    parts = Rows(axis, per_example, example_major).split(values, 3)
    others = [size for at, size in enumerate(shape) if at != axis]
    assert parts.shape == (3, per_example, *others)
    assert parts.data_ptr() == values.data_ptr()
    for example in range(3):
        for row in range(per_example):
            at = example * per_example + row if example_major else row * 3 + example
            assert torch.equal(parts[example, row], values.select(axis, at))


@pytest.mark.parametrize(("shape", "examples"), [((5, 2), 3), ((6, 2), 2), ((6, 2), 6), ((2,), 3), ((), 3)])
def test_rows_that_are_not_there(shape, examples):
    with pytest.raises(GraphChanged):
        Rows(len(shape) - 2 if shape[1:] else 1, 2, True).split(torch.zeros(shape), examples)


@pytest.mark.parametrize("example_major", BOTH)
@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_tell_the_rows(axis, example_major):
    torch.manual_seed(0)
    rows, other = Rows(axis, 2, example_major), Rows(axis, 2, not example_major)
    gradients = []
    for example in range(3):
        gradient = torch.zeros(6, 5) if axis == 0 else torch.zeros(5, 6)
        rows.split(gradient, 3)[example] = torch.randn(2, 5)
        gradients.append(gradient)
    copies = [gradient.clone() for gradient in gradients]
    assert agrees(rows, gradients)
    assert not agrees(other, gradients)
    assert agrees(rows, [None, gradients[1], None])
    assert agrees(other, [None, None, None])
    assert not agrees(rows, gradients[::-1])
    assert not agrees(rows, [gradients[0] + 1e-30 * gradients[1], *gradients[1:]])
    assert not agrees(rows, [gradients[0] + math.nan * gradients[1], *gradients[1:]])
    assert all(map(torch.equal, gradients, copies))


# Products -------------------------------------------------------------------------------------------------------------


def targets(n, m, dtype):
    """Matrices ``(n, m)`` of all kinds of strides, and the memory around them."""
    whole = torch.randn(n, m, dtype=dtype)
    yield whole, whole
    whole = torch.randn(n + 3, m + 5, dtype=dtype)
    yield whole[2 : 2 + n, 1 : 1 + m], whole
    whole = torch.randn(m, n, dtype=dtype)
    yield whole.T, whole
    whole = torch.randn(2 * n, 3 * m, dtype=dtype)
    yield whole[::2, ::3], whole


WAYS = {
    "whole": {},
    "longer than what one product sums up": {"INNER_CPU": 4},
    "by halves": {"LEAF_CPU": 3},
    "long, by halves": {"INNER_CPU": 4, "LEAF_CPU": 3},
    "by another library": {"LARGE": 1},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 7), (40, 33)])
def test_products_are_added(monkeypatch, n, m, dtype, symmetric, way):
    torch.manual_seed(0)
    for name, value in WAYS[way].items():
        monkeypatch.setattr(products, name, value)
    m = n if symmetric else m
    left, right = torch.randn(n, 11, dtype=dtype), None if symmetric else torch.randn(m, 11, dtype=dtype)
    copies = left.clone(), None if right is None else right.clone()
    for target, whole in targets(n, m, dtype):
        before, around = target.clone(), whole.clone()
        expected = before.double() + left.double() @ (left if right is None else right).double().T
        add_product(target, left, right)
        if symmetric:
            assert_close(target.triu(), expected.triu(), dtype)
            lower, old = target.tril(-1), before.tril(-1)  # what lies below is free to be one or the other
            assert (((lower - old).abs() < 1e-4) | ((lower - expected.tril(-1)).abs() < 1e-4)).all()
        else:
            assert_close(target, expected, dtype)
        target.copy_(before)
        assert torch.equal(whole, around)
    assert torch.equal(left, copies[0])
    assert right is None or torch.equal(right, copies[1])


def assert_close(value, expected, dtype):
    assert value.dtype == dtype
    torch.testing.assert_close(value.double(), expected, rtol=0, atol=1e-5 if dtype == F32 else 1e-13)


@pytest.mark.parametrize("n", [1, 4, 9])
@pytest.mark.parametrize("together", [1, 4, 100])
def test_mirror(monkeypatch, n, together):
    monkeypatch.setattr(products, "MIRRORED", together)
    for square, whole in targets(n, n, F32):
        before, around = square.clone(), whole.clone()
        mirror(square)
        assert torch.equal(square, before.triu() + before.triu(1).T)
        square.copy_(before)
        assert torch.equal(whole, around)


# Uses -----------------------------------------------------------------------------------------------------------------


def leaf(*shape):
    return randn(*shape).requires_grad_()


def _reused(p, x):
    h = F.linear(x, p["w"], p["b"])
    return F.linear(torch.tanh(h), p["w"]) * p["b"]


TRANSPOSED = (((4, 4), (1, 0)),)
USES = {
    "linear": (
        lambda p, x: F.linear(x, p["w"], p["b"]),
        {"w": [("AddmmBackward0", 2, TRANSPOSED)], "b": [("AddmmBackward0", 0, ())]},
    ),
    "product": (lambda p, x: x @ p["w"], {"w": [("MmBackward0", 1, ())], "b": []}),
    "transposed": (
        lambda p, x: x @ p["w"].t() + (2 * x) @ p["w"].t(),
        {"w": [("MmBackward0", 1, TRANSPOSED)] * 2, "b": []},
    ),
    "several uses": (
        _reused,
        {
            "w": [("AddmmBackward0", 2, TRANSPOSED), ("MmBackward0", 1, TRANSPOSED)],
            "b": [("AddmmBackward0", 0, ()), ("MulBackward0", 1, ())],
        },
    ),
    "twice in one operation": (
        lambda p, x: x * (p["b"] * p["b"]),
        {"w": [], "b": [("MulBackward0", 0, ()), ("MulBackward0", 1, ())]},
    ),
    "behind another operation": (
        lambda p, x: x @ p["w"].exp() - p["b"].sin(),
        {"w": [("ExpBackward0", 0, ())], "b": [("SinBackward0", 0, ())]},
    ),
    "cut off": (lambda p, x: x @ p["w"].detach() + p["b"], {"w": [], "b": [("AddBackward0", 1, ())]}),
    "a view": (
        lambda p, x: x * p["b"].view(1, 4) + p["b"].unsqueeze(0),
        {"w": [], "b": [("AddBackward0", 1, ()), ("MulBackward0", 1, ())]},
    ),
}


@pytest.mark.parametrize("name", USES)
def test_uses_of_small_graphs(name):
    torch.manual_seed(0)
    function, expected = USES[name]
    leaves = {"w": leaf(4, 4), "b": leaf(4)}
    outputs = function(leaves, randn(3, 4))
    uses = find_uses(outputs, leaves)
    assert list(uses) == ["w", "b"]
    for parameter, found in uses.items():
        assert all(use.parameter == parameter for use in found)
        ways = [(use.node.name(), use.slot, use.arrangement.permutations) for use in found]
        assert sorted(ways) == sorted(expected[parameter])
        for use in found:  # the edge is the operation's output: its gradient can be had
            (gradient,) = torch.autograd.grad(outputs.sum(), [use.edge], retain_graph=True)
            assert tuple(gradient.shape) == tuple(use.node._input_metadata[0].shape)
    again = find_uses(function(leaves, randn(5, 4)), leaves)
    assert [[u.signature for u in found] for found in again.values()] == [
        [u.signature for u in found] for found in uses.values()
    ]


def test_the_parameter_itself_as_output():
    leaves = {"w": leaf(3, 4), "unused": leaf(2)}
    uses = find_uses(leaves["w"] * 1, leaves)
    assert [use.slot for use in uses["w"]] == [0]
    assert uses["unused"] == []
    handed_on = torch.cat([leaves["w"]])
    (use,) = find_uses(handed_on, leaves)["w"]
    assert operation_of(use) is None


def test_a_loop_through_one_layer_is_found_once_per_call():
    leaves, x = {"w": leaf(4, 4)}, randn(3, 4)
    for _ in range(50):
        x = torch.tanh(F.linear(x, leaves["w"]))
    assert len(find_uses(x, leaves)["w"]) == 50


# Arrangements ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_arrangements_follow_views_and_permutations(seed):
    """Against PyTorch: a tensor of numbered elements is viewed and permuted, and put back."""
    generator = random.Random(seed)
    shape = tuple(generator.choice([1, 2, 3]) for _ in range(generator.randint(0, 4)))
    numbered = torch.arange(math.prod(shape)).view(shape)
    tensor, seen = numbered, Arrangement(shape)
    for _ in range(generator.randint(1, 6)):
        if generator.random() < 0.5:
            factors = [p for size in tensor.shape for p in (size, 1)]
            cut = generator.randint(0, len(factors))
            tensor = tensor.reshape(math.prod(factors[:cut]), *factors[cut:])
            seen = seen.viewed(tuple(tensor.shape))
        else:
            order = generator.sample(range(tensor.ndim), tensor.ndim)
            tensor, seen = tensor.permute(order), seen.permuted(tuple(order))
        assert seen.shape == tuple(tensor.shape)
    values = torch.stack([tensor, tensor + 100, tensor + 200])[None]  # (1, 3, *shape)
    restored = seen.restored(values)
    assert torch.equal(restored, torch.stack([numbered.flatten() + 100 * k for k in range(3)])[None])


def test_arrangements_are_told_apart_by_what_they_do():
    matrix = Arrangement((4, 1, 5))
    assert matrix.permuted((1, 0, 2)).permutations == ()  # an axis of one element
    assert matrix.permuted((2, 1, 0)).viewed((5, 4)).permuted((1, 0)).permutations == ()  # there and back
    there = matrix.permuted((2, 0, 1)).viewed((1, 5, 4))
    assert there == matrix.viewed((4, 5)).permuted((1, 0)).viewed((1, 5, 4))
    assert there.permuted((2, 0, 1)).permutations == ()
    assert there.viewed((10, 2)).permuted((1, 0)).permutations == (((4, 5), (1, 0)), ((10, 2), (1, 0)))


# Rules ----------------------------------------------------------------------------------------------------------------

N = 3  # examples


def indices(*shape):
    return lambda: torch.randint(5, (N, *shape))


def numbers(*shape):
    return lambda: randn(N, *shape)


OPERATIONS = []


def rule(name, slot, function, inputs, *shapes, meant=0, axis=0, rows=1, results=None):
    """Note an operation of inputs and parameters of some shapes, one of them meant, and where its rows are.

    ``results`` is where the function's result has them, if that is elsewhere.
    """
    key, rows = (f"{name}Backward0", slot), Rows(axis, rows, True)
    OPERATIONS.append((key, function, inputs, shapes, meant, rows, results or rows))


def _batch_norm(x, w, b):
    return F.batch_norm(x, torch.arange(4.0, dtype=F64), torch.arange(1.0, 5, dtype=F64), w, b, eps=0.1)


def _group_norm(x, w, b):
    return F.group_norm(x, 2, w, b)


def _layer_norm(x, w, b):
    return F.layer_norm(x, w.shape, w, b)


rule("Addmm", 2, F.linear, numbers(4), (5, 4), (5,))
rule("Addmm", 2, lambda x, w, b: torch.addmm(b, x, w), numbers(4), (4, 5), (5,))
rule("Addmm", 0, F.linear, numbers(4), (5, 4), (5,), meant=1)
rule("Addmm", 0, lambda x, w, b: torch.addmm(b, x, w, beta=0.5), numbers(4), (4, 5), (1, 5), meant=1)
rule("Mm", 1, F.linear, numbers(4), (5, 4))
rule("Mm", 1, lambda x, w: x.flatten(0, 1) @ w.t(), numbers(2, 4), (5, 4), rows=2)
rule("Mm", 1, lambda x, w: x @ w, numbers(4), (4, 5))
rule("Mm", 0, lambda x, w: w @ x.T, numbers(4), (5, 4), axis=1)
rule("Mm", 0, lambda x, w: w.t() @ x.flatten(0, 1).T, numbers(2, 4), (4, 5), axis=1, rows=2)
rule("Mv", 1, lambda x, w: x @ w, numbers(4), (4,))
rule("Mv", 1, lambda x, w: x.flatten(0, 1) @ w.flatten(), numbers(2, 4), (2, 2), rows=2)
rule("Addmm", 1, lambda x, w, b: torch.addmm(b, w, x.T), numbers(4), (5, 4), (5, 1), axis=1)
rule("Bmm", 0, lambda x, w: torch.bmm(w, x.movedim(0, -1)), numbers(2, 4), (2, 5, 4), axis=2)
rule("Bmm", 1, lambda x, w: torch.bmm(x.transpose(0, 1), w), numbers(2, 4), (2, 4, 5), axis=1)
rule("Bmm", 1, lambda x, w: torch.bmm(x[None], w.mT), numbers(4), (1, 5, 4), axis=1)
for _equation, _places, _inputs, _shape, _rows, _slot in (
    ("nd,ed->ne", (1, 1), (4,), (5, 4), 1, 1),
    ("mt,ntd->nmd", (0, 2), (3, 4), (5, 3), 4, 0),
    ("nthe,hde->ntd", (1, 1), (3, 2, 4), (2, 5, 4), 3, 1),
    ("nthe,hed->nthd", (1, 1), (3, 2, 4), (2, 4, 5), 3, 1),
    ("ntd,cdhe->ncthe", (1, 1), (3, 4), (2, 4, 3, 5), 3, 1),
):
    _first, _axis = _places

    def _einsum(x, w, equation=_equation, first=_first):
        return torch.einsum(equation, *((x, w) if first else (w, x)))

    rule("Bmm", _slot, _einsum, numbers(*_inputs), _shape, axis=_axis, rows=_rows, results=Rows(0, 1, True))
rule("Baddbmm", 0, lambda x, w, b: torch.baddbmm(b, x[None], w, beta=2), numbers(4), (1, 4, 5), (5,), meant=1, axis=1)
rule("Baddbmm", 1, lambda x, w, b: torch.baddbmm(b, w, x.T[None]), numbers(4), (1, 5, 4), (5, 1), axis=2)
rule("Baddbmm", 2, lambda x, w, b: torch.baddbmm(b, x.transpose(0, 1), w), numbers(2, 4), (2, 4, 5), (2, 1, 5), axis=1)
rule("Convolution", 1, lambda x, w, b: F.conv2d(x, w, b, (2, 1), 1), numbers(3, 5, 4), (4, 3, 3, 2), (4,))
rule("Convolution", 1, lambda x, w: F.conv2d(x, w, None, 1, 2, 2, groups=2), numbers(4, 4, 5), (6, 2, 2, 3))
rule("Convolution", 1, lambda x, w: F.conv1d(x, w, padding=3), numbers(3, 6), (2, 3, 2))
rule("Convolution", 1, F.conv3d, numbers(2, 3, 2, 3), (3, 2, 2, 1, 2))
rule("Convolution", 1, lambda x, w: F.conv2d(x.flatten(0, 1), w), numbers(2, 3, 4, 4), (4, 3, 2, 2), rows=2)
rule("Convolution", 1, lambda x, w: F.conv_transpose2d(x, w, None, (2, 3), 1), numbers(4, 3, 2), (4, 5, 3, 2))
rule("Convolution", 1, lambda x, w: F.conv_transpose1d(x, w, None, 3, 3, 1, 2, 2), numbers(4, 6), (4, 3, 2))
rule("Convolution", 1, lambda x, w: F.conv_transpose2d(x.flatten(0, 1), w), numbers(2, 3, 4, 4), (3, 4, 2, 1), rows=2)
rule("Convolution", 2, F.conv2d, numbers(3, 4, 4), (4, 3, 3, 3), (4,), meant=1)
rule("Convolution", 2, F.conv_transpose1d, numbers(3, 4), (3, 4, 2), (4,), meant=1)
rule("Embedding", 0, F.embedding, indices(), (5, 4))
rule("Embedding", 0, lambda x, w: F.embedding(x, w, padding_idx=2), indices(6), (5, 4))
rule("NativeGroupNorm", 1, _group_norm, numbers(4, 3, 2), (4,), (4,))
rule("NativeGroupNorm", 2, _group_norm, numbers(4, 3, 2), (4,), (4,), meant=1)
rule("NativeLayerNorm", 1, _layer_norm, numbers(3, 4), (4,), (4,))
rule("NativeLayerNorm", 1, _layer_norm, numbers(2, 3, 4), (3, 4), (3, 4))
rule("NativeLayerNorm", 2, _layer_norm, numbers(2, 3, 4), (4,), (4,), meant=1)
rule("NativeBatchNorm", 1, _batch_norm, numbers(4), (4,), (4,))
rule("NativeBatchNorm", 1, _batch_norm, numbers(4, 3, 2), (4,), (4,))
rule("NativeBatchNorm", 2, _batch_norm, numbers(4, 3), (4,), (4,), meant=1)
rule("Expand", 0, lambda x, p: p.expand(len(x), 3, -1), numbers(4), (1, 4))
rule("Repeat", 0, lambda x, p: p.repeat(len(x), 1, 1), numbers(4), (1, 3, 4))
rule("PreluKernel", 1, F.prelu, numbers(4, 3), (4,))
rule("PreluKernel", 1, F.prelu, numbers(4, 3), (1,))
for _shape in ((2, 4), (1, 2, 4), (4,), (2, 1), (1,), ()):
    rule("Add", 0, lambda x, p: p + x, numbers(2, 4), _shape)
    rule("Add", 1, lambda x, p: torch.add(x, p, alpha=3), numbers(2, 4), _shape)
    rule("Sub", 0, lambda x, p: torch.sub(p, x, alpha=2), numbers(2, 4), _shape)
    rule("Sub", 1, lambda x, p: torch.sub(x, p, alpha=2), numbers(2, 4), _shape)
    rule("Mul", 0, lambda x, p: p * x, numbers(2, 4), _shape)
    rule("Mul", 1, lambda x, p: x * p, numbers(2, 4), _shape)
for _shape in ((4, 1, 1), (2, 1, 1, 1), (2, 4, 1, 3), (4, 1, 3), (3,)):
    rule("Add", 1, lambda x, p: x + p, lambda: randn(2, 4, N, 3), _shape, axis=2)
    rule("Mul", 0, lambda x, p: p * x, lambda: randn(2, 4, N * 2, 3), _shape, axis=2, rows=2)


def test_every_rule_is_tested():
    on_gpus = {("CudnnBatchNormBackward0", slot) for slot in (1, 2)}
    assert set(RULES) == {key for key, *_ in OPERATIONS} | on_gpus


def parameter_gradient(use, gradient, rows):
    """Gradient of a parameter for each example, ``(n, p)``, by its rule."""
    rule = operation_of(use)
    if not isinstance(rule, OuterProduct):
        seen = use.arrangement.shape
        assert rule.fits(rows, seen, tuple(gradient.shape))
        found = rule.jacobian(gradient, rule.factor(use.node), rule.scale(use.node), rows, N, seen)
        return use.arrangement.restored(found[:, None])[:, 0]
    assert rule.fits(rows, gradient.ndim)
    features, values = rule.features(use.node, rows, N)
    gradients = rule.gradient(gradient, rows, N)  # (n, S, C)
    assert gradients.shape[:2] == (N, features.positions)
    channels = rule.channels(gradient.shape)
    assert gradients.shape[2] == channels
    jacobian = gradients.new_empty(N, 1, channels * features.width)
    add_jacobian(jacobian, gradients.unsqueeze(2).contiguous(), features.dense(values).to(F64))
    return use.arrangement.restored(rule.ordered(jacobian.unflatten(2, (channels, -1)), features))[:, 0]


@pytest.mark.parametrize(("key", "operation", "inputs", "shapes", "meant", "rows", "results"), OPERATIONS)
def test_rules_give_the_gradients_of_parameters(key, operation, inputs, shapes, meant, rows, results):
    torch.manual_seed(0)
    x, parameters = inputs(), {str(i): leaf(*shape) for i, shape in enumerate(shapes)}
    outputs = operation(x, *parameters.values())
    parted = results.split(torch.tanh(outputs), N).flatten(1)
    logits = (parted * randn(*parted.shape)).sum(1)  # (n,)
    (use,) = find_uses(logits, parameters)[str(meant)]
    assert (use.node.name(), use.slot) == key
    (gradient,) = torch.autograd.grad(logits.sum(), [use.edge], retain_graph=True)
    found = parameter_gradient(use, gradient, rows)
    for logit, row in zip(logits, found, strict=True):
        (expected,) = torch.autograd.grad(logit, parameters[str(meant)], retain_graph=True)
        torch.testing.assert_close(row, expected.flatten(), rtol=1e-10, atol=1e-12)
    assert found.abs().max() > 0.01


REFUSED = {
    "alpha": (lambda x, w, b: torch.addmm(b, x, w, alpha=2), numbers(4), [(4, 5), (5,)]),
    "alpha, of matrices side by side": (
        lambda x, w, b: torch.baddbmm(b, x[None], w, alpha=2),
        numbers(4),
        [(1, 4, 5), (5,)],
    ),
    "bilinear": (lambda x, w: F.bilinear(x, x, w), numbers(4), [(5, 4, 4)]),
    "scaled by frequency": (lambda x, w: F.embedding(x, w, scale_grad_by_freq=True), indices(4), [(5, 4)]),
    "training": (lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), numbers(4), [(4,), (4,)]),
    "other operations": (lambda x, w: x * w.exp(), numbers(4), [(4,)]),
    "part of a parameter": (lambda x, w: x * w[:4], numbers(4), [(5,)]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operations_without_a_rule(name):
    operation, inputs, shapes = REFUSED[name]
    parameters = {str(i): leaf(*shape) for i, shape in enumerate(shapes)}
    (use,) = find_uses(operation(inputs(), *parameters.values()), parameters)["0"]
    assert operation_of(use) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuDNN's batch normalisation needs a GPU")
def test_rule_of_cudnn_batch_norm():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).cuda().eval()
    norm.running_mean.normal_()
    leaves, x = dict(norm.named_parameters()), torch.randn(N, 4, 5, 5, device="cuda")
    outputs = norm(x)
    logits = (torch.tanh(outputs) * torch.randn_like(outputs)).sum((1, 2, 3))
    for name, uses in find_uses(logits, leaves).items():
        (gradient,) = torch.autograd.grad(logits.sum(), [uses[0].edge], retain_graph=True)
        found = parameter_gradient(uses[0], gradient, Rows(0, 1, True))
        for logit, row in zip(logits, found, strict=True):
            torch.testing.assert_close(row, torch.autograd.grad(logit, leaves[name], retain_graph=True)[0])
