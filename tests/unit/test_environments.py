"""The environments agree with the lock, and `make` says early what is missing."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "envs" / "requirements.lock"
INSTALL = r"pip install .*--require-hashes -r (/opt|envs)/requirements\.lock$"


def locked() -> dict[str, str]:
    """Version by package, of those that are installed on Linux."""
    lines = re.findall(r"^([\w.-]+)==([\w.+]+)(?: ; (.*?))? \\$", LOCK.read_text(), re.MULTILINE)
    return {name: version for name, version, marker in lines if "win32" not in marker or "!=" in marker}


def test_every_dependency_is_locked_with_a_version_that_it_allows():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    versions = {name.lower(): version for name, version in locked().items()}
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[requirement.name.lower()]), requirement


def test_every_package_of_the_lock_has_its_hashes():
    text = LOCK.read_text()
    assert len(locked()) > 50
    for block in re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_a_new_lock_makes_a_new_conda_environment_of_a_python_that_the_project_supports():
    text = (ROOT / "envs" / "twophase.yaml").read_text()
    assert f"sha256: {hashlib.sha256(LOCK.read_bytes()).hexdigest()}\n" in text, "make lock writes the digest"
    packages = yaml.safe_load(text)["dependencies"]
    assert [re.split("=", package)[0] for package in packages] == ["python", "pip"]  # all else is the lock's
    version = tuple(map(int, packages[0].split("=")[1].split(".")))
    assert version >= (3, 11)
    for name in ("Dockerfile", "twophase.def"):
        assert f"python:{version[0]}.{version[1]}-slim" in (ROOT / "envs" / name).read_text()


@pytest.mark.parametrize("name", ["twophase.post-deploy.sh", "Dockerfile", "twophase.def"])
def test_each_recipe_installs_the_lock_and_nothing_else(name):
    lines = [line for line in (ROOT / "envs" / name).read_text().splitlines() if "install" in line and line[0] != "#"]
    assert len(lines) == 1
    assert re.search(INSTALL, lines[0])


def test_every_rule_names_the_conda_environment():
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    assert rules.count('conda:\n        "../../envs/twophase.yaml"') == rules.count("    script:\n")


@pytest.fixture
def checkout(tmp_path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / "envs").mkdir()
    shutil.copy2(LOCK, tmp_path / "envs" / "requirements.lock")
    return tmp_path


def make(checkout: Path, interpreter: str, **environment: str) -> str:
    done = subprocess.run(
        ["make", f"PYTHON={interpreter}"],
        cwd=checkout,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert not (checkout / ".venv").exists()
    return done.stderr


def interpreter(folder: Path, *, fails_on: str) -> str:
    """A stand-in that fails where its program says so."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\ncase "$*" in *"{fails_on}"*) exit 1;; *-V*) echo Python 3.9.2;; esac\nexit 0\n')
    path.chmod(0o755)
    return str(path)


def test_make_says_that_there_is_no_python(checkout):
    assert "error: python9 not found; install Python 3.11 or newer" in make(checkout, "python9")


def test_make_says_that_python_is_too_old(checkout):
    found = make(checkout, interpreter(checkout, fails_on="version_info"))
    assert "error: Python 3.11 or newer is needed" in found
    assert "is Python 3.9.2" in found


def test_make_says_that_the_venv_module_is_missing(checkout):
    found = make(checkout, interpreter(checkout, fails_on="ensurepip"))
    assert "has no venv module; on Debian or Ubuntu: apt install python3-venv" in found


def test_make_says_that_the_disk_is_full(checkout):
    tools = checkout / "tools"
    tools.mkdir()
    (tools / "df").write_text("#!/bin/sh\necho Filesystem\necho /dev/x 100 90 1048576 90% /\n")
    (tools / "df").chmod(0o755)
    found = make(checkout, sys.executable, PATH=f"{tools}{os.pathsep}{os.environ['PATH']}")
    assert "error: the environment and the default study need 10 GB of disk, 1 GB are free here" in found
