"""The workflow with MLflow's tracking server on the network and PostgreSQL behind it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import mlflow_server, postgresql
from tests.workflow.conftest import Project, small_set

pytest.importorskip("mlflow")
pytest.importorskip("psycopg2")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with postgresql() as database, mlflow_server(database, tmp_path) as address:
        yield address


def assert_tracked(project: Project, server: str, runs: int) -> None:
    """The server has all runs of `quick` in full, and gives back the results; nothing went to a file."""
    from mlflow import MlflowClient

    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("quick")
    assert experiment
    stored = client.search_runs([experiment.experiment_id])
    evaluations = [run for run in stored if "biva.record" in run.data.tags]
    assert len(evaluations) >= runs
    assert len(stored) - len(evaluations) == runs + 1  # and that with tables and figures
    assert {run.info.status for run in stored} == {"FINISHED"}
    assert not (project.path / "results" / "mlflow").exists()

    results = project.path / "results" / "quick"
    before = (results / "results.csv").read_bytes()
    shutil.move(results, project.path / "elsewhere")
    done = project.biva("collect", "quick", "--from-mlflow", MLFLOW_TRACKING_URI=server)
    assert done.returncode == 0, done.stdout
    assert (results / "results.csv").read_bytes() == before


def test_a_small_set_is_tracked_by_a_server_on_postgresql(project: Project, server: str) -> None:
    project.edit("config/experiments/quick.yaml", small_set(figures=[]))
    done = project.snakemake("--cores", "2", MLFLOW_TRACKING_URI=server)
    assert done.returncode == 0, done.stdout
    assert_tracked(project, server, runs=2)


@pytest.mark.scale
def test_quick_is_tracked_by_a_server_on_postgresql(project: Project, server: str) -> None:
    done = project.snakemake("--cores", "2", MLFLOW_TRACKING_URI=server)
    assert done.returncode == 0, done.stdout
    assert_tracked(project, server, runs=18)
