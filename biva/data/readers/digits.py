"""scikit-learn's digits: a line per image, its grey values row by row and then its label, between commas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from biva.config import DatasetConfig
from biva.data.raw import SPLIT_NAMES, Arrays

FILES = ("the table",)
GIVES = SPLIT_NAMES
LABELS = True

SPLIT_SEED = 1797
"""Fixes the split for good: results of different runs and machines are about the same test images."""


def read(paths: list[Path], config: DatasetConfig) -> Arrays:
    """Every split has the classes in the proportions of the whole, and its images in the file's order."""
    table = np.loadtxt(paths[0], delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, *config.shape), table[:, -1].astype(np.int64)

    def cut(members: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rest, taken = train_test_split(members, test_size=size, stratify=labels[members], random_state=SPLIT_SEED)
        return np.sort(rest), np.sort(taken)

    rest, test = cut(np.arange(len(labels)), config.splits["test"])
    train, valid = cut(rest, config.splits["valid"])
    arrays: Arrays = {}
    for split, members in {"train": train, "valid": valid, "test": test}.items():
        arrays[f"{split}/images"] = images[members]
        arrays[f"{split}/labels"] = labels[members]
    return arrays
