import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from twophase.config import Model
from twophase.models import build_model
from twophase.models.resnet import Shortcut
from twophase.network_size import NetworkSize, network_size

NORMALIZATIONS = ("batch", "group", "none")
SHAPES = ((1, 14, 14), (3, 32, 32), (1, 7, 5), (3, 33, 33), (2, 1, 1), (1, 2, 9))
NETWORKS = (
    ("resnet", {"depth": 8, "width": 4}, 10),
    ("resnet", {"depth": 20, "width": 5}, 2),
    ("resnet", {"depth": 14, "width": 16}, 100),
    ("vgg16", {"width": 2}, 10),
    ("vgg16", {"width": 9}, 100),
    ("mlp", {"depth": 1, "width": 16}, 2),
    ("mlp", {"depth": 4, "width": 33}, 37),
    ("cnn", {"depth": 1, "width": 4}, 3),
    ("cnn", {"depth": 3, "width": 8}, 10),
    ("cnn", {"depth": 7, "width": 3}, 100),  # more blocks than halvings
)


def _settings(name, normalization, changes):
    return Model(name=name, normalization=normalization, **changes).canonical()


def _build(settings, shape, classes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model(settings, image_shape=shape, classes=classes)


def _counted(model, shape):
    """The network's size from its tensors and from what its layers put out."""
    multiply_adds, outputs = [], []

    def count(layer, inputs, output):
        outputs.append(output.numel())
        if isinstance(layer, nn.Conv2d | nn.Linear):
            multiply_adds.append(output.numel() * layer.weight[0].numel())

    for layer in model.modules():
        if not [*layer.children()] and not isinstance(layer, nn.Identity | nn.Flatten | Shortcut):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return NetworkSize(
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        buffers=sum(buffer.numel() for buffer in model.buffers()),
        multiply_adds=sum(multiply_adds),
        activations=sum(outputs),
    )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("name", "changes", "classes"), NETWORKS)
def test_sizes_are_those_of_the_real_network(name, changes, classes, normalization):
    settings = _settings(name, normalization, changes)
    given = dict(settings)
    for shape in SHAPES:
        expected = _counted(_build(settings, shape, classes), shape)
        assert network_size(settings, image_shape=shape, classes=classes) == expected, shape
    assert settings == given


@pytest.mark.parametrize(
    ("name", "changes", "parameters"),
    [
        ("resnet", {"depth": 20, "width": 16}, 269_722),
        ("resnet", {"depth": 56, "width": 16}, 853_018),
        ("vgg16", {"width": 64}, 14_724_042),
    ],
)
def test_published_networks(name, changes, parameters):
    size = network_size(_settings(name, "batch", changes), image_shape=(3, 32, 32), classes=10)
    assert size.parameters == parameters


def test_a_network_counted_by_hand():
    size = network_size(_settings("cnn", "batch", {"depth": 2, "width": 2}), image_shape=(1, 3, 2), classes=5)
    assert size == NetworkSize(
        parameters=9 * 2 + 4 + 18 * 4 + 8 + 4 * 5 + 5,
        buffers=5 + 9,
        multiply_adds=6 * 9 * 2 + 2 * 18 * 4 + 4 * 5,  # 6 pixels, then 2
        activations=3 * (6 * 2) + 2 * 2 + 3 * (2 * 4) + 4 + 5,
    )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("name", "changes", "classes"), NETWORKS)
def test_a_training_step_keeps_no_more_activations(name, changes, classes, normalization):
    shape, examples = (3, 16, 16), 4
    settings = _settings(name, normalization, changes)
    model, images = _build(settings, shape, classes), torch.randn(examples, *shape)
    others = {tensor.untyped_storage().data_ptr() for tensor in [images, *model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in others:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.cross_entropy(model(images), torch.zeros(examples, dtype=torch.long))
    numbers = sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in kept.values())
    most = examples * network_size(settings, image_shape=shape, classes=classes).activations
    assert most / 4 < numbers <= most
    loss.backward()


def test_a_users_network_has_no_known_size():
    settings = Model(name="my_networks:Net", arguments={"width": 3}).canonical()
    assert network_size(settings, image_shape=(3, 32, 32), classes=10) is None


def test_the_module_does_not_import_torch():
    code = "import sys, twophase.network_size; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
