"""The kernel engine: exact empirical tangent kernels of any PyTorch network, within the memory that it is given.

Backward passes go to the outputs of layers, never to weights; each layer's part of the kernel is then contracted in
the form that is cheapest for its shape (`terms`, `costs`). Parameters taken by an operation that has no rule are
differentiated by the plain engine.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from twophase.allocator import freed_memory_kept
from twophase.differentiation.checks import count_classes
from twophase.differentiation.functional import FunctionalNetwork, plain_values
from twophase.entk.arguments import check_arguments
from twophase.entk.clock import Clock
from twophase.entk.inspection import KnownUse, inspect
from twophase.entk.memory import default_budget, measure_footprint, measure_growth
from twophase.entk.plan import Blocks, Plan, ResultMemory, Sizes, cut, make_plan, owner
from twophase.entk.precision import exact_float32, tf32_products
from twophase.entk.rates import Rates
from twophase.entk.readout import Layer, Readout
from twophase.entk.results import Result
from twophase.entk.rows import GraphChanged
from twophase.entk.terms import Held
from twophase.errors import ModelError


@dataclass
class Options:
    """How a kernel is computed, which changes nothing but time, memory and rounding.

    Attributes:
        memory_budget: Bytes; a share of what is free if None.
        tf32: Whether products on a GPU may round to tf32.
        rates: The machine's rates; measured, or read from the cache, if None.
        progress: Takes the number of pairs of examples that are done.
        clock: Counts time.
    """

    memory_budget: int | None = None
    tf32: bool = False
    rates: Rates | None = None
    progress: Callable[[int], None] | None = None
    clock: Clock = field(default_factory=Clock)


def compute(
    model: nn.Module,
    inputs: Tensor,
    other_inputs: Tensor | None,
    kernel: str | int,
    make_result: Callable[[str, tuple[int, int, int]], Result],
    options: Options,
    *,
    by_layer: bool = False,
) -> tuple[dict[str, Result], Plan]:
    """Compute a kernel, or that of every layer.

    Args:
        model: The network.
        inputs: Inputs of the rows, shape ``(n, *d)``.
        other_inputs: Inputs of the columns, or None for those of the rows.
        kernel: "full", "trace", "sum" or the number of a logit.
        make_result: Makes room for the kernel of a layer, from the layer's name and ``(n, q, m)``.
        options: How.
        by_layer: Whether there is one result for each layer, by its name; else one under "".

    Returns:
        The results, finished, and the plan that they were computed by.
    """
    check_arguments(model, inputs, other_inputs, kernel, options.memory_budget)
    with undisturbed(inputs.device):
        inputs = plain_values(inputs)
        columns = None if other_inputs is None else plain_values(other_inputs)
        network, classes = _network(model, inputs[:1])
        cotangents = _cotangents(kernel, classes, network)
        sizes = Sizes(len(inputs), None if columns is None else len(columns))
        network, known = _inspected(network, inputs)
        for uses in (known, dict.fromkeys(known)):
            work = _Work(network, uses, cotangents, kernel == "trace", sizes, inputs[:1], options, by_layer)
            with suppress(GraphChanged):
                return work.run(inputs, columns, make_result), work.plan
        raise AssertionError("without rules no graph can change")


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Compute without graph, autocast, inference mode and tf32, and on PyTorch's number of threads.

    The random state is put back at the end.

    Args:
        device: Where.

    Yields:
        Nothing.
    """
    devices = [device] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(exact_float32())
        stack.enter_context(freed_memory_kept())
        stack.enter_context(_threads().limit(limits=torch.get_num_threads(), user_api="blas"))
        yield


@cache
def _threads() -> ThreadpoolController:
    """Controls the threads of SciPy's BLAS; looking for it takes a few milliseconds."""
    return ThreadpoolController()


def _network(model: nn.Module, example: Tensor) -> tuple[FunctionalNetwork, int]:
    """The network, on copies of the parameters only where it needs them, and its number of logits."""
    try:
        network = FunctionalNetwork.of(model, shared=True)
        return network, count_classes(network, example)
    except ModelError:  # it writes into parameters, or calls PyTorch's compiler itself, or fails anyway
        network = FunctionalNetwork.of(model)
        return network, count_classes(network, example)


def _cotangents(kernel: str | int, classes: int, network: FunctionalNetwork) -> Tensor:
    """Combinations of logits to differentiate, ``(q, K)``."""
    identity = torch.eye(classes, dtype=network.dtype, device=network.device)
    if kernel == "sum":
        return identity.sum(0, keepdim=True)
    if isinstance(kernel, int):
        if not 0 <= kernel < classes:
            raise ValueError(f"kernel is the number of a logit, {kernel}; the network has logits 0 to {classes - 1}.")
        return identity[kernel : kernel + 1]
    return identity


def _inspected(
    network: FunctionalNetwork, inputs: Tensor
) -> tuple[FunctionalNetwork, dict[str, list[KnownUse] | None]]:
    """The network, its images channels last where that is faster and it can take them so, and its uses."""
    images = inputs.ndim == 4 and network.dtype == torch.float32 and inputs.device.type == "cpu"
    if images and any(p.ndim == 4 for p in network.parameters.values()):
        try:
            turned = network.channels_last()
            return turned, inspect(turned, inputs)
        except RuntimeError:  # a view that needs the usual order
            pass
    return network, inspect(network, inputs)


class _Work:
    """One computation: a plan, its blocks, and the loop over them."""

    def __init__(
        self,
        network: FunctionalNetwork,
        known: dict[str, list[KnownUse] | None],
        cotangents: Tensor,
        trace: bool,
        sizes: Sizes,
        example: Tensor,
        options: Options,
        by_layer: bool,
    ):
        self.network, self.cotangents, self.trace = network, cotangents, trace
        self.sizes, self.options, self.by_layer = sizes, options, by_layer
        rates = options.rates or Rates.of_machine(network.device, network.dtype)
        self._planned = partial(
            make_plan, network, known, logits=len(cotangents), trace=trace, sizes=sizes, by_layer=by_layer, rates=rates
        )
        self.plan = self._planned()
        # The plain engine differentiates shared tensors for each example.
        measure = measure_footprint if self.plan.unknown else measure_growth
        self.footprint = measure(network, example)
        self.done = self.pairs = self.contracted = 0

    def run(
        self, inputs: Tensor, columns: Tensor | None, make_result: Callable[[str, tuple[int, int, int]], Result]
    ) -> dict[str, Result]:
        """Compute all blocks; blocks that a GPU has no memory for are computed as smaller ones."""
        q = 1 if self.trace else len(self.cotangents)
        m = self.sizes.n if columns is None else len(columns)
        names = {owner(name) for name in self.network.parameters} if self.by_layer else {""}
        results = {name: make_result(name, (self.sizes.n, q, m)) for name in sorted(names)}
        apart = sum(result.apart for result in results.values())
        self.results = ResultMemory(sum(result.bytes for result in results.values()), apart)
        blocks, start = self._cut(self.options.memory_budget or default_budget(inputs.device)), 0
        while start < self.sizes.n:
            rows = slice(start, min(start + blocks.held, self.sizes.n))
            if self._rows_done(rows, inputs, columns, blocks, results):
                start = rows.stop
            else:  # outside of the handler, whose traceback would keep memory
                torch.cuda.empty_cache()
                self.plan, blocks = self._planned(), blocks.halved()
        for result in results.values():
            result.finish()
        return results

    def _rows_done(
        self, rows: slice, inputs: Tensor, columns: Tensor | None, blocks: Blocks, results: dict[str, Result]
    ) -> bool:
        """Compute all blocks of some rows; False if a GPU has no memory for blocks that can be made smaller."""
        done = self.done
        try:
            self._rows(rows, inputs, columns, blocks, results)
        except torch.OutOfMemoryError:
            if blocks == blocks.halved():
                raise
            self.done = done
            return False
        return True

    def _cut(self, budget: int) -> Blocks:
        """Blocks within the budget; one, logit by logit, where that is possible and takes less memory."""
        others = (self.network, self.footprint, self.sizes, self.results, budget)
        if self.trace and self.sizes.m is None:
            plan, itemsize = self._planned(by_logit=True), self.network.dtype.itemsize
            saved = self.plan.held_bytes(itemsize) - plan.held_bytes(itemsize)
            blocks = cut(plan, *others) if saved > 0 else None
            # Graphs of several pieces have to wait.
            if blocks is not None and (blocks.piece == self.sizes.n or saved > 2 * self.footprint.activations):
                self.plan = plan
                return blocks
        return cut(self.plan, *others)

    def _rows(
        self, rows: slice, inputs: Tensor, columns: Tensor | None, blocks: Blocks, results: dict[str, Result]
    ) -> None:
        """All blocks of some rows; without ``columns`` those on the diagonal and above."""
        readout = self._readout(inputs[:1], blocks.piece)
        if columns is None:
            n = rows.stop - rows.start
            with self._block(rows, rows, n * (n + 1) // 2, results) as targets:
                left = readout(inputs[rows], self._add_logit)
                self._contract(targets, left, None)
            columns, start = inputs, rows.stop
        else:
            left, start = readout(inputs[rows]), 0
        for first in range(start, len(columns), blocks.beside):
            others = slice(first, min(first + blocks.beside, len(columns)))
            pairs = (rows.stop - rows.start) * (others.stop - others.start)
            with self._block(rows, others, pairs, results) as targets:
                self._contract(targets, left, readout(columns[others]))

    @contextmanager
    def _block(self, rows: slice, others: slice, pairs: int, results: dict[str, Result]) -> Iterator[dict[str, Tensor]]:
        """Zeros to which the block of some examples is added, by result; stored at the end."""
        self.pairs, self.contracted = pairs, 0
        targets = {name: result.block(rows, others) for name, result in results.items()}
        yield targets
        for name, result in results.items():
            result.store(rows, others, targets[name])
        self.done += pairs
        self._report(self.done)

    def _add_logit(self, held: list[Held]) -> None:
        """Add one logit to the terms that hold one at a time."""
        for layer, block in zip(self.plan.layers, held, strict=True):
            if layer.by_logit:
                with self._contracting(layer, block.gradients):
                    layer.term.add_logit(block)

    def _contract(self, targets: dict[str, Tensor], left: list[Held], right: list[Held] | None) -> None:
        """Add all terms."""
        for index, layer in enumerate(self.plan.layers):
            target = targets[layer.name if self.by_layer else ""]
            with self._contracting(layer, target):
                layer.term.add(target, left[index], None if right is None else right[index])

    @contextmanager
    def _contracting(self, layer: Layer, target: Tensor) -> Iterator[None]:
        """Time and report one step of a block: a term, or one logit of it."""
        with tf32_products(self.options.tf32), self.options.clock(("contracted", layer.parameters[0]), target):
            yield
        self.contracted += 1
        steps = sum(1 + len(self.cotangents) * layer.by_logit for layer in self.plan.layers)
        self._report(self.done + self.pairs * self.contracted // (steps + 1))

    def _report(self, done: int) -> None:
        if self.options.progress is not None:
            self.options.progress(done)

    def _readout(self, example: Tensor, piece: int) -> Readout:
        plan = self.plan
        fallback = self._fallback(example, piece) if plan.unknown else None
        return Readout(
            self.network, self.cotangents, plan.known, plan.layers, piece, fallback, plan.unknown, self.options.clock
        )

    def _fallback(self, example: Tensor, piece: int) -> Callable[[Tensor], Tensor]:
        """The plain engine's Jacobian of the parameters without rules, ``(n, q, P)``."""
        from twophase.entk.plain import Jacobian  # imports PyTorch's compiler, which takes a second

        classes = self.cotangents.shape[1]
        jacobian = Jacobian(self.network.of_only(self.plan.unknown), classes, piece, example)
        return partial(_combined, jacobian, self.cotangents)


def _combined(jacobian: Callable[[Tensor, slice], Tensor], cotangents: Tensor, inputs: Tensor) -> Tensor:
    """Gradients of combinations of logits, ``(n, q, P)``."""
    q, classes = cotangents.shape
    whole = jacobian(inputs, slice(0, classes))
    return whole if q == classes else torch.einsum("qk,nkp->nqp", cotangents, whole)
