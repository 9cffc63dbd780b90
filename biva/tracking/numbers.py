"""The numbers of a run as MLflow has them, from its records alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from biva.records import RunFolder, anomaly_metrics, read_json, read_lines


def points_of(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every point that `mirror` logs of an evaluated run, by metric."""
    points: dict[str, list[tuple[int, float]]] = {}
    for line in read_lines(folder.record):
        for name, value in metrics_of(line).items():
            points.setdefault(name, []).append((line["update"], value))
    return points


def finals_of(folder: RunFolder) -> dict[str, float]:
    """The metrics that are one number each, as `mirror` logs them of a trained run."""
    return {name: value for result in results_of(folder) for name, value in result.metrics.items()}


def metrics_of(line: dict[str, Any]) -> dict[str, float]:
    """MLflow names of the numbers of one line."""
    metrics = {name: line[name] for name in ("epoch", "learning_rate", "images_per_second", "skipped_updates")}
    for section in ("train", "selection"):
        metrics |= {f"{section}/{name}": value for name, value in line[section].items()}
    metrics |= {f"kl/{group}": value for group, value in line["kl_per_group"].items()}
    return metrics | {f"active_units/{group}": units["active"] for group, units in line["active_units"].items()}


@dataclass(frozen=True)
class Result:
    """A finished record of a run and the metrics in it that are one number each."""

    path: Path
    record: dict[str, Any]
    metrics: dict[str, float]
    update: int
    """The selected update, of whose weights the record is; MLflow's step."""

    @property
    def finished(self) -> int:
        """When the record was finished, in milliseconds since 1970."""
        return milliseconds(self.record["finished"])


def results_of(folder: RunFolder) -> Iterator[Result]:
    """The records that a trained run has, of its training, its evaluation and its anomaly pairs."""
    training = read_json(folder.training)
    update = training["selected"]["update"]
    metrics = {f"training/{name}": training[name] for name in ("updates", "epochs", "images_seen", "wall_seconds")}
    metrics |= {f"selected/{name}": value for name, value in training["selected"].items()}
    yield Result(folder.training, training, metrics, update)
    if folder.evaluation.is_file():
        evaluation = read_json(folder.evaluation)
        yield Result(folder.evaluation, evaluation, evaluation_metrics(evaluation), update)
    for path in folder.anomalies():
        record, metrics = read_json(path), {}
        for entry in anomaly_metrics(record):
            name = entry["metric"]
            metrics |= {name: entry["value"], f"{name}_low": entry["low"], f"{name}_high": entry["high"]}
        yield Result(path, record, metrics, update)


def evaluation_metrics(evaluation: dict[str, Any]) -> dict[str, float]:
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


def milliseconds(iso: str) -> int:
    """An ISO 8601 time as milliseconds since 1970, as MLflow counts."""
    return round(1000 * datetime.fromisoformat(iso).timestamp())
