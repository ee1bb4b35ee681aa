import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from twophase import provenance
from twophase.errors import ArtifactError, ModelError
from twophase.provenance import canonical, check_recipe, code_fingerprint, digest, make_recipe

SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"

PACKAGE = {
    "__init__.py": '"""The package."""\n__version__ = "1"\n',
    "direct.py": "from twophase.deep import depth\n\ndef work(x):\n    return depth(x)\n",
    "deep.py": "def depth(x):\n    return x + 1\n",
    "named.py": "VALUE = 1\n",
    "lazy.py": "VALUE = 1\n",
    "attribute.py": "VALUE = 1\n",
    "sub/__init__.py": "from twophase.sub.inner import first\n",
    "sub/inner.py": "def first():\n    return 1\n",
    "sub/other.py": "def second():\n    return 2\n",
    "relative/__init__.py": "from .near import a\n",
    "relative/near.py": "from ..far import b as a\n",
    "far.py": "b = 1\n",
    "unreached.py": "VALUE = 1\n",
}
SCRIPT = '''"""A script."""
import twophase.attribute
from twophase import named
from twophase.direct import work
from twophase.relative import a
from twophase.sub import first


def main(smk):
    """Run."""
    from twophase.lazy import VALUE
    return work(VALUE)
'''


def forget():
    for cached in (provenance._import_closure, provenance._imported_modules, provenance._syntax_tree):
        cached.cache_clear()
    provenance._normalised_source.cache_clear()


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A package ``twophase`` and a script of its own, in the place of ours."""
    write(tmp_path / "src/twophase", PACKAGE)
    write(tmp_path, {"scripts/measure.py": SCRIPT, "work/readme": ""})
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "src/twophase")
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path
    forget()


def fingerprint(project, **arguments):
    forget()
    return code_fingerprint(project / "scripts/measure.py", **arguments)


def append(path, text="\nEDITED = 1\n"):
    path.write_text(path.read_text() + text)


def test_it_is_short_and_repeats(project):
    assert len(fingerprint(project)) == 16
    assert int(fingerprint(project), 16) >= 0
    assert fingerprint(project) == fingerprint(project)


@pytest.mark.parametrize(
    "file",
    [
        "scripts/measure.py",
        "src/twophase/__init__.py",
        "src/twophase/direct.py",
        "src/twophase/deep.py",
        "src/twophase/named.py",
        "src/twophase/attribute.py",
        "src/twophase/lazy.py",
        "src/twophase/sub/__init__.py",
        "src/twophase/sub/inner.py",
        "src/twophase/relative/__init__.py",
        "src/twophase/relative/near.py",
        "src/twophase/far.py",
    ],
)
def test_an_edit_of_what_is_reached_changes_it(project, file):
    before = fingerprint(project)
    append(project / file)
    assert fingerprint(project) != before


@pytest.mark.parametrize("file", ["src/twophase/unreached.py", "src/twophase/sub/other.py", "scripts/another.py"])
def test_an_edit_of_what_is_not_reached_does_not(project, file):
    write(project, {"scripts/another.py": "x = 1\n"})
    before = fingerprint(project)
    append(project / file)
    assert fingerprint(project) == before


def test_a_changed_number_or_name_changes_it(project):
    seen = {fingerprint(project)}
    for text in ("return x + 2", "return x - 2", "return 2 - x"):
        (project / "src/twophase/deep.py").write_text(f"def depth(x):\n    {text}\n")
        seen.add(fingerprint(project))
    assert len(seen) == 4


def test_swapping_two_modules_changes_it(project):
    before = fingerprint(project)
    write(project / "src/twophase", {"named.py": PACKAGE["far.py"], "far.py": PACKAGE["named.py"]})
    assert fingerprint(project) != before


def test_comments_docstrings_layout_and_times_do_not_change_it(project):
    before = fingerprint(project)
    deep = project / "src/twophase/deep.py"
    deep.write_text(
        '"""Now with a docstring."""\n\n\ndef depth(x):  # how deep\n    """More."""\n\n    return (x\n        +1)\n'
    )
    append(project / "scripts/measure.py", "\n\n# the end\n")
    (project / "src/twophase/__init__.py").write_text('"""Another docstring."""\n\n__version__ = "1"')
    for path in project.rglob("*.py"):
        os.utime(path, (1, 1))
    assert fingerprint(project) == before


def test_a_text_that_is_no_docstring_counts(project):
    before = fingerprint(project)
    append(project / "src/twophase/deep.py", '\n"""A text below the code."""\n')
    assert fingerprint(project) != before


def test_moving_the_project_does_not_change_it(project, monkeypatch):
    before = fingerprint(project)
    moved = shutil.copytree(project, project / "elsewhere")
    monkeypatch.setattr(provenance, "PACKAGE", moved / "src/twophase")
    assert fingerprint(moved) == before


def test_modules_may_import_each_other(project):
    append(project / "src/twophase/deep.py", "\nimport twophase.direct\n")
    assert fingerprint(project)


NETWORK = {
    "mine/__init__.py": "",
    "mine/nets.py": "from mine.blocks import block\nfrom . import parts\ndef build():\n    from .sub.deeper import x\n",
    "mine/blocks.py": "import beside\n\ndef block():\n    return 1\n",
    "mine/parts.py": "x = 1\n",
    "mine/unused.py": "x = 1\n",
    "mine/sub/__init__.py": "",
    "mine/sub/deeper.py": "from ..root import x\n",
    "mine/root.py": "x = 1\n",
    "beside.py": "x = 1\n",
    "single.py": "import beside\nimport json\nimport no_such_module\n",
}


@pytest.mark.parametrize(
    ("file", "counts"),
    [(name, name not in ("mine/unused.py", "single.py")) for name in NETWORK],
)
def test_a_users_network_counts_with_what_it_imports(project, file, counts):
    write(project / "work", NETWORK)
    before = fingerprint(project, import_path="mine.nets:build")
    assert before != fingerprint(project)
    append(project / "work" / file)
    assert (fingerprint(project, import_path="mine.nets:build") != before) == counts


def test_a_users_network_in_a_single_file_counts_with_its_siblings(project):
    write(project / "work", NETWORK)
    seen = [fingerprint(project, import_path="single:build")]
    for file in ("single.py", "beside.py"):
        append(project / "work" / file)
        seen.append(fingerprint(project, import_path="single:build"))
    append(project / "work/mine/nets.py")
    assert fingerprint(project, import_path="single:build") == seen[-1]
    assert len(set(seen)) == 3


def test_a_users_package_is_not_run_to_be_found(project):
    write(project / "work", {"grim/__init__.py": "raise RuntimeError('was run')\n", "grim/net.py": "x = 1\n"})
    before = fingerprint(project, import_path="grim.net:build")
    assert "grim" not in sys.modules
    append(project / "work/grim/net.py")
    assert fingerprint(project, import_path="grim.net:build") != before


def test_of_an_installed_package_only_what_lies_within_counts(project, monkeypatch):
    write(project / "site-packages", NETWORK)
    monkeypatch.syspath_prepend(project / "site-packages")
    before = fingerprint(project, import_path="mine.nets:build")
    append(project / "site-packages/beside.py")
    assert fingerprint(project, import_path="mine.nets:build") == before
    append(project / "site-packages/mine/root.py")
    assert fingerprint(project, import_path="mine.nets:build") != before


@pytest.mark.parametrize(
    "import_path", ["no_such_module:f", "no.such.module:f", "json:loads", "sys:exit", "a b:c", ":"]
)
def test_a_network_that_is_not_there_is_left_to_the_job(project, import_path):
    assert len(fingerprint(project, import_path=import_path)) == 16


@pytest.mark.parametrize(
    ("text", "message"), [("x = (\n", r"line 1: not valid Python \("), ("x = 1\0", "not valid Pyth")]
)
def test_a_syntax_error_names_file_and_line(project, text, message):
    write(project / "work", {"single.py": text})
    with pytest.raises(ModelError, match=f"single.py.*{message}"):
        fingerprint(project, import_path="single:build")


def test_a_source_in_another_encoding_is_read(project):
    (project / "work/single.py").write_bytes("# -*- coding: latin-1 -*-\nname = 'é'\n".encode("latin-1"))
    assert fingerprint(project, import_path="single:build")


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_our_scripts_reach_what_they_import(script):
    reached = {
        path.name
        for path in provenance._import_closure(
            frozenset({script}), (provenance._Root(provenance.PACKAGE.parent, "twophase"),)
        )
    }
    assert {"jobs.py", "errors.py", "__init__.py", script.name} <= reached
    linearized = {"advance_linearized", "measure_linearized"}
    trained = {"advance", "compare_branch", "compute_entk", "record_history", "measure_pointwise"}
    assert ("training.py" in reached) == (script.stem in trained | linearized)
    assert ("linearized_runs.py" in reached) == (script.stem in linearized)
    assert ("config.py" in reached) is False  # else an edit of a description reruns everything


def test_canonical_text_tells_values_apart_but_not_orders():
    assert canonical({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}' == canonical({"a": [1.5, None], "b": 1})
    assert canonical({"a": 1, "b": 2}) != canonical({"a": 2, "b": 1})
    assert canonical({"a": 1e-7}) == '{"a":1e-07}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(float("nan"))


UPSTREAM = make_recipe("prepare_data", {"image_size": 8}, "aaaa")
RECIPE = make_recipe(
    "advance", {"optimizer": {"learning_rate": 0.1, "momentum": 0.9}, "width": 4}, "bbbb", data=UPSTREAM
)


def altered(*path, to):
    recipe = json.loads(canonical(RECIPE))
    section = recipe
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = to
    return recipe


def test_the_same_recipe_passes():
    check_recipe(canonical(RECIPE), RECIPE, "file")
    check_recipe(canonical(RECIPE), json.loads(canonical(RECIPE)), "file")
    check_recipe(canonical(RECIPE), digest(canonical(RECIPE)), "file")


@pytest.mark.parametrize(
    ("path", "to", "message"),
    [
        (
            ("settings", "optimizer", "learning_rate"),
            0.2,
            "settings.optimizer.learning_rate: file has 0.2, expected 0.1",
        ),
        (("settings", "width"), None, "settings.width: file has None, expected 4"),
        (("code",), "cccc", "code: file has 'cccc', expected 'bbbb'"),
        (("inputs", "data", "settings", "image_size"), 14, "inputs.data.settings.image_size: file has 14, expected 8"),
        (("rule",), "other", "rule: file has 'other', expected 'advance'"),
    ],
)
def test_a_difference_is_named(path, to, message):
    with pytest.raises(ArtifactError) as caught:
        check_recipe(canonical(altered(*path, to=to)), RECIPE, "results/x/chaos.nc")
    assert str(caught.value) == (
        f"results/x/chaos.nc was made by other settings or other code ({message}). "
        "Delete it, or rerun its rule with --forcerun."
    )


def test_a_recipe_of_another_digest_is_refused():
    with pytest.raises(ArtifactError, match=r"sweep\.nc was made .*\(recipe sha256:\w+, expected recipe sha256:0+\)"):
        check_recipe(canonical(RECIPE), f"recipe sha256:{'0' * 64}", "sweep.nc")


def test_of_many_differences_three_are_named():
    other = make_recipe("a", {"b": 1}, "c", data={})
    with pytest.raises(ArtifactError, match=r"; \.\.\.\)") as caught:
        check_recipe(canonical(other), RECIPE, "file")
    assert str(caught.value).count("file has") == 3


@pytest.mark.parametrize("found", ["", "{", "no recipe", "[]", "3", 3])
def test_a_recipe_that_is_none_is_refused(found):
    with pytest.raises(ArtifactError, match=r"^file was made by other"):
        check_recipe(found, RECIPE, "file")
