"""The table of test errors: semi-supervised BIVA, the supervised network of its size, and the reported values."""

from __future__ import annotations

import numpy as np
import pandas as pd

from biva.config import RunConfig, SemiSupervised
from biva.reporting.comparison import distances
from biva.reporting.markup import styled, text
from biva.reporting.ours import notes_on_differences, notes_on_ours, our_cell, results_of
from biva.reporting.provenance import LOSS_GROWTH, differences, diverged
from biva.reporting.reported import ReportedCells, reported_for, why_nothing_reported
from biva.reporting.results import Paper, Results
from biva.reporting.style import CLASSIFIERS
from biva.reporting.table import NOT_RUN, Cell, Table

METRIC = "test_error"

_SELECTION = (
    "BIVA: the evaluation with the best bound on log p(x) of the {} was selected, which needs no labels. Supervised "
    "network: the weights after all updates"
)
PROTOCOLS = {
    "paper": "labels and images are of the training and validation images. "
    + _SELECTION.format("test images, without their labels,"),
    "clean": "labels and images are of the training images. " + _SELECTION.format("validation images"),
}


def error_table(results: Results, paper: Paper, settings: SemiSupervised, planned: list[RunConfig]) -> Table:
    """A row per model with our test error and, where the table has one, the reported value; percent, lower is better.

    Raises:
        UserError: `paper` has no test error in a table of that name.
    """
    planned = [run for run in planned if settings.includes(run)]
    ours = results_of(planned, results, METRIC)
    unlike = differences(ours, planned) + diverged(results_of(planned, results, LOSS_GROWTH))
    of_labels = paper["dataset"] == settings.reported_dataset
    reported, cells = reported_for(settings, paper, of_labels & (paper["metric"] == METRIC)), ReportedCells()

    rows = []
    for model, name in CLASSIFIERS.items():
        runs = [run for run in planned if run.model == model]
        found = ours[ours["model"].isin([run.variant for run in runs])]
        labels = f"{settings.labels} labels" + (", all images" if model == "biva" else "")
        beside = reported[reported["model"] == name]
        rows.append([Cell(name), Cell(labels), our_cell(found, len(runs), unlike), cells.cell(beside)])
    for other in dict.fromkeys(reported.loc[~reported["model"].isin(CLASSIFIERS.values()), "model"]):
        rows.append([Cell(other), Cell(), Cell(NOT_RUN), cells.cell(reported[reported["model"] == other])])
    headings = [Cell("Model"), Cell("learns from"), Cell("ours"), Cell("reported")]
    if not settings.paper_table:
        headings, rows = headings[:-1], [row[:-1] for row in rows]
    return Table(
        name=settings.name,
        caption=styled(
            f"Test error on `{settings.dataset}` with {settings.labels} labels, in percent; lower is better."
        ),
        headings=[headings],
        blocks=[rows],
        words=2,
        notes=[
            *notes_on_ours(ours, planned, PROTOCOLS),
            *notes_on_differences(unlike),
            text(_ON_LABELS, _paired_difference(ours)),
            *(cells.notes() if settings.paper_table else [why_nothing_reported(of_labels)]),
        ],
        distances=distances(results, paper, settings, planned),
    )


_ON_LABELS = styled(
    "Labelled images: as many of every class, drawn anew for every seed; both models get the same ones. A test image "
    "is classified by the most probable *y* of *q*(*y* | *x*) at the posterior means of *z*^{BU}."
)


def _paired_difference(ours: pd.DataFrame) -> str:
    """What the unlabelled images give: the errors of the two models, paired by seed; nothing if no seed has both."""
    biva, classifier = (ours[ours["model"].str.startswith(model)].set_index("seed")["value"] for model in CLASSIFIERS)
    difference = (classifier - biva).dropna()
    if difference.empty:
        return ""
    mean, spread = difference.mean(), f"±{np.std(difference, ddof=1):.2f}" if len(difference) > 1 else ""
    by = f"{'lower' if mean >= 0 else 'higher'} by {abs(mean):.2f}{spread} points"
    lower = int((difference > 0).sum())
    return f" Paired by seed, the error of BIVA is {by}, and lower for {lower} of {len(difference)} seeds."
