"""Every mistake in a config at once: where it stands, what was expected there, and what came."""

import difflib
import math
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from twophase.errors import ConfigError

DEEPEST = 50  # levels of nesting; no config has more, a YAML file that contains itself does
TYPES = {
    "model_type": "expected a section, that is keys with their values",
    "model_attributes_type": "expected a section, that is keys with their values",
    "dict_type": "expected names with their sections",
    "list_type": "expected a list",
}
NAMED_SECTIONS = ("optimizer", "schedule")  # what may stand in them depends on their key ``name``
UNION_TAG = re.compile(r"<.*>")  # how config.py names the alternatives of its other unions
LARGEST_BITS = 4096  # Python refuses to print much larger integers; they count as infinite
KEY = "[key]"  # how pydantic marks an error that is about a key and not its value


def validate_piecewise(model: type[BaseModel], raw: Any) -> tuple[BaseModel | None, dict[str, str]]:
    """Validate, taking out what is wrong until the rest is right, so that checks between fields can run on the rest.

    A misspelt key is read as the key that was meant.

    Args:
        model: What ``raw`` should be.
        raw: Nested dictionaries and lists of plain values; not changed.

    Returns:
        The model of what is right, None if nothing is left of it; and the problems, message by dotted key.

    Raises:
        ConfigError: If ``raw`` contains itself.
    """
    problems: dict[str, str] = {}
    pruned = _plain(raw)
    while True:
        try:
            return model.model_validate(pruned), problems
        except ValidationError as error:
            # Paths first: what is taken out below moves what stands beside it.
            found = [(entry, _path_in(pruned, entry)) for entry in error.errors(include_url=False)]
        for entry, path in found:
            key = dotted(path)
            if not any(spoils(noted, key) for noted in problems):
                problems[key] = _explain(model, entry, path)
        changed = [
            _mend(model, pruned, entry, path) for entry, path in sorted(found, key=_list_positions, reverse=True)
        ]
        if not any(changed):
            return None, problems


def spoils(noted: str, key: str) -> bool:
    """Whether a problem noted at one key explains another at ``key``: it stands there, or at an entry of that list."""
    return noted == key or noted.startswith(f"{key}[")


def suggestion(wrong: Any, right: Iterable[str]) -> str:
    """``; did you mean 'right'?`` if one of the names is close."""
    close = difflib.get_close_matches(wrong, list(right), n=1) if isinstance(wrong, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""


def shown(value: Any) -> str:
    """A value as it may stand in a message: on one line, and short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def dotted(path: list) -> str:
    """``["seeds", 0]`` as ``seeds[0]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _plain(value: Any, depth: int = 0) -> Any:
    """A copy with names as keys, so that taking out what is wrong changes nothing of the caller's."""
    if depth > DEEPEST:
        raise ConfigError(f"The config is nested more than {DEEPEST} levels deep, or contains itself.")
    if isinstance(value, dict):
        return {str(key): _plain(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, depth + 1) for entry in value]
    if isinstance(value, int) and value.bit_length() > LARGEST_BITS:
        return math.inf if value > 0 else -math.inf
    return value


def _path_in(raw: Any, entry: dict[str, Any]) -> list:
    """Where an error stands: its location without what pydantic adds inside unions and at keys."""
    path: list = []
    at_tag = False
    location = entry["loc"]
    if entry["type"] == "extra_forbidden":
        *location, unknown = location  # may look like anything
    for part in location:
        if part == KEY or (isinstance(part, str) and UNION_TAG.fullmatch(part)):
            continue
        if at_tag and raw.get("name") == part:  # the name by which one of several sections was chosen
            at_tag = False
        elif isinstance(raw, dict):
            path.append(part)
            raw = raw.get(part)
            at_tag = part in NAMED_SECTIONS and isinstance(raw, dict)
        elif isinstance(raw, list) and isinstance(part, int):
            path.append(part)
            raw = raw[part]
    if entry["type"] == "extra_forbidden":
        return [*path, unknown]
    return [*path, "name"] if entry["type"].startswith("union_tag") else path


def _list_positions(found: tuple[dict, list]) -> list[int]:
    return [part for part in found[1] if isinstance(part, int)]


def _mend(model: type[BaseModel], pruned: Any, entry: dict[str, Any], path: list) -> bool:
    """Take out what is wrong, or put right what is only misspelt; False if there was nothing to change."""
    section = _at(pruned, path[:-1])
    if entry["type"] == "missing":
        return _delete(pruned, path[:-1])
    if entry["type"] == "union_tag_invalid":
        meant = difflib.get_close_matches(entry["ctx"]["tag"], _quoted(entry["ctx"]["expected_tags"]), n=1)
        if not meant:
            return _delete(pruned, path[:-1])
        section["name"] = meant[0]
        return True
    if entry["type"] == "union_tag_not_found":
        return _delete(pruned, path[:-1])
    if entry["type"] == "extra_forbidden" and isinstance(section, dict) and path[-1] in section:
        value, keys = section.pop(path[-1]), _keys_at(model, path[:-1])
        meant = difflib.get_close_matches(path[-1], keys, n=1)
        if meant and path[-1] not in keys:
            section.setdefault(meant[0], value)
        return True
    return _delete(pruned, path)


def _at(nested: Any, path: list) -> Any:
    for part in path:
        if isinstance(nested, dict):
            nested = nested.get(part)
        elif isinstance(nested, list) and isinstance(part, int) and part < len(nested):
            nested = nested[part]
        else:
            return None
    return nested


def _delete(nested: Any, path: list) -> bool:
    """Delete what stands at ``path``; False if nothing does."""
    holder = _at(nested, path[:-1])
    if not path or not (
        (isinstance(holder, dict) and path[-1] in holder)
        or (isinstance(holder, list) and isinstance(path[-1], int) and path[-1] < len(holder))
    ):
        return False
    del holder[path[-1]]
    return True


def _explain(model: type[BaseModel], entry: dict[str, Any], path: list) -> str:
    kind, value = entry["type"], entry["input"]
    if kind == "extra_forbidden":
        keys = _keys_at(model, path[:-1])
        if path[-1] in keys:
            return "has no meaning with the section's name"
        return f"unknown key{suggestion(path[-1], keys) or '; expected one of ' + ', '.join(keys)}"
    if kind == "missing":
        description = _description_at(model, path)
        return "is missing" + (f"; expected: {description}" if description else "")
    if kind == "union_tag_not_found":
        return f"is missing; expected one of {', '.join(_names_at(model, path))}"
    if kind == "union_tag_invalid":
        expected, came = entry["ctx"]["expected_tags"], entry["ctx"]["tag"]
        return f"expected one of {expected}, got {shown(came)}{suggestion(came, _quoted(expected))}"
    if kind == "string_pattern_mismatch":
        if entry["loc"][-1] == KEY:
            return f"expected a name of letters, digits, '-' and '_' that begins with a letter, got {shown(value)}"
        names = re.findall(r"(?<=[(|])\w+", entry["ctx"]["pattern"])
        return f"expected {_description_at(model, path)} Got {shown(value)}{suggestion(value, names)}"
    if kind in ("too_long", "too_short"):
        most, least = entry["ctx"].get("max_length"), entry["ctx"].get("min_length")
        return f"expected {f'at most {most}' if most else f'at least {least}'} entries, got {shown(value)}"
    if kind == "value_error":
        message = entry["msg"].removeprefix("Value error, ")
    else:
        message = TYPES.get(kind, entry["msg"].replace("Input should be", "expected"))
        message = re.sub("^expected (?=greater|less)", "expected a number ", message)
    close = suggestion(value, _quoted(entry["ctx"]["expected"])) if kind == "literal_error" else ""
    return f"{message}, got {shown(value)}{close}"


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _nodes_at(model: type[BaseModel], path: list) -> list[dict[str, Any]]:
    """The parts of the JSON schema that may describe what stands at ``path``."""
    schema = _schema(model)

    def alternatives(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "$ref" in node:
            yield from alternatives(schema["$defs"][node["$ref"].rsplit("/", 1)[-1]])
        yield node
        for other in (*node.get("anyOf", ()), *node.get("oneOf", ())):
            yield from alternatives(other)

    nodes = list(alternatives(schema))
    for part in path:
        below = []
        for node in nodes:
            inner = [node.get("properties", {}).get(part), *node.get("patternProperties", {}).values()]
            inner += [node.get("additionalProperties"), node.get("items")]
            below += [found for candidate in inner if isinstance(candidate, dict) for found in alternatives(candidate)]
        nodes = below
    return nodes


def _keys_at(model: type[BaseModel], path: list) -> list[str]:
    return list(dict.fromkeys(key for node in _nodes_at(model, path) for key in node.get("properties", {})))


def _names_at(model: type[BaseModel], path: list) -> list[str]:
    return [repr(node["const"]) for node in _nodes_at(model, path) if "const" in node]


def _description_at(model: type[BaseModel], path: list) -> str | None:
    return next((node["description"] for node in _nodes_at(model, path) if "description" in node), None)
