"""Refuses operations that would write into a network's parameters, before they do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from twophase.errors import ModelError


@contextmanager
def read_only(parameters: dict[str, Tensor]) -> Iterator[None]:
    """Stop PyTorch's operations before they write into the memory of some parameters; nothing is compiled meanwhile.

    Writes through ``.data`` and through views are stopped as well.

    Args:
        parameters: The parameters, by name.

    Yields:
        Nothing.

    Raises:
        ModelError: Instead of the operation.
    """
    # A compiler that was never loaded compiles nothing, and loading it takes a second.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with eager, _ReadOnly(parameters):
        yield


class _ReadOnly(TorchDispatchMode):
    """Sees operations below autograd and ``torch.func``, with the tensors' true memory."""

    supports_higher_order_operators = True

    def __init__(self, parameters: dict[str, Tensor]):
        super().__init__()
        self._names = {p.untyped_storage().data_ptr(): name for name, p in parameters.items() if p.numel()}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Don't load the compiler only to keep it away from this class."""
        return False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        schema = getattr(function, "_schema", None)  # operations that take functions have none
        if schema is not None and schema.is_mutable:
            given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
            for argument in schema.arguments:
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._refuse(given.get(argument.name))
        return function(*args, **kwargs)

    def _refuse(self, written: Any) -> None:
        for tensor in tree_leaves(written):
            if isinstance(tensor, Tensor) and (name := self._names.get(tensor.untyped_storage().data_ptr())):
                raise ModelError(f"The network's forward pass writes into its parameter {name}.")
