"""Whether a raw file is the one it should be.

Most publishers, or those who checked their files, have published a SHA-256 or MD5; then the file must have it. Where a
file is `trust: first_use`, the content that arrives first is recorded beside the raw folder, and any other content is
refused from then on. The record is not inside the raw folder: Snakemake empties that before it fetches again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from biva.config import RawFile
from biva.errors import UserError
from biva.records import read_json, write_json


def expected_digest(path: Path, file: RawFile) -> tuple[str, str | None]:
    """Algorithm and digest that `path` must have; no digest where any content will be recorded at its first use."""
    if file.trust == "first_use":
        return "sha256", recorded(path)
    return ("sha256", file.sha256) if file.sha256 else ("md5", file.md5)


def is_intact(path: Path, file: RawFile) -> bool:
    """Whether `path` holds exactly the content that `file` declares, or that was recorded at its first use."""
    if not path.is_file() or path.stat().st_size > file.bytes:
        return False
    algorithm, digest = expected_digest(path, file)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest() == digest


def first_use_record(raw: Path) -> Path:
    """Where the digests of the files in the folder `raw` are recorded that nothing is compared with at first use."""
    return raw.absolute().with_name(f"{raw.absolute().name}.first-use.json")


def recorded(path: Path) -> str | None:
    """SHA-256 that the raw file `path` had when it was first fetched, or None."""
    record = first_use_record(path.parent)
    known = read_json(record).get(path.name, {}) if record.is_file() else {}
    if not isinstance(known, dict):
        raise UserError(
            f"{record}, {path.name}: expected an object with its sha256, got {known!r}. Restore it from a backup, "
            "or delete it to trust the next content that is fetched."
        )
    return known.get("sha256")


def record_first_use(path: Path, sha256: str, size: int) -> None:
    """Remember the content of the raw file `path`."""
    record = first_use_record(path.parent)
    known = read_json(record) if record.is_file() else {}
    write_json(record, known | {path.name: {"sha256": sha256, "bytes": size}})


def expectation(file: RawFile) -> str:
    """What a raw file must be, as the end of a sentence."""
    if file.trust == "first_use":
        return "is not the one that `biva fetch` recorded at its first use"
    return f"does not have the {file.published} that config/datasets.yaml declares"
