"""The peers' environments, each made once from a file of exact versions, none of them the project's own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent / ".environments"
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")


@dataclass(frozen=True)
class Peer:
    """Where an engine comes from.

    Attributes:
        worker: Module of its worker.
        requirements: Name of its file of requirements; empty if the project's environment has all of them.
        beside_project: Whether they come on top of the project's environment, not into one of their own.
        cuda: Whether it can run on a GPU here.
    """

    worker: str
    requirements: str = ""
    beside_project: bool = True
    cuda: bool = True


PEERS = {
    "twophase": Peer("twophase_worker"),
    "neural-tangents": Peer("neural_tangents_worker", "neural_tangents", beside_project=False, cuda=False),
    "nngeometry": Peer("nngeometry_worker", "nngeometry"),
    "pytorch-tutorial": Peer("torch_tutorial_worker"),
}


def command(peer: Peer, threads: int) -> tuple[list[str], dict[str, str]]:
    """Return a worker's command and environment variables; make its environment if there is none yet.

    Raises:
        subprocess.CalledProcessError: If the environment can't be made.
    """
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} "
        f"intra_op_parallelism_threads={threads}",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    python = sys.executable
    if peer.requirements:
        folder = ENVIRONMENTS / peer.requirements
        _ensure(folder, HERE / f"{peer.requirements}.txt", beside_project=peer.beside_project)
        if peer.beside_project:
            variables["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        else:
            python = str(folder / "bin" / "python")
    return [python, "-m", f"entk_peers.{peer.worker}"], variables


def _ensure(folder: Path, requirements: Path, *, beside_project: bool) -> None:
    """Make an environment from its requirements, unless it was made from the same ones."""
    made_from = folder / "made_from.txt"
    if made_from.exists() and made_from.read_text() == requirements.read_text():
        return
    print(f"making the environment {folder.name} from {requirements.name} ...", flush=True)
    if beside_project:
        where = ["--upgrade", "--no-deps", "--target", str(folder)]
        subprocess.run([sys.executable, *PIP, *where, "-r", str(requirements)], check=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "python"), *PIP, "-r", str(requirements)], check=True)
    made_from.write_text(requirements.read_text())
