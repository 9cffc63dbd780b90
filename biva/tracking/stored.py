"""From MLflow: a set's records, what its store holds of every run, and its page that compares them."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from biva.records import RunFolder, write_json
from biva.tracking.store import (
    RECORDS,
    SUMMARY_NAME,
    TrackingError,
    existing_experiment,
    find_run,
    finished_runs,
    store_address,
    usable_store,
)


def records_from_mlflow(experiments: str, into: Path) -> list[RunFolder]:
    """Download the records of every finished run of an experiment set; of runs with one name, the newest.

    `into` gets `DATASET/ARCHITECTURE/MODEL/seedN/` for every run, as `results/EXPERIMENTS/runs/` has.

    Raises:
        TrackingError: as for `mirror`, or the store has no such experiment.
    """
    with usable_store(), tempfile.TemporaryDirectory() as scratch:
        client, experiment = existing_experiment(experiments)
        newest = _newest(client, experiment)
        for name in newest:
            if not re.fullmatch("[a-z0-9_]+(/[a-z0-9_]+){3}", name):
                raise TrackingError(f"MLflow at {store_address()} has a run named {name!r}, which biva names none.")
        for name, run_id in newest.items():
            copy = client.download_artifacts(run_id, RECORDS.as_posix(), tempfile.mkdtemp(dir=scratch))
            shutil.copytree(copy, into / name, dirs_exist_ok=True)
            write_json(RunFolder(into / name).mlflow, {"run_id": run_id})
    return [RunFolder(into / name) for name in newest]


def comparison_pages(experiments: str, server: str) -> list[str]:
    """Addresses of MLflow's page that compares the finished runs of a set; of runs with one name, the newest.

    Runs that learn from labels have no number in common with the others, and are compared on a page of their own.

    Raises:
        TrackingError: as for `mirror`, or the store has no finished run of the set.
    """
    with usable_store():
        client, experiment = existing_experiment(experiments)
        newest = _newest(client, experiment)
    if not newest:
        raise TrackingError(f"MLflow at {store_address()} has no finished run of {experiments!r} yet.")
    pages = []
    for labelled in (False, True):
        chosen = [id for name, id in newest.items() if name.rpartition("/")[0].endswith("_labels") == labelled]
        page = {"runs": json.dumps(chosen), "experiments": json.dumps([experiment]), "workflowType": "machine_learning"}
        pages += [f"{server.rstrip('/')}/#/compare-runs?{urlencode(page)}"] if chosen else []
    return pages


@dataclass(frozen=True)
class StoredRun:
    """What the store holds of one run."""

    client: Any
    run: Any

    def points(self, metric: str) -> list[tuple[int, float]]:
        """Step and value of every point of a metric, by step and time."""
        history = self.client.get_metric_history(self.run.info.run_id, metric)
        return [(point.step, point.value) for point in sorted(history, key=lambda point: (point.step, point.timestamp))]

    def download(self, path: str, into: Path) -> Path:
        """Copy an artifact, or a folder of them, below a new folder."""
        into.mkdir(parents=True)
        return Path(self.client.download_artifacts(self.run.info.run_id, path, str(into)))


@contextmanager
def stored_runs(experiments: str) -> Iterator[dict[str, StoredRun]]:
    """What the store holds of every finished run, by `biva.run_id`; of the tables and figures, by `SUMMARY_NAME`.

    It can be read within the context.

    Raises:
        TrackingError: as for `mirror`, or the store has no such experiment.
    """
    with usable_store():
        client, experiment = existing_experiment(experiments)
        found = {run.data.tags["biva.run_id"]: run for run in finished_runs(client, experiment)}
        if summary := find_run(client, experiment, "biva.summary", experiments):
            found[SUMMARY_NAME] = summary
        yield {name: StoredRun(client, run) for name, run in found.items()}


def _newest(client: Any, experiment: str) -> dict[str, str]:
    """The finished runs' names -> MLflow's ids, sorted by name; of runs with one name, the newest."""
    by_start = sorted(finished_runs(client, experiment), key=lambda run: run.info.start_time)
    return dict(sorted({run.data.tags["name"]: run.info.run_id for run in by_start}.items()))
