"""The texts of a set that are made of run records alone: `results.csv`, and every table as LaTeX and as HTML."""

from __future__ import annotations

from pathlib import Path

from biva.config import (
    CONFIG_FOLDER,
    AnomalyPair,
    LikelihoodTable,
    RunConfig,
    Table,
    load_experiments,
    resolve_runs,
)
from biva.records import RunFolder, read_json, write_atomically
from biva.reporting.anomalies import anomaly_table
from biva.reporting.comparison import HEADS, comparisons
from biva.reporting.html import page
from biva.reporting.results import collect, load_paper_results, read_results, write_results
from biva.reporting.tables import likelihood_table
from biva.reporting.test_errors import error_table

PAPER_RESULTS = CONFIG_FOLDER / "paper_results.csv"


def write_csv(runs: list[RunConfig], records: Path, folder: Path) -> Path:
    """Write `results.csv` into `folder`, from the records of the runs below `records`."""
    path = folder / "results.csv"
    write_results(collect(RunFolder(records / run.name) for run in runs), path)
    return path


def write_table(table: Table, runs: list[RunConfig], folder: Path) -> list[Path]:
    """Write a table of likelihood bounds or test errors into `folder`, from the `results.csv` there.

    Returns:
        The .tex, and the .html with the distances to the reported values below it.
    """
    results, paper = read_results(folder / "results.csv"), load_paper_results(PAPER_RESULTS)
    if isinstance(table, LikelihoodTable):
        tex = likelihood_table(results=results, paper=paper, table=table, planned=runs)
    else:
        tex = error_table(results=results, paper=paper, table=table, planned=runs)
    return _write(
        folder / "tables" / f"{table.name}.tex", tex, page(tex, table.name, HEADS, distances(table, runs, folder))
    )


def distances(table: Table, runs: list[RunConfig], folder: Path) -> list[list[str]]:
    """What a table shows beside a reported value, as `HEADS` names it, by the `results.csv` in `folder`."""
    results, paper = read_results(folder / "results.csv"), load_paper_results(PAPER_RESULTS)
    return [comparison.cells() for comparison in comparisons(results, paper, table, runs)]


def write_anomaly_table(pair: AnomalyPair, runs: list[RunConfig], records: Path, folder: Path) -> list[Path]:
    """Write the table of an anomaly pair into `folder`, from the records of the runs below `records`.

    Returns:
        The .tex and the .html.
    """
    paths = [RunFolder(records / run.name).anomaly(pair.name) for run in runs]
    scored = [(run, read_json(path) if path.is_file() else None) for run, path in zip(runs, paths, strict=True)]
    made = {run.name: read_json(RunFolder(records / run.name).identity) for run, record in scored if record}
    tex = anomaly_table(scored, pair, load_paper_results(PAPER_RESULTS), made)
    return _write(folder / "anomalies" / f"{pair.name}.tex", tex, page(tex, pair.name))


def _write(path: Path, tex: str, html: str) -> list[Path]:
    write_atomically(path, tex.encode())
    write_atomically(path.with_suffix(".html"), html.encode())
    return [path, path.with_suffix(".html")]


def write_texts(experiments: str, records: Path, folder: Path) -> list[Path]:
    """Write all of them into `folder`, from the records of the set's runs below `records`."""
    settings = load_experiments(experiments)
    runs = resolve_runs(experiments, settings)
    return [
        write_csv(runs, records, folder),
        *(path for table in settings.all_tables for path in write_table(table, runs, folder)),
        *(path for pair in settings.anomalies for path in write_anomaly_table(pair, runs, records, folder)),
    ]
