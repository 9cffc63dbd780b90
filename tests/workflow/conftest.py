"""Copies of the project in which the real Snakemake runs.

Loading Snakemake takes longer than most of what tests ask of it, so one process loads it once and every call is a fork.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.warm"])


def forked(target: Callable[..., None], *arguments: Any) -> Any:
    """A process that runs `target(*arguments)`.

    The first one starts the process that all are forked from, which finds what it imports from the current folder.
    """
    process = PROCESSES.Process(target=target, args=arguments)
    with contextlib.chdir(ROOT):
        process.start()
    return process


Command = Callable[[tuple[str, ...]], None]


def be(command: Command, folder: Path, arguments: tuple[str, ...], environment: dict[str, str], output: Path) -> None:
    """Be a command in a folder; what it prints goes to a file."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    command(arguments)


def snakemake(arguments: tuple[str, ...]) -> None:
    """Be the command `snakemake` here."""
    _be("snakemake.cli", "snakemake", arguments)


def biva(arguments: tuple[str, ...]) -> None:
    """Be the `biva` of the current folder."""
    sys.path.insert(0, str(Path.cwd()))
    _be("biva.cli", "biva", arguments)


def _be(module: str, name: str, arguments: tuple[str, ...]) -> None:
    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == "biva"]:
        del sys.modules[loaded]  # that of the current folder is imported
    sys.argv = [name, *arguments]
    importlib.import_module(module).main()


@dataclass(frozen=True)
class Project:
    """A copy of the project in which the real Snakemake runs."""

    path: Path

    def snakemake(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake in the copy with these environment variables; `stdout` has its messages and the jobs'."""
        return self._forked(snakemake, arguments, variables)

    def biva(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the copy's own `biva`."""
        return self._forked(biva, arguments, variables)

    def _forked(
        self, command: Command, arguments: tuple[str, ...], variables: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as scratch:
            output = Path(scratch) / "output"
            process = forked(be, command, self.path, arguments, self._environment(variables), output)
            process.join()
            return subprocess.CompletedProcess(arguments, process.exitcode or 0, output.read_text())

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("BIVA_", "SNAKEMAKE_"))}
        return kept | {"XDG_CACHE_HOME": str(self.path / ".cache")} | variables

    def planned(self, *arguments: str) -> dict[str, int]:
        """Rule -> number of jobs that a dry run plans; without `all`."""
        done = self.snakemake(*arguments, "--quiet", "rules", "--dry-run")
        assert done.returncode == 0, done.stdout
        if "Nothing to be done" in done.stdout:
            return {}
        table = done.stdout.split("Job stats:\n", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
        jobs = {rule: int(count) for rule, count in (line.split() for line in table)}
        return {rule: count for rule, count in jobs.items() if rule not in ("all", "total")}

    def edit(self, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change a YAML file of the copy."""
        path = self.path / name
        content = yaml.safe_load(path.read_text())
        change(content)
        path.write_text(yaml.safe_dump(content))

    def copy(self, path: Path) -> Project:
        """Another copy, with all times of change and all that Snakemake remembers."""
        return Project(shutil.copytree(self.path, path, symlinks=True))


def copy_project(path: Path) -> Project:
    for folder in ("workflow", "config", "biva"):
        shutil.copytree(ROOT / folder, path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "environment.yml", path)
    return Project(path)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return copy_project(tmp_path / "project")


def small_set(
    *, model: str = "vae", seeds: tuple[int, ...] = (1, 2), updates: int = 20, k: tuple[int, ...] = (1,), **others: Any
) -> Callable[[dict[str, Any]], None]:
    """The edit that cuts an experiment set down to short runs of one model, a table and a figure.

    Args:
        others: sections that the set gets in the place of its own.
    """

    def edit(content: dict[str, Any]) -> None:
        del content["semi_supervised"], content["anomalies"]
        content["runs"] = [{"dataset": "digits", "architecture": "digits_8x8", "model": model, "seeds": list(seeds)}]
        content["training"] |= {"max_updates": updates, "evaluate_every": updates}
        content["evaluation"] |= {"importance_samples": list(k), "prior_samples": 9}
        content["tables"] = [{"name": "likelihood", "dataset": "digits", "k": [1]}]
        content["figures"] = ["learning_curves"]
        content |= others

    return edit
