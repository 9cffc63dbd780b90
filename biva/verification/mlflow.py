"""What MLflow's copy of a set says otherwise than the records on disk."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from biva.records import RunFolder, manifest_digest, read_json
from biva.tracking import (
    MANIFEST,
    RECORDS,
    SUMMARY_NAME,
    StoredRun,
    TrackingError,
    finals_of,
    points_of,
    stored_runs,
    table_json,
)

SPEED = "images_per_second"


def mlflow_findings(experiments: str, folder: Path, finished: list[RunFolder]) -> Iterator[str]:
    """Differences between MLflow's copy and the disk; none where MLflow is not installed, since it has no copy there.

    Args:
        experiments: the set.
        folder: `results/NAME`.
        finished: its evaluated runs.
    """
    if find_spec("mlflow") is None:
        print(f"{folder}: MLflow is not installed here, so nothing was compared with it", file=sys.stderr)
        return
    try:
        with stored_runs(experiments) as stored, TemporaryDirectory() as scratch:
            for run in finished:
                copy = stored.get(read_json(run.identity)["run_id"])
                if copy is None:
                    yield f"{run.path}: MLflow has no finished run of this run_id; `biva track {run.path}` completes it"
                else:
                    yield from (f"{run.path}: MLflow {text}" for text in _differences(run, copy, Path(scratch)))
            if SUMMARY_NAME in stored:
                yield from _reports(folder, stored[SUMMARY_NAME], Path(scratch) / "reports")
            else:
                yield f"{folder}: MLflow has no copy of the tables and figures; `biva track` logs them"
    except TrackingError as error:
        yield f"{folder}: not compared with MLflow. {error}"


def _differences(run: RunFolder, copy: StoredRun, scratch: Path) -> Iterator[str]:
    """What one run's copy has otherwise."""
    identity = read_json(run.identity)
    tags = {name: identity[name] for name in ("name", "commit", "config_digest", "data_fingerprint")}
    for tag, value in (tags | {MANIFEST: manifest_digest(run)}).items():
        if copy.tags.get(tag) != value:
            yield f"has the tag {tag} {copy.tags.get(tag)}, the disk {value}"
    points = points_of(run)
    latest = finals_of(run) | {name: expected[-1][1] for name, expected in points.items()}
    for name, value in latest.items():
        found = copy.points(name)
        if name in points and not _same_points(name, found, points[name]):
            yield f"has other points of the metric {name} than {run.record.name}"
        elif name != SPEED and not (found and _same(found[-1][1], value) and _same(copy.metrics[name], value)):
            yield f"has {copy.metrics.get(name)} as the metric {name}, the disk {value}"
    copies = copy.download(RECORDS.as_posix(), _made(scratch / identity["run_id"]))
    for path in run.records():
        file = copies / path.relative_to(run.path)
        if not (file.is_file() and file.read_bytes() == path.read_bytes()):
            yield f"has another {path.relative_to(run.path)} than the disk"


def _same_points(name: str, found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> bool:
    """Whether steps and values agree; of the speed the steps, since a resumed run repeats updates at another one."""
    if [step for step, _ in found] != [step for step, _ in expected]:
        return False
    return name == SPEED or all(_same(one, other) for (_, one), (_, other) in zip(found, expected, strict=True))


def _same(stored: float, value: float) -> bool:
    """MLflow's databases keep an infinity as the largest number."""
    if math.isinf(value):
        return stored == value or stored == math.copysign(sys.float_info.max, value)
    return stored == value or (math.isnan(stored) and math.isnan(value))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _reports(folder: Path, copy: StoredRun, scratch: Path) -> Iterator[str]:
    """Tables and figures that are not those that were logged."""
    logged = copy.download("", _made(scratch))
    for path in sorted(path for path in logged.rglob("*") if path.is_file()):
        file = folder / path.relative_to(logged)
        if path.suffix == ".json":  # a table as MLflow keeps it, made of the .tex
            source = file.with_suffix(".tex")
            if source.is_file() and path.read_bytes() != table_json(source):
                yield f"{source} is not the one that MLflow has as {path.relative_to(logged)}"
        elif not file.is_file():
            yield f"{file} is missing; MLflow has a copy"
        elif file.read_bytes() != path.read_bytes():
            yield f"{file} is not the one that MLflow has"
