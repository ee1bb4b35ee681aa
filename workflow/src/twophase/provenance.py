"""What made a file: settings and code, written into it, and compared wherever it is read.

A recipe is a nested dictionary: the rule, the settings that decide the output, a fingerprint of the code that computes
it, and the recipes of its inputs. As canonical JSON it is the one parameter of a rule, so Snakemake reruns what has
another recipe; and since every file carries its recipe, a job refuses inputs that other settings or other code made
even where Snakemake's own records are lost.
"""

import ast
import hashlib
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from twophase.errors import ArtifactError

PACKAGE = Path(__file__).parent


def canonical(value: object) -> str:
    """One string for one value, whatever the order of its keys: JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def make_recipe(rule: str, settings: dict, code: str, **inputs: dict) -> dict:
    """What decides an output: the rule's settings and code, and its inputs' recipes."""
    return {"rule": rule, "settings": settings, "code": code, "inputs": inputs}


def check_recipe(found: str, expected: dict, path: Path | str) -> None:
    """Refuse a file that other settings or other code made.

    Args:
        found: Canonical JSON of the recipe that the file carries.
        expected: The recipe that must have made it.
        path: The file, for the message.

    Raises:
        ArtifactError: Naming the file and the first settings that differ.
    """
    if found == canonical(expected):
        return
    differences = list(_differences(json.loads(found), expected))
    shown = "; ".join(differences[:3]) + ("; ..." if len(differences) > 3 else "")
    raise ArtifactError(
        f"{path} was made by other settings or other code ({shown}). Delete it, or rerun its rule with --forcerun."
    )


def _differences(found: object, expected: object, key: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(expected, dict):
        names = sorted(set(found) | set(expected))
        return [
            line
            for name in names
            for line in _differences(found.get(name), expected.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [] if found == expected else [f"{key}: file has {found!r}, expected {expected!r}"]


def code_fingerprint(script: Path, *, import_path: str | None = None) -> str:
    """Hash of the code that a script reaches: its own, and that of every twophase module it imports, at any depth.

    Syntax trees are hashed, docstrings left out: comments, formatting and file times don't count.

    Args:
        script: The rule's script.
        import_path: ``package.module:callable`` of a user's network; its module counts as imported, and so do the
            modules of its top-level package that it imports.

    Returns:
        16 hexadecimal digits.
    """
    packages = {PACKAGE.name: PACKAGE}
    files = {script}
    if import_path and (module_file := _user_module_file(import_path)):
        top = import_path.split(":")[0].split(".")[0]
        packages[top] = module_file.parents[import_path.split(":")[0].count(".") - 1]
        files.add(module_file)
    closure = _import_closure(frozenset(files), tuple(packages.items()))
    hashes = [hashlib.sha256(_normalised_source(path)).hexdigest() for path in sorted(closure)]
    return hashlib.sha256(" ".join(sorted(hashes)).encode()).hexdigest()[:16]


def _user_module_file(import_path: str) -> Path | None:
    try:
        spec = find_spec(import_path.split(":")[0])
    except (ImportError, ValueError):
        return None  # the first job that needs the network says what is wrong with its path
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


@cache
def _import_closure(files: frozenset[Path], packages: tuple[tuple[str, Path], ...]) -> frozenset[Path]:
    reached: set[Path] = set()
    waiting = set(files)
    while waiting:
        path = waiting.pop()
        reached.add(path)
        for module in _imported_modules(path):
            for name, folder in packages:
                if module == name or module.startswith(f"{name}."):
                    waiting |= _module_files(folder, module.split(".")[1:]) - reached
    return frozenset(reached)


def _module_files(folder: Path, parts: list[str]) -> set[Path]:
    """The file of a module and the ``__init__`` files on the way to it; nothing for a name that is no module."""
    files = {folder / "__init__.py"}
    for part in parts:
        if (folder / f"{part}.py").is_file():
            files.add(folder / f"{part}.py")
        folder = folder / part
        files.add(folder / "__init__.py")
    return {path for path in files if path.is_file()}


@cache
def _imported_modules(path: Path) -> frozenset[str]:
    """Dotted names that a file imports anywhere; ``from a import b`` gives both ``a`` and ``a.b``."""
    names: set[str] = set()
    for node in ast.walk(_syntax_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def _syntax_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def _normalised_source(path: Path) -> bytes:
    tree = _syntax_tree(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return ast.dump(tree).encode()
