"""Checkpoints that survive a kill at any moment. They are no results: Snakemake never deletes them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from biva.errors import UserError

NEWEST, PREVIOUS = "newest.pt", "previous.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write a new checkpoint; the one before is kept as a fallback.

    Raises:
        UserError: it cannot be written; the earlier checkpoints are untouched.
    """
    temporary = folder / f".{os.getpid()}.tmp"
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
            "Free some space or mend the permissions, then run the same command again: training goes on from there."
        ) from error


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, on the CPU; None where there is none.

    Raises:
        UserError: there are checkpoints, but none can be read.
    """
    found = [path for name in (NEWEST, PREVIOUS) if (path := folder / name).is_file()]
    for path in found:
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        except Exception as error:  # whatever a damaged file makes torch raise
            print(f"warning: the checkpoint {path} cannot be read ({type(error).__name__})", file=sys.stderr)
    if found:
        raise UserError(
            f"No checkpoint in {folder} can be read. Nothing was changed. Restore one of them from a backup, or "
            f"delete the folder {folder} to train this run from the start."
        )
    return None
