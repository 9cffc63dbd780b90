"""The cropped test digits of SVHN: `X`, (H, W, C, N), and `y`, (N, 1), in which 10 stands for the digit 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io

from biva.config import DatasetConfig
from biva.data.raw import Arrays

FILES = ("the mat file",)
GIVES = ("test",)
LABELS = True


def read(paths: list[Path], config: DatasetConfig) -> Arrays:
    """Images and labels in the file's order."""
    variables = scipy.io.loadmat(paths[0], variable_names=["X", "y"])
    labels = variables["y"].astype(np.int64)[:, 0]
    labels[labels == 10] = 0
    return {"test/images": variables["X"].transpose(3, 2, 0, 1), "test/labels": labels}
