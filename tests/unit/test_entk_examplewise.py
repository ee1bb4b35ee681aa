"""Whether a graph shows that examples are independent: each operation that it trusts, and those that mix examples."""

import pytest
import torch
from torch.nn import functional as F

from twophase.entk.examplewise import ALONG_FIRST_AXIS, ELEMENTWISE, acts_examplewise
from twophase.entk.uses import VIEWS
from twophase.models import build_model

F64 = torch.float64
N, CHANNELS, SIZE = 4, 4, 6  # as many channels as examples: sizes don't tell them apart


def parameter(*shape):
    return torch.rand(shape, dtype=F64).requires_grad_()


def passed(function, *, n=N):
    """Maps ``(n, 4, 6, 6)`` that depend on a parameter, and a function of them as outputs ``(n, K)``."""
    torch.manual_seed(0)
    maps = torch.rand(n, CHANNELS, SIZE, SIZE, dtype=F64) * parameter(SIZE)
    return maps, function(maps)


def mixed(maps, outputs):
    """Whether the logits of the examples of one half have gradients in the rows of the other."""
    gradient = torch.autograd.grad(outputs[::2].sum(), maps)[0]
    return bool(gradient[1::2].any())


ACTIVATIONS = {
    "Celu": F.celu,
    "Elu": F.elu,
    "Exp": torch.exp,
    "Gelu": F.gelu,
    "Hardswish": F.hardswish,
    "Hardtanh": F.relu6,
    "LeakyRelu": F.leaky_relu,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Pow": torch.square,
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Silu": F.silu,
    "Softplus": F.softplus,
    "Tanh": torch.tanh,
}
APART = {name: lambda h, act=act: act(h).flatten(1) for name, act in ACTIVATIONS.items()} | {
    "sum of two": lambda h: (h + h.exp()).flatten(1),
    "difference of two": lambda h: (h - h.exp()).flatten(1),
    "product of two": lambda h: (h * h.exp()).flatten(1),
    "quotient of two": lambda h: (h / h.exp()).flatten(1),
    "a parameter is added": lambda h: (h + parameter(SIZE)).flatten(1),
    "a parameter with a row for each example": lambda h: (h + parameter(N, 1, 1, 1)).flatten(1),
    "a linear layer": lambda h: F.linear(h.flatten(1), parameter(3, 144), parameter(3)),
    "a linear layer without bias": lambda h: F.linear(h.flatten(1), parameter(3, 144)),
    "a product": lambda h: h.flatten(1) @ parameter(144, 3),
    "a convolution": lambda h: F.conv2d(h, parameter(3, CHANNELS, 3, 3), parameter(3), 2, 1).flatten(1),
    "a transposed convolution": lambda h: F.conv_transpose2d(h, parameter(CHANNELS, 3, 3, 3)).flatten(1),
    "a grouped convolution": lambda h: F.conv2d(h, parameter(CHANNELS, 1, 3, 3), groups=CHANNELS).flatten(1),
    "maxima": lambda h: F.max_pool2d(h, 2).flatten(1),
    "means": lambda h: F.avg_pool2d(h, 2).flatten(1),
    "means of any size": lambda h: F.adaptive_avg_pool2d(h, 2).flatten(1),
    "one mean": lambda h: F.adaptive_avg_pool2d(h, 1).flatten(1),
    "a mean over axes": lambda h: h.mean((2, -1)),
    "a sum over an axis": lambda h: h.sum(1).flatten(1),
    "a sum over the last axes": lambda h: h.sum((-3, -2)),
    "batch normalisation": lambda h: batch_norm(h, training=False).flatten(1),
    "group normalisation": lambda h: F.group_norm(h, 2, parameter(CHANNELS)).flatten(1),
    "layer normalisation": lambda h: F.layer_norm(h, h.shape[1:]).flatten(1),
    "layer normalisation of rows": lambda h: F.layer_norm(h, (SIZE,), parameter(SIZE)).flatten(1),
    "a part of each": lambda h: h[:, 1:].flatten(1),
    "all of them": lambda h: h[:N:1].flatten(1),
    "padded": lambda h: F.pad(h, (1, 1, 1, 1, 2, 0)).flatten(1),
    "squeezed": lambda h: h.flatten(1)[:, None].squeeze(1),
    "squeezed wherever possible": lambda h: h.flatten(1)[:, None].squeeze(),
    "squeezed at two axes": lambda h: h.flatten(1)[:, None, None].squeeze((1, 2)),
    "copied": lambda h: h.flatten(1).clone(),
    "reshaped inside PyTorch": lambda h: torch.ops.aten._reshape_alias(h, (N, 144), (144, 1)),
    "reshaped inside a product": lambda h: torch.ops.aten._unsafe_view(h, (N, 144)),
}


def batch_norm(h, *, training):
    return F.batch_norm(h, torch.zeros(CHANNELS, dtype=F64), torch.ones(CHANNELS, dtype=F64), training=training)


@pytest.mark.parametrize("name", APART)
def test_examples_that_stay_apart(name):
    maps, outputs = passed(APART[name])
    assert acts_examplewise(outputs)
    assert not mixed(maps, outputs)


def test_every_trusted_operation_is_tested():
    seen, waiting = set(), [passed(function)[1].grad_fn for function in APART.values()]
    while waiting:
        node = waiting.pop()
        seen.add(node.name())
        waiting += [source for source, _ in node.next_functions if source is not None]
    of_their_own = {"AddmmBackward0", "NativeBatchNormBackward0", "NativeLayerNormBackward0", "MeanBackward1"}
    of_their_own |= {"SumBackward1", "ConstantPadNdBackward0"}
    assert ELEMENTWISE | ALONG_FIRST_AXIS | VIEWS | of_their_own <= seen


def in_place(h):
    """One example's row is written over another's."""
    h = h.clone()
    h[0] = h[1]
    return h.flatten(1)


class Flipped(torch.autograd.Function):
    """The identity, of a gradient in another order."""

    @staticmethod
    def forward(context, h):
        return h.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient.flip(0)


MIXED = {
    "flipped": lambda h: h.flip(0).flatten(1),
    "flipped gradient": lambda h: Flipped.apply(h).flatten(1),
    "rolled": lambda h: h.roll(1, 0).flatten(1),
    "rolled wherever it is": lambda h: h.roll(144).flatten(1),
    "in another order": lambda h: h[[1, 0, 3, 2]].flatten(1),
    "selected": lambda h: h.index_select(0, torch.tensor([1, 0, 3, 2])).flatten(1),
    "sorted": lambda h: (h * torch.tensor([4, 1, 3, 2]).view(N, 1, 1, 1)).sort(0).values.flatten(1),
    "joined from parts": lambda h: torch.cat([h[1:], h[:1]]).flatten(1),
    "stacked": lambda h: torch.stack(h.unbind()[::-1]).flatten(1),
    "written in place": in_place,
    "minus the mean": lambda h: (h - h.mean(0)).flatten(1),
    "times the kept sum": lambda h: (h * h.sum(0, keepdim=True)).flatten(1),
    "the repeated sum": lambda h: h.sum(0, keepdim=True).expand(N, -1, -1, -1).flatten(1),
    "a sum over a negative axis": lambda h: h.sum(-4).flatten(1),
    "a mean over axes with the first": lambda h: h.mean((0, 2)),
    "summed up one after another": lambda h: h.cumsum(0).flatten(1),
    "shares of the sum": lambda h: h.softmax(0).flatten(1),
    "every pair is added": lambda h: h.mean((2, 3)) + h.mean((1, 2, 3)),
    "every pair is multiplied": lambda h: h.mean((1, 2, 3)) * h.mean((2, 3)),
    "products of pairs": lambda h: h.flatten(1) @ h.flatten(1).T,
    "from the left": lambda h: parameter(N, N) @ h.flatten(1),
    "from the left, added": lambda h: torch.addmm(parameter(144), parameter(N, N), h.flatten(1)),
    "turned": lambda h: h.mean((2, 3)).T,
    "turned by axes": lambda h: h.transpose(0, 1).flatten(1),
    "in the order of axes": lambda h: h.permute(1, 0, 3, 2).flatten(1),
    "read in another order": lambda h: h.flatten(1).T.reshape(N, -1),
    "each into the next": lambda h: F.pad(h, (0, 0, 0, 0, 0, 0, 1, -1)).flatten(1),
    "windows across rows": lambda h: h.flatten().unfold(0, 288, 96),
    "normalised by the batch": lambda h: batch_norm(h, training=True).flatten(1),
    "normalised by all": lambda h: F.layer_norm(h, h.shape).flatten(1),
    "one group of all": lambda h: F.group_norm(h.flatten(0, 1)[None], 2)[0].view(N, -1),
    "a convolution over examples": lambda h: F.conv1d(h.flatten(1)[None], parameter(N, N, 1))[0],
    "averages of examples": lambda h: F.avg_pool1d(h.flatten(1).T, 3, 1, 1).T,
    "features of others as weights": lambda h: F.linear(h.flatten(1), h.flatten(1)),
}


@pytest.mark.parametrize("name", MIXED)
def test_examples_that_are_mixed(name):
    maps, outputs = passed(MIXED[name])
    assert mixed(maps, outputs)
    assert not acts_examplewise(outputs)


def test_what_is_not_known_shows_nothing():
    """Rows of tokens belong to examples, but several to each; nor is there anything behind a parameter."""
    maps, outputs = passed(lambda h: F.linear(h, parameter(3, SIZE)).flatten(1))
    assert not mixed(maps, outputs)
    assert not acts_examplewise(outputs)
    assert not acts_examplewise(parameter(3, 2))


@pytest.mark.parametrize("name", ["flipped", "products of pairs", "a sum over an axis"])
def test_one_example_is_alone(name):
    assert acts_examplewise(passed({**MIXED, **APART}[name], n=1)[1])


PROJECT = {
    "vgg16": {"width": 4, "normalization": "batch"},
    "resnet": {"depth": 8, "width": 4, "normalization": "batch"},
    "mlp": {"depth": 2, "width": 8, "normalization": "none"},
    "cnn": {"depth": 2, "width": 4, "normalization": "none"},
}


@pytest.mark.parametrize("name", PROJECT)
def test_networks_of_the_project_keep_examples_apart(name):
    model = build_model({"name": name, **PROJECT[name]}, image_shape=(3, 32, 32), classes=5)
    images = torch.randn(3, 3, 32, 32)
    assert acts_examplewise(model.eval()(images))
