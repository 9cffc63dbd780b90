"""The canonical form of a dataset: one array file, its description, and the fingerprint that every run records.

`resources/DATASET/data.safetensors` holds the arrays that a reader of `biva.data.readers` gives, and
`resources/DATASET/data.json` says what they are. Equal raw files give equal bytes.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from biva.config import DatasetConfig
from biva.data.array_file import map_arrays, one_after_the_other, write_arrays
from biva.data.checksums import expectation, is_intact
from biva.data.limits import expect_at_most
from biva.data.preprocessing import Binarisation
from biva.data.raw import CLASSES, SPLIT_NAMES, Array, Arrays, SplitName, Stream, pieces
from biva.errors import UserError
from biva.records import as_written, read_json, sha256, write_json

Split = SplitName | Literal["train+valid"]

ARRAYS = "data.safetensors"
DESCRIPTION = "data.json"


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset.

    Attributes:
        name: entry of `config/datasets.yaml`.
        fingerprint: SHA-256 of the array file.
        shape: channels, height, width.
        levels: grey levels; a pixel is 0 .. levels - 1.
        binarisation: how a pixel becomes the model's input.
        images: split -> uint8 (N, C, H, W), mapped from the file: pages are read when they are used.
        labels: split -> int64 (N,); empty where the dataset has none.
    """

    name: str
    fingerprint: str
    shape: tuple[int, int, int]
    levels: int
    binarisation: Binarisation
    images: dict[str, Tensor]
    labels: dict[str, Tensor]

    def split(self, name: Split) -> Tensor:
        """Images of a split, uint8 (N, C, H, W).

        "train+valid" is all there is to train on: the two, one after the other, or only the training split where the
        dataset has no validation split. It is mapped as they are.

        Raises:
            UserError: the dataset has no such split.
        """
        if name == "train+valid" and {"train", "valid"} <= self.images.keys():
            return one_after_the_other(self.images["train"], self.images["valid"])
        split = "train" if name == "train+valid" else name
        if split not in self.images:
            there = ", ".join(known for known in SPLIT_NAMES if known in self.images)
            raise UserError(
                f"Dataset {self.name!r} has no split {split!r}; it has: {there}. Choose one of those, or another "
                "training.protocol: `paper` needs train and test, `clean` needs valid too."
            )
        return self.images[split]

    def labels_of(self, name: Split) -> Tensor:
        """Labels of the images of a split, in their order, int64 (N,).

        Raises:
            UserError: the dataset has no labels.
        """
        there = [self.labels[part] for part in name.split("+") if part in self.labels]
        if not there:
            raise UserError(
                f"Dataset {self.name!r} has no labels, which semi-supervised runs need. Use one that has them, such as "
                "digits, mnist_dynamic, fashion_mnist or cifar10."
            )
        return torch.cat(there)


def prepare(name: str, config: DatasetConfig, raw: Path, folder: Path) -> None:
    """Write the canonical array file and its description into `folder`.

    Raises:
        UserError: a raw file is missing or not the declared one, or does not hold what the configuration says.
            Existing files are only replaced by complete ones.
    """
    for file in config.files:
        if not is_intact(raw / file.name, file):
            raise UserError(
                f"{raw / file.name} is missing or {expectation(file)}. "
                f"Run `biva fetch {name} --to {raw}`: it fetches what is missing and replaces what is wrong."
            )
    arrays = read_arrays(name, config, raw)
    fingerprint = write_arrays(folder / ARRAYS, arrays)
    write_json(folder / DESCRIPTION, describe(name, config, fingerprint))


def read_arrays(name: str, config: DatasetConfig, raw: Path) -> Arrays:
    """The arrays of the dataset's raw files, each compared with the dataset's entry, a stream as it is read.

    Raises:
        UserError: the files are not what the reader takes, or give something else than the entry says.
    """
    reader = importlib.import_module(f"biva.data.readers.{config.reader}")
    where = f"config/datasets.yaml, {name!r}"
    if len(config.files) != len(reader.FILES):
        raise UserError(
            f"{where}: reader {config.reader} needs {len(reader.FILES)} file(s) ({', '.join(reader.FILES)}), "
            f"but `files` lists {len(config.files)}."
        )
    if set(config.splits) != set(reader.GIVES):
        raise UserError(
            f"{where}: `splits` names {', '.join(config.splits)}; "
            f"reader {config.reader} gives {', '.join(reader.GIVES)}."
        )
    with _explained(name, config, raw):
        for file in config.files:
            if file.trust == "first_use":
                values = sum(config.splits.values()) * math.prod(config.shape)
                expect_at_most(raw / file.name, 8 * values + (1 << 26))  # as many numbers of 8 bytes, and some headers
        arrays: Arrays = reader.read([raw / file.name for file in config.files], config)
    return {key: _checked(name, key, config, raw, array) for key, array in arrays.items()}


@contextmanager
def _explained(name: str, config: DatasetConfig, raw: Path) -> Iterator[None]:
    """Report whatever a reader raises as a mistake in the files: libraries raise all kinds of errors on bad ones."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        names = ", ".join(file.name for file in config.files)
        raise UserError(
            f"Dataset {name!r}: {names} in {raw} cannot be read by reader {config.reader}: {type(error).__name__}: "
            f"{error}. They are not in its format, or not of the shape and splits that config/datasets.yaml says."
        ) from error


def _checked(name: str, key: str, config: DatasetConfig, raw: Path, array: Array) -> Array:
    """The same array, in which another number or shape of images, a grey level or a label too high is an error."""
    split, kind = key.split("/")
    declared, count = "config/datasets.yaml says", config.splits[split]  # type: ignore[index]  # one that it gives
    shape, highest = (config.shape, config.levels - 1) if kind == "images" else ((), CLASSES - 1)
    dtype = np.dtype(np.uint8 if kind == "images" else np.int64)

    def chunks() -> Iterator[NDArray[Any]]:
        there = 0
        with _explained(name, config, raw):
            for piece in pieces(array):
                there += len(piece)
                if piece.shape[1:] != shape or piece.dtype != dtype:
                    found = f"{piece.dtype} of shape {piece.shape[1:]}"
                    raise UserError(f"Dataset {name}, {key} are {found}; {declared} {dtype} of shape {shape}.")
                if piece.size and not 0 <= piece.min() <= piece.max() <= highest:
                    found = f"{piece.min()} to {piece.max()}"
                    raise UserError(f"Dataset {name}, {key} have values from {found}; {declared} 0 to {highest}.")
                yield piece
        if there != count:
            raise UserError(f"Dataset {name}, {key} are {there:,}; {declared} {count:,}.")

    if kind == "images":
        return Stream((count, *shape), chunks)
    return np.concatenate(list(chunks()))


def describe(name: str, config: DatasetConfig, fingerprint: str) -> dict[str, Any]:
    """Content of the description beside an array file with this SHA-256."""
    return {
        "dataset": name,
        "fingerprint": fingerprint,
        "shape": list(config.shape),
        "levels": config.levels,
        "binarisation": config.binarisation,
        "splits": dict(config.splits),
    }


def expect_entry(about: dict[str, Any], name: str, config: DatasetConfig, fingerprint: str, where: Path) -> None:
    """Refuse a description that is not the one that `prepare` would write for this entry."""
    expected = describe(name, config, fingerprint)
    for key in expected | about:
        if about.get(key) != expected.get(key):
            raise UserError(
                f"{where}: dataset {name!r} was prepared by another entry: its {key} is {about.get(key)!r}, but by "
                f"config/datasets.yaml {expected.get(key)!r}. Use the same entry, or run `biva prepare {name}` anew."
            )


def load(folder: Path, entry: tuple[str, DatasetConfig] | None = None) -> Dataset:
    """Open the dataset that `prepare` wrote into `folder`; with `entry`, its name and settings, only that of the entry.

    Raises:
        UserError: it is not there, its two files do not belong together, or it is another dataset than the entry says.
    """
    path, description = folder / ARRAYS, folder / DESCRIPTION
    dataset = entry[0] if entry else folder.name
    again = f"Run `biva prepare {dataset} --to {folder}`."
    for needed in (path, description):
        if not needed.is_file():
            raise UserError(f"Dataset {dataset!r} is not prepared: {needed} does not exist. {again}")
    about = read_json(description)
    fingerprint = sha256(path)  # 0.1 s for MNIST, some seconds for ImageNet
    if about.get("fingerprint") != fingerprint:
        raise UserError(f"{path} is not the file that {description} describes: its SHA-256 is {fingerprint}. {again}")
    if entry:
        expect_entry(about, *entry, fingerprint, folder)
    arrays = map_arrays(path)
    with as_written(description, again):
        return Dataset(
            name=about["dataset"],
            fingerprint=fingerprint,
            shape=tuple(about["shape"]),
            levels=about["levels"],
            binarisation=about["binarisation"],
            images={split: arrays[f"{split}/images"] for split in about["splits"]},
            labels={split: arrays[f"{split}/labels"] for split in about["splits"] if f"{split}/labels" in arrays},
        )
