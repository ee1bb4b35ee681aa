"""NNGeometry (George 2021, https://github.com/tfjgeorge/nngeometry): hooks on the layers of a PyTorch network."""

from typing import ClassVar

import torch
from nngeometry.backend import TorchHooksJacobianBackend
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from entk_peers.serving import serve
from entk_peers.torch_engine import TorchEngine

GRAM_BYTES = 2 * 1024**3  # of the gradients that the Gram matrix of two batches takes


class NNGeometry(TorchEngine):
    """The product of its Jacobian with itself, and its Gram matrix, which is full in either case."""

    packages = ("nngeometry", "torch", "numpy")
    implementations: ClassVar = {"jacobian": False, "gram": True}

    def compute(self, implementation: str, kernel: str, inputs: Tensor, others: Tensor | None) -> Tensor:
        """Return the kernel between inputs, or between inputs and others."""
        if implementation == "gram":
            gram = self._gram(inputs)  # (K, n, K, n)
            return torch.einsum("kikj->ij", gram) if kernel == "trace" else gram.permute(1, 0, 3, 2)
        rows = self._backend().get_jacobian((inputs.clone(),))  # (K, n, P)
        columns = rows if others is None else self._backend().get_jacobian((others.clone(),))
        if kernel == "trace":
            return torch.einsum("kip,kjp->ij", rows, columns)
        product = rows.flatten(0, 1) @ columns.flatten(0, 1).T
        return product.view(*rows.shape[:2], *columns.shape[:2]).permute(1, 0, 3, 2)

    def _backend(self) -> TorchHooksJacobianBackend:
        return TorchHooksJacobianBackend(model=self.model)

    def _gram(self, inputs: Tensor) -> Tensor:
        gradient = 4 * sum(parameter.numel() for parameter in self.model.parameters())
        batch = max(1, min(len(inputs), GRAM_BYTES // (2 * gradient)))
        return self._backend().get_gram_matrix(DataLoader(TensorDataset(inputs.clone()), batch_size=batch))


if __name__ == "__main__":
    serve(NNGeometry)
