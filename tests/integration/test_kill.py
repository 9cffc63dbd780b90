"""Training as a process: SIGKILL at random moments, SIGTERM, two writers, torchrun. Real digits, the real command."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from biva import records
from biva.records import RunFolder

ROOT = Path(__file__).resolve().parents[2]
RUN = "digits/digits_8x8/biva/seed1"
UPDATES = 40


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with prepared digits and one short run."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "config" / "experiments").mkdir(parents=True)
    for name in ("architectures", "config.yaml", "datasets.yaml"):
        (folder / "config" / name).symlink_to(ROOT / "config" / name)
    experiments = {
        "description": "one short run",
        "device": "cpu",
        "threads": 1,
        "runs": [{"dataset": "digits", "architecture": "digits_8x8", "model": "biva", "seeds": [1]}],
        "training": {
            "protocol": "clean",
            "batch_size": 16,
            "max_updates": UPDATES,
            "evaluate_every": 5,
            "checkpoint_seconds": 0,
        },
        "evaluation": {"importance_samples": [1]},
    }
    for name in ("whole", "killed", "stopped", "shared"):
        (folder / "config" / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump(experiments))
    biva(folder, "fetch", "digits")
    biva(folder, "prepare", "digits")
    biva(folder, "train", "whole", RUN)
    return folder


def start(folder: Path, *arguments: str, processes: int = 1) -> subprocess.Popen[str]:
    return start_module("biva", folder, *arguments, processes=processes)


def start_module(module: str, folder: Path, *arguments: str, processes: int) -> subprocess.Popen[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    # No tracking store: it has its own tests, and importing MLflow would take most of the time here.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    return subprocess.Popen(
        [sys.executable, *(torchrun if processes > 1 else []), "-m", module, *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def biva(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return subprocess.CompletedProcess(arguments, 0, out, err)


def run_folder(project: Path, name: str) -> RunFolder:
    return RunFolder(project / "results" / name / "runs" / RUN)


def wait_for_lines(folder: RunFolder, count: int, process: subprocess.Popen[str]) -> None:
    while len(records.read_lines(folder.record)) < count and process.poll() is None:
        time.sleep(0.01)


def result(project: Path, name: str) -> tuple[list[dict[str, Any]], bytes]:
    """The record without what the clock decides, and the weights."""
    folder = run_folder(project, name)
    lines = records.read_lines(folder.record)
    return [{k: v for k, v in x.items() if k not in ("seconds", "images_per_second")} for x in lines], (
        folder.weights.read_bytes()
    )


def test_killed_at_random_moments_ends_with_the_same_bits(project: Path) -> None:
    chance = random.Random(0)
    folder = run_folder(project, "killed")
    for kill in range(3):
        process = start(project, "train", "killed", RUN)
        wait_for_lines(folder, 2 * (kill + 1), process)
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.communicate()
    assert not folder.training.exists()
    biva(project, "train", "killed", RUN)
    assert result(project, "killed") == result(project, "whole")
    assert len(records.read_json(folder.identity)["resumed"]) == 3


def test_sigterm_saves_and_the_same_command_goes_on(project: Path) -> None:
    folder = run_folder(project, "stopped")
    process = start(project, "train", "stopped", RUN)
    wait_for_lines(folder, 3, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM at update" in err
    assert "Run the same command again" in err
    assert "Traceback" not in err
    first, second = start(project, "train", "stopped", RUN), start(project, "train", "stopped", RUN)
    errors = [process.communicate(timeout=300)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), errors
    assert sum("another process trains this run; waiting" in err for err in errors) == 1
    assert result(project, "stopped") == result(project, "whole")


def test_under_torchrun_stopped_then_one_of_two_killed_then_finished_by_one(project: Path) -> None:
    folder = run_folder(project, "shared")
    process = start(project, "train", "shared", RUN, processes=2)
    wait_for_lines(folder, 2, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert err.count("stopped by SIGTERM at update") == 1, err

    process = start(project, "train", "shared", RUN, processes=2)
    wait_for_lines(folder, 4, process)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert "Process 0 of 2 lost the others" in err or "Process 1 of 2 lost the others" in err, err

    biva(project, "train", "shared", RUN)
    ours, theirs = result(project, "shared")[0], result(project, "whole")[0]
    assert [line["update"] for line in ours] == [line["update"] for line in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for part in ("train", "selection"):
            assert one[part] == pytest.approx(other[part], rel=1e-5, abs=1e-5)
    devices = [start["device"] for start in records.read_json(folder.identity)["resumed"]]
    assert devices == ["2 x cpu", "cpu"]
