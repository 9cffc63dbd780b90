"""LaTeX tables of test errors: semi-supervised BIVA, the supervised network of its size, and the reported values."""

from __future__ import annotations

import numpy as np
import pandas as pd

from biva.config import RunConfig, SemiSupervised
from biva.errors import UserError
from biva.reporting.provenance import differences
from biva.reporting.style import CLASSIFIERS
from biva.reporting.tables import (
    EXPLANATIONS,
    MARKS,
    NOT_REPORTED,
    NOT_RUN,
    code,
    environment,
    escape,
    notes_on_differences,
    notes_on_ours,
    our_cell,
    results_of,
)

METRIC = "test_error"

SELECTION = (
    "BIVA: the evaluation with the best bound on $\\log p(x)$ of the {} was selected, which needs no labels. "
    "Supervised network: the weights after all updates"
)
PROTOCOLS = {
    "paper": "labels and images are of the training and validation images. "
    + SELECTION.format("\\emph{test} images, without their labels,"),
    "clean": "labels and images are of the training images. " + SELECTION.format("validation images"),
}


def error_table(results: pd.DataFrame, paper: pd.DataFrame, table: SemiSupervised, planned: list[RunConfig]) -> str:
    """One `table` environment: a row per model with our test error and, where the table has one, the reported value.

    In percent, lower is better. Ours is `mean ± s.d. (n)` over n seeds, or with one seed the standard error over test
    images, marked `se`. Reported values carry a mark unless they are confirmed. What has no result is `not run`.

    Args:
        results: the frame of `biva.reporting.results.collect`.
        paper: the frame of `biva.reporting.results.load_paper_results`.
        table: which runs, and which reported values.
        planned: the runs of the experiment set; those that the table includes decide which results count.

    Raises:
        UserError: `paper` has no test error in a table of that name.
    """
    planned = [run for run in planned if table.includes(run)]
    ours = results_of(planned, results, METRIC)
    reported = _reported(paper, table) if table.paper_table else paper.iloc[:0]
    unlike = differences(ours, planned)
    rows = []
    for model, name in CLASSIFIERS.items():
        runs = [run for run in planned if run.model == model]
        mine = ours[ours["model"].isin([run.variant for run in runs])]
        of_model = reported[reported["model"] == name]
        rows.append(
            [name, _learns_from(model, table), our_cell(mine, [run.seed for run in runs], unlike), _cells(of_model)]
        )
    others = reported[~reported["model"].isin(CLASSIFIERS.values())]
    rows += [[escape(str(model)), "", NOT_RUN, _cells(row)] for model, row in others.groupby("model", sort=False)]
    frame = pd.DataFrame(rows, columns=["Model", "learns from", "ours", "reported"])
    if not table.paper_table:
        frame = frame.drop(columns="reported")
    return environment(
        caption=f"Test error on {code(table.dataset)} with {table.labels} labels, in percent; lower is better.",
        label=f"tab:{table.name}",
        body=frame.to_latex(index=False, escape=False, column_format="@{}ll" + "r" * (frame.shape[1] - 2) + "@{}"),
        notes=[
            *notes_on_ours(ours, planned, PROTOCOLS),
            *notes_on_differences(unlike),
            "Labelled images: as many of every class, drawn anew for every seed; both models get the same ones. "
            "A test image is classified by the most probable $y$ of $q(y\\,|\\,x)$ at the posterior means of "
            f"$z^{{\\mathrm{{BU}}}}$.{_difference(ours)}",
            _notes_on_reported(reported) if table.paper_table else "The paper reports no value on this dataset.",
        ],
    )


def _learns_from(model: str, table: SemiSupervised) -> str:
    return f"{table.labels} labels, all images" if model == "biva" else f"{table.labels} labels"


def _difference(ours: pd.DataFrame) -> str:
    """What the unlabelled images give: the errors of the two models, paired by seed; nothing if no seed has both."""
    biva, classifier = (ours[ours["model"].str.startswith(model)].set_index("seed")["value"] for model in CLASSIFIERS)
    difference = (classifier - biva).dropna()
    if difference.empty:
        return ""
    spread = f"{{\\pm}}{np.std(difference, ddof=1):.2f}" if len(difference) > 1 else ""
    return (
        f" Paired by seed, the error of BIVA is lower by ${difference.mean():.2f}{spread}$ points, and lower "
        f"for {int((difference > 0).sum())} of {len(difference)} seeds."
    )


def _reported(paper: pd.DataFrame, table: SemiSupervised) -> pd.DataFrame:
    """Reported test errors; their dataset's name tells the number of labels too, so the table's name finds them."""
    errors = paper[paper["metric"] == METRIC]
    rows = errors[errors["table"] == table.paper_table]
    if rows.empty:
        raise UserError(
            f"Table {table.name!r} asks for paper_table {table.paper_table!r}, of which config/paper_results.csv has "
            f"no row with the metric {METRIC}; it has: {', '.join(sorted(set(errors['table'])))}."
        )
    return rows


def _cells(rows: pd.DataFrame) -> str:
    """The reported value of one model, with its mark."""
    for row in rows.to_dict("records"):
        mark = MARKS[row["confirmed"]]
        return f"${row['value']:.2f}" + (f"^{{{mark}}}$" if mark else "$")
    return NOT_REPORTED


def _notes_on_reported(rows: pd.DataFrame) -> str:
    """Sources, and what the marks mean."""
    marks = {MARKS[confirmed] for confirmed in rows["confirmed"]}
    sources = "; ".join(f"{escape(row['model'])}: {escape(row['source'])}" for row in rows.to_dict("records"))
    explained = [text for mark, text in EXPLANATIONS.items() if mark in marks]
    return " ".join([f"Reported, with its source: {sources}.", *explained])
