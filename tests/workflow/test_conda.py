"""`snakemake --sdm conda` and `--sdm apptainer`, with stand-ins for both: which Python and which code jobs run with."""

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


def installed_project(tmp_path: Path) -> Project:
    """As after `biva init`: there is no package beside the workflow, but one in `tmp_path / "site"`."""
    new, site = copy_project(tmp_path / "new"), tmp_path / "site"
    shutil.copy(WORKFLOW_TESTS / "stand_in_cli.py", new.path / "biva" / "cli.py")
    shutil.move(new.path / "biva", site / "biva")
    return new


def fetch_there(project: Project, site: Path, method: str) -> str:
    """Run one rule of it; everything that is printed."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "resources/digits/fetched.txt", "--sdm", method],
        cwd=project.path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (link,) = (project.path / ".snakemake" / "code").iterdir()
    assert link.resolve() == (site / "biva").resolve()
    assert f"PYTHONPATH={link.parent} " in done.stderr
    return (project.path / "pythons.txt").read_text()


def test_an_installed_package_is_reached_in_the_environment_and_nothing_beside_it(
    tmp_path: Path, conda: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join([str(conda / "bin"), WITHOUT_CONDA]))
    assert ".snakemake/conda/" in fetch_there(installed_project(tmp_path), tmp_path / "site", "conda")


def test_without_conda_the_error_says_what_to_do(project: Project) -> None:
    done = project.snakemake("--cores", "1", "--sdm", "conda", PATH=WITHOUT_CONDA)
    assert done.returncode != 0
    for part in ["error: --sdm conda needs the command `conda`", "Install Miniforge", "leave --sdm conda out"]:
        assert part in done.stdout
    assert "Traceback" not in done.stdout
    assert not (project.path / "resources").exists()


@pytest.fixture
def apptainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image of the stand-in for apptainer, and the stand-in on PATH."""
    command = tmp_path / "apptainer" / "apptainer"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\n{(WORKFLOW_TESTS / 'stand_in_apptainer.py').read_text()}")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(command.parent), WITHOUT_CONDA]))
    venv.create(tmp_path / "image", symlinks=True)
    (tmp_path / "biva.sif").write_text(f"{tmp_path}/image")
    return tmp_path / "biva.sif"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_every_job_runs_the_projects_own_code_in_the_image(
    project: Project, apptainer: Path, tmp_path: Path, elsewhere: bool
) -> None:
    """In another folder the code and the configuration are bound."""
    shutil.copy(WORKFLOW_TESTS / "stand_in_cli.py", project.path / "biva" / "cli.py")
    project.edit("config/experiments/quick.yaml", small_set())
    folder = tmp_path / "there" if elsewhere else project.path
    folder.mkdir(exist_ok=True)
    (folder / "biva.sif").symlink_to(apptainer)
    target = "results/quick/runs/digits/digits_8x8/vae/seed1/train.json"
    done = project.snakemake("--cores", "1", target, "--sdm", "apptainer", "--directory", str(folder))
    assert done.returncode == 0, done.stdout
    assert set((folder / "pythons.txt").read_text().splitlines()) == {str(tmp_path / "image")}
    (options,) = set((folder / "binds.txt").read_text().splitlines())
    assert [f"--bind {path}" in f"{options} " for path in (f"{project.path} ", f"{project.path}/config ")] == [
        elsewhere,
        elsewhere,
    ]


def test_an_installed_package_is_reached_in_the_image(tmp_path: Path, apptainer: Path) -> None:
    new = installed_project(tmp_path)
    (new.path / "biva.sif").symlink_to(apptainer)
    assert fetch_there(new, tmp_path / "site", "apptainer") == f"{tmp_path / 'image'}\n"
    assert f"--bind {tmp_path}/site" in (new.path / "binds.txt").read_text()


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (["apptainer"], "error: --sdm apptainer needs the image biva.sif in"),
        (["conda", "apptainer"], "error: --sdm conda apptainer: the image has all packages"),
    ],
)
def test_without_an_image_or_with_conda_too_the_error_says_what_to_do(
    project: Project, conda: Path, methods: list[str], said: str
) -> None:
    path = os.pathsep.join([str(conda / "bin"), WITHOUT_CONDA])
    done = project.snakemake("--cores", "1", "--sdm", *methods, PATH=path)
    assert done.returncode != 0
    assert said in done.stdout and "Traceback" not in done.stdout
