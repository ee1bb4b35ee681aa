"""What the engines on PyTorch share: loading a network, threads, the device's memory."""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from entk_peers.serving import Engine
from entk_peers.workloads import build_network

MATRIX_SIDE = 4096


class TorchEngine(Engine):
    """A network and its inputs on a device, with a fixed number of threads."""

    def __init__(self, network: str, weights: Path, *, threads: int, device: str):
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False  # float32 for every engine
        self.device = torch.device(device)
        self.model = build_network(network)
        with np.load(weights) as file:
            state = {key.removeprefix("state/"): torch.from_numpy(file[key]) for key in file if key[:6] == "state/"}
            self.inputs = torch.from_numpy(file["inputs"]).to(self.device)
        self.model.load_state_dict(state)
        self.model.to(self.device)

    def logits(self, examples: int) -> np.ndarray:
        """Return the logits of the first examples."""
        with torch.no_grad():
            return self.model(self.inputs[:examples]).cpu().numpy()

    def kernel(self, implementation: str, kernel: str, rows: slice, columns: slice | None) -> np.ndarray:
        """Return one block of a kernel, in main memory: a GPU has finished by then."""
        others = None if columns is None else self.inputs[columns]
        return self.compute(implementation, kernel, self.inputs[rows], others).detach().cpu().numpy()

    def compute(self, implementation: str, kernel: str, inputs: Tensor, others: Tensor | None) -> Tensor:
        """Return the kernel between inputs, or between inputs and others."""
        raise NotImplementedError

    def matrix_rate(self) -> float:
        """Return the floating-point operations a second of ``torch.mm`` in float32."""
        left, right = torch.randn(2, MATRIX_SIDE, MATRIX_SIDE, device=self.device)
        torch.mm(left, right)[0, 0].item()
        start = time.perf_counter()
        torch.mm(left, right)[0, 0].item()  # the element waits for a GPU
        return 2 * MATRIX_SIDE**3 / (time.perf_counter() - start)

    def start_peak(self) -> int:
        """Forget the peak of the memory in use, on the GPU if there is one, and return the bytes in use now."""
        if self.device.type != "cuda":
            return super().start_peak()
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        """Return the peak of the bytes in use since ``start_peak``."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else super().peak()
