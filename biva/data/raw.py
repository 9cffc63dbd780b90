"""What all readers of raw files share: the arrays they give, and the checks of what the configuration says of them."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from biva.config import DatasetConfig, RawFile
from biva.errors import UserError

SplitName = Literal["train", "valid", "test"]

SPLITS: tuple[SplitName, ...] = get_args(SplitName)
"""The disjoint splits that a dataset can have."""

CLASSES = 10
"""Classes of every labelled dataset here: the labels are 0 .. 9."""

CHUNK = 1024
"""Images that a reader of a large dataset holds at a time: 12.6 MB at 64x64 in colour."""


@dataclass(frozen=True)
class Stream:
    """An array that need not fit in memory.

    Attributes:
        shape: (N, C, H, W).
        chunks: starts from the beginning and gives uint8 arrays (n, C, H, W), N images together, each with at most
            `CHUNK` images. Raises UserError where the raw file turns out to be wrong.
    """

    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[NDArray[np.uint8]]]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)


Array = NDArray[Any] | Stream
Arrays = dict[str, Array]


def parts(array: Array) -> Iterator[NDArray[Any]]:
    """The array piece by piece: a stream's chunks, or the whole."""
    if isinstance(array, Stream):
        yield from array.chunks()
    else:
        yield array


def image_stream(images: Callable[[], Iterator[NDArray[np.uint8]]], shape: tuple[int, ...], where: str) -> Stream:
    """The stream of single images (C, H, W), which must be `shape[0]` in number; `where` names them in an error."""

    def chunks() -> Iterator[NDArray[np.uint8]]:
        count, pending = 0, list[NDArray[np.uint8]]()
        for image in images():
            if count == shape[0]:
                raise UserError(f"{where} has more than the expected {shape[0]:,} images.")
            pending.append(image)
            count += 1
            if len(pending) == CHUNK:
                yield np.stack(pending)
                pending.clear()
        if count != shape[0]:
            raise UserError(f"{where} has {count:,} images; expected {shape[0]:,}.")
        if pending:
            yield np.stack(pending)

    return Stream(shape, chunks)


def expect_files(config: DatasetConfig, order: str, count: int) -> tuple[RawFile, ...]:
    """The dataset's files, which must be `count`."""
    if len(config.files) != count:
        raise UserError(
            f"config/datasets.yaml, {config.title!r}: reader {config.reader} needs {count} file(s) ({order}), "
            f"but `files` lists {len(config.files)}."
        )
    return config.files


def expect_splits(config: DatasetConfig, *splits: SplitName) -> None:
    """Refuse a configuration whose splits are not exactly those that the reader gives."""
    where = f"config/datasets.yaml, {config.title!r}: `splits`"
    if missing := [split for split in splits if split not in config.splits]:
        raise UserError(f"{where} does not say the size of {', '.join(missing)}.")
    if unknown := [split for split in config.splits if split not in splits]:
        raise UserError(f"{where} names {', '.join(unknown)}; reader {config.reader} gives only {', '.join(splits)}.")


def read(path: Path, file: RawFile) -> bytes:
    """Content of a raw file of at most the declared size."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} cannot be read: it is no regular file. Run `biva fetch` first.")
        if (size := status.st_size) > file.bytes:
            raise UserError(f"{path} is {size:,} bytes long; config/datasets.yaml declares {file.bytes:,}.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Run `biva fetch` first.") from None


def split_off_valid(images: NDArray[Any], config: DatasetConfig) -> dict[SplitName, NDArray[Any]]:
    """The official training set, cut: its last images are the validation split."""
    train = config.splits["train"]
    return {"train": images[:train], "valid": images[train:]}
