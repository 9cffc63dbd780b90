"""The endless streams of training batches: shuffled every epoch, binarised anew, exactly resumable."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from biva.data.preprocessing import Binarisation, model_input


class Stream(Protocol):
    """Endless training batches, resumable at any of them."""

    batch_size: int
    """Images in a batch."""

    def next(self) -> Any:
        """What one update learns from."""
        ...

    @property
    def per_epoch(self) -> int:
        """Batches in one pass over the data."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next batches depend on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        ...


class Batches:
    """Batches of model input; the last, incomplete batch of an epoch is left out.

    Args:
        images: uint8 (N, C, H, W), kept on `device`, where dynamic binarisation happens too.
        levels, binarisation: of the dataset.
        batch_size: at most N.
        seed: of order and binarisation.
    """

    def __init__(
        self, images: Tensor, levels: int, binarisation: Binarisation, batch_size: int, seed: int, device: torch.device
    ) -> None:
        self.images = images.to(device)
        self.levels, self.binarisation, self.batch_size = levels, binarisation, batch_size
        self.generator = torch.Generator(device).manual_seed(seed)
        self.order = torch.empty(0, dtype=torch.int64, device=device)
        self.position = 0

    def next(self) -> Tensor:
        """(batch_size, C, H, W) float32."""
        if self.position + self.batch_size > len(self.order):
            self.order = torch.randperm(len(self.images), generator=self.generator, device=self.images.device)
            self.position = 0
        chosen = self.order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        return model_input(self.images[chosen], self.levels, self.binarisation, self.generator)

    @property
    def chosen(self) -> Tensor:
        """Indices of the images of the latest batch, (batch_size,)."""
        return self.order[self.position - self.batch_size : self.position]

    @property
    def per_epoch(self) -> int:
        """Batches in one pass over the data."""
        return len(self.images) // self.batch_size

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next batches depend on."""
        return {"generator": self.generator.get_state(), "order": self.order, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.generator.set_state(state["generator"].cpu())
        self.order = state["order"].to(self.images.device)
        self.position = state["position"]


class LabelledBatches:
    """Batches of images with their labels.

    Args:
        images: the labelled images.
        labels: int64 (N,).
    """

    def __init__(self, images: Batches, labels: Tensor) -> None:
        self.images, self.labels = images, labels.to(images.images.device)
        self.batch_size = images.batch_size

    @property
    def per_epoch(self) -> int:
        """Batches in one pass over the labelled images."""
        return self.images.per_epoch

    def next(self) -> tuple[Tensor, Tensor]:
        """(batch_size, C, H, W) float32 and their labels (batch_size,)."""
        x = self.images.next()
        return x, self.labels[self.images.chosen]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next batches depend on."""
        return self.images.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.images.load_state_dict(state)


class MixedBatches:
    """A labelled and an unlabelled batch at a time; an epoch is a pass over the unlabelled images."""

    def __init__(self, labelled: LabelledBatches, unlabelled: Batches) -> None:
        self.labelled, self.unlabelled = labelled, unlabelled
        self.batch_size = labelled.batch_size + unlabelled.batch_size

    @property
    def per_epoch(self) -> int:
        """Batches in one pass over the unlabelled images."""
        return self.unlabelled.per_epoch

    def next(self) -> tuple[Tensor, Tensor]:
        """(L + U, C, H, W) float32, the labelled images first, and the labels of these (L,)."""
        x, labels = self.labelled.next()
        return torch.cat([x, self.unlabelled.next()]), labels

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next batches depend on."""
        return {"labelled": self.labelled.state_dict(), "unlabelled": self.unlabelled.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.labelled.load_state_dict(state["labelled"])
        self.unlabelled.load_state_dict(state["unlabelled"])
