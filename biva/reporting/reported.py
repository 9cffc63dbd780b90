"""Reported values in a table: the number of each one's source, and a mark unless it is confirmed."""

from __future__ import annotations

import pandas as pd

from biva.config import Table as TableSettings
from biva.errors import UserError
from biva.reporting.markup import Text, joined, styled, sup, text
from biva.reporting.results import CONFIRMED, Paper
from biva.reporting.table import Cell

NOT_REPORTED = "–"

EXACT = "∗"

_EXPLANATIONS = {
    "†": "unconfirmed: from memory, not checked against the source.",
    "‡": "the value is confirmed, its setting is not.",
    EXACT: "exact log-likelihood, not a bound.",
}


class ReportedCells:
    """Makes cells of reported values, and remembers what it made them of, so that the notes explain that alone."""

    def __init__(self) -> None:
        self._sources: list[str] = []
        self._marks: set[str] = set()
        self._brackets = self._gaps = False

    def cell(self, reported: pd.DataFrame, digits: int = 2, *, in_brackets: bool = False) -> Cell:
        """The first of the values of one model and metric, or that there is none; in brackets where K is not stated."""
        if reported.empty:
            self._gaps = True
            return Cell(NOT_REPORTED)
        first = reported.to_dict("records")[0]
        if first["source"] not in self._sources:
            self._sources.append(first["source"])
        exact = EXACT if first["metric"] == "log_likelihood" else ""
        marks = tuple(filter(None, (CONFIRMED[first["confirmed"]][0], exact)))
        self._marks.update(marks)
        self._brackets |= in_brackets
        number = str(self._sources.index(first["source"]) + 1)
        return Cell(value=first["value"], digits=digits, marks=(number, *marks), in_brackets=in_brackets)

    def notes(self) -> list[Text]:
        """What brackets, marks and numbers at the reported values mean."""
        sentences: list[str | Text] = ["Reported: values of the paper and the literature, from the numbered sources."]
        if self._gaps:
            sentences.append(f"{NOT_REPORTED} : no reported value known.")
        if self._brackets:
            sentences.append(styled("In brackets: *K* is not stated, or does not apply."))
        sentences += [text(sup(mark), " ", meaning) for mark, meaning in _EXPLANATIONS.items() if mark in self._marks]
        sources = [text(sup(str(number)), " ", source) for number, source in enumerate(self._sources, start=1)]
        return [joined(" ", sentences), *([text("Sources: ", joined("; ", sources), ".")] if sources else [])]


def reported_for(settings: TableSettings, paper: Paper, wanted: pd.Series) -> Paper:
    """The rows of `config/paper_results.csv` that are in the table's `paper_table` and `wanted`; none without one.

    Raises:
        UserError: there is a `paper_table`, but no such row.
    """
    reported = paper[wanted & (paper["table"] == settings.paper_table)]
    if settings.paper_table and reported.empty:
        known = ", ".join(sorted(set(paper.loc[wanted, "table"]))) or "none"
        raise UserError(
            f"Table {settings.name!r} asks for paper_table {settings.paper_table!r}, of which "
            f"config/paper_results.csv has no row on its dataset and metric; it has: {known}. Use one of these, or "
            "paper_table: null."
        )
    return reported


def why_nothing_reported(known: pd.Series) -> Text:
    """Why no reported values are shown; `known` marks the rows of `config/paper_results.csv` that would fit."""
    if known.any():
        return text("Reported values are left out: the configuration names no paper_table for them.")
    return text("The paper reports no value on this dataset.")
