"""Training by several processes against training by one: real processes, most started by torchrun, talking by gloo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from biva import records
from biva.records import RunFolder
from biva.training import checkpoint
from tests.faults.project import RUN, new_project
from tests.integration.shared_training import runs, train_all
from tests.services import free_port
from tests.unit.test_training import numbers

ROOT = Path(__file__).parents[2]


def start_two(folder: Path, module: str, *arguments: str) -> subprocess.Popen[str]:
    """Two processes of `python -m module`."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return start(folder, {}, *torchrun, "-m", module, *arguments)


def start(folder: Path, variables: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_lines(folder: RunFolder, count: int, process: subprocess.Popen[str]) -> None:
    while len(records.read_lines(folder.record)) < count and process.poll() is None:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the toy runs: trained by one process, and by two."""
    alone, shared = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("shared")
    process = start_two(ROOT, "tests.integration.shared_training", str(shared))
    train_all(alone)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return alone, shared


def gradients(folder: RunFolder) -> list[torch.Tensor]:
    """Adamax's first moment: a sum of the gradients of all updates, with known factors."""
    saved = checkpoint.load(folder.checkpoint)
    assert saved is not None
    return [weight["exp_avg"] for weight in saved["optimiser"]["state"].values()]


@pytest.mark.parametrize("name", runs())
def test_two_processes_compute_what_one_does(trained: tuple[Path, Path], name: str) -> None:
    """Record, gradients and weights, with dropout, noise, free bits and initialisation; sums in another order."""
    alone, shared = (RunFolder(folder / name) for folder in trained)
    assert records.read_json(shared.identity)["device"] == "2 x cpu"
    ours, theirs = numbers(shared), numbers(alone)
    assert [line["update"] for line in ours] == [3, 6]
    for one, other in zip(ours, theirs, strict=True):
        for part in ("train", "selection"):
            assert one[part] == pytest.approx(other[part], rel=1e-5, abs=1e-5)
    largest = max(gradient.abs().max().item() for gradient in gradients(alone))
    torch.testing.assert_close(gradients(shared), gradients(alone), rtol=1e-3, atol=1e-5 * largest)
    torch.testing.assert_close(load_file(shared.weights), load_file(alone.weights), rtol=1e-4, atol=1e-5)


def test_all_processes_skip_the_batch_that_is_broken_in_one(trained: tuple[Path, Path]) -> None:
    for folder in trained:
        assert [line["skipped_updates"] for line in numbers(RunFolder(folder / "broken"))] == [2, 2]


def test_stopped_then_one_of_two_killed_then_finished_by_one(tmp_path: Path) -> None:
    project = new_project(tmp_path / "project")
    alone = project.copy(tmp_path / "alone")
    alone.run("train", "short", RUN)

    process = start_two(project.path, "biva", "train", "short", RUN)
    wait_for_lines(project.folder, 2, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert err.count("stopped by SIGTERM at update") == 1, err

    process = start_two(project.path, "biva", "train", "short", RUN)
    wait_for_lines(project.folder, 4, process)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert "exitcode  : -9" in err, err  # torchrun stops the other one, which may have no time left to say anything

    project.run("train", "short", RUN)
    ours, theirs = numbers(project.folder), numbers(alone.folder)
    assert [line["update"] for line in ours] == [line["update"] for line in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for part in ("train", "selection"):
            assert one[part] == pytest.approx(other[part], rel=1e-4, abs=1e-4)
    devices = [start["device"] for start in records.read_json(project.folder.identity)["resumed"]]
    assert devices == ["2 x cpu", "cpu"]


def test_a_process_that_lost_the_other_says_so_and_what_to_do(tmp_path: Path) -> None:
    """Two processes without torchrun, which would stop the one that is left."""
    project = new_project(tmp_path / "project")
    there = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    one, other = (
        start(project.path, there | {"RANK": rank, "LOCAL_RANK": rank}, "-m", "biva", "train", "short", RUN)
        for rank in "01"
    )
    wait_for_lines(project.folder, 2, one)
    other.kill()
    _, err = one.communicate(timeout=120)
    other.communicate()
    assert one.returncode == 1
    assert "error: Process 0 of 2 lost the others" in err, err
    assert "Start the same command again" in err, err
    assert "Traceback" not in err, err
