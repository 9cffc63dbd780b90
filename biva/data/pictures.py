"""PNG and JPEG files, in archives or alone, and ImageNet's later arrays, to arrays.

The readers are as in `biva.data.archives`. Those of large datasets give streams: an archive is read once from its
beginning to its end, and no more than `CHUNK` images are held.
"""

from __future__ import annotations

import io
import math
import re
import struct
import tokenize
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from biva.config import DatasetConfig, RawFile
from biva.data import raw as shared
from biva.data.containers import Zip, explained_damage, tar_pictures
from biva.data.raw import SPLITS, Arrays, SplitName, Stream, expect_files, expect_splits, image_stream, read
from biva.errors import UserError

OMNIGLOT_SIDE = 105
"""Height and width of Lake's drawings."""

OMNIGLOT_SPLIT_SEED = 32460
"""Fixes the split of Lake's drawings for good."""

CELEBA_SIZE = (178, 218)
"""Width and height of the aligned pictures of CelebA."""

CELEBA_CROP = 148
"""Side of the square in their centre that is kept, as in Dinh et al. (2017), Density Estimation using Real NVP."""

PHOTO_SIZE = (640, 427)
"""Width and height of scikit-learn's sample photographs."""

PATCH_GRID = (12, 15)
"""Rows and columns of the windows that are cut out of a photograph."""

PATCH_BLOCK = 4
"""Side of the block of a photograph's pixels that becomes one pixel, as in scikit-learn's digits."""

PATCH_ORDER_SEED = 427
"""Fixes the order of the patches for good."""

LARGEST_PICTURE = 1 << 20
"""Bytes of one PNG or JPEG file. The largest official one, of CelebA, has a few tens of thousands."""

_PICTURE_DAMAGE = (
    EOFError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow raises on damaged pictures."""


# ------------------------------------------------------------------------------------------------- single pictures


def decode(content: bytes, kind: str, size: tuple[int, int], mode: str, where: str) -> NDArray[np.uint8]:
    """Pixels of a picture.

    Args:
        content: the file.
        kind: "PNG" or "JPEG"; no other format is tried.
        size: width and height that it must have, compared before anything is unpacked.
        mode: "L" for grey or "RGB".
        where: names the picture in an error.

    Returns:
        uint8 (H, W) or (H, W, 3).

    Raises:
        UserError: it is no such picture.
    """
    from PIL import Image  # here, because training reads prepared data on machines that may lack it

    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as picture:
            if picture.size == size:
                return np.asarray(picture.convert(mode))
            found = picture.size
    except (*_PICTURE_DAMAGE, Image.DecompressionBombError) as error:
        raise UserError(f"{where} is no {kind} picture or is damaged: {error or type(error).__name__}.") from None
    raise UserError(f"{where} has {found[0]} x {found[1]} pixels; expected {size[0]} x {size[1]}.")


@cache
def _overlaps(source: int, target: int) -> NDArray[np.float64]:
    """How much of every source pixel lies in every target pixel, (target, source); a row's sum is `source`.

    The line is cut into source x target units: a source pixel has `target` of them, a target pixel `source`.
    """
    edges = np.arange(target + 1)[:, None] * source
    starts = np.arange(source)[None, :] * target
    inside = np.clip(edges - starts, 0, target)  # units of the source pixel to the left of the edge
    overlaps: NDArray[np.float64] = np.diff(inside, axis=0).astype(np.float64)
    return overlaps


def area_average(values: NDArray[np.uint8], shape: tuple[int, int], scale: int = 1, unit: int = 1) -> NDArray[np.uint8]:
    """Shrink pictures: a pixel becomes the mean of the area it covers, times `scale / unit`, rounded to the nearest.

    All sums are whole numbers below 2^53, so they are exact and the same on every machine.

    Args:
        values: (..., H, W).
        shape: height and width to shrink to.
        scale: level that stands for the value `unit`.
        unit: see `scale`.

    Returns:
        uint8 (..., *shape).
    """
    height, width = values.shape[-2:]
    sums = _overlaps(height, shape[0]) @ values.astype(np.float64) @ _overlaps(width, shape[1]).T
    whole = height * width * unit
    means: NDArray[np.uint8] = np.floor((2 * scale * sums + whole) / (2 * whole)).astype(np.uint8)
    return means


# --------------------------------------------------------------------------------------------------------- readers


def omniglot_png(raw: Path, config: DatasetConfig) -> Arrays:
    """Read Lake's zips: one-bit PNG files of 105x105 pixels, ink black, ALPHABET/CHARACTER/DRAWING.

    A drawing is inverted (ink is the highest level) and shrunk by averaging areas. All drawings, in the order of the
    files and then of their names, are shuffled by a fixed seed and dealt to the splits: the first images of a split are
    as mixed as the whole. Those that no split takes are left out.

    Raises:
        UserError: an archive is damaged, holds another picture, or both hold fewer than the splits take.
    """
    expect_splits(config, *SPLITS)
    files = expect_files(config, "background, evaluation", 2)
    drawings = [drawing for file in files for drawing in _drawings(raw / file.name, config)]
    needed = sum(config.splits.values())
    if len(drawings) < needed:
        raise UserError(f"{raw} has {len(drawings):,} drawings; expected at least {needed:,}.")
    images = np.stack(drawings)
    order = np.random.RandomState(OMNIGLOT_SPLIT_SEED).permutation(len(images))
    arrays: Arrays = {}
    for split in SPLITS:
        members, order = order[: config.splits[split]], order[config.splits[split] :]
        arrays[f"{split}/images"] = images[members]
    return arrays


def _drawings(path: Path, config: DatasetConfig) -> Iterator[NDArray[np.uint8]]:
    _, height, width = config.shape
    with Zip(path) as archive:
        for name in archive.names(r"images_(background|evaluation)/[^/]+/[^/]+/[^/.][^/]*\.png"):
            content = archive.read(name, LARGEST_PICTURE)
            white = decode(content, "PNG", (OMNIGLOT_SIDE, OMNIGLOT_SIDE), "L", f"{path}, {name}") > 127
            ink = np.logical_not(white).astype(np.uint8)
            yield area_average(ink, (height, width), config.levels - 1)[None]


def imagenet_png(raw: Path, config: DatasetConfig) -> Arrays:
    """Read van den Oord's tars of PNG files, in the order train, test, as streams in the archives' order.

    Raises:
        UserError: at once where the configuration is wrong; from the streams where an archive is damaged, or holds
            another picture or another number of them.
    """
    expect_splits(config, "train", "test")
    files = expect_files(config, "train, test", 2)
    splits: tuple[SplitName, ...] = ("train", "test")
    return {
        f"{split}/images": _tar_stream(raw / file.name, file, (config.splits[split], *config.shape))
        for split, file in zip(splits, files, strict=True)
    }


def _tar_stream(path: Path, file: RawFile, shape: tuple[int, ...]) -> Stream:
    _, _, height, width = shape

    def images() -> Iterator[NDArray[np.uint8]]:
        for name, content in tar_pictures(path, ".png", file.bytes, LARGEST_PICTURE):
            yield decode(content, "PNG", (width, height), "RGB", f"{path}, {name}").transpose(2, 0, 1)

    return image_stream(images, shape, str(path))


def imagenet_npz(raw: Path, config: DatasetConfig) -> Arrays:
    """Read the later arrays of ImageNet, in the order train, test: a zip of npz files, whose `data` are the pixels.

    Only `data` is read, as bytes behind a header that says uint8: nothing is ever unpickled.

    Raises:
        UserError: at once where the configuration is wrong; from the streams where an archive is damaged, or holds
            something else or another number of images.
    """
    expect_splits(config, "train", "test")
    files = expect_files(config, "train, test", 2)
    patterns = (r"([^/]+/)?train_data_batch_([0-9]+)\.npz", r"([^/]+/)?val_data\.npz")
    splits: tuple[SplitName, ...] = ("train", "test")
    return {
        f"{split}/images": _npz_stream(raw / file.name, pattern, (config.splits[split], *config.shape))
        for split, file, pattern in zip(splits, files, patterns, strict=True)
    }


def _npz_stream(path: Path, pattern: str, shape: tuple[int, ...]) -> Stream:
    pixels = math.prod(shape[1:])
    largest = shape[0] * (pixels + 16) + (1 << 20)  # the pixels, a label of up to 16 bytes per image, mean and headers

    def chunks() -> Iterator[NDArray[np.uint8]]:
        left = shape[0]
        with Zip(path) as archive:
            for batch in sorted(archive.names(pattern), key=_batch_number):
                where = f"{path}, {batch}"
                with archive.open(batch, largest) as packed, Zip(packed, where) as arrays:
                    for chunk in _npy_rows(arrays, where, pixels, left):
                        left -= len(chunk)
                        yield chunk.reshape(-1, *shape[1:])
        if left:
            raise UserError(f"{path} has {shape[0] - left:,} images; expected {shape[0]:,}.")

    return Stream(shape, chunks)


def _batch_number(name: str) -> int:
    """Batch 10 comes after batch 9."""
    return int("".join(re.findall(r"[0-9]+(?=\.npz$)", name)) or 0)


def _npy_rows(arrays: Zip, where: str, pixels: int, most: int) -> Iterator[NDArray[np.uint8]]:
    """Rows of the uint8 array `data`, (n, pixels) with n at most `most`, in chunks."""
    with arrays.open("data.npy", most * pixels + (1 << 16)) as stream, explained_damage(f"{where}, data.npy"):
        shape, fortran, dtype = _npy_header(stream)
        if dtype != np.uint8 or fortran or len(shape) != 2 or shape[1] != pixels:
            raise UserError(f"{where}, data: expected uint8 values of shape (n, {pixels}), got {dtype} {shape}.")
        if shape[0] > most:
            raise UserError(f"{where}, data: {shape[0]:,} images are more than the {most:,} expected here.")
        for start in range(0, shape[0], shared.CHUNK):
            rows = min(shared.CHUNK, shape[0] - start)
            content = stream.read(rows * pixels)
            if len(content) != rows * pixels:
                raise EOFError("it ends within the images")
            yield np.frombuffer(content, dtype=np.uint8).reshape(rows, pixels)


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, whether in Fortran's order, and type of the array that follows."""
    version = np.lib.format.read_magic(stream)
    try:
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(stream)
    except (SyntaxError, TypeError, tokenize.TokenError) as error:  # of Python's parser, which reads the header
        raise ValueError(f"its header is no header: {error}") from None
    raise ValueError(f"NPY version {version} is not supported")


def celeba(raw: Path, config: DatasetConfig) -> Arrays:
    """Read the zip of aligned pictures and the list of partitions (0 train, 1 valid, 2 test), in that order.

    Of every picture the square of side `CELEBA_CROP` in the centre is kept, and shrunk by averaging areas.

    Raises:
        UserError: at once where the list or the configuration is wrong; from the streams where the archive is
            damaged, or a picture is missing or another.
    """
    expect_splits(config, *SPLITS)
    archive, partition = expect_files(config, "pictures, partition list", 2)
    members = _partition(raw / partition.name, partition, config)
    return {
        f"{split}/images": _celeba_stream(raw / archive.name, members[split], (config.splits[split], *config.shape))
        for split in SPLITS
    }


def _partition(path: Path, file: RawFile, config: DatasetConfig) -> dict[SplitName, list[str]]:
    """Names of the pictures in every split, in the list's order."""
    members: dict[SplitName, list[str]] = {split: [] for split in SPLITS}
    for number, line in enumerate(read(path, file).splitlines(), start=1):
        match = re.fullmatch(rb"([0-9]{6}\.jpg) ([012])", line)
        if not match:
            raise UserError(f"{path}, line {number}: expected a picture and 0, 1 or 2, got {line[:40]!r}.")
        members[SPLITS[int(match[2])]].append(match[1].decode())
    for split in SPLITS:
        if len(members[split]) != config.splits[split]:
            raise UserError(
                f"{path} gives {len(members[split]):,} pictures to {split}; expected {config.splits[split]:,}."
            )
    return members


def _celeba_stream(path: Path, names: list[str], shape: tuple[int, ...]) -> Stream:
    left, top = ((side - CELEBA_CROP) // 2 for side in CELEBA_SIZE)

    def images() -> Iterator[NDArray[np.uint8]]:
        with Zip(path) as archive:
            for name in names:
                where = f"{path}, {name}"
                content = archive.read(f"img_align_celeba/{name}", LARGEST_PICTURE)
                pixels = decode(content, "JPEG", CELEBA_SIZE, "RGB", where).transpose(2, 0, 1)
                square = pixels[:, top : top + CELEBA_CROP, left : left + CELEBA_CROP]
                yield area_average(square, (shape[2], shape[3]))

    return image_stream(images, shape, str(path))


def photo_patches(raw: Path, config: DatasetConfig) -> Arrays:
    """Read scikit-learn's two photographs: grey windows, evenly spaced, made into images as its digits were.

    A pixel is the mean grey value (ITU-R 601 luma) of a block of `PATCH_BLOCK` x `PATCH_BLOCK` pixels, as a level;
    black is 0. Windows do not overlap, and are shuffled by a fixed seed: the first are as mixed as all.

    Raises:
        UserError: a file is no such photograph, or the split has another size.
    """
    expect_splits(config, "test")
    files = expect_files(config, "the photographs", 2)
    _, height, width = config.shape
    patches = np.stack(
        [
            area_average(window, (height, width), config.levels - 1, 255)[None]
            for file in files
            for window in _windows(raw / file.name, file, (PATCH_BLOCK * height, PATCH_BLOCK * width))
        ]
    )
    if len(patches) != config.splits["test"]:
        raise UserError(
            f"config/datasets.yaml, {config.title!r}: `splits` says {config.splits['test']:,} images for test; "
            f"reader {config.reader} gives {len(patches):,}."
        )
    return {"test/images": patches[np.random.RandomState(PATCH_ORDER_SEED).permutation(len(patches))]}


def _windows(path: Path, file: RawFile, shape: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Row by row, the windows of height and width `shape` in the centres of the cells of `PATCH_GRID`."""
    grey = decode(read(path, file), "JPEG", PHOTO_SIZE, "L", str(path))
    tops, lefts = (
        [(2 * cell + 1) * length // (2 * cells) - side // 2 for cell in range(cells)]
        for length, cells, side in zip(grey.shape, PATCH_GRID, shape, strict=True)
    )
    for top in tops:
        for left in lefts:
            yield grey[top : top + shape[0], left : left + shape[1]]
