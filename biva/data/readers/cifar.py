"""The binary version of CIFAR-10, a gzipped tar: records of a label and the pixels, channel by channel."""

from __future__ import annotations

import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biva.config import DatasetConfig
from biva.data.raw import SPLIT_NAMES, Arrays, with_valid_cut_off

FILES = ("the tar.gz",)
GIVES = SPLIT_NAMES
LABELS = True

_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = ("test_batch.bin",)


def read(paths: list[Path], config: DatasetConfig) -> Arrays:
    """The last images of the five training batches are the validation split."""
    batches = {}
    with tarfile.open(paths[0]) as tar:
        for member in tar:
            if content := tar.extractfile(member):
                batches[Path(member.name).name] = content.read()

    def part(names: tuple[str, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
        content = b"".join(batches[name] for name in names)
        records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + math.prod(config.shape))
        return records[:, 1:].reshape(-1, *config.shape), records[:, 0].astype(np.int64)

    return with_valid_cut_off(config, part(_TRAIN), part(_TEST))
