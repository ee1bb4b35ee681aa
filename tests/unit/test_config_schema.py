import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "workflow" / "schemas"
FILES = [ROOT / "config.yaml", *sorted((ROOT / "studies").glob("*.yaml"))]
VALIDATOR = jsonschema.Draft202012Validator(json.loads((SCHEMAS / "config.schema.json").read_text()))
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def generate(folder, *arguments):
    command = [sys.executable, folder / "generate.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_schema_and_table_are_up_to_date():
    done = generate(SCHEMAS, "--check")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["config.schema.json", "config.md"])
def test_a_file_that_is_behind_is_noticed_and_written(tmp_path, name):
    folder = shutil.copytree(SCHEMAS, tmp_path / "schemas")
    (folder / name).write_text((folder / name).read_text().replace("batch_size", "batchsize"))
    done = generate(folder, "--check")
    assert done.returncode == 1
    assert done.stderr == f"{name} is behind twophase.config: run python workflow/schemas/generate.py\n"
    (folder / name).unlink()
    assert generate(folder, "--check").returncode == 1
    assert generate(folder).stdout == f"wrote {name}\n"
    assert (folder / name).read_bytes() == (SCHEMAS / name).read_bytes()


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ready_configs_fit_the_schema(path):
    assert [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(path.read_text()))] == []
    first = path.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (path.parent / first.partition("=")[2]).resolve() == (SCHEMAS / "config.schema.json").resolve()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("training", "lenght", 3),
        ("training", "batch_size", 0),
        ("training", "length", [3]),
        ("cone", "kernel", "half"),
        ("cone", "kernel_steps", [0, -1]),
        ("cone", "kernel_steps", [{"start": 0}]),
        ("model", "name", "resnt"),
        ("optimizer", "name", "sdg"),
        ("optimizer", "beta1", 0.5),
        ("schedule", "milestones", [3]),
    ],
)
def test_an_editor_sees_mistakes(section, key, value):
    raw = copy.deepcopy(DEFAULT)
    raw["studies"]["fashion_resnet8"][section][key] = value
    assert not VALIDATOR.is_valid(raw)


def test_the_table_says_what_each_key_means():
    lines = [line for line in (SCHEMAS / "config.md").read_text().splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.replace("\\|", "").strip("|").split("|")] for line in lines]
    assert len(rows) > 50
    assert [row for row in rows if len(row) != 4 or not row[1] or not row[3]] == []
    assert ["`batch_size`", "integer > 0", "`128`", "Training images in a batch."] in rows
    assert ["`length`", "duration", "`1000 steps`", "Length T of the run; steps or epochs."] in rows
