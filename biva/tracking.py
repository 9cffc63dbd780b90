"""The MLflow mirror of run folders.

The record on disk is the truth (`biva.records`); MLflow shows it and can give it back. Mirroring is idempotent: what
the store already has is not logged again, so it may be called after every evaluation, after a kill, or years later.

The store is `MLFLOW_TRACKING_URI`, or else `results/mlflow/mlflow.db` below the current folder. An experiment set is
an MLflow experiment; a run folder is a run in it, found by the tag `biva.run_id`, with a child run for its evaluation
and for every anomaly pair, found by the tag `biva.record`; the set's tables and figures are one more run, found by the
tag `biva.summary`. The numbers of a child are those of its parent too, so that one table compares runs.

MLflow and torch are imported inside the functions that need them: training works without MLflow, and records can be
read back from MLflow and verified without torch.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import url2pathname

from biva.config import FigureName
from biva.errors import UserError, explained
from biva.locks import locked
from biva.records import (
    PUBLISHED,
    RunFolder,
    anomaly_metrics,
    flatten,
    is_ours,
    manifest_digest,
    read_json,
    read_lines,
    sha256,
    write_json,
)

STORE = Path("results/mlflow")
"""Folder of the database and the artifacts, unless MLFLOW_TRACKING_URI names another store."""

# Names in the store.
SUMMARY_NAME = "tables and figures"  # second half of the name of an experiment set's summary run
MANIFEST = "biva.manifest"  # tag: SHA-256 of a run's manifest.json, set once the artifacts are those that it lists
RECORD = "biva.record"  # tag of an evaluation's child run: SHA-256 of the record that it shows
SAMPLES = "biva.samples"  # tag: SHA-256 of the samples.safetensors whose images are among the artifacts
PARENT = "mlflow.parentRunId"  # MLflow's tag for the parent of a run
RECORDS = Path("record")  # artifact folder of a run's record files

RETRY_SECONDS = 300
BATCH = 1000
"""The largest number of metric points per request that MLflow accepts."""

MARKER = "epoch"
"""Metric that says which updates the store has. MLflow writes a batch in one transaction, and an update is never split
over two batches, so an update with this metric is complete."""

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
"""Defaults for MLflow: nothing is reported to anyone, nothing but ours is printed, a dead server costs seconds. No
request is repeated, since its answer may be all that was lost: the next mirroring looks first at what the store has."""

_not_before: dict[str, float] = {}
"""Store address -> monotonic time before which `mirror_or_warn` leaves it alone, since it just failed."""


class TrackingError(UserError):
    """The MLflow store cannot be used. The records on disk are not affected."""


# --------------------------------------------------------------------------------------------------------- mirroring


def mirror(folder: RunFolder) -> None:
    """Bring the MLflow run of a run folder up to date with its records.

    Raises:
        TrackingError: MLflow is not installed, or its store is unreachable, locked or refuses.
        UserError: the folder has no `run.json`.
    """
    run = read_json(folder.identity)
    with usable_store(), locked(folder.path / ".mirror.lock"):
        client, experiment = _open_experiment(run["experiments"])
        stored = _find_run(client, experiment, "biva.run_id", run["run_id"]) or _create_run(client, experiment, run)
        _keep_id(folder, stored)
        _log_parent(client, experiment, stored, run)
        _log_parameters(client, stored, run)
        _log_input(client, stored, run)
        _log_history(client, stored, run, read_lines(folder.record))
        _log_samples(client, stored, folder)
        if folder.training.is_file():
            for result in _results(folder):
                _log_result(client, stored, result)
                if result.path != folder.training:
                    _log_child(client, experiment, stored, result)
            _log_purpose(client, stored, folder)
            _log_artifacts(client, stored, folder)
        run_id = stored.info.run_id
        if folder.evaluation.is_file():
            client.set_terminated(run_id, "FINISHED", _milliseconds(read_json(folder.evaluation)["finished"]))
        else:  # a killed run stays RUNNING and goes on when it is resumed
            client.update_run(run_id, status="RUNNING")


def mirror_or_warn(folder: RunFolder) -> None:
    """Do as `mirror`, but make whatever goes wrong one warning and never the end of a training.

    After a failure the store is left alone for `RETRY_SECONDS`, so that a dead one does not slow training down.
    """
    address = _address()
    if time.monotonic() < _not_before.get(address, 0.0):
        return
    try:
        mirror(folder)
    except Exception as error:  # a library's bug must not stop days of training either
        _not_before[address] = time.monotonic() + RETRY_SECONDS
        _warn_once(f"{_without_password(str(error))} The run goes on; `biva track {folder.path}` completes the mirror.")


@cache
def _warn_once(message: str) -> None:
    logging.getLogger(__name__).warning("%s", message)


@contextmanager
def mirroring(folder: RunFolder) -> Iterator[Callable[[], None]]:
    """While a run is trained: gives what to call after every evaluation, which is `mirror_or_warn`.

    From the first of these calls on, MLflow's own monitor logs the machine's load beside the run: CPU, memory, disk,
    network, and GPUs where `nvidia-ml-py` is installed; every 10 seconds, or MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.
    """
    monitors: list[Any] = []

    def mirror_and_watch() -> None:
        mirror_or_warn(folder)
        if monitors or time.monotonic() < _not_before.get(_address(), 0.0):
            return
        with suppress(Exception):  # a run without the machine's load is no less a run
            from mlflow.system_metrics import system_metrics_monitor

            run = read_json(folder.identity)
            stored = _find_run(*_open_experiment(run["experiments"]), "biva.run_id", run["run_id"])
            make: Any = system_metrics_monitor.SystemMetricsMonitor
            monitors.append(make(stored.info.run_id, resume_logging=True, tracking_uri=_address()))
            monitors[0].start()

    try:
        yield mirror_and_watch
    finally:
        for monitor in monitors:
            monitor.finish()


def mirror_reports(experiments: str, results_folder: Path) -> None:
    """Log an experiment set's page, `results.csv`, summary, tables and figures as artifacts of its one summary run.

    Runs that MLflow got after `results.csv` was written get their ids into it first.

    Raises:
        TrackingError: as for `mirror`.
        UserError: `results.csv` is not what biva writes.
    """
    from biva.reporting.results import name_tracked

    with usable_store():
        client, experiment = _open_experiment(experiments)
        with _alone():
            stored = _find_run(client, experiment, "biva.summary", experiments) or client.create_run(
                experiment, run_name=f"{experiments} / {SUMMARY_NAME}", tags={"biva.summary": experiments}
            )
        run_id = stored.info.run_id
        if (csv := results_folder / "results.csv").is_file():
            runs = _finished_runs(client, experiment)
            name_tracked(csv, {run.data.tags["biva.run_id"]: run.info.run_id for run in runs})
        for name in ("index.html", "results.csv", "summary.tex", "summary.pdf"):
            if (results_folder / name).is_file():
                client.log_artifact(run_id, str(results_folder / name))
        reports = [path for kind in ("tables", "figures", "anomalies") for path in (results_folder / kind).glob("*")]
        reports = sorted(path for path in reports if is_ours(path) and path.is_file())
        for path in reports:
            client.log_artifact(run_id, str(path), path.parent.name)
        tables = [path.relative_to(results_folder).as_posix() for path in reports if path.suffix == ".json"]
        shown = [{"path": path, "type": "table"} for path in tables]
        client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(shown))
        client.set_terminated(run_id)


# ------------------------------------------------------------------------------------------------ read back from MLflow


def records_from_mlflow(experiments: str, into: Path) -> list[RunFolder]:
    """Download the records of every finished run of an experiment set; of runs with one name, the newest.

    `into` gets `DATASET/ARCHITECTURE/MODEL/seedN/` for every run, as `results/EXPERIMENTS/runs/` has.

    Raises:
        TrackingError: as for `mirror`, or the store has no such experiment.
    """
    with usable_store(), tempfile.TemporaryDirectory() as scratch:
        client, experiment = _existing_experiment(experiments)
        newest = _newest(client, experiment)
        for name in newest:
            if not re.fullmatch("[a-z0-9_]+(/[a-z0-9_]+){3}", name):
                raise TrackingError(f"MLflow at {_address()} has a run named {name!r}, which biva names none.")
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
        client, experiment = _existing_experiment(experiments)
        newest = _newest(client, experiment)
    if not newest:
        raise TrackingError(f"MLflow at {_address()} has no finished run of {experiments!r} yet.")
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

    @property
    def tags(self) -> dict[str, str]:
        return dict(self.run.data.tags)

    @property
    def metrics(self) -> dict[str, float]:
        """The latest value of every metric."""
        return dict(self.run.data.metrics)

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
        client, experiment = _existing_experiment(experiments)
        found = {run.data.tags["biva.run_id"]: run for run in _finished_runs(client, experiment)}
        if summary := _find_run(client, experiment, "biva.summary", experiments):
            found[SUMMARY_NAME] = summary
        yield {name: StoredRun(client, run) for name, run in found.items()}


def points_of(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every point that `mirror` logs of an evaluated run, by metric."""
    points: dict[str, list[tuple[int, float]]] = {}
    for line in read_lines(folder.record):
        for name, value in _metrics_of(line).items():
            points.setdefault(name, []).append((line["update"], value))
    return points


def finals_of(folder: RunFolder) -> dict[str, float]:
    """The metrics that are one number each, as `mirror` logs them of a trained run."""
    return {name: value for result in _results(folder) for name, value in result.metrics.items()}


def _existing_experiment(experiments: str) -> tuple[Any, str]:
    database = _database()
    client = _client() if database is None or database.is_file() else None
    experiment = client.get_experiment_by_name(experiments) if client else None
    if experiment is None:
        raise TrackingError(
            f"MLflow at {_address()} has no experiment {experiments!r}. "
            "`biva track RUN_DIR ...` mirrors the runs that exist on disk."
        )
    _expect_not_moved(experiment)
    return client, experiment.experiment_id


def _finished_runs(client: Any, experiment: str) -> list[Any]:
    """All finished runs of models in the store, evaluations and the tables' run left out."""
    found = client.search_runs([experiment], "attributes.status = 'FINISHED'", max_results=50_000)  # MLflow's limit
    return [stored for stored in found if "biva.run_id" in stored.data.tags]


def _newest(client: Any, experiment: str) -> dict[str, str]:
    """The finished runs' names -> MLflow's ids, sorted by name; of runs with one name, the newest."""
    by_start = sorted(_finished_runs(client, experiment), key=lambda run: run.info.start_time)
    return dict(sorted({run.data.tags["name"]: run.info.run_id for run in by_start}.items()))


# --------------------------------------------------------------------------------------------------------- the store


ADDRESS = r"https?://[^/\s]+(/\S*)?|sqlite:///.+|(postgresql|mysql|mssql)(\+\w+)?://.+|databricks(://.*)?"
"""What MLFLOW_TRACKING_URI may be. Whatever else MLflow takes is a folder to it, whose time is over."""


def _address() -> str:
    """Of the store. An address ends at `?`, so a folder with that name is left to the current folder."""
    store = STORE if "?" in str(Path.cwd()) else STORE.resolve()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store / 'mlflow.db'}"


def is_server(address: str) -> bool:
    """Whether a tracking address is that of a running server, and not of a database."""
    return address.startswith(("http://", "https://"))


def _database() -> Path | None:
    """The file of a sqlite store; None for a server."""
    address = _address()
    is_file = address.startswith("sqlite:///")
    return Path(address.removeprefix("sqlite:///").partition("?")[0]) if is_file else None


def _artifacts(experiment: str) -> Path | None:
    """Where a sqlite store has the artifacts of an experiment: beside its file; None: a server decides."""
    database = _database()
    return database.parent.resolve() / "artifacts" / experiment if database else None


def _former_artifacts(experiment: str, location: str) -> Path | None:
    """Where a store that was moved or copied has the artifacts of an experiment; None: where they belong."""
    place, former = _artifacts(experiment), Path(url2pathname(location.removeprefix("file://")))
    if place is None or former == place or former.parts[-2:] != place.parts[-2:]:
        return None
    return None if place.is_dir() and former.is_dir() and place.samefile(former) else former


def _expect_not_moved(experiment: Any) -> None:
    if former := _former_artifacts(experiment.name, experiment.artifact_location):
        raise TrackingError(
            f"The store {_address()} was moved or copied: artifacts of {experiment.name!r} would go to {former}, not "
            f"to {_artifacts(experiment.name)}. `biva track RUN_DIR ...`, with any of its runs, corrects the store."
        )


def follow_move() -> None:
    """Let a sqlite store that was moved or copied with its artifacts look for them where they are now.

    Raises:
        TrackingError: they are still where they were; or as for `mirror`.
    """
    database = _database()
    if database is None or not database.is_file():
        return
    with usable_store(), _alone(), closing(sqlite3.connect(database)) as connection, connection:
        for name, location in connection.execute("SELECT name, artifact_location FROM experiments").fetchall():
            place = _artifacts(name)
            if place is None or (former := _former_artifacts(name, location)) is None:
                continue
            if former.is_dir() and not place.is_dir():
                raise TrackingError(
                    f"The store {database} was moved without its artifacts. Move the folder {former.parent} to "
                    f"{place.parent}, then run the same command again."
                )
            for column in ("experiments.artifact_location", "runs.artifact_uri", "logged_models.artifact_location"):
                table, _, field = column.partition(".")
                connection.execute(
                    f"UPDATE {table} SET {field} = ?1 || substr({field}, length(?2) + 1) "
                    f"WHERE {field} = ?2 OR substr({field}, 1, length(?2) + 1) = ?2 || '/'",
                    (place.as_uri(), location),
                )
            print(f"{database}: artifacts of {name} are now in {place}, no more in {former}", file=sys.stderr)


@contextmanager
def _alone() -> Iterator[None]:
    """Lets no other process create anything in a sqlite store meanwhile, and creates the store where there is none.

    MLflow's own creation fails in all processes that meet a fresh file at once, and it cannot use half of a database,
    which a kill leaves: here a database has another name until it is whole.
    """
    database = _database()
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with locked(database.parent / ".lock"):
        if not database.exists():
            temporary = database.with_name(f".{database.name}.tmp")
            for left_by_a_kill in database.parent.glob(f"{temporary.name}*"):
                left_by_a_kill.unlink()
            _make_database(temporary)
            os.replace(temporary, database)
        yield


def _prepare_mlflow() -> None:
    """Have MLflow imported and quiet, and a database that does not answer asked once, not for a hundred seconds."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow.store.db.utils
    except ImportError as error:
        raise TrackingError(f"MLflow cannot be imported ({error}).") from None
    mlflow.store.db.utils.MAX_RETRY_COUNT = 1
    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # an error is raised too, and reported in one line


def _client() -> Any:
    _prepare_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=_address())


def _make_database(path: Path) -> None:
    """A new sqlite store. The place of MLflow's own artifacts is an address: as a path, quotes in it would fail."""
    _prepare_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    make: Any = SqlAlchemyStore
    make(f"sqlite:///{path}", (path.parent.absolute() / "artifacts").as_uri())


def _open_experiment(name: str) -> tuple[Any, str]:
    """The client, and the id of the experiment, created where it is missing; another machine may be creating it too."""
    artifacts = _artifacts(name)
    tags = {"mlflow.experimentKind": "custom_model_development"}  # else pages show what there is for language models
    with _alone():
        client = _client()
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return client, client.create_experiment(name, artifacts.as_uri() if artifacts else None, tags)
            except Exception:
                experiment = client.get_experiment_by_name(name)
                if experiment is None:
                    raise
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"The MLflow experiment {name!r} at {_address()} was deleted. Restore it: "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`."
        )
    _expect_not_moved(experiment)
    return client, experiment.experiment_id


@contextmanager
def usable_store() -> Iterator[None]:
    """Turns every way in which a store can fail into a TrackingError of one line, without passwords."""
    address = _address()
    if not re.fullmatch(ADDRESS, address):
        raise TrackingError(
            f"MLFLOW_TRACKING_URI is {_without_password(address)!r}, which is no address of MLflow. Expected "
            "http://HOST:PORT, of a server, or sqlite:////PATH/mlflow.db; without it MLflow is results/mlflow/."
        )
    try:
        yield
    except TrackingError as error:
        raise TrackingError(_without_password(str(error))) from None
    except UserError:
        raise
    except Exception as error:
        libraries = ("mlflow", "sqlalchemy", "alembic", "sqlite3")
        of_a_variable = isinstance(error, ValueError) and re.search("MLFLOW_|environment variable", str(error))
        of_a_library = isinstance(error, OSError | ImportError) or type(error).__module__.split(".")[0] in libraries
        if not (of_a_variable or of_a_library):
            raise
        message = f"MLflow at {address} cannot be used: {_reason(error)}"
        raise TrackingError(_without_password(message.rstrip(".") + ".")) from error


LONGEST_PATH = 499
"""Bytes of the longest path at which sqlite opens a database, of 512, with room for what it and we add to its name."""


def _reason(error: Exception) -> str:
    """Why a store failed, in a line."""
    address, database = _address(), _database()
    if database and len(path := os.fsencode(database.absolute())) > LONGEST_PATH:
        return (
            f"sqlite takes paths of up to {LONGEST_PATH} bytes, this one has {len(path)}. Move the project to a folder "
            "with a shorter path, or name another store in MLFLOW_TRACKING_URI"
        )
    if is_server(address) and (other := _other_than_mlflow(address)):
        return f"it is no MLflow server, which would tell its version at {other}. Correct MLFLOW_TRACKING_URI"
    if isinstance(error, OSError):
        return explained(error)
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _other_than_mlflow(server: str) -> str:
    """What answers in the place of an MLflow server; nothing where it is one, or where nothing answers."""
    import requests

    page = f"{server.rstrip('/')}/version"
    try:
        answer = requests.get(page, timeout=10)
    except requests.RequestException:
        return ""
    return "" if re.fullmatch(r"\d+\.\S+", answer.text.strip()) else f"{page}, but gives HTTP {answer.status_code}"


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//", text)


def _find_run(client: Any, experiment: str, tag: str, value: str) -> Any:
    """The run that has a tag, or None."""
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
    return found[0] if found else None


# -------------------------------------------------------------------------------------------- what a run is and was fed


def _create_run(client: Any, experiment: str, run: dict[str, Any]) -> Any:
    from mlflow.entities import Metric

    config, started = run["config"], _milliseconds(run["started"])
    created = client.create_run(
        experiment,
        start_time=started,
        run_name=f"{config['dataset']} / {run['variant']} / seed {config['seed']}",
        tags={
            "biva.run_id": run["run_id"],
            **{name: run[name] for name in ("name", "experiments", "started", "commit", "config_digest", "device")},
            "data_fingerprint": run["data_fingerprint"],
            "protocol": config["training"]["protocol"],
            "dataset": config["dataset"],
            "model": run["variant"],
            "architecture": config["architecture_name"],
            "seed": str(config["seed"]),
            "mlflow.source.type": "LOCAL",
            "mlflow.source.name": f"biva train {run['experiments']} {run['name']}",
            "mlflow.source.git.commit": run["commit"],
        },
    )
    client.log_batch(created.info.run_id, [Metric(name, math.nan, started, 0) for name in _first_metrics(run)])
    return created


def _first_metrics(run: dict[str, Any]) -> list[str]:
    """What MLflow's page that compares runs should begin with: it takes the metric of which a store heard first.

    So a new run gets them as not a number, until its evaluation knows better. Needs `config/`.
    """
    from biva.config import load_experiments

    if run["config"].get("labels"):
        return ["test/test_error"]
    with suppress(UserError):
        ks = load_experiments(run["experiments"]).evaluation.importance_samples
        return [f"test/log_likelihood_bound_k{k}" for k in sorted({min(ks), max(ks)})]
    return []


def _keep_id(folder: RunFolder, stored: Any) -> None:
    """Note MLflow's id of a run beside its records, for `results.csv`; a published copy keeps that of its origin."""
    content = {"run_id": stored.info.run_id}
    is_copy = PUBLISHED in folder.path.parts[-7:-6]
    if not is_copy and not (folder.mlflow.is_file() and read_json(folder.mlflow) == content):
        write_json(folder.mlflow, content)


def _milliseconds(iso: str) -> int:
    """An ISO 8601 time as milliseconds since 1970, as MLflow counts."""
    return round(1000 * datetime.fromisoformat(iso).timestamp())


def _log_parent(client: Any, experiment: str, stored: Any, run: dict[str, Any]) -> None:
    """A fine-tuned run is a child of the run that it goes on from, as soon as the store has that one."""
    if run["parent"] and PARENT not in stored.data.tags:
        parent = _find_run(client, experiment, "biva.run_id", run["parent"]["run_id"])
        if parent:
            client.set_tag(stored.info.run_id, PARENT, parent.info.run_id)


def _log_parameters(client: Any, stored: Any, run: dict[str, Any]) -> None:
    """What decided the run. MLflow's page that compares runs begins with the first three, by name, that differ: model,
    parameters and seed, if what belongs to training is named so.
    """
    from mlflow.entities import Param

    config = dict(run["config"])
    training = config.pop("training") | {name: config.pop(name, None) for name in ("finetunes", "labels")}
    settings = config | {"training": training, "parameters": run["parameters"], "versions": run["versions"]}
    missing = [Param(key, value) for key, value in flatten(settings).items() if key not in stored.data.params]
    if missing:
        client.log_batch(stored.info.run_id, params=missing)


def _log_input(client: Any, stored: Any, run: dict[str, Any]) -> None:
    """Lineage: the prepared data. MLflow keeps 36 characters of a digest; the tag has the whole fingerprint."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    if stored.inputs.dataset_inputs:
        return
    name = run["config"]["dataset"]
    tags = {"mlflow.source.name": f"biva prepare {name}", "mlflow.source.git.commit": run["commit"]}
    dataset = Dataset(name, run["data_fingerprint"][:36], "code", json.dumps({"tags": tags}, sort_keys=True))
    inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
    try:
        client.log_inputs(stored.info.run_id, inputs)
    except MlflowException:  # another run was entering the same dataset at this moment; now it is there to be found
        client.log_inputs(stored.info.run_id, inputs)


def _log_purpose(client: Any, stored: Any, folder: RunFolder) -> None:
    """What the run reproduces and how far it is from that: a tag to filter by, and a note. Both need `config/`."""
    from biva.config import CONFIG_FOLDER, RunConfig, load_experiments, parse
    from biva.reporting.comparison import note, reproduced
    from biva.reporting.results import load_paper_results

    identity = read_json(folder.identity)
    try:
        tables = load_experiments(identity["experiments"]).all_tables
        paper = load_paper_results(CONFIG_FOLDER / "paper_results.csv")
    except UserError:
        return
    run = parse(RunConfig, identity["config"], folder.identity)
    names = ", ".join(reproduced(run, tables)) or "none"
    for tag, value in {"paper_table": names, "mlflow.note.content": note(folder, run, tables, paper)}.items():
        if stored.data.tags.get(tag) != value:
            client.set_tag(stored.info.run_id, tag, value)


# ----------------------------------------------------------------------------------------------------------- numbers


def _log_history(client: Any, stored: Any, run: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """The lines of `record.jsonl` that the store lacks; step: update, time: start of the run plus training seconds."""
    from mlflow.entities import Metric

    run_id, started = stored.info.run_id, _milliseconds(run["started"])
    known = {point.step for point in client.get_metric_history(run_id, MARKER)}
    new = [line for line in lines if line["update"] not in known]
    whole = BATCH // len(_metrics_of(new[0])) if new else 1
    for start in range(0, len(new), whole):
        points = [
            Metric(name, value, started + round(1000 * line["seconds"]), line["update"])
            for line in new[start : start + whole]
            for name, value in _metrics_of(line).items()
        ]
        client.log_batch(run_id, metrics=points)


def _metrics_of(line: dict[str, Any]) -> dict[str, float]:
    """MLflow names of the numbers of one line."""
    metrics = {name: line[name] for name in ("epoch", "learning_rate", "images_per_second", "skipped_updates")}
    for section in ("train", "selection"):
        metrics |= {f"{section}/{name}": value for name, value in line[section].items()}
    metrics |= {f"kl/{group}": value for group, value in line["kl_per_group"].items()}
    return metrics | {f"active_units/{group}": units["active"] for group, units in line["active_units"].items()}


@dataclass(frozen=True)
class _Result:
    """A finished record of a run and the metrics in it that are one number each."""

    path: Path
    record: dict[str, Any]
    metrics: dict[str, float]
    update: int
    """The selected update, of whose weights the record is; MLflow's step."""

    @property
    def finished(self) -> int:
        """When the record was finished, in milliseconds since 1970."""
        return _milliseconds(self.record["finished"])


def _results(folder: RunFolder) -> Iterator[_Result]:
    """The records that a trained run has, of its training, its evaluation and its anomaly pairs."""
    training = read_json(folder.training)
    update = training["selected"]["update"]
    metrics = {f"training/{name}": training[name] for name in ("updates", "epochs", "images_seen", "wall_seconds")}
    metrics |= {f"selected/{name}": value for name, value in training["selected"].items()}
    yield _Result(folder.training, training, metrics, update)
    if folder.evaluation.is_file():
        evaluation = read_json(folder.evaluation)
        yield _Result(folder.evaluation, evaluation, _evaluation_metrics(evaluation), update)
    for path in folder.anomalies():
        record, metrics = read_json(path), {}
        for entry in anomaly_metrics(record):
            name = entry["metric"]
            metrics |= {name: entry["value"], f"{name}_low": entry["low"], f"{name}_high": entry["high"]}
        yield _Result(path, record, metrics, update)


def _evaluation_metrics(evaluation: dict[str, Any]) -> dict[str, float]:
    """Metrics such as `test/log_likelihood_bound_k1000`."""
    metrics: dict[str, float] = {}
    for entry in evaluation["metrics"]:
        name = entry["metric"] + (f"_k{entry['k']}" if entry["k"] is not None else "")
        metrics[name] = entry["value"]
        if entry["standard_error"] is not None:
            metrics[f"{name}_standard_error"] = entry["standard_error"]
    metrics |= {f"kl/{group}": kl["value"] for group, kl in evaluation["kl_per_group"].items()}
    metrics |= {f"active_units/{group}": units["active"] for group, units in evaluation["active_units"].items()}
    if "zero_weights" in evaluation:  # a run with labels draws no importance samples
        metrics["zero_weights"] = evaluation["zero_weights"]["samples"]
    return {f"{evaluation['split']}/{name}": value for name, value in metrics.items()}


def _log_result(client: Any, stored: Any, result: _Result) -> None:
    """Log a record's metrics; a repeated evaluation that gives another number is added as the latest."""
    from mlflow.entities import Metric

    logged = stored.data.metrics
    points = [
        Metric(name, value, result.finished, result.update)
        for name, value in result.metrics.items()
        if repr(logged.get(name)) != repr(float(value))  # as text, since nan differs from itself
    ]
    if points:
        client.log_batch(stored.info.run_id, metrics=points)


def _log_child(client: Any, experiment: str, parent: Any, result: _Result) -> None:
    """A child run for a record of an evaluation; another evaluation of the same run gets another child."""
    from mlflow.entities import Param

    record, digest = result.record, sha256(result.path)
    kind = "evaluation" if "scores" not in record else f"anomaly {result.path.stem}"
    child = _find_run(client, experiment, RECORD, digest)
    if child is None:
        tags = {name: parent.data.tags[name] for name in ("dataset", "model", "protocol")}
        child = client.create_run(
            experiment,
            start_time=result.finished - round(1000 * record["wall_seconds"]),
            run_name=f"{parent.info.run_name} / {kind}",
            tags=tags | {RECORD: digest, PARENT: parent.info.run_id},
        )
    if child.info.status != "FINISHED":
        settings = flatten({"evaluation": record["settings"], "device": record["device"]})
        client.log_batch(child.info.run_id, params=[Param(key, value) for key, value in settings.items()])
        _log_result(client, child, result)
        client.set_terminated(child.info.run_id, "FINISHED", result.finished)


# --------------------------------------------------------------------------------------------------- files and pictures


def _log_artifacts(client: Any, stored: Any, folder: RunFolder) -> None:
    """The record files, from which everything can be rebuilt, and figures for people, once the run has changed."""
    run_id, digest = stored.info.run_id, manifest_digest(folder)
    if stored.data.tags.get(MANIFEST) == digest:
        return
    for file in folder.records():
        client.log_artifact(run_id, str(file), (RECORDS / file.relative_to(folder.path).parent).as_posix())
    if folder.arrays.is_file() and read_json(folder.identity)["config"].get("labels") is None:
        _log_figures(client, run_id, folder, "samples", "reconstructions", "kl_per_layer", "latents_over_training")
    client.set_tag(run_id, MANIFEST, digest)


def _log_samples(client: Any, stored: Any, folder: RunFolder) -> None:
    """Whenever a training has drawn samples: all of them as sheets, and the KL of every latent group up to then.

    MLflow's own images by step are not used: it shows them below all parameters of the run.
    """
    if not folder.samples.is_file() or stored.data.tags.get(SAMPLES) == (digest := sha256(folder.samples)):
        return
    from safetensors.torch import load
    from torch.nn.functional import interpolate

    from biva.vision import torchvision

    with tempfile.TemporaryDirectory() as scratch:
        for update, images in load(folder.samples.read_bytes()).items():
            columns = math.isqrt(len(images))
            scale = max(1, 400 // (columns * (images.shape[3] + 1)))
            enlarged = interpolate(images.float() / 255, scale_factor=scale)
            file = Path(scratch) / f"update_{int(update):07}.png"
            torchvision.utils.save_image(enlarged, file, nrow=columns, padding=scale, pad_value=1.0)
        client.log_artifacts(stored.info.run_id, scratch, "samples")
    _log_figures(client, stored.info.run_id, folder, "latents_over_training")
    client.set_tag(stored.info.run_id, SAMPLES, digest)


def _log_figures(client: Any, run_id: str, folder: RunFolder, *figures: FigureName) -> None:
    from biva.reporting.canvas import save
    from biva.reporting.figures import draw

    with tempfile.TemporaryDirectory() as scratch:
        for figure in figures:
            save(draw(figure, [folder]), Path(scratch) / figure, kinds=("png",))
        client.log_artifacts(run_id, scratch, "figures")


# ---------------------------------------------------------------------------------------------------- the trained model


def mirror_model(folder: RunFolder) -> None:
    """Log the selected weights of a mirrored run as its model for `mlflow.pytorch.load_model`, unless MLflow has them.

    MLflow's format for PyTorch is a pickle. Ours names one class, `biva.evaluation.trained_model.TrainedModel`, which
    must be importable where it is loaded; all else in it is the configuration and the weights as bytes. biva never
    loads it. Runs that learn from labels or have no weights, such as most published ones, have no model.

    Raises:
        TrackingError: as for `mirror`.
    """
    run = read_json(folder.identity)
    if not folder.weights.is_file() or not folder.training.is_file() or run["config"].get("labels"):
        return
    with usable_store():
        client, experiment = _open_experiment(run["experiments"])
        stored = _find_run(client, experiment, "biva.run_id", run["run_id"])
        digest = sha256(folder.weights)
        if stored is None or _has_model(client, experiment, stored.info.run_id, digest):
            return
        from mlflow.entities import LoggedModelOutput

        model = client.create_logged_model(
            experiment,
            name="model",
            source_run_id=stored.info.run_id,
            tags={"weights_sha256": digest, "commit": run["commit"]},
            params={"dataset": run["config"]["dataset"], "architecture": run["config"]["architecture_name"]},
            model_type="generative",
        )
        with tempfile.TemporaryDirectory() as scratch:
            _save_model(folder, run["config"], Path(scratch) / "model", model.model_id, stored.info.run_id)
            client.log_model_artifacts(model.model_id, str(Path(scratch) / "model"))
        update = read_json(folder.training)["selected"]["update"]
        client.log_outputs(stored.info.run_id, [LoggedModelOutput(model.model_id, update)])
        client.finalize_logged_model(model.model_id, "READY")


def _has_model(client: Any, experiment: str, run_id: str, digest: str) -> bool:
    """Whether the run has a model with these weights; what a kill left half logged is deleted."""
    models = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    for model in models:
        if str(model.status) != "READY":
            client.delete_logged_model(model.model_id)
    return any(str(model.status) == "READY" and model.tags.get("weights_sha256") == digest for model in models)


def _save_model(folder: RunFolder, config: dict[str, Any], path: Path, model_id: str, run_id: str) -> None:
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    from biva.evaluation.trained_model import TrainedModel

    model = TrainedModel(json.dumps(config), folder.weights.read_bytes())
    images = TensorSpec(np.dtype("float32"), (-1, *model.input_shape), name="x")
    bound = TensorSpec(np.dtype("float32"), (-1,), name="elbo")
    mlflow.pytorch.save_model(
        model,
        str(path),
        mlflow_model=Model(model_id=model_id, run_id=run_id),
        signature=ModelSignature(Schema([images]), Schema([bound])),
        serialization_format="pickle",  # the other one, a traced graph, knows one method only
        pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", "safetensors", "pydantic"],
    )
