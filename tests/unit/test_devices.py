import json
import os
import platform
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from twophase.devices import environment

CODE = """
    import json
    import os
    from twophase.devices import environment, prepare_device
    import torch
    device = prepare_device({threads})
    print(json.dumps({{
        "device": device.type,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
        "benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
        "workspace": os.environ["CUBLAS_WORKSPACE_CONFIG"],
        "environment": environment(device),
    }}))
"""


def _prepared(threads, **variables):
    run = [sys.executable, "-c", textwrap.dedent(CODE.format(threads=threads))]
    rest = {key: value for key, value in os.environ.items() if key != "CUBLAS_WORKSPACE_CONFIG"}
    return json.loads(subprocess.run(run, check=True, capture_output=True, text=True, env=rest | variables).stdout)


def test_a_prepared_device_is_deterministic_and_has_its_threads():
    prepared = _prepared(2)
    assert prepared["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert prepared["deterministic"]
    assert prepared["cudnn_deterministic"]
    assert not prepared["filled"]
    assert not prepared["benchmark"]
    assert not prepared["tf32"]
    assert prepared["workspace"] == ":4096:8"
    assert prepared["environment"]["threads"] == "2"


def test_without_a_visible_gpu_it_is_the_cpu_and_a_users_workspace_setting_stands():
    prepared = _prepared(1, CUDA_VISIBLE_DEVICES="", CUBLAS_WORKSPACE_CONFIG=":16:8")
    assert prepared["device"] == "cpu"
    assert prepared["workspace"] == ":16:8"
    assert prepared["environment"]["threads"] == "1"


def test_the_environment_names_what_the_last_bits_may_depend_on():
    assert environment(torch.device("cpu")) == {
        "device": f"cpu ({platform.machine()})",
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    assert all(type(value) is str for value in environment(torch.device("cpu")).values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_environment_names_the_gpu():
    device = torch.device("cuda")
    assert environment(device)["device"] == f"cuda ({torch.cuda.get_device_name(device)})"
