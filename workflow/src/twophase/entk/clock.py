"""Where the time of a kernel goes."""

import time
from collections import defaultdict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Clock:
    """Adds up seconds by what they were spent on.

    Args:
        exact: Whether to wait for a GPU before and after, which costs a little; else its work is counted where the
            program next waits.
    """

    def __init__(self, exact: bool = False):
        self.exact = exact
        self.seconds: dict[Hashable, float] = defaultdict(float)

    @contextmanager
    def __call__(self, what: Hashable, on: Tensor | None = None) -> Iterator[None]:
        """Count the time of a block of code.

        Args:
            what: What it is counted under.
            on: A tensor on the device that works.

        Yields:
            Nothing.
        """
        self._wait(on)
        start = time.perf_counter()
        try:
            yield
        finally:
            self._wait(on)
            self.seconds[what] += time.perf_counter() - start

    def _wait(self, on: Tensor | None) -> None:
        if self.exact and on is not None and on.is_cuda:
            torch.cuda.synchronize(on.device)
