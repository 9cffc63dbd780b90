"""Where the bytes of a dataset come from.

Sources are tried in order: the mirror (a folder or an address), then those of `config/datasets.yaml`. Any of them may
offer a file plain or gzipped; an official file that is itself a .gz is kept as it is. What arrives is unpacked, counted
and hashed on its way to a temporary file, and takes the file's name only if its checksum is right: a file under its own
name is always whole. A source that fails in whatever way hands over to the next; if all fail, one error tells what each
of them said.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import BinaryIO

import pooch
import requests

from biva.config import DatasetConfig, RawFile
from biva.data.checksums import first_use_record, is_intact, record_first_use, recorded
from biva.errors import UserError

log = logging.getLogger(__name__)

PAUSES = (1.0, 3.0)
"""Seconds before the second and the third attempt at an address."""

TIMEOUT = (10.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes of an answer."""

_CHUNK = 1 << 16
_GZIP_START = b"\x1f\x8b"
_PACKAGE = "package:"


class _Unusable(Exception):
    """A place does not give a file; the message is the reason, in one line."""


class _Interrupted(_Unusable):
    """The same place may give the file at another attempt."""


class _Unreachable(_Interrupted):
    """The source gives no file at all."""


def fetch(name: str, config: DatasetConfig, folder: Path, mirror: str | None) -> list[Path]:
    """Have all raw files of a dataset, decompressed and verified, in `folder`.

    Files that are there already are kept, so a dataset fetched on a machine with network needs none later.

    Args:
        name: the dataset's name, for messages.
        config: its files and sources.
        folder: where the files go.
        mirror: folder or http(s) address that is tried first, or None. It holds the files directly or in the
            subfolder `config.folder`.

    Returns:
        The files' paths, in the order of `config.files`.

    Raises:
        UserError: no source gives a file, or `folder` cannot be written. Verified files stay, nothing else does.
    """
    missing = [file for file in config.files if not is_intact(folder / file.name, file)]
    refusals: list[str] = []
    sources = [(mirror, config.folder)] if mirror else []
    sources += [(source, "") for source in config.sources]
    for source, subfolder in sources:
        for file in tuple(missing):
            try:
                _fetch_file(_places(source, subfolder, file.name), file, folder / file.name)
            except _Unreachable as reason:
                refusals.append(f"{source}: {reason}")
                break
            except _Unusable as reason:
                refusals.append(f"{source}: {file.name}: {reason}")
            else:
                missing.remove(file)
                log.info("%s: %s from %s", name, file.name, source)
    if missing:
        raise UserError(_explain(name, config, missing, refusals))
    return [folder / file.name for file in config.files]


def _explain(name: str, config: DatasetConfig, missing: list[RawFile], refusals: list[str]) -> str:
    tried = "\n".join(f"  - {refusal}" for refusal in refusals) or "  (none: `sources` is empty and no mirror is set)"
    by_hand = f"get the files from {config.homepage} and " if config.homepage else ""
    names = ", ".join(file.name for file in missing)
    return (
        f"Dataset {name!r}: no source gives {names}. Tried, in this order:\n{tried}\n"
        f"What to do: {by_hand}put the files, plain or as .gz, into a folder (or its subfolder {config.folder}/),\n"
        f"name the folder in the environment variable BIVA_DATA_MIRROR or as data_mirror in config/config.yaml, and\n"
        f"run `biva fetch {name}` again. Where compute nodes have no network, run it on a login node:\n"
        "what is fetched once is kept."
    )


# ------------------------------------------------------------------------------------------- places in a source


def _places(source: str, subfolder: str, name: str) -> list[str] | list[Traversable]:
    """Addresses or existing files at which a source may have the file `name`."""
    names = (name,) if name.endswith(".gz") else (name, f"{name}.gz")
    if source.startswith(("https://", "http://")):
        base = source.rstrip("/")
        bases = (f"{base}/{subfolder}", base) if subfolder else (base,)
        return [f"{base}/{candidate}" for base in bases for candidate in names]
    root = _package_folder(source) if source.startswith(_PACKAGE) else Path(os.path.expanduser(source))
    roots = (root / subfolder, root) if subfolder else (root,)
    files = [folder / candidate for folder in roots for candidate in names]
    try:
        if not root.is_dir():
            raise _Unreachable("there is no such folder")
        return [file for file in files if file.is_file()]
    except OSError as error:
        raise _Unreachable(f"the folder cannot be read ({error.strerror})") from None


def _package_folder(source: str) -> Traversable:
    package = source.removeprefix(_PACKAGE)
    try:
        return resources.files(package)
    except (ImportError, TypeError, ValueError) as error:
        raise _Unreachable(f"the package cannot be imported ({error})") from None


def _fetch_file(places: list[str] | list[Traversable], file: RawFile, target: Path) -> None:
    """Write `target` from the first place that has the declared content."""
    missing = "it is not there" if file.name.endswith(".gz") else f"neither it nor {file.name}.gz is there"
    reasons = [] if places else [missing]
    for place in places:
        try:
            if isinstance(place, str):
                _download(place, file, target)
            else:
                _copy(place, file, target)
            return
        except _Unreachable:
            raise
        except _Unusable as reason:
            reasons.append(str(reason))
    raise _Unusable("; ".join(dict.fromkeys(reasons)))


def _copy(place: Traversable, file: RawFile, target: Path) -> None:
    with _receiver(file, target) as receiver:
        try:
            with place.open("rb") as stream:
                shutil.copyfileobj(stream, receiver)
        except OSError as error:
            raise _Unusable(f"{place.name} cannot be read ({error.strerror})") from None


def _download(address: str, file: RawFile, target: Path) -> None:
    """Try an address again after a failure that may pass."""
    for pause in PAUSES:
        try:
            return _download_once(address, file, target)
        except _Interrupted as reason:
            log.info("%s: %s; trying again in %g s", address, reason, pause)
            time.sleep(pause)
    return _download_once(address, file, target)


def _download_once(address: str, file: RawFile, target: Path) -> None:
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=_CHUNK, timeout=TIMEOUT)
    with _receiver(file, target) as receiver:
        try:
            downloader(address, receiver, None)
        except requests.HTTPError as error:
            raise _refusal(error.response) from None  # type: ignore[arg-type]  # raise_for_status always gives it
        except requests.ConnectionError as error:
            raise _Unreachable(f"no connection ({_root_cause(error)})") from None
        except (requests.RequestException, OSError, ValueError) as error:
            raise _Interrupted(f"the download broke off ({_root_cause(error)})") from None


def _refusal(response: requests.Response) -> _Unusable:
    passing = response.status_code >= 500 or response.status_code in (408, 429)
    return (_Interrupted if passing else _Unusable)(f"HTTP {response.status_code} {response.reason}")


def _root_cause(error: BaseException) -> str:
    """What the network said, without the wrappings of the libraries above it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


# ------------------------------------------------------------------------------------------- from bytes to a file


@contextmanager
def _receiver(file: RawFile, target: Path) -> Iterator[_Receiver]:
    """Collect bytes in a temporary file that becomes `target` at the end, if they are the declared content."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with _explained_disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                receiver = _Receiver(stream, file, target)
                yield receiver
                receiver.finish()
            os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def _explained_disk_errors(target: Path) -> Iterator[None]:
    """Failing to write is nobody's fault but this disk's: no other source would help."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "Free some space" if full else "Mend the folder or its permissions"
        raise UserError(
            f"Cannot write {target}: {error.strerror}. Nothing half-written is left. {advice} and run the same "
            "command again: what was fetched before is kept."
        ) from error


class _Receiver:
    """Unpacks, counts, hashes and stores bytes as they arrive; the writable file that downloaders want."""

    def __init__(self, stream: BinaryIO, file: RawFile, target: Path) -> None:
        self._stream = stream
        self._file = file
        self._target = target
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._arrived = 0
        self._stored = 0
        self._start = b""
        self._unread = b""
        self._gzipped: bool | None = False if file.name.endswith(".gz") else None
        self._member: zlib._Decompress | None = None

    def write(self, chunk: bytes) -> None:
        """Take the next bytes, plain or gzipped as the first two tell (a server may undo the gzip of a .gz)."""
        self._arrived += len(chunk)
        if self._arrived > 2 * self._file.bytes + 1024:
            raise _Unusable(f"gives more than the declared {self._file.bytes:,} bytes")
        self._unread += chunk
        if self._gzipped is None and len(self._unread) >= len(_GZIP_START):
            self._gzipped = self._unread.startswith(_GZIP_START)
        if self._gzipped is not None:
            self._unpack() if self._gzipped else self._store(self._unread)
            self._unread = b""

    def flush(self) -> None:
        """Downloaders flush after every chunk; `finish` does it once."""

    def finish(self) -> None:
        """Have the content on the disk and verified."""
        self._store(self._unread)
        if self._member is not None:
            raise _Interrupted("the gzip data breaks off")
        first_use = self._file.trust == "first_use"
        if self._stored < self._file.bytes and not first_use:
            raise _Interrupted(f"gives {self._stored:,} bytes instead of {self._file.bytes:,}")
        self._check_first_use() if first_use else self._check_published()
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _matches(self) -> bool:
        """Whether the content has the published digest."""
        if self._file.sha256:
            return self._sha256.hexdigest() == self._file.sha256
        return self._md5.hexdigest() == self._file.md5

    def _got(self) -> str:
        return f"SHA-256 {self._sha256.hexdigest()[:12]}..., MD5 {self._md5.hexdigest()[:12]}..."

    def _check_published(self) -> None:
        if not self._matches():
            raise _Unusable(f"wrong content: {self._got()} instead of {self._file.published}")

    def _check_first_use(self) -> None:
        """Compare with what came at the first use, or remember what came now, and say so."""
        if self._start.lstrip().lower().startswith((b"<!doctype", b"<html")) or not self._stored:
            raise _Unusable("gives a web page" if self._stored else "gives nothing")
        got, record = self._sha256.hexdigest(), first_use_record(self._target.parent)
        known = recorded(self._target)
        if known is None:
            record_first_use(self._target, got, self._stored)
            log.info(
                "%s: trusted at first use: %s bytes, SHA-256 %s, which is %sthe published content (%s); recorded in %s",
                self._file.name,
                f"{self._stored:,}",
                got,
                "" if self._matches() else "not ",
                self._file.published,
                record,
            )
        elif got != known:
            raise _Unusable(
                f"wrong content: {self._got()} instead of SHA-256 {known[:12]}... as at its first use ({record}; "
                "delete that file to trust the new content)"
            )

    def _unpack(self) -> None:
        """Store what the unread bytes unpack to, one gzip member after the other, never beyond the declared size."""
        unread = self._unread
        while unread:
            self._member = self._member or zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            try:
                content = self._member.decompress(unread, self._file.bytes - self._stored + 1)
            except zlib.error:
                raise _Unusable("the gzip data is damaged") from None
            self._store(content)
            unread = self._member.unused_data
            if self._member.eof:
                self._member = None

    def _store(self, content: bytes) -> None:
        self._stored += len(content)
        if self._stored > self._file.bytes:
            raise _Unusable(f"gives more than the declared {self._file.bytes:,} bytes")
        self._start = self._start or content[:64]
        self._sha256.update(content)
        self._md5.update(content)
        with _explained_disk_errors(self._target):
            self._stream.write(content)
