"""Raw files, as their publishers offer them, to arrays: one small function per format.

A reader takes the folder of the raw files and the dataset's entry in `config/datasets.yaml`, and returns the arrays of
the canonical file: "train/images" and so on for the splits that the dataset has, uint8 (N, C, H, W), and where the
files have labels that are used, "train/labels" and so on, int64 (N,). What does not fit in memory is a stream. What a
file must hold follows from the entry, so a reader compares before it allocates, and whatever else the file holds is
refused with a message: no byte sequence leads to a traceback.

Here are the formats of plain arrays; `biva.data.pictures` reads PNG and JPEG files.
"""

from __future__ import annotations

import importlib
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biva.config import DatasetConfig, RawFile
from biva.data.containers import explained_damage, tar_members
from biva.data.pictures import celeba, imagenet_npz, imagenet_png, omniglot_png, photo_patches
from biva.data.raw import CLASSES, SPLITS, Arrays, expect_files, expect_splits, read, split_off_valid
from biva.errors import UserError

DIGITS_SPLIT_SEED = 1797
"""Fixes the split of `digits` for good: results of different runs and machines are about the same test images."""


def digits(raw: Path, config: DatasetConfig) -> Arrays:
    """Read scikit-learn's digits: a line per image, its grey values row by row and then its label, between commas.

    Raises:
        UserError: a line is malformed, or the file does not hold as many images as the splits together.
    """
    expect_splits(config, *SPLITS)
    (file,) = expect_files(config, "the only one", 1)
    path = raw / file.name
    lines = read(path, file).splitlines()
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
    expect_splits(config, *SPLITS)
    files = expect_files(config, "train, valid, test", 3)
    return {
        f"{split}/images": _amat_images(raw / file.name, file, config.splits[split], config.shape)
        for split, file in zip(SPLITS, files, strict=True)
    }


def _amat_images(path: Path, file: RawFile, count: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Every line is equally long: a byte 0 or 1 and a separator per pixel, the last separator being the line's end."""
    pixels = math.prod(shape)
    content = np.frombuffer(read(path, file), dtype=np.uint8)
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
    expect_splits(config, *SPLITS)
    files = expect_files(config, "train images, train labels, test images, test labels", 4)
    channels, height, width = config.shape
    if channels != 1:
        raise UserError(f"{config.title}: the reader idx is for images of one channel, but shape is {config.shape}.")
    counts = {"train": config.splits["train"] + config.splits["valid"], "test": config.splits["test"]}
    arrays: dict[str, NDArray[Any]] = {}
    for (part, count), images, labels in zip(counts.items(), files[0::2], files[1::2], strict=True):
        pixels = _idx_values(raw / images.name, images, (count, height, width))
        arrays[f"{part}/images"] = pixels.reshape(count, *config.shape)
        arrays[f"{part}/labels"] = _idx_values(raw / labels.name, labels, (count,)).astype(np.int64)
        if (highest := arrays[f"{part}/labels"].max(initial=0)) >= CLASSES:
            raise UserError(f"{raw / labels.name} has a label {highest}; expected 0 to {CLASSES - 1}.")
    return _with_valid(arrays, config)


def _with_valid(arrays: dict[str, NDArray[Any]], config: DatasetConfig) -> Arrays:
    """Cut the validation split off "train/images" and "train/labels", which hold the official training set."""
    cut = {
        f"{split}/{kind}": values
        for kind in ("images", "labels")
        for split, values in split_off_valid(arrays[f"train/{kind}"], config).items()
    }
    return {**arrays, **cut}


def _idx_values(path: Path, file: RawFile, dimensions: tuple[int, ...]) -> NDArray[np.uint8]:
    """An IDX file: two zero bytes, the type (8: uint8), the number of dimensions, each size (uint32), the values."""
    content = read(path, file)
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


_CIFAR_TRAIN = tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6))
_CIFAR_TEST = "cifar-10-batches-bin/test_batch.bin"


def cifar(raw: Path, config: DatasetConfig) -> Arrays:
    """Read the binary version of CIFAR-10, a gzipped tar: records of a label and the pixels, channel by channel.

    The last images of the five training batches are the validation split.

    Raises:
        UserError: the archive is damaged, lacks a batch, or holds other numbers of images, or a label is out of range.
    """
    expect_splits(config, *SPLITS)
    (file,) = expect_files(config, "the tar.gz", 1)
    path = raw / file.name
    counts = {"train": config.splits["train"] + config.splits["valid"], "test": config.splits["test"]}
    record = 1 + math.prod(config.shape)
    batches = tar_members(path, (*_CIFAR_TRAIN, _CIFAR_TEST), record * (counts["train"] + counts["test"]))
    arrays: dict[str, NDArray[Any]] = {}
    for part, names in (("train", _CIFAR_TRAIN), ("test", (_CIFAR_TEST,))):
        for name in names:
            if len(batches[name]) % record:
                raise UserError(f"{path}, {name}: {len(batches[name]):,} bytes are no whole records of {record:,}.")
        records = np.frombuffer(b"".join(batches[name] for name in names), dtype=np.uint8).reshape(-1, record)
        if len(records) != counts[part]:
            raise UserError(f"{path} has {len(records):,} {part} images; expected {counts[part]:,}.")
        if (highest := records[:, 0].max(initial=0)) >= CLASSES:
            raise UserError(f"{path} has a {part} label {highest}; expected 0 to {CLASSES - 1}.")
        arrays[f"{part}/labels"] = records[:, 0].astype(np.int64)
        arrays[f"{part}/images"] = np.ascontiguousarray(records[:, 1:]).reshape(-1, *config.shape)
    return _with_valid(arrays, config)


OMNIGLOT_SPLIT_SEED = 1345
"""Fixes for good which of Burda's training images are the validation split."""


def omniglot_mat(raw: Path, config: DatasetConfig) -> Arrays:
    """Read Burda's chardata.mat: `data` and `testdata`, a column per image, grey values 0 .. 1 column by column.

    The values are rounded to `levels` levels, and the images turned upright. `data` is shuffled by a fixed seed before
    the validation split is cut off, as Burda does, because neighbours there are drawings of one alphabet.

    Raises:
        UserError: the file is no such file, or does not hold as many images as the splits.
    """
    expect_splits(config, *SPLITS)
    (file,) = expect_files(config, "the only one", 1)
    count, pixels = config.splits["train"] + config.splits["valid"], math.prod(config.shape)
    shapes = {"data": (pixels, count), "testdata": (pixels, config.splits["test"])}
    train, test = (
        _levels(values, config, f"{raw / file.name}, variable {name}")
        for name, values in mat_variables(raw / file.name, file, shapes).items()
    )
    order = np.random.RandomState(OMNIGLOT_SPLIT_SEED).permutation(count)  # its stream is frozen, unlike Generator's
    return {
        "train/images": train[order[config.splits["valid"] :]],
        "valid/images": train[order[: config.splits["valid"]]],
        "test/images": test,
    }


def _levels(values: NDArray[Any], config: DatasetConfig, where: str) -> NDArray[np.uint8]:
    """Grey values 0 .. 1, (H W, N) with the pixels column by column, as levels (N, 1, H, W)."""
    if not (values.dtype.kind in "fu" and ((values >= 0) & (values <= 1)).all()):
        raise UserError(f"{where}: expected real numbers from 0 to 1.")
    _, height, width = config.shape
    images = np.rint(values.T.astype(np.float64) * (config.levels - 1)).astype(np.uint8)
    return np.ascontiguousarray(images.reshape(-1, 1, width, height).swapaxes(2, 3))


def svhn_mat(raw: Path, config: DatasetConfig) -> Arrays:
    """Read the cropped digits of SVHN: `X`, (H, W, C, N), and `y`, (N, 1), in which 10 stands for the digit 0.

    Raises:
        UserError: the file is no such file, or does not hold as many images as the split.
    """
    expect_splits(config, "test")
    (file,) = expect_files(config, "the only one", 1)
    count, (channels, height, width) = config.splits["test"], config.shape
    path = raw / file.name
    variables = mat_variables(path, file, {"X": (height, width, channels, count), "y": (count, 1)})
    images, labels = variables["X"], variables["y"]
    if images.dtype != np.uint8:
        raise UserError(f"{path}, variable X: expected values of type uint8, got {images.dtype}.")
    if not (np.isreal(labels) & (labels >= 1) & (labels <= CLASSES) & (labels == np.rint(labels))).all():
        raise UserError(f"{path}, variable y: expected whole numbers from 1 to {CLASSES}.")
    return {
        "test/images": np.ascontiguousarray(images.transpose(3, 2, 0, 1)),
        "test/labels": labels[:, 0].astype(np.int64) % CLASSES,
    }


def mat_variables(path: Path, file: RawFile, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """The real variables of a MATLAB 5 file with these names and shapes, of the types that they are stored as.

    SciPy's reader is not for files that nobody vouches for: it crashes on some damaged ones, and unpacks without bound.

    Raises:
        UserError: the file is of another version, is damaged, has a variable that unpacks to more than the numbers, or
            a variable is missing, there twice, of another shape or no numbers.
    """
    content = read(path, file)
    if not content.startswith(b"MATLAB 5.0 MAT-file"):
        raise UserError(f"{path} is no MATLAB 5 file: it starts with {content[:19]!r}.")
    order = "<" if content[126:128] == b"IM" else ">"
    largest = 8 * max(map(math.prod, shapes.values())) + (1 << 16)
    found: dict[str, NDArray[Any]] = {}
    with explained_damage(path):
        for matrix in _mat_matrices(memoryview(content)[128:], order, largest):
            (_, flags), (_, dimensions), (_, label), *values = islice(_mat_elements(matrix, order), 4)
            name = bytes(label).decode("latin1")
            if name not in shapes:
                continue
            if name in found:
                raise UserError(f"{path} has {name} twice.")
            (kind,) = struct.unpack_from(f"{order}I", flags)
            shape = tuple(np.frombuffer(dimensions, f"{order}i4").tolist())
            if shape != shapes[name] or kind & _MAT_COMPLEX or kind & 0xFF not in _MAT_CLASSES:
                described = ("complex " if kind & _MAT_COMPLEX else "") + _MAT_CLASSES.get(kind & 0xFF, "no numbers")
                raise UserError(
                    f"{path}, variable {name}: expected numbers of shape {shapes[name]}, got {described} {shape}."
                )
            ((stored, numbers),) = values
            if stored not in _MAT_TYPES:
                raise ValueError(f"variable {name} is stored as numbers of type {stored}")
            found[name] = np.frombuffer(numbers, order + _MAT_TYPES[stored]).reshape(shape, order="F")
    if missing := [name for name in shapes if name not in found]:
        raise UserError(f"{path}, variable {missing[0]}: expected numbers of shape {shapes[missing[0]]}, got None.")
    return found


_MAT_MATRIX, _MAT_COMPRESSED, _MAT_COMPLEX = 14, 15, 1 << 11
_MAT_CLASSES = {6: "double", 7: "single", 9: "uint8"}
_MAT_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Numbers of MATLAB's format: elements, a flag, classes of arrays, and types that their values are stored as."""


def _mat_matrices(content: memoryview, order: str, largest: int) -> Iterator[memoryview]:
    """The arrays of a MATLAB 5 file without its header, unpacked to at most `largest` bytes each."""
    for kind, element in _mat_elements(content, order):
        if kind == _MAT_COMPRESSED:
            unpacked = zlib.decompressobj().decompress(element, largest + 1)
            if len(unpacked) > largest:
                raise ValueError(f"a variable unpacks to more than the expected {largest:,} bytes")
            kind, element = next(_mat_elements(memoryview(unpacked), order), (0, element))
        if kind == _MAT_MATRIX:
            yield element


def _mat_elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of the elements of a MATLAB 5 file or array, one after the other."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        start, stop = place + 8, place + 8 + size
        place = stop if kind == _MAT_COMPRESSED else stop + -size % 8
        if kind >> 16:  # a small one: type and size take four bytes, and the content at most four
            size, kind = divmod(kind, 1 << 16)
            start, place = start - 4, start
            stop = start + size
        if stop > min(len(content), place):
            raise EOFError("it ends within an element")
        yield kind, content[start:stop]


READERS: dict[str, Callable[[Path, DatasetConfig], Arrays]] = {
    "digits": digits,
    "amat": amat,
    "idx": idx,
    "omniglot_mat": omniglot_mat,
    "omniglot_png": omniglot_png,
    "cifar": cifar,
    "svhn_mat": svhn_mat,
    "imagenet_png": imagenet_png,
    "imagenet_npz": imagenet_npz,
    "celeba": celeba,
    "photo_patches": photo_patches,
}
"""`reader` in `config/datasets.yaml` -> function."""


def find_reader(name: str) -> Callable[[Path, DatasetConfig], Arrays]:
    """The reader of this name, or the function that MODULE:FUNCTION names.

    Raises:
        UserError: the module cannot be imported, or has no such function.
    """
    if name in READERS:
        return READERS[name]
    module, _, function = name.partition(":")
    try:
        reader: Callable[[Path, DatasetConfig], Arrays] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"config/datasets.yaml: reader {name} cannot be found: {error}.") from None
    return reader
