"""The endless streams of training batches: shuffled every epoch, binarised anew, exactly resumable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from biva.config import RunConfig
from biva.data.datasets import Dataset
from biva.data.inputs import TRAINING_SPLIT
from biva.data.labels import balanced_draw
from biva.data.preprocessing import model_input
from biva.data.raw import CLASSES
from biva.errors import UserError


class Batches:
    """Batches of model input; the last, incomplete batch of an epoch is left out.

    `images`, uint8 (N, C, H, W), and their `labels`, int64 (N,), if there are any, are kept on `device`, where dynamic
    binarisation happens too, as `dataset` says; `batch_size` is at most N; `seed` is of order and binarisation.
    """

    def __init__(
        self, dataset: Dataset, images: Tensor, labels: Tensor | None, batch_size: int, seed: int, device: torch.device
    ) -> None:
        self.images, self.labels = images.to(device), None if labels is None else labels.to(device)
        self.levels, self.binarisation, self.batch_size = dataset.levels, dataset.binarisation, batch_size
        self.generator = torch.Generator(device).manual_seed(seed)
        self.order = torch.empty(0, dtype=torch.int64, device=device)
        self.position = 0

    def next(self) -> Any:
        """(batch_size, C, H, W) float32; with labels, a tuple of these and their labels (batch_size,)."""
        if self.position + self.batch_size > len(self.order):
            self.order = torch.randperm(len(self.images), generator=self.generator, device=self.images.device)
            self.position = 0
        chosen = self.order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        x = model_input(self.images[chosen], self.levels, self.binarisation, self.generator)
        return x if self.labels is None else (x, self.labels[chosen])

    @property
    def per_epoch(self) -> int:
        """Batches in one pass over the images."""
        return len(self.images) // self.batch_size

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next batches depend on."""
        return {"generator": self.generator.get_state(), "order": self.order, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.generator.set_state(state["generator"].cpu())
        self.order = state["order"].to(self.images.device)
        self.position = state["position"]


class MixedBatches:
    """A labelled and an unlabelled batch at a time; an epoch is a pass over the unlabelled images."""

    def __init__(self, labelled: Batches, unlabelled: Batches) -> None:
        self.labelled, self.unlabelled = labelled, unlabelled
        self.batch_size = labelled.batch_size + unlabelled.batch_size

    def next(self) -> Any:
        """(L + U, C, H, W) float32, the labelled images first, and the labels of these (L,)."""
        x, labels = self.labelled.next()
        return torch.cat([x, self.unlabelled.next()]), labels

    @property
    def per_epoch(self) -> int:
        """Batches in one pass over the unlabelled images."""
        return self.unlabelled.per_epoch

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next batches depend on."""
        return {"labelled": self.labelled.state_dict(), "unlabelled": self.unlabelled.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.labelled.load_state_dict(state["labelled"])
        self.unlabelled.load_state_dict(state["unlabelled"])


def batches_of(
    run: RunConfig, dataset: Dataset, device: torch.device, seed: Callable[[str], int]
) -> Batches | MixedBatches:
    """What a run trains on, on `device`: all training images, those that keep their labels, or both.

    The draw of labels depends on the run's seed alone, not on model, settings or batches: a semi-supervised run and the
    supervised network of the same seed have the same ones. `seed` gives one per purpose.

    Raises:
        UserError: the dataset has too few images, or no labels.
    """
    images, size = dataset.split(TRAINING_SPLIT[run.training.protocol]), run.training.batch_size
    labelled = None
    if run.labels is not None:
        labels = dataset.labels_of(TRAINING_SPLIT[run.training.protocol])
        chosen = balanced_draw(labels, run.labels.count, CLASSES, seed("labels"))
        labelled = Batches(
            dataset, images[chosen], labels[chosen], run.labels.batch_size, seed("labelled data"), device
        )
        if run.labels.weight is None:
            return labelled
    if size > len(images):
        raise UserError(
            f"training.batch_size is {size}, but dataset {dataset.name!r} has only {len(images)} training images. "
            "Use a smaller batch."
        )
    unlabelled = Batches(dataset, images, None, size, seed("data"), device)
    return MixedBatches(labelled, unlabelled) if labelled else unlabelled
