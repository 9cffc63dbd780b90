"""scikit-learn's two photographs: grey windows, evenly spaced, made into images as its digits were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biva.config import DatasetConfig
from biva.data.pictures import area_average, decode
from biva.data.raw import Arrays

FILES = ("a photograph", "another photograph")
GIVES = ("test",)

SIZE = (640, 427)
"""Width and height of the photographs."""

GRID = (12, 15)
"""Windows of a photograph, downwards and across."""

BLOCK = 4
"""Side of the block of a photograph's pixels that becomes one pixel, as in scikit-learn's digits."""

ORDER_SEED = 427
"""Fixes the order of the patches for good."""


def read(paths: list[Path], config: DatasetConfig) -> Arrays:
    """A pixel is the mean grey value (ITU-R 601 luma) of a block of pixels, as a level; black is 0.

    Windows do not overlap, and are shuffled by a fixed seed: the first are as mixed as all.
    """
    height, width = config.shape[1:]
    patches = np.stack(
        [
            area_average(window, (height, width), config.levels - 1, 255)[None]
            for path in paths
            for window in _windows(path, (BLOCK * height, BLOCK * width))
        ]
    )
    return {"test/images": patches[np.random.RandomState(ORDER_SEED).permutation(len(patches))]}


def _windows(path: Path, shape: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """The windows of height and width `shape` in the centres of the cells of `GRID`, line by line."""
    grey = decode(path.read_bytes(), "JPEG", SIZE, "L", str(path))
    tops, lefts = (
        [(2 * cell + 1) * length // (2 * cells) - side // 2 for cell in range(cells)]
        for length, cells, side in zip(grey.shape, GRID, shape, strict=True)
    )
    for top in tops:
        for left in lefts:
            yield grey[top : top + shape[0], left : left + shape[1]]
