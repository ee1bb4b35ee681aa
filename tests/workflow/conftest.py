import copy
from pathlib import Path

import pytest
import yaml
from project import ROOT, Project
from slurm_cluster import SlurmCluster, reason_not_to_run


def tiny_study() -> dict:
    return yaml.safe_load((ROOT / "studies" / "tiny.yaml").read_text())["studies"]["tiny"]


def bare_study() -> dict:
    """One short parent, nothing measured."""
    study = copy.deepcopy(tiny_study())
    del study["chaos"], study["cone"], study["switching"], study["pointwise"]
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


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A SLURM cluster of two nodes on this machine; a test that breaks it calls ``start`` to mend it."""
    reason = reason_not_to_run()
    if reason:
        pytest.skip(f"no SLURM cluster: {reason}")
    cluster = SlurmCluster(tmp_path_factory.mktemp("cluster"))
    cluster.start()
    yield cluster
    cluster.stop()
