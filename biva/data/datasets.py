"""The canonical form of a dataset: one array file, its description, and the fingerprint that every run records.

`resources/DATASET/data.safetensors` holds the arrays that a reader of `biva.data.archives` returns, and
`resources/DATASET/data.json` says what they are. Equal raw files give equal bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.numpy import save
from torch import Tensor

from biva.config import DatasetConfig
from biva.data.archives import READERS, SPLITS, Arrays, SplitName, is_intact
from biva.data.preprocessing import Binarisation
from biva.errors import UserError
from biva.records import read_json, write_atomically, write_json

Split = SplitName | Literal["train+valid"]

_ARRAYS = "data.safetensors"
_DESCRIPTION = "data.json"


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
        """Images of a split, uint8 (N, C, H, W); "train+valid" is a copy of the two, one after the other."""
        if name == "train+valid":
            return torch.cat([self.images["train"], self.images["valid"]])
        return self.images[name]


def prepare(name: str, config: DatasetConfig, raw: Path, folder: Path) -> None:
    """Write the canonical array file and its description into `folder`.

    Raises:
        UserError: a raw file is missing or not the declared one, does not hold what the configuration says, or the
            disk is full. Existing files are only replaced by complete ones.
    """
    if missing := set(SPLITS) - set(config.splits):
        raise UserError(
            f"config/datasets.yaml, {name}: `splits` does not say the size of {', '.join(sorted(missing))}."
        )
    for file in config.files:
        if not is_intact(raw / file.name, file):
            raise UserError(
                f"{raw / file.name} is missing or does not have the SHA-256 {file.sha256} that config/datasets.yaml "
                f"declares. Run `biva fetch {name}`: it fetches what is missing and replaces what is wrong."
            )
    arrays = READERS[config.reader](raw, config)
    _check_levels(name, config, arrays)
    content = save(arrays)
    write_atomically(folder / _ARRAYS, content)
    write_json(
        folder / _DESCRIPTION,
        {
            "dataset": name,
            "fingerprint": hashlib.sha256(content).hexdigest(),
            "shape": list(config.shape),
            "levels": config.levels,
            "binarisation": config.binarisation,
            "splits": dict(config.splits),
        },
    )


def _check_levels(name: str, config: DatasetConfig, arrays: Arrays) -> None:
    for split in SPLITS:
        if (highest := arrays[f"{split}/images"].max(initial=0)) >= config.levels:
            raise UserError(
                f"Dataset {name}, split {split}: a pixel has the value {highest}, but config/datasets.yaml "
                f"declares levels: {config.levels}, which allows 0 to {config.levels - 1}."
            )


def load(folder: Path) -> Dataset:
    """Open the dataset that `prepare` wrote into `folder`.

    Raises:
        UserError: it is not there, or its two files do not belong together.
    """
    path, description = folder / _ARRAYS, folder / _DESCRIPTION
    again = f"Run `biva prepare {folder.name}`."
    for needed in (path, description):
        if not needed.is_file():
            raise UserError(f"Dataset {folder.name!r} is not prepared: {needed} does not exist. {again}")
    about = read_json(description)
    with path.open("rb") as stream:  # 0.1 s for MNIST
        fingerprint = hashlib.file_digest(stream, "sha256").hexdigest()
    if about.get("fingerprint") != fingerprint:
        raise UserError(f"{path} is not the file that {description} describes: its SHA-256 is {fingerprint}. {again}")
    with safe_open(path, framework="pt") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    try:
        return Dataset(
            name=about["dataset"],
            fingerprint=fingerprint,
            shape=tuple(about["shape"]),
            levels=about["levels"],
            binarisation=about["binarisation"],
            images={split: arrays[f"{split}/images"] for split in about["splits"]},
            labels={split: arrays[f"{split}/labels"] for split in about["splits"] if f"{split}/labels" in arrays},
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{description} is incomplete ({error}). {again}") from None
