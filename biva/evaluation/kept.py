"""Parts of an evaluation on disk, so that a killed one goes on where it was."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise

from biva.evaluation.likelihood import Keeper, Part
from biva.records import write_atomically


def keeper_in(folder: Path) -> Keeper:
    """Keeps every part as a file in `folder`, whose name must tell all that the parts depend on but their images."""

    def keeper(images: range, compute: Callable[[], Part]) -> Part:
        path = folder / f"{images.start:08d}-{images.stop:08d}.safetensors"
        if path.is_file():
            try:
                return deserialise(path.read_bytes())
            except SafetensorError:
                print(f"warning: {path} is damaged; it is computed again", file=sys.stderr)
        part = compute()
        write_atomically(path, serialise(part))
        return part

    return keeper
