"""Networks that are hard for an engine of tangent kernels, and an oracle in float64.

Sizes coincide on purpose (4 tokens of 4 numbers, 4 channels), so that an axis of examples can't be told by its length.
"""

import copy
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

EXAMPLES = 8
NETWORKS: dict[str, tuple[Callable, Callable]] = {}


class Net(nn.Module):
    """A forward pass given as a function of the network and its inputs; parts are modules, parameters or buffers."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def network(inputs):
    """Register a function that makes a network, under its name."""

    def register(make):
        NETWORKS[make.__name__] = (make, inputs)
        return make

    return register


def add(name, inputs, function, parts=dict):
    """Register a network that is written in a line; ``parts`` makes its modules and parameters."""
    NETWORKS[name] = (lambda: Net(function, **parts()), inputs)


def images(*shape):
    return lambda n: torch.randn(n, *shape)


def tokens(*shape):
    return lambda n: torch.randint(7, (n, *shape))


def param(*shape, scale=0.5):
    return nn.Parameter(scale * torch.randn(shape))


def sequential(*layers):
    return nn.Sequential(*layers)


VECTORS, SEQUENCES, IMAGES = images(4), images(4, 4), images(3, 6, 6)


@cache
def build(name):
    """Return a network, its parameters exact in float32, and the inputs, in float64; make copies, don't change it."""
    torch.manual_seed(sum(map(ord, name)))
    make, inputs = NETWORKS[name]
    model, x = make(), inputs(EXAMPLES)
    model.eval()
    with torch.no_grad():
        model(x)  # gives lazy layers their shapes
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter += 0.2 * torch.randn_like(parameter)
        for module in model.modules():
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.5, 1.5)
    return model.double(), x.double() if x.is_floating_point() else x


def fresh(name, dtype=torch.float64):
    """Return a copy of a network and of its inputs."""
    model, x = build(name)
    return copy.deepcopy(model).to(dtype), x.to(dtype, copy=True) if x.is_floating_point() else x.clone()


def jacobians(model, inputs):
    """Gradients of every logit of every example, ``(n, K, p)`` by parameter: one backward pass each, in float64."""
    model = copy.deepcopy(model).double()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows = {name: [] for name in parameters}
    with torch.enable_grad():
        for x in inputs.split(1):
            for logit in model(x.clone())[0]:
                gradients = [None] * len(parameters)
                if logit.requires_grad:
                    gradients = torch.autograd.grad(logit, parameters.values(), retain_graph=True, allow_unused=True)
                for (name, p), g in zip(parameters.items(), gradients, strict=True):
                    rows[name].append(torch.zeros_like(p).flatten() if g is None else g.to_dense().flatten())
    return {name: torch.stack(row).unflatten(0, (len(inputs), -1)) for name, row in rows.items()}


@cache
def reference(name):
    """Jacobians of a network at its inputs."""
    return jacobians(*build(name))


def contracted(gradients, kernel, rows=slice(None), columns=None):
    """Kernel between examples ``rows`` and ``columns`` from Jacobians by parameter."""
    left = torch.cat([g[rows] for g in gradients.values()], dim=2)
    right = left if columns is None else torch.cat([g[columns] for g in gradients.values()], dim=2)
    return reduced(torch.einsum("ikp,jlp->ikjl", left, right), kernel)


def reduced(full, kernel):
    """Class trace, kernel of the summed logits, or kernel of one logit, from a full kernel."""
    match kernel:
        case "full":
            return full
        case "trace":
            return torch.einsum("ikjk->ij", full)
        case "sum":
            return full.sum((1, 3))
        case index:
            return full[:, index, :, index]


def by_owner(gradients):
    """The same Jacobians in groups, by the name of the module that owns the parameters."""
    owners = {}
    for name, gradient in gradients.items():
        owners.setdefault(name.rpartition(".")[0], {})[name] = gradient
    return owners


# Convolutions ---------------------------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "conv1d": ((3, 9), lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1)),
    "conv1d_dilated_groups": ((4, 9), lambda: nn.Conv1d(4, 6, 2, dilation=3, groups=2)),
    "conv1d_same": ((3, 6), lambda: nn.Conv1d(3, 4, 4, padding="same")),
    "conv1d_pointwise": ((3, 5), lambda: nn.Conv1d(3, 4, 1, bias=False)),
    "conv2d": ((3, 6, 6), lambda: nn.Conv2d(3, 4, 3, padding=1)),
    "conv2d_no_bias": ((3, 6, 6), lambda: nn.Conv2d(3, 4, 3, bias=False)),
    "conv2d_stride": ((3, 7, 6), lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1)),
    "conv2d_skipped_pixels": ((2, 8, 8), lambda: nn.Conv2d(2, 4, 2, stride=3)),
    "conv2d_strides": ((2, 5, 9), lambda: nn.Conv2d(2, 4, (2, 3), stride=(1, 3), padding=(0, 2), dilation=(2, 1))),
    "conv2d_non_square": ((2, 4, 7), lambda: nn.Conv2d(2, 4, (1, 5), padding=(1, 0))),
    "conv2d_even": ((2, 5, 5), lambda: nn.Conv2d(2, 4, 4, padding=2)),
    "conv2d_same_even": ((2, 5, 4), lambda: nn.Conv2d(2, 4, (2, 4), padding="same", dilation=(2, 1))),
    "conv2d_circular": ((2, 4, 4), lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")),
    "conv2d_reflect": ((2, 4, 5), lambda: nn.Conv2d(2, 4, 3, padding=(1, 2), padding_mode="reflect", stride=2)),
    "conv2d_groups": ((4, 5, 5), lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2, dilation=2, padding=2)),
    "conv2d_depthwise": ((4, 5, 5), lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4)),
    "conv2d_depthwise_multiplied": ((3, 5, 5), lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False)),
    "conv2d_pointwise": ((3, 4, 4), lambda: nn.Conv2d(3, 4, 1)),
    "conv2d_pointwise_stride": ((3, 5, 5), lambda: nn.Conv2d(3, 4, 1, stride=2)),
    "conv2d_pointwise_padded": ((3, 2, 2), lambda: nn.Conv2d(3, 4, 1, padding=1)),
    "conv2d_one_position": ((3, 4, 4), lambda: nn.Conv2d(3, 5, 4)),
    "conv2d_four_positions": ((3, 4, 4), lambda: nn.Conv2d(3, 4, 3)),
    "conv2d_many_positions": ((1, 16, 16), lambda: nn.Conv2d(1, 2, 3, padding=1)),
    "conv2d_one_pixel": ((4, 1, 1), lambda: nn.Conv2d(4, 4, 3, padding=1)),
    "conv2d_one_channel": ((1, 5, 5), lambda: nn.Conv2d(1, 1, 3)),
    "conv3d": ((2, 4, 4, 4), lambda: nn.Conv3d(2, 3, (3, 2, 3), stride=(1, 2, 1), padding=(1, 0, 1))),
    "conv3d_depthwise": ((4, 3, 3, 3), lambda: nn.Conv3d(4, 4, 2, groups=4, dilation=2, padding=1)),
    "transposed1d": ((3, 5), lambda: nn.ConvTranspose1d(3, 4, 3, stride=2)),
    "transposed2d": ((3, 3, 4), lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1)),
    "transposed2d_groups": ((4, 3, 3), lambda: nn.ConvTranspose2d(4, 6, 2, groups=2, dilation=2, bias=False)),
}


def _convolution(layer):
    return lambda: sequential(layer(), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))


for _name, (_shape, _layer) in CONVOLUTIONS.items():
    NETWORKS[_name] = (_convolution(_layer), images(*_shape))


@network(IMAGES)
def conv_stack():
    body = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1)]
    return sequential(*body, nn.SiLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@network(IMAGES)
def conv_outputs_are_logits():
    return sequential(nn.Conv2d(3, 2, 3, stride=2), nn.Flatten())


@network(IMAGES)
def conv_of_single_images():
    """Images one by one, without an axis of examples."""
    conv, head = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(16, 3)
    return Net(lambda net, x: torch.stack([net.head(net.conv(i).tanh().flatten()) for i in x]), conv=conv, head=head)


@network(IMAGES)
def unfolded_patches():
    """A convolution written as a linear layer, with examples first and with positions first."""

    def forward(net, x):
        patches = F.unfold(x, 3, stride=3)  # (n, 27, 4)
        h = torch.tanh(net.patch(patches.mT)) + torch.tanh(net.patch(patches.permute(2, 0, 1))).transpose(0, 1)
        return net.head(h.flatten(1))

    return Net(forward, patch=nn.Linear(27, 4), head=nn.Linear(16, 3))


@network(IMAGES)
def u_net():
    def forward(net, x):
        h = torch.relu(net.down(x))
        deep = torch.tanh(net.middle(F.max_pool2d(h, 2)))
        h = torch.cat([h, net.up(deep), F.interpolate(deep, scale_factor=2, mode="bilinear")], dim=1)
        return net.head(h).mean((2, 3))

    down, middle, up = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.ConvTranspose2d(4, 2, 2, 2)
    return Net(forward, down=down, middle=middle, up=up, head=nn.Conv2d(10, 3, 1))


@network(IMAGES)
def three_consumers():
    def forward(net, x):
        h = net.stem(x)
        h = net.a(torch.tanh(h)) + torch.relu(h) + net.b(h)
        h *= torch.sigmoid(net.squeeze(h.mean((2, 3))))[:, :, None, None]
        return net.head(h.flatten(2).amax(2))

    convs = {name: nn.Conv2d(4, 4, 3, padding=1, bias=name == "a") for name in "ab"}
    return Net(forward, stem=nn.Conv2d(3, 4, 3), **convs, squeeze=nn.Linear(4, 4), head=nn.Linear(4, 3))


@network(IMAGES)
def two_image_sizes():
    def forward(net, x):
        return net.head(torch.cat([torch.tanh(net.conv(s)).mean((2, 3)) for s in (x, F.avg_pool2d(x, 2))], dim=1))

    return Net(forward, conv=nn.Conv2d(3, 4, 2), head=nn.Linear(8, 3))


@network(images(4, 4, 4))
def two_conv_settings():
    """One weight in convolutions of different strides, paddings and groups, and in a linear layer."""

    def forward(net, x):
        y = F.conv2d(x, net.weight, stride=2) + F.conv2d(x, net.weight, dilation=2, padding=1)[..., :2, :2]
        y = y + F.conv_transpose2d(x, net.weight)[..., :2, :2]
        return net.head(torch.tanh(y).mean((2, 3)) + F.linear(x.mean((2, 3)), net.weight[:, :, 0, 0]))

    return Net(forward, weight=param(4, 4, 2, 2, scale=0.3), head=nn.Linear(4, 3))


# Linear layers, tokens and attention ----------------------------------------------------------------------------------


@network(VECTORS)
def perceptron():
    return sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Linear(6, 3))


@network(VECTORS)
def one_layer():
    return nn.Linear(4, 3)


@network(VECTORS)
def one_logit():
    return sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))


@network(VECTORS)
def many_logits():
    return sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 12))


def _token_mixer(net, x):
    return net.head(torch.tanh(net.b(torch.tanh(net.a(x)))).mean(-2).flatten(1))


def _two_layers(d=4, width=4, logits=3, flat=1):
    return {"a": nn.Linear(d, width), "b": nn.Linear(width, 4, bias=False), "head": nn.Linear(4 * flat, logits)}


add("token_layers", SEQUENCES, _token_mixer, _two_layers)
add("token_layers_of_5", images(5, 6), _token_mixer, lambda: _two_layers(6, 7))
add("one_token", images(1, 4), _token_mixer, _two_layers)
add("token_grid", images(3, 4, 4), _token_mixer, lambda: _two_layers(flat=3))
add("tokens_transposed", SEQUENCES, lambda net, x: _token_mixer(net, x.transpose(1, 2)), _two_layers)
add("tokens_outputs_flat", images(4, 2), lambda net, x: net.a(x).flatten(1), lambda: {"a": nn.Linear(2, 3)})


def _tokens_first(net, x):
    h = torch.tanh(net.b(torch.tanh(net.a(x.transpose(0, 1)))))  # (T, n, d)
    return net.head(net.norm(h).mean(0))


add("tokens_first", SEQUENCES, _tokens_first, lambda: {**_two_layers(), "norm": nn.LayerNorm(4)})
add(
    "last_token_of_tokens_first",
    images(3, 4),
    lambda net, x: net.head(torch.tanh(net.a(x.transpose(0, 1)))[-1]),
    lambda: {"a": nn.Linear(4, 4), "head": nn.Linear(4, 3)},
)

for _tokens, _seen in ((3, 1), (2, 0), (5, 2)):  # of two examples, the middle token's rows lie in both orders
    add(
        f"token_{_seen}_of_{_tokens}_tokens_first",
        images(_tokens, 4),
        lambda net, x, seen=_seen: net.head(
            torch.tanh(net.a(x.transpose(0, 1).flatten(0, 1)))[seen * len(x) :][: len(x)]
        ),
        lambda: {"a": nn.Linear(4, 4), "head": nn.Linear(4, 3)},
    )


@network(SEQUENCES)
def mlp_mixer():
    def forward(net, x):
        x = x + net.over_tokens(x.transpose(1, 2)).transpose(1, 2)
        return net.head((x + net.over_channels(x))[:, ::2].flatten(1))

    mixers = {
        name: sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)) for name in ("over_tokens", "over_channels")
    }
    return Net(forward, **mixers, head=nn.Linear(8, 3))


def _attention(net, x):
    if not net.attention.batch_first:
        x = x.transpose(0, 1)
    x = x + net.attention(x, x, x)[0]
    return net.head(x.mean(1 if net.attention.batch_first else 0))


for _first in (True, False):
    add(
        f"attention_batch_{'first' if _first else 'second'}",
        SEQUENCES,
        _attention,
        lambda first=_first: {"attention": nn.MultiheadAttention(4, 2, batch_first=first), "head": nn.Linear(4, 3)},
    )
    add(
        f"transformer_norm_{'first' if _first else 'last'}",
        SEQUENCES,
        lambda net, x: net.head(net.layer(x)[:, 0]),
        lambda first=_first: (
            {
                "layer": nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=first, norm_first=first),
                "head": nn.Linear(4, 3),
            }
            if first
            else {"layer": nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, bias=False), "head": nn.Linear(4, 3)}
        ),
    )


@network(SEQUENCES)
def attention_by_einsum():
    """Weights as arrays of heads, and tokens that are mixed."""

    def forward(net, x):
        q, k, v = torch.einsum("ntd,cdhe->cnhte", x, net.projections)
        mixed = torch.einsum("nhte,hed->ntd", (q @ k.mT).softmax(-1) @ v, net.out)
        h = torch.einsum("mt,ntd->nmd", net.tokens, (x + mixed).tanh())
        return torch.einsum("nmd,dk->nmk", h, net.head).mean(1)

    shapes = {"projections": (3, 4, 2, 3), "out": (2, 3, 4), "tokens": (5, 4), "head": (4, 3)}
    return Net(forward, **{part: param(*shape) for part, shape in shapes.items()})


@network(SEQUENCES)
def transformer_tokens_first():
    def forward(net, x):
        return net.head(net.layer(x.transpose(0, 1), net.memory(x).transpose(0, 1))[-1])

    layer = nn.TransformerDecoderLayer(4, 2, 5, dropout=0.0, activation="gelu")
    return Net(forward, layer=layer, memory=nn.Linear(4, 4), head=nn.Linear(4, 3))


@network(images(3, 5))
def cross_attention():
    """Learnt queries, the same for all examples, ask tokens of another width."""

    def forward(net, x):
        pooled, _ = net.attention(net.queries.expand(len(x), -1, -1), x, x)
        return net.head(pooled.flatten(1))

    attention = nn.MultiheadAttention(4, 2, kdim=5, vdim=5, batch_first=True, add_bias_kv=True)
    return Net(forward, queries=param(1, 2, 4), attention=attention, head=nn.Linear(8, 3))


@network(SEQUENCES)
def fused_attention():
    def forward(net, x):
        q, k, v = net.qkv(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return net.head(net.out(x.transpose(1, 2).flatten(2))[:, -1])

    return Net(forward, qkv=nn.Linear(4, 12), out=nn.Linear(4, 4, bias=False), head=nn.Linear(4, 3))


@network(SEQUENCES)
def packed_attention():
    """All examples laid end to end as one sequence, with a mask that keeps them apart."""

    def forward(net, x):
        n, t, d = x.shape
        mask = torch.block_diag(*[x.new_ones(t, t)] * n) > 0
        q, k, v = net.qkv(x.reshape(1, 1, n * t, d)).chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return net.head(y.view(n, t, d).mean(1))

    return Net(forward, qkv=nn.Linear(4, 12, bias=False), head=nn.Linear(4, 3))


@network(images(2, 4, 4))
def vision_transformer():
    def forward(net, x):
        x = net.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([net.token.expand(len(x), -1, -1), x], dim=1) + net.position
        y = net.norm1(x)
        x = x + net.scale1 * net.attention(y, y, y, need_weights=False)[0]
        x = x + net.scale2 * net.mlp(net.norm2(x))
        return net.head(net.norm3(x)[:, 0])

    norms = {f"norm{i}": nn.LayerNorm(4) for i in (1, 2, 3)}
    return Net(
        forward,
        **norms,
        patches=nn.Conv2d(2, 4, 2, stride=2),
        token=param(1, 1, 4),
        position=param(1, 5, 4),
        scale1=param(4),
        scale2=param(4),
        attention=nn.MultiheadAttention(4, 2, batch_first=True),
        mlp=sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)),
        head=nn.Linear(4, 3),
    )


@network(tokens(5))
def token_transformer():
    """The embedding is the head's weight, positions are embedded too, padding is masked."""

    def forward(net, x):
        h = net.embedding(x) + net.position(torch.arange(x.shape[1]))
        h = net.layer(h, src_key_padding_mask=(x == 1) & (torch.arange(5) > 0))
        return net.head(h[:, 0])

    embedding, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    head.weight = embedding.weight
    layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
    return Net(forward, embedding=embedding, position=nn.Embedding(5, 4), layer=layer, head=head)


# Examples elsewhere than in front -------------------------------------------------------------------------------------


def _frames():
    body = sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.GroupNorm(2, 4)
    )
    return {"body": body, "time": nn.Linear(4, 4), "head": nn.Linear(4, 3)}


def _after_frames(net, h):
    return net.head(torch.tanh(net.time(h.mean((3, 4)))).mean(1))


add(
    "video_example_major",
    images(4, 2, 4, 4),
    lambda net, x: _after_frames(net, net.body(x.flatten(0, 1)).unflatten(0, (len(x), 4))),
    _frames,
)
add(
    "video_time_major",
    images(4, 2, 4, 4),
    lambda net, x: _after_frames(
        net, net.body(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (4, len(x))).transpose(0, 1)
    ),
    _frames,
)
add(
    "video_of_3_time_major",
    images(3, 2, 4, 4),
    lambda net, x: _after_frames(
        net, net.body(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (3, len(x))).transpose(0, 1)
    ),
    _frames,
)


@network(images(2, 3, 4))
def examples_in_the_middle():
    """Rows in the order (a, n, b): neither example-major nor token-major."""

    def forward(net, x):
        rows = x.transpose(0, 1).flatten(0, 2)
        rows = net.norm(torch.tanh(net.a(rows)))
        return net.head(torch.tanh(net.b(rows)).unflatten(0, (2, len(x), 3)).transpose(0, 1).mean(2).flatten(1))

    return Net(forward, **_two_layers(flat=2), norm=nn.BatchNorm1d(4))


add(
    "both_orders_of_rows",
    SEQUENCES,
    lambda net, x: net.head(
        torch.tanh(net.a(x.flatten(0, 1))).unflatten(0, (len(x), 4)).mean(1)
        + torch.tanh(net.a(x.transpose(0, 1).flatten(0, 1))).unflatten(0, (4, len(x))).amax(0)
    ),
    lambda: {"a": nn.Linear(4, 4), "head": nn.Linear(4, 3)},
)


@network(images(4, 2, 3))
def channels_before_examples():
    def forward(net, x):
        h = net.positions(x.flatten(2).transpose(0, 1))  # (C, n, H W)
        h = torch.bmm(torch.tanh(h), net.per_channel)
        return net.head(h.permute(1, 0, 2).flatten(1))

    return Net(forward, positions=nn.Linear(6, 4), per_channel=param(4, 4, 2), head=nn.Linear(8, 3))


@network(VECTORS)
def examples_last():
    def forward(net, x):
        h = torch.tanh(net.left @ x.T + net.shift)  # (5, n)
        h = torch.tanh(net.conv(h.unsqueeze(0)))  # examples as positions
        return (net.out @ h[0]).T

    return Net(forward, left=param(5, 4), shift=param(5, 1), conv=nn.Conv1d(5, 4, 1), out=param(3, 4))


@network(images(2, 4, 4))
def examples_as_depth():
    def forward(net, x):
        h = torch.tanh(net.conv(x.transpose(0, 1).unsqueeze(0)))  # (1, 4, n, H, W)
        return net.head(h[0].mean((2, 3)).T)

    return Net(forward, conv=nn.Conv3d(2, 4, (1, 3, 3)), head=nn.Linear(4, 3))


@network(images(3, 4, 4))
def examples_as_groups():
    """The examples' channels side by side in one image, each with its own copy of the weight."""

    def forward(net, x):
        n = len(x)
        h = F.conv2d(x.reshape(1, n * 3, 4, 4), net.weight.repeat(n, 1, 1, 1), net.bias.repeat(n), groups=n)
        return net.head(torch.tanh(h).view(n, 4, -1).mean(2))

    return Net(forward, weight=param(4, 3, 3, 3), bias=param(4), head=nn.Linear(4, 3))


@network(VECTORS)
def examples_as_filters():
    """A learnt image under filters that the examples make: a parameter is the input, examples are channels."""

    def forward(net, x):
        maps = F.conv2d(net.picture, net.filters(x).view(len(x), 2, 2, 2))  # (1, n, 3, 3)
        return net.head(torch.tanh(maps)[0].flatten(1))

    return Net(forward, filters=nn.Linear(4, 8), picture=param(1, 2, 4, 4), head=nn.Linear(9, 3))


# Rows in another order, twice, or of no example -----------------------------------------------------------------------


def _rows(name, forward, inputs=VECTORS):
    """Register a network of three layers; not all use the second."""
    add(name, inputs, forward, lambda: {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "head": nn.Linear(4, 3)})


def _halves(h):
    return h[: len(h) // 2] + h[len(h) // 2 :]


def _sorted_rows(net, x):
    order = x[:, 0].argsort()
    return net.head(torch.tanh(net.a(x[order]))[order.argsort()])


def _strided_rows(net, x):
    h = torch.tanh(net.a(torch.cat([x[0::2], x[1::2]])))
    middle, y = (len(x) + 1) // 2, torch.empty_like(h)
    y[0::2], y[1::2] = h[:middle], h[middle:]
    return net.head(y)


def _padded_rows(net, x):
    return net.head(torch.tanh(net.a(F.pad(x, (0, 0, 0, -len(x) % 8)))))[: len(x)]


def _routed_rows(net, x):
    chosen, h = x[:, 0] > 0, torch.zeros_like(x)
    h[chosen], h[~chosen] = net.a(x[chosen]), torch.tanh(net.b(x[~chosen]))
    return net.head(h)


def _routed_tokens(net, x):
    chosen, h = x[..., 0] > 0, x.clone()
    h[chosen] = torch.tanh(net.a(x[chosen]))  # (any number, d)
    return net.head(torch.tanh(net.b(h)).mean(1))


_rows("flipped_rows", lambda net, x: net.head(torch.tanh(net.a(x.flip(0)).flip(0))))
_rows("rolled_rows", lambda net, x: net.head(torch.tanh(net.a(x.roll(1, 0))).roll(-1, 0)))
_rows("sorted_rows", _sorted_rows)
_rows("strided_rows", _strided_rows)
_rows("padded_rows", _padded_rows)
_rows("routed_rows", _routed_rows)
_rows("routed_tokens", _routed_tokens, SEQUENCES)
_rows("rows_twice", lambda net, x: _halves(net.head(torch.tanh(net.a(torch.cat([x, -x]))))))
_rows("rows_twice_behind", lambda net, x: net.head(_halves(torch.tanh(net.a(torch.cat([x, -x]))))))
_rows("rows_twice_in_turn", lambda net, x: net.head(torch.tanh(net.a(torch.stack([x, x**2], 1).flatten(0, 1)))[::2]))
_rows("rows_and_reversed_rows", lambda net, x: net.head(torch.tanh(net.a(torch.cat([x, x.flip(0)])))[len(x) :].flip(0)))
_rows("rows_rolled_by_a_third", lambda net, x: net.head(net.a(x.roll(len(x) // 3, 0)).tanh().roll(-(len(x) // 3), 0)))
_rows("rows_in_chunks", lambda net, x: net.head(torch.cat([torch.tanh(net.a(rows)) for rows in x.chunk(3)])))
_rows("first_row_apart", lambda net, x: net.head(torch.cat([net.a(x[:1]).tanh(), net.a(x[1:]).tanh()])))
_rows("loop_over_rows", lambda net, x: torch.stack([net.head(torch.tanh(net.a(row))) for row in x]))
_rows("loop_over_batches_of_1", lambda net, x: torch.cat([net.head(torch.tanh(net.a(row))) for row in x.split(1)]))
_rows("vmap_inside", lambda net, x: torch.vmap(lambda row: net.head(torch.tanh(net.a(row))))(x))
_rows("constant_row", lambda net, x: net.head(net.a(torch.cat([torch.ones_like(x[:1]), x])).tanh())[1:])
_rows(
    "shared_row", lambda net, x: (lambda h: net.head(h[:-1] - h[-1:]))(net.a(F.pad(x, (0, 0, 0, 1), value=0.5)).tanh())
)
_rows("tokens_and_vectors", lambda net, x: net.head(net.a(x).tanh().mean(1) + net.a(x[:, 0]).sin()), SEQUENCES)
_rows("tokens_then_vectors", lambda net, x: net.head(net.a(net.a(x).tanh().mean(1)).tanh()), SEQUENCES)
_rows(
    "layer_order_by_value",
    lambda net, x: net.head(torch.stack([(net.a(net.b(r).tanh()) if r[0] > 0 else net.b(net.a(r).tanh())) for r in x])),
)


@network(VECTORS)
def prototypes():
    """A layer that sees parameters only: 4 rows that belong to no example, or to all."""

    def forward(net, x):
        keys = torch.tanh(net.encoder(net.points))
        return -(torch.tanh(net.encoder(x))[:, None] - keys).square().sum(-1) + net.encoder.bias

    return Net(forward, encoder=nn.Linear(4, 4), points=param(4, 4))


@network(SEQUENCES)
def embedded_positions():
    """Positions through a network of their own, the same for all examples; as many as there are tokens."""

    def forward(net, x):
        where = net.mlp(net.grid) + net.table(torch.arange(4))
        return net.head(torch.tanh(net.tokens(x) + where).mean(1))

    mlp = sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 4))
    layers = {"tokens": nn.Linear(4, 4, bias=False), "table": nn.Embedding(4, 4), "head": nn.Linear(4, 3)}
    return Net(forward, grid=torch.randn(4, 2), mlp=mlp, **layers)


@network(VECTORS)
def hyper_network():
    def forward(net, x):
        weights = net.maker(x).view(-1, 4, 4)
        return net.head(torch.tanh(torch.bmm(weights, net.body(x).unsqueeze(2)).squeeze(2)))

    return Net(forward, maker=nn.Linear(4, 16), body=nn.Linear(4, 4), head=nn.Linear(4, 3))


@network(VECTORS)
def weight_made_by_a_layer():
    """The weight of one layer is the output of another: nothing of it depends on the examples."""
    layers = {"maker": nn.Linear(2, 16), "head": nn.Linear(4, 3)}
    return Net(lambda net, x: net.head(F.linear(x, net.maker(net.code).view(4, 4)).tanh()), code=param(1, 2), **layers)


# Normalisation --------------------------------------------------------------------------------------------------------

NORMS = {
    "batch_norm_1d": ((4,), lambda: nn.BatchNorm1d(4)),
    "batch_norm_of_tokens": ((4, 3), lambda: nn.BatchNorm1d(4)),
    "batch_norm_2d": ((4, 3, 3), lambda: nn.BatchNorm2d(4)),
    "batch_norm_3d": ((4, 2, 3, 2), lambda: nn.BatchNorm3d(4)),
    "batch_norm_plain": ((4, 3, 3), lambda: nn.BatchNorm2d(4, affine=False)),
    "group_norm": ((4, 3, 3), lambda: nn.GroupNorm(2, 4)),
    "group_norm_of_vectors": ((4,), lambda: nn.GroupNorm(2, 4)),
    "group_norm_of_one_group": ((4, 4), lambda: nn.GroupNorm(1, 4)),
    "group_norm_plain": ((4, 3, 3), lambda: nn.GroupNorm(2, 4, affine=False)),
    "instance_norm": ((4, 3, 3), lambda: nn.InstanceNorm2d(4, affine=True)),
    "instance_norm_tracked": ((4, 3, 3), lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    "layer_norm": ((4, 4), lambda: nn.LayerNorm(4)),
    "layer_norm_of_vectors": ((4,), lambda: nn.LayerNorm(4)),
    "layer_norm_3": ((4, 3, 2), lambda: nn.LayerNorm([4, 3, 2])),
    "layer_norm_2_of_3": ((4, 3, 2), lambda: nn.LayerNorm([3, 2])),
    "layer_norm_plain": ((4, 4), lambda: nn.LayerNorm(4, elementwise_affine=False)),
    "layer_norm_no_bias": ((4, 4), lambda: nn.LayerNorm(4, bias=False)),
    "rms_norm": ((3, 4), lambda: nn.RMSNorm(4)),
    "rms_norm_2": ((4, 3, 2), lambda: nn.RMSNorm([3, 2])),
    "prelu": ((4, 3, 3), lambda: nn.PReLU(4)),
    "prelu_of_one": ((4, 3), lambda: nn.PReLU()),
}


def _normalised(norm):
    """The norm between layers; its input varies in scale between channels."""

    def forward(net, x):
        return net.head(torch.tanh(net.norm(net.before(x.transpose(1, -1)).transpose(1, -1))).flatten(1))

    return lambda: Net(forward, before=nn.LazyLinear(4), norm=norm(), head=nn.LazyLinear(3))


for _name, (_shape, _norm) in NORMS.items():
    NETWORKS[_name] = (_normalised(_norm), images(*_shape))


@network(SEQUENCES)
def norms_used_twice():
    def forward(net, x):
        x = net.layers(x.transpose(0, 1)).transpose(0, 1) + net.layers[0](x)
        return net.head(net.layers[1](x[:, 0]))

    return Net(forward, layers=sequential(nn.LayerNorm(4), nn.LayerNorm(4, bias=False)), head=nn.Linear(4, 3))


@network(VECTORS)
def norm_of_parameters():
    """Norm layers whose input is a parameter, and functional ones whose weights come from elsewhere."""

    def forward(net, x):
        h = torch.tanh(x @ net.norm(net.weight))
        h = F.layer_norm(h, (4,), 2 * net.gain, net.gain)
        return net.head(F.batch_norm(h, net.mean, net.mean.exp(), net.gain.exp(), eps=0.1))

    parts = {"norm": nn.LayerNorm(4), "weight": param(4, 4), "gain": param(4), "mean": torch.randn(4)}
    return Net(forward, **parts, head=nn.Linear(4, 3))


# Embeddings -----------------------------------------------------------------------------------------------------------


def _embedded(name, forward, make, inputs=None):
    add(name, inputs or tokens(4), forward, lambda: {"table": make(), "head": nn.Linear(4, 3)})


_embedded("embedding", lambda net, x: net.head(net.table(x).tanh().mean(1)), lambda: nn.Embedding(7, 4))
_embedded("embedding_padded", lambda net, x: net.head(net.table(x).mean(1)), lambda: nn.Embedding(7, 4, padding_idx=2))
_embedded(
    "embedding_sparse", lambda net, x: net.head(net.table(x).tanh()[:, 0]), lambda: nn.Embedding(7, 4, sparse=True)
)
_embedded("embedding_tokens_first", lambda net, x: net.head(net.table(x.T).tanh().mean(0)), lambda: nn.Embedding(7, 4))
_embedded("embedding_of_labels", lambda net, x: net.head(net.table(x).tanh()), lambda: nn.Embedding(7, 4), tokens())
_embedded("embedding_as_output", lambda net, x: net.table(x).flatten(1), lambda: nn.Embedding(7, 4), tokens(2))
_embedded("embedding_indexed", lambda net, x: net.head(net.table.weight[x].tanh().mean(1)), lambda: nn.Embedding(7, 4))
_embedded("embedding_bag", lambda net, x: net.head(net.table(x).tanh()), lambda: nn.EmbeddingBag(7, 4, padding_idx=3))
_embedded("embedding_bag_max", lambda net, x: net.head(net.table(x)), lambda: nn.EmbeddingBag(7, 4, mode="max"))
_embedded(
    "embedding_bag_offsets",
    lambda net, x: net.head(net.table(x.flatten(), torch.arange(len(x)) * 4).tanh()),
    lambda: nn.EmbeddingBag(7, 4, mode="sum"),
)
_embedded(
    "embedding_one_hot",
    lambda net, x: net.head((F.one_hot(x, 7).to(net.head.weight) @ net.table.weight).tanh().mean(1)),
    lambda: nn.Embedding(7, 4),
)


# Tied weights and layers called several times -------------------------------------------------------------------------

_rows("layer_called_twice", lambda net, x: net.head(net.a(net.a(x).tanh()).tanh()))
_rows(
    "layer_called_six_times", lambda net, x: (lambda h: net.head([h := (net.a(h) + x).tanh() for _ in range(6)][-1]))(x)
)
_rows("weight_and_its_transpose", lambda net, x: net.head(F.linear(net.a(x).tanh(), net.a.weight.T, net.a.bias)))
_rows("weight_of_one_bias_of_another", lambda net, x: net.head(F.linear(net.a(x).tanh(), net.a.weight, net.b.bias)))
_rows("siamese", lambda net, x: net.head(net.a(x[:, 0]).tanh() * net.a(x[:, 1]).tanh()), SEQUENCES)


@network(VECTORS)
def tied_layers():
    def forward(net, x):
        return net.head(net.decoder(torch.tanh(net.encoder(x))))

    encoder, decoder = nn.Linear(4, 4), nn.Linear(4, 4)
    decoder.weight = encoder.weight
    return Net(forward, encoder=encoder, decoder=decoder, head=nn.Linear(4, 3))


@network(VECTORS)
def module_of_two_names():
    shared = sequential(nn.Linear(4, 4), nn.Tanh(), nn.BatchNorm1d(4))
    return sequential(shared, nn.Tanh(), shared, nn.Linear(4, 3))


@network(images(4, 3, 3))
def tied_kinds():
    """A weight of a convolution and a linear layer; a bias that is also the gain of a norm."""

    def forward(net, x):
        h = torch.tanh(F.linear(net.conv(x).mean((2, 3)), net.conv.weight.flatten(1), net.conv.bias))
        return net.head(net.norm(h))

    conv, norm = nn.Conv2d(4, 4, 1), nn.LayerNorm(4)
    norm.weight = conv.bias
    return Net(forward, conv=conv, norm=norm, head=nn.Linear(4, 3))


# Parameters of no layer -----------------------------------------------------------------------------------------------


def _raw(name, forward, inputs=VECTORS, **shapes):
    add(name, inputs, forward, lambda: {part: param(*shape) for part, shape in shapes.items()})


def _parallel(net, x):
    h = (x @ net.w).tanh()
    h = torch.add(h, net.p, alpha=3) + torch.sub(net.q, h, alpha=2) + net.q / (1 + h * h)
    return (h * net.p * net.p + net.p.exp() * net.q.sum()) @ net.u


def _broadcast(net, x):
    h = (net.row * x + net.column - net.scalar * x) * net.one
    h = torch.addcmul(h, net.row, x.sin(), value=2) / (2 + net.scalar)
    return h.mean(1) @ net.w


def _bilinear_uses(net, x):
    h = torch.addmm(net.p, x, net.w, beta=0.5, alpha=2).tanh()
    h = torch.addmm(h, x, net.w @ net.w.T, beta=2)
    return torch.addmm(net.k, h, net.a @ net.b, alpha=-1)


def _batched_products(net, x):
    h = torch.baddbmm(net.p, x, net.w.expand(len(x), -1, -1), alpha=0.5).tanh()
    h = torch.einsum("ntd,dhe->nthe", h, net.heads).tanh() + torch.tensordot(x, net.heads, dims=([2], [0]))
    return torch.einsum("nthe,the->ne", h, net.out)


def _weights_first(net, x):
    """Examples in the columns of products, several products side by side, and a matrix times a vector."""
    h = torch.addmm(net.p, net.w, x.mean(1).T).tanh() + net.w @ x[:, 0].T
    h = torch.baddbmm(net.q, net.v, torch.tanh(h)[:4].expand(3, -1, -1)).tanh()
    return (h.mT.flatten(0, 1) @ net.u).unflatten(0, (3, -1)).T


def _one_weight_in_many_orders(net, x):
    w = net.w.view(4, 4)
    h = torch.einsum("ntd,hed->nthe", x, net.w).flatten(2).tanh() + x @ w
    h = torch.einsum("nthe,hed->ntd", h.unflatten(2, (2, 2)), net.w).tanh() + F.linear(x, w, w[0])
    factor = net.w.permute(1, 0, 2).flatten(0, 1)
    h = h + torch.einsum("nthe,dhe->ntd", h.unflatten(2, (2, 2)), net.w.movedim(2, 0)) * factor
    return h.sum(1) @ net.u


def _chosen(net, x):
    h = torch.where(x > 0, net.p * x, net.q) + torch.lerp(x, net.p.expand_as(x), torch.sigmoid(net.q))
    h = torch.cat([h, net.p.expand(len(x), 4)[:, 1:3]], dim=1)
    return h @ torch.cat([net.w, net.w[:2].flip(0)]) + torch.stack([net.p, net.q]).prod(0)[:3]


def _copied(net, x):
    w = net.w.clone()
    w.mul_(2)
    w[0] += net.p
    h = x.clone()
    h[:, 0] += net.p[0]
    h[:, 1:] = (x @ w.t().contiguous())[:, 1:]
    return h.tanh() @ w[:, 1:]


def _normalised_weights(net, x):
    h = F.linear(x, net.w / net.w.norm(dim=1, keepdim=True)).tanh()
    h = F.linear(h, (net.w - net.w.mean()) / net.w.std())
    return net.scale.exp() * F.normalize(h) @ F.normalize(net.u, dim=0) + net.u.softmax(1)[0]


def _spectral_layer(net, x):
    spectrum = torch.fft.rfft(x @ net.w, dim=1) * torch.view_as_complex(net.filters)
    return torch.fft.irfft(spectrum, n=4, dim=1).tanh() @ net.u


def _complex_products(net, x):
    """Real parameters of complex results: their gradients are real parts."""
    return (torch.fft.fft(x + net.p) * net.q * (1 + 2j) + net.p).abs() @ net.u


def _some_zero(net, x):
    return (x @ net.w) * (1 + 0 * net.p) + net.q.detach() * net.q.clamp(max=-50)


_raw("functional_linear", lambda net, x: F.linear(F.linear(x, net.w, net.p).tanh(), net.u), w=(5, 4), p=(5,), u=(3, 5))
_raw("matrix_products", lambda net, x: (x @ net.w).tanh() @ net.u, w=(4, 5), u=(5, 3))
_raw("products_of_tokens", lambda net, x: ((x @ net.w).tanh() @ net.u).mean(1), SEQUENCES, w=(4, 5), u=(5, 3))
_raw("products_with_a_vector", lambda net, x: ((x @ net.w).tanh() @ net.v)[:, None], w=(4, 4), v=(4,))
_raw("product_of_parameters", lambda net, x: x @ net.a @ net.b + x @ (net.a @ net.b), a=(4, 2), b=(2, 3))
_raw("sums_and_products", _parallel, w=(4, 4), p=(4,), q=(4,), u=(4, 3))
_raw("broadcast_parameters", _broadcast, SEQUENCES, row=(4,), column=(4, 1), scalar=(), one=(1, 1, 1), w=(4, 3))
_raw("scaled_products", _bilinear_uses, p=(4,), w=(4, 4), k=(3,), a=(4, 2), b=(2, 3))
_raw("half_a_bias", lambda net, x: torch.addmm(net.p, x, net.w, beta=0.5), p=(3,), w=(4, 3))
_raw("bias_of_all_channels", lambda net, x: torch.addmm(net.p, x, net.w), p=(1,), w=(4, 3))
_raw("scaled_bias", lambda net, x: torch.addmm(net.p, x, net.w * 0.5, beta=0.5), p=(3,), w=(4, 3))
_raw("batched_products", _batched_products, SEQUENCES, p=(1, 1, 4), w=(4, 4), heads=(4, 2, 3), out=(4, 2, 3))
_raw("weights_first", _weights_first, SEQUENCES, w=(5, 4), p=(5, 1), v=(3, 5, 4), q=(3, 5, 1), u=(5,))
_raw("one_weight_in_many_orders", _one_weight_in_many_orders, SEQUENCES, w=(2, 2, 4), u=(4, 3))
_raw("chosen_parameters", _chosen, p=(4,), q=(4,), w=(4, 3))
_raw("copied_parameters", _copied, w=(4, 4), p=(4,))
_raw("normalised_weights", _normalised_weights, w=(4, 4), scale=(), u=(4, 3))
_raw("fourier_filters", _spectral_layer, w=(4, 4), filters=(3, 2), u=(4, 3))
_raw("complex_products", _complex_products, p=(4,), q=(4,), u=(4, 3))
_raw("sparse_products", lambda net, x: x.relu().to_sparse() @ net.w, w=(4, 3))
_raw("sparse_rows", lambda net, x: torch.sparse.mm(x.relu().to_sparse_csr(), net.w).tanh(), w=(4, 3))
_raw("gradients_of_zero", _some_zero, w=(4, 3), p=(3,), q=(3,))
_raw("gain_only", lambda net, x: net.p * x, p=(4,))
_raw("gain_as_large_as_the_batch", lambda net, x: (net.p * x[:, :1]) @ net.u, p=(4,), u=(4, 3))
_raw("shift_only", lambda net, x: x + net.p, p=(4,))
_raw("temperature_only", lambda net, x: x * net.p.exp(), p=())
_raw("chunked_weight", lambda net, x: sum(x @ w for w in net.w.chunk(3)) @ net.w[:4, :3], w=(12, 4))


def _scaled_weights(net, x):
    """Weights times numbers, as in the NTK parametrisation: on either side, divided, negated, transposed."""
    h = F.conv2d(x, net.kernel * 0.5, -net.p / 3).flatten(2).mean(2)
    h = F.linear(torch.tanh(h), 0.5 * net.w / 2**0.5, net.p * 0.1) + h @ (net.v.T * x.new_tensor(0.3)).transpose(0, 1)
    return F.linear(torch.tanh(h), net.u * 2, net.q.div(4))


def _scaled_beside_itself(net, x):
    h = (x @ net.w + x @ (net.w * 3) + x * (0.5 * net.p)).tanh()
    return h @ net.u + (h * net.p).sum(1, keepdim=True)


def _scaled_lookup(net, x):
    return (F.embedding(x, 3 * net.table) / 2 + net.p * 0.5).mean(1).tanh() @ (net.u * -0.5)


def _masked_weights(net, x):
    h = F.linear(x, net.w * (net.w.detach() < 0.3)).tanh()
    return F.linear(F.linear(h, net.v, net.p.exp()).tanh(), net.u * (net.u.detach().abs() > 0.2))


def _one_derived_in_two_ways(net, x):
    """Ways that part and meet again, a square, and a parameter that is taken as it is, too."""
    w = net.w.sin() + net.w.cos()
    return (x @ (w * w)).tanh() @ net.u + (x @ net.w) @ (net.u - net.u.mean())


def _split_weights(net, x):
    """Operations with several results, of which some are never used."""
    q, k, _ = net.w.chunk(3)
    first, second = net.u.unbind()
    return F.linear(F.linear(x, q).tanh() + F.linear(x, k), first) + x[:, :3] * second.amax(0, keepdim=True).amax(1)


def _layers_of_one_tensor(net, x):
    for weight, bias in zip(net.weights, net.biases.unbind(), strict=True):
        x = torch.tanh(F.linear(x, weight, bias))
    return x[:, :3]


_raw("scaled_weights", _scaled_weights, IMAGES, kernel=(4, 3, 3, 3), p=(4,), w=(4, 4), v=(4, 4), u=(3, 4), q=(3,))
_raw("scaled_beside_itself", _scaled_beside_itself, w=(4, 4), p=(4,), u=(4, 3))
_raw("scaled_lookup", _scaled_lookup, tokens(5), table=(7, 4), p=(5, 4), u=(4, 3))
_raw("masked_weights", _masked_weights, w=(4, 4), v=(4, 4), p=(4,), u=(3, 4))
_raw("derived_in_two_ways", _one_derived_in_two_ways, w=(4, 4), u=(4, 3))
_raw("split_weights", _split_weights, w=(12, 4), u=(2, 3, 4))
_raw("layers_of_one_tensor", _layers_of_one_tensor, weights=(3, 4, 4), biases=(3, 4))


@network(SEQUENCES)
def last_token():
    """Gradients are zero but for one token: 4 tokens of 3 examples lie alike in both orders."""

    def forward(net, x):
        h = net.norm(torch.tanh(net.a(x)) + net.position(torch.arange(4)))
        return net.head(net.b(h)[:, -1])

    parts = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "norm": nn.LayerNorm(4), "position": nn.Embedding(6, 4)}
    return Net(forward, **parts, head=nn.Linear(4, 3))


@network(VECTORS)
def parameter_list():
    def forward(net, x):
        for weight in net.weights:
            x = torch.tanh(x @ weight)
        return x * net.scales["out"] + net.unused.detach().sum()

    weights = nn.ParameterList([param(4, 4), param(4, 4)])
    return Net(forward, weights=weights, scales=nn.ParameterDict({"out": param(4)}), unused=param(3))


@network(VECTORS)
def unused_layers():
    def forward(net, x):
        net.ignored(x)
        return net.head(torch.tanh(net.layer(x)))[:, :3] + net.detached(x).detach()

    layers = {name: nn.Linear(4, 3) for name in ("unused", "ignored", "detached")}
    return Net(forward, **layers, layer=nn.Linear(4, 4), head=nn.Linear(4, 5))


def _partly_frozen(part):
    def make():
        layers = [
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Conv2d(4, 4, 2),
            nn.GroupNorm(2, 4),
            nn.Flatten(),
        ]
        model = sequential(*layers, nn.Linear(36, 4), nn.Tanh(), nn.Linear(4, 3))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith(part))
        return model

    return make


NETWORKS["only_biases"] = (_partly_frozen("bias"), IMAGES)
NETWORKS["only_weights"] = (_partly_frozen("weight"), IMAGES)
NETWORKS["only_first_layer"] = (_partly_frozen("0.weight"), IMAGES)
NETWORKS["only_last_bias"] = (_partly_frozen("8.bias"), IMAGES)


# Reparametrised weights -----------------------------------------------------------------------------------------------


class Symmetric(nn.Module):
    """A matrix from its upper triangle."""

    def forward(self, weight):
        return weight.triu() + weight.triu(1).T


def _reparametrised(change):
    def make():
        conv, layer = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(4, 4)
        head = sequential(nn.Flatten(2), nn.Linear(4, 3), nn.Flatten())
        return sequential(change(conv), nn.Flatten(2), nn.Tanh(), change(layer), nn.Tanh(), head)

    return make


NETWORKS["weight_norm"] = (_reparametrised(parametrizations.weight_norm), IMAGES)
NETWORKS["spectral_norm"] = (_reparametrised(parametrizations.spectral_norm), IMAGES)


@network(VECTORS)
def parametrised_and_adapted():
    """A symmetric weight, and a frozen one with a low-rank correction."""

    def forward(net, x):
        x = torch.tanh(net.symmetric(x))
        return net.frozen(x) + 0.5 * (x @ net.down.T) @ net.up.T

    symmetric, frozen = nn.Linear(4, 4), nn.Linear(4, 3).requires_grad_(False)
    parametrize.register_parametrization(symmetric, "weight", Symmetric())
    return Net(forward, symmetric=symmetric, frozen=frozen, down=param(2, 4), up=param(3, 2))


# Recurrent networks ---------------------------------------------------------------------------------------------------

add(
    "lstm",
    images(3, 4),
    lambda net, x: net.head(net.rnn(x)[0][:, -1]),
    lambda: {"rnn": nn.LSTM(4, 3, num_layers=2, batch_first=True, bidirectional=True), "head": nn.Linear(6, 3)},
)
add(
    "gru",
    images(3, 4),
    lambda net, x: net.head(net.rnn(x.transpose(0, 1))[1][0]),
    lambda: {"rnn": nn.GRU(4, 3), "head": nn.Linear(3, 3)},
)


@network(images(3, 4))
def recurrent_cell():
    def forward(net, x):
        state = net.start.expand(len(x), -1)
        for token in x.unbind(1):
            state = net.cell(token, state)
        return net.head(state)

    return Net(forward, start=param(1, 4), cell=nn.RNNCell(4, 4), head=nn.Linear(4, 3))


@network(images(3, 4))
def packed_sequences():
    """Sequences of different lengths: each step has fewer rows, sorted by length."""

    def forward(net, x):
        lengths = 1 + (x[:, 0, :2] > 0).sum(1)
        packed = pack_padded_sequence(torch.tanh(net.tokens(x)), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(net.rnn(packed)[0], batch_first=True, total_length=3)
        return net.head(states.sum(1))

    return Net(forward, tokens=nn.Linear(4, 3), rnn=nn.GRU(3, 3, batch_first=True), head=nn.Linear(3, 3))


# Things that only autograd can follow ---------------------------------------------------------------------------------


class Reversed(torch.autograd.Function):
    """The identity, with a gradient that is turned round."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -2 * gradient


class Outer(torch.autograd.Function):
    """x @ w with a backward pass of its own: autograd sees no operation that it knows."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx, gradient):
        x, w = ctx.saved_tensors
        return gradient @ w.T, x.T @ gradient


def _with_hook(net, x):
    h = net.a(x).tanh()
    if h.requires_grad:
        h.register_hook(lambda gradient: 3 * gradient)
    return net.head(h)


def _input_gradient(net, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        energy = net.b(net.a(x).tanh()).tanh().square().sum()
        (force,) = torch.autograd.grad(energy, x, create_graph=True)
    return net.head(force)


def _conv_gradient(net, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (force,) = torch.autograd.grad(net.conv(x).tanh().square().sum(), x, create_graph=True)
    return net.head(force.flatten(1))


def _counting(net, x):
    net.calls += 1
    net.seen = net.seen + len(x)
    return net.head(net.a(x).tanh())


def _branch(net, x):
    return net.head(net.a(x).tanh() if bool((x.abs() < 100).all()) else x)


def _in_place(net, x):
    h = net.a(x)
    h += x
    h.relu_()
    h = net.b(h)
    h.mul_(0.5).tanh_()
    y = net.head(h)
    y[:, 0] *= 2
    y[:, 1] += h[:, 2]
    return y


def _masked_logits(net, x):
    gates = (x[:, :3] > 0).to(x)
    return net.head((net.a(x) - 0.5).relu()) * gates


def _double_inside(net, x):
    h = F.linear(x.double(), net.a.weight.double(), net.a.bias.double()).softmax(1)
    return net.head(h.to(x.dtype))


def _views(net, x):
    """Inputs of layers that are not contiguous: strided, expanded, transposed, diagonal."""
    h = net.a(x[:, ::2, 0].repeat(1, 2)) + net.a(x[:, :1, 0].expand(-1, 4)) + net.b(x.mT).tanh().mean(1)
    return net.head(net.b(h.tanh()[:, [3, 1, 0, 2]]) + net.a(x.diagonal(dim1=1, dim2=2)))


_rows("custom_backward", lambda net, x: net.head(Outer.apply(Reversed.apply(net.a(x).tanh()), net.b.weight).tanh()))
_rows("hooked_gradient", _with_hook)
_rows("gradient_of_inputs", _input_gradient)
_rows("checkpointed", lambda net, x: net.head(checkpoint(lambda h: net.a(h).tanh(), x, use_reentrant=False)))
_rows("branching", _branch)
_rows("in_place", _in_place)
_rows("masked_logits", _masked_logits)
_rows("double_inside", _double_inside)
_rows("views", _views, SEQUENCES)
_rows("straight_through", lambda net, x: (lambda h: net.head(h + (h.round() - h).detach()))(net.a(x)))
_rows("two_heads", lambda net, x: torch.cat([net.head(net.a(x).tanh()), net.head(net.b(x).tanh())[:, [2, 0]]], dim=1))
_rows("log_probabilities", lambda net, x: net.head(net.a(x).tanh()).log_softmax(1))
_rows(
    "cumulative_tokens",
    lambda net, x: net.head(net.a(x).cumsum(1).tanh()[:, 1:].flatten(1, 2).unflatten(1, (3, 4)).amax(1)),
    SEQUENCES,
)
add(
    "gradient_of_images",
    images(2, 4, 4),
    _conv_gradient,
    lambda: {"conv": nn.Conv2d(2, 3, 3, padding=1), "head": nn.Linear(32, 3)},
)
NETWORKS["counting_calls"] = (
    lambda: Net(_counting, calls=torch.zeros(()), seen=torch.zeros(()), a=nn.Linear(4, 4), head=nn.Linear(4, 3)),
    VECTORS,
)


@network(VECTORS)
def dropout_and_hooks():
    model = sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 3), nn.Identity())
    model[0].register_forward_hook(lambda module, arguments, output: 2 * output)
    model[3].register_forward_pre_hook(lambda module, arguments: (arguments[0] + 1,))
    return model


@network(VECTORS)
def zero_head():
    model = sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    nn.init.zeros_(model[-1].weight)
    return model


@network(VECTORS)
def dead_layers():
    model = sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    nn.init.constant_(model[2].bias, -100)
    return model


@network(VECTORS)
def bilinear():
    return Net(lambda net, x: net.pair(x[:, :2], x[:, 1:]).tanh(), pair=nn.Bilinear(2, 3, 3))
