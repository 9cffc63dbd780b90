"""Fetching: every way in which a source can fail, from folders and from a server of the test's own."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from biva.config import DatasetConfig
from biva.data import sources
from biva.data.sources import fetch
from biva.errors import UserError, explained
from tests.loopback import Answer, Server, body, hang_up, status
from tests.services import free_port
from tests.unit.test_readers import config as entry

CONTENT = {"images": bytes(range(256)) * 40, "labels": b"0123456789" * 7}
PACKED = gzip.compress(CONTENT["images"])


def config(*addresses: str, names: tuple[str, ...] = ("images",)) -> DatasetConfig:
    files, splits = {name: CONTENT[name] for name in names}, {"train": 1, "valid": 1, "test": 1}
    return entry("idx", files, (1, 1, 1), splits, sources=addresses)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits before another attempt, or asks a proxy."""
    monkeypatch.setattr(sources, "BACKOFF", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def closed_address() -> str:
    """An address at which nobody listens."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def good_mirror(tmp_path: Path) -> Path:
    mirror = tmp_path / "good_mirror"
    mirror.mkdir()
    for name, content in CONTENT.items():
        (mirror / name).write_bytes(content)
    return mirror


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_fetched(config: DatasetConfig, folder: Path, mirror: str | Path | None = None) -> None:
    paths = fetch("tiny", config, folder, str(mirror) if mirror else None)
    assert paths == [folder / file.name for file in config.files]
    assert contents(folder) == {file.name: CONTENT[file.name] for file in config.files}


def refusal(config: DatasetConfig, folder: Path, mirror: str | Path | None = None) -> str:
    """The message of a fetch that must fail without leaving anything."""
    before = contents(folder)
    with pytest.raises((UserError, OSError)) as error:
        fetch("tiny", config, folder, str(mirror) if mirror else None)
    assert contents(folder) == before
    assert isinstance(error.value, UserError | OSError)
    return explained(error.value)


# ----------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("subfolder", ["", "tiny"])
@pytest.mark.parametrize("packed", [False, True])
def test_mirror_folder(tmp_path: Path, subfolder: str, packed: bool) -> None:
    mirror = tmp_path / "mirror" / subfolder
    mirror.mkdir(parents=True)
    for name, content in CONTENT.items():
        (mirror / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    assert_fetched(config(names=("images", "labels")), tmp_path / "raw", tmp_path / "mirror")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images", CONTENT["images"][:-1], "images: wrong content: 10,239 bytes of sha256"),
        ("images", CONTENT["images"] + b"\0", "images: gives more than the declared 10,240 bytes"),
        ("images", b"\1" + CONTENT["images"][1:], "images: wrong content: 10,240 bytes of sha256"),
        ("images", b"", "images: wrong content: 0 bytes of sha256"),
        ("images", b"\x1f", "images: wrong content: 1 bytes of sha256"),
        ("images.gz", PACKED[:-9], "images: the gzip data breaks off"),
        ("images.gz", PACKED[: len(PACKED) // 2], "images: the gzip data breaks off"),
        ("images.gz", PACKED[:-8] + bytes(8), "images: the gzip data is damaged"),
        ("images.gz", PACKED + b"garbage", "images: the gzip data is damaged"),
        ("images.gz", gzip.compress(bytes(50_000_000)), "images: gives more than the declared 10,240 bytes"),
        ("elsewhere", CONTENT["images"], "images: neither it nor images.gz is there"),
    ],
)
def test_bad_mirror_folder(tmp_path: Path, good_mirror: Path, name: str, content: bytes, message: str) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / name).write_bytes(content)
    assert f"  - {mirror}: {message}" in refusal(config(), tmp_path / "raw", mirror)
    assert_fetched(config(str(good_mirror)), tmp_path / "raw", mirror)


def test_gzip_bomb_never_unfolds_in_memory(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(20_000_000))
    assert len(bomb) < 2 * len(CONTENT["images"])  # it looks harmless
    (tmp_path / "images.gz").write_bytes(bomb)
    tracemalloc.start()
    refusal(config(), tmp_path / "raw", tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_gzip_of_several_members(tmp_path: Path) -> None:
    half = len(CONTENT["images"]) // 2
    packed = gzip.compress(CONTENT["images"][:half]) + gzip.compress(CONTENT["images"][half:])
    (tmp_path / "images.gz").write_bytes(packed)
    assert_fetched(config(), tmp_path / "raw", tmp_path)


def test_an_address_of_a_folder_and_an_official_archive(tmp_path: Path) -> None:
    """A .tgz is kept as it is, like a .tar.gz: the digest is that of the packed file."""
    (tmp_path / "images.tgz").write_bytes(PACKED)
    of_archive = entry("idx", {"images.tgz": PACKED}, (1, 1, 1), {"train": 1, "valid": 1, "test": 1}, sources=())
    fetch("tiny", of_archive, tmp_path / "raw", tmp_path.as_uri())
    assert contents(tmp_path / "raw") == {"images.tgz": PACKED}


def test_a_home_that_nobody_has_is_one_source_that_fails(tmp_path: Path, good_mirror: Path) -> None:
    assert "  - ~nosuchuser/data: the folder cannot be read" in refusal(config(), tmp_path / "raw", "~nosuchuser/data")
    assert_fetched(config(str(good_mirror)), tmp_path / "raw", "~nosuchuser/data")


def test_no_source_at_all(tmp_path: Path) -> None:
    assert "`sources` is empty and no mirror is set" in refusal(config(), tmp_path / "raw")


def test_package(tmp_path: Path, good_mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "path" / "package_with_images"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "images.gz").write_bytes(PACKED)
    monkeypatch.syspath_prepend(tmp_path / "path")
    assert_fetched(config("package:package_with_images"), tmp_path / "raw")
    sys.modules.pop("package_with_images")


# ----------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize(
    "answers",
    [
        {"/data/images": [body(CONTENT["images"])]},
        {"/data/images.gz": [body(PACKED)]},
        {"/data/images": [body(PACKED)]},
        {"/data/images.gz": [body(PACKED, Content_Encoding="gzip")]},
        {"/data/images": [status(403)], "/data/images.gz": [body(PACKED)]},
        {"/data/images": [body(b"<html>moved</html>")], "/data/images.gz": [body(PACKED)]},
        {"/data/images": [status(500), body(CONTENT["images"])]},
        {"/data/images": [status(503), status(429), body(CONTENT["images"])]},
        {"/data/images": [hang_up, body(CONTENT["images"])]},
        {"/data/images": [body(CONTENT["images"][:5000], Content_Length="10240"), body(CONTENT["images"])]},
    ],
    ids=[
        "plain",
        "gzipped",
        "gzipped under the plain name",
        "gzip undone on the way",
        "403 then gzipped",
        "page then gzipped",
        "500 then 200",
        "503, 429, 200",
        "hang up then 200",
        "broken off then 200",
    ],
)
def test_address_that_gives_the_file(server: Server, tmp_path: Path, answers: dict[str, list[Answer]]) -> None:
    server.answers = answers
    assert_fetched(config(f"{server.address}/data/"), tmp_path / "raw")


@pytest.mark.parametrize(
    ("answers", "message", "requests"),
    [
        ({}, "images: HTTP 404 Not Found", 2),
        ({"/images": [status(500)]}, "images: HTTP 500 Internal Server Error; HTTP 404 Not Found", 4),
        ({"/images": [body(b"\1" + CONTENT["images"][1:])]}, "images: wrong content: 10,240 bytes of sha256", 2),
        ({"/images.gz": [body(PACKED[:-100])]}, "images: HTTP 404 Not Found; the gzip data breaks off", 2),
        ({"/images.gz": [body(gzip.compress(bytes(50_000_000)))]}, "gives more than the declared 10,240 bytes", 2),
        ({"/images": [body(bytes(50_000_000))]}, "gives more than the declared 10,240 bytes", 2),
        ({"/images": [body(CONTENT["images"][:99], Content_Length="10240")]}, "images: the download broke off", 4),
        ({"/images": [hang_up]}, "Remote end closed connection without response", 3),
    ],
    ids=["404", "500", "wrong bytes", "truncated gzip", "gzip bomb", "too much", "broken off", "hang up"],
)
def test_bad_address(
    server: Server, tmp_path: Path, good_mirror: Path, answers: dict[str, list[Answer]], message: str, requests: int
) -> None:
    server.answers = answers
    refused = refusal(config(server.address), tmp_path / "raw")
    assert f"  - {server.address}: " in refused and message in refused
    assert len(server.requests) == requests
    assert_fetched(config(server.address, str(good_mirror)), tmp_path / "raw")


def test_the_password_of_an_address_is_not_shown(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = server.address.replace("//", "//user:secret@")
    caplog.set_level("INFO")
    assert "secret" not in refusal(config(address, address + "/data"), tmp_path / "raw")
    server.answers = {"/images": [body(CONTENT["images"])]}
    assert_fetched(config(address), tmp_path / "raw")
    assert server.address in caplog.text and "secret" not in caplog.text


def test_no_network(closed_address: str, tmp_path: Path, good_mirror: Path) -> None:
    message = refusal(config(closed_address, names=("images", "labels")), tmp_path / "raw")
    assert message.count(f"  - {closed_address}: no connection (Connection refused)") == 1
    assert_fetched(config(closed_address, str(good_mirror)), tmp_path / "raw")


def test_mirror_may_be_an_address(server: Server, closed_address: str, tmp_path: Path) -> None:
    server.answers = {"/mirror/tiny/images.gz": [body(PACKED)]}
    assert_fetched(config(closed_address), tmp_path / "raw", f"{server.address}/mirror")


def test_every_source_is_listed_in_order(server: Server, closed_address: str, tmp_path: Path) -> None:
    message = refusal(config(server.address, closed_address), tmp_path / "raw", tmp_path / "nowhere")
    places = [message.index(f"  - {source}: ") for source in (tmp_path / "nowhere", server.address, closed_address)]
    assert places == sorted(places)
    assert message.startswith("Dataset 'tiny': no source gives images.")
    assert f"  - {tmp_path / 'nowhere'}: there is no such folder" in message
    assert "BIVA_DATA_MIRROR" in message and "data_mirror" in message and "`biva fetch tiny`" in message


# ------------------------------------------------------------------------- other digests, and trust at first use


def with_file(config: DatasetConfig, **changes: Any) -> DatasetConfig:
    """The configuration with another declaration of its only file."""
    file = config.files[0].model_dump() | changes
    return DatasetConfig.model_validate(config.model_dump() | {"files": [file]})


def first_use(**changes: Any) -> DatasetConfig:
    return with_file(config(), trust="first_use", bytes=20_000, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sha256": None}, "give the published sha256 or md5"),
        ({"md5": "0" * 32}, "sha256 or md5, not both"),
        ({"md5": "0" * 31, "sha256": None}, "md5"),
        ({"trust": "never"}, "trust"),
    ],
)
def test_wrong_declarations_of_a_file(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        with_file(config(), **changes)


def test_md5_where_no_sha256_is_published(tmp_path: Path, good_mirror: Path) -> None:
    md5 = hashlib.md5(CONTENT["images"]).hexdigest()
    assert_fetched(with_file(config(), sha256=None, md5=md5), tmp_path / "raw", good_mirror)
    assert_fetched(with_file(config(), sha256=None, md5=md5), tmp_path / "raw", tmp_path / "nowhere")
    message = refusal(with_file(config(), sha256=None, md5="0" * 32), tmp_path / "other", good_mirror)
    assert "wrong content: 10,240 bytes of md5" in message and f"of {'0' * 32}" in message


def test_an_official_gzip_file_is_kept_as_it_is(server: Server, tmp_path: Path) -> None:
    """The checksum of a .tar.gz is that of the file itself."""
    archive = with_file(
        config(server.address), name="tiny.tar.gz", bytes=len(PACKED), sha256=hashlib.sha256(PACKED).hexdigest()
    )
    server.answers = {"/tiny.tar.gz": [body(PACKED)]}
    fetch("tiny", archive, tmp_path / "raw", None)
    assert contents(tmp_path / "raw") == {"tiny.tar.gz": PACKED}
    assert server.requests == ["/tiny.tar.gz"]


@pytest.mark.parametrize(
    ("changes", "said"), [({}, "which is the published"), ({"sha256": "0" * 64}, "which is not the published")]
)
def test_first_use_is_recorded_beside_the_folder_and_said(
    tmp_path: Path, good_mirror: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], said: str
) -> None:
    caplog.set_level("INFO", logger="biva")
    assert_fetched(first_use(**changes), tmp_path / "raw", good_mirror)
    sha256 = hashlib.sha256(CONTENT["images"]).hexdigest()
    record = json.loads((tmp_path / "raw.first-use.json").read_text())
    assert record == {"images": {"bytes": 10_240, "sha256": sha256}}
    assert said in caplog.text and sha256 in caplog.text and "10,240 bytes" in caplog.text
    assert_fetched(first_use(**changes), tmp_path / "raw", tmp_path / "nowhere")  # it is trusted now


def test_nothing_else_is_trusted_after_the_first_use(tmp_path: Path, good_mirror: Path) -> None:
    assert_fetched(first_use(), tmp_path / "raw", good_mirror)
    (tmp_path / "raw" / "images").write_bytes(b"changed")
    (good_mirror / "images").write_bytes(b"replaced by the publisher")
    message = refusal(first_use(), tmp_path / "raw", good_mirror)
    assert "as at its first use" in message and "raw.first-use.json; delete that file to trust the new" in message
    (tmp_path / "raw.first-use.json").unlink()
    fetch("tiny", first_use(), tmp_path / "raw", str(good_mirror))
    assert contents(tmp_path / "raw") == {"images": b"replaced by the publisher"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"  <!DOCTYPE html><p>Sign in first", "gives a web page"),
        (b"<html>moved</html>", "gives a web page"),
        (b"", "gives nothing"),
        (bytes(20_001), "gives more than the declared 20,000 bytes"),
    ],
)
def test_what_is_never_trusted(tmp_path: Path, good_mirror: Path, content: bytes, message: str) -> None:
    (good_mirror / "images").write_bytes(content)
    assert message in refusal(first_use(sha256=None), tmp_path / "raw", good_mirror)
    assert not (tmp_path / "raw.first-use.json").exists()


def test_where_a_person_gets_the_files(tmp_path: Path) -> None:
    by_hand = DatasetConfig.model_validate(config().model_dump() | {"homepage": "https://example.org/tiny"})
    assert "get the files from https://example.org/tiny and put" in refusal(by_hand, tmp_path / "raw")


# ---------------------------------------------------------------------------------------- several files, the disk


def test_files_may_come_from_different_sources(server: Server, tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(CONTENT["labels"])
    server.answers = {"/images.gz": [body(PACKED)], "/labels": [body(b"wrong" * 14)]}
    assert_fetched(config(server.address, str(tmp_path), names=("images", "labels")), tmp_path / "raw")


def test_what_is_verified_is_kept_when_another_file_fails(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(CONTENT["images"])
    with pytest.raises(UserError, match="no source gives labels"):
        fetch("tiny", config(names=("images", "labels")), tmp_path / "raw", str(tmp_path))
    assert contents(tmp_path / "raw") == {"images": CONTENT["images"]}


def test_right_files_are_kept_without_asking_anyone(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "images").write_bytes(CONTENT["images"])
    assert_fetched(config(server.address), folder, tmp_path / "nowhere")
    assert server.requests == []


def test_wrong_file_is_replaced(good_mirror: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "images").write_bytes(bytes(len(CONTENT["images"])))
    assert_fetched(config(), folder, good_mirror)


class FullDisk(io.FileIO):
    """A file on a disk without space."""

    def write(self, content: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_stops_at_once(
    server: Server, good_mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = {"/images": [body(CONTENT["images"])]}
    original = Path.open

    def open_on_a_full_disk(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return FullDisk(path, mode) if "w" in mode else original(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_on_a_full_disk)
    for mirror in (None, good_mirror):
        message = refusal(config(server.address, str(good_mirror)), tmp_path / "raw", mirror)
        assert message.startswith(f"{tmp_path / 'raw' / 'images'}: No space left on device. Free some space")
    assert server.requests == ["/images"]


def test_folder_that_cannot_be_made(good_mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "/file/raw: Not a directory. " in refusal(config(), tmp_path / "file" / "raw", good_mirror)


def test_interrupt_leaves_nothing(good_mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "expected_digest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch("tiny", config(), tmp_path / "raw", str(good_mirror))
    assert contents(tmp_path / "raw") == {}
