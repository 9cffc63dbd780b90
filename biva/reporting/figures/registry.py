"""What a figure is, and the list of them all."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from biva.reporting.runs import Group

Draw = Callable[[Any, Group], None]
"""Draws the runs of one dataset and architecture into a part of a matplotlib figure."""


@dataclass(frozen=True)
class FigureKind:
    """One kind of figure: what it reads, and how it is drawn."""

    title: str
    caption: str
    """What a reader must know to read the figure: a few sentences of plain text on one line."""
    reads: Literal["record", "evaluation", "arrays"]
    """The property of `RunFolder` that names the file without which a run cannot be shown."""
    height: Callable[[Group], float]
    """Height in inches of the part for one dataset and architecture."""
    draw: Draw


FIGURES: dict[str, FigureKind] = {}
"""Every figure by its name, which is `biva.config.FigureName`."""


def figure(
    title: str,
    reads: Literal["record", "evaluation", "arrays"],
    height: Callable[[Group], float] = lambda _group: 2.6,
) -> Callable[[Draw], Draw]:
    """Enter a function that draws a figure into `FIGURES`: its name is the figure's, its docstring the caption."""

    def enter(draw: Draw) -> Draw:
        caption = " ".join((inspect.getdoc(draw) or "").split())
        FIGURES[draw.__name__] = FigureKind(title, caption, reads, height, draw)
        return draw

    return enter
