"""The workflow outside of its own folder: in another working folder, as a module of another workflow, from a wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from biva.cli import app
from tests.workflow.conftest import ROOT, Project, small_set

NOWHERE = "http://127.0.0.1:9"
MODULE = """
module reproduction:
    snakefile: "../../project/workflow/Snakefile"
    config: config

use rule * from reproduction
"""

DEPLOYED = """
from snakemake.utils import min_version

min_version("6.10.0")

configfile: "config/config.yaml"

module biva:
    snakefile:
        github("owner/biva", path="workflow/Snakefile", tag="v1")
    config:
        config

use rule * from biva
"""
"""As `snakedeploy deploy-workflow https://github.com/owner/biva . --tag v1` writes it, beside config/ and profiles/."""


def files_of(*names: str) -> set[str]:
    """The files below these names in the repository, as paths within it; no link is followed."""
    paths = [path for name in names for path in (ROOT / name, *(ROOT / name).rglob("*"))]
    files = {path.relative_to(ROOT).as_posix() for path in paths if path.is_file() and "__pycache__" not in path.parts}
    return {name for name in files if not name.startswith("biva/project/")}


def test_in_another_folder_with_the_configuration_beside_the_workflow(project: Project, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "workflow" / "stand_in_cli.py", project.path / "biva" / "cli.py")
    project.edit("config/experiments/quick.yaml", small_set())
    before = {path.name for path in project.path.iterdir()}
    there = tmp_path / "there"
    done = project.snakemake("--cores", "2", "--directory", str(there))
    assert done.returncode == 0, done.stdout
    assert (there / "results/quick/tracked.txt").read_text() == "tracked\n"
    assert {path.name for path in project.path.iterdir()} <= before | {".cache", "__pycache__"}


def test_in_another_folder_with_a_configuration_of_its_own(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.path / "config", tmp_path / "there" / "config")
    Project(tmp_path / "there").edit("config/experiments/quick.yaml", small_set())
    assert project.planned("--directory", str(tmp_path / "there"))["train"] == 2


def test_as_a_module_of_another_workflow_it_runs_to_its_tables(project: Project, tmp_path: Path) -> None:
    project.edit("config/experiments/quick.yaml", small_set(seeds=(1,), updates=2))
    snakefile = tmp_path / "other" / "workflow" / "Snakefile"
    snakefile.parent.mkdir(parents=True)
    snakefile.write_text(MODULE)
    other, target = Project(tmp_path / "other"), "results/quick/tables/likelihood.tex"
    done = other.snakemake("--cores", "2", target, "--config", "evaluation_jobs=2", MLFLOW_TRACKING_URI=NOWHERE)
    assert done.returncode == 0, done.stdout
    assert "VAE" in (other.path / target).read_text()
    assert len(list(other.path.rglob("evaluation_parts/*"))) == 2
    assert not (project.path / "results").exists()


def test_two_modules_share_a_configuration_and_a_prefix_holds_for_all_files(project: Project, tmp_path: Path) -> None:
    project.edit("config/experiments/quick.yaml", small_set(seeds=(1,), updates=2))
    snakefile = tmp_path / "other" / "workflow" / "Snakefile"
    snakefile.parent.mkdir(parents=True)
    second = MODULE.replace("reproduction", "again").replace("config: config", "config: config\n    prefix: 'second'")
    snakefile.write_text(MODULE + second.replace("use rule * from again", "use rule * from again as again_*"))
    done = Project(tmp_path / "other").snakemake("--dry-run", "--printshellcmds", "second/results/quick/tracked.txt")
    assert done.returncode == 0, done.stdout
    (track,) = [line for line in done.stdout.splitlines() if " -m biva track " in line]
    assert re.findall(r"\S*results/quick\S*", track) and not re.findall(r"(?<!second/)results/quick", track)


def test_fetched_from_a_repository_it_runs_with_the_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repository is a folder here, to which git's own settings lead."""
    repository, deployed = tmp_path / "github" / "owner" / "biva", Project(tmp_path / "deployed")
    shutil.copytree(ROOT / "workflow", repository / "workflow")
    shutil.copy(ROOT / "environment.yml", repository)
    author = ["-c", "user.name=name", "-c", "user.email=name@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "workflow"], ["tag", "v1"]):
        subprocess.run(["git", *arguments], cwd=repository, check=True)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{tmp_path / 'github'}/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/")
    for folder in ("config", "profiles"):
        shutil.copytree(ROOT / folder, deployed.path / folder)
    (deployed.path / "workflow").mkdir()
    (deployed.path / "workflow" / "Snakefile").write_text(DEPLOYED)
    done = deployed.snakemake("--cores", "1", "resources/digits/fetched.txt")
    assert done.returncode == 0, done.stdout
    assert "workflow specific profile profiles/default" in done.stdout
    assert deployed.planned()["train"] == 18


def test_a_project_that_init_lays_out_plans_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app(["init", "my project/new"], standalone_mode=False)
    assert Project(tmp_path / "my project/new").planned()["train"] == 18


def test_the_wheel_has_all_of_the_package_and_lays_out_a_project(tmp_path: Path) -> None:
    package, project = files_of("biva"), files_of("config", "workflow", "environment.yml")
    copy = tmp_path / "copy"
    for name in ("biva", "config", "workflow"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("environment.yml", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=copy, stdout=subprocess.DEVNULL, check=True)
    (file,) = tmp_path.glob("*.whl")
    with ZipFile(file) as wheel:
        made = {name for name in wheel.namelist() if not name.startswith("biva-")}
        wheel.extractall(tmp_path / "site")
    assert made == package | {f"biva/project/{name}" for name in project}

    site = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-m", "biva", "init", "new"], cwd=tmp_path, env=site, check=True)
    assert all((tmp_path / "new" / name).read_bytes() == (ROOT / name).read_bytes() for name in project)
    assert (tmp_path / "new" / "config" / "config.yaml").is_file()
