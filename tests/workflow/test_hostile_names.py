"""Names and texts made to harm reach no shell; MLflow's pages are for this machine alone."""

from __future__ import annotations

import os
import re
import shutil
import string
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workflow.conftest import ROOT, Project

MIRROR = "'; touch executed; $(touch executed) `touch executed` \"| touch executed & {wildcards.x} {} \\input{x} %s #"
HOSTILE = f"{MIRROR}\n{MIRROR}"


def spoil_texts(content: Any) -> Any:
    """The same content, with every text that is free to choose replaced."""
    if isinstance(content, dict):
        free = ("description", "title", "licence", "citation", "paper", "homepage")
        return {key: HOSTILE if key in free else spoil_texts(value) for key, value in content.items()}
    return [spoil_texts(value) for value in content] if isinstance(content, list) else content


@pytest.fixture
def hostile(project: Project) -> Project:
    """The project, with hostile texts wherever its configuration has texts."""
    for path in (project.path / "config").rglob("*.yaml"):
        path.write_text(yaml.safe_dump(spoil_texts(yaml.safe_load(path.read_text()))))
    project.edit("config/config.yaml", lambda content: content.update(data_mirror=MIRROR))
    return project


def test_shell_commands_are_made_of_names_alone(hostile: Project) -> None:
    done = hostile.snakemake("--dry-run", "--printshellcmds", "--config", "experiments=quick")
    assert done.returncode == 0, done.stdout
    commands = [line.split("Shell command: ")[-1].strip() for line in done.stdout.splitlines() if " -m biva " in line]
    assert len({command.split()[3] for command in commands}) == 11  # verbs: all that rules call
    for command in commands:
        arguments = command.removeprefix(f"{sys.executable} -m biva ")
        assert re.fullmatch(r"[a-z]+( +[a-z0-9_/-]+)+ +> [a-z0-9_/.]+ 2>(&1| [a-z0-9_/.]+)", arguments)


@pytest.mark.parametrize("by", ["file", "command line"])
def test_the_mirror_reaches_no_shell(hostile: Project, by: str) -> None:
    shutil.copy(ROOT / "tests" / "workflow" / "stand_in_cli.py", hostile.path / "biva" / "cli.py")
    setting = ["--config", f"data_mirror={MIRROR!r}"] if by == "command line" else []
    done = hostile.snakemake("--cores", "1", "resources/digits/data.json", *setting)
    assert done.returncode == 0, done.stdout
    assert (hostile.path / "resources" / "digits" / "data.json").is_file()
    assert not list(hostile.path.rglob("executed"))


@pytest.mark.parametrize(
    "content",
    [
        "experiments: !!python/object/apply:os.system [touch executed]\n",
        "experiments: '$(touch executed)'\n",
        "experiments: '../quick'\n",
        "a: &a [x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\n"
        + "".join(f"{new}: &{new} [{f'*{old}, ' * 30}]\n" for old, new in pairwise("bcdefgh"))
        + "experiments: *h\n",
    ],
    ids=["object", "shell", "path", "aliases"],
)
def test_a_hostile_main_configuration_is_refused_before_any_job(project: Project, content: str) -> None:
    (project.path / "config" / "config.yaml").write_text(content)
    done = project.snakemake("--cores", "1")
    assert done.returncode != 0
    assert len(done.stdout) < 20_000
    assert not (project.path / "results").exists()
    assert not list(project.path.rglob("executed"))


@pytest.mark.parametrize("name", ["a{x}b", "a{b", "{}"])
def test_braces_in_the_projects_path_are_refused_in_one_message(project: Project, tmp_path: Path, name: str) -> None:
    there = Project(project.path.rename(tmp_path / name))
    done = there.snakemake("--dry-run")
    assert done.returncode == 1
    *_, message = done.stdout.strip().splitlines()
    assert message.startswith("error: Snakemake takes what stands in braces for names") and str(there.path) in message
    assert "Traceback" not in done.stdout


def test_any_other_character_in_the_projects_path_is_fine(project: Project, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "workflow" / "stand_in_cli.py", project.path / "biva" / "cli.py")
    there = Project(project.path.rename(tmp_path / "".join(sorted({*string.punctuation, " ", "é"} - {*"/{}"}))))
    done = there.snakemake("--cores", "1", "resources/digits/data.json")
    assert done.returncode == 0, done.stdout
    assert (there.path / "resources/digits/data.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [there.path.name]


def test_make_ui_listens_on_this_machine_alone(tmp_path: Path) -> None:
    """What it starts, whatever the environment says."""
    mlflow = tmp_path / "bin" / "mlflow"
    mlflow.parent.mkdir()
    mlflow.write_text('#!/bin/sh\necho "mlflow $*"\n')
    mlflow.chmod(0o755)
    (tmp_path / "bin" / "biva").symlink_to(shutil.which("true") or "true")
    (tmp_path / ".ready").touch()
    everywhere = {"HOST": "0.0.0.0", "MLFLOW_HOST": "0.0.0.0", "MLFLOW_TRACKING_URI": "sqlite:///some.db"}
    done = subprocess.run(
        ["make", "ui", f"VENV={tmp_path}"], cwd=ROOT, env=os.environ | everywhere, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (command,) = [line for line in done.stdout.splitlines() if line.startswith("mlflow server")]
    assert re.findall(r"--host[ =](\S+)", command) == ["127.0.0.1"]
    assert "--allowed-hosts" not in command and "--cors-allowed-origins" not in command
