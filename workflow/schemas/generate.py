"""Write config.schema.json (for editors) and config.md (for people) from the typed config.

python workflow/schemas/generate.py            writes both
python workflow/schemas/generate.py --check    exits with 1 if one of them is behind
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from twophase import config
from twophase.config_data import Data
from twophase.config_phase_diagram import GridPoint, PhaseDiagram, Points
from twophase.config_sweep import Sweep
from twophase.config_types import Span, StepRange, ValueRange

FOLDER = Path(__file__).parent
# Where each section stands, in the order of the page.
SECTIONS = {
    config.Config: "The file",
    config.Study: "studies.NAME",
    Data: "studies.NAME.data, phase_diagrams.NAME.images",
    config.Model: "studies.NAME.model",
    config.SGD: "studies.NAME.optimizer, name: sgd",
    config.AdamW: "studies.NAME.optimizer, name: adamw",
    config.Constant: "studies.NAME.schedule, name: constant",
    config.Milestones: "studies.NAME.schedule, name: milestones",
    config.Cosine: "studies.NAME.schedule, name: cosine",
    config.Training: "studies.NAME.training",
    config.Chaos: "studies.NAME.chaos",
    config.Cone: "studies.NAME.cone",
    config.Switching: "studies.NAME.switching",
    config.Pointwise: "studies.NAME.pointwise",
    config.Analysis: "studies.NAME.analysis",
    Sweep: "studies.NAME.sweep",
    PhaseDiagram: "phase_diagrams.NAME",
    Points: "phase_diagrams.NAME.points",
    GridPoint: "An entry of phase_diagrams.NAME.shown_points",
    StepRange: "A range of steps",
    ValueRange: "A range of values",
    config.Figures: "figures",
}
INTRODUCTION = """\
# Every key of the config

Written by `workflow/schemas/generate.py` from `twophase.config`; edit that and run it again.

- A **duration** is a number of steps (`500`, `500 steps`) or of epochs (`80 epochs`). A step is one optimiser update,
  an epoch `training images / batch_size` of them.
- A **grid of steps** is a list of steps and of ranges: `[0, 50, {start: 100, stop: 1000, every: 100}]`.
- A **grid of values** is the same of any numbers: `[0.5, {start: 1, stop: 2, every: 0.25}]`.
- A key without a default must be given. `null` is YAML's word for no value.
- Write small numbers with a point: `1.0e-7`. An unknown key is refused, before any job starts.
"""


def json_schema() -> dict[str, Any]:
    """The config's JSON schema, with durations as people write them."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **config.config_schema()}
    return _written_as_text(schema)


def _written_as_text(node: Any) -> Any:
    if isinstance(node, list):
        return [_written_as_text(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    if set(node) == {"count", "unit"} and not isinstance(node["count"], dict):
        return f"{node['count']:g} {node['unit']}"
    return {key: _written_as_text(entry) for key, entry in node.items()}


def page() -> str:
    """The config's keys as Markdown: one table a section."""
    parts = [INTRODUCTION]
    for section, place in SECTIONS.items():
        rows = [
            f"| `{name}` | {_type(node)} | {_default(section, name)} | {_cell(node.get('description', ''))} |"
            for name, node in section.model_json_schema()["properties"].items()
        ]
        table = ["| key | type | default | meaning |", "|---|---|---|---|", *rows]
        parts.append("\n".join([f"## {place}", "", section.__doc__.splitlines()[0], "", *table]) + "\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _type(node: dict[str, Any]) -> str:
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return " or ".join(f"`{value}`" for value in node["enum"])
    if "$ref" in node:
        return "section"
    for alternatives in ("anyOf", "oneOf"):
        if alternatives in node:
            names = " or ".join(dict.fromkeys(map(_type, node[alternatives])))
            return names.replace("integer or text", "duration")  # no other key takes both
    if node.get("type") == "array":
        inner = _type(node["items"])
        if inner.endswith("or section"):
            return "grid of steps" if inner.startswith("integer") else "grid of values"
        return f"list of {inner}"
    return _scalar(node)


def _scalar(node: dict[str, Any]) -> str:
    name = {"string": "text", "boolean": "true or false", "object": "mapping of names"}.get(node["type"], node["type"])
    bounds = [("≥ {}", "minimum"), ("> {}", "exclusiveMinimum"), ("< {}", "exclusiveMaximum")]
    stated = [text.format(f"{node[key]:g}") for text, key in bounds if key in node]
    return f"{name} {', '.join(stated)}".strip()


def _default(section: type[BaseModel], name: str) -> str:
    field = section.model_fields[name]
    if field.is_required():
        return ""
    value = field.default
    if isinstance(value, Span):
        return f"`{value.count:g} {value.unit}`"
    if isinstance(value, BaseModel):
        chosen = getattr(value, "name", None) if name in ("optimizer", "schedule") else None
        return f"`{chosen}`" if chosen else "its defaults"
    return f"`{json.dumps(value)}`"


def main() -> int:
    """Write or check both files; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is behind")
    check = parser.parse_args().check
    contents = {
        FOLDER / "config.schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
        FOLDER / "config.md": page(),
    }
    behind = [path for path, text in contents.items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in behind:
        if check:
            print(f"{path.name} is behind twophase.config: run python workflow/schemas/generate.py", file=sys.stderr)
        else:
            path.write_text(contents[path], "utf-8")
            print(f"wrote {path.name}")
    return int(check and bool(behind))


if __name__ == "__main__":
    sys.exit(main())
