"""Larochelle's text files: a line per image, whose pixels are 0 or 1 with one blank between two."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from biva.config import DatasetConfig
from biva.data.raw import SPLIT_NAMES, Arrays

FILES = SPLIT_NAMES
GIVES = SPLIT_NAMES


def read(paths: list[Path], config: DatasetConfig) -> Arrays:
    """Every line is equally long: two bytes a pixel, of which the second is a blank or the line's end."""
    bytes_per_line = 2 * math.prod(config.shape)
    arrays: Arrays = {}
    for split, path in zip(SPLIT_NAMES, paths, strict=True):
        lines = np.fromfile(path, dtype=np.uint8).reshape(-1, bytes_per_line)
        arrays[f"{split}/images"] = (lines[:, 0::2] - np.uint8(ord("0"))).reshape(-1, *config.shape)
    return arrays
