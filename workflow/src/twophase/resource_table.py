"""What the jobs took, from the benchmarks that Snakemake writes and the last lines of their logs: one table."""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from twophase.jobs import PEAK_OF_GPU

COLUMNS = {
    "jobs": "jobs",
    "hours": "hours, all jobs",
    "longest": "longest job, s",
    "memory": "peak memory, MB",
    "gpu_memory": "peak GPU memory, MB",
    "load": "mean use of a core",
}
STYLE = """
body { font: 15px sans-serif; margin: 2em; }
table { border-collapse: collapse; }
td, th { padding: .3em .8em; text-align: right; border-bottom: 1px solid #ccc; }
th:first-child, th:nth-child(2) { text-align: left; }
"""


def read_jobs(folders: Iterable[Path]) -> pd.DataFrame:
    """One row a job: of each file the job that made it last.

    Args:
        folders: Folders of studies and phase diagrams, which have ``benchmarks`` and ``logs``.

    Returns:
        Columns ``study``, ``stage`` (the rule), ``seconds``, ``memory`` (peak resident memory, MB), ``gpu_memory``
        (peak, MB; NaN on a CPU) and ``load`` (of a core, 0 to 1 for each).
    """
    rows = [_read_job(folder, path) for folder in folders for path in sorted((folder / "benchmarks").rglob("*.tsv"))]
    return pd.DataFrame(rows, columns=["study", "stage", "seconds", "memory", "gpu_memory", "load"])


def _read_job(folder: Path, path: Path) -> tuple:
    name = path.relative_to(folder / "benchmarks")
    measured = pd.read_csv(path, sep="\t", na_values="-").iloc[-1]
    log = (folder / "logs" / name).with_suffix(".log")
    return (
        folder.name,
        name.parts[0] if len(name.parts) > 1 else name.stem,
        float(measured["s"]),
        float(measured["max_rss"]),
        _gpu_memory(log),
        float(measured["mean_load"]) / 100,
    )


def _gpu_memory(log: Path) -> float:
    text = log.read_text(errors="replace") if log.is_file() else ""
    peaks = re.findall(rf"{PEAK_OF_GPU} (\d+) MB", text)
    return float(peaks[-1]) if peaks else float("nan")


def resource_table(jobs: pd.DataFrame) -> pd.DataFrame:
    """Totals of each stage, and of each study and of all.

    Args:
        jobs: As `read_jobs` gives them; not changed.

    Returns:
        Index ``(study, stage)``, columns as in ``COLUMNS``.
    """
    parts = []
    for study, of_study in jobs.groupby("study", sort=False):
        parts += [_summary(of_stage, study, stage) for stage, of_stage in of_study.groupby("stage")]
        parts.append(_summary(of_study, study, "total"))
    parts.append(_summary(jobs, "all", "total"))
    return pd.concat(parts)


def _summary(jobs: pd.DataFrame, study: str, stage: str) -> pd.DataFrame:
    seconds = jobs["seconds"].sum()
    values = {
        "jobs": len(jobs),
        "hours": seconds / 3600,
        "longest": jobs["seconds"].max(),
        "memory": jobs["memory"].max(),
        "gpu_memory": jobs["gpu_memory"].max(),
        "load": (jobs["load"] * jobs["seconds"]).sum() / seconds if seconds else float("nan"),
    }
    return pd.DataFrame(values, index=pd.MultiIndex.from_tuples([(study, stage)], names=["study", "stage"]))


def to_html(table: pd.DataFrame, *, title: str, mark: str) -> str:
    """The table as a page of its own; ``mark`` is kept in a comment."""
    formats = {"hours": "{:.3f}", "longest": "{:.0f}", "memory": "{:.0f}", "gpu_memory": "{:.0f}", "load": "{:.2f}"}
    body = table.rename(columns=COLUMNS).to_html(
        formatters={COLUMNS[name]: text.format for name, text in formats.items()}, na_rep="", border=0
    )
    head = f"<meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>"
    return f"<!doctype html><!-- {mark} --><html><head>{head}</head><body><h1>{title}</h1>\n{body}\n</body></html>\n"
