"""Our results beside the reported ones: the distance, per model and K, and a run's note for people."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from biva.config import RunConfig, by_group
from biva.config import Table as TableSettings
from biva.records import RunFolder
from biva.reporting.markup import in_markdown
from biva.reporting.ours import results_of
from biva.reporting.reported import why_nothing_reported
from biva.reporting.results import CONFIRMED, Paper, Results, collect
from biva.reporting.style import CLASSIFIERS, LABELS, name_of


def distances(results: Results, paper: Paper, settings: TableSettings, planned: Iterable[RunConfig]) -> pd.DataFrame:
    """Our value minus the reported one, wherever a table has both, as texts; ours is the mean over seeds.

    The index is `RunConfig.group`.
    """
    reported = paper[(paper["table"] == settings.paper_table) & (paper["dataset"] == settings.reported_dataset)]
    found, of = [], []
    for group, runs in by_group(filter(settings.includes, planned)).items():
        for one in reported[reported["model"].isin(reported_names(runs[0]))].to_dict("records"):
            ours = results_of(runs, results, one["metric"])
            at_k = ours["k"].isna() if pd.isna(one["k"]) else ours["k"].eq(one["k"]).fillna(False).astype(bool)
            values = ours.loc[at_k, "value"].to_numpy()
            if values.size:
                of.append(group)
                found.append(
                    {
                        "Model": name_of(runs[0]),
                        "Metric": one["metric"].replace("_", " "),
                        "K": "" if pd.isna(one["k"]) else f"{one['k']}",
                        "Ours (seeds)": f"{values.mean():z.2f} ({len(values)})",
                        "Reported": f"{one['value']:.2f}{CONFIRMED[one['confirmed']][1]}",
                        "Delta": f"{values.mean() - one['value']:+z.2f} {one['unit']}",
                        "Source": one["source"],
                    }
                )
    return pd.DataFrame(found, index=of)


def reported_names(run: RunConfig) -> list[str]:
    """What reported values call the model that a run reproduces: `BIVA`, or with its number of stages `BIVA L=15`."""
    if run.labels is not None:
        return [CLASSIFIERS[run.model]]
    return [LABELS[run.variant], f"{LABELS[run.variant]} L={len(run.architecture.stages)}"]


def reproduced(run: RunConfig, tables: Iterable[TableSettings]) -> list[str]:
    """Names of the paper's tables that a run gives a row of."""
    return sorted({table.paper_table for table in tables if table.includes(run) and table.paper_table})


def note(folder: RunFolder, run: RunConfig, tables: Iterable[TableSettings], paper: Paper) -> str:
    """What a run reproduces and how far it is from that, as Markdown."""
    names = reproduced(run, tables)
    what = f"**{name_of(run)}** on *{run.dataset}*, architecture `{run.architecture_name}`, seed {run.seed}"
    lines = [f"{what}; protocol *{run.training.protocol}*.", ""]
    if not names:
        return "\n".join([*lines, str(why_nothing_reported(paper["dataset"] == run.dataset)), ""])
    lines.append(f"Reproduces {', '.join(f'`{name}`' for name in names)} of `config/paper_results.csv`.")
    results = collect([folder])
    found = pd.concat([distances(results, paper, table, [run]) for table in tables])
    if found.empty:
        lines.append("No value is reported for this model, or the run is not evaluated at its K.")
    else:
        rows: list[list[str]] = [found.columns.tolist(), ["---"] * len(found.columns), *found.to_numpy().tolist()]
        lines += ["", *(f"| {' | '.join(map(in_markdown, row))} |" for row in rows)]
    return "\n".join([*lines, ""])
