"""The one model of a table: cells, headings, caption and notes, printed as LaTeX, as HTML and as a pandas frame.

The LaTeX needs the package booktabs only. `templates/` says how a table looks; what stands in it comes from
`likelihood_table.py`, `test_errors.py` and `anomalies.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from biva.reporting.markup import Text, bold, escape_latex, in_markdown, sup, text

NOT_RUN = "not run"


@dataclass(frozen=True)
class Cell:
    """One cell: words, or a number with what belongs to it."""

    words: str | Text = ""
    """What a cell without `value` says."""
    value: float | None = None
    digits: int = 2
    """Digits after the decimal point, of all numbers of the cell."""
    spread: float | None = None
    """Standard deviation over seeds, or the standard error over images if `of_images`."""
    of_images: bool = False
    interval: tuple[float, float] | None = None
    """Ends of the 95% interval."""
    seeds: str = ""
    """Number of seeds, such as `2`, or `1/2` where one of two planned ran."""
    marks: tuple[str, ...] = ()
    """What refers to a note: letters and numbers, and signs such as a dagger."""
    bold: bool = False
    """Whether the number stands out: the best one, or a difference that is not 0."""
    in_brackets: bool = False
    columns: int = 1
    """Number of the table's columns that the cell is as wide as."""
    of: tuple[str, ...] = ()
    """Models whose runs gave the number, `DATASET/ARCHITECTURE/MODEL`; two, if it is what the first is ahead."""

    @property
    def text(self) -> Text:
        marks = sup(",".join(self.marks))
        if self.value is None:
            return text(self.words, marks)
        number = self._number(self.value)
        parts: list[str | Text] = [f"({number})" if self.in_brackets else bold(number) if self.bold else number]
        if self.spread is not None:
            parts += ["±" + self._number(self.spread), sup("se" if self.of_images else "")]
        if self.interval is not None:
            parts.append(f" [{', '.join(map(self._number, self.interval))}]")
        if self.seeds:
            parts.append(f" ({self.seeds})")
        return text(*parts, marks)

    def _number(self, value: float) -> str:
        return f"{value:z.{self.digits}f}".replace("-", "−") if math.isfinite(value) else "not finite"


@dataclass(frozen=True)
class Table:
    """A table and what it says about itself."""

    name: str
    caption: Text
    headings: list[list[Cell]]
    """One line of cells, or two of which the first spans columns."""
    blocks: list[list[list[Cell]]]
    """Rows of cells, in blocks with a rule between any two."""
    notes: list[Text]
    words: int = 1
    """Number of columns from the left that hold words and no numbers."""
    distances: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What stands below the table in HTML: the frame of `biva.reporting.comparison.distances`."""

    def latex(self) -> str:
        """A `table` environment."""
        return render("table.tex.j2", table=self)

    def html(self) -> str:
        """A page of its own, with the distances to the reported values below the table."""
        return render("table.html.j2", table=self)

    def frame(self) -> pd.DataFrame:
        """The cells without styles; the lines of headings are joined, as in `K = 1 ours`."""
        headings = [[str(cell.text) for cell in line for _ in range(cell.columns)] for line in self.headings]
        rows = [
            [part for cell in row for part in (str(cell.text), *[""] * (cell.columns - 1))]
            for block in self.blocks
            for row in block
        ]
        return pd.DataFrame(rows, columns=[" ".join(filter(None, parts)) for parts in zip(*headings, strict=True)])

    @staticmethod
    def placed(line: list[Cell]) -> list[tuple[int, int, Cell]]:
        """The cells of a line, each after the first and the last column, from 1, that it takes."""
        ends = accumulate(cell.columns for cell in line)
        return [(end - cell.columns + 1, end, cell) for cell, end in zip(line, ends, strict=True)]


def render(template: str, **content: Any) -> str:
    """Fill in a file of `templates/`. What it prints is escaped for HTML, in a `.tex.j2` for LaTeX, in a `.md.j2` for a
    cell of a table. File names that LaTeX reads are marked `safe`.
    """
    return _ENVIRONMENTS[template.split(".")[1]].get_template(template).render(content)


def _in_latex(value: object) -> str:
    if isinstance(value, Markup):  # by the filter `safe`
        return value
    return value.latex() if isinstance(value, Text) else escape_latex(str(value))


_environment = partial(
    Environment,
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_LATEX = _environment(
    finalize=_in_latex,
    block_start_string="<%",
    block_end_string="%>",
    variable_start_string="<<",
    variable_end_string=">>",
    comment_start_string="<#",
    comment_end_string="#>",
)
_ENVIRONMENTS = {"tex": _LATEX, "html": _environment(autoescape=True), "md": _environment(finalize=in_markdown)}
