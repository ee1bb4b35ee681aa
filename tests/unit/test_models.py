import itertools
import sys
import types

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional as F

from twophase.config import Model
from twophase.errors import ModelError
from twophase.models import build_model, check_model
from twophase.models.layers import group_count, halving_pool

SMALL = {
    "resnet": {"depth": 8, "width": 4},
    "vgg16": {"width": 2},
    "mlp": {"depth": 2, "width": 16},
    "cnn": {"depth": 3, "width": 4},
}
NORMALIZATIONS = ("batch", "group", "none")


def _build(name, normalization="batch", shape=(3, 32, 32), classes=10, seed=0, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = Model(name=name, normalization=normalization, **(SMALL[name] | changes)).canonical()
        return build_model(settings, image_shape=shape, classes=classes)


def _images(n, shape, dtype=torch.float32):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def _count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def _move_batch_norm(model):
    """Give BatchNorm weights and statistics that aren't an identity, as if trained."""
    generator = torch.Generator().manual_seed(2)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        # convolutions + normalisation + output
        ("resnet", {"depth": 20, "width": 16}, 432 + 6 * 2304 + 4608 + 5 * 9216 + 18432 + 5 * 36864 + 1376 + 650),
        ("resnet", {"depth": 20, "width": 16}, 269_722),
        ("resnet", {"depth": 56, "width": 16}, 853_018),
        ("vgg16", {"width": 64}, 14_710_464 + 2 * 4224 + 5130),
        ("mlp", {"depth": 2, "width": 16}, 3072 * 16 + 16 * 16 + 2 * 32 + 170),
        ("cnn", {"depth": 3, "width": 4}, 108 + 288 + 1152 + 2 * 28 + 170),
    ],
)
def test_parameter_counts(name, changes, expected):
    assert _count(_build(name, **changes)) == expected


@pytest.mark.parametrize("name", SMALL)
def test_only_networks_without_normalisation_have_hidden_biases(name):
    for normalization in NORMALIZATIONS:
        hidden = [m for m in _build(name, normalization).modules() if isinstance(m, nn.Conv2d | nn.Linear)][:-1]
        assert {layer.bias is not None for layer in hidden} == {normalization == "none"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 14, 28, 32])
def test_every_image_size_gives_finite_logits(channels, side):
    shape = (channels, side, side)
    for name, normalization in itertools.product(SMALL, NORMALIZATIONS):
        model = _build(name, normalization, shape, classes=7)
        logits = model(_images(3, shape))
        assert logits.shape == (3, 7)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()
        assert model.training
        check_model(model, _images(3, shape), 7)


@pytest.mark.parametrize("name", SMALL)
def test_weights_come_from_the_global_generator(name):
    first, again, other = (_build(name, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_initialisation_has_the_variance_of_he():
    model = _build("vgg16", width=32)
    for conv in (layer for layer in model if isinstance(layer, nn.Conv2d)):
        variance, expected = conv.weight.var().item(), 2 / (9 * conv.out_channels)
        assert variance == pytest.approx(expected, rel=6 * (2 / conv.weight.numel()) ** 0.5)
    hidden = _build("mlp", width=64)[1]
    assert hidden.weight.var().item() == pytest.approx(2 / 3072, rel=0.02)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("name", SMALL)
def test_an_example_does_not_depend_on_the_others_in_evaluation_mode(name, normalization):
    model = _build(name, normalization, (1, 14, 14)).eval().double()
    _move_batch_norm(model)
    images = _images(4, (1, 14, 14), torch.float64)
    changed = torch.cat([images[:1], 5 * images[1:] + 1])
    torch.testing.assert_close(model(changed)[0], model(images)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SMALL)
def test_per_example_jacobians_equal_plain_gradients(name, dtype):
    shape = (1, 14, 14)
    for normalization in NORMALIZATIONS:
        model = _build(name, normalization, shape, classes=3).eval()
        _move_batch_norm(model)
        model.to(dtype)
        images = _images(2, shape, dtype)
        buffers = dict(model.named_buffers())

        def outputs_of_one(params, x, model=model, buffers=buffers):
            return functional_call(model, (params, buffers), (x.unsqueeze(0),)).squeeze(0)

        params = {key: p.detach() for key, p in model.named_parameters()}
        jacobians = vmap(jacrev(outputs_of_one), in_dims=(None, 0))(params, images)
        logits = model(images)
        for i, k in itertools.product(range(2), range(3)):
            plain = torch.autograd.grad(logits[i, k], list(model.parameters()), retain_graph=True)
            fast = [jacobian[i, k] for jacobian in jacobians.values()]
            scale = max(g.abs().max().item() for g in plain)
            tolerance = (1e-4 if dtype == torch.float32 else 1e-12) * scale
            for a, b in zip(fast, plain, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(1, 14, 14), (3, 9, 12)])
def test_resnet_equals_a_plain_recomputation(shape, training):
    model = _build("resnet", "batch", shape, depth=14).double()
    _move_batch_norm(model)
    model.train(training)
    images = _images(3, shape, torch.float64)
    weights = {key: value.clone() for key, value in model.state_dict().items()}

    def convolve_and_normalise(x, conv, norm, stride=1):
        x = F.conv2d(x, weights[f"{conv}.weight"], stride=stride, padding=1)
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        else:
            mean, var = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        x = (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
        return x * weights[f"{norm}.weight"][:, None, None] + weights[f"{norm}.bias"][:, None, None]

    x = convolve_and_normalise(images, "stem.0", "stem.1").relu()
    for block in range(6):
        stride = 2 if block in (2, 4) else 1
        hidden = convolve_and_normalise(x, f"blocks.{block}.conv1", f"blocks.{block}.norm1", stride).relu()
        hidden = convolve_and_normalise(hidden, f"blocks.{block}.conv2", f"blocks.{block}.norm2")
        shortcut = torch.zeros_like(hidden)
        for row, column in itertools.product(*map(range, hidden.shape[2:])):
            shortcut[:, : x.shape[1], row, column] = x[:, :, stride * row, stride * column]
        x = (hidden + shortcut).relu()
    expected = x.mean((2, 3)) @ weights["output.weight"].T + weights["output.bias"]
    torch.testing.assert_close(model(images), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", [*range(1, 70), 512, 1024])
def test_groups_divide_the_channels_and_are_never_small(channels):
    groups = group_count(channels)
    assert channels % groups == 0
    assert groups == 1 or (channels // groups >= 8 and groups <= 32)
    assert group_count(512) == 32


def test_pooling_keeps_the_last_row_of_an_odd_side():
    maps = torch.arange(9.0).view(1, 1, 3, 3)
    assert halving_pool()(maps).tolist() == [[[[4, 5], [7, 8]]]]
    assert halving_pool()(maps[:, :, :1, :1]).shape == (1, 1, 1, 1)


def test_vgg16_halves_a_32_pixel_image_five_times_and_a_large_one_is_averaged():
    model = _build("vgg16")
    images = _images(2, (3, 32, 32))
    pools = sum(isinstance(layer, nn.MaxPool2d) for layer in model)
    assert (pools, model[:-2](images).shape) == (5, (2, 16, 1, 1))
    assert _build("vgg16", shape=(3, 64, 64))(_images(2, (3, 64, 64))).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet", "depth": 9, "width": 4, "normalization": "batch"}, r"depth of a resnet is 6n\+2.*got 9"),
        ({"name": "cnn", "depth": 1, "width": 4, "normalization": "layer"}, "normalization 'layer' is unknown"),
        ({"name": "lenet", "width": 4}, "model 'lenet' is unknown; use one of resnet, vgg16, mlp, cnn, or package"),
    ],
)
def test_unknown_built_in_settings(settings, message):
    with pytest.raises(ModelError, match=message):
        build_model(settings, image_shape=(3, 32, 32), classes=10)


class Net(nn.Module):
    def __init__(self, image_shape, classes, hidden=3):
        super().__init__()
        self.image_shape = image_shape
        self.hidden = nn.Linear(image_shape[0], hidden, dtype=torch.float64)
        self.output = nn.Linear(hidden, classes)

    def forward(self, images):
        return self.output(self.hidden(images.mean((2, 3))).relu())


def _raise(image_shape, classes, **arguments):
    raise RuntimeError("out of ideas")


@pytest.fixture
def my_module(monkeypatch):
    module = types.ModuleType("my_networks")
    module.Net = Net
    module.number = 3
    module.broken = _raise
    module.text = lambda image_shape, classes: "a network"
    module.lazy = lambda image_shape, classes: nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
    monkeypatch.setitem(sys.modules, "my_networks", module)


def _imported(name, **arguments):
    return build_model({"name": name, "arguments": arguments}, image_shape=[3, 8, 8], classes=10)


@pytest.mark.usefixtures("my_module")
def test_a_users_network_gets_its_arguments_and_becomes_float32():
    model = _imported("my_networks:Net", hidden=5)
    assert model.image_shape == (3, 8, 8)
    assert model.hidden.weight.shape == (5, 3)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    check_model(model, _images(2, (3, 8, 8)), 10)


@pytest.mark.usefixtures("my_module")
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "no_such_package.net:Net",
            {},
            "no module named 'no_such_package'; install it, or add its folder to PYTHONPATH",
        ),
        ("twophase.no_such:Net", {}, "no module named 'twophase.no_such'"),
        ("my_networks:Nett", {}, "model my_networks:Nett: module my_networks has no attribute 'Nett'"),
        ("my_networks:number", {}, "expected a callable, got int"),
        ("my_networks:broken", {"a": 1}, r"\(3, 8, 8\), classes=10, a=1, it raised RuntimeError: out of ideas"),
        ("my_networks:Net", {"hiden": 1}, "it raised TypeError: .*unexpected keyword argument 'hiden'"),
        ("my_networks:text", {}, "expected a torch.nn.Module from it, got str"),
        ("my_networks:lazy", {}, "1.weight has no shape yet; give its lazy layers their input sizes"),
    ],
)
def test_what_is_wrong_with_a_users_callable(name, arguments, message):
    with pytest.raises(ModelError, match=message) as caught:
        _imported(name, **arguments)
    assert str(caught.value).startswith(f"model {name}: ")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import a_missing_dependency", "half_done imports 'a_missing_dependency', which isn't installed"),
        ("1 / 0", "importing half_done raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_fails_on_import(tmp_path, monkeypatch, source, message):
    (tmp_path / "half_done.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=message):
        _imported("half_done:Net")


class Scaled(nn.Module):
    """One trainable number and any function."""

    def __init__(self, function):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.function = function

    def forward(self, images):
        return self.function(self.scale * images)


def _logits(images):
    return images.flatten(1)[:, :10]


def _means(images):
    return images.flatten(1)[:, :190].unflatten(1, (10, 19)).mean(2)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda x: _logits(x)[:, :7],
            r"test_models:Scaled maps images of shape \(3, 8, 8\) to \(4, 7\); "
            r"expected \(4, 10\), a logit for each of 10 classes",
        ),
        (lambda x: (_logits(x), x), "returns tuple; expected one tensor of logits"),
        (lambda x: _logits(x).long(), "returns torch.int64; expected floating-point logits"),
        (lambda x: _logits(x) / 0, "returns 40 infinite or NaN logits of 40; expected finite ones"),
        (lambda x: x @ torch.ones(3, 3), r"on 4 image\(s\) of shape \(3, 8, 8\) raised RuntimeError: "),
        (lambda x: _logits(x) - _logits(x).mean(0), "other logits alone than in a batch of 4"),
        (lambda x: _means(F.dropout(x)), "other logits alone than in a batch of 4"),
    ],
)
def test_what_is_wrong_with_a_networks_outputs(function, message):
    with pytest.raises(ModelError, match=message):
        check_model(Scaled(function), _images(4, (3, 8, 8)), 10)


def test_a_check_names_the_network_as_asked():
    with pytest.raises(ModelError, match="model my_networks:Net maps"):
        check_model(Scaled(torch.flatten), _images(4, (3, 8, 8)), 10, name="my_networks:Net")


def test_a_network_without_trainable_parameters_is_refused():
    model = Scaled(_logits).requires_grad_(False)
    with pytest.raises(ModelError, match="has no trainable parameter"):
        check_model(model, _images(4, (3, 8, 8)), 10)


def test_a_check_leaves_the_network_as_found():
    model = _build("resnet")
    model.blocks[0].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    check_model(model, _images(2, (3, 32, 32)), 10)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
