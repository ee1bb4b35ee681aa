"""Neural Tangents (Novak 2022, https://github.com/google/neural-tangents), compiled by JAX for the CPU.

Its choice AUTO is left out: it takes one of the other three, by counts that its documentation calls wrong on CPUs.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from neural_tangents import NtkImplementation, empirical_ntk_fn

from entk_peers.jax_networks import convert, network
from entk_peers.serving import Engine, serve


class NeuralTangents(Engine):
    """``empirical_ntk_fn``, which is told that examples don't affect each other."""

    packages = ("neural-tangents", "jax", "jaxlib", "numpy")
    implementations: ClassVar = {
        "jacobian_contraction": False,
        "ntk_vector_products": False,
        "structured_derivatives": False,
    }

    def __init__(self, network_name: str, weights: Path, *, threads: int, device: str):
        """Load the weights; threads and device are set by the process's environment and affinity."""
        with np.load(weights) as file:
            state = {key.removeprefix("state/"): file[key] for key in file if key[:6] == "state/"}
            self.inputs = jnp.asarray(file["inputs"].transpose(0, 2, 3, 1))
        self.parameters, statistics = convert(state)
        self.network = network(network_name, statistics)
        self.function = cache(self._function)

    def logits(self, examples: int) -> np.ndarray:
        """Return the logits of the first examples."""
        return np.asarray(self.network(self.parameters, self.inputs[:examples]))

    def kernel(self, implementation: str, kernel: str, rows: slice, columns: slice | None) -> np.ndarray:
        """Return one block of a kernel, finished."""
        others = None if columns is None else self.inputs[columns]
        result = np.asarray(self.function(implementation, kernel)(self.inputs[rows], others, self.parameters))
        if kernel == "trace":  # a mean over the classes there
            return result * np.float32(self.classes)
        return result.transpose(0, 2, 1, 3)  # (n, m, K, K) there

    @property
    def classes(self) -> int:
        """Number of logits."""
        return jax.eval_shape(self.network, self.parameters, self.inputs[:1]).shape[1]

    def _function(self, implementation: str, kernel: str) -> Callable:
        return jax.jit(
            empirical_ntk_fn(
                self.network,
                trace_axes=(-1,) if kernel == "trace" else (),
                vmap_axes=0,
                implementation=NtkImplementation[implementation.upper()],
            )
        )


if __name__ == "__main__":
    serve(NeuralTangents)
