"""What made a file: settings and code, written into it, and compared wherever it is read.

A recipe is a nested dictionary: the rule, the settings that decide the output, a fingerprint of the code that computes
it, and the recipes of its inputs. As canonical JSON it is the one parameter of a rule, so Snakemake reruns what has
another recipe; and since every file carries its recipe, a job refuses inputs that other settings or other code made
even where Snakemake's own records are lost.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from twophase.errors import ArtifactError, ModelError

PACKAGE = Path(__file__).parent
INSTALLED = ("site-packages", "dist-packages")
SECTIONS = ("study", "sweep", "diagram")  # wildcards that name a section of the config


def canonical(value: object) -> str:
    """One string for one value, whatever the order of its keys: JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def place_of(wildcards: Mapping[str, str]) -> str:
    """Which of a rule's files it is, as canonical JSON: its wildcards but for the one that names a section."""
    return canonical({name: str(value) for name, value in wildcards.items() if name not in SECTIONS})


def make_recipe(rule: str, settings: dict, code: str, **inputs: dict) -> dict:
    """What decides an output: the rule's settings and code, and its inputs' recipes."""
    return {"rule": rule, "settings": settings, "code": code, "inputs": inputs}


def digest(recipe: str) -> str:
    """What a figure carries of its recipe."""
    return f"recipe sha256:{hashlib.sha256(recipe.encode()).hexdigest()}"


def check_recipe(found: str, expected: dict | str, path: Path | str) -> None:
    """Refuse a file that other settings or other code made.

    Args:
        found: Canonical JSON of the recipe that the file carries.
        expected: The recipe that must have made it, or its `digest`.
        path: The file, for the message.

    Raises:
        ArtifactError: Naming the file and the first settings that differ.
    """
    if isinstance(expected, str):
        differences = [] if digest(str(found)) == expected else [f"{digest(str(found))}, expected {expected}"]
    elif found == canonical(expected):
        differences = []
    else:
        differences = _differences_of_text(found, expected)
    if not differences:
        return
    shown = "; ".join(differences[:3]) + ("; ..." if len(differences) > 3 else "")
    raise ArtifactError(
        f"{path} was made by other settings or other code ({shown}). Delete it, or rerun its rule with --forcerun."
    )


def _differences_of_text(found: str, expected: dict) -> list[str]:
    try:
        return _differences(json.loads(found), expected) or ["its recipe is written otherwise"]
    except (TypeError, ValueError):
        return [f"its recipe is no JSON: {str(found)[:40]!r}"]


def _differences(found: object, expected: object, key: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(expected, dict):
        names = sorted(set(found) | set(expected))
        return [
            line
            for name in names
            for line in _differences(found.get(name), expected.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if found == expected else [f"{key}: file has {found!r}, expected {expected!r}"]


@dataclass(frozen=True)
class _Root:
    """A folder on the import path, and the one package in it that counts; any, where that is None."""

    folder: Path
    package: str | None

    def has(self, module: str) -> bool:
        return self.package is None or module.split(".")[0] == self.package


def code_fingerprint(script: Path, *, import_path: str | None = None) -> str:
    """Hash of the code that a script reaches: its own, and that of every twophase module it imports, at any depth.

    Syntax trees are hashed, docstrings left out: comments, formatting, file times and where the code lies don't count.

    Args:
        script: The rule's script.
        import_path: ``package.module:callable`` of a user's network; its module counts as imported, and so does what
            it imports from beside its top-level package; of an installed package only what lies within.

    Returns:
        16 hexadecimal digits.

    Raises:
        ModelError: If a file that is reached is not valid Python; names file and line.
    """
    roots = [_Root(PACKAGE.parent, PACKAGE.name)]
    files = {script}
    if import_path:
        module = import_path.split(":")[0]
        if root := _user_root(module):
            roots.append(root)
            files |= _module_files(root.folder, module.split("."))
    names = {path: _name_of(path, roots) for path in _import_closure(frozenset(files), tuple(roots))}
    names[script] = script.name
    hashes = [
        hashlib.sha256(f"{name} ".encode() + _normalised_source(path)).hexdigest() for path, name in names.items()
    ]
    return hashlib.sha256(" ".join(sorted(hashes)).encode()).hexdigest()[:16]


def _user_root(module: str) -> _Root | None:
    """Where a user's network is imported from: the work folder first, as in a job. Nothing is imported to find out."""
    top = module.split(".")[0]
    try:
        spec = PathFinder.find_spec(top, [str(Path.cwd())]) or find_spec(top)
    except (ImportError, ValueError):
        return None  # the first job that needs the network says what is wrong with its path
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [spec.origin or ""])
    folder = Path(places[0]).parent
    standard_library = top in sys.stdlib_module_names
    return _Root(folder, top if standard_library or set(INSTALLED) & set(folder.parts) else None)


def _name_of(path: Path, roots: list[_Root]) -> str:
    """A file's path below its root, so that moving a project changes nothing."""
    return next((path.relative_to(root.folder).as_posix() for root in roots if path.is_relative_to(root.folder)), "")


@cache
def _import_closure(files: frozenset[Path], roots: tuple[_Root, ...]) -> frozenset[Path]:
    reached: set[Path] = set()
    waiting = set(files)
    while waiting:
        path = waiting.pop()
        reached.add(path)
        for level, module in _imported_modules(path):
            if level > len(path.parents):
                continue
            if level:  # relative: from the file's own folder, or from one above it
                waiting |= _module_files(path.parents[level - 1], module.split(".") if module else []) - reached
                continue
            for root in roots:
                if root.has(module):
                    waiting |= _module_files(root.folder, module.split(".")) - reached
    return frozenset(reached)


def _module_files(folder: Path, parts: list[str]) -> set[Path]:
    """The file of a module and the ``__init__`` files on the way to it; nothing for a name that is no module."""
    files = set()
    for part in parts:
        files |= {folder / f"{part}.py", folder / part / "__init__.py"}
        folder = folder / part
    return {path for path in files if path.is_file()}


@cache
def _imported_modules(path: Path) -> frozenset[tuple[int, str]]:
    """What a file imports anywhere, as (level, dotted name); ``from a import b`` gives both ``a`` and ``a.b``."""
    names: set[tuple[int, str]] = set()
    for node in ast.walk(_syntax_tree(path)):
        if isinstance(node, ast.Import):
            names |= {(0, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {(node.level, module)} | {
                (node.level, f"{module}.{alias.name}".lstrip(".")) for alias in node.names
            }
    return frozenset(names)


@cache
def _syntax_tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise ModelError(f"{path}, line {error.lineno}: not valid Python ({error.msg})") from None
    except ValueError as error:
        raise ModelError(f"{path}: not valid Python ({error})") from None


@cache
def _normalised_source(path: Path) -> bytes:
    tree = _syntax_tree(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return ast.dump(tree).encode()
