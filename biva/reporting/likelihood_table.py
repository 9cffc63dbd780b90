"""The table of likelihood bounds: ours beside the reported ones, so that every cell says where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain

import pandas as pd

from biva.config import LikelihoodTable, RunConfig
from biva.reporting.comparison import distances, reported_names
from biva.reporting.markup import Text, styled
from biva.reporting.ours import by_model, note_on_budget, notes_on_differences, notes_on_ours, our_cell, results_of
from biva.reporting.per_image import Bounds
from biva.reporting.provenance import LOSS_GROWTH, differences, diverged
from biva.reporting.reported import ReportedCells, reported_for, why_nothing_reported
from biva.reporting.results import Paper, Results
from biva.reporting.steps import steps
from biva.reporting.table import NOT_RUN, Cell, Table


@dataclass(frozen=True)
class _Quantity:
    """What the table shows of one kind of image."""

    metric: str
    unit: str
    title: str
    better: str
    digits: int
    """Of differences between models, after the decimal point."""

    def per_nat(self, run: RunConfig) -> float:
        """What a nat of a run's bound is in this unit."""
        return 1.0 if self.unit == "nats" else -1 / (math.prod(run.architecture.input_shape) * math.log(2))


_LOWER, _UPPER = "lower bounds *L*_{K} on log *p*(*x*)", "upper bounds on −log_{2} *p*(*x*)"
NATS = _Quantity("log_likelihood_bound", "nats", f"Importance-weighted {_LOWER}", "higher", digits=2)
BITS = _Quantity("bits_per_dim", "bits/dim", f"Importance-weighted {_UPPER}", "lower", digits=3)


def likelihood_table(
    results: Results,
    paper: Paper,
    settings: LikelihoodTable,
    planned: list[RunConfig],
    bounds: Mapping[str, Bounds] | None = None,
) -> Table:
    """A row per model and architecture, and per K our value and, if any, the reported value.

    Bounds are in nats, higher is better, or for colour images in bits/dim, lower is better. Models that only others
    report stand below ours. What has no result is `not run`. The last rows are the differences between our models, from
    the `bounds` of the test images by `RunConfig.name`, where there are any.

    Raises:
        UserError: `paper` has no table of that name for the dataset.
    """
    planned = [run for run in planned if settings.includes(run)]
    quantity = BITS if planned[0].architecture.likelihood == "mixture_of_logistics" else NATS
    ours = results_of(planned, results, quantity.metric)
    unlike = differences(ours, planned) + diverged(results_of(planned, results, LOSS_GROWTH))
    of_dataset = paper["dataset"] == settings.reported_dataset
    reported, reported_cells = reported_for(settings, paper, of_dataset), ReportedCells()
    reported = reported[reported["metric"].isin([quantity.metric, "log_likelihood"])]

    def row(name: Text | str, ours: list[Cell], models: list[str]) -> list[Cell]:
        """Our value at every K, and beside it what is reported of these models."""
        if not settings.paper_table:
            return [Cell(name), *ours]
        beside = _reported_row(reported[reported["model"].isin(models)], settings.k, reported_cells)
        return [Cell(name), *chain.from_iterable(zip(ours, beside, strict=True))]

    rows = []
    for name, runs in by_model(planned).items():
        of_model = ours[(ours["architecture"] == runs[0].architecture_name) & (ours["model"] == runs[0].variant)]
        cells = [our_cell(of_model[of_model["k"] == k], len(runs), unlike) for k in settings.k]
        rows.append(row(name, cells, reported_names(runs[0])))
    taken = [name for run in planned for name in reported_names(run)]
    not_run = [Cell(NOT_RUN)] * len(settings.k)
    others = [row(model, not_run, [model]) for model in _others(reported[~reported["model"].isin(taken)], settings.k)]
    differing, notes_on_steps = steps(
        ours, planned, settings.k, bounds or {}, unlike, per_nat=quantity.per_nat(planned[0]), digits=quantity.digits
    )
    if settings.paper_table:
        differing = [[name, *(replace(cell, columns=2) for cell in cells)] for name, *cells in differing]
    return Table(
        name=settings.name,
        caption=styled(
            f"{quantity.title} of `{settings.dataset}` test images, in {quantity.unit}; {quantity.better} is better."
        ),
        headings=_headings(settings.k, beside_reported=bool(settings.paper_table)),
        blocks=[block for block in (rows, others, differing) if block],
        notes=[
            *notes_on_ours(ours, planned),
            *(note_on_budget(ours, planned) if settings.paper_table else []),
            *_note_on_precision(results_of(planned, results, "difference_from_fp32")),
            *notes_on_differences(unlike),
            *notes_on_steps,
            *(reported_cells.notes() if settings.paper_table else [why_nothing_reported(of_dataset)]),
        ],
        distances=distances(results, paper, settings, planned),
    )


def _headings(ks: tuple[int, ...], *, beside_reported: bool) -> list[list[Cell]]:
    heads = [Cell(styled(f"*K* = {k}"), columns=2 if beside_reported else 1) for k in ks]
    if not beside_reported:
        return [[Cell("Model"), *heads]]
    return [[Cell(), *heads], [Cell("Model"), *[Cell("ours"), Cell("reported")] * len(ks)]]


def _reported_row(of_model: pd.DataFrame, ks: tuple[int, ...], cells: ReportedCells) -> list[Cell]:
    """The reported value of a model at every K. One whose K is not stated stands in the last column, in brackets."""
    row = [cells.cell(of_model[of_model["k"] == k]) for k in ks[:-1]]
    at_last, without_k = of_model[of_model["k"] == ks[-1]], of_model[of_model["k"].isna()]
    if at_last.empty and not without_k.empty:
        return [*row, cells.cell(without_k, in_brackets=True)]
    return [*row, cells.cell(at_last)]


def _others(reported: pd.DataFrame, ks: tuple[int, ...]) -> list[str]:
    """The models with a reported value that the table shows: first those at a K of the table, then those without K."""
    at_k, without_k = reported["k"].isin(ks), reported["k"].isna()
    return list(dict.fromkeys([*reported.loc[at_k, "model"], *reported.loc[without_k, "model"]]))


def _note_on_precision(differences: pd.DataFrame) -> list[Text]:
    """What is known of runs that were not evaluated in fp32."""
    if differences.empty:
        return []
    return [
        styled(
            f"{differences['run_id'].nunique()} of our runs evaluated in less than fp32: on some of the test images, "
            f"with the same noise, the mean of *L*_{{K}} differs by at most {differences['value'].abs().max():.1g} "
            f"{differences['unit'].iloc[0]}."
        )
    ]
