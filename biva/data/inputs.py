"""Which splits a protocol uses, and what of a split goes into a model."""

from __future__ import annotations

import torch
from torch import Tensor

from biva.config import Protocol
from biva.data.datasets import Dataset, Split
from biva.data.preprocessing import model_input
from biva.seeds import derive_seed

TRAINING_SPLIT: dict[Protocol, Split] = {"paper": "train+valid", "clean": "train"}
"""Protocol -> the split that is trained on."""

SELECTION_SPLIT: dict[Protocol, Split] = {"paper": "test", "clean": "valid"}
"""Protocol -> the split that selects the weights."""


def fixed_input(dataset: Dataset, split: Split) -> Tensor:
    """Model input for a split, (N, C, H, W): dynamic binarisation is drawn once, the same for every run and seed."""
    generator = torch.Generator().manual_seed(derive_seed("fixed binarisation", dataset.name, split))
    return model_input(dataset.split(split), dataset.levels, dataset.binarisation, generator)


def part(dataset: str, split: Split, total: int, n: int | None) -> Tensor:
    """Indices of the images that stand for a split of which only n are used: int64 (min(n, total),).

    They are drawn at random, since files are often sorted, by class, person or alphabet: their first images do not
    stand for the rest. The draw is the same for all runs of a data set, and a smaller one is the start of a larger one,
    so that an image keeps its position. Where n is None or no less than the total, these are all images in the file's
    order.
    """
    if n is None or n >= total:
        return torch.arange(total)
    generator = torch.Generator().manual_seed(derive_seed("part", dataset, split))
    return torch.randperm(total, generator=generator)[:n]
