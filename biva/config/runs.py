"""One run: all that decides what it produces."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from biva.config.base import Device, Name, Strict
from biva.config.training import Training
from biva.models.architectures import Architecture, ModelName

FINETUNED = "_finetuned"


class Labels(Strict):
    """The labels that a run learns from."""

    count: int = Field(description="Class-balanced, drawn by the run's seed.")
    batch_size: int
    weight: float | None = Field(description="alpha; null: labels are all that the run learns from.")


class RunConfig(Strict):
    """All that decides what one run produces, resolved from the files above; recorded in the run's folder."""

    experiments: Name
    dataset: Name
    model: ModelName | Literal["classifier"]
    architecture_name: Name
    seed: int
    device: Device
    threads: int
    architecture: Architecture
    training: Training
    finetunes: str | None = Field(
        default=None, description="Digest of the run from whose selected weights this one goes on without free bits."
    )
    labels: Labels | None = Field(default=None, description="null: the run learns from images alone.")

    @property
    def variant(self) -> str:
        """The model and what is special about its training; the model's name in paths, tables and figures."""
        if self.labels:
            return f"{self.model}_{self.labels.count}_labels"
        return f"{self.model}{FINETUNED}" if self.finetunes else self.model

    @property
    def name(self) -> str:
        """Path of the run below `results/EXPERIMENTS/runs/`."""
        return self._name_of(self.variant)

    @property
    def group(self) -> str:
        """`name` without the seed: what the runs of one model on one dataset share."""
        return self.name.rpartition("/")[0]

    @property
    def parent_name(self) -> str | None:
        """`name` of the run that this one fine-tunes."""
        return self._name_of(self.model) if self.finetunes else None

    def _name_of(self, variant: str) -> str:
        return f"{self.dataset}/{self.architecture_name}/{variant}/seed{self.seed}"

    @property
    def digest(self) -> str:
        """Hash of everything that changes the trained weights: no names, no texts, not when we save or give up."""
        irrelevant: dict[str, Any] = {
            "experiments": True,
            "architecture_name": True,
            "architecture": {"description"},
            "training": {"checkpoint_seconds", "max_skipped_updates"},
        }
        content = self.model_dump(mode="json", exclude=irrelevant)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def by_group(runs: Iterable[RunConfig]) -> dict[str, list[RunConfig]]:
    """The runs of every `RunConfig.group`, in their order."""
    groups: dict[str, list[RunConfig]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    return groups
