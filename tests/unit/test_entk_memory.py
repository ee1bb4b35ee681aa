"""The engine's memory: budgets that are kept, blocks, arrays that take the kernel, and the end of memory."""

import contextlib
import ctypes
import gc
import itertools
import math
import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import torch
from entk_networks import fresh
from torch import nn
from torch.nn import functional

from twophase import allocator
from twophase.allocator import freed_memory_kept
from twophase.differentiation.functional import FunctionalNetwork
from twophase.entk import empirical_ntk, engine, kernel_costs, layer_kernels, memory
from twophase.entk.features import ConvolutionFeatures
from twophase.entk.inspection import inspect
from twophase.entk.memory import measure_footprint, measure_growth
from twophase.entk.plan import SCATTERED, Blocks, ResultMemory, Sizes, cut, make_plan
from twophase.entk.rates import Rates
from twophase.entk.readout import Readout
from twophase.entk.terms import FORMED_BYTES, FORMED_STEP, DeferredTerm, Held, Shape

RATES = Rates(6e10, {1: 1e9, 16: 1.2e10, 256: 5e10}, {1: 3e9, 16: 3e10, 256: 5e10}, 1e10)
MEBI = 1 << 20


def least_budget(model, inputs, function=empirical_ntk, **options):
    with pytest.raises(ValueError, match=r"memory_budget is 1 bytes.*needs at least") as error:
        function(model, inputs, memory_budget=1, rates=RATES, **options)
    return int(str(error.value).split("at least ")[1].split()[0].replace(",", ""))


def relative_difference(value, expected):
    return float((value - expected).norm() / expected.norm())


# Peaks of resident memory ---------------------------------------------------------------------------------------------


def conv(w):
    layers = [nn.Conv2d(3, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(), nn.Conv2d(w, 2 * w, 3, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(2 * w, 4 * w, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4 * w, 8 * w, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * w, 10))


def deep_conv(depth):
    layers = [layer for _ in range(depth) for layer in (nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *layers, *head)


class ConvTwice(nn.Module):
    """A convolution that is used twice."""

    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        h = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.head(self.second(h).mean((2, 3)))


def perceptron(*sizes):
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def few_positions(width):
    first = [nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU()]
    layers = [layer for _ in range(3) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*first, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def frozen_body(width):
    model = perceptron(256, width, width, 10)
    return model.requires_grad_(False).append(nn.Linear(10, 10))


class Changing(nn.Module):
    """A network that does something else with more examples than are inspected."""

    def __init__(self, width):
        super().__init__()
        self.layer, self.head = nn.Linear(256, width), nn.Linear(width, 10)

    def forward(self, x):
        h = torch.tanh(self.layer(x))
        return self.head(h) if len(x) < 4 else self.head(h) + self.head(0 * h)


class Taken(nn.Module):
    """A perceptron whose weights are taken times something: numbers or masks."""

    def __init__(self, change, *sizes):
        super().__init__()
        self.change = change
        self.weights = nn.ParameterList([torch.randn(out, into) for into, out in itertools.pairwise(sizes)])

    def forward(self, x):
        for weight in self.weights:
            x = torch.tanh(functional.linear(x, self.change(weight)))
        return x


def scaled(*sizes):
    return Taken(lambda weight: weight / weight.shape[1] ** 0.5, *sizes)


def masked(*sizes):
    return Taken(lambda weight: weight * (weight.detach().abs() < 0.1), *sizes)


class Heads(nn.Module):
    """Weights as arrays of heads, of which PyTorch makes copies in other orders, and one matrix for each head."""

    def __init__(self, width):
        super().__init__()
        shapes = {"into": (256, 8, width), "each": (8, width, width), "out": (8, 10, width)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape) / 16))

    def forward(self, x):
        h = torch.tanh(torch.einsum("nd,dhe->nhe", x, self.into))
        h = torch.tanh(torch.einsum("nhe,hfe->nhf", h, self.each))
        return torch.einsum("nhf,hkf->nk", h, self.out)


class Transformer(nn.Module):
    """Two layers on tokens."""

    def __init__(self, width):
        super().__init__()
        self.embedding, self.position = nn.Embedding(500, width), nn.Parameter(torch.randn(32, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, dropout=0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.encoder(self.embedding(x) + self.position).mean(1))


def images(n):
    return torch.randn(n, 3, 16, 16)


def vectors(n):
    return torch.randn(n, 256)


def long_vectors(n):
    return torch.randn(n, 1 << 16)


def tokens(n):
    return torch.randint(500, (n, 32))


# What makes a network, of which sizes, to load its code of which small ones, and what makes its inputs.
NETWORKS = {
    "conv": (conv, [32], [4], images),
    "wide conv": (conv, [96], [4], images),
    "few positions": (few_positions, [24], [4], images),
    "deep conv": (deep_conv, [50], [1], images),
    "conv used twice": (ConvTwice, [64], [4], images),
    "perceptron": (perceptron, [256, 1024, 1024, 10], [256, 8, 8, 10], vectors),
    "many logits": (perceptron, [256, 32, 200], [256, 32, 10], vectors),
    "many layers": (perceptron, [256, *[32] * 8, 100], [256, *[32] * 8, 10], vectors),
    "frozen body": (frozen_body, [2048], [8], vectors),
    "long inputs": (perceptron, [1 << 16, 4], [1 << 16, 1], long_vectors),
    "changing": (Changing, [16], [8], vectors),
    "transformer": (Transformer, [64], [16], tokens),
    "heads": (Heads, [128], [8], vectors),
    "scaled weights": (scaled, [256, 1024, 1024, 10], [256, 8, 8, 10], vectors),
    "masked weights": (masked, [256, 256, 256, 10], [256, 8, 8, 10], vectors),
}


class Work(engine._Work):
    """Notes the blocks, and whether the last one was computed logit by logit."""

    blocks = by_logit = None

    def _cut(self, budget):
        Work.blocks = super()._cut(budget)
        Work.by_logit = self.plan.by_logit
        return Work.blocks


def resident(what="VmRSS"):
    """Resident memory of this process in bytes, or with "VmHWM" its peak."""
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what)) * 1024


def measured(function, *arguments, **options):
    """A kernel, and by how much memory has grown at its peak."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    value = function(*arguments, rates=RATES, **options)
    return value, resident("VmHWM") - before


def peaks(name, examples, factors, by_layer=False, columns=None, **options):
    """For budgets, relative to the least: budget, peak, rows in a block, difference to the first, whether by logit."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    engine._Work, function = Work, layer_kernels if by_layer else empirical_ntk
    make, sizes, small_sizes, inputs = NETWORKS[name]
    model, small = make(*sizes).eval(), make(*small_sizes).eval()
    x, options["other_inputs"] = inputs(examples), inputs(columns) if columns else None
    measured(function, small, x[:7], **options)
    least = least_budget(model, x, function=function, **options)
    rows, first = [], None
    for factor in factors:
        budget = int(least * factor)
        value, growth = measured(function, model, x, memory_budget=budget, **options)
        value = sum(value.values()) if by_layer else value
        first = value if first is None else first
        rows.append((budget, growth, Work.blocks.held, relative_difference(value, first), Work.by_logit))
    return rows


@pytest.fixture(scope="module")
def processes():
    """Runs functions in processes of their own, which have loaded PyTorch and little else."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "netCDF4", "pytest", "twophase.entk", "twophase.entk.plain"])
    with context.Pool(1, maxtasksperchild=1) as pool:
        yield pool


@pytest.mark.parametrize("kernel", ["full", "trace"])
@pytest.mark.parametrize(
    ("name", "examples", "factors"),
    [
        ("conv", 10, (1.2, 4, 1e3)),
        ("few positions", 24, (1.2, 2, 1e3)),
        ("perceptron", 100, (1, 1.2, 1e3)),
        ("transformer", 6, (1, 2, 1e3)),
        ("heads", 30, (1.3, 4, 1e3)),
        ("masked weights", 20, (1, 2, 1e3)),
    ],
)
def test_memory_stays_within_the_budget(processes, name, examples, factors, kernel):
    rows = processes.apply(peaks, (name, examples, factors), {"kernel": kernel})
    for budget, growth, _, difference, _ in rows:
        assert growth <= budget
        assert difference <= 1e-6
    assert rows[0][2] < rows[-1][2] == examples
    assert rows[0][1] < 0.7 * rows[-1][1]


@pytest.mark.parametrize("by_layer", [False, True])
@pytest.mark.parametrize(
    ("name", "examples", "factors"),
    [
        ("transformer", 48, (1.5, 2, 2.5, 3, 4, 5, 6, 8, 12, 1e3)),
        ("perceptron", 600, (1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.4, 2.7, 3, 3.2)),  # larger ones give larger pieces
    ],
)
def test_a_trace_by_logit_takes_less_memory_and_stays_within_the_budget(processes, name, examples, factors, by_layer):
    rows = processes.apply(peaks, (name, examples, factors), {"kernel": "trace", "by_layer": by_layer})
    for budget, growth, _, difference, _ in rows:
        assert growth <= budget
        assert difference <= 1e-6
    together = [row for row in rows if row[4]]
    assert len(rows) > len(together) == sum(row[2] == examples for row in rows) > 1
    assert max(row[1] for row in together) < max(row[1] for row in rows if not row[4])


@pytest.mark.parametrize("kernel", ["full", "trace"])
def test_weights_times_numbers_stay_within_the_budget(processes, kernel):
    rows = processes.apply(peaks, ("scaled weights", 60, (1, 1.1, 1e3)), {"kernel": kernel})
    for budget, growth, _, difference, _ in rows:
        assert growth <= budget
        assert difference <= 1e-6
    assert 1 == rows[0][2] < rows[1][2]


def test_what_examples_share_is_counted_once():
    x = vectors(1)
    network = FunctionalNetwork.of(scaled(256, 32, 10))
    weights = 4 * 10 * 32  # of the second layer: no gradient passes through the first
    one, each = measure_footprint(network, x), measure_growth(network, x)
    # Each example's input, outputs of both layers, and what the forward pass returns.
    assert (each.activations, each.largest, each.shared) == (4 * (256 + 32 + 10 + 10), 4 * 256, weights)
    assert (one.activations, one.largest, one.shared) == (each.activations + weights, weights, 0)
    plain = FunctionalNetwork.of(perceptron(256, 32, 10))
    assert measure_growth(plain, x) == measure_footprint(plain, x)
    attention = FunctionalNetwork.of(Transformer(16).eval())  # takes other operations for one example
    assert measure_growth(attention, tokens(1)) == measure_footprint(attention, tokens(1))


class Sparse(nn.Module):
    """A product with sparse inputs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        return x.to_sparse() @ self.weight


def test_sparse_tensors_count_as_indices_and_values():
    footprint = measure_footprint(FunctionalNetwork.of(Sparse()), torch.tensor([[1.0, 0, 2, 0]]))
    assert (footprint.activations, footprint.largest) == (2 * 2 * 8 + 2 * 4 + 3 * 4, 2 * 2 * 8)


@pytest.mark.parametrize("kernel", ["full", "trace"])
def test_few_positions_are_deferred(kernel):
    """Else the test above says nothing of them."""
    report = kernel_costs(few_positions(24).eval(), images(24), kernel=kernel, rates=RATES)
    assert [term.form for term in report.terms].count("deferred") == 3


def growth_of_deferred(n, m):
    """By how much memory grows while Jacobians of 8 x 8 positions are formed and contracted, and what is announced."""
    torch.set_num_threads(1)
    features = ConvolutionFeatures((1, 8, 8, 64), (3, 3), (1, 1), (1, 1), (1, 1), 1)
    term = DeferredTerm(Shape(10, 64, features, False, torch.float32, torch.device("cpu")))

    def side(examples):
        return Held(torch.randn(examples, 64, 10, 64), torch.randn(examples, 1, 8, 8, 64))

    def add(left, right, rates):
        columns = len((right or left).gradients)
        kernel = torch.zeros(10 * len(left.gradients), 10 * columns)
        with freed_memory_kept():
            term.add(kernel, left, right)

    left, right = side(n), None if m is None else side(m)
    measured(add, side(2), None)
    return measured(add, left, right)[1] - 400 * n * (m or n), term.between_bytes(n, m)


@pytest.mark.parametrize(("n", "m"), [(40, None), (16, 12), (200, None)])
def test_jacobians_are_formed_in_little_memory(processes, n, m):
    growth, announced = processes.apply(growth_of_deferred, (n, m))
    examples = n + (m or 0)
    patches, step = 4 * examples * 64 * 9 * 64, 4 * examples * 10 * 64 * FORMED_STEP
    assert 0.6 * announced <= growth <= announced + MEBI
    assert growth <= 2 * patches + max(FORMED_BYTES, step) + MEBI


# What a budget has to hold beside Jacobians, gradients and activations.
HARD = {
    "convolutions' weights in another order, while they are inspected": ("wide conv", 2, {}),
    "gradients of three examples, while they are inspected": ("deep conv", 2, {"kernel": "sum"}),
    "gradients and features of a parameter with two uses": ("conv used twice", 2, {}),
    "copies of frozen parameters": ("frozen body", 2, {}),
    "a copy of the columns' inputs": ("long inputs", 1, {"columns": 60, "kernel": "trace"}),
    "the search for NaN in the kernel": ("many logits", 32, {}),
    "each layer's block in another number type": ("many layers", 24, {"by_layer": True, "dtype": torch.float64}),
    "one kernel at a time, if the network has changed": ("changing", 160, {"factors": (1.2,)}),
}


@pytest.mark.parametrize("case", HARD)
def test_budgets_that_are_hard_to_keep(processes, case):
    name, examples, options = HARD[case]
    ((budget, growth, *_),) = processes.apply(peaks, (name, examples), {"factors": (1.02,)} | options)
    assert growth <= budget + MEBI


# Blocks ---------------------------------------------------------------------------------------------------------------


def planned(name, kernel, sizes):
    model, x = fresh(name)
    network = FunctionalNetwork.of(model)
    logits, trace = (1, False) if kernel == "sum" else (model(x[:1]).shape[1], kernel == "trace")
    plan = make_plan(network, inspect(network, x), logits=logits, trace=trace, sizes=sizes, by_layer=False, rates=RATES)
    q = logits if kernel == "full" else 1
    results = ResultMemory(8 * sizes.n * (sizes.m or sizes.n) * q**2, 0)
    return plan, network, measure_footprint(network, x[:1]), sizes, results


def accounted(plan, network, footprint, sizes, results, blocks):
    """Bytes that the plan's own estimates give for some blocks, without what doesn't depend on them."""
    whole = sizes.m is None and blocks.held == sizes.n
    beside = 0 if whole else blocks.beside
    across = max(blocks.held, beside)
    between = max(layer.term.between_bytes(blocks.held, m) for layer in plan.layers for m in (None, beside))
    held = (blocks.held + beside) * plan.held_bytes(8)
    piece = blocks.piece * plan.piece_bytes(network, footprint)
    return held + piece + between + blocks.held * across * plan.block_bytes(8) * (1 + results.apart)


@pytest.mark.parametrize("name", ["conv_stack", "vision_transformer", "many_logits", "routed_rows"])
@pytest.mark.parametrize(("kernel", "m"), [("full", None), ("full", 30), ("trace", None), ("sum", 500)])
def test_blocks_stay_within_random_budgets(name, kernel, m):
    case = planned(name, kernel, Sizes(100, m))
    with pytest.raises(ValueError, match="needs at least") as error:
        cut(*case, 1)
    least = int(str(error.value).split("at least ")[1].split()[0].replace(",", ""))
    with pytest.raises(ValueError, match=rf"memory_budget is {least - 1:,} bytes.*needs at least {least:,},"):
        cut(*case, least - 1)
    assert cut(*case, least) == Blocks(1, 1, 1)
    fixed = least - accounted(*case, Blocks(1, 1, 1))
    assert fixed >= case[4].bytes + case[1].size * 8
    budgets = (least * np.exp(np.random.default_rng(0).uniform(0, 8, 60))).astype(int).tolist()
    for budget in budgets:
        blocks = cut(*case, budget)
        assert fixed + accounted(*case, blocks) <= budget
        assert 1 <= blocks.held <= 100
        assert 1 <= blocks.beside <= (m or 100)
        assert 1 <= blocks.piece <= max(100, m or 0)
    assert cut(*case, 1 << 50).held == 100


def test_a_trace_by_logit_is_one_block_or_none():
    network, x = FunctionalNetwork.of(Transformer(64).double().eval()), tokens(24)
    known, sizes = inspect(network, x), Sizes(24, None)
    by_logit, plain = (
        make_plan(network, known, logits=10, trace=True, sizes=sizes, by_layer=False, rates=RATES, by_logit=by_logit)
        for by_logit in (True, False)
    )
    assert by_logit.by_logit > plain.by_logit
    assert by_logit.held_bytes(8) < plain.held_bytes(8) / 2
    footprint = replace(measure_growth(network, x[:1]), shared=4 * MEBI)
    others = network, footprint, sizes, ResultMemory(8 * 24**2, 0)
    waiting = by_logit.graph_bytes(network, footprint)
    assert waiting >= 2 * footprint.activations
    budgets = np.geomspace(1, 1 << 30, 4000).astype(int).tolist()
    found = [cut(by_logit, *others, budget) for budget in budgets]
    first = next(index for index, blocks in enumerate(found) if blocks is not None)
    assert found[:first] == [None] * first
    for budget, blocks in zip(budgets[first:], found[first:], strict=True):
        assert blocks.held == 24
        shared = math.ceil(24 / blocks.piece) * 2 * SCATTERED * 4 * MEBI  # by each graph
        graphs = (24 - blocks.piece) * waiting  # beside those of a piece
        assert accounted(by_logit, *others, blocks) + graphs + shared + network.size * 8 <= budget
    assert found[first].piece < 24


@pytest.mark.parametrize("name", ["conv_stack", "routed_rows", "tied_kinds"])
@pytest.mark.parametrize("kernel", ["full", "trace", "sum", 1])
def test_the_least_budget_is_enough(name, kernel):
    model, x = fresh(name)
    least = least_budget(model, x, kernel=kernel)
    value = empirical_ntk(model, x, kernel=kernel, memory_budget=least, rates=RATES)
    assert relative_difference(value, empirical_ntk(model, x, kernel=kernel, rates=RATES)) <= 1e-12
    with pytest.raises(ValueError, match="needs at least"):
        empirical_ntk(model, x, kernel=kernel, memory_budget=least - 1, rates=RATES)


# Arrays that take the kernel ------------------------------------------------------------------------------------------


def array_like(kind, shape, folder):
    if kind == "netCDF4":
        file = netCDF4.Dataset(folder / "kernel.nc", "w")
        for axis, size in enumerate(shape):
            file.createDimension(f"axis{axis}", size)
        return file.createVariable("kernel", "f8", [f"axis{axis}" for axis in range(len(shape))])
    return np.memmap(folder / "kernel", "f8", "w+", shape=shape) if kind == "memmap" else np.full(shape, np.nan)


@pytest.fixture
def small_blocks(monkeypatch):
    """Three examples at a time, and two of the columns, whatever the budget is."""
    monkeypatch.setattr(engine, "cut", lambda *args: Blocks(held=3, beside=2, piece=2))


@pytest.mark.parametrize("kind", ["netCDF4", "memmap", "array"])
@pytest.mark.parametrize("columns", [None, 5])
@pytest.mark.parametrize("kernel", ["full", "trace", "sum", 2])
@pytest.mark.usefixtures("small_blocks")
def test_arrays_receive_the_kernel(kind, columns, kernel, tmp_path):
    model, x = fresh("conv_stack")
    options = {"kernel": kernel, "rates": RATES, "other_inputs": None if columns is None else x[:columns] + 1}
    expected = empirical_ntk(model, x, **options)
    out = array_like(kind, tuple(expected.shape), tmp_path)
    assert empirical_ntk(model, x, out=out, **options) is out
    np.testing.assert_allclose(np.asarray(out[:]), expected.numpy(), rtol=1e-13)
    if columns is None:
        flat = np.asarray(out[:]).reshape(int(np.prod(expected.shape[: expected.ndim // 2])), -1)
        assert np.array_equal(flat, flat.T)
    if kind == "netCDF4":
        out.group().close()


@pytest.mark.parametrize(("kernel", "shape"), [("full", (8, 3, 8)), ("full", (8, 8)), ("trace", (8, 3, 8, 3)),
                                               ("sum", (8, 7)), ("full", (8, 3, 7, 3)), (1, (3, 8, 8))])  # fmt: skip
def test_refuses_arrays_of_another_shape(kernel, shape):
    model, x = fresh("conv_stack")
    wanted = r"\(8, 3, 8, 3\)" if kernel == "full" else r"\(8, 8\)"
    with pytest.raises(ValueError, match=rf"out must have the kernel's shape {wanted}, got \({shape[0]}, "):
        empirical_ntk(model, x, kernel=kernel, out=np.zeros(shape), rates=RATES)


# When memory ends -----------------------------------------------------------------------------------------------------


def limit_memory(monkeypatch, most, first=0):
    """From the call ``first`` on, no more than ``most`` examples can be read out; returns the numbers asked for."""
    seen, read = [], Readout.__call__

    def limited(self, inputs, *others):
        seen.append(len(inputs))
        if len(inputs) > most and len(seen) > first:
            raise torch.OutOfMemoryError("simulated")
        return read(self, inputs, *others)

    monkeypatch.setattr(Readout, "__call__", limited)
    return seen


@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("columns", [None, 5])
@pytest.mark.parametrize(("most", "first"), [(3, 0), (2, 0), (1, 2)])
def test_goes_on_with_smaller_blocks(monkeypatch, most, first, columns, out):
    model, x = fresh("perceptron")
    other = None if columns is None else x[:columns] + 1
    options = {"other_inputs": other, "rates": RATES}
    expected = empirical_ntk(model, x, **options)
    monkeypatch.setattr(engine, "cut", lambda *args: Blocks(4, 4, 2))
    seen, progress = limit_memory(monkeypatch, most, first), []
    array = np.full(expected.shape, np.nan) if out else None
    value = empirical_ntk(model, x, progress=progress.append, out=array, **options)
    assert max(seen) > most >= seen[-1]
    assert relative_difference(torch.as_tensor(value), expected) <= 1e-12
    assert progress[-1] == max(progress) == (36 if columns is None else 8 * columns)


def test_a_trace_by_logit_goes_on_in_blocks(monkeypatch):
    torch.manual_seed(0)
    model, x, progress = Transformer(64).double().eval(), tokens(24), []
    expected = empirical_ntk(model, x, kernel="trace", rates=RATES)
    seen = limit_memory(monkeypatch, 12)
    value = empirical_ntk(model, x, kernel="trace", rates=RATES, progress=progress.append)
    assert seen[:2] == [24, 12]
    assert relative_difference(value, expected) <= 1e-12
    assert progress[-1] == max(progress) == 300


@pytest.mark.parametrize("factor", [1, 1.5, 10, 1e6])
def test_out_of_memory_comes_through_in_the_end(monkeypatch, factor):
    model, x = fresh("perceptron")
    budget = int(factor * least_budget(model, x))
    seen = limit_memory(monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError, match="simulated"):
        empirical_ntk(model, x, memory_budget=budget, rates=RATES)
    assert seen[-1] == 1


# Progress and number types --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conv_stack", "routed_rows"])
@pytest.mark.parametrize("columns", [None, 5])
@pytest.mark.parametrize("kernel", ["full", "trace"])
@pytest.mark.usefixtures("small_blocks")
def test_progress_counts_pairs(name, columns, kernel):
    model, x = fresh(name)
    for function in (empirical_ntk, layer_kernels):
        seen = []
        other = None if columns is None else x[:columns]
        function(model, x, other_inputs=other, kernel=kernel, rates=RATES, progress=seen.append)
        assert len(seen) > 3
        assert seen == sorted(seen)
        assert seen[-1] == (36 if columns is None else 8 * columns)


@pytest.mark.parametrize("columns", [None, 5])
@pytest.mark.parametrize("kernel", ["full", "trace"])
@pytest.mark.parametrize("own", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, None])
@pytest.mark.usefixtures("small_blocks")
def test_number_type_of_the_result(dtype, own, kernel, columns):
    model, x = fresh("conv_stack", own)
    options = {"kernel": kernel, "other_inputs": None if columns is None else x[:columns] + 1, "rates": RATES}
    value, plain = empirical_ntk(model, x, dtype=dtype, **options), empirical_ntk(model, x, **options)
    assert value.dtype == (dtype or own)
    assert plain.dtype == own
    assert relative_difference(value, plain.to(value.dtype)) <= (1e-14 if own == torch.float64 == value.dtype else 1e-6)
    for layer in layer_kernels(model, x, dtype=dtype, **options).values():
        assert layer.dtype == value.dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64, "float64"])
def test_refuses_other_number_types(dtype):
    model, x = fresh("perceptron")
    with pytest.raises(ValueError, match=r"dtype must be torch.float32, torch.float64 or None, got"):
        empirical_ntk(model, x, dtype=dtype, rates=RATES)


# The C library's allocator --------------------------------------------------------------------------------------------


class Library:
    """Notes what is asked of the C library."""

    def __init__(self, *functions):
        self.calls = []
        for name in functions:
            setattr(self, name, lambda *arguments, name=name: self.calls.append((name, *arguments)))


def test_allocator_is_set_and_put_back(monkeypatch):
    library = Library("mallopt", "malloc_trim")
    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: library)
    with contextlib.suppress(KeyError), freed_memory_kept():
        inside = list(library.calls)
        raise KeyError
    assert ("mallopt", allocator.M_TRIM_THRESHOLD, -1) in inside
    after = library.calls[len(inside) :]
    assert after == [("mallopt", allocator.M_TRIM_THRESHOLD, allocator.USUAL), ("malloc_trim", 0)]


@pytest.mark.parametrize(("platform", "functions"), [("darwin", ("mallopt", "malloc_trim")),
                                                     ("win32", ("mallopt", "malloc_trim")),
                                                     ("linux", ()), ("linux", ("mallopt",))])  # fmt: skip
def test_nothing_happens_without_glibc(monkeypatch, platform, functions):
    library = Library(*functions)
    monkeypatch.setattr(allocator.sys, "platform", platform)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: library)
    with freed_memory_kept():
        pass
    assert library.calls == []


def test_freed_memory_is_given_back():
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("glibc only")
    with freed_memory_kept():
        before = resident()
        many = [torch.ones(MEBI) for _ in range(20)]  # of 4 MiB each
        assert resident() - before > 70 * MEBI
        del many
    assert resident() - before < 20 * MEBI
    assert torch.ones(3 * MEBI).sum() == 3 * MEBI


def test_the_limit_of_a_control_group_above_the_process_counts(tmp_path, monkeypatch):
    own = next((line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), None)
    if own is None:
        pytest.skip("no control groups of version 2")
    folder = tmp_path / own.removeprefix("0::").lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text("max\n")
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path)
    free = memory.default_budget(torch.device("cpu"))
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert memory.default_budget(torch.device("cpu")) == 1_000_000 < free
