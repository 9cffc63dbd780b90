"""`snakemake --use-conda`, with a stand-in for conda: which environment is made of what, and which code runs in it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.workflow.conftest import ROOT, Project, two_short_runs

WORKFLOW_TESTS = ROOT / "tests" / "workflow"


def install_stand_in(folder: Path) -> str:
    """Install the stand-in for conda; the PATH that has it."""
    conda = folder / "bin" / "conda"
    conda.parent.mkdir(parents=True)
    conda.write_text(f"#!{sys.executable}\n{(WORKFLOW_TESTS / 'stand_in_conda.py').read_text()}")
    conda.chmod(0o755)
    return f"{conda.parent}{os.pathsep}{os.environ['PATH']}"


def test_every_job_runs_the_projects_own_code_in_the_environment_of_environment_yml(
    project: Project, tmp_path: Path
) -> None:
    shutil.copy(WORKFLOW_TESTS / "stand_in_cli.py", project.path / "biva" / "cli.py")
    project.edit("config/experiments/quick.yaml", two_short_runs)
    path = install_stand_in(tmp_path / "conda")
    done = project.snakemake("--cores", "2", "--use-conda", PATH=path)
    assert done.returncode == 0, done.stdout

    (made,) = (project.path / ".snakemake" / "conda").glob("*/environment.yml")
    assert made.read_bytes() == (ROOT / "environment.yml").read_bytes()
    called = sorted((made.parent / "calls").read_text().splitlines())
    ran = [line.split(" | ")[0] for line in (project.path / "calls.txt").read_text().splitlines()]
    assert called == sorted(f"-m biva {line}" for line in ran)
    assert {line.split()[0] for line in ran} == {
        "fetch", "prepare", "train", "evaluate", "collect", "table", "figure", "summary", "track",
    }  # fmt: skip


def test_without_conda_the_error_says_what_to_do(project: Project) -> None:
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if not Path(folder, "conda").exists()]
    done = project.snakemake("--cores", "1", "--use-conda", PATH=os.pathsep.join(folders))
    assert done.returncode != 0
    for part in ["error: --use-conda needs the command `conda`", "Install Miniforge", "leave --use-conda out"]:
        assert part in done.stdout
    assert "Traceback" not in done.stdout
    assert not (project.path / "resources").exists()
