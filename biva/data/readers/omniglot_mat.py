"""Burda's chardata.mat: `data` and `testdata`, a column per image, grey values 0 .. 1 column by column."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from biva.config import DatasetConfig
from biva.data.limits import in_another_process
from biva.data.raw import SPLIT_NAMES, Arrays
from biva.errors import UserError

FILES = ("the mat file",)
GIVES = SPLIT_NAMES

SPLIT_SEED = 1345
"""Fixes for good which of the training images are the validation split."""


def read(paths: list[Path], config: DatasetConfig) -> Arrays:
    """The values are rounded to `levels` levels, and the images turned upright.

    `data` is shuffled by a fixed seed before the validation split is cut off, as Burda does, because neighbours there
    are drawings of one alphabet.
    """
    (path,), valid = paths, config.splits["valid"]
    count, pixels = config.splits["train"] + valid, math.prod(config.shape)
    shapes = {"data": (pixels, count), "testdata": (pixels, config.splits["test"])}
    variables = in_another_process(_variables, path, shapes)
    train, test = (_levels(variables[name], config, f"{path}, variable {name}") for name in shapes)
    order = np.random.RandomState(SPLIT_SEED).permutation(count)  # its stream is frozen, unlike Generator's
    return {
        "train/images": train[order[valid:]],
        "valid/images": train[order[:valid]],
        "test/images": test,
    }


def _variables(path: Path, shapes: dict[str, tuple[int, int]]) -> dict[str, NDArray[Any]]:
    """The variables of these names and shapes."""
    found = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
    for name, shape in shapes.items():
        if found.get(name) != shape:
            raise UserError(f"{path}, variable {name}: expected numbers of shape {shape}, got {found.get(name)}.")
    variables: dict[str, NDArray[Any]] = scipy.io.loadmat(path, variable_names=list(shapes))
    return variables


def _levels(values: NDArray[Any], config: DatasetConfig, where: str) -> NDArray[np.uint8]:
    """Grey values 0 .. 1, (H W, N) with the pixels column by column, as levels (N, 1, H, W)."""
    if not (values.dtype.kind in "fu" and ((values >= 0) & (values <= 1)).all()):
        raise UserError(f"{where}: expected real numbers from 0 to 1.")
    _, height, width = config.shape
    images = np.rint(values.T.astype(np.float64) * (config.levels - 1)).astype(np.uint8)
    return np.ascontiguousarray(images.reshape(-1, 1, width, height).swapaxes(2, 3))
