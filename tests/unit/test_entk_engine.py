"""The kernel engine on networks that are made to break it, against gradients one by one in float64."""

import contextlib
import gc
import weakref

import pytest
import torch
from entk_networks import EXAMPLES, NETWORKS, Net, build, by_owner, contracted, fresh, jacobians, reduced, reference
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from twophase import entk
from twophase.entk import by_logit, empirical_ntk, engine, plan
from twophase.entk.costs import deferred_cost, jacobian_cost, structured_cost
from twophase.entk.plan import Blocks
from twophase.errors import ModelError

pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
]

DTYPES = [torch.float64, torch.float32]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
ROWS_BY_VALUE = ["routed_rows", "routed_tokens", "sorted_rows"]
SOME = ["conv_stack", "vision_transformer", "video_time_major", "token_transformer", "tied_kinds", "routed_rows"]

every_network = pytest.mark.parametrize("name", NETWORKS)
some_networks = pytest.mark.parametrize("name", SOME)
both_functions = pytest.mark.parametrize("function", ["empirical_ntk", "layer_kernels"])


def assert_close(value, expected, tolerance=1e-9, floor=0.0):
    """Relative Frobenius error; ``floor`` is a norm below which errors don't count."""
    assert value.shape == expected.shape
    assert not value.requires_grad
    error, norm = float((value.double() - expected).norm()), float(expected.norm())
    assert error <= tolerance * (norm + floor), f"relative error {error / (norm + floor):.2g}"


def assert_symmetric(value):
    """Symmetric to the bit, and no negative eigenvalue but for rounding."""
    flat = value.flatten(0, 1).flatten(1) if value.ndim == 4 else value
    assert torch.equal(flat, flat.T)
    eigenvalues = torch.linalg.eigvalsh(flat.double())
    assert eigenvalues[0] >= -1e-6 * eigenvalues[-1]


def least_budget(function, *arguments, **options):
    """The budget that the engine asks for when it's given none."""
    with pytest.raises(ValueError, match="needs at least") as error:
        function(*arguments, **options, memory_budget=1)
    return int(str(error.value).split("needs at least ")[1].split()[0].rstrip(".,;").replace(",", ""))


def last_logit(name):
    return next(iter(reference(name).values())).shape[1] - 1


def snapshot(model, inputs):
    """Everything that the engine must leave as found."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers()), "inputs": inputs}
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "values": [t.detach().clone() for t in (*tensors.values(), *(t.grad for t in tensors.values() if t.is_leaf))
                   if t is not None] + [torch.get_rng_state()],
        "others": [(id(t), id(t.grad), t.requires_grad, t._backward_hooks) for t in tensors.values()]
        + [(m.training, sorted(vars(m)), *(len(getattr(m, hook)) for hook in hooks)) for m in model.modules()]
        + [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()]
        + [torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul.fp32_precision],
    }  # fmt: skip


def assert_unchanged(before, after):
    assert before["others"] == after["others"]
    assert all(map(torch.equal, before["values"], after["values"]))


# Every network --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@every_network
def test_full_kernel_and_trace(name, dtype):
    model, x = fresh(name, dtype)
    for kernel in ("full", "trace") if dtype == torch.float64 else ("full",):
        value = empirical_ntk(model, x[:7], kernel=kernel)
        assert value.dtype == dtype
        assert_symmetric(value)
        assert_close(value, contracted(reference(name), kernel, slice(7)), TOLERANCE[dtype])


@pytest.fixture(params=[structured_cost, deferred_cost])
def logit_by_logit(request, monkeypatch):
    """Traces are computed logit by logit wherever that is possible, three examples at a time; notes how often."""
    seen = []

    def cheapest(shape, rates, *numbers):
        return (request.param if shape.features.groups == 1 else jacobian_cost)(shape, rates)

    def cut(work, budget):
        work.plan = work._planned(by_logit=True)
        seen.append(work.plan.by_logit)
        return Blocks(work.sizes.n, 3, 3)

    monkeypatch.setattr(by_logit, "SUM_BYTES", 0)
    monkeypatch.setattr(plan, "cheapest", cheapest)
    monkeypatch.setattr(engine._Work, "_cut", cut)
    return seen


@every_network
def test_traces_logit_by_logit(name, logit_by_logit):
    model, x = fresh(name)
    done = []
    value = empirical_ntk(model, x[:7], kernel="trace", progress=done.append)
    assert_symmetric(value)
    assert_close(value, contracted(reference(name), "trace", slice(7)))
    assert done == sorted(done)
    assert done[-1] == 28
    assert_close(sum(entk.layer_kernels(model, x[:7], kernel="trace").values()), value)


@pytest.mark.parametrize(
    ("logit_by_logit", "name"),
    [
        *((deferred_cost, name) for name in ("token_transformer", "vision_transformer", "attention_by_einsum")),
        (structured_cost, "perceptron"),
    ],
    indirect=["logit_by_logit"],
)
def test_these_can_be_taken_logit_by_logit(name, logit_by_logit):
    """Else the test above says nothing of them."""
    model, x = fresh(name)
    empirical_ntk(model, x, kernel="trace")
    assert logit_by_logit == [True]


@every_network
def test_summed_logits_and_one_logit(name):
    full = contracted(reference(name), "full", slice(7))
    for kernel, dtype in (("sum", torch.float64), (last_logit(name), torch.float32)):
        model, x = fresh(name, dtype)
        value = empirical_ntk(model, x[:7], kernel=kernel)
        assert value.dtype == dtype
        assert_symmetric(value)
        # Summed logits can cancel: log-probabilities have a sum, but no gradient in some directions.
        assert_close(value, reduced(full, kernel), TOLERANCE[dtype], floor=1e-3 * full.norm())


@every_network
def test_any_number_of_examples(name):
    """Among them those that equal the number of tokens, channels or logits."""
    model, x = fresh(name)
    for n in (1, 2, 4):
        value = empirical_ntk(model, x[:n])
        assert_symmetric(value)
        assert_close(value, contracted(reference(name), "full", slice(n)))


@every_network
def test_rectangular_kernels(name):
    model, x = fresh(name)
    for kernel, rows, columns in (("full", slice(3), slice(3, 8)), ("trace", slice(5), slice(5, 6))):
        value = empirical_ntk(model, x[rows], other_inputs=x[columns], kernel=kernel)
        assert_close(value, contracted(reference(name), kernel, rows, columns))


@every_network
def test_rectangular_sum_and_one_logit(name):
    model, x = fresh(name)
    scale = contracted(reference(name), "full").norm()
    for kernel, rows, columns in (("sum", slice(1), slice(8)), (0, slice(2, 8), slice(4))):
        value = empirical_ntk(model, x[rows], other_inputs=x[columns], kernel=kernel)
        assert_close(value, contracted(reference(name), kernel, rows, columns), floor=1e-3 * scale)


@every_network
def test_order_repetition_and_zeros_of_examples(name):
    """Examples in another order, some of them twice, some zero: values don't tell which rows are whose."""
    model, x = fresh(name)
    zeros = torch.zeros_like(x[:1])
    at_zero = jacobians(model, zeros)
    order = [3, 8, 0, 3, 8, 7, 1]
    gradients = {key: torch.cat([g, at_zero[key]])[order] for key, g in reference(name).items()}
    value = empirical_ntk(model, torch.cat([x, zeros])[order])
    assert_symmetric(value)
    assert_close(value, contracted(gradients, "full"))


@every_network
def test_memory_budgets(name):
    model, x = fresh(name)
    for kernel, factor in (("full", 1), ("trace", 4)):
        budget = factor * least_budget(empirical_ntk, model, x[:4], kernel=kernel)
        if name in ROWS_BY_VALUE:  # what it needs shows on the way
            budget *= 10
        value = empirical_ntk(model, x[:4], kernel=kernel, memory_budget=budget)
        assert_symmetric(value)
        assert_close(value, contracted(reference(name), kernel, slice(4)))


@every_network
def test_kernels_of_layers(name):
    model, x = fresh(name)
    kernel = "full" if name in SOME else "trace"
    layers = entk.layer_kernels(model, x[:5], kernel=kernel)
    groups = by_owner(reference(name))
    unused = {owner for owner, gradients in groups.items() if not any(g.any() for g in gradients.values())}
    assert set(groups) - unused <= set(layers) <= set(groups)
    total = contracted(reference(name), kernel, slice(5))
    for owner, value in layers.items():
        assert value.dtype == torch.float64
        assert_symmetric_layer(value, total)
        assert_close(value, contracted(groups[owner], kernel, slice(5)), floor=1e-6 * total.norm())
    assert_close(sum(layers.values()), total)


def assert_symmetric_layer(value, total):
    """Rounding of a layer whose gradient is zero is no eigenvalue."""
    flat = value.flatten(0, 1).flatten(1) if value.ndim == 4 else value
    assert torch.equal(flat, flat.T)
    assert torch.linalg.eigvalsh(flat)[0] >= -1e-9 * total.norm()


@every_network
def test_everything_is_left_as_found(name):
    model, x = fresh(name)
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    before = snapshot(model, x)
    empirical_ntk(model, x[:3], kernel="trace")
    assert_unchanged(before, snapshot(model, x))


# Some networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["full", "sum"])
@some_networks
def test_number_type_of_the_result(name, kernel):
    for dtype in DTYPES:
        model, x = fresh(name, dtype)
        expected = contracted(reference(name), kernel)
        for asked in (None, *DTYPES):
            value = empirical_ntk(model, x, kernel=kernel, dtype=asked)
            assert value.dtype == (asked or dtype)
            assert_symmetric(value)
            lowest = torch.float32 if torch.float32 in (asked, dtype) else torch.float64
            assert_close(value, expected, TOLERANCE[lowest])


@pytest.mark.parametrize("kernel", ["sum", 1])
@some_networks
def test_layers_of_other_kernels(name, kernel):
    model, x = fresh(name, torch.float32)
    square = entk.layer_kernels(model, x[:6], kernel=kernel, dtype=torch.float64)
    rectangular = entk.layer_kernels(model, x[:4], other_inputs=x[4:], kernel=kernel)
    assert {value.dtype for value in square.values()} == {torch.float64}
    assert {value.dtype for value in rectangular.values()} == {torch.float32}
    floor = contracted(reference(name), "trace").norm()
    for owner, gradients in by_owner(reference(name)).items():
        assert torch.equal(square[owner], square[owner].T)
        assert_close(square[owner], contracted(gradients, kernel, slice(6)), 1e-4, floor)
        assert_close(rectangular[owner], contracted(gradients, kernel, slice(4), slice(4, 8)), 1e-4, floor)


@some_networks
def test_layers_within_a_budget(name):
    model, x = fresh(name)
    least = least_budget(entk.layer_kernels, model, x)
    for budget in (least, 4 * least, None):
        layers = entk.layer_kernels(model, x, memory_budget=budget)
        for owner, gradients in by_owner(reference(name)).items():
            assert_close(layers[owner], contracted(gradients, "full"))


@some_networks
def test_tensor_cores_are_no_concern_of_the_cpu(name):
    model, x = fresh(name, torch.float32)
    before = snapshot(model, x)
    for tf32 in (False, True):
        assert_close(empirical_ntk(model, x, tf32=tf32), contracted(reference(name), "full"), 1e-4)
    layers = entk.layer_kernels(model, x, tf32=True)
    assert_close(sum(layers.values()), contracted(reference(name), "full"), 1e-4)
    assert_unchanged(before, snapshot(model, x))


@pytest.mark.parametrize("kernel", ["full", "trace"])
@pytest.mark.parametrize("name", ["perceptron", "conv_stack", "video_time_major", "many_logits", "token_transformer"])
def test_more_examples_than_are_differentiated_together(name, kernel):
    """45 examples: blocks of several sizes, and more than 512 rows where there are many logits."""
    model, _ = build(name)
    torch.manual_seed(1)
    x = NETWORKS[name][1](45)
    x = x.double() if x.is_floating_point() else x
    gradients = jacobians(model, x)
    for budget in (None, 8 * least_budget(empirical_ntk, model, x, kernel=kernel)):
        value = empirical_ntk(model, x, kernel=kernel, memory_budget=budget)
        assert_symmetric(value)
        assert_close(value, contracted(gradients, kernel))
    value = empirical_ntk(model, x[:20], other_inputs=x[20:], kernel=kernel)
    assert_close(value, contracted(gradients, kernel, slice(20), slice(20, 45)))


@pytest.mark.parametrize("name", ["conv_stack", "tied_kinds", "vision_transformer"])
def test_callers_do_not_matter(name):
    model, x = fresh(name, torch.float32)
    expected = contracted(reference(name), "full")
    for context in (
        torch.inference_mode(),
        torch.no_grad(),
        torch.enable_grad(),
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.autograd.set_detect_anomaly(True),
        torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
    ):
        with context:
            assert_close(empirical_ntk(model, x.clone()), expected, 1e-4)


@some_networks
def test_layout_of_inputs_does_not_matter(name):
    model, x = fresh(name)
    expected = contracted(reference(name), "full")
    strided = torch.stack([x, x + 1], dim=-1)[..., 0]
    reversed_axes = x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))
    for inputs in (strided, reversed_axes, torch.cat([x, x])[EXAMPLES:]):
        assert_close(empirical_ntk(model, inputs), expected)
    one = empirical_ntk(model, x[:1].expand(4, *x.shape[1:]), kernel="trace")
    assert_close(one, contracted(reference(name), "trace", [0] * 4))
    if x.is_floating_point():
        leaf = nn.Parameter(x.clone())
        assert_close(empirical_ntk(model, leaf), expected)
        assert leaf.grad is None
    if x.ndim == 4:
        images = x.to(memory_format=torch.channels_last)
        assert_close(empirical_ntk(model.to(memory_format=torch.channels_last), images), expected)


@pytest.mark.parametrize("name", SOME[-2:])
def test_nothing_is_kept_of_a_network(name):
    model, x = fresh(name)
    parameter = weakref.ref(next(model.parameters()))
    empirical_ntk(model, x)
    entk.layer_kernels(model, x)
    del model
    gc.collect()
    assert parameter() is None


def test_names_of_layers():
    owners = {
        "gain_only": {""},
        "tied_layers": {"encoder", "decoder", "head"},
        "token_transformer": {"embedding", "position"},
        "parameter_list": {"weights", "scales"},
        "only_last_bias": {"8"},
        "weight_norm": {"0", "0.parametrizations.weight"},
    }
    for name, expected in owners.items():
        model, x = fresh(name)
        assert expected <= set(entk.layer_kernels(model, x[:2]))
    assert "head" not in entk.layer_kernels(*fresh("token_transformer"))  # its weight is the embedding's


def test_networks_follow_their_parameters():
    """Values, frozen parameters and modes may change from one call to the next."""
    model, x = fresh("conv_stack")
    empirical_ntk(model, x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model[0].weight.requires_grad_(False)
    expected = contracted(jacobians(model, x), "full")
    assert_close(empirical_ntk(model, x), expected)
    assert set(entk.layer_kernels(model, x)) == {"0", "3", "5"}
    model[0].bias.requires_grad_(False)
    assert set(entk.layer_kernels(model, x)) == {"3", "5"}


# Examples of which most are alike ------------------------------------------------------------------------------------


def rare(x):
    return x[:, 0, 0] > 4


def other_layer(net, x):
    h = net.a(x).tanh().mean(1)
    if rare(x).any():
        h[rare(x)] = net.b(x[rare(x)]).tanh().mean(1)
    return net.head(h)


def other_order(net, x):
    order = x[:, 0, 1].argsort() if rare(x).any() else torch.arange(len(x))
    return net.head(net.a(x[order]).tanh().mean(1)[order.argsort()])


def one_more_call(net, x):
    h = net.a(x).tanh()
    if rare(x).any():
        h = torch.where(rare(x)[:, None, None], net.a(h).tanh(), h)
    return net.head(h.mean(1))


def one_by_one(net, x):
    h = torch.stack([net.a(row) for row in x]) if rare(x).any() else net.a(x)
    return net.head(h.tanh().mean(1))


def others_dead(net, x):
    h = net.a(x.transpose(0, 1).flatten(0, 1)).tanh().unflatten(0, (4, len(x)))
    return net.head(h.mean(0)) * rare(x)[:, None]


def order_by_number(net, x):
    h = net.a(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (4, len(x))).transpose(0, 1) if len(x) > 11 else net.a(x)
    return net.head(h.tanh().mean(1))


def flipped_by_number(net, x):
    h = net.a(x.flip(0)).flip(0) if len(x) > 11 else net.a(x)
    return net.head(h.tanh().mean(1))


RARE = [other_layer, other_order, one_more_call, one_by_one, others_dead, order_by_number, flipped_by_number]


@pytest.mark.parametrize("where", [0, 23])
@pytest.mark.parametrize("forward", RARE)
def test_one_example_of_many_is_unlike_the_others(forward, where):
    """What was seen on a few examples needn't hold for all."""
    torch.manual_seed(0)
    model = Net(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4), head=nn.Linear(4, 3)).double().eval()
    x = torch.randn(40, 4, 4, dtype=torch.float64)
    x[where, 0, 0] = 5
    gradients = jacobians(model, x)
    value = empirical_ntk(model, x)
    assert_symmetric(value)
    assert_close(value, contracted(gradients, "full"))
    least = least_budget(empirical_ntk, model, x[20:], other_inputs=x, kernel="trace")
    value = empirical_ntk(model, x[20:], other_inputs=x, kernel="trace", memory_budget=4 * least)
    assert_close(value, contracted(gradients, "trace", slice(20, 40), slice(40)))


def test_another_factor_where_nobody_looked():
    """A factor read off one pass isn't taken for that of another."""
    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.head(F.linear(x, net.a.weight * (2.0 if rare(x).any() else 1.0)).tanh().mean(1)),
        **{"a": nn.Linear(4, 4), "head": nn.Linear(4, 3)},
    )
    model, x = model.double().eval(), torch.randn(40, 4, 4, dtype=torch.float64).clamp(max=3)
    x[23, 0, 0] = 5
    assert_close(empirical_ntk(model, x), contracted(jacobians(model, x), "full"))


# What can't be right must be refused ----------------------------------------------------------------------------------


def vectors(n=6):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def layered(forward, **parts):
    torch.manual_seed(0)
    return Net(forward, a=nn.Linear(4, 4), head=nn.Linear(4, 3), **parts).double().eval()


def across_examples(net, x):
    return net.head(net.attention(x[:, None], x[:, None], x[:, None])[0][:, 0])


def behind_zero_head(net, x):
    h = net.a(x)
    return (h - h.mean(0)).tanh() @ net.zero


COUPLED = {
    "batch statistics": lambda net, x: net.head(F.batch_norm(net.a(x), None, None, training=True)),
    "a batch norm module": lambda net, x: net.head(net.norm(net.a(x))),
    "attention across examples": across_examples,
    "centred outputs": lambda net, x: net.head(x) - net.head(x).mean(0),
    "centred hidden layer": lambda net, x: net.head((net.a(x) - net.a(x).mean(0)).tanh()),
    "centred behind a zero head": behind_zero_head,
    "softmax over examples": lambda net, x: net.head(net.a(x).softmax(0)),
    "cumulative sum": lambda net, x: net.head(net.a(x).cumsum(0).tanh()),
    "neighbours": lambda net, x: net.head(x) + 0.1 * net.head(x).roll(1, 0),
    "weak": lambda net, x: net.head(x) + 1e-3 * net.a(x).sum(0)[:3],
    "number of examples": lambda net, x: net.head(x) / len(x),
    "gradient alone": lambda net, x: net.head(x) + (lambda s: s - s.detach())(net.a(x).sum(0)[:3]),
    "whole norm": lambda net, x: net.head(net.a(x) / net.a(x).norm()),
    "random": lambda net, x: net.head(F.dropout(net.a(x), 0.5, training=True)),
}


@both_functions
@pytest.mark.parametrize("case", COUPLED)
def test_refuses_coupled_examples(case, function):
    norm, zero = nn.BatchNorm1d(4, track_running_stats=False), nn.Parameter(torch.zeros(4, 3))
    model = layered(COUPLED[case], norm=norm, zero=zero, attention=nn.MultiheadAttention(4, 1, batch_first=False))
    x = vectors()
    before = snapshot(model, x)
    for kernel in ("full", "trace"):
        with pytest.raises(ModelError, match=r"depends on the others|fails on a single example"):
            getattr(entk, function)(model, x, kernel=kernel)
    assert_unchanged(before, snapshot(model, x))


OUTPUTS = {
    "no axis of logits": (lambda net, x: net.head(x)[:, 0], r"\(1, K\), got \(1,\)"),
    "three axes": (lambda net, x: net.head(x)[..., None], r"\(1, K\), got \(1, 3, 1\)"),
    "no logits": (lambda net, x: net.head(x)[:, :0], r"got \(1, 0\)"),
    "one row": (lambda net, x: net.head(x)[:1], r"For 3 inputs the network must return \(3, K\)"),
    "rows twice": (lambda net, x: net.head(x).repeat(len(x), 1), r"For 3 inputs the network must return \(3, K\)"),
    "a tuple": (lambda net, x: (net.head(x),), "one tensor .n, K., got tuple"),
    "nothing": (lambda net, x: None, "one tensor .n, K., got NoneType"),
    "integers": (lambda net, x: net.head(x).argmax(1, keepdim=True), "outputs are of torch.int64"),
    "other precision": (lambda net, x: net.head(x).float(), "outputs are of torch.float32"),
    "NaN": (lambda net, x: net.head(x) * torch.nan, "NaN or infinity"),
    "infinite": (lambda net, x: net.head(x) / 0, "NaN or infinity"),
    "infinite gradient": (lambda net, x: (0 * net.head(x)).abs().sqrt(), "NaN or infinity"),
    "failing": (lambda net, x: net.head(x[:, :2]), "fails on a single example"),
}


@both_functions
@pytest.mark.parametrize("case", OUTPUTS)
def test_refuses_outputs(case, function):
    forward, message = OUTPUTS[case]
    for kernel in ("full", "trace"):
        with pytest.raises(ModelError, match=message):
            getattr(entk, function)(layered(forward), vectors(), kernel=kernel)


@pytest.mark.parametrize("where", range(0, 40, 3))
def test_refuses_one_bad_input_wherever_it_is(where):
    model, x = layered(lambda net, x: net.head(net.a(x).tanh())), vectors(40)
    bad = x.clone()
    bad[where, 1] = torch.nan if where % 2 else torch.inf
    for arguments in ({}, {"kernel": "trace", "memory_budget": 20_000_000}):
        with pytest.raises((ModelError, ValueError), match="NaN or infinity"):
            empirical_ntk(model, bad, **arguments)
        with pytest.raises((ModelError, ValueError), match="NaN or infinity"):
            empirical_ntk(model, x[:2], other_inputs=bad, **arguments)


def test_refuses_bad_parameters():
    model = layered(lambda net, x: net.head(net.a(x).relu()))
    with torch.no_grad():
        model.a.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="NaN or infinity"):
        empirical_ntk(model, vectors())


@both_functions
def test_refuses_training_mode(function):
    model = layered(lambda net, x: net.head(x))
    for module, name in ((model.a, "a"), (model, "the network itself")):
        module.train()
        with pytest.raises(ModelError, match=rf"call model.eval\(\).*{name}"):
            getattr(entk, function)(model, vectors())


ARGUMENTS = {
    "a fourth logit": ({"kernel": 3}, r"\b3\b"),
    "a logit far out": ({"kernel": 17}, "17"),
    "unknown kernel": ({"kernel": "diagonal"}, "diagonal"),
    "half a logit": ({"kernel": 1.5}, r"1\.5"),
    "no kernel": ({"kernel": None}, "None"),
    "float16": ({"dtype": torch.float16}, r"torch\.float16"),
    "bfloat16": ({"dtype": torch.bfloat16}, r"torch\.bfloat16"),
    "int64": ({"dtype": torch.int64}, r"torch\.int64"),
    "complex128": ({"dtype": torch.complex128}, r"torch\.complex128"),
    "no memory": ({"memory_budget": 0}, "positive number of bytes, got 0"),
    "negative memory": ({"memory_budget": -5}, "positive number of bytes, got -5"),
    "little memory": ({"memory_budget": 1}, "needs at least"),
    "no inputs": ({"inputs": vectors()[:0]}, "at least one example"),
    "no other inputs": ({"other_inputs": vectors()[:0]}, "at least one example"),
    "a number": ({"inputs": vectors()[0, 0]}, "at least one example"),
    "float32 inputs": ({"inputs": vectors().float()}, r"inputs is of torch\.float32"),
    "float32 other inputs": ({"other_inputs": vectors().float()}, r"other_inputs is of torch\.float32"),
    "complex inputs": ({"inputs": vectors().to(torch.complex128)}, r"inputs is of torch\.complex128"),
    "inputs elsewhere": ({"inputs": vectors().to("meta")}, "inputs is on meta"),
    "other inputs elsewhere": ({"other_inputs": vectors().to("meta")}, "other_inputs is on meta"),
}


@both_functions
@pytest.mark.parametrize("case", ARGUMENTS)
def test_refuses_arguments(case, function):
    arguments, message = ARGUMENTS[case]
    with pytest.raises(ValueError, match=message):
        getattr(entk, function)(layered(lambda net, x: net.head(x)), **{"inputs": vectors()} | arguments)


@both_functions
def test_refuses_models_without_a_kernel(function):
    def forward(net, x):
        return net.head(x)

    half = layered(forward)
    half.head.half()
    elsewhere = layered(forward)
    elsewhere.a.to("meta")
    refused = [
        (layered(forward).requires_grad_(False), "no trainable parameter"),
        (nn.Flatten().eval(), "no trainable parameter"),
        (half, r"all be float32 or all float64, got torch\.float16, torch\.float64"),
        (layered(forward).bfloat16(), r"all be float32 or all float64, got torch\.bfloat16"),
        (elsewhere, "on one device, got cpu, meta"),
    ]
    for model, message in refused:
        with pytest.raises(ModelError, match=message):
            getattr(entk, function)(model, vectors())


class Stop(Exception):
    """What a network raises in the middle."""


@pytest.mark.parametrize("calls", [1, 2, 5, 9])
def test_failures_leave_everything_as_found(calls):
    count = []

    def forward(net, x):
        count.append(x)
        net.seen += 1
        if len(count) >= calls:
            raise Stop
        return net.head(net.a(x))

    model, x = layered(forward, seen=torch.zeros(())), vectors()
    before = snapshot(model, x)
    with contextlib.suppress(Stop, ModelError):
        empirical_ntk(model, x)
    assert_unchanged(before, snapshot(model, x))


def changes_its_input(net, x):
    return net.head(net.a(x.mul_(2)).tanh())


def clamps_its_weights(net, x):
    net.a.weight.data.clamp_(-0.1, 0.1)
    return net.head(net.a(x).tanh())


def changes_weights_for_many(net, x):
    if len(x) > 5:
        with torch.no_grad():
            torch._foreach_mul_([net.head.bias, net.a.weight[0]], 2)
    return net.head(net.a(x).tanh())


def changes_weights_under_its_parameters(net, x):
    if len(x) > 5:
        net.row.mul_(2)
    return net.head(net.a(x).tanh())


class Counting(torch.autograd.Function):
    """The identity, with a gradient divided by the number of rows."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / len(gradient)


RIGHT_OR_REFUSED = {
    "input changed in place": (changes_its_input, {}),
    "gradients by frequency": (
        lambda net, x: net.head(net.table((x[:, :2] > 0).long()).tanh().mean(1)),
        {"table": lambda: nn.Embedding(2, 4, scale_grad_by_freq=True)},
    ),
    "weights changed in place": (
        lambda net, x: net.head(net.table((x[:, :2] > 0).long()).tanh().mean(1)),
        {"table": lambda: nn.Embedding(2, 4, max_norm=0.5)},
    ),
    "weights clamped in place": (clamps_its_weights, {}),
    "checkpoint that hides its graph": (
        lambda net, x: net.head(checkpoint(lambda h: net.a(h).tanh(), x, use_reentrant=True)),
        {},
    ),
    "another path for many examples": (
        lambda net, x: net.head(net.a(x).tanh() if len(x) < 3 else torch.stack([net.a(row).tanh() for row in x])),
        {},
    ),
    "gradient that counts the rows": (lambda net, x: net.head(Counting.apply(net.a(x).tanh())), {}),
    "outputs without parameters": (lambda net, x: x[:, :3], {}),
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("case", RIGHT_OR_REFUSED)
def test_is_right_or_refuses(case):
    forward, parts = RIGHT_OR_REFUSED[case]
    model, x = layered(forward, **{part: make() for part, make in parts.items()}), vectors()
    expected = contracted(jacobians(model, x), "full")
    before = snapshot(model, x)
    with contextlib.suppress(ModelError):
        assert_close(empirical_ntk(model, x), expected)
    assert_unchanged(before, snapshot(model, x))


def test_never_writes_into_parameters():
    """Not even where only some inputs make the network do it."""
    aliased = layered(changes_weights_under_its_parameters)
    aliased.row = aliased.a.weight.detach()[0]
    for model in (layered(changes_weights_for_many), aliased):
        before = snapshot(model, x := vectors(12))
        with pytest.raises(ModelError, match=r"writes into its parameter (head.bias|a.weight)"):
            empirical_ntk(model, x)
        assert_unchanged(before, snapshot(model, x))
