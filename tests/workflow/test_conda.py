"""`snakemake --sdm conda`, with a stand-in for conda: which environment is made of what, and which code runs in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.workflow.conftest import ROOT, Project, copy_project, small_set

WORKFLOW_TESTS = ROOT / "tests" / "workflow"
WITHOUT_CONDA = os.pathsep.join(
    folder for folder in os.environ["PATH"].split(os.pathsep) if not Path(folder, "conda").exists()
)
ACTIVE = {
    "nothing": ([], 0),
    "base": (["base"], 1),
    "a virtual environment over base": (["venv", "base"], 1),
    "an environment": (["named"], 1),
    "an environment over base": (["named"], 2),
}
"""What is active -> whose folders stand first in PATH, and how deep conda is."""


@pytest.fixture
def conda(tmp_path: Path) -> Path:
    """Where the stand-in for conda is installed; like conda's, its base environment has a Python."""
    base = tmp_path / "conda"
    venv.create(base, symlinks=True)
    command = base / "bin" / "conda"
    command.write_text(f"#!{sys.executable}\n{(WORKFLOW_TESTS / 'stand_in_conda.py').read_text()}")
    command.chmod(0o755)
    return base


@pytest.mark.parametrize("active", ACTIVE)
def test_every_job_runs_the_projects_own_code_in_the_environment_of_environment_yml(
    project: Project, conda: Path, active: str
) -> None:
    shutil.copy(WORKFLOW_TESTS / "stand_in_cli.py", project.path / "biva" / "cli.py")
    project.edit("config/experiments/quick.yaml", small_set())
    folders = {"base": conda, "named": conda / "envs" / "biva", "venv": Path(sys.prefix)}
    venv.create(folders["named"], symlinks=True)
    first, depth = ACTIVE[active]
    (conda / "condabin").symlink_to("bin")
    path = [*(str(folders[name] / "bin") for name in first), str(conda / "condabin"), WITHOUT_CONDA]
    variables = {"CONDA_SHLVL": str(depth), "CONDA_PREFIX": str(folders[first[-1]])} if depth else {}
    target = (
        "results/quick/tracked.txt" if active == "base" else "results/quick/runs/digits/digits_8x8/vae/seed1/train.json"
    )
    done = project.snakemake("--cores", "2", target, "--sdm", "conda", PATH=os.pathsep.join(path), **variables)
    assert done.returncode == 0, done.stdout

    (made,) = (project.path / ".snakemake" / "conda").glob("*/environment.yml")
    assert made.read_bytes() == (ROOT / "environment.yml").read_bytes()
    assert set((project.path / "pythons.txt").read_text().splitlines()) == {str(made.parent)}
    (trained, *_) = (project.path / "results").rglob("run.json")
    assert trained.read_text() == str(made.parent)


def test_an_installed_package_is_reached_in_the_environment_and_nothing_beside_it(tmp_path: Path, conda: Path) -> None:
    """As after `biva init`: there is no package beside the workflow."""
    new, site = copy_project(tmp_path / "new"), tmp_path / "site"
    shutil.copy(WORKFLOW_TESTS / "stand_in_cli.py", new.path / "biva" / "cli.py")
    shutil.move(new.path / "biva", site / "biva")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "resources/digits/fetched.txt", "--sdm", "conda"],
        cwd=new.path,
        env=os.environ | {"PYTHONPATH": str(site), "PATH": os.pathsep.join([str(conda / "bin"), WITHOUT_CONDA])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert ".snakemake/conda/" in (new.path / "pythons.txt").read_text()
    (link,) = (new.path / ".snakemake" / "code").iterdir()
    assert link.resolve() == (site / "biva").resolve()
    assert f"PYTHONPATH={link.parent} " in done.stderr


def test_without_conda_the_error_says_what_to_do(project: Project) -> None:
    done = project.snakemake("--cores", "1", "--sdm", "conda", PATH=WITHOUT_CONDA)
    assert done.returncode != 0
    for part in ["error: --sdm conda needs the command `conda`", "Install Miniforge", "leave --sdm conda out"]:
        assert part in done.stdout
    assert "Traceback" not in done.stdout
    assert not (project.path / "resources").exists()
