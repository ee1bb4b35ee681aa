"""A copy of the project in a folder of its own, on which the tests run the real Snakefile."""

import copy
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
COPIED = ("Snakefile", "config.yaml", "workflow", "profiles", "envs", "studies")


@dataclass(frozen=True)
class Plan:
    """What a dry run would do: output files by rule, ``all`` and the other targets left out."""

    outputs: dict[str, list[str]]

    @property
    def counts(self) -> Counter:
        """Jobs a rule, those of branches counted as ``advance``; without the two that follow almost whatever runs."""
        followers = ("collect_resources", "summarize")
        counts = Counter({rule: len(files) for rule, files in self.outputs.items() if rule not in followers})
        if branches := counts.pop("advance_branch", 0):
            counts["advance"] += branches
        return counts

    def files(self) -> set[str]:
        """First output of each job."""
        return {path for paths in self.outputs.values() for path in paths}


class Project:
    """A copy of the project whose config and code a test may change."""

    def __init__(self, folder: Path, studies: dict, phase_diagrams: dict | None = None) -> None:
        self.folder = folder
        self.config = {"studies": studies, "phase_diagrams": phase_diagrams or {}}
        folder.mkdir(parents=True, exist_ok=True)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, folder / name)
        self.write_config(self.config)

    def copied(self, folder: Path) -> "Project":
        """The same project, results and all, in another folder."""
        shutil.copytree(self.folder, folder, symlinks=True)
        twin = copy.copy(self)
        twin.folder = folder
        return twin

    def write_config(self, config: dict) -> None:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def edited(self, edit) -> dict:
        """A copy of the config, edited in place by a function."""
        config = copy.deepcopy(self.config)
        edit(config)
        return config

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--nocolor", *arguments]

    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(self.folder / "workflow" / "src")}

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run Snakemake in the project's folder; its output is in ``stdout``, errors too."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stdout
        return done

    def killed_after(self, seconds: float, *arguments: str) -> None:
        """Run Snakemake, and kill the whole process group after so many seconds."""
        running = subprocess.Popen(
            self.command("--cores", "2", *arguments),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(seconds)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()

    def plan(self, config: dict | None = None, *arguments: str) -> Plan:
        """What would run with another config, which is put back afterwards."""
        try:
            self.write_config(config or self.config)
            text = self.snakemake("--dry-run", "--cores", "2", *arguments).stdout
        finally:
            self.write_config(self.config)
        outputs: dict[str, list[str]] = {}
        for job in re.finditer(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", text, re.MULTILINE):
            output = re.search(r"^    output: (.*)$", job[2], re.MULTILINE)
            if output:
                outputs.setdefault(job[1], []).append(output[1].split(", ")[0])
        if not outputs:
            assert "Nothing to be done" in text, text
        return Plan(outputs)


def netcdf_files(folder: Path) -> dict[str, Path]:
    """Every netCDF file below a project's results, by its relative path."""
    return {str(path.relative_to(folder)): path for path in sorted((folder / "results").rglob("*.nc"))}
