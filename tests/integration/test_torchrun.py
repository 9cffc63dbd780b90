"""Training by several processes: real ones, most started by torchrun, talking by gloo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from biva import records
from biva.records import RunFolder
from biva.training.distributed import Processes
from tests.faults.processes import Job, start
from tests.faults.project import RUN, Project, new_project
from tests.integration.shared_training import runs, share, update
from tests.services import free_port
from tests.unit.test_training import assert_same_result

ROOT = Path(__file__).parents[2]
TRAIN = ("train", "short", RUN)


def torchrun(folder: Path) -> subprocess.Popen[str]:
    """Training by three processes that torchrun starts."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", "-m", "biva", *TRAIN],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_two_lines(folder: RunFolder, running: Callable[[], bool]) -> None:
    """Until the record has two more than now."""
    count = len(records.read_lines(folder.record)) + 2
    while len(records.read_lines(folder.record)) < count and running():
        time.sleep(0.01)


@pytest.fixture(scope="module")
def updates(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """An update of every toy run by two processes, as either saw it."""
    folder, port = tmp_path_factory.mktemp("shared"), str(free_port())
    jobs = [start(share, folder, rank, port) for rank in "01"]
    assert [job.wait() for job in jobs] == [0, 0], [job.output for job in jobs]
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", runs())
def test_gradient_of_two_processes_is_that_of_one_with_given_noise(updates: list[dict[str, Any]], name: str) -> None:
    """Without dropout, with free bits; means over the batch, too. A batch that was broken in one process is skipped."""
    alone, (first, second) = update(runs()[name], Processes()), (rank[name] for rank in updates)
    largest = max(gradient.abs().max().item() for gradient in alone["gradients"].values())
    torch.testing.assert_close(first["gradients"], alone["gradients"], rtol=0, atol=1e-6 * max(1, largest))
    torch.testing.assert_close(second["gradients"], first["gradients"], rtol=0, atol=0)
    assert first["sums"] == second["sums"] == pytest.approx(alone["sums"], rel=1e-6)
    assert not torch.equal(*first["drawn"])


def start_three(project: Project) -> list[Job]:
    """Without torchrun, which would stop those that are left, at times before they have said anything."""
    there = {"WORLD_SIZE": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    return [project.train(variables=there | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "012"]


def test_three_stopped_then_one_of_them_killed_then_finished_by_three(tmp_path: Path) -> None:
    """They end in the bits of three that were left alone. With three, unlike two, the order of summation matters."""
    project = new_project(tmp_path / "project")
    undisturbed = project.copy(tmp_path / "undisturbed")
    jobs = start_three(undisturbed)
    assert [job.wait() for job in jobs] == [0, 0, 0], [job.output for job in jobs]

    process = torchrun(project.path)
    wait_for_two_lines(project.folder, lambda: process.poll() is None)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert err.count("stopped by SIGTERM at update") == 1, err

    *left, killed = start_three(project)
    wait_for_two_lines(project.folder, lambda: killed.running)
    killed.kill()
    for rank, job in enumerate(left):
        assert job.wait() == 1
        assert f"error: Process {rank} of 3 lost the others" in job.output, job.output
        assert "Start the same command again" in job.output, job.output
        assert "Traceback" not in job.output, job.output

    _, err = torchrun(project.path).communicate(timeout=300)
    assert project.folder.training.is_file(), err
    assert_same_result(project.folder, undisturbed.folder)
    devices = [start["device"] for start in records.read_json(project.folder.identity)["resumed"]]
    assert devices == ["3 x cpu", "3 x cpu"]
