"""Guards for bytes that nobody vouches for: the files that `trust: first_use` declares.

Their sizes are bounded before anything unpacks them, and what is known to crash on damaged files reads them elsewhere.
"""

from __future__ import annotations

import gzip
import multiprocessing
import struct
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from biva.errors import UserError

_P = ParamSpec("_P")
_T = TypeVar("_T")

_STEP = 1 << 20
"""Bytes that are unpacked at a time to be counted."""


def expect_at_most(path: Path, largest: int) -> None:
    """Refuse a gzip, zip or MATLAB 5 file whose content unpacks to more than `largest` bytes; others are not packed.

    Raises:
        UserError: it unpacks to more, or a zip has a member twice or one packed by an uncommon method.
    """
    with path.open("rb") as file:
        start = file.read(128)
        size = _size_of_zip(path) if zipfile.is_zipfile(file) else 0
        if start.startswith(b"\x1f\x8b"):
            size += _size_of_gzip(path, largest)
        if start.startswith(b"MATLAB 5.0"):
            file.seek(len(start))
            size += _size_of_mat(file, "<" if start[126:] == b"IM" else ">", largest)
    if size > largest:
        raise UserError(f"{path} unpacks to more than the expected {largest:,} bytes.")


def _size_of_zip(path: Path) -> int:
    """What the directory says: Python's zipfile never gives more of a member."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if len({member.filename for member in members}) < len(members):
        raise UserError(f"{path} has a member twice.")
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{path}, {member.filename}: packed by method {member.compress_type}, not by deflate.")
    return sum(member.file_size for member in members)


def _size_of_gzip(path: Path, largest: int) -> int:
    size = 0
    with gzip.open(path) as stream:
        while size <= largest and (content := stream.read(_STEP)):
            size += len(content)
    return size


def _size_of_mat(file: BinaryIO, order: str, largest: int) -> int:
    """What the variables unpack to; type 15 is that of a packed one."""
    size, header = 0, struct.Struct(f"{order}II")
    while size <= largest and len(start := file.read(header.size)) == header.size:
        kind, length = header.unpack(start)
        content = file.read(length)
        unpacker = zlib.decompressobj()
        while kind == 15 and content and size <= largest:
            size += len(unpacker.decompress(content, _STEP))
            content = unpacker.unconsumed_tail
    return size


def in_another_process(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """The function's result, from a process whose crash is an error in this one.

    SciPy's reader of MATLAB files is compiled code that trusts the lengths in them: damaged ones end its process.

    Raises:
        ValueError: the process crashed.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *args, **kwargs).result()
    except BrokenProcessPool:
        raise ValueError("the file is damaged: its reader crashed") from None
