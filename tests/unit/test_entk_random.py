"""The kernel engine on random networks: layers, products and parameters that are used again in other ways.

Sizes coincide on purpose (4 tokens of 4 numbers), and examples are as few as tokens.
"""

import random

import pytest
import torch
from entk_networks import contracted, jacobians
from torch import nn
from torch.nn import functional as F

from twophase.entk import empirical_ntk, layer_kernels
from twophase.entk.rates import Rates
from twophase.errors import ModelError

SEEDS = range(60)
AGAIN = 0.35  # probability of taking a parameter or module that is there already, if one fits

MODULES = {
    "linear": lambda: nn.Linear(4, 4),
    "layer norm": lambda: nn.LayerNorm(4),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "convolution": lambda: nn.Conv1d(4, 4, 3, padding=1),
    "grouped convolution": lambda: nn.Conv1d(4, 4, 3, padding=1, groups=2),
    "transposed convolution": lambda: nn.ConvTranspose1d(4, 4, 3, padding=1),
    "attention": lambda: nn.MultiheadAttention(4, 2, batch_first=True),
    "table": lambda: nn.Embedding(4, 4),
}


def heads(x):
    return x.unflatten(2, (2, 2))


def rows(x):
    return x.flatten(0, 1)


# Modules and shapes of parameters, and what is done to tokens (n, 4, 4) with them.
STEPS = [
    (["linear"], lambda x, m: m(x)),
    (["layer norm"], lambda x, m: m(x)),
    (["group norm"], lambda x, m: m(x.mT).mT),
    (["convolution"], lambda x, m: m(x.mT).mT),
    (["grouped convolution"], lambda x, m: m(x.mT).mT),
    (["transposed convolution"], lambda x, m: m(x.mT).mT),
    (["attention"], lambda x, m: m(x, x, x, need_weights=False)[0]),
    (["table"], lambda x, m: x + m(torch.arange(4))),
    (["table"], lambda x, m: x * m((x > 0).sum(2).clamp(max=3))),
    ([(4, 4)], lambda x, p: x @ p),
    ([(4, 4)], lambda x, p: x @ p.T),
    ([(4, 4)], lambda x, p: (p @ rows(x).T).T.unflatten(0, (-1, 4))),
    ([(4, 4)], lambda x, p: p @ x),
    ([(4, 4)], lambda x, p: torch.einsum("st,ntd->nsd", p, x)),
    ([(4, 4)], lambda x, p: torch.einsum("ntd,st->nsd", x, p)),
    ([(4, 4)], lambda x, p: F.linear(x.mT, p).mT),
    ([(4, 4)], lambda x, p: F.linear(x, p * (p.detach() > 0))),
    ([(4, 4)], lambda x, p: x @ p.view(2, 2, 4).permute(1, 0, 2).reshape(4, 4)),
    ([(4, 4)], lambda x, p: x * p.T + p.view(2, 2, 4).transpose(0, 1).flatten(0, 1)),
    ([(4, 4), (4,)], lambda x, p, q: F.linear(x, p * 0.5, q * 0.5)),
    ([(4, 4), (4,)], lambda x, p, q: torch.addmm(q, rows(x), p, beta=-2).unflatten(0, (-1, 4))),
    ([(2, 4, 2)], lambda x, p: torch.einsum("ntd,hdk->nthk", x, p).flatten(2)),
    ([(2, 4, 2)], lambda x, p: torch.einsum("nthk,hdk->ntd", heads(x), p)),
    ([(2, 2, 4)], lambda x, p: torch.einsum("hkd,nthk->ntd", p, heads(x))),
    ([(4, 4, 4)], lambda x, p: torch.bmm(x.transpose(0, 1), p).transpose(0, 1)),
    ([(4, 4, 4)], lambda x, p: torch.einsum("ntd,std->ns", x, p)[:, None] + x),
    ([(4,)], lambda x, p: torch.sub(x, p, alpha=2)),
    ([(4,)], lambda x, p: p.sigmoid() * x),
    ([(4,)], lambda x, p: F.rms_norm(x, (4,), p)),
    ([(1, 4, 4)], lambda x, p: x * p),
    ([(1, 1, 4)], lambda x, p: torch.cat([p.expand(len(x), -1, -1), x[:, 1:]], 1)),
]


class RandomNetwork(nn.Module):
    """A few steps, one after the other, and a linear head."""

    def __init__(self, draw):
        super().__init__()
        self.modules_of, self.parameters_of = {}, {}
        self.held, self.free, self.steps = nn.ModuleList(), nn.ParameterList(), []
        for _ in range(draw.randint(2, 7)):
            wanted, function = draw.choice(STEPS)
            self.steps.append((function, [self._part(draw, kind) for kind in wanted], draw.random() < 0.8))
        self.head = nn.Linear(4, 3)

    def _part(self, draw, kind):
        module = isinstance(kind, str)
        known = (self.modules_of if module else self.parameters_of).setdefault(kind, [])
        if not known or draw.random() > AGAIN:
            place = self.held if module else self.free
            place.append(MODULES[kind]() if module else nn.Parameter(torch.randn(kind) / 2))
            known.append((place, len(place) - 1))
        return draw.choice(known)

    def forward(self, x):
        for function, parts, squashed in self.steps:
            y = function(x, *(place[index] for place, index in parts))
            x = torch.tanh(y) if squashed else x + y
        return self.head(x.mean(1))


def random_rates(draw):
    """Rates that make any form the cheapest."""
    tables = ({positions: 10 ** draw.uniform(6, 14) for positions in (1, 4, 16)} for _ in range(2))
    return Rates(10 ** draw.uniform(6, 14), *tables, 10 ** draw.uniform(6, 14))


def drawn(seed):
    torch.manual_seed(seed)
    draw = random.Random(seed)
    model = RandomNetwork(draw).double().eval()
    return model, torch.randn(draw.choice([1, 2, 3, 5, 7]), 4, 4, dtype=torch.float64), draw


def relative_error(value, expected):
    return float((value - expected).norm() / expected.norm())


@pytest.mark.parametrize("seed", SEEDS)
def test_kernels_of_random_networks(seed):
    model, x, draw = drawn(seed)
    gradients, others = jacobians(model, x), torch.randn(2, 4, 4, dtype=torch.float64)
    for kernel in ("full", "trace"):
        expected = contracted(gradients, kernel)
        assert relative_error(empirical_ntk(model, x, kernel=kernel, rates=random_rates(draw)), expected) <= 1e-9
        layers = layer_kernels(model, x, kernel=kernel, rates=random_rates(draw))
        assert relative_error(sum(layers.values()), expected) <= 1e-9
    both = contracted(jacobians(model, torch.cat([x, others])), "full")[: len(x), :, len(x) :]
    assert relative_error(empirical_ntk(model, x, other_inputs=others, rates=random_rates(draw)), both) <= 1e-9


class Coupling(nn.Module):
    """Mixes examples."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def of_gradients_only(x):
    """Outputs are what they are alone, gradients aren't: by more than a flipped ReLU may move them in float32."""
    total = x.sum(0, keepdim=True)
    return x + 0.5 * (total - total.detach())


COUPLINGS = [
    lambda x: x + 0.01 * x.mean(0, keepdim=True),
    lambda x: x + 0.01 * x.roll(1, 0),
    lambda x: x - 0.01 * x.amax(0, keepdim=True),
    of_gradients_only,
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_coupled_random_networks_are_refused(seed, coupling):
    model, _, _ = drawn(seed)
    coupled = nn.Sequential(model, Coupling(coupling)).eval()
    with pytest.raises(ModelError, match="depends on the others"):
        empirical_ntk(coupled, torch.randn(5, 4, 4, dtype=torch.float64), kernel="trace")
