import math
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from twophase.differentiation import checks
from twophase.differentiation.functional import FunctionalNetwork
from twophase.entk import memory, plain, products
from twophase.entk.plain import plain_ntk
from twophase.entk.precision import exact_float32
from twophase.errors import ModelError

KB = 1024


class Residual(nn.Module):
    """Convolutions, BatchNorm with running statistics, and one block that is used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, stride=2, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(6)
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.first_norm(self.first(x)))
        x = x + self.block(x)
        x = x + self.block(x)
        return self.head(x.mean((2, 3)))


class Grouped(nn.Module):
    """GroupNorm, a dilated convolution, max pooling and a frozen layer."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 4, 3, dilation=2),
            nn.GroupNorm(2, 4),
            nn.GELU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(4, 3),
        )
        self.layers[0].requires_grad_(False)

    def forward(self, x):
        return self.layers(x)


class Tied(nn.Module):
    """One weight in two layers, and parameters of no layer; one of them isn't used at all."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(5, 5)
        self.decoder = nn.Linear(5, 5)
        self.decoder.weight = self.encoder.weight
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.gain = nn.Parameter(torch.randn(5))
        self.unused = nn.Parameter(torch.randn(3))

    def forward(self, x):
        return self.scale * self.decoder(torch.tanh(self.gain * self.encoder(x)))


class Attention(nn.Module):
    """Integer tokens through an embedding, also the output layer's weight, and a transformer layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.position = nn.Parameter(torch.randn(4, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.layer(self.embedding(tokens) + self.position).mean(1))


class Branching(nn.Module):
    """A branch on a value, which torch.func can't batch, and a buffer that counts calls."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        rows = [self.layer(row) if row.sum() > 0 else -2 * self.layer(row).tanh() for row in x]
        return torch.stack(rows)


def images(n):
    return torch.randn(n, 2, 6, 6, dtype=torch.float64)


def vectors(n):
    return torch.randn(n, 5, dtype=torch.float64)


def tokens(n):
    return torch.randint(7, (n, 4))


CASES = {
    "residual": (Residual, images),
    "grouped": (Grouped, images),
    "tied": (Tied, vectors),
    "attention": (Attention, tokens),
    "branching": (Branching, vectors),
}


def build(name, dtype=torch.float64, n=7):
    torch.manual_seed(0)
    make_model, make_inputs = CASES[name]
    model = make_model().double()
    if name in ("residual", "grouped"):
        model(images(16))  # moves the running statistics
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    inputs = make_inputs(n)
    return model.eval().to(dtype), inputs.to(dtype) if inputs.is_floating_point() else inputs


def oracle_jacobian(model, inputs):
    """Gradients (n, K, P) in float64 by ordinary backward passes: no torch.func, no blocks."""
    model = model.double()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for x in inputs:
        logits = model(x[None])[0]
        for logit in logits:
            gradients = torch.autograd.grad(logit, parameters, retain_graph=True, allow_unused=True)
            flat = [
                (torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, gradients, strict=True)
            ]
            rows.append(torch.cat(flat))
    return torch.stack(rows).unflatten(0, (len(inputs), -1))


def oracle(model, inputs, other_inputs=None, kernel="full"):
    left = oracle_jacobian(model, inputs)
    right = left if other_inputs is None else oracle_jacobian(model, other_inputs)
    full = torch.einsum("ikp,jlp->ikjl", left, right)
    return full if kernel == "full" else torch.einsum("ikjk->ij", full)


def relative_error(value, expected):
    return float((value.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kernel", ["full", "trace"])
@pytest.mark.parametrize("name", CASES)
def test_kernel_equals_the_oracle(name, kernel, dtype):
    model, inputs = build(name, dtype)
    value = plain_ntk(model, inputs, kernel=kernel)
    assert value.dtype == dtype
    assert not value.requires_grad
    flat = value.flatten(0, 1).flatten(1) if kernel == "full" else value
    assert torch.equal(flat, flat.T)
    eigenvalues = torch.linalg.eigvalsh(flat.double())
    assert eigenvalues[0] >= -1e-6 * eigenvalues[-1]
    expected = oracle(model, inputs, kernel=kernel)
    assert value.shape == expected.shape
    assert relative_error(value, expected) <= (1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("kernel", ["full", "trace"])
@pytest.mark.parametrize("name", CASES)
def test_rectangular_kernel_equals_the_oracle(name, kernel):
    model, inputs = build(name, n=8)
    value = plain_ntk(model, inputs[:3], other_inputs=inputs[3:], kernel=kernel)
    expected = oracle(model, inputs[:3], inputs[3:], kernel)
    assert value.shape == expected.shape
    assert relative_error(value, expected) <= 1e-9


def wide_perceptron(n=6):
    """5,379 parameters, so that gradients outweigh activations: a gradient takes 43,032 bytes."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(20, 224), nn.Tanh(), nn.Linear(224, 3)).double().eval()
    return model, torch.randn(n, 20, dtype=torch.float64)


BUDGETS = {
    (1, 1, 1): 190 * KB,
    (1, 1, 2): 400 * KB,
    (1, 1, 3): 560 * KB,
    (2, 1, 3): 700 * KB,
    (5, 1, 3): 1100 * KB,
    (6, 6, 3): 100_000 * KB,
}


@pytest.mark.parametrize("blocks", BUDGETS)
@pytest.mark.parametrize("rectangular", [False, True])
@pytest.mark.parametrize("kernel", ["full", "trace"])
def test_blocks_do_not_change_the_kernel(kernel, rectangular, blocks):
    model, inputs = wide_perceptron()
    footprint = memory.measure_footprint(FunctionalNetwork.of(model), inputs[:1])
    assert memory.plan_blocks(footprint, 6, 3, BUDGETS[blocks]) == memory.Blocks(*blocks)
    other = torch.randn(4, 20, dtype=torch.float64) if rectangular else None
    value = plain_ntk(model, inputs, other_inputs=other, kernel=kernel, memory_budget=BUDGETS[blocks])
    assert relative_error(value, oracle(model, inputs, other, kernel)) <= 1e-12
    if not rectangular:
        flat = value.flatten(0, 1).flatten(1) if kernel == "full" else value
        assert torch.equal(flat, flat.T)


def test_halves_cover_a_large_kernel(monkeypatch):
    monkeypatch.setattr(products, "LEAF_CPU", 4)
    model, inputs = build("tied")
    value = plain_ntk(model, inputs)
    assert relative_error(value, oracle(model, inputs)) <= 1e-9
    flat = value.flatten(0, 1).flatten(1)
    assert torch.equal(flat, flat.T)


def test_plan_stays_within_the_budget():
    footprint = memory.Footprint(gradient=1000, activations=300, largest=100)
    smallest = footprint.piece(1, 1) + footprint.gradient
    for budget in range(smallest, 900_000, 1997):
        blocks = memory.plan_blocks(footprint, 50, 10, budget)
        held = blocks.held * blocks.classes * footprint.gradient
        assert held + footprint.piece(blocks.piece, blocks.classes) <= budget
        assert blocks.piece >= 1
        assert 1 <= blocks.held <= 50
        assert blocks.classes == 10 or blocks.held == blocks.piece == 1
    assert blocks.held == 50


def test_a_budget_too_small_says_what_is_needed():
    model, inputs = wide_perceptron()
    with pytest.raises(ValueError, match=r"memory_budget is 1,000 bytes.*needs at least 1\d\d,\d\d\d") as error:
        plain_ntk(model, inputs, memory_budget=1000)
    needed = int(str(error.value).split("at least ")[1].split()[0].replace(",", ""))
    plain_ntk(model, inputs, memory_budget=needed)
    with pytest.raises(ValueError, match="needs at least"):
        plain_ntk(model, inputs, memory_budget=needed - 1)


def test_memory_stays_within_the_budget():
    budget = 150_000_000  # all gradients together take 320 MB
    code = f"""
        import torch
        from torch import nn
        from twophase.entk.plain import plain_ntk

        def peak():  # of this program alone: ru_maxrss starts at the peak of the process that started it
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

        torch.set_num_threads(1)
        torch.manual_seed(0)
        sizes = [784, 512, 512, 10]
        layers = [layer for pair in zip(sizes, sizes[1:]) for layer in (nn.Linear(*pair), nn.ReLU())]
        model = nn.Sequential(*layers[:-1]).eval()
        inputs = torch.randn(12, 784)
        plain_ntk(nn.Linear(784, 10).eval(), inputs)
        peaks = [peak()]
        for memory_budget in ({budget}, 10 * {budget}):
            plain_ntk(model, inputs, memory_budget=memory_budget)
            peaks.append(peak())
        print(peaks[1] - peaks[0], peaks[2] - peaks[0])
    """
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # freed blocks go back at once
    run = [sys.executable, "-c", textwrap.dedent(code)]
    output = subprocess.run(run, check=True, capture_output=True, text=True, env=environment).stdout
    bounded, unbounded = (int(kilobytes) * KB for kilobytes in output.split())
    assert bounded < budget
    assert unbounded > 2 * budget


def test_everything_is_left_as_found():
    model, inputs = build("branching")
    model.layer.bias.requires_grad_(False)
    model.layer.weight.grad = torch.ones_like(model.layer.weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    torch.set_float32_matmul_precision("high")
    try:
        plain_ntk(model, inputs)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [True, False]
    assert torch.equal(model.layer.weight.grad, torch.ones_like(model.layer.weight))
    assert torch.is_grad_enabled()


def test_surroundings_do_not_matter():
    model, inputs = build("residual", torch.float32)
    expected = plain_ntk(model, inputs)
    with torch.inference_mode():
        assert torch.equal(plain_ntk(model, inputs.clone()), expected)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(plain_ntk(model, inputs), expected)


# The four ways to ask for tf32, and none.
@pytest.mark.parametrize(
    "asked",
    [
        "",
        "torch.set_float32_matmul_precision('medium')",
        "torch.backends.cuda.matmul.allow_tf32 = True",
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
        "torch.backends.fp32_precision = 'tf32'",
    ],
)
def test_tf32_is_off_inside_and_back_outside(asked):
    found = precisions()
    try:
        exec(asked)
        before = precisions()
        with exact_float32():
            assert set(precisions()) == {"ieee"}
            assert torch.backends.cuda.matmul.allow_tf32 is False  # raises where the two interfaces disagree
        assert precisions() == before
    finally:
        torch.backends.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        for operation, precision in zip(OPERATIONS, found, strict=True):
            operation.fp32_precision = precision


OPERATIONS = [
    getattr(backend, name)
    for backend, names in ((torch.backends.cudnn, ("conv", "rnn")), (torch.backends.mkldnn, ("matmul", "conv", "rnn")))
    for name in names
] + [torch.backends.cuda.matmul]


def precisions():
    return [operation.fp32_precision for operation in OPERATIONS]


class Function(nn.Module):
    """A linear layer and then any function of its outputs and inputs."""

    def __init__(self, function, zero_head=False):
        super().__init__()
        self.layer = nn.Linear(5, 3).double()
        self.head = nn.Linear(3, 3, bias=False).double()
        if zero_head:
            nn.init.zeros_(self.head.weight)
        self.function = function

    def forward(self, x):
        return self.function(self.head(torch.tanh(self.layer(x))), x)


REFUSED_OUTPUTS = {
    "one logit without its axis": (lambda y, x: y[:, 0], r"must return \(1, K\), got \(1,\)"),
    "three axes": (lambda y, x: y[:, :, None], r"must return \(1, K\), got \(1, 3, 1\)"),
    "no logit": (lambda y, x: y[:, :0], r"must return \(1, K\), got \(1, 0\)"),
    "mean over examples": (lambda y, x: y.mean(0, keepdim=True), r"For 7 inputs the network must return \(7, K\)"),
    "a tuple": (lambda y, x: (y, y), "one tensor .n, K., got tuple"),
    "other type": (lambda y, x: y.float(), "outputs are of torch.float32, its parameters of torch.float64"),
    "centred": (lambda y, x: y - y.mean(0), "depends on the others"),
    "weakly coupled": (lambda y, x: y + 1e-4 * y.sum(0), "depends on the others"),
    "random": (lambda y, x: y + torch.randn_like(y), "or on chance"),
    "infinite": (lambda y, x: y / 0, "outputs contain NaN or infinity"),
    "gradient at a root of zero": (lambda y, x: (y * 0).abs().sqrt(), "gradients or their products contain NaN"),
}


@pytest.mark.parametrize("name", REFUSED_OUTPUTS)
def test_refuses_outputs(name):
    function, message = REFUSED_OUTPUTS[name]
    torch.manual_seed(0)
    with pytest.raises(ModelError, match=message):
        plain_ntk(Function(function).eval(), vectors(7))


def test_refuses_one_infinite_output_among_finite_ones():
    torch.manual_seed(0)
    inputs = vectors(40)
    inputs[3] = torch.nan
    with pytest.raises(ModelError, match="outputs contain NaN or infinity"):
        plain_ntk(Function(lambda y, x: y).eval(), inputs)


def test_refuses_batch_statistics_behind_a_zero_head():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    head = nn.Linear(4 * 36, 3)
    nn.init.zeros_(head.weight)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), norm, nn.ReLU(), nn.Flatten(), head).double().eval()
    with pytest.raises(ModelError, match="BatchNorm must use its running statistics"):
        plain_ntk(model, images(6))


def test_refuses_a_network_that_fails_on_one_example():
    norm = nn.BatchNorm1d(5, track_running_stats=False).double().eval()
    with pytest.raises(ModelError, match=r"fails on a single example, of shape \(1, 5\).*more than 1 value"):
        plain_ntk(norm, vectors(6))
    with pytest.raises(ModelError, match=r"shape \(1, 5\) and torch\.float64: .*cannot be multiplied"):
        plain_ntk(nn.Linear(4, 3).double().eval(), vectors(6))


def test_refuses_training_mode_anywhere():
    model, inputs = build("residual")
    model.block[1].train()
    with pytest.raises(ModelError, match=r"call model.eval\(\). In training mode: block.1\."):
        plain_ntk(model, inputs)
    with pytest.raises(ModelError, match=r"In training mode: block, .* and 4 more"):
        plain_ntk(model.train(), inputs)


def test_refuses_models_without_a_kernel():
    model, inputs = build("tied")
    model.scale.data = model.scale.data.float()
    with pytest.raises(ModelError, match=r"all be float32 or all float64, got torch\.float32, torch\.float64"):
        plain_ntk(model, inputs)
    with pytest.raises(ModelError, match=r"all be float32 or all float64, got torch\.bfloat16"):
        plain_ntk(model.bfloat16(), inputs)
    model.double().encoder.to("meta")
    with pytest.raises(ModelError, match="on one device, got cpu, meta"):
        plain_ntk(model, inputs)
    with pytest.raises(ModelError, match="no trainable parameter"):
        plain_ntk(build("residual")[0].requires_grad_(False), inputs)
    with pytest.raises(ModelError, match="no trainable parameter"):
        plain_ntk(nn.Flatten().eval(), inputs)


def test_refuses_arguments():
    model, inputs = build("tied")
    refused = [
        (inputs[:0], {}, r"inputs needs at least one example, got shape \(0, 5\)"),
        (inputs, {"other_inputs": inputs[:0]}, "other_inputs needs at least one example"),
        (inputs.float(), {}, "inputs is of torch.float32, the network's parameters of torch.float64"),
        (inputs, {"other_inputs": inputs.to("meta")}, "other_inputs is on meta, the network's parameters on cpu"),
        (inputs, {"kernel": "diagonal"}, "'full', 'trace', 'sum' or the number of a logit, got 'diagonal'"),
        (inputs, {"memory_budget": 0}, "positive number of bytes, got 0"),
    ]
    for x, arguments, message in refused:
        with pytest.raises(ValueError, match=message):
            plain_ntk(model, x, **arguments)


def test_one_example_and_one_logit():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1).double().eval(), torch.randn(1, 3, dtype=torch.float64)
    assert math.isclose(plain_ntk(model, x).item(), float(x.square().sum() + 1), rel_tol=1e-12)
    assert plain_ntk(model, x).shape == (1, 1, 1, 1)
    assert plain_ntk(model, x, kernel="trace").shape == (1, 1)


def test_vectorised_and_one_by_one_agree():
    model, inputs = build("attention")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        jacobian = plain.Jacobian(FunctionalNetwork.of(model), 7, 3, inputs[:1])
        assert jacobian._vectorises
        fast = jacobian(inputs, slice(2, 5))
        jacobian._vectorises = False
        assert relative_error(jacobian(inputs, slice(2, 5)), fast) <= 1e-12


def test_decoupled_check_uses_examples_from_everywhere():
    model, inputs = build("residual", n=20)
    checks.check_decoupled(FunctionalNetwork.of(model), inputs)
    pairwise = Function(lambda y, x: y + 0.1 * F.pad(y[:-1], (0, 0, 1, 0))).eval()
    with pytest.raises(ModelError, match="depends on the others"):
        checks.check_decoupled(FunctionalNetwork.of(pairwise), vectors(20))
