"""What the forms of a term cost, the machine's rates that they are chosen by, and the report of a kernel's costs."""

import json
import math
import multiprocessing
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from entk_networks import fresh
from torch import nn

from twophase.entk import costs, empirical_ntk, engine, kernel_costs, plan, terms
from twophase.entk.features import ConvolutionFeatures, DenseFeatures, IndexFeatures
from twophase.entk.plain import plain_ntk
from twophase.entk.plan import Blocks
from twophase.entk.rates import Rates
from twophase.entk.terms import Shape

CPU, F32, F64 = torch.device("cpu"), torch.float32, torch.float64
# Like those of one core of 2020: products with few positions are slow.
RATES = Rates(
    6e10,
    {1: 1e9, 4: 4e9, 16: 1.5e10, 64: 3.5e10, 256: 5e10, 1024: 5.5e10},
    {1: 3e9, 4: 1e10, 16: 3e10, 64: 4.5e10, 256: 5e10},
    1.5e10,
)
FORMS = ["jacobian", "deferred", "structured", "mixed"]


def shape(features, channels, logits=10, trace=False, dtype=F32):
    return Shape(logits, channels, features, trace, dtype, CPU)


def conv3(side, channels, stride=1):
    return ConvolutionFeatures((1, side, side, channels), (3, 3), (stride,) * 2, (1, 1), (1, 1), 1)


# Rates ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Makes the cache a new folder, and a measurement a note of device, number type and number of threads."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    notes = []

    def measure(device, dtype):
        notes.append((device, dtype, torch.get_num_threads()))
        return Rates(1e9 * len(notes), {1: 1.0, 16: 2.0}, {1: 3.0}, 4.0)

    monkeypatch.setattr(Rates, "measure", measure)
    return notes


def cached(tmp_path):
    return sorted((tmp_path / "cache" / "twophase").glob("*.json"))


def test_rates_are_measured_once(measured, tmp_path):
    first = Rates.of_machine(CPU, F32)
    assert [Rates.of_machine(CPU, F32) for _ in range(3)] == [first] * 3
    assert measured == [(CPU, F32, 1)]
    assert json.loads(cached(tmp_path)[0].read_text()) == json.loads(json.dumps(asdict(first)))


def test_rates_of_other_number_types_and_threads_are_others(measured, tmp_path):
    kinds = [(dtype, threads) for dtype in (F32, F64) for threads in (1, 2)]
    for _ in range(2):
        for dtype, threads in kinds:
            torch.set_num_threads(threads)
            try:
                Rates.of_machine(CPU, dtype)
            finally:
                torch.set_num_threads(1)
    assert measured == [(CPU, *kind) for kind in kinds]
    assert len(cached(tmp_path)) == 4


@pytest.mark.parametrize(
    "damage",
    ["", "{", "null", "[]", '"rates"', "{}", '{"product": 1}', "\x00" * 50, "binary",
     '{"product": 1, "bandwidth": 1, "mixed": {"1": 1}, "formation": 3}',
     '{"product": "fast", "bandwidth": 1, "mixed": {"1": 1}, "formation": {"1": 1}}',
     '{"product": 1, "bandwidth": 1, "mixed": {"1": 1}, "formation": {}}',
     '{"product": 1, "bandwidth": 1, "mixed": {"a": 1}, "formation": {"1": 1}}',
     '{"product": 0, "bandwidth": 1, "mixed": {"1": 1}, "formation": {"1": 1}}',
     '{"product": NaN, "bandwidth": 1, "mixed": {"1": 1}, "formation": {"1": 1}}'],
)  # fmt: skip
def test_damaged_and_foreign_files_are_replaced(measured, tmp_path, damage):
    Rates.of_machine(CPU, F32)
    (path,) = cached(tmp_path)
    path.write_bytes(b"\xff\xfe\x80" if damage == "binary" else damage.encode())
    assert Rates.of_machine(CPU, F32).product == 2e9
    assert json.loads(path.read_text())["product"] == 2e9
    assert Rates.of_machine(CPU, F32).product == 2e9
    assert len(measured) == 2


@pytest.mark.parametrize("obstacle", ["a file", "below a file", "a folder of that name", "no home"])
def test_a_folder_that_cannot_be_written(measured, monkeypatch, tmp_path, obstacle):
    (tmp_path / "file").write_text("")
    if obstacle == "a folder of that name":
        Rates.of_machine(CPU, F32)
        (path,) = cached(tmp_path)
        path.unlink()
        path.mkdir()
        measured.clear()
    elif obstacle == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: Path("/proc/nowhere"))
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / ("below" if obstacle == "below a file" else "")))
    assert Rates.of_machine(CPU, F32).bandwidth == 4.0
    assert 1 <= len(measured) <= 2


def test_the_cache_is_in_the_home_folder_by_default(measured, monkeypatch, tmp_path):
    for empty in (lambda: monkeypatch.delenv("XDG_CACHE_HOME"), lambda: monkeypatch.setenv("XDG_CACHE_HOME", "")):
        empty()
        monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
        Rates.of_machine(CPU, F32)
        assert len(list((tmp_path / "home" / ".cache" / "twophase").glob("rates-*.json"))) == 1
    assert len(measured) == 1


def of_machine_slowly(folder, started):
    """For a process of its own: the rates, measured slowly, and noted."""

    def measure(device, dtype):
        note = folder / f"{time.monotonic_ns()}.measured"
        note.write_text("")
        time.sleep(0.3)
        return Rates(float(note.stem), {1: 1.0}, {1: 1.0}, 1.0)

    Rates.measure = measure
    started.wait(20)
    return Rates.of_machine(CPU, F32).product


def _send(send, *arguments):
    send.send(of_machine_slowly(*arguments))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_processes_that_start_together_measure_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    context = multiprocessing.get_context("fork")
    started, (receive, send) = context.Barrier(3), context.Pipe(False)
    processes = [context.Process(target=_send, args=(send, tmp_path, started)) for _ in range(3)]
    for process in processes:
        process.start()
    products = {receive.recv() for _ in processes if receive.poll(30)}
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert len(products) == len(list(tmp_path.glob("*.measured"))) == 1


@pytest.mark.parametrize("function", [empirical_ntk, kernel_costs])
def test_given_rates_need_no_file(measured, tmp_path, function):
    model, x = fresh("conv_stack")
    function(model, x, rates=RATES)
    assert measured == []
    assert not (tmp_path / "cache").exists()
    function(model, x)
    assert len(measured) == len(cached(tmp_path)) == 1


def test_real_rates():
    rates = Rates.measure(CPU, F32)
    for value in (rates.product, *rates.formation.values(), *rates.mixed.values(), rates.bandwidth):
        assert 1e7 < value < 1e14
    assert list(rates.formation) == sorted(rates.formation)


def test_rates_between_and_beyond_what_was_measured():
    table = {1: 10.0, 16: 20.0, 256: 60.0}
    assert [RATES.at(table, p) for p in (1, 4, 16, 64, 256, 5000)] == pytest.approx([10, 15, 20, 40, 60, 60])


# Operations and bytes, by formulas of their own -----------------------------------------------------------------------

# Features, positions S, width D, groups, stored numbers, and operations of two examples' Gram matrix.
CASES = {
    # S D for x itself; a dot product of D numbers for each pair of positions
    "linear": (DenseFeatures(1, 7), 1, 7, 1, 7, 2 * 7),
    "tokens": (DenseFeatures(5, 7), 5, 7, 1, 35, 2 * 25 * 7),
    # an index, of 8 bytes; a comparison for each pair
    "embedding": (IndexFeatures(5, 11), 5, 11, 1, 10, 25),
    # 6 x 6 pixels of 4 channels to as many positions: of pixels, 2 * 36^2 * 4, then 9 sums of 36^2 (patches: 72 * 36^2)
    "by pixels": (conv3(6, 4), 36, 36, 1, 144, 2 * 36**2 * 4 + 9 * 36**2),
    # 3 x 3 patches of 2 x 2 pixels that don't overlap: of patches of 2 * 2 * 4 numbers
    "by patches": (ConvolutionFeatures((1, 6, 6, 4), (2, 2), (2, 2), (0, 0), (1, 1), 1), 9, 16, 1, 144, 2 * 81 * 16),
    # the pixels themselves
    "pointwise": (ConvolutionFeatures((1, 3, 3, 4), (1, 1), (1, 1), (0, 0), (1, 1), 1), 9, 4, 1, 36, 2 * 81 * 4),
    # 2 images of 5 numbers of 4 channels, 2 groups, 3 taps with distance 2: 1 output each; a group sees 3 * 2 numbers
    "groups": (ConvolutionFeatures((2, 5, 4), (3,), (1,), (0,), (2,), 2), 2, 6, 2, 40, None),
}

DEFERRED = {"linear", "embedding"}  # 19 < 84 and 115 < 132 numbers, by the rule below


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_operations_and_bytes(case, trace, dtype):
    features, s, d, groups, stored, gram = CASES[case]
    q, c, size = 3, 4, 4 if dtype == F32 else 8
    assert (features.positions, features.width, features.groups, features.stored) == (s, d, groups, stored)
    term = shape(features, c, q, trace, dtype)
    pairs_of_logits = q if trace else q * q
    expected = {
        # J = sum over positions of an outer product, for each logit; then dot products of C D numbers
        "jacobian": (2 * q * s * c * d, 2 * pairs_of_logits * c * d, q * c * d * size),
        # the same, with gradients and features kept
        "deferred": (2 * q * s * c * d, 2 * pairs_of_logits * c * d, (q * s * c + stored) * size),
        # dot products of C numbers for each pair of positions and of logits; and the Gram matrix
        "structured": (0, 2 * s * s * c * pairs_of_logits + (gram or 0), (q * s * c + stored) * size),
        # q C rows of S numbers times the Gram matrix; then dot products of C S numbers; and the Gram matrix
        "mixed": (0, 2 * q * c * s * s + 2 * q * q * c * s + (gram or 0), (q * s * c + stored) * size),
    }
    # Gradients and patches together are fewer numbers than the Jacobian where s (q c + d) < q c d.
    possible = ["deferred" if case in DEFERRED else "jacobian"]
    if groups == 1:
        possible += ["structured"] * (trace or s <= costs.STRUCTURED_POSITIONS) + ["mixed"] * (not trace)
    found = {cost.form: cost for cost in costs.possible_costs(term, RATES)}
    assert list(found) == possible
    for form, cost in found.items():
        once, pair, held = expected[form]
        assert (cost.operations_once, cost.operations_pair, cost.held) == (once, pair, held)
        assert cost.operations(11, 50) == 11 * once + 50 * pair
        assert cost.seconds(11, 50) == pytest.approx(11 * cost.seconds_once + 50 * cost.seconds_pair)
        assert cost.seconds(1, 1) > 0
        assert (
            costs.term_of(costs.FORMS[cost.form][1], term, bias=False).hold(2).gradients.nbytes
            + (0 if form == "jacobian" else 2 * stored * size)
            == 2 * held
        )


def test_slower_rates_give_longer_times():
    slow = Rates(*(
        {p: r / 10 for p, r in rate.items()} if isinstance(rate, dict) else rate / 10 for rate in asdict(RATES).values()
    ))  # fmt: skip
    for trace in (False, True):
        term = shape(conv3(4, 64), 32, trace=trace)
        for fast, other in zip(costs.possible_costs(term, RATES), costs.possible_costs(term, slow), strict=True):
            assert other.seconds(10, 55) == pytest.approx(10 * fast.seconds(10, 55))


# The cheapest form ----------------------------------------------------------------------------------------------------

CHEAPEST = {
    "many positions, few parameters": (shape(conv3(32, 3), 64), "jacobian"),
    "many positions, few parameters, trace": (shape(conv3(32, 3), 64, trace=True), "jacobian"),
    "8 x 8 x 256 of a VGG": (shape(conv3(8, 256), 256), "mixed"),
    "4 x 4 x 512 of a VGG": (shape(conv3(4, 512), 512), "mixed"),
    "8 x 8 x 64 of a ResNet": (shape(conv3(8, 64), 64), "deferred"),
    "16 x 16 x 32 of a ResNet": (shape(conv3(16, 32), 32), "jacobian"),
    "8 x 8 x 64 of a ResNet, trace": (shape(conv3(8, 64), 64, trace=True), "deferred"),
    "linear": (shape(DenseFeatures(1, 512), 512), "structured"),
    "wide linear, trace": (shape(DenseFeatures(1, 4096), 4096, trace=True), "structured"),
    "small linear": (shape(DenseFeatures(1, 64), 10), "structured"),
    "4 x 4 x 512 of a VGG, trace": (shape(conv3(4, 512), 512, trace=True), "structured"),
    "one logit, many tokens, few parameters": (shape(DenseFeatures(512, 8), 8, logits=1), "jacobian"),
    "groups": (shape(ConvolutionFeatures((1, 2, 2, 64), (3, 3), (1, 1), (1, 1), (1, 1), 2), 64), "jacobian"),
}


@pytest.mark.parametrize("name", CHEAPEST)
def test_cheapest_form(name):
    term, form = CHEAPEST[name]
    assert costs.cheapest(term, RATES, 1000, 500_500).form == form


def test_cheapest_has_the_smallest_predicted_time():
    for side in (1, 2, 4, 8, 16):
        for trace in (False, True):
            for examples in (2, 100, 5000):
                term, pairs = shape(conv3(side, 64), 64, trace=trace), examples * (examples + 1) // 2
                times = [cost.seconds(examples, pairs) for cost in costs.possible_costs(term, RATES)]
                assert costs.cheapest(term, RATES, examples, pairs).seconds(examples, pairs) == min(times)


# Every form gives the same kernel -------------------------------------------------------------------------------------


def flattened(*layers):
    return nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))


NETWORKS = {
    "stride": ((3, 7, 6), lambda: flattened(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(4, 5, 2))),
    "padding": ((2, 4, 5), lambda: flattened(nn.Conv2d(2, 4, (2, 3), padding=(0, 3)), nn.Conv2d(4, 2, 3, padding=3))),
    "dilation": ((2, 8, 8), lambda: flattened(nn.Conv2d(2, 3, 3, dilation=(2, 3), padding=2, bias=False))),
    "groups": ((4, 5, 5), lambda: flattened(nn.Conv2d(4, 6, 3, groups=2), nn.Tanh(), nn.Conv2d(6, 6, 1, groups=6))),
    "one dimension": ((3, 9), lambda: flattened(nn.Conv1d(3, 4, 3, stride=2, padding=1))),
    "three dimensions": ((2, 3, 4, 3), lambda: flattened(nn.Conv3d(2, 3, 2, padding=(1, 0, 1)))),
    "vectors": ((5,), lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4, bias=False), nn.Linear(4, 3))),
    "tokens": ((4, 5), lambda: flattened(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3, bias=False))),
    "embedding": (None, lambda: flattened(nn.Embedding(7, 4, padding_idx=2), nn.Linear(4, 4))),
}  # fmt: skip


def build(name):
    torch.manual_seed(0)
    sizes, make = NETWORKS[name]
    x = torch.randint(7, (9, 6)) if sizes is None else torch.randn(9, *sizes)
    model = make().eval()
    model(x)
    return model.double(), x.double() if x.is_floating_point() else x


def force(monkeypatch, form):
    """Let every term have a form wherever it can be had, even where it is never the cheapest; returns the forms."""
    taken = []

    def chosen(term, rates, examples, pairs):
        impossible = term.features.groups > 1 or (form == "mixed" and term.trace)
        taken.append("jacobian" if impossible and form != "jacobian" else form)
        return costs.FORMS[taken[-1]][0](term, rates)

    monkeypatch.setattr(plan, "cheapest", chosen)
    return taken


@pytest.mark.parametrize("columns", [None, 4])
@pytest.mark.parametrize("kernel", ["full", "trace"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_forms_do_not_change_the_kernel(monkeypatch, name, form, kernel, columns):
    model, x = build(name)
    other = None if columns is None else x[:columns].flip(-1)
    expected = plain_ntk(model, x, kernel=kernel, other_inputs=other)
    taken = force(monkeypatch, form)
    for blocks in (Blocks(9, 9, 9), Blocks(4, 3, 2)):
        monkeypatch.setattr(engine, "cut", lambda *args, blocks=blocks: blocks)
        value = empirical_ntk(model, x, kernel=kernel, other_inputs=other, rates=RATES)
        assert float((value - expected).norm() / expected.norm()) <= 1e-9
    assert form in taken or name == "groups" or (form == "mixed" and kernel == "trace")


@pytest.mark.parametrize("columns", [None, 4])
@pytest.mark.parametrize("kernel", ["full", "trace"])
@pytest.mark.parametrize(("step", "parts"), [(1, 27), (5, 6), (26, 2), (27, 1)])
def test_jacobians_formed_in_parts(monkeypatch, step, parts, kernel, columns):
    torch.manual_seed(0)
    model, x = flattened(nn.Conv2d(3, 4, 3, padding=1)).eval(), torch.randn(9, 3, 5, 4, dtype=torch.float64)
    model(x.float())
    other = None if columns is None else x[:columns].flip(-1)
    force(monkeypatch, "deferred")
    monkeypatch.setattr(terms, "FORMED_BYTES", 1)
    monkeypatch.setattr(terms, "FORMED_STEP", step)
    formed, form = [], terms.add_jacobian

    def noting(result, gradients, dense):
        if dense.shape[1] == 20:  # positions of the convolution
            formed.append(dense.shape[2])
        form(result, gradients, dense)

    monkeypatch.setattr(terms, "add_jacobian", noting)
    value = empirical_ntk(model.double(), x, kernel=kernel, other_inputs=other, rates=RATES)
    expected = plain_ntk(model, x, kernel=kernel, other_inputs=other)
    assert float((value - expected).norm() / expected.norm()) <= 1e-12
    sides = 1 if columns is None else 2
    assert len(formed) == sides * parts
    assert sum(formed) == sides * 27
    assert max(formed) == step


@pytest.mark.parametrize("form", ["jacobian", "deferred"])
@pytest.mark.parametrize("tf32", [False, True])
def test_only_products_between_jacobians_round_to_tf32(monkeypatch, form, tf32):
    seen, matmul = {}, torch.backends.cuda.matmul

    def noting(name):
        function = getattr(terms, name)
        return lambda *args: seen.setdefault(name, set()).add(matmul.fp32_precision) or function(*args)

    for name in ("add_jacobian", "add_product"):
        monkeypatch.setattr(terms, name, noting(name))
    model, x = build("stride")
    force(monkeypatch, form)
    empirical_ntk(model.float(), x.float(), tf32=tf32, rates=RATES)
    assert seen == {"add_jacobian": {"ieee"}, "add_product": {"tf32" if tf32 else "ieee"}}


@pytest.mark.parametrize("kernel", ["full", "trace"])
@pytest.mark.parametrize("form", ["jacobian", "structured", "mixed"])  # rates never choose between the first two
@pytest.mark.parametrize("name", ["stride", "tokens", "embedding"])
def test_extreme_rates_choose_forms_but_not_the_kernel(name, form, kernel):
    model, x = build(name)
    slow, fast = dict.fromkeys(RATES.mixed, 1.0), dict.fromkeys(RATES.mixed, 1e30)
    tables = (fast if form == f else slow for f in ("jacobian", "mixed"))
    rates = Rates(1e30 if form == "structured" else 1e3, *tables, 1e30)
    expected = plain_ntk(model, x, kernel=kernel)
    value = empirical_ntk(model, x, kernel=kernel, rates=rates)
    assert float((value - expected).norm() / expected.norm()) <= 1e-9
    forms = {term.form for term in kernel_costs(model, x, kernel=kernel, rates=rates).terms}
    wanted = "structured" if form == "mixed" and kernel == "trace" else form
    assert wanted in forms


# The report -----------------------------------------------------------------------------------------------------------


class Mixture(nn.Module):
    """Parameters of all kinds: one kind has no rule, one isn't used."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.mixed = nn.Parameter(torch.randn(8, 4))
        self.head, self.gain = nn.Linear(4, 3), nn.Parameter(torch.ones(4))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        h = torch.tanh(self.norm(self.conv(x))).mean((2, 3))
        return self.frozen(self.head(torch.tanh(torch.addmm(self.gain, h, self.mixed, alpha=2))))


@pytest.mark.parametrize("other", [None, 2])
@pytest.mark.parametrize("kernel", ["full", "trace", "sum", 1])
def test_report_of_costs(kernel, other):
    torch.manual_seed(0)
    model, x = Mixture().eval(), torch.randn(5, 3, 6, 6)
    start = time.perf_counter()
    report = kernel_costs(model, x, other_inputs=None if other is None else x[:other], kernel=kernel, rates=RATES)
    elapsed = time.perf_counter() - start
    names = [name for term in report.terms for name in term.parameters]
    used = [n for n, p in model.named_parameters() if p.requires_grad and "unused" not in n]
    assert sorted(names) == sorted(used)
    assert report.rates is RATES

    examples, pairs = (5, 15) if other is None else (7, 10)
    q, c, d, s = (3 if kernel in ("full", "trace") else 1), 8, 27, 36
    logits = 9 if kernel == "full" else q
    # Of patches: 2 S^2 D; of pixels: 2 S^2 C + 9 S^2.
    gram = 2 * s * s * 3 + 9 * s * s
    formulas = {
        "jacobian": examples * 2 * q * s * c * d + pairs * 2 * logits * c * d,
        "structured": pairs * (2 * s * s * c * logits + gram),
        "mixed": pairs * (2 * q * c * s * (s + q) + gram),
    }
    conv = next(term for term in report.terms if "conv.weight" in term.parameters)
    assert conv.operations == formulas[conv.form]
    explicit = next(term for term in report.terms if "mixed" in term.parameters)
    assert explicit.form == "explicit"
    width = sum(dict(model.named_parameters())[name].numel() for name in explicit.parameters)
    assert explicit.operations == 2 * pairs * logits * width
    assert explicit.held == 4 * q * width

    seconds = [term.measured for term in report.terms]
    assert min(seconds) > 0
    assert all(value >= 0 for value in report.passes.values())
    parts = sum(seconds) + sum(report.passes.values()) - report.passes["total"]
    assert parts == pytest.approx(report.passes["total"])
    assert report.passes["total"] <= elapsed
    assert all(term.predicted > 0 or (term.form == "explicit" and math.isnan(term.predicted)) for term in report.terms)


def test_report_as_a_table():
    model, x = fresh("conv_stack")
    report = kernel_costs(model, x, rates=RATES)
    lines = str(report).splitlines()
    assert len(lines) == 2 + len(report.terms) + len(report.passes)
    for line, term in zip(lines[1:], report.terms, strict=False):
        assert line.startswith(term.parameters[0])
        assert f" {term.form} " in line
        assert line.endswith(f"{term.measured:.3f}")
        assert (f"and {len(term.parameters) - 1} more" in line) == (len(term.parameters) > 1)
    for line, (what, seconds) in zip(lines[1 + len(report.terms) :], report.passes.items(), strict=False):
        assert line.split(maxsplit=0)[0].startswith(what)
        assert line.endswith(f"{seconds:.3f}")
    assert "total" in lines[-2]
    assert "60.0 GFLOP/s" in lines[-1]
    assert len({len(line) for line in lines[:-1]}) == 1
    assert "nan" not in str(report)
