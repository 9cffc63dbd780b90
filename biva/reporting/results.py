"""The tidy results frame: one row per run and metric, from run records to `results.csv` and back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from biva.config import CONFIG_FOLDER
from biva.errors import UserError
from biva.records import RunFolder, anomaly_metrics, as_written, manifest_digest, read_json, write_atomically
from biva.reporting.provenance import LOSS_GROWTH, divergence, origin
from biva.reporting.style import MODELS

COLUMNS: dict[str, str] = (
    dict.fromkeys(("experiments", "dataset", "architecture", "model"), "str")
    | {"seed": "int64", "metric": "str", "k": "Int64"}
    | dict.fromkeys(("value", "standard_error", "low", "high"), "float64")
    | dict.fromkeys(("unit", "protocol", "run_id", "mlflow_run_id", "manifest", "commit", "config_digest"), "str")
    | {"evaluation_digest": "str", "data_fingerprint": "str", "device": "str"}
    | {"parameters": "int64", "updates": "int64", "images_seen": "int64"}
    | {"images_evaluated": "int64", "images_in_split": "int64"}
    | {"selection_images": "Int64", "selection_images_in_split": "Int64", "wall_seconds": "float64"}
)
"""Column -> type of the results frame. `k`, `standard_error`, `low` and `high` are missing where a metric has none;
`standard_error` is over test images, `low` and `high` are the ends of the 95% bootstrap interval over test images;
`wall_seconds` is the training's. `images_evaluated` of the `images_in_split` test images were used, of an anomaly pair
those of both datasets; `selection_images` of as many in their split selected the weights. `commit` names every commit
that had a part in the row, mostly one; `manifest` is the SHA-256 of the run's `manifest.json`; `evaluation_digest` is
of the settings of the evaluation or of the anomaly pair; `mlflow_run_id` is empty where MLflow has no copy of the
run."""

PAPER_COLUMNS: dict[str, str] = (
    dict.fromkeys(("table", "dataset", "model", "metric"), "str")
    | {"k": "Int64", "value": "float64"}
    | dict.fromkeys(("unit", "higher_is_better", "source", "confirmed"), "str")
)
"""Column -> type of `config/paper_results.csv`. `k` is missing where the source states none."""

Results = pd.DataFrame
"""What `collect` gives: a row per run and metric, with the columns of `COLUMNS`."""

Paper = pd.DataFrame
"""What `load_paper_results` gives: a row per reported value, with the columns of `PAPER_COLUMNS`."""

CONFIRMED = {
    "yes": ("", ""),
    "no": ("†", " (unconfirmed)"),
    "value only": ("‡", " (value confirmed, its setting is not)"),
}
"""Value of the column `confirmed` of `config/paper_results.csv` -> its mark in tables, and what follows it in texts."""


def collect(folders: Iterable[RunFolder]) -> Results:
    """Every metric of every evaluated run, one row each, in an order that does not depend on that of `folders`.

    The metrics of an anomaly pair are among them where the run has a record of it (`biva.records.anomaly_metrics`).
    Models that learn from labels come last. A folder without `evaluation.json` has no result yet and gives no row.

    Raises:
        UserError: a record is missing beside `evaluation.json`, is not JSON, or lacks a field; two folders hold one
            run.
    """
    evaluated = [folder for folder in folders if folder.evaluation.is_file()]
    _refuse_copies(evaluated)
    rows = [row for folder in evaluated for row in _rows(folder)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    places = {model: place for place, model in enumerate(MODELS)}
    keys = ["dataset", "architecture", "_place", "model", "seed", "metric", "k", "experiments", "run_id"]
    ordered = frame.assign(_place=frame["model"].map(places)).sort_values(keys, ignore_index=True)
    return ordered.drop(columns="_place")


def _refuse_copies(folders: list[RunFolder]) -> None:
    """One run under two names would count twice in a mean over seeds."""
    seen: dict[str, RunFolder] = {}
    for folder in folders:
        other = seen.setdefault(read_json(folder.identity).get("run_id", str(folder.path)), folder)
        if other is not folder:
            raise UserError(
                f"{folder.path} and {other.path} hold the records of one run. Nothing was collected. Delete the one "
                "that is a copy and run `biva train` and `biva evaluate` for it, or restore it from a backup."
            )


def _rows(folder: RunFolder) -> list[dict[str, Any]]:
    run, training, evaluation = (read_json(p) for p in (folder.identity, folder.training, folder.evaluation))
    with as_written(folder.path, "Delete the folder and run `biva train` and `biva evaluate` again."):
        config = run["config"]
        of_run = {
            "experiments": run["experiments"],
            "dataset": config["dataset"],
            "architecture": config["architecture_name"],
            "model": run["variant"],
            "seed": config["seed"],
            "mlflow_run_id": read_json(folder.mlflow)["run_id"] if folder.mlflow.is_file() else "",
            "manifest": manifest_digest(folder),
            "device": run["device"],
            "parameters": run["parameters"],
            "updates": training["updates"],
            "images_seen": training["images_seen"],
            "selection_images": training["selection_images"],
            "selection_images_in_split": training["selection_images_in_split"],
            "wall_seconds": training["wall_seconds"],
        }
        images = {"images_evaluated": evaluation["images"], "images_in_split": evaluation["images_in_split"]}
        evaluated = of_run | origin(run, evaluation) | images | {"low": None, "high": None}
        rows = [
            evaluated | {field: metric[field] for field in ("metric", "k", "value", "standard_error", "unit")}
            for metric in evaluation["metrics"]
        ]
        if growth := divergence(training):
            rows.append(evaluated | {"metric": LOSS_GROWTH, "value": growth, "unit": "times"})
        for path in folder.anomalies():
            record = read_json(path)
            both = [record["normal"], record["anomalous"]]
            images = {"images_evaluated": sum(part["images"] for part in both)}
            images |= {"images_in_split": sum(part["images_in_split"] for part in both)}
            rows += [of_run | origin(run, record) | images | metric for metric in anomaly_metrics(record)]
        return rows


def write_results(frame: Results, path: Path) -> None:
    """Write the frame as CSV, atomically. Floats are written so that reading gives back the same 64 bits."""
    write_atomically(path, frame.to_csv(index=False, lineterminator="\n").encode())


def name_tracked(path: Path, ids: Mapping[str, str]) -> None:
    """Enter MLflow's ids, by `run_id`, into a `results.csv` that was written before MLflow had its runs.

    The file keeps its time: no table has these ids, and Snakemake would make all of them anew.
    """
    frame, written = read_results(path), path.stat().st_mtime_ns
    named = frame["run_id"].map(ids).fillna(frame["mlflow_run_id"])
    if not named.equals(frame["mlflow_run_id"]):
        write_results(frame.assign(mlflow_run_id=named), path)
        os.utime(path, ns=(written, written))


def read_results(path: Path) -> Results:
    """Read what `write_results` wrote.

    Raises:
        UserError: the file is missing or does not have the columns of `COLUMNS`.
    """
    return _read(path, COLUMNS, "`snakemake` writes it, or `biva collect SET` from the runs that are there.")


def load_paper_results(path: Path = CONFIG_FOLDER / "paper_results.csv") -> Paper:
    """What the paper and the literature report (`config/paper_results.csv`), each number with its source.

    Raises:
        UserError: the file is missing, has other columns, or a row's `confirmed` is none of `CONFIRMED`.
    """
    frame = _read(path, PAPER_COLUMNS, "Take it from the repository: `git checkout config/paper_results.csv`.")
    for line, value in enumerate(frame["confirmed"], start=2):
        if value not in CONFIRMED:
            raise UserError(f"{path}, line {line}: confirmed is {value!r}; allowed: {', '.join(CONFIRMED)}.")
    return frame


def _read(path: Path, columns: dict[str, str], remedy: str) -> pd.DataFrame:
    """A CSV file with exactly these columns and types. Only an empty cell of a number counts as missing."""
    if not path.is_file():
        raise UserError(f"{path} does not exist. {remedy}")
    # Floats by Python: what pandas 2 reads may differ in the last bits.
    floats = {name: lambda text: float(text or "nan") for name, kind in columns.items() if kind == "float64"}
    others = {name: kind for name, kind in columns.items() if name not in floats}
    missing = {name: [""] for name, kind in others.items() if kind != "str"}
    try:
        frame = pd.read_csv(path, dtype=others, converters=floats, na_values=missing, keep_default_na=False)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path} is not a valid table: {error}. {remedy}") from None
    if list(frame.columns) != list(columns):
        raise UserError(f"{path} has the columns {', '.join(frame.columns)}; expected {', '.join(columns)}. {remedy}")
    return frame.astype(columns)  # floats without a row are objects
