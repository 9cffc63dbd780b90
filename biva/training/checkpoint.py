"""Checkpoints that survive a kill at any moment. They are no results: Snakemake never deletes them."""

from __future__ import annotations

import os
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from biva.errors import UserError

NEWEST, PREVIOUS = "newest.pt", "previous.pt"

DAMAGED = "damaged.pt"
"""The newest checkpoint when it could not be read, and training went on from the previous one."""


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write a new checkpoint; the one before is kept as a fallback.

    Raises:
        UserError: it cannot be written; the earlier checkpoints are untouched.
    """
    temporary = folder / f".{NEWEST}.tmp"  # a run has one writer; what a kill leaves half written is written over
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if (folder / NEWEST).exists():
            os.replace(folder / NEWEST, folder / PREVIOUS)
        os.replace(temporary, folder / NEWEST)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"Cannot write a checkpoint to {folder}: {error}. The last good checkpoint is kept. "
            "Free some space or fix the permissions, then run the same command again: training goes on from there."
        ) from error


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, on the CPU; None where there is none.

    A newest one that is not is kept as `damaged.pt`, so that it never takes the place of the previous one.

    Raises:
        UserError: there are checkpoints, but none is whole.
    """
    found = [path for name in (NEWEST, PREVIOUS) if (path := folder / name).is_file()]
    for path in found:
        try:
            state = _read(path)
        except PermissionError:  # which says nothing about its content
            raise
        except Exception as error:  # whatever a damaged file makes torch raise
            print(f"warning: the checkpoint {path} cannot be read ({type(error).__name__}: {error})", file=sys.stderr)
            continue
        if path != found[0]:
            with suppress(FileNotFoundError):  # another process of this training has done it
                os.replace(found[0], folder / DAMAGED)
            print(f"warning: going on from {path}; the damaged one is kept as {DAMAGED}", file=sys.stderr)
        return state
    if found:
        raise UserError(
            f"No checkpoint in {folder} can be read. Nothing was changed. Restore one of them from a backup, or "
            f"delete the folder {folder} to train this run from the start."
        )
    return None


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint whose checksums are right. torch writes them, but does not look at them."""
    with zipfile.ZipFile(path) as file:
        if damaged := file.testzip():
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
