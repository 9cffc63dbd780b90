"""Prepared datasets in one file, to carry to machines without a network: `biva data export` and `biva data import`.

The file is a plain tar: per dataset `NAME/data.json` and `NAME/data.safetensors`, and `LICENCES.txt` for people.
`data.json` holds the SHA-256 of the array file, and what else it says follows from `config/datasets.yaml`, so every
byte of both is checked. A name in the tar is compared, never used as a path, and other members are passed over.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from biva.config import DatasetConfig
from biva.data.datasets import ARRAYS, DESCRIPTION, expect_entry, load
from biva.errors import UserError
from biva.records import read_json, sha256, write_json, writing_atomically

_LICENCES = "LICENCES.txt"
_LARGEST_DESCRIPTION = 1 << 20


def export_datasets(configs: Mapping[str, DatasetConfig], resources: Path, target: Path) -> None:
    """Write prepared datasets into the tar `target`; equal datasets give equal bytes.

    Raises:
        UserError: a dataset is not prepared, or not as its entry says; `target` exists.
    """
    if target.exists():
        raise UserError(f"{target} exists already, and is not overwritten. Delete it, or name another file with --to.")
    fingerprints = {name: load(resources / name, (name, config)).fingerprint for name, config in configs.items()}
    with writing_atomically(target) as file, tarfile.open(fileobj=file, mode="w") as tar:
        licences = _licences(configs, fingerprints).encode()
        _add(tar, _LICENCES, len(licences), io.BytesIO(licences))
        for name in configs:
            for part in (DESCRIPTION, ARRAYS):
                path = resources / name / part
                with path.open("rb") as content:
                    _add(tar, f"{name}/{part}", path.stat().st_size, content)


def _add(tar: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)  # time 0, no owner
    member.size = size
    tar.addfile(member, content)


def _licences(configs: Mapping[str, DatasetConfig], fingerprints: Mapping[str, str]) -> str:
    return "\n".join(
        f"{name}: {config.title}\n"
        f"  licence:   {config.licence}\n"
        f"  citation:  {config.citation.strip()}\n"
        f"  homepage:  {config.homepage or '-'}\n"
        f"  SHA-256:   {fingerprints[name]}  {name}/{ARRAYS}\n"
        for name, config in configs.items()
    )


def import_datasets(path: Path, configs: Mapping[str, DatasetConfig], resources: Path) -> list[str]:
    """Put the datasets of an exported tar into `resources`, after all of it has been verified.

    What is there with the same content is kept.

    Returns:
        The names of the datasets, in the archive's order.

    Raises:
        UserError: the archive is damaged, holds something else, a dataset without an entry or one prepared by another
            entry, or `resources` has another content. Nothing has been written then.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist. `biva data export` writes such a file, on a machine with the data.")
    try:
        with tarfile.open(path, "r:") as tar:
            members = {member.name: member for member in tar if member.isreg() and not member.issparse()}
            names = list(dict.fromkeys(member.partition("/")[0] for member in members if member != _LICENCES))
            if not names:
                raise UserError(f"{path} holds no dataset.")
            descriptions = {name: _verified(tar, members, name, configs, path) for name in names}
            for name in [name for name in names if not _is_present(resources / name, path, descriptions[name])]:
                with writing_atomically(resources / name / ARRAYS) as file:
                    shutil.copyfileobj(_content(tar, members, f"{name}/{ARRAYS}"), file)
                write_json(resources / name / DESCRIPTION, descriptions[name])
    except (tarfile.TarError, EOFError, OSError, OverflowError, RecursionError, ValueError) as error:
        if getattr(error, "filename", None):  # a file that may not be read says nothing about this one
            raise
        raise UserError(f"{path} is damaged: {str(error) or type(error).__name__}.") from None
    return names


def _content(tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], name: str) -> IO[bytes]:
    if name not in members or (content := tar.extractfile(members[name])) is None:
        raise UserError(f"{tar.name!s} has no {name}: it is no whole export. Copy or export it again.")
    return content


def _verified(
    tar: tarfile.TarFile,
    members: Mapping[str, tarfile.TarInfo],
    name: str,
    configs: Mapping[str, DatasetConfig],
    path: Path,
) -> dict[str, Any]:
    """A dataset's description, with which its array file and its entry agree."""
    if name not in configs:
        raise UserError(
            f"{path} has dataset {name!r}, which config/datasets.yaml does not have. Nothing was imported. Add its "
            "entry, as it is where the file was exported."
        )
    description = json.loads(_content(tar, members, f"{name}/{DESCRIPTION}").read(_LARGEST_DESCRIPTION))
    digest = hashlib.file_digest(_content(tar, members, f"{name}/{ARRAYS}"), "sha256").hexdigest()  # type: ignore[arg-type]
    declared = description.get("fingerprint") if isinstance(description, dict) else None
    if declared != digest:
        raise UserError(
            f"{path} is damaged: {name}/{ARRAYS} has the SHA-256 {digest}, but {name}/{DESCRIPTION} says "
            f"{declared}. Nothing was imported. Copy the file again, or export it again."
        )
    expect_entry(description, name, configs[name], digest, path)
    return dict(description)


def _is_present(folder: Path, path: Path, description: dict[str, Any]) -> bool:
    """Whether the dataset is there already; another one in its place is not overwritten."""
    arrays, about = folder / ARRAYS, folder / DESCRIPTION
    here = [file for file in (arrays, about) if file.is_file()]
    for file in here:
        if (sha256(file) != description["fingerprint"]) if file == arrays else (read_json(file) != description):
            raise UserError(
                f"{file} is there with another content than in {path}. Nothing was imported. Delete {folder} to take "
                "the one from the archive."
            )
    return len(here) == 2
