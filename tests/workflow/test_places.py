"""The workflow outside of its own folder: in another working folder, and as a module of another workflow."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.workflow.conftest import ROOT, Project, small_set

NOWHERE = "http://127.0.0.1:9"
MODULE = """
module reproduction:
    snakefile: "../../project/workflow/Snakefile"
    config: config

use rule * from reproduction
"""


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
