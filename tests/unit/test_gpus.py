"""Processes that claim GPUs at once. No GPU is needed: a claim is a locked file and an environment variable."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from biva.devices import _one_gpu, choose_device, claim

CLAIMANT = """
import os, sys
from pathlib import Path
from biva.devices import claim
kept = claim(["0", "1", "GPU-a1"], Path(sys.argv[1]))
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


class Claimants:
    """Processes that hold what they claimed until they are killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, number: int) -> list[str]:
        """Start so many at once; what each of them got."""
        command = [sys.executable, "-c", CLAIMANT, str(self.folder)]
        new = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(number)
        ]
        self.processes += new
        return [process.stdout.readline().strip() for process in new if process.stdout]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def claimants(tmp_path: Path) -> Iterator[Claimants]:
    started = Claimants(tmp_path / "claims")
    yield started
    started.kill()


def test_every_process_has_a_gpu_of_its_own_while_there_are_enough(claimants: Claimants) -> None:
    assert sorted(claimants.start(3)) == ["0", "1", "GPU-a1"]


def test_more_processes_than_gpus_are_spread_evenly(claimants: Claimants) -> None:
    assert sorted(claimants.start(7)) == ["0", "0", "0", "1", "1", "GPU-a1", "GPU-a1"]


def test_the_gpu_of_a_killed_process_is_free_again(claimants: Claimants) -> None:
    got = claimants.start(3)
    killed = claimants.processes[got.index("1")]
    killed.kill()
    killed.wait()
    assert claimants.start(1) == ["1"]


@pytest.mark.parametrize(
    ("variables", "device", "left"),
    [
        ({"CUDA_VISIBLE_DEVICES": "4,7"}, "auto", "4"),
        ({"CUDA_VISIBLE_DEVICES": "4,7"}, "cpu", "4,7"),
        ({"CUDA_VISIBLE_DEVICES": "4,7", "LOCAL_RANK": "1"}, "auto", "4,7"),
        ({"CUDA_VISIBLE_DEVICES": "7"}, "auto", "7"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "auto", ""),
    ],
)
def test_a_run_on_gpus_claims_one_of_several(
    variables: dict[str, str], device: str, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("biva.devices.claim", partial(claim, folder=tmp_path))
    _one_gpu.cache_clear()
    choose_device(device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == left
    _one_gpu.cache_clear()
