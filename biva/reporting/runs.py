"""The runs that a figure compares, read from their folders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from biva.records import RunFolder, read_json
from biva.reporting.style import MODELS


@dataclass(frozen=True)
class Run:
    """A run's folder and what `run.json` says of it, or its place `.../DATASET/ARCHITECTURE/MODEL/seedN` if not run."""

    folder: RunFolder
    dataset: str
    architecture: str
    model: str
    seed: int

    @classmethod
    def at(cls, folder: RunFolder) -> Run:
        place = read_json(folder.identity)["name"].split("/") if folder.identity.is_file() else folder.path.parts[-4:]
        dataset, architecture, model, seed = place
        return cls(folder, dataset, architecture, model, int(seed.removeprefix("seed")))

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.architecture}/{self.model}/seed{self.seed}"


Group = list[Run]
"""Runs of one dataset and architecture, by model and seed: what may be compared in one pair of axes."""


def in_order(folders: Iterable[RunFolder]) -> list[Run]:
    """Runs by dataset, architecture, model and seed."""
    return sorted(
        (Run.at(folder) for folder in folders),
        key=lambda run: (run.dataset, run.architecture, MODELS.index(run.model), run.seed),
    )


def first_seeds(runs: list[Run]) -> list[Run]:
    """The first seed of every model (and architecture), from runs in order."""
    return list({(run.architecture, run.model): run for run in reversed(runs)}.values())[::-1]


def by_model(group: Group) -> dict[str, Group]:
    """Model -> its runs, one per seed."""
    models = dict.fromkeys(run.model for run in group)
    return {model: [run for run in group if run.model == model] for model in models}
