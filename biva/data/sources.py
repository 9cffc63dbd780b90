"""Where the bytes of a dataset come from.

Sources are tried in order: the mirror (a folder or an address), then those of `config/datasets.yaml`. Any of them may
offer a file plain or gzipped; an official file that is itself a .gz is kept as it is. What arrives is unpacked, counted
and hashed on its way to a temporary file, and takes the file's name only if its checksum is right: a file under its own
name is always whole. A source that fails in whatever way hands over to the next; if all fail, one error says what each
of them gave.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, BinaryIO, cast

import requests
from requests.adapters import HTTPAdapter
from rich.progress import DownloadColumn, TransferSpeedColumn
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from biva.config import DatasetConfig, RawFile
from biva.data.checksums import expected_digest, first_use_record, is_intact, record_first_use
from biva.errors import UserError, without_password
from biva.progress import progress_bar
from biva.records import writing_atomically

log = logging.getLogger(__name__)

RETRIES = 2
"""Attempts at an address after the first has failed in a way that may pass."""

BACKOFF = 1.0
"""Seconds before the second attempt after the first; twice as many before the third."""

TIMEOUT = (10.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes of an answer."""

_CHUNK = 1 << 16
_PACKAGE = "package:"
_PACKED = (".gz", ".tgz")
"""Ends of the names of official files that are kept as they are."""

Place = str | Traversable
"""An address, or a file in a folder or package."""


class _Unusable(Exception):
    """A place does not give a file; the message is the reason, in one line."""


class _BrokenOff(_Unusable):
    """The same place may give the file at another attempt."""


class _Unreachable(Exception):
    """The source gives no file at all."""


def fetch(name: str, config: DatasetConfig, folder: Path, mirror: str | None) -> list[Path]:
    """Have all raw files of a dataset, decompressed and verified, in `folder`; the paths, in the order of its entry.

    Files that are there already are kept, so a dataset fetched on a machine with network needs none later. `mirror`, a
    folder or http(s) address, is tried first: it holds the files directly or in the subfolder `config.folder`.

    Raises:
        UserError: no source gives a file. Verified files stay, nothing else does.
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
                refusals.append(f"{without_password(source)}: {reason}")
                break
            except _Unusable as reason:
                refusals.append(f"{without_password(source)}: {file.name}: {reason}")
            else:
                missing.remove(file)
                log.info("%s: %s from %s", name, file.name, without_password(source))
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


def _places(source: str, subfolder: str, name: str) -> list[Place]:
    """Addresses or existing files at which a source may have the file `name`."""
    names = (name,) if name.endswith(_PACKED) else (name, f"{name}.gz")
    if source.startswith(("https://", "http://")):
        base = source.rstrip("/")
        bases = (f"{base}/{subfolder}", base) if subfolder else (base,)
        return [f"{base}/{candidate}" for base in bases for candidate in names]
    try:
        root: Any = Path(source.removeprefix("file://")).expanduser()
        if source.startswith(_PACKAGE):
            root = resources.files(source.removeprefix(_PACKAGE))
        if not root.is_dir():
            raise _Unreachable("there is no such folder")
        roots = (root / subfolder, root) if subfolder else (root,)
        return [file for folder in roots for candidate in names if (file := folder / candidate).is_file()]
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no such home folder
        raise _Unreachable(f"the folder cannot be read ({_root_cause(error)})") from None
    except (ImportError, TypeError, ValueError) as error:
        raise _Unreachable(f"the package cannot be imported ({error})") from None


def _fetch_file(places: list[Place], file: RawFile, target: Path) -> None:
    """Write `target` from the first place that has the declared content."""
    missing = "it is not there" if file.name.endswith(_PACKED) else f"neither it nor {file.name}.gz is there"
    reasons = [] if places else [missing]
    for place in places:
        for attempt in range(RETRIES + 1):
            try:
                return _write(place, file, target)
            except _BrokenOff as reason:
                log.info("%s: %s (attempt %d of %d)", without_password(str(place)), reason, attempt + 1, RETRIES + 1)
                if attempt == RETRIES:
                    reasons.append(str(reason))
            except _Unusable as reason:
                reasons.append(str(reason))
                break
    raise _Unusable("; ".join(dict.fromkeys(reasons)))


def _write(place: Place, file: RawFile, target: Path) -> None:
    """Write `target` with the content of a place, if that is the declared one."""
    digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    size, start = 0, b""
    bar = progress_bar(DownloadColumn(), TransferSpeedColumn(), shown=isinstance(place, str))
    task = bar.add_task(file.name, total=file.bytes)
    with writing_atomically(target) as output, bar:
        for chunk in _content(place, file):
            bar.advance(task, len(chunk))
            size, start = size + len(chunk), start or chunk[:64]
            if size > file.bytes:
                raise _Unusable(f"gives more than the declared {file.bytes:,} bytes")
            for digest in digests.values():
                digest.update(chunk)
            output.write(chunk)
        got = {algorithm: digest.hexdigest() for algorithm, digest in digests.items()}
        algorithm, expected = expected_digest(target, file)
        if expected is None:
            _trust(target, file, got, size, start)
        elif got[algorithm] != expected:
            found = f"wrong content: {size:,} bytes of {algorithm} {got[algorithm]} instead of"
            if file.trust == "published":
                raise _Unusable(f"{found} {file.bytes:,} bytes of {expected}")
            record = first_use_record(target.parent)
            raise _Unusable(
                f"{found} {expected} as at its first use ({record}; delete that file to trust the new content)"
            )


def _trust(target: Path, file: RawFile, got: dict[str, str], size: int, start: bytes) -> None:
    """Record the content of a file at its first use, and log whether it is the published one."""
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")) or not size:
        raise _Unusable("gives a web page" if size else "gives nothing")
    record_first_use(target, got["sha256"], size)
    log.info(
        "%s: trusted at first use: %s bytes, SHA-256 %s, which is %sthe published content (%s); recorded in %s",
        file.name,
        f"{size:,}",
        got["sha256"],
        "" if {file.sha256, file.md5} & set(got.values()) else "not ",
        file.published,
        first_use_record(target.parent),
    )


def _content(place: Place, file: RawFile) -> Iterator[bytes]:
    """What a place gives, in pieces, and unpacked if it is gzipped (a server may have undone the gzip of a .gz)."""
    try:
        with ExitStack() as stack:
            raw = _opened(place, stack) if isinstance(place, str) else stack.enter_context(place.open("rb"))
            stream = io.BufferedReader(cast(io.RawIOBase, raw))
            packed = stream.peek(2).startswith(b"\x1f\x8b") and not file.name.endswith(_PACKED)
            content = gzip.GzipFile(fileobj=stream) if packed else stream
            while chunk := content.read(_CHUNK):
                yield chunk
    except requests.ConnectionError as error:
        raise _Unreachable(f"no connection ({_root_cause(error)})") from None
    except (requests.RequestException, HTTPError) as error:
        raise _BrokenOff(f"the download broke off ({_root_cause(error)})") from None
    except EOFError:
        raise _Unusable("the gzip data breaks off") from None
    except (zlib.error, gzip.BadGzipFile):
        raise _Unusable("the gzip data is damaged") from None
    except (OSError, ValueError) as error:
        raise _Unusable(f"it cannot be read ({_root_cause(error)})") from None


def _opened(address: str, stack: ExitStack) -> BinaryIO:
    """The answer of an address, which is asked again after failures that may pass."""
    retry = Retry(
        total=RETRIES,
        backoff_factor=BACKOFF / 2,
        status_forcelist=(408, 429, 500, 502, 503, 504),
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    session = stack.enter_context(requests.Session())
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    response = stack.enter_context(session.get(address, stream=True, timeout=TIMEOUT))
    if not response.ok:
        raise _Unusable(f"HTTP {response.status_code} {response.reason}")
    response.raw.decode_content = True
    response.raw.auto_close = False  # a BufferedReader asks it once more after its end
    raw: BinaryIO = response.raw
    return raw


def _root_cause(error: BaseException) -> str:
    """What the network said, without the wrappings of the libraries above it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
