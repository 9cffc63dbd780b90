"""The page of an experiment set, `index.html`: what came out, and the runs that every number is of.

It is one file that needs no network: pictures are inside, so that it survives being mailed. A number in a table is a
link to the section of its model (`sections.py`). The page is made of records and, but for published sets, of the
figures that lie beside it.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from biva.config import Experiments, RunConfig, by_group
from biva.records import PUBLISHED, RunFolder, read_json
from biva.reporting.figures.latents import group_order
from biva.reporting.figures.registry import FIGURES
from biva.reporting.markup import styled
from biva.reporting.ours import by_model
from biva.reporting.sections import section
from biva.reporting.strips import strips
from biva.reporting.summary import origin
from biva.reporting.table import NOT_RUN, Cell, Table, render

FIRST = ("figures/layers", "figures/samples")
"""The figures of the first screen; the others stand below the tables."""


def page(settings: Experiments, runs: list[RunConfig], tables: list[Table], records: Path, pictures: Path) -> str:
    """The page, as HTML, of all runs that a set plans and all its tables.

    `records` is the folder of the runs, `pictures` that of the set: `results/NAME`, or a published copy.
    """
    figures = [] if pictures.parent.name == PUBLISHED else [_picture(stem, pictures) for stem in settings.figure_stems]
    pairs = [pair.name for pair in settings.anomalies]
    return render(
        "index.html.j2",
        name=runs[0].experiments,
        settings=settings,
        origin=origin(runs, records),
        evaluated=sum(RunFolder(records / run.name).evaluation.is_file() for run in runs),
        seeds=sorted({run.seed for run in runs}),
        runs=runs,
        tables=[(table, {} if table.name in pairs else strips(table)) for table in tables],
        stages=_stages(runs, records),
        first=[one for one in figures if one["stem"] in FIRST],
        others=[one for one in figures if one["stem"] not in FIRST],
        models=[section(group, records) for group in by_group(runs).values()],
    )


def _picture(stem: str, folder: Path) -> dict[str, Any]:
    """A figure with its title and caption; without content where it has not been made."""
    name, path = stem.partition("/")[2], folder / f"{stem}.png"
    content = base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""
    if stem.startswith("figures/"):
        return {"stem": stem, "title": FIGURES[name].title, "caption": FIGURES[name].caption, "content": content}
    about = "Histograms of L^{>k} of the test images of both datasets, and ROC curves of L^{>k} and LLR^{>k}."
    return {"stem": stem, "title": f"Anomalies: {name}", "caption": styled(about), "content": content}


def _stages(runs: list[RunConfig], records: Path) -> list[Table]:
    """For every dataset the KL of every stage, mean ± standard deviation over a model's seeds."""
    tables = []
    images = [run for run in runs if run.labels is None]
    for dataset in dict.fromkeys(run.dataset for run in images):
        models = by_model(run for run in images if run.dataset == dataset)
        kl = {name: _kl_per_stage([RunFolder(records / run.name) for run in group]) for name, group in models.items()}
        stages = sorted({stage for of_model in kl.values() for stage in of_model}, reverse=True)
        rows = [
            [Cell(f"{stage}"), *(_kl_cell(kl[name], stage, group[0].group) for name, group in models.items())]
            for stage in stages
        ]
        title = f"What each stage holds: its KL in nats, mean over `{dataset}` test images. Stage 1 is the lowest."
        tables.append(Table(f"kl_{dataset}", styled(title), [[Cell("Stage"), *map(Cell, models)]], [rows], []))
    return [table for table in tables if table.blocks[0]]


def _kl_per_stage(folders: list[RunFolder]) -> dict[int, list[float]]:
    """Stage -> KL of every evaluated seed, of all groups of the stage."""
    found: dict[int, list[float]] = {}
    for folder in folders:
        groups = read_json(folder.evaluation)["kl_per_group"] if folder.evaluation.is_file() else {}
        for stage in {group_order(name)[0] for name in groups}:
            kl = sum(number["value"] for name, number in groups.items() if group_order(name)[0] == stage)
            found.setdefault(stage, []).append(kl)
    return found


def _kl_cell(kl: dict[int, list[float]], stage: int, group: str) -> Cell:
    if stage not in kl:
        return Cell("–" if kl else NOT_RUN)
    spread = float(np.std(kl[stage], ddof=1)) if len(kl[stage]) > 1 else None
    return Cell(value=float(np.mean(kl[stage])), spread=spread, of=(group,))
