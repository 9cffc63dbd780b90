"""Members of tar and zip archives, read in memory: nothing is extracted to disk, so no name in an archive is a path.

What is read is bounded by what the caller expects, before it is unpacked; whatever is damaged is a UserError.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from biva.errors import UserError

_SLACK = 1 << 20
"""Bytes that headers, directories and small other members of an archive may take besides the expected content."""

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    IndexError,
    NotImplementedError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    ValueError,
)
"""What the standard library raises on damaged archives."""


@contextmanager
def explained_damage(where: str | Path) -> Iterator[None]:
    """Tell what the standard library finds wrong with an archive as a mistake in the file `where`."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{where} does not exist. Run `biva fetch` first.") from None
    except _DAMAGE as error:
        raise UserError(f"{where} is damaged: {str(error) or type(error).__name__}.") from None


class _Bounded(io.RawIOBase):
    """A stream that ends in an error once it has given more than `limit` bytes."""

    def __init__(self, stream: io.BufferedIOBase, limit: int) -> None:
        self._stream = stream
        self._left = limit

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise ValueError("it unpacks to more than expected")
        return content


def tar_files(path: Path, limit: int) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of every regular file in a tar, gzipped or not, in the archive's order.

    A content is to be read before the next is asked for, within `explained_damage`.

    Raises:
        UserError: the archive is damaged or unpacks to more than `limit` bytes.
    """
    with (
        explained_damage(path),
        gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream,
        tarfile.open(fileobj=_Bounded(stream, limit), mode="r|") as tar,
    ):
        while member := tar.next():
            if tar.offset > limit:  # of the next entry: the standard library would skip to it for ages
                raise ValueError("it unpacks to more than expected")
            tar.members.clear()  # type: ignore[attr-defined]  # a million entries would fill the memory for nothing
            if member.isreg() and not member.issparse() and (content := tar.extractfile(member)):
                yield member.name, member.size, content


def tar_members(path: Path, names: tuple[str, ...], limit: int) -> dict[str, bytes]:
    """Content of the regular files of these names in a tar, gzipped or not, of `limit` bytes together at most.

    Raises:
        UserError: the archive is damaged or unpacks to more, or a name is missing or there twice.
    """
    found: dict[str, bytes] = {}
    for name, size, content in tar_files(path, limit + _SLACK):
        if name in names:
            if name in found:
                raise UserError(f"{path} has {name} twice.")
            with explained_damage(path):
                found[name] = _whole(content, size)
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{path} has no regular file {missing[0]}.")
    return found


def tar_pictures(path: Path, suffix: str, limit: int, largest: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of every regular file in a tar that ends in `suffix`, in the archive's order.

    Args:
        path: the archive.
        suffix: of the names; files of other names are passed over.
        limit: bytes of the archive, unpacked.
        largest: bytes of one file.

    Raises:
        UserError: the archive is damaged or unpacks to more, or a file is larger.
    """
    for name, size, content in tar_files(path, limit):
        if name.endswith(suffix) and not name.rsplit("/", 1)[-1].startswith("."):
            if size > largest:
                raise UserError(f"{path}, {name}: {size:,} bytes; expected {largest:,} at most.")
            with explained_damage(path):
                picture = _whole(content, size)
            yield name, picture


def _whole(content: IO[bytes], size: int) -> bytes:
    read = content.read(size)
    if len(read) != size:
        raise EOFError("it ends within a member")
    return read


class Zip:
    """A zip archive, to be used in a `with` statement; every failure is a UserError that names it."""

    def __init__(self, path: Path | IO[bytes], where: str | Path | None = None) -> None:
        self._where = where or path
        with explained_damage(str(self._where)):
            self._zip = zipfile.ZipFile(path)
            self._members: dict[str, zipfile.ZipInfo] = {}
            for member in self._zip.infolist():
                if member.filename in self._members:
                    raise UserError(f"{self._where} has {member.filename!r} twice.")
                self._members[member.filename] = member

    def __enter__(self) -> Zip:
        return self

    def __exit__(self, *exception: object) -> None:
        self._zip.close()

    def names(self, pattern: str) -> list[str]:
        """Names of the members that match a regular expression as a whole, sorted."""
        return sorted(name for name in self._members if re.fullmatch(pattern, name))

    def read(self, name: str, largest: int) -> bytes:
        """Content of a member of at most `largest` bytes, its checksum verified."""
        with self.open(name, largest) as stream, explained_damage(f"{self._where}, {name}"):
            return _whole(stream, self._members[name].file_size)

    @contextmanager
    def open(self, name: str, largest: int) -> Iterator[IO[bytes]]:
        """A member of at most `largest` bytes as a stream."""
        member = self._members.get(name)
        if member is None:
            raise UserError(f"{self._where} has no member {name}.")
        if member.file_size > largest:
            raise UserError(f"{self._where}, {name}: {member.file_size:,} bytes; expected {largest:,} at most.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"{self._where}, {name}: packed by method {member.compress_type}; expected deflate or none."
            )
        with explained_damage(f"{self._where}, {name}"), self._zip.open(member) as stream:
            yield stream
