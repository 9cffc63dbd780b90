"""Raw files, as their publishers offer them, to arrays: one small function per format.

A reader takes the folder of the raw files and the dataset's entry in `config/datasets.yaml`, and returns the arrays of
the canonical file: "train/images", "valid/images", "test/images", uint8 (N, C, H, W), and where the files have labels,
"train/labels" and so on, int64 (N,). What a file must hold follows from the entry, so a reader compares before it
allocates, and whatever else the file holds is refused with a message: no byte sequence leads to a traceback.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from biva.config import DatasetConfig, RawFile
from biva.errors import UserError

Arrays = dict[str, NDArray[Any]]
SplitName = Literal["train", "valid", "test"]

SPLITS: tuple[SplitName, ...] = get_args(SplitName)
"""The disjoint splits of every dataset."""

CLASSES = 10
"""Classes of every labelled dataset here: the labels are 0 .. 9."""

DIGITS_SPLIT_SEED = 1797
"""Fixes the split of `digits` for good: results of different runs and machines are about the same test images."""


def is_intact(path: Path, file: RawFile) -> bool:
    """Whether `path` holds exactly the content that `file` declares."""
    try:
        with path.open("rb") as stream:
            return (
                os.fstat(stream.fileno()).st_size == file.bytes
                and hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
            )
    except OSError:
        return False


def digits(raw: Path, config: DatasetConfig) -> Arrays:
    """Read scikit-learn's digits: a line per image, its grey values row by row and then its label, between commas.

    Raises:
        UserError: a line is malformed, or the file does not hold as many images as the splits together.
    """
    (file,) = _expect_files(config, "the only one", 1)
    path = raw / file.name
    lines = _read(path, file).splitlines()
    if len(lines) != sum(config.splits.values()):
        raise UserError(f"{path} has {len(lines):,} lines; expected one per image: {sum(config.splits.values()):,}.")
    table = np.array([_digits_line(line, f"{path}, line {i}", config) for i, line in enumerate(lines, start=1)])
    images, labels = table[:, :-1].astype(np.uint8).reshape(-1, *config.shape), table[:, -1]
    arrays: Arrays = {}
    for split, members in _stratified_split(labels, config.splits["valid"], config.splits["test"], path).items():
        arrays[f"{split}/images"] = images[members]
        arrays[f"{split}/labels"] = labels[members]
    return arrays


def _digits_line(line: bytes, where: str, config: DatasetConfig) -> NDArray[np.int64]:
    """Grey values and label of one line."""
    highest = [config.levels - 1] * math.prod(config.shape) + [CLASSES - 1]
    cells = line.split(b",")
    if len(cells) != len(highest) or not all(cell.isdigit() and len(cell) <= 3 for cell in cells):
        raise UserError(f"{where}: expected {len(highest)} whole numbers between commas, got {line[:40]!r}...")
    values = np.array([int(cell) for cell in cells])
    if (values > highest).any():
        raise UserError(
            f"{where}: expected grey values up to {highest[0]} and a label up to {highest[-1]}, "
            f"got {values[:-1].max()} and {values[-1]}."
        )
    return values


def _stratified_split(labels: NDArray[np.int64], valid: int, test: int, path: Path) -> dict[str, NDArray[np.int64]]:
    """Indices of the three splits, each in the file's order and with the classes in the proportions of the whole."""
    # Imported here, because training reads prepared data on machines that have no scikit-learn.
    from sklearn.model_selection import train_test_split

    def part(members: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rest, taken = train_test_split(
            members, test_size=size, stratify=labels[members], random_state=DIGITS_SPLIT_SEED
        )
        return np.sort(rest), np.sort(taken)

    try:
        rest, test_members = part(np.arange(len(labels)), test)
        train_members, valid_members = part(rest, valid)
    except ValueError as error:
        raise UserError(f"{path} cannot be split with the classes in equal proportions: {error}") from None
    return {"train": train_members, "valid": valid_members, "test": test_members}


def amat(raw: Path, config: DatasetConfig) -> Arrays:
    """Read Larochelle's text files, in the order train, valid, test: a line per image, a blank between the values.

    Raises:
        UserError: a line is malformed, or a file does not hold as many images as its split.
    """
    files = _expect_files(config, "train, valid, test", 3)
    return {
        f"{split}/images": _amat_images(raw / file.name, file, config.splits[split], config.shape)
        for split, file in zip(SPLITS, files, strict=True)
    }


def _amat_images(path: Path, file: RawFile, count: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Every line is equally long: a byte 0 or 1 and a separator per pixel, the last separator being the line's end."""
    pixels = math.prod(shape)
    content = np.frombuffer(_read(path, file), dtype=np.uint8)
    whole_lines = len(content) // (2 * pixels)
    lines = content[: whole_lines * 2 * pixels].reshape(whole_lines, 2 * pixels)
    values = lines[:, 0::2] - np.uint8(ord("0"))
    separators = np.frombuffer(b" " * (pixels - 1) + b"\n", dtype=np.uint8)
    good = (values <= 1).all(axis=1) & (lines[:, 1::2] == separators).all(axis=1)
    bad = np.flatnonzero(~good)
    if len(bad) or len(content) % (2 * pixels):
        number = int(bad[0]) + 1 if len(bad) else whole_lines + 1
        raise UserError(f"{path}, line {number}: expected {pixels} values, each 0 or 1, with one blank between two.")
    if whole_lines != count:
        raise UserError(f"{path} has {whole_lines:,} lines; expected one per image: {count:,}.")
    return values.reshape(count, *shape)


def idx(raw: Path, config: DatasetConfig) -> Arrays:
    """Read MNIST's binary files, in the order train images, train labels, test images, test labels.

    The last images of the training files are the validation split.

    Raises:
        UserError: a header is not the expected one, a file is too short or too long, or a label is out of range.
    """
    files = _expect_files(config, "train images, train labels, test images, test labels", 4)
    channels, height, width = config.shape
    if channels != 1:
        raise UserError(f"{config.title}: the reader idx is for images of one channel, but shape is {config.shape}.")
    train = config.splits["train"]
    counts = {"train": train + config.splits["valid"], "test": config.splits["test"]}
    arrays: Arrays = {}
    for (part, count), images, labels in zip(counts.items(), files[0::2], files[1::2], strict=True):
        pixels = _idx_values(raw / images.name, images, (count, height, width))
        arrays[f"{part}/images"] = pixels.reshape(count, *config.shape)
        arrays[f"{part}/labels"] = _idx_values(raw / labels.name, labels, (count,)).astype(np.int64)
        if (highest := arrays[f"{part}/labels"].max(initial=0)) >= CLASSES:
            raise UserError(f"{raw / labels.name} has a label {highest}; expected 0 to {CLASSES - 1}.")
    for kind in ("images", "labels"):
        both = arrays[f"train/{kind}"]
        arrays[f"train/{kind}"], arrays[f"valid/{kind}"] = both[:train], both[train:]
    return arrays


def _idx_values(path: Path, file: RawFile, dimensions: tuple[int, ...]) -> NDArray[np.uint8]:
    """An IDX file: two zero bytes, the type (8: uint8), the number of dimensions, each size (uint32), the values."""
    content = _read(path, file)
    header = struct.Struct(f">HBB{len(dimensions)}I")
    if len(content) < header.size:
        raise UserError(f"{path} ends within its IDX header, which takes {header.size} bytes.")
    zero, kind, rank, *sizes = header.unpack_from(content)
    if (zero, kind, rank) != (0, 8, len(dimensions)):
        raise UserError(
            f"{path} starts with the bytes {content[:4].hex(' ')}; expected 00 00 08 {len(dimensions):02x}: "
            f"an IDX file of uint8 values in {len(dimensions)} dimension(s)."
        )
    if tuple(sizes) != dimensions:
        raise UserError(f"{path} declares the dimensions {tuple(sizes)}; expected {dimensions}.")
    expected = header.size + math.prod(dimensions)
    if len(content) != expected:
        raise UserError(f"{path} is {len(content):,} bytes long; its header says {expected:,}.")
    return np.frombuffer(content, dtype=np.uint8, offset=header.size).reshape(dimensions)


def _expect_files(config: DatasetConfig, order: str, count: int) -> tuple[RawFile, ...]:
    if len(config.files) != count:
        raise UserError(
            f"config/datasets.yaml, {config.title!r}: reader {config.reader} needs {count} file(s) ({order}), "
            f"but `files` lists {len(config.files)}."
        )
    return config.files


def _read(path: Path, file: RawFile) -> bytes:
    """Content of a raw file of at most the declared size."""
    try:
        size = path.stat().st_size
        if size > file.bytes:
            raise UserError(f"{path} is {size:,} bytes long; config/datasets.yaml declares {file.bytes:,}.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Run `biva fetch` first.") from None


READERS: dict[str, Callable[[Path, DatasetConfig], Arrays]] = {"digits": digits, "amat": amat, "idx": idx}
"""`reader` in `config/datasets.yaml` -> function."""
