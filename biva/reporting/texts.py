"""The texts of a set that are made of run records alone: `results.csv`, and every table as LaTeX, HTML and JSON."""

from __future__ import annotations

from pathlib import Path

from biva.config import CONFIG_FOLDER, AnomalyPair, LikelihoodTable, RunConfig, load_experiments, resolve_runs
from biva.config import Table as TableSettings
from biva.records import RunFolder, read_json, write_atomically
from biva.reporting.anomalies import anomaly_table
from biva.reporting.likelihood_table import likelihood_table
from biva.reporting.per_image import read_bounds
from biva.reporting.results import collect, load_paper_results, read_results, write_results
from biva.reporting.table import Table
from biva.reporting.test_errors import error_table

PAPER_RESULTS = CONFIG_FOLDER / "paper_results.csv"


def write_csv(runs: list[RunConfig], records: Path, folder: Path) -> Path:
    """Write `results.csv` into `folder`, from the records of the runs below `records`."""
    path = folder / "results.csv"
    write_results(collect(RunFolder(records / run.name) for run in runs), path)
    return path


def write_table(settings: TableSettings, runs: list[RunConfig], records: Path, folder: Path) -> list[Path]:
    """Write a table of likelihood bounds or test errors into `folder`, from the `results.csv` there.

    The bounds of the test images are those of the runs below `records`.

    Returns:
        The .tex, the .html and the .json.
    """
    results, paper = read_results(folder / "results.csv"), load_paper_results(PAPER_RESULTS)
    if isinstance(settings, LikelihoodTable):
        bounds = {run.name: read_bounds(RunFolder(records / run.name)) for run in runs if settings.includes(run)}
        return _write(likelihood_table(results, paper, settings, runs, bounds), folder / "tables")
    return _write(error_table(results, paper, settings, runs), folder / "tables")


def write_anomaly_table(pair: AnomalyPair, runs: list[RunConfig], records: Path, folder: Path) -> list[Path]:
    """Write the table of an anomaly pair into `folder`, from the records of the runs below `records`.

    Returns:
        The .tex, the .html and the .json.
    """
    folders = [RunFolder(records / run.name) for run in runs]
    paths = [folder.anomaly(pair.name) for folder in folders]
    scored = [(run, read_json(path) if path.is_file() else None) for run, path in zip(runs, paths, strict=True)]
    done = [(run.name, folder) for (run, record), folder in zip(scored, folders, strict=True) if record]
    made = {name: read_json(folder.identity) | read_json(folder.training) for name, folder in done}
    return _write(anomaly_table(scored, pair, load_paper_results(PAPER_RESULTS), made), folder / "anomalies")


def _write(table: Table, folder: Path) -> list[Path]:
    """Write a table in each of its forms; the JSON is what MLflow shows as its own kind of table."""
    json: str = table.frame().to_json(orient="split", index=False)
    written = []
    for ending, content in (("tex", table.latex()), ("html", table.html()), ("json", json)):
        path = folder / f"{table.name}.{ending}"
        write_atomically(path, content.encode())
        written.append(path)
    return written


def write_texts(experiments: str, records: Path, folder: Path) -> list[Path]:
    """Write all of them into `folder`, from the records of the set's runs below `records`."""
    settings = load_experiments(experiments)
    runs = resolve_runs(experiments, settings)
    return [
        write_csv(runs, records, folder),
        *(path for table in settings.all_tables for path in write_table(table, runs, records, folder)),
        *(path for pair in settings.anomalies for path in write_anomaly_table(pair, runs, records, folder)),
    ]
