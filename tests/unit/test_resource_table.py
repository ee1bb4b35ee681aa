import math
from pathlib import Path

import pytest

from twophase.resource_table import read_jobs, resource_table, to_html

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def job(folder: Path, name: str, seconds: float, memory: str, load: float, log: str = "") -> None:
    (folder / "benchmarks" / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "logs" / name).parent.mkdir(parents=True, exist_ok=True)
    row = f"{seconds}\t0:00:01\t{memory}\t1\t1\t1\t0\t0\t{load}\t1\n"
    (folder / "benchmarks" / f"{name}.tsv").write_text(HEADER + row)
    (folder / "logs" / f"{name}.log").write_text(log)


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    study, diagram = tmp_path / "results/small", tmp_path / "results/phase_diagram/line"
    job(study, "advance/seed0_parent_step0", 3600, "1000", 50, "done in 3600.0 s, peak GPU memory 2100 MB\n")
    job(study, "advance/seed0_parent_step5", 1800, "3000", 100, "done in 1800.0 s, peak GPU memory 1900 MB\n")
    job(study, "collect_chaos", 1800, "-", 0)
    job(diagram, "measure_tile/gamma0.5", 7200, "500", 200, "done in 7200.0 s\n")
    return [study, diagram]


def test_each_stage_and_each_study_has_its_totals(folders):
    table = resource_table(read_jobs(folders))
    assert list(table.index) == [
        ("small", "advance"),
        ("small", "collect_chaos"),
        ("small", "total"),
        ("line", "measure_tile"),
        ("line", "total"),
        ("all", "total"),
    ]
    advance = table.loc[("small", "advance")]
    assert (advance["jobs"], advance["hours"], advance["longest"]) == (2, 1.5, 3600)
    assert (advance["memory"], advance["gpu_memory"]) == (3000, 2100)
    assert advance["load"] == pytest.approx((0.5 * 3600 + 1.0 * 1800) / 5400)
    assert table.loc[("all", "total"), "hours"] == 4.0
    assert table.loc[("line", "total"), "load"] == 2.0


def test_what_was_not_measured_is_left_open(folders):
    table = resource_table(read_jobs(folders))
    assert math.isnan(table.loc[("small", "collect_chaos"), "memory"])
    assert math.isnan(table.loc[("line", "measure_tile"), "gpu_memory"])


def test_the_page_holds_the_table_and_its_mark(folders):
    page = to_html(resource_table(read_jobs(folders)), title="Jobs", mark="recipe sha256:ab")
    assert page.startswith("<!doctype html><!-- recipe sha256:ab -->")
    assert page.endswith("</html>\n")
    assert "peak GPU memory, MB" in page
    assert "2100" in page
    assert "nan" not in page.lower()


def test_a_study_without_jobs_is_an_empty_table(tmp_path):
    assert list(resource_table(read_jobs([tmp_path])).index) == [("all", "total")]
