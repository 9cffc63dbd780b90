"""CelebA's zip of aligned pictures, and its list of partitions (0 train, 1 valid, 2 test)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biva.config import DatasetConfig
from biva.data.pictures import area_average, decode
from biva.data.raw import SPLIT_NAMES, Arrays, image_stream

FILES = ("pictures", "partition list")
GIVES = SPLIT_NAMES

SIZE = (178, 218)
"""Width and height of the pictures."""

CROP = 148
"""Side of the square in their centre that is kept, as in Dinh et al. (2017), Density Estimation using Real NVP."""


def read(paths: list[Path], config: DatasetConfig) -> Arrays:
    """Streams in the list's order. Of every picture the square in the centre is kept, and shrunk by averaging areas."""
    archive, partition = paths
    lines = [line.split() for line in partition.read_text().splitlines()]
    members = {
        split: [name for name, number in lines if number == str(index)] for index, split in enumerate(SPLIT_NAMES)
    }
    return {
        f"{split}/images": image_stream(config, split, partial(_images, archive, members[split], config))
        for split in SPLIT_NAMES
    }


def _images(path: Path, names: list[str], config: DatasetConfig) -> Iterator[NDArray[np.uint8]]:
    left, top = ((side - CROP) // 2 for side in SIZE)
    with zipfile.ZipFile(path) as archive:
        for name in names:
            content = archive.read(f"img_align_celeba/{name}")
            pixels = decode(content, "JPEG", SIZE, "RGB", f"{path}, {name}").transpose(2, 0, 1)
            yield area_average(pixels[:, top : top + CROP, left : left + CROP], config.shape[1:])
