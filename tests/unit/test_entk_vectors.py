"""Products of kernels with vectors, against gradients one by one and full kernels in float64."""

import subprocess
import sys
import textwrap

import pytest
import torch
from entk_networks import Net, contracted, fresh, jacobians, reference
from torch import nn

from twophase.entk import empirical_ntk, vectors
from twophase.entk.vectors import kernel_product
from twophase.errors import ModelError

FORWARD = [
    "conv_stack", "u_net", "two_conv_settings", "examples_as_groups", "transposed2d_groups", "conv3d",
    "batch_norm_2d", "group_norm", "instance_norm", "layer_norm_of_vectors", "rms_norm", "prelu",
    "attention_batch_first", "fused_attention", "transformer_norm_last", "vision_transformer", "token_transformer",
    "embedding", "tied_layers", "tied_kinds", "siamese", "hyper_network", "spectral_norm", "lstm", "gru",
    "routed_rows", "in_place", "packed_attention", "video_time_major", "only_biases", "unused_layers", "zero_head",
    "dead_layers", "parameter_list", "straight_through", "log_probabilities", "one_logit", "fourier_filters",
    "module_of_two_names", "attention_by_einsum", "gradient_of_inputs", "double_inside",
    "checkpointed", "branching", "counting_calls",
]  # fmt: skip
# No forward-mode rule, or one that doesn't give what backward passes do: a hook, a padded embedding.
TWICE = ["custom_backward", "weight_norm", "packed_sequences", "hooked_gradient", "embedding_padded"]


def some_vectors(n, classes, *several):
    return torch.randn(n, classes, *several, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def product(kernel, v):
    return torch.tensordot(kernel, v, dims=2)


def assert_close(value, expected, tolerance=1e-9):
    assert value.shape == expected.shape
    assert not value.requires_grad
    assert float((value.double() - expected).norm()) <= tolerance * float(expected.norm())


@pytest.fixture
def used(monkeypatch):
    """Names of the ways of computing J u that were taken, the trial included."""
    names = set()
    for name, push in vectors.PUSHES.items():
        monkeypatch.setitem(vectors.PUSHES, name, lambda *a, f=push, name=name: (names.add(name), f(*a))[1])
    return names


@pytest.mark.parametrize("name", FORWARD + TWICE)
def test_several_vectors(name, used):
    model, x = fresh(name)
    kernel = contracted(reference(name), "full")
    v = some_vectors(*kernel.shape[:2], 3)
    value = kernel_product(model, x, v)
    assert value.dtype == torch.float64
    assert_close(value, product(kernel, v))
    assert_close(kernel_product(model, x, v[..., 1]), value[..., 1], 1e-12)
    assert used == {"Forward mode"} | ({"Two backward passes"} if name in TWICE else set())


def test_the_kernel_engine_says_the_same():
    for name in ("conv_stack", "token_transformer"):
        model, x = fresh(name)
        kernel = empirical_ntk(model, x)
        v = some_vectors(*kernel.shape[:2])
        assert_close(kernel_product(model, x, v), product(kernel, v))


@pytest.mark.parametrize("name", FORWARD[::4])
def test_two_backward_passes(name, monkeypatch):
    def no_rule(*_):
        raise NotImplementedError("no rule")

    monkeypatch.setitem(vectors.PUSHES, "Forward mode", no_rule)
    model, x = fresh(name)
    kernel = contracted(reference(name), "full")
    v = some_vectors(*kernel.shape[:2], 2)
    assert_close(kernel_product(model, x, v), product(kernel, v))


@pytest.mark.parametrize("name", ["conv_stack", "token_transformer", "lstm", "hooked_gradient"])
def test_rectangular_kernels_in_float32(name):
    model, x = fresh(name, torch.float32)
    kernel = contracted(reference(name), "full", slice(3), slice(3, 8))
    v = some_vectors(*kernel.shape[2:], 2)
    assert_close(kernel_product(model, x[:3], v.float(), other_inputs=x[3:]), product(kernel, v), 1e-5)
    v = some_vectors(*kernel.shape[:2])
    value = kernel_product(model, x[3:], v.float(), other_inputs=x[:3])
    assert value.dtype == torch.float32
    assert_close(value, product(kernel.permute(2, 3, 0, 1), v), 1e-5)


def test_columns_of_another_length():
    model, x = fresh("embedding")
    gradients, more = reference("embedding"), jacobians(model, x.repeat(1, 2)[:, 1:])
    left, right = (torch.cat(list(g.values()), dim=2) for g in (gradients, more))
    v = some_vectors(*right.shape[:2])
    expected = torch.einsum("ikp,jlp,jl->ik", left, right, v)
    assert_close(kernel_product(model, x, v, other_inputs=x.repeat(1, 2)[:, 1:]), expected)


@pytest.mark.parametrize("name", ["conv_stack", "vision_transformer", "embedding_padded"])
def test_symmetry(name):
    model, x = fresh(name)
    u, v = some_vectors(8, next(iter(reference(name).values())).shape[1], 2).unbind(2)
    left, right = (u * kernel_product(model, x, v)).sum(), (v * kernel_product(model, x, u)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-10)
    assert (v * kernel_product(model, x, v)).sum() > 0


def least_budget(*arguments):
    with pytest.raises(ValueError, match="memory_budget is 1 bytes; this product needs at least") as error:
        kernel_product(*arguments, memory_budget=1)
    return int(str(error.value).split("at least ")[1].split()[0].rstrip(",").replace(",", ""))


@pytest.mark.parametrize("name", ["conv_stack", "perceptron", "custom_backward"])
def test_budgets(name, monkeypatch):
    model, x = fresh(name)
    v = some_vectors(8, next(iter(reference(name).values())).shape[1], 5)
    expected = kernel_product(model, x, v)
    least = least_budget(model, x, v)
    cuts, cut = set(), vectors._cut
    monkeypatch.setattr(vectors, "_cut", lambda *a: (cuts.add(found := cut(*a)), found)[1])
    for budget in (least, 3 * least // 2, 2 * least, 3 * least, 100 * least):
        assert_close(kernel_product(model, x, v, memory_budget=budget), expected, 1e-12)
    assert {(3, 1), (8, 5)} <= cuts
    assert len(cuts) > 2
    with pytest.raises(ValueError, match=rf"is {least - 1:,} bytes; this product needs at least {least:,}"):
        kernel_product(model, x, v, memory_budget=least - 1)


def test_many_blocks_cost_no_precision():
    """Sums of 1,000 blocks, nearly all of the same sign."""
    model = nn.Linear(3, 1).eval()
    x = torch.rand(3000, 3)
    v = torch.rand(3000, 1)
    gradients = torch.cat([x, torch.ones(3000, 1)], dim=1).double()
    value = kernel_product(model, x, v, memory_budget=least_budget(model, x, v))
    assert_close(value, gradients @ (gradients.T @ v.double()), 2e-7)


@pytest.mark.parametrize("name", ["counting_calls", "dropout_and_hooks", "transformer_norm_last", "hooked_gradient"])
def test_everything_is_left_as_found(name):
    model, x = fresh(name)
    first = next(model.parameters())
    first.grad = torch.ones_like(first)

    def state():
        tensors = [*model.state_dict().values(), x, first.grad, torch.get_rng_state()]
        settings = [p.requires_grad for p in model.parameters()], [m.training for m in model.modules()]
        switches = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.backends.mha.get_fastpath_enabled()
        attention = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
        return [t.clone() for t in tensors], (settings, switches, attention, torch.get_float32_matmul_precision())

    ones = torch.ones_like(model(x)).detach()
    before = state()
    kernel_product(model, x, ones)
    after = state()
    assert all(map(torch.equal, before[0], after[0]))
    assert before[1] == after[1]


def test_surroundings_do_not_matter():
    model, x = fresh("vision_transformer", torch.float32)
    expected = kernel_product(model, x, torch.ones(8, 3))
    with torch.inference_mode():
        assert torch.equal(kernel_product(model, x.clone(), torch.ones(8, 3)), expected)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(kernel_product(model, x.clone().requires_grad_(), torch.ones(8, 3)), expected)


def layered(forward):
    torch.manual_seed(0)
    return Net(forward, a=nn.Linear(4, 4), head=nn.Linear(4, 3)).double().eval()


def shifted_without_grad(net, x):
    with torch.no_grad():
        shift = net.a(x).sum(1, keepdim=True)
    return net.head((net.a(x) + shift).tanh())


def test_what_forward_mode_does_not_see(used):
    """``no_grad`` stops no tangent."""
    model, x = layered(shifted_without_grad), some_vectors(6, 4)
    kernel, v = contracted(jacobians(model, x), "full"), some_vectors(6, 3)
    assert_close(kernel_product(model, x, v), product(kernel, v))
    assert used == {"Forward mode", "Two backward passes"}


def test_parameters_that_nothing_depends_on():
    model = Net(lambda net, x: 2 * x, p=nn.Parameter(torch.ones(3))).eval()
    assert torch.equal(kernel_product(model, torch.randn(5, 2), torch.ones(5, 2)), torch.zeros(5, 2))


class OnceOnly(torch.autograd.Function):
    """The square, without forward-mode and second derivatives."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


REFUSED_NETWORKS = {
    "once only": (
        lambda net, x: net.head(OnceOnly.apply(net.a(x))),
        r"its parameters; .*Forward mode: You must.*\. Two back.* but <J",
    ),
    "NaN": (lambda net, x: net.head(net.a(x)) / 0, "outputs contain NaN or infinity"),
    "root of zero": (lambda net, x: (0 * net.head(x)).abs().sqrt(), "gradients or their products contain NaN"),
    "coupled": (lambda net, x: net.head(x - x.mean(0)), "depends on the others"),
    "coupled gradients": (lambda net, x: net.head(net.a(x) - net.a(x).mean(0)), "depends on the others"),
    "random": (lambda net, x: net.head(x) + torch.randn(len(x), 3), "or on chance"),
    "three axes": (lambda net, x: net.head(x)[..., None], r"must return \(1, K\), got \(1, 3, 1\)"),
}


@pytest.mark.parametrize("name", REFUSED_NETWORKS)
def test_refused_networks(name):
    forward, message = REFUSED_NETWORKS[name]
    with pytest.raises(ModelError, match=message):
        kernel_product(layered(forward), some_vectors(6, 4), some_vectors(6, 3))


def test_refused_examples_and_modes():
    model, x, v = layered(lambda net, x: net.head(net.a(x).sqrt())), 1 + some_vectors(9, 4).abs(), some_vectors(9, 3)
    model.a.weight.data.abs_()
    x[3] = -100
    with pytest.raises(ModelError, match="outputs contain NaN or infinity"):
        kernel_product(model, x, v)
    with pytest.raises(ModelError, match="outputs contain NaN or infinity"):
        kernel_product(model, x, v[:1], other_inputs=x[:1])
    with pytest.raises(ModelError, match=r"call model.eval\(\)"):
        kernel_product(model.train(), x, v)
    with pytest.raises(ModelError, match="no trainable parameter"):
        kernel_product(model.eval().requires_grad_(False), x, v)


def test_refused_arguments():
    model, x, v = layered(lambda net, x: net.head(net.a(x).tanh())), some_vectors(6, 4), some_vectors(6, 3)
    wanted = r"vectors must have the shape \(6, 3\) or \(6, 3, c\) of the kernel's columns, got "
    refused = [
        ((x, v[:5]), wanted + r"\(5, 3\)"),
        ((x, v.T), wanted + r"\(3, 6\)"),
        ((x, v.flatten()), wanted + r"\(18,\)"),
        ((x, v[..., None, None]), wanted + r"\(6, 3, 1, 1\)"),
        ((x, v[..., None][..., :0]), wanted + r"\(6, 3, 0\)"),
        ((x, v.float()), "vectors is of torch.float32, the network's parameters of torch.float64"),
        ((x, v.to("meta")), "vectors is on meta, the network's parameters on cpu"),
        ((x, v / 0), "vectors must be finite"),
        ((x.float(), v), "inputs is of torch.float32"),
        ((x[:0], v[:0]), "inputs needs at least one example"),
    ]
    for arguments, message in refused:
        with pytest.raises(ValueError, match=message):
            kernel_product(model, *arguments)
    with pytest.raises(ValueError, match=r"shape \(2, 3\) or \(2, 3, c\) of the kernel's columns, got \(6, 3\)"):
        kernel_product(model, x, v, other_inputs=x[:2])
    with pytest.raises(ValueError, match="positive number of bytes, got 0"):
        kernel_product(model, x, v, memory_budget=0)


def test_memory_stays_within_the_budget():
    """The kernel would take 0.9 GB and the Jacobian 40 GB; PyTorch's compiler isn't loaded for it."""
    budget = 60_000_000
    code = f"""
        import sys
        import torch
        from torch import nn
        from twophase.entk.vectors import kernel_product

        def memory(name):  # of this program alone: ru_maxrss starts at the peak of the process that started it
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

        torch.set_num_threads(1)
        torch.manual_seed(0)
        sizes = [784, 512, 512, 10]
        layers = [layer for pair in zip(sizes, sizes[1:]) for layer in (nn.Linear(*pair), nn.ReLU())]
        model = nn.Sequential(*layers[:-1]).eval()
        inputs, vectors = torch.randn(1500, 784), torch.randn(1500, 10)
        kernel_product(nn.Linear(784, 10).eval(), inputs[:2], vectors[:2])
        before = memory("VmRSS")  # the peak so far may be higher, so the difference is an upper bound
        kernel_product(model, inputs, vectors, memory_budget={budget})
        print(memory("VmHWM") - before, "torch._dynamo" in sys.modules)
    """
    run = [sys.executable, "-W", "error::FutureWarning", "-c", textwrap.dedent(code)]
    output = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    assert 0 < 1024 * int(output[0]) < budget
    assert output[1] == "False"
