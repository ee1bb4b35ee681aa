"""Linearised networks, against gradients one by one, finite differences and closed forms, in float64."""

import copy

import pytest
import torch
from entk_networks import Net, contracted, fresh, jacobians, param, reference, sequential
from test_entk_vectors import FORWARD, TWICE, OnceOnly, assert_close, some_vectors
from tiny import bits, partly_frozen_network
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from twophase.differentiation.functional import FunctionalNetwork
from twophase.differentiation.tangents import differentiable_attention, forward_mode, twice_backward
from twophase.entk import empirical_ntk
from twophase.entk.plain import plain_ntk
from twophase.errors import ModelError
from twophase.linearization import linearize, network
from twophase.linearization.network import PUSHES, beside_outputs
from twophase.models import build_model


def noise(like, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) for p in like]


def flat(parts):
    return torch.cat([part.detach().flatten() for part in parts])


@torch.no_grad()
def moved(model, scale=0.1):
    """The linearised network at a random offset."""
    linearized = linearize(model)
    for part, value in zip(linearized.offset, noise(linearized.offset), strict=True):
        part.copy_(scale * value)
    return linearized


def gradients(loss, parts):
    """Of all offsets, ``(P,)``."""
    return flat(torch.autograd.grad(loss, list(parts), allow_unused=True, materialize_grads=True))


def assert_linearized(linearized, model, inputs, by_name):
    """Outputs are f + J delta, and a loss's gradient is J^T g."""
    jacobian = torch.cat(list(by_name.values()), dim=2)  # (n, K, P)
    with torch.no_grad():
        plain = model(inputs)
    outputs = linearized(inputs)
    assert_close((outputs - plain).detach(), jacobian @ flat(linearized.offset))
    weights = some_vectors(*outputs.shape)
    g = (weights * outputs.cos()).detach()
    assert_close(gradients((weights * outputs.sin()).sum(), linearized.offset), torch.tensordot(g, jacobian, dims=2))


# Values and gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORWARD + TWICE)
def test_outputs_and_gradients(name):
    model, x = fresh(name)
    by_name = reference(name)
    linearized = moved(model)
    assert_linearized(linearized, fresh(name)[0], x, by_name)
    assert (linearized._push is twice_backward) == (name in TWICE)
    assert_close(linearized(x[2:5]).detach(), linearized(x)[2:5].detach(), 1e-12)


def separable():
    body = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8), nn.GELU()]
    body += [nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.GroupNorm(4, 8), nn.ReLU()]
    return sequential(*body, nn.Conv2d(8, 4, 2, stride=(2, 1)), nn.Flatten(), nn.LazyLinear(3))


def _attend(net, x):
    h = net.table(x) + net.position
    h = h + net.attention(*[net.before(h)] * 3, need_weights=False)[0]
    return net.head((h + net.after(h)).mean(1))


def attentive():
    parts = {"table": nn.Embedding(7, 8), "position": param(5, 8), "before": nn.LayerNorm(8)}
    after = sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    return Net(_attend, **parts, attention=attention, after=after, head=nn.Linear(8, 3))


@torch.no_grad()
def settled(model, inputs):
    """In evaluation mode and float64, with running statistics that aren't those of the start."""
    model(inputs[:2])  # gives lazy layers their shapes
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model.double().eval()


@pytest.mark.parametrize("make", [separable, attentive])
def test_group_norm_depthwise_convolutions_and_attention(make):
    torch.manual_seed(0)
    x = torch.randn(5, 3, 9, 8) if make is separable else torch.randint(7, (5, 5))
    model = settled(make(), x)
    x = x.double() if make is separable else x
    linearized = moved(model)
    assert_linearized(linearized, model, x, jacobians(model, x))
    assert linearized._push is beside_outputs


BUILT_IN = {
    "resnet": {"name": "resnet", "depth": 8, "width": 4, "normalization": "batch"},
    "resnet_group": {"name": "resnet", "depth": 8, "width": 4, "normalization": "group"},
    "vgg16": {"name": "vgg16", "width": 4, "normalization": "batch"},
    "vgg16_plain": {"name": "vgg16", "width": 4, "normalization": "none"},
    "mlp": {"name": "mlp", "depth": 2, "width": 8, "normalization": "none"},
    "mlp_batch": {"name": "mlp", "depth": 2, "width": 8, "normalization": "batch"},
    "cnn_group": {"name": "cnn", "depth": 2, "width": 4, "normalization": "group"},
}


def built_in(name):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8)
    return settled(build_model(BUILT_IN[name], image_shape=(3, 8, 8), classes=3), x), x.double()


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_networks_take_tangents_beside_outputs(name):
    model, x = built_in(name)
    linearized = moved(model, scale=0.01)
    assert_linearized(linearized, model, x, jacobians(model, x))
    assert linearized._push is beside_outputs


@pytest.mark.parametrize("name", ["conv_stack", "token_transformer", "batch_norm_2d", "hooked_gradient"])
def test_the_kernel_from_products(name):
    model, x = fresh(name)
    kernel = empirical_ntk(model, x)
    linearized = moved(model)
    outputs = linearized(x)
    rows = torch.stack([_row(logit, linearized.offset) for logit in outputs.flatten()])
    assert_close((rows @ rows.T).view_as(kernel), kernel)
    columns = []
    with torch.no_grad():
        zero = linearize(model)(x)
        for direction in torch.eye(rows.shape[1], dtype=rows.dtype):
            nn.utils.vector_to_parameters(direction, linearized.offset)
            columns.append((linearized(x) - zero).flatten())
    columns = torch.stack(columns, dim=1)
    assert_close((columns @ columns.T).view_as(kernel), kernel)


def _row(logit, parts):
    found = torch.autograd.grad(logit, list(parts), retain_graph=True, allow_unused=True, materialize_grads=True)
    return flat(found)


def test_the_kernel_of_a_linearised_network_is_the_networks_wherever_it_is():
    model, x = fresh("batch_norm_2d")
    assert_close(plain_ntk(moved(model).eval(), x), contracted(reference("batch_norm_2d"), "full"))


def smooth():
    return sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 2), nn.GELU(), nn.Flatten(), nn.Linear(12, 3))


def test_finite_differences():
    torch.manual_seed(0)
    model, x = smooth().double().eval(), torch.randn(6, 2, 5, 5, dtype=torch.float64)
    direction = noise(model.parameters())

    def outputs(step):
        shifted = copy.deepcopy(model)
        for p, part in zip(shifted.parameters(), direction, strict=True):
            p.data += step * part
        return shifted(x).detach()

    linearized = linearize(model)
    for part, value in zip(linearized.offset, direction, strict=True):
        part.data.copy_(value)
    tangent = linearized(x).detach() - outputs(0)

    def errors(step):
        central = (outputs(step) - outputs(-step)) / (2 * step)
        return float((central - tangent).norm()), float((outputs(step) - outputs(0) - step * tangent).norm())

    (central, one_sided), (central_half, one_sided_half) = errors(2e-3), errors(1e-3)
    assert central / central_half == pytest.approx(4, rel=0.01)  # of second order in the step
    assert one_sided / one_sided_half == pytest.approx(4, rel=0.1)
    assert errors(1e-5)[0] <= 1e-8 * float(tangent.norm())


LINEAR = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "convolutions": (lambda: sequential(nn.Conv2d(2, 3, 2, padding=1, bias=False), nn.Flatten()), (2, 3, 3)),
    "strided": (lambda: sequential(nn.Conv2d(2, 4, 3, stride=2, groups=2), nn.Flatten()), (2, 5, 5)),
    "gain": (lambda: Net(lambda net, x: net.p * x + net.q, p=param(4), q=param(4)), (4,)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_linear_in_its_parameters_is_itself(name):
    torch.manual_seed(0)
    make, shape = LINEAR[name]
    model, x = make().double().eval(), torch.randn(7, *shape, dtype=torch.float64)
    linearized = moved(model, scale=10)
    for p, part in zip(model.parameters(), linearized.offset, strict=True):
        p.data += part.data
    assert_close(linearized(x).detach(), model(x).detach(), 1e-14)


@pytest.mark.parametrize("name", ["perceptron", "conv_stack", "batch_norm_2d"])
def test_descent_on_the_squared_loss_is_the_closed_form(name):
    """f_t - y = (I - eta / n H)^t (f_0 - y)."""
    model, x = fresh(name)
    kernel = empirical_ntk(model, x).flatten(2).flatten(0, 1) / len(x)
    rate = 1.5 / float(torch.linalg.eigvalsh(kernel)[-1])
    linearized, y = linearize(model), some_vectors(8, 3)
    residual = (linearized(x) - y).detach().flatten()
    optimizer = torch.optim.SGD(linearized.offset, lr=rate)
    for _ in range(50):
        optimizer.zero_grad()
        ((linearized(x) - y).square().sum() / (2 * len(x))).backward()
        optimizer.step()
        residual = residual - rate * kernel @ residual
    assert_close((linearized(x) - y).detach().flatten(), residual, 1e-8)


@pytest.mark.parametrize("name", ["conv_stack", "vision_transformer", "token_transformer", "lstm", "weight_norm"])
def test_float32(name):
    model, x = fresh(name)
    exact, rounded = moved(model), moved(fresh(name, torch.float32)[0])
    outputs, outputs32 = exact(x), rounded(x.float() if x.is_floating_point() else x)
    assert outputs32.dtype == torch.float32
    assert_close(outputs32.detach(), outputs.detach(), 1e-4)
    found, expected = (gradients(f.square().sum(), net.offset) for f, net in ((outputs32, rounded), (outputs, exact)))
    assert_close(found, expected, 1e-4)


# The ways to J delta --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["conv_stack", "batch_norm_2d", "vision_transformer", "tied_kinds", "only_biases", "module_of_two_names"],
)
@pytest.mark.parametrize("way", PUSHES)
def test_every_way(name, way, monkeypatch):
    monkeypatch.setattr(network, "PUSHES", {way: PUSHES[way]})
    model, x = fresh(name)
    linearized = moved(model)
    assert_linearized(linearized, model, x, reference(name))
    assert linearized._push is PUSHES[way]
    directions = [
        {name: torch.full_like(p, factor) for name, p in model.named_parameters() if p.requires_grad}
        for factor in (1, -2)
    ]
    with differentiable_attention():
        pushed = PUSHES[way](FunctionalNetwork.of(model), x, directions).detach()
    assert_close(pushed[..., 0], torch.cat(list(reference(name).values()), dim=2).sum(2))
    assert_close(pushed[..., 1], -2 * pushed[..., 0])


class Cubed(torch.autograd.Function):
    """x^3 with a rule of its own for tangents."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient

    @staticmethod
    def jvp(ctx, tangent):
        return 3 * ctx.saved_tensors[0] ** 2 * tangent


def _no_grad_inside(net, x):
    with torch.no_grad():
        shift = net.a(x).sum(1, keepdim=True)
    return net.head((net.a(x) + shift).tanh())


def _with_hook(net, x):
    h = net.a(x)
    if h.requires_grad:
        h.register_hook(lambda gradient: 3 * gradient)
    return net.head(h.tanh())


def _written(*, view, write):
    """A tensor of which a view is held while the one or the other is written into; both are used afterwards."""

    def forward(net, x):
        h = net.a(x)
        part = h[:, :2] if view == "slice" else h.view(-1)
        write(h, part, net.b(x))
        return net.head(h) + part.reshape(len(x), -1).sum(1, keepdim=True).tanh()

    return forward


def _residual(write):
    return lambda net, x: net.head(write(net.b(net.a(x).tanh()), net.a(x)).tanh())


def _add_in_place(h, other):
    h += other
    return h


def _behind_autograd(net, x):
    h = net.a(x)
    h.data.mul_(2)
    return net.head(h.tanh())


def _in_no_grad(net, x):
    h = net.a(x)
    with torch.no_grad():
        h.mul_(2)
    return net.head(h.tanh())


def _one_by_one(net, x):
    return torch.stack([net.head(row.relu()) for row in net.a(x)])


# A forward pass, and the way that it takes; None where that doesn't matter.
HARD = {
    "relu in place": (lambda net, x: net.head(F.relu(net.b(F.relu(net.a(x), inplace=True)), True)), beside_outputs),
    "relu in place on a view": (lambda net, x: net.head(F.relu(net.a(x)[:, 1:], True)[:, [0, 1, 2, 0]]), None),
    "relu_": (lambda net, x: net.head(net.a(x).relu_()), None),
    "residual": (_residual(torch.add), beside_outputs),
    "scaled residual": (
        _residual(lambda h, other: torch.sub(torch.add(h, other, alpha=3), h, alpha=2)),
        beside_outputs,
    ),
    "residual +=": (_residual(_add_in_place), beside_outputs),
    "residual add_": (_residual(lambda h, other: h.add_(other, alpha=2)), beside_outputs),
    "residual add_, view": (_residual(lambda h, other: h[:, 1:].add_(other[:, 1:]).repeat(1, 2)[:, :4]), None),
    "broadcast sum": (lambda net, x: net.head(net.a(x) + net.b(x)[:, :1] + net.a.bias), beside_outputs),
    "sum with itself": (lambda net, x: (lambda h: net.head((h + h).tanh()))(net.a(x)), beside_outputs),
    "view, base added to": (_written(view="slice", write=lambda h, part, b: h.add_(b)), None),
    "view, base rectified": (_written(view="slice", write=lambda h, part, b: F.relu(h, True)), None),
    "view, view rectified": (_written(view="slice", write=lambda h, part, b: F.relu(part, True)), None),
    "view, view added to": (_written(view="slice", write=lambda h, part, b: part.add_(b[:, 1:3])), None),
    "flat view added to": (_written(view="flat", write=lambda h, part, b: part.add_(b.flatten())), None),
    "view scaled": (_written(view="slice", write=lambda h, part, b: part.mul_(b[:, :2])), None),
    "column written": (_written(view="slice", write=lambda h, part, b: h.__setitem__((..., 0), b[:, 1])), None),
    "no_grad": (_no_grad_inside, beside_outputs),
    "detach": (lambda net, x: net.head((net.a(x) + net.a(x).detach() * net.b(x)).tanh()), beside_outputs),
    "data": (lambda net, x: net.head((net.a(x) * net.a(x).data).tanh()), beside_outputs),
    "written behind autograd's back": (_behind_autograd, None),
    "written in no_grad": (_in_no_grad, None),
    "hook": (_with_hook, twice_backward),
    "Function": (lambda net, x: net.head(Cubed.apply(net.a(x))), forward_mode),
    "BatchNorm with a shift alone": (
        lambda net, x: net.head(
            F.batch_norm(net.a(x), net.b.bias.detach(), torch.ones_like(net.b.bias), None, net.b.bias)
        ),
        None,
    ),
    "output given": (lambda net, x: net.head(torch.add(net.a(x), net.b(x), out=None)), None),
    "constant output given": (
        lambda net, x: net.head(net.a(x)) + torch.add(x[:, :3], x[:, 1:], out=torch.empty_like(x[:, 1:])),
        None,
    ),
    "rows one by one": (_one_by_one, None),
    "named arguments": (
        lambda net, x: net.head(F.linear(input=x, weight=net.a.weight, bias=net.a.bias).add(other=net.b(x))),
        beside_outputs,
    ),
    "linear in a frozen bias": (
        lambda net, x: net.head(F.linear(x, net.a.weight, net.a.bias.detach())),
        beside_outputs,
    ),
    "frozen weight": (
        lambda net, x: net.head(F.linear(net.a(x).tanh(), net.b.weight.detach(), net.b.bias)),
        beside_outputs,
    ),
    "several outputs": (
        lambda net, x: net.head(torch.cat(net.a(x).chunk(2, 1)[::-1], 1).sort(1).values),
        beside_outputs,
    ),
    "checkpointed": (
        lambda net, x: net.head(checkpoint(lambda h: net.b(h).tanh(), net.a(x), use_reentrant=False)),
        None,
    ),
}


def layered(forward):
    torch.manual_seed(0)
    parts = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "head": nn.Linear(4, 3)}
    return Net(forward, **parts).double().eval()


@pytest.mark.parametrize("name", HARD)
def test_right_whichever_way_is_taken(name):
    forward, way = HARD[name]
    model, x = layered(forward), some_vectors(6, 4)
    linearized = moved(model)
    assert_linearized(linearized, model, x, jacobians(model, x))
    assert way is None or linearized._push is way


@pytest.mark.parametrize("first", [1, -1])
def test_a_network_whose_calls_depend_on_its_inputs(first):
    """What an earlier pass has shown of when tangents are used last doesn't hold for the next one."""

    def forward(net, x):
        h = k = net.a(x)
        for _ in range(4 if x.sum() > 0 else 1):
            k = net.b(k).tanh()
        return net.head(k + h) if x.sum() > 0 else net.head(h.relu() * k.sin())

    model = layered(lambda net, x: torch.cat([forward(net, row) for row in x.split(1)]))
    linearized, x = moved(model), some_vectors(6, 4).abs()
    for inputs in (first * x, -first * x, first * x[:2], torch.cat([x, -x])):
        assert_linearized(linearized, model, inputs, jacobians(model, inputs))
    assert linearized._push is beside_outputs


def test_attention_that_is_computed_again_in_the_backward_pass():
    def attend(net, x):
        q, k, v = net.qkv(x).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]

    def forward(net, x):
        return net.head(checkpoint(lambda h: attend(net, h), x, use_reentrant=False).mean(1))

    torch.manual_seed(0)
    model = Net(forward, qkv=nn.Linear(4, 12), head=nn.Linear(4, 3)).double().eval()
    x = torch.randn(5, 4, 4, dtype=torch.float64)
    assert_linearized(moved(model), model, x, jacobians(model, x))


# The module -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def partly_frozen():
    """A network with BatchNorm, a frozen layer and a parameter that has no effect; and images."""
    torch.manual_seed(0)
    images = torch.randn(6, 1, 8, 8)
    return settled(partly_frozen_network(image_shape=(1, 8, 8), classes=4), images), images.double()


def test_the_offset_is_all_that_trains(partly_frozen):
    model, x = partly_frozen
    linearized = linearize(model)
    wanted = [p for p in linearized.parameters() if p.requires_grad]
    assert [*map(id, wanted)] == [*map(id, linearized.offset)]
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert len(trainable) < len(list(model.parameters()))
    assert bits(linearized.expansion_point) == bits(trainable)
    assert bits(list(linearized.offset)) == bits([torch.zeros_like(p) for p in trainable])
    assert torch.equal(linearized(x), model(x))
    linearized(x).square().sum().backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad].index("unused")
    assert [part.grad is None for part in linearized.offset] == [i == unused for i in range(len(trainable))]
    assert all(p.grad is None for p in (*linearized.model.parameters(), *model.parameters()))


def test_training_changes_neither_the_network_nor_what_was_linearised(partly_frozen):
    model, x = partly_frozen
    before, settings = bits(model.state_dict()), [p.requires_grad for p in model.parameters()]
    linearized = linearize(model)
    optimizer = torch.optim.SGD(linearized.offset, lr=0.1)
    for _ in range(3):
        assert linearized.train() is linearized
        assert linearized.training
        assert not any(module.training for module in (*linearized.model.modules(), *model.modules()))
        linearized(x).square().sum().backward()
        optimizer.step()
    assert bits(model.state_dict()) == bits(linearized.model.state_dict()) == before
    assert [p.requires_grad for p in model.parameters()] == settings
    outputs = linearized(x).detach()
    assert not torch.equal(outputs, model(x))
    assert torch.equal(linearized.eval()(x), outputs)
    model.output.weight.data.zero_()
    assert torch.equal(linearized(x), outputs)
    with torch.no_grad():
        assert torch.equal(linearized(x), outputs)
        assert not linearized(x).requires_grad
    assert linearized(x).requires_grad


def test_saved_and_copied(partly_frozen):
    model, x = partly_frozen
    linearized = moved(model)
    outputs = linearized(x)
    twin = copy.deepcopy(linearized)
    other = linearize(partly_frozen_network(image_shape=(1, 8, 8), classes=4).double().eval())
    origin = other.expansion_point
    assert not torch.equal(other(x), outputs)
    other.load_state_dict(linearized.state_dict())
    for one in (twin, other):
        assert bits(one.state_dict()) == bits(linearized.state_dict())
        assert torch.equal(one(x), outputs)
    assert bits(origin) == bits(linearized.expansion_point)
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in linearized.parameters()]
    outputs.sum().backward()
    for one in (twin, other):
        assert all(part.grad is None for part in one.offset)
        one.offset[-1].data.add_(1)
        assert not torch.equal(one(x), outputs)
    assert torch.equal(linearized(x), outputs)


def test_everything_else_is_left_as_found():
    model, x = fresh("dropout_and_hooks")
    before = bits([torch.get_rng_state(), x, model.state_dict(), torch.backends.mha.get_fastpath_enabled()])
    flash = torch.backends.cuda.flash_sdp_enabled()
    inputs = x.requires_grad_()
    linearize(model)(inputs).sum().backward()
    assert inputs.grad is None
    after = bits([torch.get_rng_state(), x, model.state_dict(), torch.backends.mha.get_fastpath_enabled()])
    assert (after, torch.backends.cuda.flash_sdp_enabled()) == (before, flash)


def test_a_graph_can_be_used_again_but_not_differentiated_twice():
    model, x = fresh("perceptron")
    linearized = moved(model)
    loss = linearized(x).square().sum()
    once, again = (torch.autograd.grad(loss, list(linearized.offset), retain_graph=True) for _ in range(2))
    assert bits(once) == bits(again)
    (gradient, *_) = torch.autograd.grad(loss, list(linearized.offset), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_inference_mode():
    model, x = fresh("perceptron")
    linearized = moved(model)
    expected = linearized(x).detach()
    for one in (linearized, moved(model)):
        with torch.inference_mode():
            assert torch.equal(one(x.clone()), expected)
        assert_linearized(one, model, x, reference("perceptron"))


def test_parameters_that_nothing_depends_on():
    linearized = moved(Net(lambda net, x: 2 * x, p=nn.Parameter(torch.ones(3))).eval())
    x = torch.randn(5, 2)
    outputs = linearized(x)
    assert torch.equal(outputs, 2 * x)
    outputs.sum().backward()
    assert linearized.offset[0].grad is None


def test_refused_networks():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(ModelError, match=r"call model.eval\(\)"):
        linearize(model)
    with pytest.raises(ModelError, match=r"call model.eval\(\)"):
        linearize(model.eval().train())
    with pytest.raises(ModelError, match="no trainable parameter"):
        linearize(copy.deepcopy(model).eval().requires_grad_(False))
    model[2].double()
    with pytest.raises(ModelError, match="all be float32 or all float64"):
        linearize(model.eval())


REFUSED_AT_FIRST = {
    "batch statistics": (
        lambda net, x: net.head(F.batch_norm(net.a(x), None, None, training=True)),
        "fails on a single example",
    ),
    "batch statistics of maps": (
        lambda net, x: net.head(F.batch_norm(net.a(x)[..., None] * x[:, None], None, None, training=True).mean(2)),
        "depends on the others",
    ),
    "coupled": (lambda net, x: net.head(net.a(x) - net.a(x).mean(0)), "depends on the others"),
    "random": (lambda net, x: net.head(x) + torch.randn(len(x), 3), "or on chance"),
    "once only": (lambda net, x: net.head(OnceOnly.apply(net.a(x))), "Tangents beside outputs: .*Forward mode: .*Two"),
    "NaN": (lambda net, x: net.head(net.a(x)) / 0, "outputs contain NaN"),
    "three axes": (lambda net, x: net.head(x)[..., None], r"must return \(1, K\), got \(1, 3, 1\)"),
}


@pytest.mark.parametrize("name", REFUSED_AT_FIRST)
def test_networks_refused_at_the_first_call(name):
    forward, message = REFUSED_AT_FIRST[name]
    linearized = linearize(layered(forward))
    for _ in range(2):
        with pytest.raises(ModelError, match=message):
            linearized(some_vectors(6, 4))
