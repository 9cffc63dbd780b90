"""Figures of an experiment set, drawn from run records alone, at the width of one column.

A run whose record for a figure does not exist yet is named on the figure as not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from biva.config import FigureName, load_experiments, resolve_runs
from biva.errors import UserError
from biva.records import RunFolder
from biva.reporting.canvas import name_missing, parts
from biva.reporting.curves import draw_bound_against_k, draw_bound_over_time, draw_learning_curves
from biva.reporting.images import (
    columns_height,
    draw_interpolations,
    draw_layers,
    draw_reconstructions,
    draw_samples,
    draw_temperatures,
    rows_height,
)
from biva.reporting.latents import draw_kl_per_layer, draw_latents_over_training, kl_height, training_height
from biva.reporting.runs import Group, in_order
from biva.reporting.style import COLUMN_WIDTH, LOOK


def folders_to_draw(experiments: str, results: Path) -> list[RunFolder]:
    """A set's runs, but for those that learn from labels: the runs that figures are about, in the file's order.

    Args:
        experiments: name of the set.
        results: its folder, `results/NAME`, or the published copy of it.
    """
    runs = resolve_runs(experiments, load_experiments(experiments))
    return [RunFolder(results / "runs" / run.name) for run in runs if run.labels is None]


def draw(figure: FigureName, folders: Iterable[RunFolder]) -> Figure:
    """Draw one figure of these runs, in one part per dataset and architecture.

    Raises:
        UserError: no run has the record that the figure shows, or a record lacks what it shows.
    """
    drawing = _DRAWINGS[figure]
    runs = in_order(folders)
    ready = [run for run in runs if drawing.source.record(run.folder).is_file()]
    if not ready:
        raise UserError(
            f"Nothing to draw in figure {figure!r}: none of the {len(runs)} runs has {drawing.source.made_by}. "
            f"Run `biva {drawing.source.verb} EXPERIMENTS RUN` first."
        )
    groups: dict[tuple[str, str], Group] = {}
    for run in ready:
        groups.setdefault((run.dataset, run.architecture), []).append(run)
    try:
        with matplotlib.rc_context(LOOK):
            canvas = Figure(layout="constrained")
            heights = [drawing.height(group) for group in groups.values()]
            canvas.set_size_inches(COLUMN_WIDTH, sum(heights))
            for part, group in zip(parts(canvas, heights), groups.values(), strict=True):
                part.suptitle(f"{drawing.title}: {group[0].dataset}, {group[0].architecture}", fontsize=8)
                drawing.draw(part, group)
            name_missing(canvas, [run for run in runs if run not in ready])
    except KeyError as error:
        raise UserError(
            f"A record for figure {figure!r} lacks {error}. It was written by another version of biva: run "
            f"`biva {drawing.source.verb} EXPERIMENTS RUN` again."
        ) from None
    return canvas


def explanations() -> dict[str, str]:
    """What to know to read a figure: its name -> a sentence or two of plain text."""
    return {name: drawing.explanation for name, drawing in _DRAWINGS.items()}


def is_of_records(figure: FigureName) -> bool:
    """Whether a figure is drawn from a run's records alone, without its arrays."""
    return _DRAWINGS[figure].source is not _PICTURES


@dataclass(frozen=True)
class _Source:
    """The record that a figure shows, and the verb that writes it."""

    record: Callable[[RunFolder], Path]
    made_by: str
    verb: str


@dataclass(frozen=True)
class _Drawing:
    """How one figure is made, and from which record."""

    title: str
    explanation: str
    source: _Source
    height: Callable[[Group], float]
    draw: Callable[[Any, Group], None]


_TRAINING = _Source(lambda folder: folder.record, "training evaluations", "train")
_EVALUATION = _Source(lambda folder: folder.evaluation, "an evaluation", "evaluate")
_PICTURES = _Source(lambda folder: folder.arrays, "an evaluation", "evaluate")


def _curve_height(_group: Group) -> float:
    return 2.6


_DRAWINGS: dict[str, _Drawing] = {
    "learning_curves": _Drawing(
        "Learning curves",
        "ELBO during training, on the selection split (averaged weights) and on the training batches.",
        _TRAINING,
        _curve_height,
        draw_learning_curves,
    ),
    "bound_over_time": _Drawing(
        "Bound over wall time",
        "ELBO on the selection split over the time that training took, its evaluations included. Thin: each seed; "
        "thick: their mean, until the first of them ends.",
        _TRAINING,
        _curve_height,
        draw_bound_over_time,
    ),
    "latents_over_training": _Drawing(
        "Latent groups over training",
        "KL per latent group and share of its units that are active, on the selection split; first seeds.",
        _TRAINING,
        training_height,
        draw_latents_over_training,
    ),
    "bound_against_k": _Drawing(
        "Bound against K",
        "Importance-weighted bound on the test images against the number K of samples per image.",
        _EVALUATION,
        _curve_height,
        draw_bound_against_k,
    ),
    "kl_per_layer": _Drawing(
        "KL per latent group",
        "KL from posterior to prior per latent group on the test images, from the bottom stage to the top.",
        _EVALUATION,
        kl_height,
        draw_kl_per_layer,
    ),
    "samples": _Drawing(
        "Samples from the prior",
        "Images drawn from the prior; not picked.",
        _PICTURES,
        columns_height,
        draw_samples,
    ),
    "temperatures": _Drawing(
        "Samples by temperature",
        "Prior samples with all standard deviations times the temperature; a column shares its noise.",
        _PICTURES,
        rows_height("temperatures"),
        draw_temperatures,
    ),
    "reconstructions": _Drawing(
        "Originals above reconstructions",
        "The first test images above what the model makes of a posterior sample.",
        _PICTURES,
        lambda group: columns_height(group, per_line=1, height=0.85),
        draw_reconstructions,
    ),
    "layers": _Drawing(
        "What each stage holds",
        "Test images x, then decodings with the latents above stage l from the posterior and those below at their "
        "prior's mean: l = 0 is a reconstruction, l = L the prior's means alone.",
        _PICTURES,
        rows_height("layers"),
        draw_layers,
    ),
    "interpolations": _Drawing(
        "Between two test images",
        "From the left test image to the right one: posterior samples of both, interpolated on the sphere of the "
        "prior's noise.",
        _PICTURES,
        rows_height("interpolations"),
        draw_interpolations,
    ),
}
