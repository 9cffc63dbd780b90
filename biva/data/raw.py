"""What readers of raw files give: arrays by name, of which the large ones come in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from biva.config import DatasetConfig

SplitName = Literal["train", "valid", "test"]

SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)
"""The disjoint splits that a dataset can have."""

CLASSES = 10
"""Classes of every labelled dataset here: the labels are 0 .. 9."""

CHUNK = 1024
"""Images that a reader of a large dataset holds at a time: 12.6 MB at 64x64 in colour."""


@dataclass(frozen=True)
class Stream:
    """An array of uint8 that need not fit in memory.

    Attributes:
        shape: (N, C, H, W).
        chunks: starts from the beginning and gives arrays (n, C, H, W), N images together.
    """

    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[NDArray[np.uint8]]]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)


Array = NDArray[Any] | Stream
Arrays = dict[str, Array]
"""Name ("train/images": uint8 (N, C, H, W); "train/labels": int64 (N,)) -> array."""


def pieces(array: Array) -> Iterator[NDArray[Any]]:
    """The array piece by piece: a stream's chunks, or the whole."""
    if isinstance(array, Stream):
        yield from array.chunks()
    else:
        yield array


def image_stream(config: DatasetConfig, split: SplitName, images: Callable[[], Iterable[NDArray[np.uint8]]]) -> Stream:
    """The stream of a split whose single images (C, H, W) come one after the other."""

    def chunks() -> Iterator[NDArray[np.uint8]]:
        iterator = iter(images())
        while chunk := list(islice(iterator, CHUNK)):
            yield np.stack(chunk)

    return Stream((config.splits[split], *config.shape), chunks)


def with_valid_cut_off(
    config: DatasetConfig, train: tuple[NDArray[Any], NDArray[Any]], test: tuple[NDArray[Any], NDArray[Any]]
) -> Arrays:
    """The arrays of official training and test sets (images, labels): the last training images are the valid split."""
    count = config.splits["train"]
    return {
        "train/images": train[0][:count],
        "train/labels": train[1][:count],
        "valid/images": train[0][count:],
        "valid/labels": train[1][count:],
        "test/images": test[0],
        "test/labels": test[1],
    }
