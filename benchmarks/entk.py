"""The kernel engine beside every peer: time, memory and agreement of empirical tangent kernels.

    python benchmarks/entk.py                        # all, takes hours
    python benchmarks/entk.py --examples 8 --rounds 2 --engine twophase --engine pytorch-tutorial
    python benchmarks/entk.py --scaling              # the project's engine, time against number of examples

Each engine runs in a process of its own with its own environment, made on first use under ``benchmarks/.environments``,
on the same processor cores, and takes its turn in each round. A peer that needs more than half of the free memory
computes its kernel in blocks. A turn that would take more than ``--limit`` seconds, by small runs, is measured on a
part of the work and scaled up: such figures are marked "scaled". Times don't include compilation. "difference" is the
relative Frobenius distance to the project's kernel, "rounding" that to the kernel in float64 over the first two
examples. Linux only.

Results go to ``benchmarks/results/entk.nc``, or ``entk_scaling.nc``.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from entk_peers.environments import PEERS
from entk_peers.measuring import REFERENCE, Case, Settings, engines, measure_case
from entk_peers.processes import Worker
from entk_peers.report import describe_machine, print_case, print_scaling, print_summary, versions_json, write_cases
from entk_peers.workloads import SCALING, WORKLOADS, Workload, exact_kernel, export

RESULTS = Path(__file__).parent / "results"
KERNELS = ("full", "trace")


def main() -> None:
    """Measure what the command line asks for."""
    arguments = parse_arguments()
    settings = Settings(arguments.rounds, arguments.limit, arguments.threads, arguments.device)
    pin(settings.threads)
    machine = describe_machine(settings)
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print("median [quartiles] over the rounds; ratios are taken within each round; * is an engine's best")
    names = [name for name in PEERS if name in arguments.engine]
    workloads = SCALING if arguments.scaling else [w for w in WORKLOADS if w.name in arguments.workload]
    if arguments.examples:
        workloads = list(dict.fromkeys(Workload(workload.network, arguments.examples) for workload in workloads))
    cases = measure(names, workloads, arguments.kernel, settings, arguments.output, machine)
    if arguments.scaling:
        print_scaling(sorted(cases, key=lambda case: (case.kernel, case.workload.examples)))
    elif REFERENCE in names and len(names) > 1:
        print_summary(cases)
    print(f"\nwritten to {arguments.output}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("--workload", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--engine", action="append", choices=list(PEERS), help="only this one; may be repeated")
    parser.add_argument("--kernel", action="append", choices=KERNELS, help="only this one; may be repeated")
    parser.add_argument("--examples", type=int, help="this many instead of each workload's own")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each engine (default: 5)")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that a turn may take (default: 60)")
    parser.add_argument("--threads", type=int, default=2, help="processor cores of each engine (default: 2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the engines on PyTorch")
    parser.add_argument("--scaling", action="store_true", help=f"{REFERENCE} only, on more and more examples")
    parser.add_argument("--output", type=Path, help="netCDF file (default: in benchmarks/results)")
    arguments = parser.parse_args()
    if arguments.scaling and (arguments.workload or arguments.engine or arguments.examples):
        parser.error("--scaling has a workload, an engine and numbers of examples of its own")
    if arguments.examples is not None and arguments.examples < 2:
        parser.error("--examples has to be 2 or more")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    arguments.workload = arguments.workload or names
    arguments.kernel = arguments.kernel or KERNELS
    arguments.engine = [REFERENCE] if arguments.scaling else arguments.engine or list(PEERS)
    arguments.output = arguments.output or RESULTS / ("entk_scaling.nc" if arguments.scaling else "entk.nc")
    return arguments


def pin(threads: int) -> None:
    """Keep this process and all that it starts on so many processor cores: not every library counts its threads."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < threads:
        raise SystemExit(f"error: {threads} threads want as many processor cores, {len(cores)} are there")
    os.sched_setaffinity(0, cores[:threads])
    torch.set_num_threads(threads)


def measure(
    names: list[str],
    workloads: list[Workload],
    kernels: Sequence[str],
    settings: Settings,
    output: Path,
    machine: dict[str, str | int | float],
) -> list[Case]:
    """Measure every workload, and write the file anew after each kernel."""
    cases, versions = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for network in dict.fromkeys(workload.network for workload in workloads):
            chosen = [workload for workload in workloads if workload.network == network]
            weights = folder / f"{network}.npz"
            export(network, max(workload.examples for workload in chosen), weights)
            exact = exact_kernel(network)
            with engines(names, network=network, weights=weights, settings=settings) as workers:
                versions |= {name: worker.versions for name, worker in workers.items() if isinstance(worker, Worker)}
                for workload in chosen:
                    for kernel in kernels:
                        case = measure_case(workers, workload, kernel, exact=exact, settings=settings, folder=folder)
                        cases.append(case)
                        print_case(case)
                        write_cases(cases, output, machine | {"versions": versions_json(versions)})
    return cases


if __name__ == "__main__":
    main()
