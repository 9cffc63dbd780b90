"""A small project in a folder of its own, and all of its results that a fault must not change."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from biva import records
from biva.records import RunFolder
from tests.faults import processes
from tests.faults.processes import Job
from tests.workflow.conftest import copy_project

RUN = "digits/tiny/biva/seed1"
EIGHT = [f"digits/tiny/vae/seed{seed}" for seed in range(1, 9)]
UPDATES = 120
CLOCK = ("seconds", "images_per_second", "wall_seconds", "finished")
"""What the clock decides."""

_ARCHITECTURE = {
    "description": "L=2, as small as can be",
    "input_shape": [1, 8, 8],
    "likelihood": "bernoulli",
    "latents": "dense",
    "filters": 4,
    "dropout": {"inference": 0.5, "generative": 0.5},
    "stages": [
        {"blocks": 1, "kernel": 3, "stride": 2, "latent": 4},
        {"blocks": 1, "kernel": 3, "stride": 2, "latent": 2},
    ],
}
_EXPERIMENTS: dict[str, Any] = {
    "description": "one short run",
    "device": "cpu",
    "threads": 1,
    "training": {
        "protocol": "clean",
        "batch_size": 18,  # that two or three processes can share
        "max_updates": UPDATES,
        "evaluate_every": 10,
        "checkpoint_seconds": 0,
    },
    "evaluation": {"importance_samples": [1, 100], "memory_budget_mb": 16},
}


@dataclass(frozen=True)
class Project:
    """Prepared digits, an experiment set `short` of one run, and a set `eight` of eight shorter ones."""

    path: Path

    @property
    def folder(self) -> RunFolder:
        return self.folder_of("short", RUN)

    @property
    def database(self) -> Path:
        return self.path / "results/mlflow/mlflow.db"

    def folder_of(self, experiments: str, run: str) -> RunFolder:
        return RunFolder(self.path / "results" / experiments / "runs" / run)

    def start(
        self,
        *arguments: str,
        variables: dict[str, str] | None = None,
        constants: dict[str, Any] | None = None,
        file_limit: int = -1,
    ) -> Job:
        """`biva` with these arguments; see `processes.biva`."""
        return processes.start(processes.biva, self.path, arguments, variables or {}, constants or {}, file_limit)

    def run(self, *arguments: str, **others: Any) -> Job:
        """`start`, and wait for its success."""
        job = self.start(*arguments, **others)
        assert job.wait() == 0, job.output
        return job

    def train(self, **others: Any) -> Job:
        return self.start("train", "short", RUN, **others)

    def evaluate(self, **others: Any) -> Job:
        return self.start("evaluate", "short", RUN, **others)

    def finish(self) -> None:
        """The same commands again, undisturbed."""
        self.run("train", "short", RUN)
        self.run("evaluate", "short", RUN)

    def outcome(self) -> dict[str, Any]:
        """All that a fault must not change."""
        folder = self.folder
        return {
            "files": sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("[!.]*")),
            "record": [_timeless(line) for line in records.read_lines(folder.record)],
            "weights": _sha256(folder.weights),
            "training": _timeless(records.read_json(folder.training)),
            "evaluation": _timeless(records.read_json(folder.evaluation)),
            "bounds": _sha256(folder.bounds),
            "arrays": _sha256(folder.arrays),
            "tracked": self.stored(),
        }

    def stored(self) -> list[dict[str, Any]]:
        """What the tracking store has of every run, doubled points too, by name; read without MLflow."""
        with closing(sqlite3.connect(self.database)) as connection:
            runs = connection.execute(
                "select run_uuid, tags.value, status, artifact_uri from runs join tags using (run_uuid) "
                "where tags.key = 'name' order by tags.value"
            ).fetchall()
            points = "select key, step, value from metrics where run_uuid = ? order by key, step, value"
            return [
                {
                    "name": name,
                    "status": status,
                    "points": [p for p in connection.execute(points, (run,)) if not _is_of_the_machine(p[0])],
                    "artifacts": list(_artifacts(Path(uri.removeprefix("file://")))),
                }
                for run, name, status, uri in runs
            ]

    def copy(self, path: Path) -> Project:
        """The same, before anything was trained."""
        shutil.copytree(self.path, path, symlinks=True, ignore=shutil.ignore_patterns("short", "eight", "logs"))
        return Project(path)


def _timeless(content: dict[str, Any]) -> dict[str, Any]:
    """Without the clock, and the commit: Snakemake's jobs run a copy of the code that is in no repository."""
    return {key: value for key, value in content.items() if key not in (*CLOCK, "commit")}


def _is_of_the_machine(metric: str) -> bool:
    return metric.endswith(CLOCK) or metric.startswith("system/")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _artifacts(folder: Path) -> Iterator[tuple[str, Any]]:
    """Names of files, with what tells that they are whole; the record with its content, arrays with their digest."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".png":
            assert content.endswith(b"IEND\xaeB`\x82"), f"{path} is cut short"
        elif path.suffix == ".jsonl":
            yield path.name, [_timeless(json.loads(line)) for line in content.splitlines()]
            continue
        elif path.suffix == ".safetensors":
            yield path.name, _sha256(path)
            continue
        else:
            json.loads(content)
        yield path.name, None


def new_project(path: Path) -> Project:
    """A project with prepared digits and an empty tracking store."""
    project = Project(path)
    copy_project(path)
    training, evaluation = _EXPERIMENTS["training"], _EXPERIMENTS["evaluation"]
    (path / "config/architectures/tiny.yaml").write_text(yaml.safe_dump(_ARCHITECTURE))
    run: dict[str, Any] = {"dataset": "digits", "architecture": "tiny"}
    short = {"runs": [run | {"model": "biva", "seeds": [1]}]}
    eight = {
        "runs": [run | {"model": "vae", "seeds": list(range(1, 9))}],
        "training": {**training, "max_updates": 20},
        "evaluation": {**evaluation, "importance_samples": [1]},
    }
    sets: dict[str, dict[str, Any]] = {"short": short, "eight": eight}
    for name, settings in sets.items():
        file = path / "config" / "experiments" / f"{name}.yaml"
        file.write_text(yaml.safe_dump(_EXPERIMENTS | settings))
    (path / "resources/digits").mkdir(parents=True)
    (path / "resources/digits/fetched.txt").write_text(project.run("fetch", "digits").output)
    project.run("prepare", "digits")
    assert processes.start(processes.empty_store, path, project.database).wait() == 0
    return project
