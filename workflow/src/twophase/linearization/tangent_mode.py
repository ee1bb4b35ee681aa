"""Tangents that go along with an ordinary forward pass: its outputs, their graph, and their derivative at once.

PyTorch's forward mode gives the same numbers. But where parameters ask for gradients it also records how the tangents
came about, and its rule for BatchNorm takes seven passes over memory where three do.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class NoTangentError(RuntimeError):
    """A tensor whose tangent isn't known, or an operation that writes into its argument: tangents can't follow."""


class TangentMode(TorchFunctionMode):
    """While it is active, every tensor that parameters have gone into gets a tangent.

    The few operations that cost most have rules here. All others are differentiated by PyTorch's forward mode, one by
    one, outside of autograd's graph.

    Args:
        tangents: Pairs of a parameter, which must require gradients, and its tangent.
        last_uses: The same of an earlier pass of the same network: tangents are dropped after these, to save memory.

    Attributes:
        last_uses: For each call that made a tangent the last call that used it, both counted from 1.

    Raises:
        NoTangentError: From within the forward pass.
    """

    def __init__(self, tangents: list[tuple[Tensor, Tensor]], last_uses: dict[int, int] | None = None):
        super().__init__()
        # Tensors are found by identity; they are kept here, so that no other can take their place.
        self._known = {id(tensor): (tensor, tangent, 0) for tensor, tangent in tangents}
        self._calls = 0
        self.last_uses: dict[int, int] = {}
        self._drops: dict[int, list[int]] = {}
        for made, used in (last_uses or {}).items():
            self._drops.setdefault(used, []).append(made)
        self._made: dict[int, list[int]] = {}  # what each call made

    def tangent(self, value: Any) -> Tensor | None:
        """The tangent of a tensor; None for what doesn't depend on parameters, as autograd sees it."""
        if not isinstance(value, Tensor) or not value.requires_grad:
            return None
        if id(value) not in self._known:
            raise NoTangentError(f"the tangent of a tensor of shape {tuple(value.shape)} is lost on its way")
        _, tangent, made = self._known[id(value)]
        if made:  # not a parameter
            self.last_uses[made] = self._calls
        return tangent

    def final(self, outputs: Tensor) -> Tensor | None:
        """The tangent of the network's outputs, which no call uses for the last time."""
        tangent = self.tangent(outputs)
        if tangent is not None:
            self.last_uses.pop(self._known[id(outputs)][2], None)
        return tangent

    def note(self, outputs: Tensor, tangent: Tensor) -> None:
        """Keep the tangent of an operation's output."""
        self._known[id(outputs)] = (outputs, tangent, self._calls)
        self._made.setdefault(self._calls, []).append(id(outputs))

    def _drop(self) -> None:
        """Forget what this call used for the last time."""
        for made in self._drops.get(self._calls, ()):
            for key in self._made.pop(made, ()):
                if key in self._known and self._known[key][2] == made:
                    del self._known[key]

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do what was called, and find the tangent of what it returns."""
        kwargs = kwargs or {}
        self._calls += 1
        rule = RULES.get(func)
        ruled = None if rule is None else rule(self, func, *args, **kwargs)
        if ruled is None:
            outputs = self._by_forward_mode(func, args, kwargs)
        else:
            outputs, tangent = ruled
            if outputs.requires_grad:
                with torch.no_grad():
                    self.note(outputs, tangent())
        self._drop()
        return outputs

    def _by_forward_mode(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        tensors = [value for value in _leaves((args, kwargs)) if isinstance(value, Tensor)]
        versions = [tensor._version for tensor in tensors]
        outputs = func(*args, **kwargs)
        if any(tensor._version != version for tensor, version in zip(tensors, versions, strict=True)):
            raise NoTangentError(f"{getattr(func, '__name__', func)} writes into its argument")
        found = [value for value in _leaves(outputs) if isinstance(value, Tensor)]
        if not any(value.requires_grad for value in found):
            return outputs
        with torch.no_grad(), forward_ad.dual_level():
            duals = func(*self._dual(args), **self._dual(kwargs))
            for value, dual in zip(found, (d for d in _leaves(duals) if isinstance(d, Tensor)), strict=True):
                if value.requires_grad:
                    tangent = forward_ad.unpack_dual(dual).tangent
                    self.note(value, torch.zeros_like(value) if tangent is None else tangent)
        return outputs

    def _dual(self, value: Any) -> Any:
        """Arguments with their tangents, apart from autograd's graph."""
        if isinstance(value, list | tuple):
            return (
                type(value)(*map(self._dual, value))
                if hasattr(value, "_fields")
                else type(value)(map(self._dual, value))
            )
        if isinstance(value, dict):
            return {key: self._dual(entry) for key, entry in value.items()}
        tangent = self.tangent(value)
        return value if tangent is None else forward_ad.make_dual(value.detach(), tangent)


def _leaves(value: Any) -> Iterator[Any]:
    """What lies in lists, tuples and dictionaries, in order."""
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _leaves(entry)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


# What a rule returns: the outputs, and what computes their tangent; None if this is not a case of it.
Ruled = tuple[Tensor, Callable[[], Tensor]] | None


def _linear_map(mode: TangentMode, func: Callable, input: Tensor, weight: Tensor, bias=None, *args, **kwargs) -> Ruled:
    """A linear layer or convolution: d(W x + b) = dW x + db + W dx."""
    dx, dw, db = map(mode.tangent, (input, weight, bias))
    if dw is None:
        return None

    def tangent() -> Tensor:
        own = func(input, dw, db, *args, **kwargs)
        return own if dx is None else own.add_(func(dx, weight, None, *args, **kwargs))

    return func(input, weight, bias, *args, **kwargs), tangent


def _batch_norm(
    mode: TangentMode,
    func: Callable,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Ruled:
    """BatchNorm on running statistics, (x - mean) w / deviation + b: linear in x, and in (w, b)."""
    dx, dw, db = map(mode.tangent, (input, weight, bias))
    if training or running_mean is None or dx is None or (weight is not None and dw is None):
        return None

    def tangent() -> Tensor:
        through = func(dx, torch.zeros_like(running_mean), running_var, weight, None, eps=eps)
        return through if dw is None else through.add_(func(input, running_mean, running_var, dw, db, eps=eps))

    return func(input, running_mean, running_var, weight, bias, training, momentum, eps), tangent


def _relu(mode: TangentMode, func: Callable, input: Tensor, inplace: bool = False) -> Ruled:
    """max(x, 0); its derivative at 0 is 0, as in PyTorch's backward pass."""
    dx = mode.tangent(input)
    if dx is None or (inplace and input._is_view()):
        return None
    outputs = func(input, inplace) if inplace else func(input)
    return outputs, lambda: torch.ops.aten.threshold_backward(dx, outputs, 0)


def _sum(mode: TangentMode, func: Callable, input: Tensor, other: Any, *, alpha: float = 1, **kwargs: Any) -> Ruled:
    """Sum of two tensors of one shape that both depend on parameters: a residual connection."""
    dx, dy = mode.tangent(input), mode.tangent(other)
    if kwargs or dx is None or dy is None or dx.shape != dy.shape or (func is Tensor.add_ and input._is_view()):
        return None
    return func(input, other, alpha=alpha), lambda: torch.add(dx, dy, alpha=alpha)


RULES: dict[Callable, Callable[..., Ruled]] = {
    functional.linear: _linear_map,
    functional.conv1d: _linear_map,
    functional.conv2d: _linear_map,
    functional.conv3d: _linear_map,
    functional.batch_norm: _batch_norm,
    functional.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    torch.add: _sum,
    Tensor.add: _sum,
    Tensor.add_: _sum,
}
