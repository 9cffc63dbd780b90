"""The texts of a set that are made of run records: `results.csv`, every table as LaTeX, HTML and JSON, and the page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from biva.config import (
    AnomalyPair,
    Experiments,
    LikelihoodTable,
    RunConfig,
    load_experiments,
    resolve_runs,
)
from biva.config import Table as TableSettings
from biva.records import RunFolder, read_json, write_atomically
from biva.reporting.anomalies import anomaly_table
from biva.reporting.likelihood_table import likelihood_table
from biva.reporting.page import page
from biva.reporting.per_image import read_bounds
from biva.reporting.results import Results, collect, load_paper_results, read_results, write_results
from biva.reporting.table import Table
from biva.reporting.test_errors import error_table


def write_csv(runs: list[RunConfig], records: Path, folder: Path) -> Path:
    """Write `results.csv` into `folder`, from the records of the runs below `records`."""
    path = folder / "results.csv"
    write_results(_collected(runs, records), path)
    return path


def write_table(
    settings: TableSettings | AnomalyPair, runs: list[RunConfig], records: Path, folder: Path
) -> list[Path]:
    """Write a table into `folder`: of bounds or test errors from the `results.csv` there, of a pair from records.

    Records, among them the bounds of the test images, are those of the runs below `records`.

    Returns:
        The .tex, the .html and the .json, which is what MLflow shows as its own kind of table.
    """
    results = pd.DataFrame() if isinstance(settings, AnomalyPair) else read_results(folder / "results.csv")
    return _write(settings, _table(settings, runs, records, results), folder)


def _write(settings: TableSettings | AnomalyPair, table: Table, folder: Path) -> list[Path]:
    place = folder / ("anomalies" if isinstance(settings, AnomalyPair) else "tables")
    json: str = table.frame().to_json(orient="split", index=False)
    written = []
    for ending, content in (("tex", table.latex()), ("html", table.html()), ("json", json)):
        path = place / f"{table.name}.{ending}"
        write_atomically(path, content.encode())
        written.append(path)
    return written


def write_page(settings: Experiments, runs: list[RunConfig], records: Path, folder: Path, pictures: Path) -> Path:
    """Write `index.html` into `folder`, from the runs' records below `records` and the figures in `pictures`."""
    results, path = _collected(runs, records), folder / "index.html"
    tables = [_table(of, runs, records, results) for of in (*settings.all_tables, *settings.anomalies)]
    write_atomically(path, page(settings, runs, tables, records, pictures).encode())
    return path


def write_texts(experiments: str, records: Path, folder: Path, pictures: Path | None = None) -> list[Path]:
    """Write all of them into `folder`, from the records of the set's runs below `records`.

    The page's figures are those of the set's folder `pictures`, if that is not `folder`.
    """
    settings = load_experiments(experiments)
    runs = resolve_runs(experiments, settings)
    results, csv, html = _collected(runs, records), folder / "results.csv", folder / "index.html"
    wanted = (*settings.all_tables, *settings.anomalies)
    tables = [_table(of, runs, records, results) for of in wanted]
    write_results(results, csv)
    written = [path for of, table in zip(wanted, tables, strict=True) for path in _write(of, table, folder)]
    write_atomically(html, page(settings, runs, tables, records, pictures or folder).encode())
    return [csv, *written, html]


def _collected(runs: list[RunConfig], records: Path) -> Results:
    return collect(RunFolder(records / run.name) for run in runs)


def _table(settings: TableSettings | AnomalyPair, runs: list[RunConfig], records: Path, results: Results) -> Table:
    paper = load_paper_results()
    folders = {run.name: RunFolder(records / run.name) for run in runs}
    if isinstance(settings, LikelihoodTable):
        bounds = {run.name: read_bounds(folders[run.name]) for run in runs if settings.includes(run)}
        return likelihood_table(results, paper, settings, runs, bounds)
    if not isinstance(settings, AnomalyPair):
        return error_table(results, paper, settings, runs)
    scored = {name: folder for name, folder in folders.items() if folder.anomaly(settings.name).is_file()}
    pairs = {name: read_json(folder.anomaly(settings.name)) for name, folder in scored.items()}
    made = {name: read_json(folder.identity) | read_json(folder.training) for name, folder in scored.items()}
    return anomaly_table(pairs, made, paper, settings, runs)
