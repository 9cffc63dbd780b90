"""Lake's zips: one-bit PNG files of 105x105 pixels, ink black, ALPHABET/CHARACTER/DRAWING."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biva.config import DatasetConfig
from biva.data.pictures import area_average, decode
from biva.data.raw import SPLIT_NAMES, Arrays
from biva.errors import UserError

FILES = ("background", "evaluation")
GIVES = SPLIT_NAMES

SIDE = 105
"""Height and width of a drawing."""

SPLIT_SEED = 32460
"""Fixes the split for good."""


def read(paths: list[Path], config: DatasetConfig) -> Arrays:
    """A drawing is inverted (ink is the highest level) and shrunk by averaging areas.

    All drawings, in the order of the files and then of their names, are shuffled by a fixed seed and dealt to the
    splits. Those that no split takes are left out.
    """
    images = np.stack([drawing for path in paths for drawing in _drawings(path, config)])
    if len(images) < sum(config.splits.values()):
        raise UserError(f"{len(images):,} drawings are there; expected at least {sum(config.splits.values()):,}.")
    order = np.random.RandomState(SPLIT_SEED).permutation(len(images))
    arrays: Arrays = {}
    for split in SPLIT_NAMES:
        members, order = order[: config.splits[split]], order[config.splits[split] :]
        arrays[f"{split}/images"] = images[members]
    return arrays


def _drawings(path: Path, config: DatasetConfig) -> Iterator[NDArray[np.uint8]]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if re.fullmatch(r"images_(background|evaluation)/[^/]+/[^/]+/[^/.][^/]*\.png", name):
                white = decode(archive.read(name), "PNG", (SIDE, SIDE), "L", f"{path}, {name}") > 127
                ink = np.logical_not(white).astype(np.uint8)
                yield area_average(ink, config.shape[1:], config.levels - 1)[None]
