"""The endless stream of training batches: shuffled every epoch, binarised anew, exactly resumable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from biva.data.preprocessing import Binarisation, model_input


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
