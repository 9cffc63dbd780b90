"""The runs that a figure compares, read from their folders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from biva.errors import UserError
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
        if folder.identity.is_file():
            identity = read_json(folder.identity)
            config = identity["config"]
            return cls(folder, config["dataset"], config["architecture_name"], identity["variant"], config["seed"])
        parts = folder.path.resolve().parts[-4:]
        if len(parts) < 4 or parts[2] not in MODELS or not re.fullmatch(r"seed-?\d+", parts[3]):
            raise UserError(f"{folder.path} is no run folder: expected .../DATASET/ARCHITECTURE/MODEL/seedN.")
        return cls(folder, parts[0], parts[1], parts[2], int(parts[3].removeprefix("seed")))

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
