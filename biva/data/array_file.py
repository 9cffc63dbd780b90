"""The array file: safetensors, written piece by piece and read mapped, so that no array need fit in memory.

A safetensors file is the length of its header (8 bytes, little endian), the header (JSON: name -> type, shape, place),
and the arrays' bytes. The `safetensors` package writes the same bytes, but only from arrays that are in memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as deserialise
from torch import Tensor

from biva.data.raw import Arrays, pieces
from biva.errors import UserError
from biva.records import read_bytes, writing_atomically

_TYPES: dict[str, tuple[np.dtype[Any], torch.dtype]] = {
    "U8": (np.dtype(np.uint8), torch.uint8),
    "I64": (np.dtype(np.int64), torch.int64),
}
"""Type in the header -> that of NumPy and of PyTorch."""

_LENGTH = struct.Struct("<Q")


def write_arrays(path: Path, arrays: Arrays) -> str:
    """Write arrays of uint8 or int64 by name, holding one piece of one array at a time.

    Returns:
        SHA-256 of the file.

    Raises:
        UserError: a stream is not what it should be. An earlier file stays then.
    """
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))  # as safetensors does: aligned
    digest = hashlib.sha256()
    with writing_atomically(path) as file:
        header = _header(arrays, order)
        file.write(header)
        digest.update(header)
        for name in order:
            for piece in pieces(arrays[name]):
                content = np.ascontiguousarray(piece).data
                file.write(content)
                digest.update(content)
    return digest.hexdigest()


def _header(arrays: Arrays, order: list[str]) -> bytes:
    names = {numpy_type: name for name, (numpy_type, _) in _TYPES.items()}
    header, start = {}, 0
    for name in order:
        stop = start + math.prod(arrays[name].shape) * arrays[name].dtype.itemsize
        header[name] = {
            "dtype": names[arrays[name].dtype],
            "shape": list(arrays[name].shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return _LENGTH.pack(len(text)) + text


def map_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of a file that `write_arrays` wrote, mapped: pages are read when they are used.

    All share one storage, so that neighbours can be seen as one array (`one_after_the_other`). Where the file system
    maps no files, as some network disks, all of it is read.

    Raises:
        UserError: it is no such file.
    """
    try:
        try:
            with safe_open(path, framework="numpy"):  # compares all places with the file's size
                content = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
        except (OSError, RuntimeError):
            return deserialise(read_bytes(path))
        (length,) = _LENGTH.unpack(content[: _LENGTH.size].numpy().tobytes())
        values = content[_LENGTH.size + length :]
        arrays = {}
        for name, about in json.loads(content[_LENGTH.size :][:length].numpy().tobytes()).items():
            first, last = about["data_offsets"]
            arrays[name] = values[first:last].view(_TYPES[about["dtype"]][1]).view(about["shape"])
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        again = f"Run `biva prepare {path.parent.name} --to {path.parent}`."
        raise UserError(f"{path} is damaged: {error}. {again}") from None
    return arrays


def one_after_the_other(first: Tensor, second: Tensor) -> Tensor:
    """One array after the other, along the first axis; a view where they are neighbours in memory, else a copy."""
    neighbours = (
        first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
        and first.is_contiguous()
        and second.is_contiguous()
        and first.storage_offset() + first.numel() == second.storage_offset()
    )
    if neighbours:
        return first.as_strided((len(first) + len(second), *first.shape[1:]), first.stride())
    return torch.cat([first, second])
