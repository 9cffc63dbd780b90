"""The MLflow mirror of run folders.

The record on disk is the truth (`biva.records`); MLflow shows it and can give it back. Mirroring is idempotent: what
the store already has is not logged again, so it may be called after every evaluation, after a kill, or years later.

The store is `MLFLOW_TRACKING_URI`, or else `results/mlflow/mlflow.db` below the current folder. An experiment set is
an MLflow experiment; a run folder is a run in it, found by the tag `biva.run_id`, with a child run for its evaluation
and for every anomaly pair, found by the tag `biva.record`; the set's tables and figures are one more run, found by the
tag `biva.summary`. The numbers of a child are those of its parent too, so that one table compares runs.

MLflow is imported inside the functions: training must work where it is not installed.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from filelock import FileLock

from biva.config import FigureName
from biva.errors import UserError
from biva.records import RunFolder, anomaly_metrics, manifest_digest, read_json, read_lines, sha256, variant_of

STORE = Path("results/mlflow")
"""Folder of the database and the artifacts, unless MLFLOW_TRACKING_URI names another store."""

SUMMARY_NAME = "tables and figures"
"""Second half of the name of an experiment set's summary run."""

MANIFEST = "biva.manifest"
"""Tag with the SHA-256 of a trained run's `manifest.json`; empty for runs made before there was one."""

RECORDS = Path("record")
"""Artifact folder of a run's record files."""

RECORD = "biva.record"
"""Tag of an evaluation's child run: the SHA-256 of the record that it shows."""

NOTE = "mlflow.note.content"
"""MLflow's tag for a run's description."""

RUN_FIGURES: tuple[FigureName, ...] = ("samples", "reconstructions", "kl_per_layer", "latents_over_training")
"""Figures of one run among its artifacts."""

SAMPLES = "biva.samples"
"""Tag with the SHA-256 of the `samples.safetensors` whose images are among the artifacts."""

MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Tells MLflow to show what is there for models, and not for language models; in 3.17 its pages go by their address."""

LOCK_SECONDS = 60
RETRY_SECONDS = 300
BATCH = 1000
"""Metric points per request; MLflow's limit."""

MARKER = "epoch"
"""Metric that tells which updates the store has. MLflow writes a batch in one transaction, and an update is never
split over two batches, so an update with this metric is complete."""

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
"""Defaults for MLflow: nothing is reported to anyone, nothing but ours is printed, a dead server costs seconds. No
request is repeated, since its answer may be all that was lost: the next mirroring looks first at what the store has."""

_log = logging.getLogger(__name__)
_not_before: dict[str, float] = {}
"""Store address -> monotonic time before which `mirror_or_warn` leaves it alone, since it just failed."""


class TrackingError(UserError):
    """The MLflow store cannot be used. The records on disk are not affected."""


# ------------------------------------------------------------------------------------------------------- mirroring


def mirror(folder: RunFolder) -> None:
    """Bring the MLflow run of a run folder up to date with its records.

    Raises:
        TrackingError: MLflow is not installed, or its store is unreachable, locked or refuses.
        UserError: the folder has no `run.json`.
    """
    run = read_json(folder.identity)
    with usable_store(), FileLock(folder.path / ".mirror.lock", timeout=LOCK_SECONDS):
        client, experiment = open_experiment(run["experiments"])
        stored = find_run(client, experiment, "biva.run_id", run["run_id"]) or _create_run(client, experiment, run)
        _log_parent(client, experiment, stored, run)
        _log_parameters(client, stored, run)
        _log_input(client, stored, run)
        _log_history(client, stored, run, read_lines(folder.record))
        _log_samples(client, stored, folder)
        if folder.training.is_file():
            training = read_json(folder.training)
            _log_finals(client, stored, *_training_finals(training))
            update = training["selected"]["update"]
            if folder.evaluation.is_file():
                finals = _evaluation_finals(read_json(folder.evaluation), update)
                _log_finals(client, stored, *finals)
                _log_child(client, experiment, stored, folder.evaluation, "evaluation", finals)
            for path in folder.anomalies():
                finals = _anomaly_finals(read_json(path), update)
                _log_finals(client, stored, *finals)
                _log_child(client, experiment, stored, path, f"anomaly {path.stem}", finals)
            _log_artifacts(client, stored, folder)
            _log_purpose(client, stored, folder)
            client.set_tag(stored.info.run_id, MANIFEST, manifest_digest(folder))
        _set_status(client, stored, folder)


def mirror_or_warn(folder: RunFolder) -> None:
    """`mirror`, but whatever goes wrong is one warning and never the end of a training.

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


@contextmanager
def mirroring(folder: RunFolder) -> Iterator[Callable[[], None]]:
    """While a run is trained: gives what to call after every evaluation, which is `mirror_or_warn`.

    From the first of these calls on, MLflow's own monitor logs the machine's load beside the run: CPU, memory, disk,
    network, and GPUs where `nvidia-ml-py` is installed; every 10 seconds, or MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.
    """
    monitors: list[Any] = []

    def mirror_and_watch() -> None:
        mirror_or_warn(folder)
        if not monitors and time.monotonic() >= _not_before.get(_address(), 0.0):
            with suppress(Exception):  # a run without the machine's load is no less a run
                monitors.append(_monitor(folder))

    try:
        yield mirror_and_watch
    finally:
        for monitor in monitors:
            monitor.finish()


def _monitor(folder: RunFolder) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    run = read_json(folder.identity)
    client, experiment = open_experiment(run["experiments"])
    run_id = find_run(client, experiment, "biva.run_id", run["run_id"]).info.run_id
    make: Any = SystemMetricsMonitor
    monitor = make(run_id, resume_logging=True, tracking_uri=_address())
    monitor.start()
    return monitor


@cache
def _warn_once(message: str) -> None:
    _log.warning("%s", message)


def mirror_reports(experiments: str, results_folder: Path) -> None:
    """Log an experiment set's `results.csv`, summary, tables and figures as artifacts of its one summary run.

    Args:
        experiments: name of the experiment set.
        results_folder: `results/EXPERIMENTS`.

    Raises:
        TrackingError: as for `mirror`.
    """
    with usable_store():
        client, experiment = open_experiment(experiments)
        with _setup_lock():
            stored = find_run(client, experiment, "biva.summary", experiments) or client.create_run(
                experiment, run_name=f"{experiments} / {SUMMARY_NAME}", tags={"biva.summary": experiments}
            )
        run_id = stored.info.run_id
        for name in ("results.csv", "summary.tex", "summary.pdf"):
            if (results_folder / name).is_file():
                client.log_artifact(run_id, str(results_folder / name))
        for kind in ("tables", "figures", "anomalies"):
            if (results_folder / kind).is_dir():
                client.log_artifacts(run_id, str(results_folder / kind), kind)
        _log_tables(client, run_id, results_folder)
        client.set_terminated(run_id)


def _log_tables(client: Any, run_id: str, results_folder: Path) -> None:
    """The tables as MLflow's own kind of table. `log_table` would add the rows to those that are there."""
    tables = [path for kind in ("tables", "anomalies") for path in sorted((results_folder / kind).glob("*.tex"))]
    logged = []
    with tempfile.TemporaryDirectory() as scratch:
        for path in tables:
            file = (Path(scratch) / path.relative_to(results_folder)).with_suffix(".json")
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(table_json(path))
            logged.append({"path": file.relative_to(scratch).as_posix(), "type": "table"})
        client.log_artifacts(run_id, scratch)
    client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(logged))


def table_json(tex: Path) -> bytes:
    """A table as MLflow keeps it, from its .tex."""
    from biva.reporting.html import frame

    text: str = frame(tex.read_text()).to_json(orient="split", index=False)
    return text.encode()


def records_from_mlflow(experiments: str, into: Path) -> list[RunFolder]:
    """Download the records of every finished run of an experiment set; of runs with one name, the newest.

    Args:
        experiments: name of the experiment set.
        into: gets `DATASET/ARCHITECTURE/MODEL/seedN/` for every run, as `results/EXPERIMENTS/runs/` has.

    Raises:
        TrackingError: as for `mirror`, or the store has no such experiment.
    """
    with usable_store():
        client, experiment = _existing_experiment(experiments)
        newest = _newest(client, experiment)
        for name in newest:
            if not re.fullmatch("[a-z0-9_]+(/[a-z0-9_]+){3}", name):
                raise TrackingError(f"MLflow at {_address()} has a run named {name!r}, which biva names none.")
        return [_download(client, newest[name].info.run_id, RunFolder(into / name)) for name in sorted(newest)]


@dataclass(frozen=True)
class StoredRun:
    """What the store holds of one run."""

    tags: dict[str, str]
    metrics: dict[str, float]
    """The latest value of every metric."""
    points: Callable[[str], list[tuple[int, float]]]
    """Step and value of every point of a metric, by step and time."""
    download: Callable[[str, Path], Path]
    """Copies an artifact, or a folder of them, below a folder."""


def comparison_page(experiments: str, server: str) -> str:
    """Address of MLflow's page that compares the finished runs of a set; of runs with one name, the newest.

    Args:
        experiments: name of the experiment set.
        server: address of MLflow's server, such as `http://127.0.0.1:5000`.

    Raises:
        TrackingError: as for `mirror`, or the store has no finished run of the set.
    """
    with usable_store():
        client, experiment = _existing_experiment(experiments)
        newest = _newest(client, experiment)
    if not newest:
        raise TrackingError(f"MLflow at {_address()} has no finished run of {experiments!r} yet.")
    chosen = json.dumps([newest[name].info.run_id for name in sorted(newest)])
    pages = {"runs": chosen, "experiments": json.dumps([experiment]), "workflowType": "machine_learning"}
    return f"{server.rstrip('/')}/#/compare-runs?{urlencode(pages)}"


def _newest(client: Any, experiment: str) -> dict[str, Any]:
    """Finished runs by name; of runs with one name, the newest."""
    return {stored.data.tags["name"]: stored for stored in sorted(_finished_runs(client, experiment), key=_started)}


@contextmanager
def stored_runs(experiments: str) -> Iterator[dict[str, StoredRun]]:
    """What the store holds of every finished run, by `biva.run_id`; of the tables and figures, by `SUMMARY_NAME`.

    It can be read within the context.

    Raises:
        TrackingError: as for `mirror`, or the store has no such experiment.
    """
    with usable_store():
        client, experiment = _existing_experiment(experiments)

        def reader(stored: Any) -> StoredRun:
            run_id = stored.info.run_id
            return StoredRun(
                tags=stored.data.tags,
                metrics=stored.data.metrics,
                points=lambda name: [
                    (point.step, point.value)
                    for point in sorted(client.get_metric_history(run_id, name), key=lambda p: (p.step, p.timestamp))
                ],
                download=lambda path, into: Path(client.download_artifacts(run_id, path, str(into))),
            )

        found = {stored.data.tags["biva.run_id"]: reader(stored) for stored in _finished_runs(client, experiment)}
        summary = find_run(client, experiment, "biva.summary", experiments)
        yield found | ({SUMMARY_NAME: reader(summary)} if summary else {})


def points_of(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every point that `mirror` logs of an evaluated run, by metric."""
    points: dict[str, list[tuple[int, float]]] = {}
    for line in read_lines(folder.record):
        for name, value in _metrics_of(line).items():
            points.setdefault(name, []).append((line["update"], value))
    return points


def finals_of(folder: RunFolder) -> dict[str, float]:
    """The metrics that are one number each, as `mirror` logs them of an evaluated run."""
    training = read_json(folder.training)
    update = training["selected"]["update"]
    metrics, _, _ = _training_finals(training)
    metrics |= _evaluation_finals(read_json(folder.evaluation), update)[0]
    for path in folder.anomalies():
        metrics |= _anomaly_finals(read_json(path), update)[0]
    return metrics


def _existing_experiment(experiments: str) -> tuple[Any, str]:
    client = _client() if _store_exists() else None
    experiment = client.get_experiment_by_name(experiments) if client else None
    if experiment is None:
        raise TrackingError(
            f"MLflow at {_address()} has no experiment {experiments!r}. "
            "`biva track RUN_DIR ...` mirrors the runs that exist on disk."
        )
    return client, experiment.experiment_id


def _finished_runs(client: Any, experiment: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment], "attributes.status = 'FINISHED'", max_results=1000, page_token=token)
        yield from (stored for stored in page if "biva.run_id" in stored.data.tags)
        token = page.token
        if not token:
            return


def _started(stored: Any) -> datetime:
    return datetime.fromisoformat(stored.data.tags["started"])


def _download(client: Any, run_id: str, folder: RunFolder) -> RunFolder:
    with tempfile.TemporaryDirectory() as temporary:
        shutil.copytree(
            client.download_artifacts(run_id, RECORDS.as_posix(), temporary), folder.path, dirs_exist_ok=True
        )
    return folder


# ------------------------------------------------------------------------------------------------------- the store


def _address() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{STORE.resolve() / 'mlflow.db'}"


def is_server(address: str) -> bool:
    """Whether a tracking address is that of a running server, and not of a database."""
    return address.startswith(("http://", "https://"))


def _database() -> Path | None:
    """The file of a sqlite store; None for a server."""
    address = _address()
    return Path(address.removeprefix("sqlite:///")) if address.startswith("sqlite:///") else None


def _store_exists() -> bool:
    database = _database()
    return database is None or database.is_file()


def _setup_lock() -> AbstractContextManager[Any]:
    """Held while something is looked up and created where it is missing, if processes share a sqlite file.

    MLflow's own creation of a sqlite database fails in all processes that meet a fresh file at once.
    """
    database = _database()
    if database is None:
        return nullcontext()
    database.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(database.parent / ".lock", timeout=LOCK_SECONDS)


def _create_database() -> None:
    """Make a sqlite store where there is none, under another name until it is whole: MLflow cannot use half of one."""
    database = _database()
    if database is None or database.exists():
        return
    with _setup_lock():
        if not database.exists():
            temporary = database.with_name(f".{database.name}.tmp")
            for left_by_a_kill in database.parent.glob(f"{temporary.name}*"):
                left_by_a_kill.unlink()
            _client(f"sqlite:///{temporary}").search_experiments()
            os.replace(temporary, database)


def _client(address: str | None = None) -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise TrackingError(f"MLflow cannot be imported ({error}).") from None
    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # an error is raised too, and told in one line
    return MlflowClient(tracking_uri=address or _address())


def open_experiment(name: str) -> tuple[Any, str]:
    """The client, and the id of the experiment, created where it is missing; another process may be creating it too."""
    _create_database()
    client = _client()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        database = _database()
        artifacts = (database.parent / "artifacts" / name).resolve().as_uri() if database else None
        try:
            return client, client.create_experiment(name, artifact_location=artifacts, tags=MODEL_TRAINING)
        except Exception:
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"The MLflow experiment {name!r} at {_address()} was deleted. Restore it: "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`."
        )
    return client, experiment.experiment_id


@contextmanager
def usable_store() -> Iterator[None]:
    """Turns every way in which a store can fail into a TrackingError of one line, without passwords."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not _is_of_the_store(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        message = f"MLflow at {_address()} cannot be used: {reason}"
        raise TrackingError(_without_password(message.rstrip(".") + ".")) from error


def _is_of_the_store(error: Exception) -> bool:
    """MLflow's and its database's own errors, and those of files, locks and connections."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("mlflow", "sqlalchemy", "alembic")


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//", text)


# --------------------------------------------------------------------------------------------------- parts of a run


def find_run(client: Any, experiment: str, tag: str, value: str) -> Any:
    """The run that has a tag, or None."""
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
    return found[0] if found else None


def _create_run(client: Any, experiment: str, run: dict[str, Any]) -> Any:
    config = run["config"]
    return client.create_run(
        experiment,
        start_time=_milliseconds(run["started"]),
        run_name=f"{config['dataset']} / {variant_of(run)} / seed {config['seed']}",
        tags={
            "biva.run_id": run["run_id"],
            "name": run["name"],
            "experiments": run["experiments"],
            "started": run["started"],
            "commit": run["commit"],
            "protocol": config["training"]["protocol"],
            "dataset": config["dataset"],
            "model": variant_of(run),
            "architecture": config["architecture_name"],
            "seed": str(config["seed"]),
            "data_fingerprint": run["data_fingerprint"],
            "config_digest": run["config_digest"],
            "device": run["device"],
            "mlflow.source.type": "LOCAL",
            "mlflow.source.name": f"biva train {run['experiments']} {run['name']}",
            "mlflow.source.git.commit": run["commit"],
        },
    )


def _log_parent(client: Any, experiment: str, stored: Any, run: dict[str, Any]) -> None:
    """A fine-tuned run is a child of the run that it goes on from, as soon as the store has that one."""
    if not run.get("parent") or "mlflow.parentRunId" in stored.data.tags:
        return
    parent = find_run(client, experiment, "biva.run_id", run["parent"]["run_id"])
    if parent:
        client.set_tag(stored.info.run_id, "mlflow.parentRunId", parent.info.run_id)


def _log_parameters(client: Any, stored: Any, run: dict[str, Any]) -> None:
    from mlflow.entities import Param

    parameters = flatten(run["config"]) | {"parameters": str(run["parameters"])}
    parameters |= flatten({"versions": run["versions"]})
    missing = [Param(key, value) for key, value in parameters.items() if key not in stored.data.params]
    if missing:
        client.log_batch(stored.info.run_id, params=missing)


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `a.b` -> text; a list of settings, such as the stages, becomes one list per key."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            columns = {field: [item.get(field) for item in value] for field in value[0]}
            flat |= flatten(columns, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat


def _log_input(client: Any, stored: Any, run: dict[str, Any]) -> None:
    """Lineage: the prepared data. MLflow keeps 36 characters of a digest; the tag has the whole fingerprint."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    if stored.inputs.dataset_inputs:
        return
    dataset = run["config"]["dataset"]
    source = {"tags": {"mlflow.source.name": f"biva prepare {dataset}", "mlflow.source.git.commit": run["commit"]}}
    entry = Dataset(
        name=dataset, digest=run["data_fingerprint"][:36], source_type="code", source=json.dumps(source, sort_keys=True)
    )
    inputs = [DatasetInput(entry, [InputTag("mlflow.data.context", "training")])]
    try:
        client.log_inputs(stored.info.run_id, inputs)
    except MlflowException:  # another run was entering the same dataset at this moment; now it is there to be found
        client.log_inputs(stored.info.run_id, inputs)


def _log_history(client: Any, stored: Any, run: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """The lines of `record.jsonl` that the store lacks; step: update, time: start of the run plus training seconds."""
    from mlflow.entities import Metric

    run_id = stored.info.run_id
    known = {point.step for point in client.get_metric_history(run_id, MARKER)}
    started = _milliseconds(run["started"])
    batch: list[Metric] = []
    for line in lines:
        if line["update"] in known:
            continue
        known.add(line["update"])
        timestamp = started + round(1000 * line["seconds"])
        points = [Metric(name, value, timestamp, line["update"]) for name, value in _metrics_of(line).items()]
        if len(batch) + len(points) > BATCH:
            client.log_batch(run_id, metrics=batch)
            batch = []
        batch += points
    if batch:
        client.log_batch(run_id, metrics=batch)


def _metrics_of(line: dict[str, Any]) -> dict[str, float]:
    """MLflow names of the numbers of one line."""
    metrics = {name: line[name] for name in ("epoch", "learning_rate", "images_per_second")}
    metrics["skipped_updates"] = line.get("skipped_updates", 0)  # lines of earlier versions do not count them
    for section in ("train", "selection"):
        metrics |= {f"{section}/{name}": value for name, value in line[section].items()}
    metrics |= {f"kl/{group}": value for group, value in line["kl_per_group"].items()}
    active = line.get("active_units", {})  # lines of earlier versions have none
    return metrics | {f"active_units/{group}": units["active"] for group, units in active.items()}


def _training_finals(training: dict[str, Any]) -> tuple[dict[str, float], int, str]:
    """Final metrics, their step and their time."""
    metrics = {f"training/{name}": training[name] for name in ("updates", "epochs", "images_seen", "wall_seconds")}
    metrics |= {f"selected/{name}": value for name, value in training["selected"].items()}
    return metrics, training["updates"], training["finished"]


def _evaluation_finals(evaluation: dict[str, Any], selected_update: int) -> tuple[dict[str, float], int, str]:
    """Final metrics such as `test/log_likelihood_bound_k1000`, their step and their time."""
    split = evaluation["split"]
    metrics: dict[str, float] = {}
    for entry in evaluation["metrics"]:
        name = f"{split}/{entry['metric']}" + (f"_k{entry['k']}" if entry["k"] is not None else "")
        metrics[name] = entry["value"]
        if entry["standard_error"] is not None:
            metrics[f"{name}_standard_error"] = entry["standard_error"]
    metrics |= {f"{split}/kl/{group}": kl["value"] for group, kl in evaluation["kl_per_group"].items()}
    metrics |= {f"{split}/active_units/{group}": units["active"] for group, units in evaluation["active_units"].items()}
    if zero := evaluation.get("zero_weights"):  # earlier versions did not count them
        metrics[f"{split}/zero_weights"] = zero["samples"]
    return metrics, selected_update, evaluation["finished"]


def _anomaly_finals(record: dict[str, Any], selected_update: int) -> tuple[dict[str, float], int, str]:
    """Final metrics such as `anomaly/mnist/llr_above_1/auroc`, the ends of their intervals, their step and time."""
    metrics: dict[str, float] = {}
    for entry in anomaly_metrics(record):
        name = entry["metric"]
        metrics |= {name: entry["value"], f"{name}_low": entry["low"], f"{name}_high": entry["high"]}
    return metrics, selected_update, record["finished"]


def _log_finals(client: Any, stored: Any, metrics: dict[str, float], step: int, finished: str) -> None:
    """Metrics that are one number each; a repeated evaluation that gives another number is added as the latest."""
    from mlflow.entities import Metric

    logged = stored.data.metrics
    points = [
        Metric(name, value, _milliseconds(finished), step)
        for name, value in metrics.items()
        if name not in logged or not (logged[name] == value or (math.isnan(logged[name]) and math.isnan(value)))
    ]
    if points:
        client.log_batch(stored.info.run_id, metrics=points)


def _log_child(
    client: Any, experiment: str, parent: Any, path: Path, kind: str, finals: tuple[dict[str, float], int, str]
) -> None:
    """A child run for a record of an evaluation; another evaluation of the same run gets another child."""
    from mlflow.entities import Param

    record, finished, digest = read_json(path), _milliseconds(finals[2]), sha256(path)
    child = find_run(client, experiment, RECORD, digest)
    if child is None:
        tags = {name: parent.data.tags[name] for name in ("dataset", "model", "protocol") if name in parent.data.tags}
        child = client.create_run(
            experiment,
            start_time=finished - round(1000 * record["wall_seconds"]),
            run_name=f"{parent.info.run_name} / {kind}",
            tags=tags | {RECORD: digest, "mlflow.parentRunId": parent.info.run_id},
        )
    if child.info.status != "FINISHED":
        settings = flatten({"evaluation": record["settings"], "device": record["device"]})
        client.log_batch(child.info.run_id, params=[Param(key, value) for key, value in settings.items()])
        _log_finals(client, child, *finals)
        client.set_terminated(child.info.run_id, "FINISHED", finished)


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
    for tag, value in {"paper_table": names, NOTE: note(folder, run, tables, paper)}.items():
        if stored.data.tags.get(tag) != value:
            client.set_tag(stored.info.run_id, tag, value)


def _log_artifacts(client: Any, stored: Any, folder: RunFolder) -> None:
    """The record files, from which everything can be rebuilt, and pictures for people, once the run has changed."""
    run_id = stored.info.run_id
    for file in folder.records():
        client.log_artifact(run_id, str(file), (RECORDS / file.relative_to(folder.path).parent).as_posix())
    if stored.data.tags.get(MANIFEST) == manifest_digest(folder):
        return
    if folder.arrays.is_file() and read_json(folder.identity)["config"].get("labels") is None:
        _log_figures(client, run_id, folder, RUN_FIGURES)


def _log_samples(client: Any, stored: Any, folder: RunFolder) -> None:
    """Whenever a training has drawn samples: all of them as pictures, and the KL of every latent group up to then.

    MLflow's own images by step are not used: it shows them below all parameters of the run.
    """
    if not folder.samples.is_file() or stored.data.tags.get(SAMPLES) == (digest := sha256(folder.samples)):
        return
    from safetensors.numpy import load_file

    from biva.reporting.images import sheet

    run_id = stored.info.run_id
    with tempfile.TemporaryDirectory() as scratch:
        for update, images in load_file(folder.samples).items():
            sheet(images).save(Path(scratch) / f"update_{int(update):07}.png")
        client.log_artifacts(run_id, scratch, "samples")
    _log_figures(client, run_id, folder, ("latents_over_training",))
    client.set_tag(run_id, SAMPLES, digest)


def _log_figures(client: Any, run_id: str, folder: RunFolder, figures: Iterable[FigureName]) -> None:
    from biva.reporting.canvas import save
    from biva.reporting.figures import draw

    with tempfile.TemporaryDirectory() as scratch:
        for figure in figures:
            stem = Path(scratch) / figure
            with suppress(UserError):  # an evaluation with K = 1 tells no active units
                save(draw(figure, [folder]), stem, kinds=("png",))
                client.log_artifact(run_id, f"{stem}.png", "figures")


def _set_status(client: Any, stored: Any, folder: RunFolder) -> None:
    """FINISHED once evaluated, RUNNING until then; a killed run stays RUNNING and goes on when it is resumed."""
    run_id = stored.info.run_id
    if not folder.evaluation.is_file():
        if stored.info.status != "RUNNING":
            client.update_run(run_id, status="RUNNING")
    elif stored.info.status != "FINISHED":
        client.set_terminated(run_id, "FINISHED", _milliseconds(read_json(folder.evaluation)["finished"]))


def _milliseconds(iso: str) -> int:
    """An ISO 8601 time as milliseconds since 1970, as MLflow counts."""
    return round(1000 * datetime.fromisoformat(iso).timestamp())
