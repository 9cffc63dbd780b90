"""Chrabaszcz's arrays of ImageNet: a zip of npz files, whose `data` are the pixels of an image per line."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biva.config import DatasetConfig
from biva.data.raw import Arrays, SplitName, Stream

FILES = ("train", "test")
GIVES: tuple[SplitName, ...] = ("train", "test")


def read(paths: list[Path], config: DatasetConfig) -> Arrays:
    """Streams in the order of the batches' numbers, a batch (394 MB) at a time. Nothing is unpickled."""
    return {
        f"{split}/images": Stream((config.splits[split], *config.shape), partial(_batches, path, config))
        for split, path in zip(GIVES, paths, strict=True)
    }


def _batches(path: Path, config: DatasetConfig) -> Iterator[NDArray[np.uint8]]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if re.search(r"(^|/)(train_data_batch_\d+|val_data)\.npz$", name)]
        for name in sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", Path(name).name)]):
            with archive.open(name) as batch, np.load(batch) as arrays:
                yield arrays["data"].reshape(-1, *config.shape)
