"""What datasets there are, and what of them is present on this machine: the table of `biva data list`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich.filesize import decimal

from biva.config import DatasetConfig
from biva.data.raw import SPLIT_NAMES

_COLUMNS = ["shape", "train / valid / test", "raw", "prepared", "present", "from"]

_NOTES = 100
"""Width of the notes below the table."""


def catalogue(configs: Mapping[str, DatasetConfig], resources: Path) -> str:
    """The table and a note per dataset; files are only looked for in `resources`, not verified."""
    lines = {name: _line(config, resources / name) for name, config in configs.items()}
    table = pd.DataFrame.from_dict(lines, orient="index", columns=_COLUMNS).rename_axis(columns="dataset")
    return "\n".join([table.to_string(), "", *(_note(name, config) for name, config in configs.items())])


def _line(config: DatasetConfig, folder: Path) -> list[str]:
    pixels = sum(config.splits.values()) * math.prod(config.shape)
    bound = "<= " if any(file.trust == "first_use" for file in config.files) else ""
    return [
        "x".join(map(str, config.shape)),
        " / ".join(f"{config.splits[split]:,}" if split in config.splits else "-" for split in SPLIT_NAMES),
        bound + decimal(sum(file.bytes for file in config.files)),
        decimal(pixels),
        _present(config, folder),
        _origin(config),
    ]


def _present(config: DatasetConfig, folder: Path) -> str:
    raw = [(folder / "raw" / file.name).is_file() for file in config.files]
    states = []
    if any(raw):
        states.append("raw" if all(raw) else f"raw {sum(raw)} of {len(raw)}")
    if (folder / "data.safetensors").is_file() and (folder / "data.json").is_file():
        states.append("prepared")
    return ", ".join(states) or "-"


def _origin(config: DatasetConfig) -> str:
    """The host or package of the first source."""
    if not config.sources:
        return "by hand"
    scheme, _, rest = config.sources[0].partition("://")
    return rest.split("/", 1)[0] if rest else scheme


def _note(name: str, config: DatasetConfig) -> str:
    facts = {key: getattr(config, key) for key in ("title", "paper", "licence", "homepage")}
    lines = [f"{key}: {fact}" for key, fact in facts.items() if fact]
    wrapped = [textwrap.fill(line, _NOTES, initial_indent="  ", subsequent_indent="    ") for line in lines]
    return "\n".join([name, *wrapped])
