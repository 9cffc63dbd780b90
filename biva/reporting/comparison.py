"""Our results beside the reported ones: the distance, per model and K, and a run's note for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from biva.config import LikelihoodTable, RunConfig, Table
from biva.records import RunFolder
from biva.reporting.results import collect
from biva.reporting.style import CLASSIFIERS, LABELS, name_of

UNCONFIRMED = {"yes": "", "no": " (unconfirmed)", "value only": " (value confirmed, its setting is not)"}
"""What follows a reported value, by the column `confirmed` of config/paper_results.csv."""


@dataclass(frozen=True)
class Comparison:
    """One reported value, and ours."""

    model: str
    metric: str
    k: int | None
    ours: float
    seeds: int
    """Of which ours is the mean."""
    reported: float
    unit: str
    source: str
    confirmed: str

    def cells(self) -> list[str]:
        """As `HEADS` names them, in plain text."""
        k = "" if self.k is None else f"{self.k}"
        reported = f"{self.reported:.2f}{UNCONFIRMED[self.confirmed]}"
        ours, delta = f"{self.ours:.2f} ({self.seeds})", f"{self.ours - self.reported:+.2f} {self.unit}"
        return [self.model, self.metric.replace("_", " "), k, ours, reported, delta, self.source]


HEADS = ("Model", "Metric", "K", "Ours (seeds)", "Reported", "Delta", "Source")


def comparisons(results: pd.DataFrame, paper: pd.DataFrame, table: Table, planned: list[RunConfig]) -> list[Comparison]:
    """Every reported value of a model that the table shows and that we have a result of.

    Args:
        results: the frame of `biva.reporting.results.collect`.
        paper: the frame of `biva.reporting.results.load_paper_results`.
        table: one without `paper_table` gives nothing.
        planned: the runs of the experiment set.
    """
    reported = paper[paper["table"] == table.paper_table]
    if isinstance(table, LikelihoodTable):
        reported = reported[reported["dataset"] == table.dataset]
    groups: dict[tuple[str, str], list[RunConfig]] = {}
    for run in filter(table.includes, planned):
        groups.setdefault((run.architecture_name, run.variant), []).append(run)
    found = []
    for (architecture, model), runs in groups.items():
        ours = results[
            (results["dataset"] == runs[0].dataset)
            & (results["architecture"] == architecture)
            & (results["model"] == model)
            & results["seed"].isin([run.seed for run in runs])
        ]
        for row in reported[reported["model"].isin(_reported_names(runs[0]))].to_dict("records"):
            at_k = ours["k"].isna() if pd.isna(row["k"]) else (ours["k"] == row["k"]).fillna(False).astype(bool)
            values = ours.loc[at_k & (ours["metric"] == row["metric"]), "value"]
            if not values.empty:
                k = None if pd.isna(row["k"]) else int(row["k"])
                about = {name: row[name] for name in ("metric", "unit", "source", "confirmed")}
                mean = float(values.mean())
                found.append(
                    Comparison(name_of(runs[0]), k=k, ours=mean, seeds=len(values), reported=row["value"], **about)
                )
    return found


def _reported_names(run: RunConfig) -> list[str]:
    """What the reported values call the model that a run reproduces."""
    if run.labels is not None:
        return [CLASSIFIERS[run.model]]
    return [LABELS[run.variant], f"{LABELS[run.variant]} L={len(run.architecture.stages)}"]


def reproduced(run: RunConfig, tables: Iterable[Table]) -> list[str]:
    """Names of the paper's tables that a run gives a row of."""
    return sorted({table.paper_table for table in tables if table.includes(run) and table.paper_table})


def note(folder: RunFolder, run: RunConfig, tables: Iterable[Table], paper: pd.DataFrame) -> str:
    """What a run reproduces and how far it is from that, as Markdown."""
    tables = [table for table in tables if table.includes(run)]
    names = reproduced(run, tables)
    what = f"**{name_of(run)}** on *{run.dataset}*, architecture `{run.architecture_name}`, seed {run.seed}"
    lines = [f"{what}; protocol *{run.training.protocol}*.", ""]
    if not names:
        return "\n".join([*lines, "The paper reports no value on this dataset.", ""])
    lines.append(f"Reproduces {', '.join(f'`{name}`' for name in names)} of `config/paper_results.csv`.")
    results = collect([folder])
    rows = [comparison for table in tables for comparison in comparisons(results, paper, table, [run])]
    if rows:
        cells = [comparison.cells() for comparison in rows]
        table_lines = [HEADS, ["---"] * len(HEADS), *cells]
        lines += ["", *(f"| {' | '.join(line)} |" for line in table_lines)]
    else:
        lines.append("No value is reported for this model, or the run is not evaluated at its K.")
    return "\n".join([*lines, ""])
