"""Figures of an experiment set, drawn at the width of one column without torch.

Each figure is one function in this package, decorated with `registry.figure`, which says what the figure reads; the
function's name is the figure's name, and its docstring is the caption that readers of the summary and the report see.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from biva.config import FigureName, load_experiments, resolve_runs
from biva.errors import UserError
from biva.records import RunFolder
from biva.reporting.canvas import Part, stack
from biva.reporting.figures import curves, images, latents  # noqa: F401  (they enter their figures into FIGURES)
from biva.reporting.figures.registry import FIGURES
from biva.reporting.runs import Group, in_order

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def folders_to_draw(experiments: str, results: Path) -> list[RunFolder]:
    """The run folders of a set that figures show, in the order of the set's file: all but those with labels."""
    runs = resolve_runs(experiments, load_experiments(experiments))
    return [RunFolder(results / "runs" / run.name) for run in runs if run.labels is None]


def inputs(name: str) -> tuple[str, ...]:
    """The files in a run's folder that a figure waits for; `record.jsonl` is complete once `train.json` is there."""
    of_arrays = ("evaluation.json", "evaluation.safetensors")
    return {"record": ("train.json",), "evaluation": of_arrays[:1], "arrays": of_arrays}[FIGURES[name].reads]


def draw(name: FigureName, folders: Iterable[RunFolder]) -> Figure:
    """Draw one figure of these runs, one part per dataset and architecture; runs without its record are named below.

    Raises:
        UserError: no run has the record that the figure shows.
    """
    figure, runs = FIGURES[name], in_order(folders)
    ready = [run for run in runs if getattr(run.folder, figure.reads).is_file()]
    if not ready:
        done, verb = ("trained", "train") if figure.reads == "record" else ("evaluated", "evaluate")
        raise UserError(
            f"Nothing to draw in figure {name!r}: none of the {len(runs)} runs has been {done}. "
            f"Run `biva {verb} EXPERIMENTS RUN` first."
        )
    groups: dict[str, Group] = {}
    for run in ready:
        groups.setdefault(f"{run.dataset}, {run.architecture}", []).append(run)

    def part(place: str, group: Group) -> Part:
        return Part(f"{figure.title}: {place}", figure.height(group), lambda canvas: figure.draw(canvas, group))

    parts = [part(place, group) for place, group in groups.items()]
    return stack(parts, missing=[run.name for run in runs if run not in ready])
