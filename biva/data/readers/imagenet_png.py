"""Van den Oord's tars of ImageNet's small PNG files."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biva.config import DatasetConfig
from biva.data.pictures import decode
from biva.data.raw import Arrays, SplitName, image_stream

FILES = ("train", "test")
GIVES: tuple[SplitName, ...] = ("train", "test")


def read(paths: list[Path], config: DatasetConfig) -> Arrays:
    """Streams in the archives' order."""
    return {
        f"{split}/images": image_stream(config, split, partial(_images, path, config))
        for split, path in zip(GIVES, paths, strict=True)
    }


def _images(path: Path, config: DatasetConfig) -> Iterator[NDArray[np.uint8]]:
    _, height, width = config.shape
    with tarfile.open(path, mode="r|") as tar:
        for member in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # a million entries take a gigabyte
            name = Path(member.name).name
            if name.endswith(".png") and not name.startswith(".") and (content := tar.extractfile(member)):
                picture = decode(content.read(), "PNG", (width, height), "RGB", f"{path}, {member.name}")
                yield picture.transpose(2, 0, 1)
