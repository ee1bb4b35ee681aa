"""The page of claims: redone when a number, a threshold or a figure in it may change, and only then."""

import pytest
from test_staleness import set_value

TINY = "studies.tiny."
PAGE = ["results/summary.html"]
EDITS = {
    "confidence": (set_value(TINY + "analysis", {"confidence": 0.8}), PAGE),
    "which kernels are late": (set_value(TINY + "analysis", {"late_from": 5}), PAGE),
    "published accuracies": (set_value(TINY + "switching.published_test_accuracy", {0: 0.1}), PAGE),
    "one reference step less": (set_value(TINY + "cone.reference_steps", [10]), PAGE),
    "figure resolution": (set_value("figures", {"dpi": 70}), PAGE),
    "no linearised runs": (set_value(TINY + "switching", None), PAGE),
    "learning rate of a study without claims": (set_value("studies.other.optimizer.learning_rate", 0.06), None),
}


@pytest.mark.parametrize("name", EDITS)
def test_the_summary_follows_what_it_shows(finished, name):
    edit, expected = EDITS[name]
    assert finished.plan(finished.edited(edit)).outputs.get("summarize") == expected


def test_the_summary_is_made_and_in_the_report(finished):
    page = (finished.folder / "results/summary.html").read_text()
    assert "Study tiny" in page
    assert "no claims" in page  # of the study that measures nothing
    finished.snakemake("--cores", "1", "--report", "claims.html")
    report = (finished.folder / "claims.html").read_text()
    assert "summary.html" in report
    assert "Look first at" in report
