"""The benchmark's tables and its netCDF file."""

import datetime
import json
import os
import platform
from pathlib import Path

import numpy as np
import xarray as xr

from entk_peers.measuring import REFERENCE, Case, Result, Settings
from entk_peers.workloads import EXACT_EXAMPLES

VARIABLES = {
    "seconds": ("time of one kernel", "s"),
    "peak_memory": ("peak of the memory on top of what was in use before; of the largest piece if scaled", "bytes"),
    "peak_resident": ("peak of all memory in use; of the largest piece if scaled", "bytes"),
}


def describe_machine(settings: Settings) -> dict[str, str | int | float]:
    """Return what a figure has to be read with: the machine, its load and the settings."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "threads": settings.threads,
        "device": settings.device,
        "limit_seconds": settings.limit,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def print_case(case: Case) -> None:
    """Print a case's table: median and quartiles over the rounds."""
    print(f"\n{case.workload.name}, {case.kernel}: {case.operations / 1e9:.4g} Gflop at least", end="")
    print(f", torch.mm {np.median(case.matrix_rate) / 1e9:.4g} Gflop/s" if case.reference else "")
    print(f"{'':<42} {'seconds':<28} {'over ' + REFERENCE:<24} {'peak MB (all)':<15} {'difference':<11}rounding")
    best = case.best()
    for result in case.results:
        star = " *" if best.get(result.engine) is result else ""
        if np.isnan(result.seconds).any():
            print(f"{result.name:<42} {result.failure}")
            continue
        memory = f"{np.median(result.peak_memory) / 1e6:.0f} ({np.median(result.peak_resident) / 1e6:.0f})"
        ratio = "" if result is case.reference else _spread(case.ratio(result))
        row = f"{result.name + star:<42} {_spread(result.seconds):<28} {ratio:<24} {memory:<15} "
        print(f"{row}{result.difference:<11.1e}{result.rounding:<9.1e} {_remark(case, result)}", flush=True)


def print_summary(cases: list[Case]) -> None:
    """Print how much longer the best implementation of each peer takes."""
    peers = list(dict.fromkeys(r.engine for case in cases for r in case.results if r.engine != REFERENCE))
    print(f"\ntime of each peer's best implementation over {REFERENCE}'s")
    print(f"{'':<22} " + " ".join(f"{peer:<26}" for peer in peers))
    for case in cases:
        best = case.best()
        cells = [
            _spread(case.ratio(best[peer])) + (" scaled" if best[peer].plan.sizes else "") if peer in best else "-"
            for peer in peers
        ]
        print(f"{case.workload.name + ', ' + case.kernel:<22} " + " ".join(f"{cell:<26}" for cell in cells))


def print_scaling(cases: list[Case]) -> None:
    """Print how the project's time grows with the number of examples."""
    print("\nexponent: how the time has grown with the examples since the row above")
    before = None
    for case in cases:
        seconds = np.median(case.reference.seconds)
        exponent = ""
        if before is not None and before.kernel == case.kernel:
            growth = seconds / np.median(before.reference.seconds)
            exponent = f"{np.log(growth) / np.log(case.workload.examples / before.workload.examples):.2f}"
        print(f"{case.workload.name + ', ' + case.kernel:<22} {_spread(case.reference.seconds):<26} {exponent}")
        before = case


def write_cases(cases: list[Case], path: Path, attributes: dict[str, str | int | float]) -> None:
    """Write all that was measured, whole or not at all."""
    parts = [_dataset(case) for case in cases]
    data = xr.combine_by_coords(parts, join="outer", combine_attrs="override", fill_value={"note": "not measured"})
    data = data.assign_attrs(title="Empirical tangent kernels: time and memory of every engine", **attributes)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    data.to_netcdf(partial)
    partial.replace(path)


def _dataset(case: Case) -> xr.Dataset:
    """One case, with dimensions workload, kernel, engine and round."""
    dims = ("workload", "kernel", "engine")

    def of_engines(values: list, name: str, units: str | None = None) -> tuple:
        attributes = {"long_name": name} | ({"units": units} if units else {})
        return dims, np.array([[values]]), attributes

    def of_rounds(key: str) -> tuple:
        values = np.stack([getattr(result, key) for result in case.results])
        return (*dims, "round"), values[None, None], dict(zip(("long_name", "units"), VARIABLES[key], strict=True))

    results = case.results
    scaled = [float(bool(result.plan.sizes)) if result.plan else np.nan for result in results]
    return xr.Dataset(
        {key: of_rounds(key) for key in VARIABLES}
        | {
            "scaled": of_engines(scaled, "whether a part was measured and scaled up", "1"),
            "difference": of_engines(
                [result.difference for result in results], f"relative Frobenius distance to {REFERENCE}'s kernel", "1"
            ),
            "rounding": of_engines(
                [result.rounding for result in results],
                f"relative Frobenius distance to the kernel in float64, of the first {EXACT_EXAMPLES} examples",
                "1",
            ),
            "note": of_engines([result.note for result in results], "how it was measured, or why not"),
            "matrix_rate": (
                ("workload", "kernel", "round"),
                case.matrix_rate[None, None],
                {"long_name": "speed of torch.mm, 4096 x 4096, float32", "units": "s-1"},
            ),
            "smallest_operations": (
                ("workload", "kernel"),
                np.array([[float(case.operations)]]),
                {"long_name": "smallest count of floating-point operations", "units": "1"},
            ),
        },
        coords={
            "workload": [case.workload.name],
            "kernel": [case.kernel],
            "engine": [result.name for result in results],
            "round": np.arange(len(case.matrix_rate)),
        },
    )


def versions_json(versions: dict[str, dict[str, str]]) -> str:
    """Return the engines' packages as JSON."""
    return json.dumps(versions, sort_keys=True)


def _remark(case: Case, result: Result) -> str:
    if result is not case.reference:
        return result.note
    share = np.median(case.operations / result.seconds / case.matrix_rate)
    return ", ".join(filter(None, (f"{share:.0%} of torch.mm", result.note)))


def _spread(values: np.ndarray) -> str:
    low, median, high = np.percentile(values, (25, 50, 75))
    return f"{median:.3g} [{low:.3g}, {high:.3g}]"
