"""Workers as the benchmark sees them: processes that are asked, and started anew when they die."""

import contextlib
import json
import select
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from entk_peers.environments import HERE, Peer, command

START_LIMIT = 600.0  # seconds to load the libraries and a network
LOGITS_TOLERANCE = 1e-4


class WorkerError(Exception):
    """An engine could not do what it was asked."""


class Worker:
    """An engine on one network, in a process of its own.

    Args:
        peer: The engine.
        network: Name of the network.
        weights: File of its weights and inputs.
        threads: Threads that it may use.
        device: "cpu" or "cuda".
    """

    def __init__(self, peer: Peer, *, network: str, weights: Path, threads: int, device: str):
        if device == "cuda" and not peer.cuda:
            raise WorkerError("its environment has no CUDA")
        try:
            self._command, self._variables = command(peer, threads)
        except subprocess.CalledProcessError as error:
            raise WorkerError(f"its environment can't be made: exit code {error.returncode} of {error.cmd}") from error
        options = {"--network": network, "--weights": weights, "--threads": threads, "--device": device}
        self._command += [str(part) for option in options.items() for part in option]
        self._process: subprocess.Popen | None = None
        self._start()

    def ask(self, request: dict[str, Any], *, limit: float) -> dict[str, Any]:
        """Return the reply to a request.

        Raises:
            WorkerError: If the engine raised an error, died, or took more than ``limit`` seconds; it is started anew.
        """
        if self._process is None:
            self._start()
        with contextlib.suppress(BrokenPipeError):  # it died while it waited; the reply says so
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        reply = self._reply(limit)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def measure(
        self,
        implementation: str,
        kernel: str,
        *,
        rows: int,
        columns: int | None = None,
        block: int,
        limit: float,
        save: Path | None = None,
    ) -> dict[str, Any]:
        """Time one kernel, see ``serving``."""
        request = {"do": "measure", "implementation": implementation, "kernel": kernel, "rows": rows}
        request |= {"columns": columns, "block": block, "save": save and str(save)}
        return self.ask(request, limit=limit)

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process = None
            self._log.close()

    def _start(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        self._process = subprocess.Popen(
            self._command,
            cwd=HERE.parent,
            env=self._variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        hello = self._reply(START_LIMIT)
        self.versions: dict[str, str] = hello["versions"]
        self.implementations: dict[str, bool] = hello["implementations"]
        if not hello["logits_difference"] <= LOGITS_TOLERANCE:
            self.stop()
            raise WorkerError(f"its logits differ by {hello['logits_difference']:.1g} from PyTorch's")

    def _reply(self, limit: float) -> dict[str, Any]:
        output = self._process.stdout
        ready, _, _ = select.select([output], [], [], limit)
        line = output.readline() if ready else b""
        if line:
            return json.loads(line)
        code = self._process.wait() if ready else None
        self._log.seek(0)
        last = self._log.read().decode(errors="replace").strip().split("\n")[-1]
        self.stop()
        if not ready:
            raise WorkerError(f"no answer within {limit:.0f} s")
        if code < 0:
            raise WorkerError(f"killed by signal {-code}" + (", out of memory?" if code == -9 else ""))
        raise WorkerError(f"ended with exit code {code}: {last[:200]}")
