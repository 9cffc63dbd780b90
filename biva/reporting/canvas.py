"""Parts of a figure, and how it is written."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biva.records import write_atomically
from biva.reporting.runs import Run
from biva.reporting.style import LOOK, MUTED


def parts(canvas: Figure, heights: list[float]) -> list[Any]:
    """One part of the figure per height, from top to bottom."""
    return list(canvas.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat)


def pairs_of_axes(part: Any, number: int, heights: list[float] | None = None) -> list[Axes]:
    """Axes two by two; of an odd number the last stands alone. `heights` are the relative heights of the rows."""
    rows = math.ceil(number / 2)
    axes = list(part.subplots(rows, min(number, 2), squeeze=False, height_ratios=heights).flat)
    for surplus in axes[number:]:
        surplus.remove()
    return axes[:number]


def name_missing(canvas: Figure, missing: list[Run]) -> None:
    """Write below the figure which runs have no record for it, and make it higher by as much."""
    if missing:
        names = "\n".join(run.name for run in missing)
        canvas.supxlabel(f"not run: {names}", fontsize=5, color=MUTED)
        width, height = canvas.get_size_inches()
        canvas.set_size_inches(width, height + 0.1 + LINE_HEIGHT * len(missing))


LINE_HEIGHT = 0.085
"""Of the names of missing runs, in inches."""


def save(figure: Figure, stem: Path, kinds: tuple[Literal["pdf", "png"], ...] = ("pdf", "png")) -> list[Path]:
    """Write `STEM.pdf` and `STEM.png`, atomically; equal figures give equal bytes, since no date is written.

    Returns:
        The files.
    """
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    for kind, path in zip(kinds, paths, strict=True):
        content = io.BytesIO()
        with matplotlib.rc_context(LOOK):
            figure.savefig(content, format=kind, metadata={"CreationDate": None} if kind == "pdf" else {})
        write_atomically(path, content.getvalue())
    return paths
