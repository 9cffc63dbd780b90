"""One evaluation shared by several jobs, by the real Snakemake and the real command on real digits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from biva import records
from biva.records import RunFolder
from tests.workflow.conftest import Project, copy_project, small_set

RUN = "digits/digits_8x8/vae/seed1"
FOLDER = f"results/quick/runs/{RUN}"
EVALUATION = f"{FOLDER}/evaluation.json"
NO_TRACKING = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Evaluated by one job."""
    project = copy_project(tmp_path_factory.mktemp("evaluated") / "project")
    project.edit("config/experiments/quick.yaml", small_set(seeds=(1,), updates=3, k=(1, 300), tables=[]))
    for verb in (("fetch", "digits"), ("prepare", "digits"), ("train", "quick", RUN)):
        assert project.biva(*verb, **NO_TRACKING).returncode == 0
    done = project.snakemake("--cores", "1", EVALUATION, **NO_TRACKING)
    assert done.returncode == 0, done.stdout
    return project


def result(project: Project) -> tuple[dict[str, Any], bytes]:
    """The evaluation without what the clock decides, and its arrays."""
    folder = RunFolder(project.path / FOLDER)
    record = records.read_json(folder.evaluation)
    return {k: v for k, v in record.items() if k not in ("wall_seconds", "finished")}, folder.arrays.read_bytes()


def kill_after_one_part(project: Path, share: str) -> None:
    command = [sys.executable, "-m", "biva", "evaluate", "quick", RUN, "--part", share]
    process = subprocess.Popen(command, cwd=project, env=os.environ | {"PYTHONPATH": str(project)})
    parts = project / FOLDER / "checkpoint" / "evaluation"
    while process.poll() is None and not list(parts.glob("*/*-*.safetensors")):
        time.sleep(0.001)
    process.kill()
    assert process.wait() < 0


def test_shared_by_three_jobs_one_of_them_killed_it_is_the_same_to_the_byte(evaluated: Project, tmp_path: Path) -> None:
    project = evaluated.copy(tmp_path / "project")
    assert project.planned(EVALUATION, "--config", "evaluation_jobs=8") == {}
    for name in ("evaluation.json", "evaluation.safetensors"):
        (project.path / FOLDER / name).unlink()
    shared = [EVALUATION, "--config", "evaluation_jobs=3"]
    assert project.planned(*shared) == {"evaluate": 1, "evaluate_part": 3}
    kill_after_one_part(project.path, "2/3")
    done = project.snakemake("--cores", "2", *shared, **NO_TRACKING)
    assert done.returncode == 0, done.stdout
    assert result(project) == result(evaluated)
    for name in ("1of3 (conflicted copy)", "._1of3", "1of3~", ".DS_Store"):  # sync tools and others leave these
        (project.path / FOLDER / "evaluation_parts" / name).touch()
    for jobs in (1, 3, 4):
        assert project.planned(EVALUATION, "--config", f"evaluation_jobs={jobs}") == {}
    project.edit("config/experiments/quick.yaml", lambda content: content["evaluation"].update(max_images=100))
    again = project.planned(EVALUATION, "--config", "evaluation_jobs=4")
    assert again == {"evaluate": 1, "evaluate_part": 3}
    shutil.rmtree(project.path / FOLDER)
    assert project.planned(EVALUATION, "--config", "evaluation_jobs=4")["evaluate_part"] == 4


def test_a_copy_of_a_run_elsewhere_is_evaluated_where_it_is(evaluated: Project, tmp_path: Path) -> None:
    files = shutil.ignore_patterns("evaluation*", "checkpoint")
    copy = RunFolder(shutil.copytree(evaluated.path / FOLDER, tmp_path / "copy", ignore=files))
    done = evaluated.biva("evaluate", "quick", RUN, "--run", str(copy.path), **NO_TRACKING)
    assert done.returncode == 0, done.stdout
    assert copy.arrays.read_bytes() == (evaluated.path / FOLDER / copy.arrays.name).read_bytes()
