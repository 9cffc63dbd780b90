"""The steps of the ladder of models: by how much a model's bound is above that of the model before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

from biva.config import RunConfig
from biva.reporting.markup import Text, styled, text
from biva.reporting.ours import by_model, letters
from biva.reporting.per_image import Bounds, paired_difference
from biva.reporting.provenance import Difference, models_of, names_of
from biva.reporting.results import Results
from biva.reporting.table import NOT_RUN, Cell

NOT_AVAILABLE = "not available"

_METHOD = (
    "Differences: mean over seeds and test images of one model minus that of the other; in brackets its 95% interval "
    "over test images, the same of both models, and over seeds (Student's *t*, Welch–Satterthwaite). **Bold**: the "
    "interval excludes 0."
)
_OF_IMAGES = " ^{im}: of one of the two models only one seed ran; the interval is over test images alone, and not bold."
_OTHER_ARCHITECTURES = " Models of different architectures are not compared."
_OTHER_IMAGES = "they were not evaluated on the same test images"
_WITHOUT_BOUNDS = "some runs have no bounds of single images (`bounds.safetensors`), which `biva evaluate` writes"

_IMAGES = ["data_fingerprint", "images_evaluated", "images_in_split"]
"""What decides which test images a run is evaluated on: a part of a split is drawn alike for all runs."""


def steps(
    ours: Results,
    planned: list[RunConfig],
    ks: tuple[int, ...],
    bounds: Mapping[str, Bounds],
    unlike: list[Difference],
    *,
    per_nat: float,
    digits: int,
) -> tuple[list[list[Cell]], list[Text]]:
    """A row per pair of models with a cell per K, and notes; no row where no difference is available.

    `ours` are the results, of one metric, of the runs that a table of one dataset plans; `bounds` has those of their
    test images by `RunConfig.name`. The letters of `unlike` stand at the differences too. A nat is `per_nat` in the
    table's unit, which is shown with so many digits after the decimal point.
    """
    models = by_model(planned)
    runs = ours.assign(run=ours["dataset"] + "/" + names_of(ours))
    rows, reasons, has_one_seed = [], set(), False
    for pair in _pairs(models):
        cells = []
        for k in ks:
            both = [
                runs[runs["run"].isin([run.name for run in models[name]]) & (runs["k"] == k).fillna(False)]
                for name in pair
            ]
            if reason := _why_not(both, bounds, k):
                reasons.add(reason)
                cells.append(Cell(NOT_RUN if reason == NOT_RUN else NOT_AVAILABLE))
                continue
            found = paired_difference(*(per_nat * np.stack([bounds[run][k] for run in part["run"]]) for part in both))
            has_one_seed |= not found.over_seeds
            together = pd.concat(both)
            marks = letters(unlike, names_of(together))
            cells.append(
                Cell(
                    value=found.value,
                    digits=digits,
                    interval=(found.low, found.high) if np.isfinite(found.low) else None,
                    bold=found.is_real,
                    marks=marks if found.over_seeds else (*marks, "im"),
                    of=models_of(together),
                )
            )
        rows.append([Cell(text(pair[0], " − ", pair[1])), *cells])
    missing = "; ".join(sorted(reasons - {NOT_RUN}))
    if all(cell.value is None for row in rows for cell in row):
        return [], [styled(f"Differences between models are {NOT_AVAILABLE}: {missing}.")] if missing else []
    several = len({run.architecture_name for run in planned}) > 1
    notes = [_METHOD + _OF_IMAGES * has_one_seed + _OTHER_ARCHITECTURES * several]
    if missing:
        notes.append(f"Differences that are {NOT_AVAILABLE}: {missing}.")
    return rows, [styled(note) for note in notes]


def _pairs(models: Mapping[Text, list[RunConfig]]) -> Iterator[tuple[Text, Text]]:
    """Names of models to compare, the later one first, per architecture.

    Every model with the one before it, the last one with the first, and every fine-tuned model with its parent.
    """
    for architecture in dict.fromkeys(runs[0].architecture_name for runs in models.values()):
        of = {runs[0].variant: name for name, runs in models.items() if runs[0].architecture_name == architecture}
        finetuned = {runs[0].variant: runs[0].model for runs in models.values() if runs[0].finetunes}
        ladder = [name for variant, name in of.items() if variant not in finetuned]
        yield from ((later, earlier) for earlier, later in pairwise(ladder))
        if len(ladder) > 2:
            yield ladder[-1], ladder[0]
        yield from ((of[child], of[parent]) for child, parent in finetuned.items() if {child, parent} <= of.keys())


def _why_not(both: list[Results], bounds: Mapping[str, Bounds], k: int) -> str:
    """What keeps two models from being compared at K; empty where nothing does."""
    if any(part.empty for part in both):
        return NOT_RUN
    together = pd.concat(both)
    if not all(k in bounds.get(run, {}) for run in together["run"]):
        return _WITHOUT_BOUNDS
    return _OTHER_IMAGES if len(together[_IMAGES].drop_duplicates()) > 1 else ""
