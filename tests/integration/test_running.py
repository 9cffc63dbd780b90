"""`biva run`: a set without Snakemake and MLflow, in several calls of limited time, and what it brings home."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load, load_file

from biva.errors import UserError
from biva.records import RunFolder, read_json, write_json
from biva.running import Step, pack, steps, work
from tests.commands import assert_parsed
from tests.workflow.conftest import copy_project

SETTINGS: dict[str, Any] = {
    "description": "BIVA by the clock, and its fine-tuning",
    "device": "cpu",
    "threads": 1,
    "runs": [{"dataset": "digits", "architecture": "digits_8x8", "model": "biva", "seeds": [1]}],
    "training": {
        **{"protocol": "clean", "minutes": 0.05, "max_updates": 10**6, "batch_size": 48},
        **{"evaluate_every": 20, "learning_rate": 0.01, "ema_decay": 0.9},
    },
    "evaluation": {"importance_samples": [1, 5], "prior_samples": 4},
    "tables": [{"name": "digits", "dataset": "digits", "k": [1, 5]}],
    "figures": ["learning_curves", "samples"],
}
SETTINGS["finetuning"] = {"models": ["biva"], "training": SETTINGS["training"] | {"minutes": 0.02, "free_bits": 0}}
RUNS = [f"half_minute/runs/digits/digits_8x8/{model}/seed1" for model in ("biva", "biva_finetuned")]


def biva(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{folder / 'bare'}:{folder}", "BIVA_COMMIT": "5" * 40}
    command = [sys.executable, "-m", "biva", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def brought_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the set was run by one call without the packages that a bare machine lacks."""
    folder = copy_project(tmp_path_factory.mktemp("bare")).path
    (folder / "config/experiments/half_minute.yaml").write_text(yaml.safe_dump(SETTINGS))
    for verb in ("fetch", "prepare"):
        assert biva(folder, verb, "digits").returncode == 0
    (folder / "bare").mkdir()
    missing = "import sys\nsys.modules.update(dict.fromkeys(('mlflow', 'snakemake', 'pooch')))\n"
    (folder / "bare/sitecustomize.py").write_text(missing)
    write_json(folder / "results/bench/digits_8x8-biva.json", {})  # measuring, which takes long, has been done
    done = biva(folder, "run", "half_minute", "--minutes", "30", "--to", "home", "--part-mb", "0.25")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All is done." in done.stdout
    return folder


def test_what_comes_home_is_whole(brought_home: Path, tmp_path: Path) -> None:
    """Parts of at most a quarter of a MiB; all to the byte but weights, 8 bits of each number."""
    parts = sorted((brought_home / "home").iterdir())
    assert len(parts) > 1
    assert all(0 < part.stat().st_size <= 1 << 18 for part in parts)
    with tarfile.open(fileobj=BytesIO(b"".join(part.read_bytes() for part in parts))) as tar:
        tar.extractall(tmp_path, filter="data")
    for run in RUNS:
        there, here = RunFolder(brought_home / "results" / run), RunFolder(tmp_path / "results" / run)
        for path in (*there.records(), there.arrays, there.samples):
            assert (here.path / path.relative_to(there.path)).read_bytes() == path.read_bytes()
        packed = (here.path / "weights_bf16.safetensors.gz").read_bytes()
        weights, rounded = load_file(there.weights), load(gzip.decompress(packed))
        assert weights.keys() == rounded.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(rounded[name].float(), weight, rtol=2**-8, atol=0)
    published = tmp_path / "results/published/half_minute"
    assert r"\textbf{Not the paper's schedule}" in (published / "tables/digits.tex").read_text()
    assert (tmp_path / "results/half_minute/figures/samples.png").is_file()


def test_the_results_verify_where_they_were_made_and_at_home(brought_home: Path) -> None:
    for place in ("results/half_minute", "results/published/half_minute"):
        done = biva(brought_home, "verify", place)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "2 of 2 planned runs are there, and all agrees" in done.stdout


def test_the_model_is_checked_and_measured_first_as_it_is_trained(tmp_path: Path) -> None:
    check, bench, train, *_ = steps("half_hour", tmp_path, tmp_path)
    for step in (check, bench, train):
        assert_parsed([*step.arguments])
        assert not step.done()
    assert [step.arguments[:2] for step in (check, bench)] == [("check", "biva_28x28"), ("bench", "biva_28x28")]
    assert {"--compile", "192", "cuda"} < {*bench.arguments}
    assert train.arguments == ("train", "half_hour", "mnist_static/biva_28x28/biva/seed1")


def test_what_is_done_is_left_alone(brought_home: Path) -> None:
    results = [RunFolder(brought_home / "results" / run) for run in RUNS]
    before = [(run.training.read_bytes(), run.evaluation.read_bytes()) for run in results]
    done = biva(brought_home, "run", "half_minute", "--minutes", "30", "--to", "home")
    assert "$ biva" not in done.stdout
    assert [(run.training.read_bytes(), run.evaluation.read_bytes()) for run in results] == before


def test_weights_without_room_are_named_and_the_rest_is_packed(
    brought_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(brought_home)
    whole = sum(part.stat().st_size for part in (brought_home / "home").iterdir())
    limit = whole - (1 << 16)  # less than the last weights
    (part,) = pack(["half_minute"], Path("results"), tmp_path, part_mb=15, limit_mb=limit / (1 << 20))
    assert part.stat().st_size <= limit
    assert capsys.readouterr().err.count("no room for") == 1


def test_a_training_that_the_end_of_the_time_cuts_off_goes_on(
    brought_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_project(tmp_path).path
    content = SETTINGS | {"training": SETTINGS["training"] | {"minutes": 0.3}}
    del content["finetuning"]
    (folder / "config/experiments/half_minute.yaml").write_text(yaml.safe_dump(content))
    (folder / "resources").symlink_to(brought_home / "resources")
    monkeypatch.chdir(folder)
    run = RunFolder(folder / "results" / RUNS[0])
    step = Step(("train", "half_minute", "digits/digits_8x8/biva/seed1"), run.training.is_file)
    assert not work([step], until=time.monotonic() + 12)
    saved = (run.checkpoint / "newest.pt").is_file()
    assert work([step], until=time.monotonic() + 600)
    assert read_json(run.training)["wall_seconds"] >= 18
    assert bool(read_json(run.identity).get("resumed")) == saved


def test_no_step_starts_when_the_time_is_up_and_a_failed_one_ends_the_work(capfd: pytest.CaptureFixture[str]) -> None:
    step = Step(("describe", "no_such_architecture"), lambda: False)
    assert not work([step], until=time.monotonic())
    assert capfd.readouterr().out == ""
    with pytest.raises(UserError, match="`biva describe no_such_architecture` failed with status 1"):
        work([step], until=time.monotonic() + 600)


def test_a_report_that_cannot_be_made_keeps_nothing_from_being_packed(brought_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(brought_home, folder, symlinks=True, ignore=shutil.ignore_patterns("home"))
    with (folder / "biva/reporting/figures.py").open("a") as code:
        code.write("\n\ndef draw(*_):\n    raise RuntimeError('no figures here')\n")
    done = biva(folder, "run", "half_minute", "--minutes", "30", "--to", "home")
    assert done.returncode == 1
    assert "RuntimeError: no figures here" in done.stderr
    assert (folder / "home/results.tar.00").stat().st_size > 1 << 18


def test_a_pair_that_nothing_has_scored_yet_keeps_nothing_from_being_published(
    brought_home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(brought_home, folder, symlinks=True)
    shutil.rmtree(folder / "results/published")
    pair = {"name": "patches", "normal": "digits", "anomalous": "photo_patches", "importance_samples": 2}
    (folder / "config/experiments/half_minute.yaml").write_text(yaml.safe_dump(SETTINGS | {"anomalies": [pair]}))
    done = biva(folder, "run", "half_minute", "--minutes", "30", "--to", "home")
    assert "Dataset 'photo_patches' is not prepared" in done.stderr
    assert "does not verify" not in done.stderr
    assert "not run" in (folder / "results/published/half_minute/anomalies/patches.tex").read_text()
