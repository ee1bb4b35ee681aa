import copy
import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from twophase.config import Config, Span, Study, read_config
from twophase.errors import ConfigError

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "config.yaml", *sorted((ROOT / "studies").glob("*.yaml"))]
BASE = yaml.safe_load("""
run: [tiny]
studies:
  tiny:
    data: {source: embedded_fashion_mnist, image_size: 8, train_examples: 200, test_examples: 100}
    model: {name: cnn, depth: 1, width: 4}
    optimizer: {name: sgd, learning_rate: 0.05}
    schedule: {name: constant}
    training: {length: 24 steps, batch_size: 20, checkpoint_every: 10}
    seeds: [0, 1]
    chaos:
      perturbation_steps: [0, 5]
      comparison_steps: [8, 24]
      relative_norms: [0, 0.01]
      evaluation_examples: 50
      batch_norm_examples: 40
    cone:
      kernel_steps: [0, 6, 10, 20]
      reference_steps: [0, 10]
      intervals: [10]
      probe_examples: 10
    switching:
      switch_steps: [0, 6]
      learning_rates: [0.05, 0.01]
      schedule: {name: constant}
      optimizer_state: carried
      evaluation_examples: 50
      probe_examples: 10
      published_test_accuracy: {0: 0.1, 6: 0.3}
    pointwise:
      steps: [0, 6, 20]
      probe_examples: 20
      batches: 4
""")


def changed(*edits):
    """The base with some values set; keys begin below the study, or with a slash at the root."""
    raw = copy.deepcopy(BASE)
    for key, value in edits:
        *sections, last = key[1:].split("/") if key.startswith("/") else ["studies", "tiny", *key.split("/")]
        section = raw
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    return raw


def problems_of(raw):
    """Message by key of what is wrong."""
    with pytest.raises(ConfigError) as caught:
        read_config(raw)
    first, *lines = str(caught.value).splitlines()
    assert first == f"The config has {len(lines)} problem(s):"
    return {
        key.removeprefix("studies.tiny."): message for key, message in (line.strip().split(": ", 1) for line in lines)
    }


def study(*edits):
    return read_config(changed(*edits)).studies["tiny"]


# (what is set, the key at which it is wrong, what the message says)
BROKEN = {
    "misspelt at the root": (("/figurs", {}), "figurs", "did you mean 'figures'?"),
    "misspelt in figures": (("/figures/dip", 100), "figures.dip", "did you mean 'dpi'?"),
    "misspelt in a study": (("sed", [1]), "sed", "unknown key; did you mean 'seeds'?"),
    "misspelt in data": (("data/imagesize", 8), "data.imagesize", "did you mean 'image_size'?"),
    "misspelt in model": (("model/normalisation", "batch"), "model.normalisation", "did you mean 'normalization'?"),
    "misspelt in optimizer": (("optimizer/momentun", 0.5), "optimizer.momentun", "did you mean 'momentum'?"),
    "misspelt in schedule": (("schedule/warm_up", 3), "schedule.warm_up", "did you mean 'warmup'?"),
    "misspelt in training": (("training/batchsize", 10), "training.batchsize", "did you mean 'batch_size'?"),
    "misspelt in chaos": (("chaos/draw", 1), "chaos.draw", "did you mean 'draws'?"),
    "misspelt in cone": (("cone/kernels", "full"), "cone.kernels", "did you mean 'kernel'?"),
    "misspelt in switching": (("switching/switch_step", [1]), "switching.switch_step", "did you mean 'switch_steps'?"),
    "misspelt in pointwise": (("pointwise/step", [1]), "pointwise.step", "did you mean 'steps'?"),
    "misspelt in a schedule of its own": (
        ("switching/schedule", {"name": "constant", "warm_up": 3}),
        "switching.schedule.warm_up",
        "did you mean 'warmup'?",
    ),
    "unknown, like nothing": (
        ("cone/zzz", 1),
        "cone.zzz",
        "unknown key; expected one of kernel_steps, reference_steps",
    ),
    "known elsewhere only": (("chaos/seeds", [1]), "chaos.seeds", "unknown key; expected one of perturbation_steps"),
    "of the other optimizer": (("optimizer/beta1", 0.5), "optimizer.beta1", "has no meaning with the section's name"),
    "text for a number": (("optimizer/learning_rate", "fast"), "optimizer.learning_rate", "valid number, .*got 'fast'"),
    "number for text": (("data/folder", 3), "data.folder", "valid string, got 3"),
    "bool for an integer": (("training/batch_size", True), "training.batch_size", "expected a number, got True"),
    "bool for a float": (("optimizer/learning_rate", True), "optimizer.learning_rate", "expected a number, got True"),
    "bool in a list": (("seeds", [0, True]), "seeds[1]", "expected a number, got True"),
    "bool for a duration": (("training/length", True), "training.length", "number of steps, or text.*got True"),
    "fraction for an integer": (("model/width", 2.5), "model.width", "valid integer.*got 2.5"),
    "negative": (
        ("optimizer/weight_decay", -1e-4),
        "optimizer.weight_decay",
        "greater than or equal to 0, got -0.0001",
    ),
    "negative seed": (("seeds", [-1]), "seeds[0]", "greater than or equal to 0, got -1"),
    "zero width": (("model/width", 0), "model.width", "greater than 0, got 0"),
    "momentum 1": (("optimizer/momentum", 1), "optimizer.momentum", "less than 1, got 1"),
    "infinite": (("optimizer/learning_rate", float("inf")), "optimizer.learning_rate", "finite number, got inf"),
    "not a number": (("chaos/relative_norms", [float("nan")]), "chaos.relative_norms[0]", "got nan"),
    "nan as text": (("optimizer/learning_rate", "nan"), "optimizer.learning_rate", "finite number, got 'nan'"),
    "nan for a user's network": (
        ("model", {"name": "mine:net", "arguments": {"x": float("nan")}}),
        "model.arguments",
        "finite numbers.*got {'x': nan}",
    ),
    "seed too large": (("seeds", [2**63]), "seeds[0]", f"less than or equal to {2**63 - 1}, got {2**63}"),
    "no seeds": (("seeds", []), "seeds", "empty; give at least one value"),
    "repeated seeds": (("seeds", [3, 1, 3]), "seeds", r"each value once, \[3\] is repeated"),
    "repeated interval": (("cone/intervals", [10, 10]), "cone.intervals", r"\[10\] is repeated"),
    "the control alone": (("chaos/relative_norms", [0]), "chaos.relative_norms", "expected a size above 0"),
    "repeated norm, one as text": (("chaos/relative_norms", [0.01, "1e-2"]), "chaos.relative_norms", "is repeated"),
    "no kinds": (("chaos/kinds", []), "chaos.kinds", "empty"),
    "no learning rates": (("switching/learning_rates", []), "switching.learning_rates", "empty; give at least one"),
    "repeated learning rate, one as text": (
        ("switching/learning_rates", [0.05, 0.01, "1e-2"]),
        "switching.learning_rates",
        r"each value once, \[0.01\] is repeated",
    ),
    "learning rate 0": (("switching/learning_rates", [0]), "switching.learning_rates[0]", "greater than 0, got 0"),
    "unknown state": (
        ("switching/optimizer_state", "caried"),
        "switching.optimizer_state",
        "got 'caried'; did you mean 'carried'?",
    ),
    "published in per cent": (
        ("switching/published_test_accuracy", {0: 13}),
        "switching.published_test_accuracy.0",
        "less than 1, got 13",
    ),
    "published at no step": (
        ("switching/published_test_accuracy", {"early": 0.13}),
        "switching.published_test_accuracy.early",
        "valid integer.*got 'early'",
    ),
    "published before the start": (
        ("switching/published_test_accuracy", {-5: 0.13}),
        "switching.published_test_accuracy.-5",
        "greater than or equal to 0, got '-5'",
    ),
    "unknown kind": (("chaos/kinds", ["gausian"]), "chaos.kinds[0]", "got 'gausian'; did you mean 'gaussian'?"),
    "no t0": (("chaos/perturbation_steps", []), "chaos.perturbation_steps", "the grid is empty"),
    "no t1": (("chaos/comparison_steps", []), "chaos.comparison_steps", "the grid is empty"),
    "no kernel steps": (("cone/kernel_steps", []), "cone.kernel_steps", "the grid is empty"),
    "one batch": (("pointwise/batches", 1), "pointwise.batches", "greater than or equal to 2, got 1"),
    "batches that are true": (("pointwise/batches", True), "pointwise.batches", "expected a number, got True"),
    "no image for the Hessian": (("pointwise/probe_examples", 0), "pointwise.probe_examples", "greater than 0, got 0"),
    "no steps of single points": (("pointwise/steps", []), "pointwise.steps", "the grid is empty"),
    "single points beyond the run": (
        ("pointwise/steps", [0, 24, 25]),
        "pointwise.steps",
        r"must not exceed the run's length of 24 steps, got \[25\]",
    ),
    "no switch steps": (("switching/switch_steps", []), "switching.switch_steps", "the grid is empty"),
    "a grid that is a number": (("cone/kernel_steps", 5), "cone.kernel_steps", "expected a list, got 5"),
    "a negative step": (("cone/kernel_steps", [0, -5]), "cone.kernel_steps[1]", "greater than or equal to 0, got -5"),
    "a range without every": (
        ("cone/kernel_steps", [0, 10, {"start": 0, "stop": 10}]),
        "cone.kernel_steps[2].every",
        "is missing; expected: Distance",
    ),
    "a range backwards": (
        ("cone/kernel_steps", [{"start": 10, "stop": 0, "every": 1}]),
        "cone.kernel_steps[0]",
        "stop that is not below the start, got {'start': 10",
    ),
    "an endless range": (
        ("cone/kernel_steps", [{"start": 0, "stop": 10**15, "every": 1}]),
        "cone.kernel_steps[0]",
        "at most 1000000 steps",
    ),
    "t0 at the end": (
        ("chaos/perturbation_steps", [0, 24]),
        "chaos.perturbation_steps",
        r"below .* 24 steps, got \[24\]",
    ),
    "t1 beyond": (("chaos/comparison_steps", [24, 25]), "chaos.comparison_steps", r"length of 24 steps, got \[25\]"),
    "t0 above every t1": (
        ("chaos/comparison_steps", [5]),
        "chaos.perturbation_steps",
        r"comparison step above it \(the last is 5\), got \[5\]",
    ),
    "kernel step beyond": (("cone/kernel_steps", [0, 10, 30]), "cone.kernel_steps", r"24 steps, got \[30\]"),
    "switch at the end": (
        ("switching/switch_steps", [6, 24]),
        "switching.switch_steps",
        r"below .* 24 steps, got \[24\]",
    ),
    "switch beyond": (
        ("switching/switch_steps", [{"start": 20, "stop": 30, "every": 5}]),
        "switching.switch_steps",
        r"below .* 24 steps, got \[25, 30\]",
    ),
    "one kernel": (
        ("cone", {"kernel_steps": [4], "reference_steps": [4], "probe_examples": 10}),
        "cone.kernel_steps",
        r"at least two steps.*got \[4\]",
    ),
    "one probe example": (("cone/probe_examples", 1), "cone.probe_examples", "greater than or equal to 2, got 1"),
    "reference without kernel": (
        ("cone/reference_steps", [0, 7]),
        "cone.reference_steps",
        r"among kernel_steps, got \[7\]",
    ),
    "interval without a pair": (("cone/intervals", [10, 3]), "cone.intervals", r"that far apart, got \[3\]"),
    "duration in fortnights": (
        ("training/length", "2 fortnights"),
        "training.length",
        "'80 epochs'.*got '2 fortnights'",
    ),
    "negative duration": (("training/length", "-3 epochs"), "training.length", "'80 epochs'.*got '-3 epochs'"),
    "duration of nothing": (("training/length", "0.01 epochs"), "training.length", "at least 1 step, got 0"),
    "endless duration": (("training/length", 1e300), "training.length", "less than or equal to 1000000000, got 1e"),
    "unit of a duration": (
        ("training/length", {"count": 3, "unit": "epoch"}),
        "training.length.unit",
        "got 'epoch'; did you mean 'epochs'?",
    ),
    "warm-up": (("schedule", {"name": "constant", "warmup": "soon"}), "schedule.warmup", "got 'soon'"),
    "schedule without name": (
        ("schedule", {"warmup": 3}),
        "schedule.name",
        "is missing; expected one of 'constant', 'mile",
    ),
    "schedule with a wrong name": (
        ("schedule", {"name": "cosin"}),
        "schedule.name",
        "'milestones', 'cosine', got 'cosin'; did you mean 'cosine'?",
    ),
    "no milestones": (("schedule", {"name": "milestones"}), "schedule.milestones", "is missing; expected: When"),
    "a bad milestone": (
        ("schedule", {"name": "milestones", "milestones": [3, "x"]}),
        "schedule.milestones[1]",
        "got 'x'",
    ),
    "unknown network": (("model/name", "resnt"), "model.name", "vgg16, mlp, cnn.*'resnt'; did you mean 'resnet'?"),
    "network without callable": (("model/name", "package.module:"), "model.name", "package.module:callable.*Got"),
    "resnet of no depth": (("model", {"name": "resnet", "depth": 18}), "model.depth", r"6n\+2 .*got 18"),
    "arguments of a built-in": (("model/arguments", {"a": 1}), "model.arguments", "no meaning with .* 'cnn'"),
    "half of a label": (("data/label_noise", 1), "data.label_noise", "less than 1, got 1"),
    "negative noise": (("data/label_noise", -0.1), "data.label_noise", "greater than or equal to 0, got -0.1"),
    "bool for the noise": (("data/label_noise", True), "data.label_noise", "expected a number, got True"),
    "misspelt noise": (("data/labelnoise", 0.1), "data.labelnoise", "did you mean 'label_noise'?"),
    "scale 0": (("model/output_scale", 0), "model.output_scale", "greater than 0, got 0"),
    "scale in words": (("model/output_scale", "lazy"), "model.output_scale", "valid number.*got 'lazy'"),
    "misspelt scale": (
        ("model", {"name": "mlp", "normalization": "none", "outputscale": 3}),
        "model.outputscale",
        "did you mean 'output_scale'?",
    ),
    "scale with BatchNorm": (
        ("model/output_scale", 10),
        "model.output_scale",
        "needs normalization 'group' or 'none'.*got 10 with 'batch'",
    ),
    "nesterov alone": (
        ("optimizer", {"name": "sgd", "momentum": 0, "nesterov": True}),
        "optimizer.nesterov",
        "momentum",
    ),
    "unknown source": (("data/source", "cifar"), "data.source", "got 'cifar'; did you mean 'cifar100?'"),
    "folder of another source": (("data/folder", "images"), "data.folder", "no meaning with source 'embedded_fashion"),
    "no folder": (("data", {"source": "image_folder"}), "data.folder", "is needed with source 'image_folder'"),
    "missing folder": (
        ("data", {"source": "image_folder", "folder": "no/such"}),
        "data.folder",
        "no/such/train is not",
    ),
    "odd folder": (("data", {"source": "image_folder", "folder": "a\0b"}), "data.folder", "is not a folder"),
    "too many training images": (("data/train_examples", 10_001), "data.train_examples", "10001 images, .* has 10000"),
    "too many test images": (("data/test_examples", 2_001), "data.test_examples", "2001 images, the source has 2000"),
    "batch too large": (
        ("training/batch_size", 201),
        "training.batch_size",
        "asks for 201, the study has 200 training",
    ),
    "probe too large": (
        ("cone/probe_examples", 201),
        "cone.probe_examples",
        "asks for 201, the study has 200 training",
    ),
    "too many evaluation images": (
        ("chaos/evaluation_examples", 101),
        "chaos.evaluation_examples",
        "asks for 101, the study has 100 images in a split",
    ),
    "too many for BatchNorm": (("chaos/batch_norm_examples", 201), "chaos.batch_norm_examples", "has 200 training"),
    "too many to evaluate a linearised run": (
        ("switching/evaluation_examples", 201),
        "switching.evaluation_examples",
        "asks for 201, the study has 200 training",
    ),
    "too many for the eigenvalue": (("switching/probe_examples", 201), "switching.probe_examples", "has 200 training"),
    "too many for the Hessian": (("pointwise/probe_examples", 201), "pointwise.probe_examples", "has 200 training"),
    "two points": (
        ("chaos/interpolation_points", 2),
        "chaos.interpolation_points",
        "greater than or equal to 3, got 2",
    ),
    "run of an unknown study": (("/run", ["tny"]), "run", "names 'tny', which is neither.*; did you mean 'tiny'?"),
    "run of nothing": (("/run", []), "run", "is empty"),
    "a study that is null": (("/studies/tiny", None), "studies.tiny", "expected a section.*got None"),
    "a study that is a list": (("/studies/tiny", [1]), "studies.tiny", r"expected a section.*got \[1\]"),
    "a section that is a list": (("model", ["resnet"]), "model", r"expected a section.*got \['resnet'\]"),
    "a section that is null": (("data", None), "data", "expected a section.*got None"),
    "studies that are a list": (("/studies", [BASE]), "studies", "expected names with their sections, got "),
    "a date": (("data/folder", datetime.date(2020, 1, 2)), "data.folder", "string, got datetime.date"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_config_names_key_expectation_and_value(name):
    edit, key, message = BROKEN[name]
    found = problems_of(changed(edit))
    assert list(found) == [key]
    assert re.search(message, found[key]), found[key]


def test_label_noise_leaves_fewer_images_that_are_balanced_for_certain():
    assert study(("data/label_noise", 0.2)).data.label_noise == 0.2  # 50 of 200 images are asked for
    found = problems_of(changed(("data/label_noise", 0.2), ("switching/evaluation_examples", 100)))
    assert list(found) == ["switching.evaluation_examples"]
    expected = "asks for 100, .* 58 such images for certain, with data.label_noise 0.2"
    assert re.search(expected, found["switching.evaluation_examples"])


def test_a_scale_needs_sgd():
    scaled = ("model", {"name": "mlp", "normalization": "none", "output_scale": 10})
    assert study(scaled).rate_used(0.05) == 0.0005
    found = problems_of(changed(scaled, ("optimizer", {"name": "adamw"})))
    assert list(found) == ["model.output_scale"]
    assert "needs optimizer 'sgd'" in found["model.output_scale"]


def test_all_learning_rates_are_divided_by_the_squared_scale():
    model = {"name": "mlp", "normalization": "none"}
    plain, scaled = study(("model", model)), study(("model", model | {"output_scale": 10}))
    assert plain.run_settings()["optimizer"]["learning_rate"] == 0.05
    assert scaled.run_settings()["optimizer"]["learning_rate"] == 0.05 / 100
    assert scaled.linearized_rates() == [0.05 / 100, 0.01 / 100]
    own = study(("model", model | {"output_scale": 10}), ("switching/learning_rates", None))
    assert own.linearized_rates() == [0.05 / 100]
    imported = study(("model", {"name": "mine:net", "output_scale": 10}))
    assert imported.model.canonical() == {"name": "mine:net", "arguments": {}, "output_scale": 10}


def test_settings_that_are_left_out_leave_no_trace():
    found = study()
    assert "output_scale" not in found.model.canonical()
    assert "label_noise" not in found.data.canonical()
    assert study(("data/label_noise", 0)).data.canonical() == found.data.canonical()
    assert study(("data/label_noise", 0.1)).data.canonical()["label_noise"] == 0.1


def test_all_problems_come_at_once():
    raw = changed(
        ("optimizer", {"name": "sdg", "learning_rate": -1}),
        ("training/lenght", "many"),
        ("training/batch_size", 0),
        ("seeds", [1, -1, "x"]),
        ("cone/reference_steps", [3]),
        ("chaos/evaluation_examples", 5000),
        ("/studies/a b", {"cone": {"kernel": "half"}}),
        ("/figures/dpi", 0),
    )
    del raw["studies"]["tiny"]["training"]["length"]
    assert set(problems_of(raw)) == {
        "optimizer.name",
        "optimizer.learning_rate",
        "training.lenght",
        "training.length",  # what stands at the misspelt key is checked too
        "training.batch_size",
        "seeds[1]",
        "seeds[2]",
        "cone.reference_steps",
        "chaos.evaluation_examples",
        "studies.a b",
        "studies.a b.cone.kernel",
        "studies.a b.cone.kernel_steps",
        "figures.dpi",
    }


@pytest.mark.parametrize(
    ("edits", "keys"),
    [
        ([("training/length", "many"), ("chaos/comparison_steps", [8, 5000])], {"training.length"}),
        ([("model", {"name": "vgg61", "depth": 16})], {"model.name"}),
        ([("data", {"source": "folder", "folder": "images"})], {"data.source"}),
        ([("cone/kernel_steps", [0, 6, "ten", 20])], {"cone.kernel_steps[2]"}),
        ([("/studies/tiny", [])], {"studies.tiny"}),
        (
            [("training/batch_size", "many"), ("cone/kernel_steps", [0, 10, 99])],
            {"training.batch_size", "cone.kernel_steps"},
        ),
        (
            [("training/batch_size", "many"), ("training/length", "1 epoch"), ("chaos/comparison_steps", [8, 9])],
            {"training.batch_size"},
        ),
        ([("data/train_examples", 99_999), ("training/length", "2 epochs")], {"data.train_examples"}),
        (
            [("data/train_examples", 99_999), ("cone/kernel_steps", [99])],
            {"data.train_examples", "cone.kernel_steps", "cone.reference_steps", "cone.intervals"},
        ),
        ([("training/length", "many"), ("switching/switch_steps", [0, 5000])], {"training.length"}),
        ([("data/train_examples", 99_999), ("switching/evaluation_examples", 5000)], {"data.train_examples"}),
        ([("data/source", "folder"), ("switching/probe_examples", 5000)], {"data.source"}),
        ([("training/length", "many"), ("pointwise/steps", [0, 5000])], {"training.length"}),
        ([("data/train_examples", 99_999), ("pointwise/probe_examples", 5000)], {"data.train_examples"}),
        (
            [("training/batch_size", "many"), ("training/length", "1 epoch"), ("pointwise/steps", [99])],
            {"training.batch_size"},
        ),
        (
            [("training/batch_size", "many"), ("training/length", "1 epoch"), ("switching/switch_steps", [9])],
            {"training.batch_size"},
        ),
    ],
)
def test_what_only_follows_from_a_mistake_is_not_reported(edits, keys):
    assert set(problems_of(changed(*edits))) == keys


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "1a", "a b", "a\n", "x" + "\0", "downloads", "phase_diagram"])
def test_a_study_cannot_leave_its_folder(name):
    raw = {"studies": {name: {}}}
    with pytest.raises(ConfigError, match=r"begins with a letter|another use"):
        read_config(raw)


def make_folder(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return str(root)


COMPLETE = ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png"]


def test_an_image_folder_is_counted_and_checked(tmp_path):
    folder = make_folder(tmp_path / "whole", [*COMPLETE, "train/cat/2.png"])
    small = {"source": "image_folder", "folder": folder}
    raw = {"studies": {"tiny": {"data": small, "training": {"batch_size": 3}}}}
    assert read_config(raw).studies["tiny"].data.available() == (3, 2)
    raw["studies"]["tiny"]["training"]["batch_size"] = 4
    assert "asks for 4, the study has 3 training images" in problems_of(raw)["training.batch_size"]

    (tmp_path / "whole/test/dog/1.png").unlink()
    assert re.search("test/dog has no images", problems_of(raw)["data.folder"])
    (tmp_path / "whole/test/dog").rmdir()
    assert re.search(r"same classes.*\['dog'\]", problems_of(raw)["data.folder"])


def test_class_balanced_subsets_must_fit_the_smallest_class(tmp_path):
    names = [f"train/cat/{i}.png" for i in range(9)] + [f"train/dog/{i}.png" for i in range(3)]
    names += [f"test/{name}/{i}.png" for name in ("cat", "dog") for i in range(5)]
    data = {"source": "image_folder", "folder": make_folder(tmp_path, names)}
    study = {"data": data, "training": {"batch_size": 2}, "cone": {"kernel_steps": [0, 1], "probe_examples": 8}}
    raw = {"studies": {"tiny": study}}
    assert "asks for 8, as many of each class" in problems_of(raw)["cone.probe_examples"]
    study["cone"]["probe_examples"] = 6
    read_config(raw)
    for key in ("evaluation_examples", "probe_examples"):
        study["switching"] = {"switch_steps": [1], "evaluation_examples": 6, "probe_examples": 6, key: 8}
        assert "asks for 8, as many of each class" in problems_of(raw)[f"switching.{key}"]
    del study["switching"]
    study["pointwise"] = {"steps": [1], "probe_examples": 8}
    assert "asks for 8, as many of each class" in problems_of(raw)["pointwise.probe_examples"]
    del study["pointwise"]
    data["train_examples"] = 8
    assert "the source has 6 such" in problems_of(raw)["data.train_examples"]
    del study["cone"]
    study["data"] = {"source": "mnist", "test_examples": 9000}
    assert "the source has 8920 such" in problems_of(raw)["data.test_examples"]


def circular():
    raw = {}
    raw["studies"] = raw
    return raw


def nested(depth):
    raw = {}
    for _ in range(depth):
        raw = {"studies": raw}
    return raw


ODD = [
    None,
    True,
    0,
    1.5,
    "x",
    b"x",
    [],
    [[]],
    [{}],
    (),
    {},
    set(),
    object(),
    float("nan"),
    10**400,
    -(10**5000),
    "\ud800",
]
ODD += [{"a": 1}, {1: 2}, {(1, 2): 3}, {None: None}, {"name": []}, {"name": {}}, {"name": "sgd", "sgd": {"sgd": 1}}]
ODD += [{"count": {}}, {"count": 1e308, "unit": "epochs"}, [{"start": 0}], [None], [[0]], {"[key]": 1}, {"<step>": 1}]
ODD += [{"studies": {}}, {"optimizer": "sgd"}, {"milestones": {"name": "milestones"}}, datetime.datetime(2020, 1, 1)]
PLACES = ["/studies", "/studies/tiny", "/run", "/figures", "/figures/dpi", "/studies/other", "/other", "other"]
PLACES += [f"{name}" for name in Study.model_fields]
PLACES += [f"{name}/{key}" for name, section in BASE["studies"]["tiny"].items() if name != "seeds" for key in section]
PLACES += ["model/arguments", "schedule/warmup", "schedule/milestones", "optimizer/name", "schedule/name", "seeds"]


def message_of(raw):
    """What is said about a config; nothing if it is right."""
    try:
        read_config(raw)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("place", PLACES)
def test_nothing_but_a_config_error_is_raised(place):
    messages = [message_of(changed((place, value))) for value in ODD]
    assert any("problem(s)" in message for message in messages) or place == "model/arguments"
    assert max(len(line) for message in messages for line in message.splitlines() or [""]) < 500


@pytest.mark.parametrize("raw", [*ODD, circular(), nested(40), nested(5000)], ids=lambda raw: type(raw).__name__)
def test_no_config_at_all(raw):
    with pytest.raises(ConfigError):
        read_config(raw)


def test_random_mixtures_of_odd_values_raise_nothing_else():
    random = np.random.default_rng(0)
    for _ in range(150):
        places = random.choice(PLACES[5:], size=3, replace=False)
        raw = copy.deepcopy(BASE)
        for place in places:
            try:
                raw = _set(raw, place, ODD[random.integers(len(ODD))])
            except (TypeError, AttributeError):
                continue  # a section that an earlier value replaced
        message_of(raw)


def _set(raw, place, value):
    *sections, last = place[1:].split("/") if place.startswith("/") else ["studies", "tiny", *place.split("/")]
    section = raw
    for name in sections:
        section = section.setdefault(name, {})
    section[last] = value
    return raw


def test_the_config_that_was_given_is_not_changed():
    raw = changed(("cone/zzz", 1), ("seeds", [1, -1]))
    before = copy.deepcopy(raw)
    problems_of(raw)
    assert raw == before


def test_numbers_may_be_text_as_yaml_reads_1e_3():
    found = study(
        *[("optimizer/learning_rate", "1e-3"), ("chaos/relative_norms", ["1e-7"]), ("training/batch_size", "10")],
        ("training/length", "2e1"),
        ("chaos/comparison_steps", [8]),
    )
    assert yaml.safe_load("1e-3") == "1e-3"
    assert found.optimizer.learning_rate == 1e-3
    assert found.chaos.relative_norms == [1e-7]
    assert found.training.batch_size == 10
    assert found.length() == 20


def test_a_grid_is_expanded_sorted_and_without_repetition():
    grid = [20, {"start": 0, "stop": 10, "every": 4}, 4, {"start": 6, "stop": 6, "every": 3}]
    found = study(("cone/kernel_steps", grid), ("cone/reference_steps", [8]), ("cone/intervals", [2]))
    assert found.cone.kernel_steps == [0, 4, 6, 8, 20]
    assert study(("cone/kernel_steps", [{"start": 0, "stop": 10, "every": 5}])).cone.kernel_steps == [0, 5, 10]


@pytest.mark.parametrize(
    ("written", "steps"),
    [
        (7, 7),
        ("7", 7),
        ("7 steps", 7),
        ("1 step", 1),
        ("2 epochs", 781),
        ("1 epoch", 391),
        ("0.5 epochs", 195),
        (" 3  epochs ", 1172),
    ],
)
def test_durations_are_rounded_to_whole_steps(written, steps):
    raw = {"studies": {"a": {"data": {"source": "cifar10"}, "training": {"length": written, "batch_size": 128}}}}
    assert read_config(raw).studies["a"].length() == steps  # 390.625 steps an epoch


def test_a_span_in_steps_needs_no_epoch():
    assert Span(count=3, unit="steps").steps(0.0) == 3
    assert Span(count=3, unit="epochs").steps(1.5) == 4


def test_the_schedule_in_steps():
    def steps_of(**schedule):
        return study(("schedule", schedule)).schedule_in_steps()

    assert steps_of(name="constant", warmup="1 epoch") == {"name": "constant", "warmup": 10}
    assert steps_of(name="milestones", milestones=[5, "2 epochs"], factor=0.5) == {
        "name": "milestones",
        "warmup": 0,
        "milestones": [5, 20],
        "factor": 0.5,
    }
    assert steps_of(name="cosine") == {"name": "cosine", "warmup": 0, "length": 24}
    assert steps_of(name="cosine", length="1.5 epochs")["length"] == 15


@pytest.mark.parametrize(
    ("model", "canonical"),
    [
        ({"name": "resnet", "depth": 8}, {"name": "resnet", "depth": 8, "width": 16, "normalization": "batch"}),
        ({"name": "vgg16", "depth": 5, "width": 8}, {"name": "vgg16", "width": 8, "normalization": "batch"}),
        ({"name": "mlp", "depth": 2}, {"name": "mlp", "depth": 2, "width": 16, "normalization": "batch"}),
        ({"name": "a.b:net", "width": 3, "arguments": {"k": [1]}}, {"name": "a.b:net", "arguments": {"k": [1]}}),
    ],
)
def test_a_network_is_what_decides_it(model, canonical):
    assert study(("model", model)).model.canonical() == canonical


SGD = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9}
COSINE = {"name": "cosine", "length": 20}
DECISIVE = [
    ("optimizer", {**SGD, "learning_rate": 0.06}),
    ("optimizer", {**SGD, "momentum": 0.8}),
    ("optimizer", {**SGD, "nesterov": True}),
    ("optimizer", {**SGD, "weight_decay": 0.1}),
    ("optimizer", {"name": "adamw", "learning_rate": 0.05}),
    ("optimizer", {"name": "adamw", "learning_rate": 0.05, "beta1": 0.8}),
    ("optimizer", {"name": "adamw", "learning_rate": 0.05, "beta2": 0.8}),
    ("optimizer", {"name": "adamw", "learning_rate": 0.05, "epsilon": 0.8}),
    ("optimizer", {"name": "adamw", "learning_rate": 0.05, "weight_decay": 0.8}),
    ("schedule", {"name": "constant", "warmup": 3}),
    ("schedule", {"name": "milestones", "milestones": [3]}),
    ("schedule", {"name": "milestones", "milestones": [4]}),
    ("schedule", {"name": "milestones", "milestones": [4], "factor": 0.5}),
    ("schedule", {"name": "milestones", "milestones": [4], "warmup": 2}),
    ("schedule", COSINE),
    ("schedule", {**COSINE, "length": 21}),
    ("schedule", {**COSINE, "warmup": 2}),
    ("model/name", "mlp"),
    ("model/depth", 2),
    ("model/width", 5),
    ("model/normalization", "group"),
    ("model", {"name": "a:b"}),
    ("model", {"name": "a:b", "arguments": {"x": 1}}),
    ("model", {"name": "a:b", "output_scale": 2}),
    ("training/batch_size", 10),
    ("training/crop_padding", 2),
    ("training/horizontal_flip", True),
    ("training/dtype", "float64"),
]


def test_whatever_decides_training_is_in_the_runs_settings():
    edited = set()
    for key, value in DECISIVE:
        edited |= {f"{key}/{name}" for name in value} if "/" not in key else {key}
    sections = {
        "optimizer": "SGD AdamW",
        "schedule": "Constant Milestones Cosine",
        "model": "Model",
        "training": "Training",
    }
    definitions = Config.model_json_schema()["$defs"]
    for section, names in sections.items():
        fields = {field for name in names.split() for field in definitions[name]["properties"]}
        unedited = {field for field in fields if f"{section}/{field}" not in edited}
        assert unedited == ({"length", "checkpoint_every"} if section == "training" else set())
    texts = [json.dumps(study(edit).run_settings(), sort_keys=True) for edit in [("seeds", [0]), *DECISIVE]]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    "edit",
    [
        ("training/length", 40),
        ("training/checkpoint_every", 7),
        ("seeds", [5]),
        ("chaos", None),
        ("chaos/draws", 3),
        ("chaos/relative_norms", [0.5]),
        ("cone", None),
        ("cone/kernel", "trace"),
        ("cone/probe_examples", 20),
        ("pointwise", None),
        ("pointwise/steps", [3]),
        ("pointwise/batches", 2),
        ("switching", None),
        ("switching/switch_steps", [3]),
        ("switching/learning_rates", [0.5]),
        ("switching/optimizer_state", "reset"),
        ("switching/schedule", {"name": "milestones", "milestones": [9]}),
        ("optimizer", {"name": "sgd", "learning_rate": "5e-2"}),
        ("/figures/dpi", 30),
    ],
)
@pytest.mark.parametrize("schedule", [{"name": "constant"}, {"name": "milestones", "milestones": [3]}, COSINE])
def test_grids_and_length_are_not_in_the_runs_settings(edit, schedule):
    assert study(("schedule", schedule), edit).run_settings() == study(("schedule", schedule)).run_settings()


def test_a_cosine_that_ends_with_the_run_depends_on_its_length():
    cosine = ("schedule", {"name": "cosine"})
    assert study(cosine, ("training/length", 40)).run_settings() != study(cosine).run_settings()


def test_zero_is_always_a_switch_step():
    for written, steps in [([6], [0, 6]), ([6, 0], [0, 6]), ([{"start": 2, "stop": 5, "every": 3}], [0, 2, 5])]:
        assert study(("switching/switch_steps", written)).switching.switch_steps == steps


def test_linearised_runs_have_the_parents_learning_rate_unless_told():
    assert study().linearized_rates() == [0.05, 0.01]
    assert study(("switching/learning_rates", None)).linearized_rates() == [0.05]
    both = ("switching/learning_rates", None), ("optimizer/learning_rate", 0.2)
    assert study(*both).linearized_rates() == [0.2]
    assert study(("switching/learning_rates", ["1e-3"])).linearized_rates() == [1e-3]


def test_linearised_runs_have_the_parents_schedule_unless_told():
    parents, own = ("schedule", {"name": "milestones", "milestones": ["1 epoch"]}), "switching/schedule"
    assert study(parents, (own, None)).linearized_settings() == {
        "optimizer_state": "carried",
        "schedule": {"name": "milestones", "warmup": 0, "milestones": [10], "factor": 0.1},
    }
    cosine = study(parents, (own, {"name": "cosine", "warmup": "0.5 epochs", "length": "2 epochs"}))
    assert cosine.linearized_settings()["schedule"] == {"name": "cosine", "warmup": 5, "length": 20}
    assert cosine.run_settings() == study(parents).run_settings()
    assert study(parents, (own, {"name": "cosine"})).linearized_settings()["schedule"]["length"] == 24
    constant = study(parents, (own, {"name": "constant", "warmup": 3}))
    assert constant.linearized_settings()["schedule"] == {"name": "constant", "warmup": 3}


@pytest.mark.parametrize(
    "edit",
    [
        *[("switching/switch_steps", [3]), ("switching/learning_rates", [0.5]), ("switching/probe_examples", 20)],
        *[("switching/evaluation_examples", 20), ("switching/published_test_accuracy", {}), ("training/length", 40)],
        *[("training/checkpoint_every", 7), ("seeds", [5]), ("switching/schedule", None)],
    ],
)
def test_grids_and_length_are_not_in_the_linearised_runs_settings(edit):
    assert study(edit).linearized_settings() == study().linearized_settings()
    reset = ("switching/optimizer_state", "reset")
    assert study(edit, reset).linearized_settings() != study().linearized_settings()


@pytest.mark.parametrize("key", [200, "200"])
def test_published_numbers_go_by_switch_step(key):
    found = study(("switching/published_test_accuracy", {key: 0.13})).switching
    assert found.published_test_accuracy == {200: 0.13}
    assert found.model_dump(mode="json")["published_test_accuracy"] == {"200": 0.13}


def test_an_unused_setting_is_not_in_the_runs_settings():
    vgg = ("model/name", "vgg16")
    assert study(vgg, ("model/depth", 3)).run_settings() == study(vgg).run_settings()


def test_a_config_needs_something_to_make():
    assert problems_of({"studies": {}}) == {"studies": "is empty; name at least one study or phase diagram"}


def test_the_studies_that_run():
    assert list(read_config(changed(("/studies/other", {}))).selected()) == ["tiny"]
    assert list(read_config(changed(("/studies/other", {}), ("/run", None))).selected()) == ["tiny", "other"]
    beyond = {"cone": {"kernel_steps": [5000]}}  # a study that isn't run may be too long for its grids
    assert read_config(changed(("/studies/other", beyond)))
    with pytest.raises(ConfigError, match=r"studies\.other\.cone.kernel_steps"):
        read_config(changed(("/studies/other", beyond), ("/run", None)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_ready_configs_are_right(path):
    config = read_config(yaml.safe_load(path.read_text()))
    assert config.run == [*config.studies, *config.phase_diagrams]
    assert all(name.startswith(path.stem) for name in config.run) or path.name == "config.yaml"


def test_the_paper_is_as_published():
    for name in ("zhou2025_resnet20", "zhou2025_vgg16"):
        found = read_config(yaml.safe_load((ROOT / "studies" / f"{name}.yaml").read_text())).studies[name]
        assert found.length() == 10_000
        assert found.schedule_in_steps()["milestones"] == [31_250, 46_875]
        assert found.cone.kernel_steps == list(range(0, 10_001, 100))
        assert {2500, 5000, 7500, 10_000} <= set(found.chaos.comparison_steps)
        assert (found.optimizer.momentum, found.optimizer.weight_decay) == (0.9, 1e-4)
        assert len(found.seeds) == 3


def test_reading_a_config_imports_nothing_heavy():
    code = "import sys, twophase.config, twophase.provenance, twophase.trajectories; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "xarray", "netCDF4", "matplotlib"} & set(modules)
