"""The paper that figures are drawn on: parts below each other at the width of one column, and the files they become."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from biva.records import write_atomically
from biva.reporting.style import COLUMN_WIDTH, LOOK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

LINE_HEIGHT = 0.085
"""Height in inches of a line with the name of a missing run."""


@dataclass(frozen=True)
class Part:
    """A part of a figure: its title, its height in inches, and the function that draws into a matplotlib subfigure."""

    title: str
    height: float
    draw: Callable[[Any], None]


def stack(parts: list[Part], missing: list[str]) -> Figure:
    """A figure of these parts from top to bottom, below which the names of missing runs are written."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(fname=LOOK):
        canvas = Figure(layout="constrained")
        footer = 0.1 + LINE_HEIGHT * len(missing) if missing else 0.0
        canvas.set_size_inches(COLUMN_WIDTH, sum(part.height for part in parts) + footer)
        places = canvas.subfigures(len(parts), 1, height_ratios=[part.height for part in parts], squeeze=False).flat
        for place, part in zip(places, parts, strict=True):
            place.suptitle(part.title, fontsize=8)
            part.draw(place)
        if missing:
            canvas.supxlabel("not run: " + "\n".join(missing), fontsize=5, color=MUTED)
    return canvas


def panels(part: Any, number: int, per_line: int = 2, heights: list[float] | None = None) -> list[Axes]:
    """So many axes, `per_line` side by side; `heights` are the relative heights of the lines."""
    lines = math.ceil(number / per_line)
    axes = list(part.subplots(lines, min(number, per_line), squeeze=False, height_ratios=heights).flat)
    for surplus in axes[number:]:
        surplus.remove()
    return axes[:number]


def key(label: str, **look: Any) -> Line2D:
    """An entry of a legend: a line or marker that looks like this."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **look)


def save(figure: Figure, stem: Path, kinds: tuple[Literal["pdf", "png"], ...] = ("pdf", "png")) -> list[Path]:
    """Write `STEM.pdf` and `STEM.png`, atomically; equal figures give equal bytes, since no date is written.

    Returns:
        The files.
    """
    import matplotlib

    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    for kind, path in zip(kinds, paths, strict=True):
        content = io.BytesIO()
        with matplotlib.rc_context(fname=LOOK):
            figure.savefig(content, format=kind, metadata={"CreationDate": None} if kind == "pdf" else {})
        write_atomically(path, content.getvalue())
    return paths
