import copy
from pathlib import Path

import pytest
import yaml
from project import ROOT, Project


def tiny_study() -> dict:
    return yaml.safe_load((ROOT / "studies" / "tiny.yaml").read_text())["studies"]["tiny"]


def bare_study() -> dict:
    """One short parent, nothing measured."""
    study = copy.deepcopy(tiny_study())
    del study["chaos"], study["cone"], study["switching"]
    return study | {"seeds": [0], "training": study["training"] | {"length": 5}}


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Project:
    """Two small studies, run to the end; tests plan edits of it and leave it as it was."""
    project = Project(tmp_path_factory.mktemp("finished"), {"tiny": tiny_study(), "other": bare_study()})
    project.snakemake("--cores", "2")
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """One short study, nothing run yet."""
    return Project(tmp_path, {"short": bare_study()})
