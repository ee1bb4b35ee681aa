"""A sweep's cells are studies like any other: every rule works on them, and one more value leaves the others alone."""

import pytest
import yaml
from project import ROOT, Project


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """A sweep whose cells have their images."""
    study = yaml.safe_load((ROOT / "studies" / "tiny.yaml").read_text())["studies"]["tiny"]
    study |= {"switching": None, "sweep": {"width": [4], "learning_rate": [0.05, 1.0e-5]}}
    project = Project(tmp_path_factory.mktemp("sweep"), {"tiny": study})
    cells = ("tiny__width4__learning_rate0.05", "tiny__width4__learning_rate1e-05")
    project.snakemake("--cores", "2", *(f"results/{cell}/data.nc" for cell in cells))
    return project


def edited(project, **axes):
    return project.edited(lambda config: config["studies"]["tiny"]["sweep"].update(axes))


def test_every_cell_is_made_and_the_study_itself_is_not(project):
    plan = project.plan(None, "cone")
    assert "prepare_data" not in plan.outputs
    assert sorted(plan.outputs["measure_cone"]) == [
        "results/tiny__width4__learning_rate0.05/cone.nc",
        "results/tiny__width4__learning_rate1e-05/cone.nc",
    ]
    assert not any(path.startswith("results/tiny/") for path in plan.files())


def test_one_more_value_makes_its_own_cells_only(project):
    plan = project.plan(edited(project, learning_rate=[0.05, 1.0e-5, 0.2]), "cone")
    assert plan.outputs["prepare_data"] == ["results/tiny__width4__learning_rate0.2/data.nc"]


def test_the_order_of_values_does_not_matter_to_the_cells(project):
    assert "prepare_data" not in project.plan(edited(project, learning_rate=[1.0e-5, 0.05]), "cone").outputs


def test_a_mistake_in_a_cell_is_told_before_anything_runs(project):
    project.write_config(edited(project, batch_size=[20, 500]))
    try:
        done = project.snakemake("--cores", "1", "--dry-run", check=False)
    finally:
        project.write_config(project.config)
    assert done.returncode == 1
    assert "studies.tiny.training.batch_size: asks for 500, the study has 200" in done.stdout
    assert "(sweep: width 4, batch_size 500, learning_rate 0.05; so in 2 of its cells)" in done.stdout
