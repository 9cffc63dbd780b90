"""From run folders to MLflow: what it has already is not logged again."""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from biva.config import FigureName
from biva.errors import UserError, without_password
from biva.locks import locked
from biva.records import (
    PUBLISHED,
    RunFolder,
    flatten,
    is_ours,
    manifest_digest,
    read_json,
    read_lines,
    sha256,
    write_json,
)
from biva.tracking.numbers import Result, metrics_of, milliseconds, results_of
from biva.tracking.store import (
    MANIFEST,
    PARENT,
    RECORD,
    RECORDS,
    SAMPLES,
    SUMMARY_NAME,
    alone,
    find_run,
    finished_runs,
    open_experiment,
    store_address,
    usable_store,
)

RETRY_SECONDS = 300
"""For which `mirror_or_warn` leaves a store alone that failed."""

BATCH = 1000
"""The largest number of metric points per request that MLflow accepts."""

MARKER = "epoch"
"""Metric that says which updates the store has. MLflow writes a batch in one transaction, and an update is never split
over two batches, so an update with this metric is complete."""

_not_before: dict[str, float] = {}
"""Store address -> monotonic time before which `mirror_or_warn` leaves it alone, since it just failed."""


def mirror(folder: RunFolder) -> None:
    """Bring the MLflow run of a run folder up to date with its records.

    Raises:
        TrackingError: MLflow is not installed, or its store is unreachable, locked or refuses.
        UserError: the folder has no `run.json`.
    """
    run = read_json(folder.identity)
    with usable_store(), locked(folder.path / ".mirror.lock"):
        client, experiment = open_experiment(run["experiments"])
        stored = find_run(client, experiment, "biva.run_id", run["run_id"]) or _create_run(client, experiment, run)
        _keep_id(folder, stored)
        _log_first_metrics(client, stored, run)
        _log_parent(client, experiment, stored, run)
        _log_parameters(client, stored, run)
        _log_input(client, stored, run)
        _log_history(client, stored, run, read_lines(folder.record))
        _log_samples(client, stored, folder)
        if folder.training.is_file():
            for result in results_of(folder):
                _log_result(client, stored, result)
                if result.path != folder.training:
                    _log_child(client, experiment, stored, result)
            _log_purpose(client, stored, folder)
            _log_artifacts(client, stored, folder)
        run_id = stored.info.run_id
        if folder.evaluation.is_file():
            client.set_terminated(run_id, "FINISHED", milliseconds(read_json(folder.evaluation)["finished"]))
        else:  # a killed run stays RUNNING and goes on when it is resumed
            client.update_run(run_id, status="RUNNING")


def mirror_or_warn(folder: RunFolder) -> None:
    """Do as `mirror`, but make whatever goes wrong one warning and never the end of a training.

    After a failure the store is left alone for `RETRY_SECONDS`, so that a dead one does not slow training down.
    """
    address = store_address()
    if time.monotonic() < _not_before.get(address, 0.0):
        return
    try:
        mirror(folder)
    except Exception as error:  # a library's bug must not stop days of training either
        _not_before[address] = time.monotonic() + RETRY_SECONDS
        _warn_once(f"{without_password(str(error))} The run goes on; `biva track {folder.path}` completes the mirror.")


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
        if monitors or time.monotonic() < _not_before.get(store_address(), 0.0):
            return
        with suppress(Exception):  # a run without the machine's load is no less a run
            from mlflow.system_metrics import system_metrics_monitor

            run = read_json(folder.identity)
            stored = find_run(*open_experiment(run["experiments"]), "biva.run_id", run["run_id"])
            make: Any = system_metrics_monitor.SystemMetricsMonitor
            monitors.append(make(stored.info.run_id, resume_logging=True, tracking_uri=store_address()))
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
        client, experiment = open_experiment(experiments)
        with alone():
            stored = find_run(client, experiment, "biva.summary", experiments) or client.create_run(
                experiment, run_name=f"{experiments} / {SUMMARY_NAME}", tags={"biva.summary": experiments}
            )
        run_id = stored.info.run_id
        if (csv := results_folder / "results.csv").is_file():
            runs = finished_runs(client, experiment)
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


def _create_run(client: Any, experiment: str, run: dict[str, Any]) -> Any:
    config = run["config"]
    return client.create_run(
        experiment,
        start_time=milliseconds(run["started"]),
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


def _log_first_metrics(client: Any, stored: Any, run: dict[str, Any]) -> None:
    """What MLflow's page that compares runs should begin with: it takes the metric of which a store heard first.

    So a run without any metric gets them as not a number, until its evaluation knows better. Needs `config/`.
    """
    from mlflow.entities import Metric

    from biva.config import load_experiments

    if stored.data.metrics:
        return
    names = ["test/test_error"]
    if not run["config"].get("labels"):
        try:
            ks = load_experiments(run["experiments"]).evaluation.importance_samples
        except UserError:
            return
        names = [f"test/log_likelihood_bound_k{k}" for k in sorted({min(ks), max(ks)})]
    started = milliseconds(run["started"])
    client.log_batch(stored.info.run_id, [Metric(name, math.nan, started, 0) for name in names])


def _keep_id(folder: RunFolder, stored: Any) -> None:
    """Note MLflow's id of a run beside its records, for `results.csv`; a published copy keeps that of its origin."""
    content = {"run_id": stored.info.run_id}
    is_copy = PUBLISHED in folder.path.parts[-7:-6]
    if not is_copy and not (folder.mlflow.is_file() and read_json(folder.mlflow) == content):
        write_json(folder.mlflow, content)


def _log_parent(client: Any, experiment: str, stored: Any, run: dict[str, Any]) -> None:
    """A fine-tuned run is a child of the run that it goes on from, as soon as the store has that one."""
    if run["parent"] and PARENT not in stored.data.tags:
        parent = find_run(client, experiment, "biva.run_id", run["parent"]["run_id"])
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
    from biva.config import RunConfig, load_experiments, parse
    from biva.reporting.comparison import note, reproduced
    from biva.reporting.results import load_paper_results

    identity = read_json(folder.identity)
    try:
        tables = load_experiments(identity["experiments"]).all_tables
        paper = load_paper_results()
    except UserError:
        return
    run = parse(RunConfig, identity["config"], folder.identity)
    names = ", ".join(reproduced(run, tables)) or "none"
    for tag, value in {"paper_table": names, "mlflow.note.content": note(folder, run, tables, paper)}.items():
        if stored.data.tags.get(tag) != value:
            client.set_tag(stored.info.run_id, tag, value)


def _log_history(client: Any, stored: Any, run: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """The lines of `record.jsonl` that the store lacks; step: update, time: start of the run plus training seconds."""
    from mlflow.entities import Metric

    run_id, started = stored.info.run_id, milliseconds(run["started"])
    known = {point.step for point in client.get_metric_history(run_id, MARKER)}
    new = [line for line in lines if line["update"] not in known]
    whole = BATCH // len(metrics_of(new[0])) if new else 1
    for start in range(0, len(new), whole):
        points = [
            Metric(name, value, started + round(1000 * line["seconds"]), line["update"])
            for line in new[start : start + whole]
            for name, value in metrics_of(line).items()
        ]
        client.log_batch(run_id, metrics=points)


def _log_result(client: Any, stored: Any, result: Result) -> None:
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


def _log_child(client: Any, experiment: str, parent: Any, result: Result) -> None:
    """A child run for a record of an evaluation; another evaluation of the same run gets another child."""
    from mlflow.entities import Param

    record, digest = result.record, sha256(result.path)
    kind = "evaluation" if "scores" not in record else f"anomaly {result.path.stem}"
    child = find_run(client, experiment, RECORD, digest)
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
