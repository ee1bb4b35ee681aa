"""The device of a job: chosen once, with every choice of PyTorch's made so that a run repeats bit for bit."""

import os
import platform

# cuBLAS reads this when it starts; without it some products differ from run to run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import torch

from twophase.allocator import keep_freed_memory


def prepare_device(threads: int) -> torch.device:
    """Make PyTorch deterministic and choose the device: the first GPU that the process sees, else the CPU.

    Args:
        threads: Threads of the CPU's operations.

    Returns:
        The device.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()  # a step allocates what the last one freed; 9 to 13 % of a linearised ResNet-20's time
    # As use_deterministic_algorithms(True), which also imports PyTorch's compiler: 1.4 s of every job.
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def environment(device: torch.device) -> dict[str, str]:
    """On what something was computed: device, threads and library versions, all that its last bits may depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "threads": str(torch.get_num_threads()),
        "torch": str(torch.__version__),
        "numpy": np.__version__,  # draws crops, flips and perturbations
        "python": platform.python_version(),
    }
