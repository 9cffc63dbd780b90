"""Batches of an evaluation on disk: a killed one goes on where it was, and several jobs can share one."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise

from biva.errors import UserError
from biva.evaluation.likelihood import Batch, Keeper
from biva.records import write_atomically


def keeper_in(folder: Path) -> Keeper:
    """Keeps every batch as a file in `folder`, whose name must differ for all that the numbers depend on.

    The file's name has the SHA-256 of its content, so a damaged batch is computed again and never used.
    """

    def keeper(images: range, compute: Callable[[], Batch]) -> Batch:
        name = f"{images.start:08d}-{images.stop:08d}"
        for path in folder.glob(f"{name}.*.safetensors"):
            content = path.read_bytes()
            if path == folder / _named(name, content):
                return deserialise(content)
            print(f"warning: {path} is damaged; it is computed again", file=sys.stderr)
            path.unlink(missing_ok=True)
        batch = compute()
        content = serialise(batch)
        write_atomically(folder / _named(name, content), content)
        return batch

    return keeper


def _named(name: str, content: bytes) -> str:
    return f"{name}.{hashlib.sha256(content).hexdigest()}.safetensors"


def parse_share(text: str) -> slice:
    """`2/8`, the second of eight shares, as every eighth batch from the second on.

    Raises:
        UserError: it is not a number, a slash, and a number that is no smaller.
    """
    match = re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", text)
    if match is None or int(match[1]) > int(match[2]):
        raise UserError(f"{text!r} is no share of an evaluation. Write 2/8 for the second of eight, 1/8 to 8/8.")
    return slice(int(match[1]) - 1, None, int(match[2]))
