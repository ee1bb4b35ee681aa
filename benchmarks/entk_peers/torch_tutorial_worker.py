"""PyTorch's tutorial "Neural Tangent Kernels", in ``torch.func``.

https://docs.pytorch.org/tutorials/intermediate/neural_tangent_kernels.html
"""

from typing import ClassVar

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, jvp, vjp, vmap

from entk_peers.serving import serve
from entk_peers.torch_engine import TorchEngine

CONTRACTIONS = {"full": "iap,jbp->iajb", "trace": "iap,jap->ij"}


class TorchTutorial(TorchEngine):
    """Its methods: two Jacobians even of the same inputs, the same with one, and NTK-vector products."""

    packages = ("torch", "numpy")
    implementations: ClassVar = {"jacobians": False, "one jacobian": False, "ntk_vps": False}

    def compute(self, implementation: str, kernel: str, inputs: Tensor, others: Tensor | None) -> Tensor:
        """Return the kernel between inputs, or between inputs and others."""
        parameters = {name: value.detach() for name, value in self.model.named_parameters()}
        if implementation == "ntk_vps":
            result = self._products(parameters, inputs, inputs if others is None else others)
            return torch.einsum("ijkk->ij", result) if kernel == "trace" else result.transpose(1, 2)
        rows = self._jacobian(parameters, inputs)
        if others is None and implementation == "one jacobian":
            columns = rows
        else:
            columns = self._jacobian(parameters, inputs if others is None else others)
        parts = [torch.einsum(CONTRACTIONS[kernel], row, column) for row, column in zip(rows, columns, strict=True)]
        return torch.stack(parts).sum(0)

    def _of_one(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.model, parameters, (x.unsqueeze(0),)).squeeze(0)

    def _jacobian(self, parameters: dict[str, Tensor], inputs: Tensor) -> list[Tensor]:
        """Gradients of all logits, ``(n, K, p)`` for each parameter."""
        return [part.flatten(2) for part in vmap(jacrev(self._of_one), (None, 0))(parameters, inputs).values()]

    def _products(self, parameters: dict[str, Tensor], inputs: Tensor, others: Tensor) -> Tensor:
        """A backward and a forward derivative for each pair of examples and each logit, ``(n, m, K, K)``."""

        def of_pair(x: Tensor, other: Tensor) -> Tensor:
            logits, pull_back = vjp(lambda p: self._of_one(p, x), parameters)

            def row(logit: Tensor) -> Tensor:
                return jvp(lambda p: self._of_one(p, other), (parameters,), pull_back(logit))[1]

            return vmap(row)(torch.eye(len(logits), dtype=logits.dtype, device=logits.device))

        return vmap(vmap(of_pair, (None, 0)), (0, None))(inputs, others)


if __name__ == "__main__":
    serve(TorchTutorial)
