"""The picture in a table's rows: dots with intervals, for our values, the reported ones and their distances."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

from biva.reporting.table import Cell, Table


def strips(table: Table) -> dict[str, Any]:
    """What a table's picture shows: for every row dots with intervals, in percent of a column's width.

    A lane per quantity has our value, the reported one, and the distance. Differences between models have a scale of
    their own. Nothing where the table has no number.
    """
    heads = [str(cell.text) for cell in table.headings[-1]]
    lanes = [lane - table.words - 1 for lane in accumulate(head != "reported" for head in heads)]
    rows = [[_dots(row, lanes) for row in block] for block in table.blocks]
    dots = [dot for block in rows for row in block for dot in row]
    width = 76 if any(dot["distance"] for dot in dots) else 88  # distances stand at the end
    gridlines: dict[bool, list[tuple[float, str]]] = {}
    for of_steps in (False, True):
        some = [dot for dot in dots if dot["step"] == of_steps]
        ends = [dot[end] for dot in some for end in ("low", "high")] + [0.0] * of_steps
        low, high = min(ends, default=0.0), max(ends, default=0.0)
        for dot in some:
            dot |= {end: _percent(dot[end], low, high, width) for end in ("low", "value", "high")}
        wanted = [0.0] if of_steps else ticks(low, high)
        gridlines[of_steps] = [(_percent(tick, low, high, width), number(tick)) for tick in wanted]
    if not dots:
        return {}
    names = [str(cell.text) for cell in table.headings[0] if cell.columns > 1] or heads[table.words :]
    kinds = {kind: any(dot[kind] for dot in dots) for kind in ("reported", "step")}
    return {"rows": rows, "ticks": gridlines, "lanes": names[: max(lanes) + 1], **kinds}


def _dots(row: list[Cell], lanes: list[int]) -> list[dict[str, Any]]:
    dots: list[dict[str, Any]] = []
    for first, _, cell in Table.placed(row):
        if cell.value is None or not math.isfinite(cell.value):
            continue
        spread = cell.spread or 0.0
        low, high = cell.interval or (cell.value - spread, cell.value + spread)
        dot = {"lane": lanes[first - 1], "value": cell.value, "low": low, "high": high, "distance": ""}
        dot |= {"step": len(cell.of) > 1, "reported": not cell.of}
        if dot["reported"] and dots and dots[-1]["lane"] == dot["lane"]:
            dot["distance"] = number(dots[-1]["value"] - cell.value, f"+z.{cell.digits}f")
        dots.append(dot)
    return dots


def _percent(value: float, low: float, high: float, width: float) -> float:
    """Place of a value on the strip, with a margin for the dots."""
    return round(6 + width * ((value - low) / (high - low) if high > low else 0.5), 2)


def number(value: float, form: str = "g") -> str:
    """A number with a true minus sign."""
    return f"{value:{form}}".replace("-", "−")


def ticks(low: float, high: float) -> list[float]:
    """Some round numbers between two numbers."""
    from matplotlib.ticker import MaxNLocator

    return [tick for tick in map(float, MaxNLocator(4).tick_values(low, high)) if low <= tick <= high]
