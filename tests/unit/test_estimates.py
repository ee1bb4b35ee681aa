"""Needs of jobs and files, beside real ones."""

import copy
from pathlib import Path

import pytest
import torch
import yaml

from twophase.checkpoint import checkpoint_of, save_checkpoint
from twophase.config import read_config
from twophase.data import load_images, write_images
from twophase.estimates import MARGIN, StudyEstimates, tile_work
from twophase.network_size import network_size
from twophase.replay import run_at
from twophase.sources import Selection, read_images

ROOT = Path(__file__).parents[2]
EMBEDDED = ROOT / "workflow/resources/fashion_mnist/images.nc"


def config(name: str, **study) -> dict:
    raw = yaml.safe_load((ROOT / name).read_text())
    for section in raw.get("studies", {}).values():
        for key, value in study.items():
            section[key] = (section.get(key) or {}) | value if isinstance(value, dict) else value
    return raw


def study_of(name: str = "studies/tiny.yaml", **study):
    return next(iter(read_config(config(name, **study)).studies.values()))


@pytest.mark.parametrize(
    "changes", [{}, {"training": {"dtype": "float64"}}, {"optimizer": {"name": "adamw", "learning_rate": 0.01}}]
)
def test_the_size_of_a_checkpoint(tmp_path, changes):
    raw = config("studies/tiny.yaml")
    section = raw["studies"]["tiny"]
    section["model"] = {"name": "cnn", "depth": 3, "width": 64, "normalization": "batch"}
    for key, value in changes.items():
        section[key] = value if key == "optimizer" else section[key] | value
    study = read_config(raw).studies["tiny"]
    settings = study.run_settings()
    selection = Selection(**{k: v for k, v in study.data.canonical().items() if k != "folder"})
    write_images(tmp_path / "data.nc", read_images(selection, EMBEDDED), "{}")
    data = load_images(tmp_path / "data.nc", device="cpu", dtype=getattr(torch, settings["dtype"]))
    run, losses = run_at(data, settings, seed=0, trajectory="parent", step=3, start=None)
    (tmp_path / "parent").mkdir()
    checkpoint = checkpoint_of(run, trajectory="parent", recipe="{}", losses=losses, environment={})
    save_checkpoint(tmp_path / "parent/step3.pt", checkpoint)
    found = (tmp_path / "parent/step3.pt").stat().st_size
    estimates = StudyEstimates(study)
    assert found > 2_500_000
    assert estimates.checkpoint_bytes() == pytest.approx(found, rel=0.02)
    images = (tmp_path / "data.nc").stat().st_size
    assert estimates.image_bytes() <= images <= estimates.image_bytes() + 40_000


def test_the_disk_of_the_paper_scale_study_of_vgg():
    study = study_of("studies/zhou2025_vgg16.yaml")
    kept, deleted = (
        sum(StudyEstimates(study).disk_bytes(keep_checkpoints=keep).values()) / 1e9 for keep in (True, False)
    )
    assert 80 < kept < 82
    assert deleted < 5
    assert read_config(config("studies/zhou2025_vgg16.yaml")).keep_checkpoints is False


def test_checkpoints_are_counted_as_the_workflow_makes_them():
    study = study_of("studies/zhou2025_resnet20.yaml")
    estimates = StudyEstimates(study)
    assert 3 * len(estimates._branch_anchors()) == 777  # as a dry run plans them
    assert 3 * len(estimates._linearized_anchors()) == 222


RULES = {
    "prepare_data": {},
    "advance": {"trajectory": "parent", "step": "20"},
    "advance_branch": {"trajectory": "control_at5", "step": "20"},
    "advance_linearized": {"linearized": "linearized_at6_rate0.05", "step": "20"},
    "record_history": {},
    "compare_branch": {"trajectory": "control_at5"},
    "compute_entk": {"step": "6"},
    "measure_cone": {},
    "measure_pointwise": {},
    "measure_linearized": {"linearized": "linearized_at6_rate0.05"},
}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_its_needs_and_they_grow_with_the_study(rule):
    wildcards = {"study": "tiny", "seed": "0"} | RULES[rule]
    small = StudyEstimates(study_of()).work(rule, wildcards)
    larger = study_of(
        model={"name": "resnet", "depth": 20, "width": 32},
        data={"image_size": 28, "train_examples": 400},
        cone={"probe_examples": 40, "kernel_steps": list(range(21))},
    )
    large = StudyEstimates(larger).work(rule, wildcards)
    assert 0 < small.seconds < large.seconds
    assert 1000 < small.memory_mb < large.memory_mb
    assert large.limit_minutes(1) >= small.limit_minutes(1) >= 10
    assert large.limit_minutes(1000) <= large.limit_minutes(1)


def test_a_frozen_copy_takes_time_but_no_disk():
    model = {"name": "cnn", "depth": 3, "width": 64, "normalization": "none"}
    plain, scaled = (StudyEstimates(study_of(model=model | extra)) for extra in ({}, {"output_scale": 10}))
    assert scaled.checkpoint_bytes() == plain.checkpoint_bytes()
    wildcards = {"study": "tiny", "seed": "0", "trajectory": "parent", "step": "20"}
    assert 1.2 < scaled.work("advance", wildcards).seconds / plain.work("advance", wildcards).seconds < 1.34


def test_a_limit_is_twice_the_estimate_and_ten_minutes():
    work = StudyEstimates(study_of()).work("collect_chaos", {})
    assert work.seconds == 0
    assert work.limit_minutes(1) == 10
    assert type(work)(seconds=6000, memory_mb=1).limit_minutes(2) == pytest.approx(10 + MARGIN * 50, abs=1)


def test_a_users_network_is_assumed_not_imported():
    study = study_of(model={"name": "no.such.module:build"})
    assert StudyEstimates(study).network.parameters == 20_000_000


def test_an_image_folder_gives_its_shape(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (9, 7)).save(tmp_path / split / name / f"{number}.png")
    data = copy.deepcopy(study_of().data).model_copy(
        update={"source": "image_folder", "folder": str(tmp_path), "image_size": None, "train_examples": None}
    )
    assert (data.image_shape(), data.classes(), data.train_size()) == ((3, 7, 9), 2, 6)
    assert data.model_copy(update={"grey": True, "image_size": 5}).image_shape() == (1, 5, 5)


def test_a_tile_takes_as_long_as_its_neurons_and_examples_ask_for():
    diagram = read_config(config("config.yaml")).phase_diagrams["four_points"]
    tiles = list(diagram.tiles())
    assert 20 < tile_work(diagram, tiles[0]).seconds < 120
    assert tile_work(diagram, None).seconds < 60
    fashion = read_config(config("studies/fashion_phase_diagram.yaml")).phase_diagrams["fashion_phase_diagram"]
    assert tile_work(fashion, next(iter(fashion.tiles()))).memory_mb > tile_work(diagram, tiles[0]).memory_mb


def test_published_sizes_are_those_of_the_networks():
    assert network_size({"name": "vgg16", "width": 64, "normalization": "batch"}, image_shape=(3, 32, 32), classes=10)
