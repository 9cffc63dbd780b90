"""Readers of archives: small files in the official formats, written here, with hand-known pixels; then spoilt ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from numpy.typing import NDArray
from PIL import Image

from biva.config import DatasetConfig
from biva.data import pictures, raw
from biva.data.archives import READERS, mat_variables
from biva.data.containers import Zip, tar_members, tar_pictures
from biva.data.datasets import load, prepare
from biva.data.pictures import area_average, decode
from biva.data.raw import parts
from biva.data.sources import fetch
from biva.errors import UserError
from tests.hostile import bounded, spoilt

Files = dict[str, bytes]
Read = Callable[[DatasetConfig, Files], dict[str, NDArray[Any]]]

RANDOM = np.random.default_rng(3)


def config(reader: str, files: Files, shape: tuple[int, int, int], splits: Mapping[Any, int]) -> DatasetConfig:
    entry = {
        "title": "tiny",
        "reader": reader,
        "shape": shape,
        "levels": 256,
        "binarisation": "none",
        "splits": splits,
        "files": [
            {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in files.items()
        ],
        "folder": "tiny",
        "sources": [],
        "licence": "none",
        "citation": "none",
    }
    return DatasetConfig.model_validate(entry)


@pytest.fixture(scope="session")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Write raw files, read them with the reader of a configuration, and give the whole arrays."""
    folder = tmp_path_factory.mktemp("raw")

    def read(config: DatasetConfig, files: Files) -> dict[str, NDArray[Any]]:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        with bounded():
            arrays = READERS[config.reader](folder, config)
            whole = {key: np.concatenate(list(parts(array))) for key, array in arrays.items()}
        for key, array in arrays.items():
            assert whole[key].shape == array.shape
            assert whole[key].dtype == array.dtype == (np.uint8 if key.endswith("images") else np.int64)
        return whole

    return read


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Address and folder of a local server."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Keep the test's output clean."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/", folder
    http.shutdown()
    http.server_close()


def refusal(read: Read, config: DatasetConfig, files: Files) -> str:
    with pytest.raises(UserError) as error:
        read(config, files)
    return str(error.value)


def tar_of(members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def picture(pixels: NDArray[Any], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


# ----------------------------------------------------------------------------------------------------- CIFAR-10

CIFAR_SHAPE, CIFAR_SPLITS = (3, 2, 2), {"train": 8, "valid": 2, "test": 2}
CIFAR_RECORDS = [bytes([label, *range(12 * label, 12 * label + 12)]) for label in range(10)]
CIFAR_MEMBERS = {
    "cifar-10-batches-bin/batches.meta.txt": b"airplane\n",
    **{
        f"cifar-10-batches-bin/data_batch_{i + 1}.bin": CIFAR_RECORDS[2 * i] + CIFAR_RECORDS[2 * i + 1]
        for i in range(5)
    },
    "cifar-10-batches-bin/test_batch.bin": CIFAR_RECORDS[7] + CIFAR_RECORDS[3],
}
CIFAR = {"cifar.tar.gz": tar_of(CIFAR_MEMBERS, "w:gz")}
CIFAR_CONFIG = config("cifar", CIFAR, CIFAR_SHAPE, CIFAR_SPLITS)


def cifar_with(**batches: bytes | None) -> Files:
    changed = CIFAR_MEMBERS | {f"cifar-10-batches-bin/{name}.bin": content for name, content in batches.items()}
    return {"cifar.tar.gz": tar_of({name: content for name, content in changed.items() if content is not None}, "w:gz")}


def test_cifar_by_hand(read: Read) -> None:
    arrays = read(CIFAR_CONFIG, CIFAR)
    assert arrays["train/labels"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert arrays["valid/labels"].tolist() == [8, 9]
    assert arrays["test/labels"].tolist() == [7, 3]
    assert arrays["train/images"][1].tolist() == [[[12, 13], [14, 15]], [[16, 17], [18, 19]], [[20, 21], [22, 23]]]
    assert arrays["valid/images"][:, 0, 0, 0].tolist() == [96, 108]
    assert arrays["test/images"][1].flatten().tolist() == list(range(36, 48))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cifar.tar.gz": b""}, "cifar.tar.gz is damaged"),
        ({"cifar.tar.gz": gzip.compress(b"")}, "cifar.tar.gz"),
        ({"cifar.tar.gz": b"no archive"}, "cifar.tar.gz is damaged"),
        ({"cifar.tar.gz": CIFAR["cifar.tar.gz"][:-30]}, "cifar.tar.gz is damaged"),
        ({"cifar.tar.gz": CIFAR["cifar.tar.gz"][:200]}, "cifar.tar.gz is damaged"),
        ({"cifar.tar.gz": tar_of(CIFAR_MEMBERS)}, "cifar.tar.gz is damaged"),
        ({"cifar.tar.gz": gzip.compress(bytes(50_000_000))}, "cifar.tar.gz has no regular file"),
        (cifar_with(data_batch_3=None), "has no regular file cifar-10-batches-bin/data_batch_3.bin"),
        (cifar_with(data_batch_3=CIFAR_RECORDS[0]), "has 9 train images; expected 10"),
        (cifar_with(test_batch=b""), "has 0 test images; expected 2"),
        (cifar_with(data_batch_3=CIFAR_RECORDS[0][:-1]), "12 bytes are no whole records of 13"),
        (cifar_with(test_batch=bytes([10]) + bytes(12) + CIFAR_RECORDS[0]), "test label 10; expected 0 to 9"),
        (cifar_with(test_batch=bytes(50_000_000)), "unpacks to more than expected"),
        (cifar_with(bomb=bytes(50_000_000)), "unpacks to more than expected"),
    ],
)
def test_cifar_malformed(read: Read, files: Files, message: str) -> None:
    assert message in refusal(read, CIFAR_CONFIG, files)


def test_tar_headers_are_bounded_too(tmp_path: Path) -> None:
    """A header that says that 50 MB of further header follow."""
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a")
        info.pax_headers = {"comment": "x" * 50_000_000}
        tar.addfile(info)
    with pytest.raises(UserError, match="unpacks to more than expected"):
        tar_members(tmp_path / "bomb.tar.gz", ("a",), 100)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_what_is_no_regular_file_is_never_followed(tmp_path: Path, kind: bytes) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        info = tarfile.TarInfo("a")
        info.type, info.linkname = kind, str(tmp_path / "secret")
        tar.addfile(info)
    with pytest.raises(UserError, match="has no regular file a"):
        tar_members(tmp_path / "links.tar", ("a",), 100)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "twice.tar", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a"))
    with pytest.raises(UserError, match="has a twice"):
        tar_members(tmp_path / "twice.tar", ("a",), 100)


@given(content=spoilt(CIFAR["cifar.tar.gz"]))
def test_cifar_mutations(read: Read, content: bytes) -> None:
    try:
        arrays = read(CIFAR_CONFIG, {"cifar.tar.gz": content})
    except UserError as error:
        assert "cifar.tar.gz" in str(error)
        return
    assert arrays["train/images"].shape == (8, *CIFAR_SHAPE)


@given(content=spoilt(tar_of(CIFAR_MEMBERS)))
def test_cifar_mutations_under_an_intact_gzip(read: Read, content: bytes) -> None:
    try:
        arrays = read(CIFAR_CONFIG, {"cifar.tar.gz": gzip.compress(content, 1)})
    except UserError as error:
        assert "cifar.tar.gz" in str(error)
        return
    assert arrays["test/images"].shape == (2, *CIFAR_SHAPE)


def test_cifar_from_a_server_to_the_loaded_dataset(server: tuple[str, Path], tmp_path: Path) -> None:
    address, served = server
    (served / "cifar.tar.gz").write_bytes(CIFAR["cifar.tar.gz"])
    tiny = CIFAR_CONFIG.model_copy(update={"sources": (address,)})
    fetch("tiny", tiny, tmp_path / "tiny" / "raw", None)
    prepare("tiny", tiny, tmp_path / "tiny" / "raw", tmp_path / "tiny")
    dataset = load(tmp_path / "tiny")
    assert dataset.split("train+valid").flatten().tolist() == list(range(120))
    assert dataset.labels["valid"].tolist() == [8, 9]


# ----------------------------------------------------------------------------------------------------- .mat files


def mat(**variables: Any) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=True)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2), (5, 7), (3, 2, 4, 5)])
def test_mat_variables_are_those_that_scipy_reads(tmp_path: Path, kind: Any, packed: bool, shape: tuple[int]) -> None:
    """Values of up to four bytes are stored in another way than longer ones."""
    values = RANDOM.integers(0, 256, shape).astype(kind)
    path = tmp_path / "a.mat"
    others = {"cells": np.array([["a", values]], dtype=object), "text": "x", "flags": values > 99, "y": values.T}
    scipy.io.savemat(path, others | {"x": values}, do_compression=packed)
    (file,) = config("svhn_mat", {"a.mat": path.read_bytes()}, (3, 2, 2), {"test": 1}).files
    found = mat_variables(path, file, {"x": shape})
    assert found.keys() == {"x"}
    assert found["x"].dtype == scipy.io.loadmat(path)["x"].dtype
    assert np.array_equal(found["x"], scipy.io.loadmat(path)["x"]) and np.array_equal(found["x"], values)


OMNIGLOT_TRAIN = [[[i / 255, 1.0], [0.0, 0.5], [0.25, 0.75]] for i in range(6)]  # 6 upright images of 3 x 2
OMNIGLOT_TEST = [[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]


def columns(images: list[Any]) -> NDArray[np.float64]:
    """Pixels column by column, an image a column, as MATLAB has them."""
    return np.array([[row[x] for x in range(2) for row in image] for image in images]).T


OMNIGLOT = {"chardata.mat": mat(data=columns(OMNIGLOT_TRAIN), testdata=columns(OMNIGLOT_TEST), target=np.eye(3))}
OMNIGLOT_CONFIG = config("omniglot_mat", OMNIGLOT, (1, 3, 2), {"train": 4, "valid": 2, "test": 1})

SVHN_X = RANDOM.integers(0, 256, (2, 2, 3, 4), dtype=np.uint8)
SVHN = {"test_32x32.mat": mat(X=SVHN_X, y=np.array([[1], [10], [9], [2]], dtype=np.uint8))}
SVHN_CONFIG = config("svhn_mat", SVHN, (3, 2, 2), {"test": 4})


def test_omniglot_by_hand(read: Read) -> None:
    arrays = read(OMNIGLOT_CONFIG, OMNIGLOT)
    assert arrays["test/images"].tolist() == [[[[0, 0], [255, 0], [0, 255]]]]
    assert [len(arrays[f"{split}/images"]) for split in ("train", "valid", "test")] == [4, 2, 1]
    both = np.concatenate([arrays["train/images"], arrays["valid/images"]])
    assert sorted(both[:, 0, 0, 0].tolist()) == [0, 1, 2, 3, 4, 5]
    assert both[:, :, 1:].tolist() == [[[[0, 128], [64, 191]]]] * 6  # 127.5 goes to the even 128
    assert arrays["train/images"].tolist() == read(OMNIGLOT_CONFIG, OMNIGLOT)["train/images"].tolist()


def test_svhn_by_hand(read: Read) -> None:
    arrays = read(SVHN_CONFIG, SVHN)
    assert arrays.keys() == {"test/images", "test/labels"}
    assert arrays["test/labels"].tolist() == [1, 0, 9, 2]  # 10 stands for 0
    for n in range(4):
        for channel in range(3):
            assert arrays["test/images"][n, channel].tolist() == SVHN_X[:, :, channel, n].tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no MATLAB 5 file"),
        (b"MATLAB 7.3 MAT-file" + bytes(500), "is no MATLAB 5 file"),
        (OMNIGLOT["chardata.mat"][:150], "chardata.mat is damaged"),
        (mat(data=columns(OMNIGLOT_TRAIN), testdata=columns(OMNIGLOT_TEST))[:-20], "chardata.mat is damaged"),
        (mat(data=columns(OMNIGLOT_TRAIN)), "variable testdata: expected numbers of shape (6, 1), got None"),
        (mat(data=columns(OMNIGLOT_TRAIN[1:]), testdata=columns(OMNIGLOT_TEST)), "of shape (6, 6), got double (6, 5)"),
        (mat(data=columns(OMNIGLOT_TRAIN) * 1.01, testdata=columns(OMNIGLOT_TEST)), "real numbers from 0 to 1"),
        (mat(data=columns(OMNIGLOT_TRAIN) * np.nan, testdata=columns(OMNIGLOT_TEST)), "real numbers from 0 to 1"),
        (mat(data=columns(OMNIGLOT_TRAIN) * 1j, testdata=columns(OMNIGLOT_TEST)), "got complex double (6, 6)"),
        (mat(data=np.full((6, 6), "a", dtype=object), testdata=columns(OMNIGLOT_TEST)), "expected numbers of shape"),
    ],
)
def test_omniglot_malformed(read: Read, content: bytes, message: str) -> None:
    declared = config("omniglot_mat", {"chardata.mat": content + b" "}, (1, 3, 2), OMNIGLOT_CONFIG.splits)
    assert message in refusal(read, declared, {"chardata.mat": content})


def test_mat_file_that_is_longer_than_declared(read: Read) -> None:
    assert "is 100,000 bytes long; config" in refusal(read, OMNIGLOT_CONFIG, {"chardata.mat": bytes(100_000)})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"X": SVHN_X.astype(float)}, "variable X: expected values of type uint8, got float64"),
        ({"X": SVHN_X[:1]}, "of shape (2, 2, 3, 4), got uint8 (1, 2, 3, 4)"),
        ({"y": np.array([[1], [11], [9], [2]])}, "variable y"),
        ({"y": np.array([[1], [0], [9], [2]], dtype=np.uint8)}, "variable y: expected whole numbers from 1 to 10"),
        ({"y": np.array([[1], [1.5], [9], [2]])}, "variable y: expected whole numbers from 1 to 10"),
        (
            {"y": np.array([[1], [1j], [9], [2]])},
            "variable y: expected numbers of shape (4, 1), got complex double (4, 1)",
        ),
    ],
)
def test_svhn_malformed(read: Read, variables: dict[str, Any], message: str) -> None:
    content = mat(**{"X": SVHN_X, "y": np.array([[1], [10], [9], [2]], dtype=np.uint8)} | variables)
    files = {"test_32x32.mat": content}
    assert message in refusal(read, config("svhn_mat", files, (3, 2, 2), {"test": 4}), files)


@given(content=spoilt(OMNIGLOT["chardata.mat"]))
def test_mat_mutations(read: Read, content: bytes) -> None:
    try:
        arrays = read(OMNIGLOT_CONFIG, {"chardata.mat": content})
    except UserError as error:
        assert "chardata.mat" in str(error)
        return
    assert arrays["train/images"].shape == (4, 1, 3, 2)


# ------------------------------------------------------------------------------------------- pictures and shrinking


@pytest.mark.parametrize(("source", "target"), [((105, 105), (28, 28)), ((148, 148), (64, 64)), ((5, 7), (2, 3))])
def test_area_average_is_the_integral_over_the_area(source: tuple[int, int], target: tuple[int, int]) -> None:
    """Against repeating every pixel until the areas are whole, and averaging blocks."""
    values = RANDOM.integers(0, 256, source, dtype=np.uint8)
    fine = values.astype(np.int64).repeat(target[0], axis=0).repeat(target[1], axis=1)
    blocks = fine.reshape(target[0], source[0], target[1], source[1]).mean(axis=(1, 3))
    assert np.abs(area_average(values, target) - blocks).max() <= 0.5 + 1e-9


def test_area_average_keeps_constants_and_rounds_half_up() -> None:
    assert (area_average(np.full((3, 148, 148), 255, dtype=np.uint8), (64, 64)) == 255).all()
    assert area_average(np.ones((105, 105), dtype=np.uint8), (28, 28), 255).tolist() == [[255] * 28] * 28
    assert area_average(np.array([[0, 1], [1, 0]], dtype=np.uint8), (1, 1)).tolist() == [[1]]
    assert area_average(np.array([[0, 1], [0, 0]], dtype=np.uint8), (1, 1)).tolist() == [[0]]
    assert area_average(np.array([[0, 30], [60, 90]], dtype=np.uint8), (2, 2)).tolist() == [[0, 30], [60, 90]]
    # 16 levels above black: 8 of 255 is just above half a level, 7 just below.
    assert area_average(np.array([[0, 7], [8, 255]], dtype=np.uint8), (2, 2), 16, 255).tolist() == [[0, 0], [1, 16]]


def test_a_picture_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes that would unpack to 10^10 pixels."""
    content = bytearray(picture(np.zeros((2, 2), dtype=np.uint8)))
    content[16:24] = struct.pack(">II", 100_000, 100_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(UserError, match=r"here (is no PNG picture|has 100000 x 100000 pixels)"):
        decode(bytes(content), "PNG", (2, 2), "L", "here")


def test_no_other_picture_format_is_tried() -> None:
    with pytest.raises(UserError, match="is no PNG picture"):
        decode(picture(np.zeros((2, 2, 3), dtype=np.uint8), "JPEG"), "PNG", (2, 2), "RGB", "here")


@given(content=spoilt(picture(RANDOM.integers(0, 256, (4, 4, 3), dtype=np.uint8))))
def test_png_mutations(content: bytes) -> None:
    try:
        with bounded():
            assert decode(content, "PNG", (4, 4), "RGB", "here").shape == (4, 4, 3)
    except UserError as error:
        assert "here" in str(error)


@given(content=spoilt(picture(RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8), "JPEG")))
def test_jpeg_mutations(content: bytes) -> None:
    try:
        with bounded():
            assert decode(content, "JPEG", (8, 8), "RGB", "here").shape == (8, 8, 3)
    except UserError as error:
        assert "here" in str(error)


# ------------------------------------------------------------------------------------------------ Lake's OMNIGLOT


def drawing(number: int) -> NDArray[np.bool_]:
    """Black ink on white: the square of 15 pixels a side in column `number` of a grid of 7."""
    pixels = np.ones((105, 105), dtype=bool)
    pixels[15:30, 15 * number : 15 * (number + 1)] = False
    return pixels


LAKE = {
    "images_background.zip": zip_of(
        {
            "images_background/": b"",
            "images_background/Greek/character02/0002_01.png": picture(drawing(2)),
            "images_background/Greek/character01/0001_01.png": picture(drawing(0)),
            "images_background/Greek/character01/0001_02.png": picture(drawing(1)),
            "__MACOSX/images_background/Greek/character01/._0001_02.png": b"",
        }
    ),
    "images_evaluation.zip": zip_of(
        {
            "images_evaluation/ULOG/character26/1623_20.png": picture(drawing(4)),
            "images_evaluation/ULOG/character26/1623_01.png": picture(drawing(3)),
        },
        zipfile.ZIP_STORED,
    ),
}
LAKE_SPLITS = {"train": 2, "valid": 1, "test": 1}
LAKE_CONFIG = config("omniglot_png", LAKE, (1, 28, 28), LAKE_SPLITS)


def which(images: NDArray[np.uint8]) -> list[int]:
    """Numbers of the drawings, by where their ink is: 15 pixels are 4 of the small ones."""
    numbers = []
    for image in images[:, 0]:
        number = int(image.sum(axis=0).argmax()) // 4
        expected = np.zeros((28, 28), dtype=np.uint8)
        expected[4:8, 4 * number : 4 * number + 4] = 255
        assert image.tolist() == expected.tolist()
        numbers.append(number)
    return numbers


def test_lake_by_hand(read: Read) -> None:
    """Ink is white, four fifths of the drawings are used, none twice, and the same ones every time."""
    arrays = read(LAKE_CONFIG, LAKE)
    numbers = {split: which(arrays[f"{split}/images"]) for split in LAKE_SPLITS}
    assert {split: len(found) for split, found in numbers.items()} == LAKE_SPLITS
    assert len({number for found in numbers.values() for number in found}) == 4
    assert {key: array.tolist() for key, array in read(LAKE_CONFIG, LAKE).items()} == {
        key: array.tolist() for key, array in arrays.items()
    }


def test_lake_does_not_depend_on_who_packed_it(read: Read) -> None:
    with zipfile.ZipFile(io.BytesIO(LAKE["images_background.zip"])) as archive:
        members = {name: archive.read(name) for name in reversed(archive.namelist())}
    repacked = LAKE | {"images_background.zip": zip_of(members, zipfile.ZIP_STORED)}
    for key, array in read(LAKE_CONFIG, LAKE).items():
        assert array.tolist() == read(LAKE_CONFIG, repacked)[key].tolist()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "has 2 drawings; expected at least 4"),
        (
            {"images_background/A/b/1.png": picture(drawing(1)[:100])},
            "b/1.png has 105 x 100 pixels; expected 105 x 105",
        ),
        ({"images_background/A/b/1.png": picture(drawing(1), "JPEG")}, "b/1.png is no PNG picture"),
        ({"images_background/A/b/1.png": picture(drawing(1))[:60]}, "b/1.png is no PNG picture"),
        ({"images_background/A/b/1.png": bytes(2_000_000)}, "2,000,000 bytes; expected 1,048,576 at most"),
        ({"../images_background/A/b/1.png": b"x", "/etc/images_background/A/b.png": b"x"}, "has 2 drawings"),
    ],
)
def test_lake_malformed(read: Read, members: dict[str, bytes], message: str) -> None:
    assert message in refusal(read, LAKE_CONFIG, LAKE | {"images_background.zip": zip_of(members)})


@given(content=spoilt(LAKE["images_background.zip"]))
def test_zip_mutations(read: Read, content: bytes) -> None:
    try:
        arrays = read(LAKE_CONFIG, LAKE | {"images_background.zip": content})
    except UserError as error:
        assert "images_background.zip" in str(error) or "drawings; expected" in str(error)
        return
    assert arrays["train/images"].shape == (2, 1, 28, 28)


def test_zip_members(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of({"a": b"x" * 100, "../b": b"y"}))
    with Zip(path) as archive:
        assert archive.read("a", 100) == b"x" * 100
        assert archive.names(r".*") == ["../b", "a"]
        with pytest.raises(UserError, match="100 bytes; expected 99 at most"):
            archive.read("a", 99)
        with pytest.raises(UserError, match="has no member c"):
            archive.read("c", 99)
    assert sorted(tmp_path.iterdir()) == [path]
    path.write_bytes(zip_of({"a": b"x"}, zipfile.ZIP_BZIP2))
    with Zip(path) as archive, pytest.raises(UserError, match="packed by method 12"):
        archive.read("a", 99)
    with pytest.raises(UserError, match=r"nowhere.zip does not exist. Run `biva fetch`"):
        Zip(tmp_path / "nowhere.zip")


def test_zip_that_lies_about_its_sizes(tmp_path: Path) -> None:
    """A member of 50 MB that declares 10 bytes gives 10 bytes and then fails its checksum."""
    content = bytearray(zip_of({"a": bytes(50_000_000)}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.index(signature) + offset
        content[place : place + 4] = struct.pack("<I", 10)
    (tmp_path / "bomb.zip").write_bytes(content)
    with Zip(tmp_path / "bomb.zip") as archive, pytest.raises(UserError, match="is damaged: Bad CRC-32"):
        archive.read("a", 100)


# -------------------------------------------------------------------------------------------------- ImageNet 32x32

PIXELS = RANDOM.integers(0, 256, (9, 2, 2, 3), dtype=np.uint8)
IMAGENET_SHAPE, IMAGENET_SPLITS = (3, 2, 2), {"train": 7, "test": 2}
IMAGENET_TRAIN = {"train_32x32/": b"", **{f"train_32x32/{n:07}.png": picture(PIXELS[n]) for n in range(7)}}
IMAGENET = {
    "train_32x32.tar": tar_of(IMAGENET_TRAIN | {"train_32x32/._0000001.png": b"x", "train_32x32/readme": b"x"}),
    "valid_32x32.tar": tar_of({f"valid_32x32/{n:05}.png": picture(PIXELS[n]) for n in (7, 8)}),
}
IMAGENET_CONFIG = config("imagenet_png", IMAGENET, IMAGENET_SHAPE, IMAGENET_SPLITS)


def test_imagenet_by_hand(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in (1, 2, 3, 7, 100):
        monkeypatch.setattr(raw, "CHUNK", chunk)
        arrays = read(IMAGENET_CONFIG, IMAGENET)
        assert np.array_equal(arrays["train/images"].transpose(0, 2, 3, 1), PIXELS[:7])
        assert np.array_equal(arrays["test/images"].transpose(0, 2, 3, 1), PIXELS[7:])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "train_32x32.tar has 0 images; expected 7"),
        ({"a.png": picture(PIXELS[0])}, "train_32x32.tar has 1 images; expected 7"),
        ({"a.png": picture(np.zeros((2, 3, 3), dtype=np.uint8))}, "a.png has 3 x 2 pixels; expected 2 x 2"),
        ({"a.png": b"no picture"}, "a.png is no PNG picture"),
        ({f"{n}.png": picture(PIXELS[n]) for n in range(8)}, "has more than the expected 7 images"),
        ({"a.png": bytes(2_000_000)}, "a.png: 2,000,000 bytes; expected 1,048,576 at most"),
    ],
)
def test_imagenet_malformed(read: Read, members: dict[str, bytes], message: str) -> None:
    files = IMAGENET | {"train_32x32.tar": tar_of(members)}
    assert message in refusal(read, config("imagenet_png", files, IMAGENET_SHAPE, IMAGENET_SPLITS), files)


@given(content=spoilt(IMAGENET["train_32x32.tar"]))
def test_tar_mutations(read: Read, content: bytes) -> None:
    try:
        arrays = read(IMAGENET_CONFIG, IMAGENET | {"train_32x32.tar": content})
    except UserError as error:
        assert "train_32x32.tar" in str(error)
        return
    assert arrays["train/images"].shape == (7, *IMAGENET_SHAPE)


def test_tar_entries_are_not_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.3 million entries would take a gigabyte."""
    (tmp_path / "a.tar").write_bytes(tar_of({f"{n}.png": b"x" for n in range(50)}))
    tars: list[tarfile.TarFile] = []
    original = tarfile.open

    def remembering(**arguments: Any) -> tarfile.TarFile:
        tars.append(original(**arguments))
        return tars[-1]

    monkeypatch.setattr(tarfile, "open", remembering)
    for _ in tar_pictures(tmp_path / "a.tar", ".png", 10**6, 100):
        assert len(tars[0].members) <= 1  # type: ignore[attr-defined]


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def batch(first: int, stop: int, **more: Any) -> bytes:
    """Rows of channels, rows, columns, as Chrabaszcz's files have them."""
    rows = PIXELS[first:stop].transpose(0, 3, 1, 2).reshape(-1, 12)
    return npz(False, **{"data": rows, "labels": np.arange(first, stop), "mean": np.zeros(12)} | more)


def imagenet_npz(train: dict[str, bytes]) -> Files:
    return {"train.zip": zip_of(train), "val.zip": zip_of({"val_data.npz": batch(7, 9)}, zipfile.ZIP_STORED)}


NPZ = imagenet_npz(
    {
        "train_data_batch_10.npz": batch(5, 7),
        "train_data_batch_1.npz": batch(0, 3),
        "train_data_batch_2.npz": npz(True, data=PIXELS[3:5].transpose(0, 3, 1, 2).reshape(-1, 12)),
        "readme.txt": b"x",
    }
)
NPZ_CONFIG = config("imagenet_npz", NPZ, IMAGENET_SHAPE, IMAGENET_SPLITS)


def test_imagenet_npz_by_hand(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in (1, 2, 100):
        monkeypatch.setattr(raw, "CHUNK", chunk)
        arrays = read(NPZ_CONFIG, NPZ)
        assert np.array_equal(arrays["train/images"].transpose(0, 2, 3, 1), PIXELS[:7])
        assert np.array_equal(arrays["test/images"].transpose(0, 2, 3, 1), PIXELS[7:])


class Unpickled(Exception):
    """Raised by an object that is being unpickled."""


class Trap:
    def __reduce__(self) -> Any:
        return Unpickled, ()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({}, "train.zip has 0 images; expected 7"),
        ({"train_data_batch_1.npz": batch(0, 6)}, "train.zip has 6 images; expected 7"),
        ({"train_data_batch_1.npz": batch(0, 8)}, "8 images are more than the 7 expected here"),
        ({"train_data_batch_1.npz": batch(0, 7)[:-30]}, "train_data_batch_1.npz is damaged"),
        ({"train_data_batch_1.npz": b"no archive"}, "train_data_batch_1.npz is damaged"),
        ({"train_data_batch_1.npz": npz(labels=np.zeros(3))}, "train_data_batch_1.npz has no member data.npy"),
        (
            {"train_data_batch_1.npz": npz(data=np.zeros((7, 12)))},
            "expected uint8 values of shape (n, 12), got float64",
        ),
        ({"train_data_batch_1.npz": npz(data=np.zeros((7, 11), np.uint8))}, "got uint8 (7, 11)"),
        ({"train_data_batch_1.npz": npz(data=np.array([Trap()]))}, "got object (1,)"),
        ({"train_data_batch_1.npz": zip_of({"data.npy": b"\x93NUMPY\x03\x00"})}, "NPY version (3, 0) is not supported"),
        ({"train_data_batch_1.npz": zip_of({"data.npy": b"PK"})}, "data.npy is damaged"),
        ({"train_data_batch_1.npz": zip_of({"data.npy": bytes(10_000_000)})}, "10,000,000 bytes; expected"),
        ({"train_data_batch_1.npz": bytes(10_000_000)}, "10,000,000 bytes; expected"),
    ],
)
def test_imagenet_npz_malformed(read: Read, train: dict[str, bytes], message: str) -> None:
    assert message in refusal(read, NPZ_CONFIG, imagenet_npz(train))


@given(content=spoilt(batch(0, 7)))
def test_npz_mutations(read: Read, content: bytes) -> None:
    try:
        arrays = read(NPZ_CONFIG, imagenet_npz({"train_data_batch_1.npz": content}))
    except UserError as error:
        assert "train.zip" in str(error)
        return
    assert arrays["train/images"].shape == (7, *IMAGENET_SHAPE)


# ---------------------------------------------------------------------------------------------------- CelebA 64x64


def face(number: int) -> NDArray[np.uint8]:
    """One colour in the square that is kept, and another outside."""
    pixels = np.full((218, 178, 3), 255, dtype=np.uint8)
    pixels[35:183, 15:163] = (20 * number, 100, 200 - 20 * number)
    return pixels


PARTITION = b"000001.jpg 0\r\n000002.jpg 1\r\n000003.jpg 2\r\n000004.jpg 0\r\n"
CELEBA = {
    "img_align_celeba.zip": zip_of(
        {"img_align_celeba/": b"", **{f"img_align_celeba/{n:06}.jpg": picture(face(n), "JPEG") for n in (4, 2, 1, 3)}}
    ),
    "list_eval_partition.txt": PARTITION,
}
CELEBA_SPLITS = {"train": 2, "valid": 1, "test": 1}
CELEBA_CONFIG = config("celeba", CELEBA, (3, 64, 64), CELEBA_SPLITS)


def test_celeba_by_hand(read: Read) -> None:
    arrays = read(CELEBA_CONFIG, CELEBA)
    for split, numbers in {"train": [1, 4], "valid": [2], "test": [3]}.items():
        for image, number in zip(arrays[f"{split}/images"], numbers, strict=True):
            inside = image[:, 8:-8, 8:-8].reshape(3, -1)
            for channel, expected in enumerate((20 * number, 100, 200 - 20 * number)):
                assert np.abs(inside[channel].astype(int) - expected).max() <= 2  # JPEG loses a little
            assert image[1].max() < 200  # nothing of the white outside, not even at the rim


def test_celeba_crop_is_in_the_centre_of_the_official_size() -> None:
    """35 + 148 + 35 = 218 rows, 15 + 148 + 15 = 178 columns."""
    assert pictures.CELEBA_SIZE == (178, 218) and pictures.CELEBA_CROP == 148


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        (b"", "gives 0 pictures to train; expected 2"),
        (PARTITION.replace(b" 2", b" 3"), "line 3: expected a picture and 0, 1 or 2, got b'000003.jpg 3'"),
        (PARTITION.replace(b"000001", b"../../"), "line 1: expected a picture"),
        (PARTITION.replace(b" 2", b" 1"), "gives 2 pictures to valid; expected 1"),
        (PARTITION.replace(b"000003", b"000009"), "has no member img_align_celeba/000009.jpg"),
        (PARTITION * 2, "bytes long; config/datasets.yaml declares"),
    ],
)
def test_celeba_malformed_list(read: Read, partition: bytes, message: str) -> None:
    assert message in refusal(read, CELEBA_CONFIG, CELEBA | {"list_eval_partition.txt": partition})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (picture(face(1)[:100], "JPEG"), "000001.jpg has 178 x 100 pixels; expected 178 x 218"),
        (picture(face(1), "PNG"), "000001.jpg is no JPEG picture"),
        (picture(face(1), "JPEG")[:600], "000001.jpg is no JPEG picture or is damaged"),
    ],
)
def test_celeba_malformed_picture(read: Read, content: bytes, message: str) -> None:
    archive = zip_of({f"img_align_celeba/{n:06}.jpg": content for n in range(1, 5)})
    assert message in refusal(read, CELEBA_CONFIG, CELEBA | {"img_align_celeba.zip": archive})


def test_celeba_from_a_server_in_pieces(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "CHUNK", 1)
    address, served = server
    for name, content in CELEBA.items():
        (served / name).write_bytes(content)
    tiny = CELEBA_CONFIG.model_copy(update={"sources": (address,)})
    fetch("tiny", tiny, tmp_path / "tiny" / "raw", None)
    prepare("tiny", tiny, tmp_path / "tiny" / "raw", tmp_path / "tiny")
    dataset = load(tmp_path / "tiny")
    assert {split: len(images) for split, images in dataset.images.items()} == CELEBA_SPLITS
    assert dataset.split("train+valid")[:, 0, 32, 32].tolist() == pytest.approx([20, 80, 40], abs=2)


# --------------------------------------------------------------------------------------------- patches of photographs

ACROSS = np.broadcast_to(np.arange(640) * 255 / 640, (427, 640)).astype(np.uint8)
DOWN = np.broadcast_to(np.arange(427)[:, None] * 255 / 427, (427, 640)).astype(np.uint8)
PHOTOS = {"across.jpg": picture(ACROSS, "JPEG"), "down.jpg": picture(DOWN, "JPEG")}
PHOTOS_CONFIG = config("photo_patches", PHOTOS, (1, 8, 8), {"test": 360})


def test_patches_are_evenly_spaced_windows_of_both_photographs(read: Read) -> None:
    """Grey values that grow with the column, or the row, tell where in the photograph a pixel is from."""
    images = read(PHOTOS_CONFIG, PHOTOS)["test/images"][:, 0].astype(int)
    grows_down = images[:, -1, 0] - images[:, 0, 0] > 8
    for patches, side, cells in (
        (images[~grows_down][:, 0, :], 640, 15),
        (images[grows_down][:, :, 0], 427, 12),
    ):
        found = patches[np.argsort(patches[:, 0], kind="stable")].reshape(cells, 180 // cells, 8)
        centres = (np.arange(cells) + 0.5) / cells * side
        blocks = centres[:, None] - 16 + 4 * np.arange(8) + 1.5  # a block of 4 pixels, from its first to its last
        assert np.abs(found - (blocks * 255 / side)[:, None, :]).max() < 2


def test_patches_of_both_photographs_are_mixed(read: Read) -> None:
    images = read(PHOTOS_CONFIG, PHOTOS)["test/images"][:, 0].astype(int)
    grows_down = images[:, -1, 0] - images[:, 0, 0] > 8
    assert 30 < grows_down[:90].sum() < 60


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (picture(ACROSS[:-1], "JPEG"), "across.jpg has 640 x 426 pixels; expected 640 x 427"),
        (picture(ACROSS, "PNG"), "across.jpg is no JPEG picture"),
        (PHOTOS["across.jpg"][:900], "across.jpg is no JPEG picture or is damaged"),
        (PHOTOS["across.jpg"] + bytes(1), "bytes long; config/datasets.yaml declares"),
    ],
)
def test_photographs_malformed(read: Read, content: bytes, message: str) -> None:
    assert message in refusal(read, PHOTOS_CONFIG, PHOTOS | {"across.jpg": content})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": {"test": 400}}, "`splits` says 400 images for test; reader photo_patches gives 360"),
        ({"splits": {"train": 360, "test": 360}}, "reader photo_patches gives only test"),
        ({"files": PHOTOS_CONFIG.files[:1]}, "reader photo_patches needs 2 file(s)"),
    ],
)
def test_photographs_that_contradict_the_configuration(read: Read, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(read, PHOTOS_CONFIG.model_copy(update=changes), PHOTOS)


# ------------------------------------------------------------------------------------------------------ prepared data


def test_a_damaged_archive_leaves_no_array_file(tmp_path: Path) -> None:
    files = IMAGENET | {"valid_32x32.tar": IMAGENET["train_32x32.tar"]}
    tiny = config("imagenet_png", files, IMAGENET_SHAPE, IMAGENET_SPLITS)
    fetched = tmp_path / "raw"
    fetched.mkdir()
    for name, content in files.items():
        (fetched / name).write_bytes(content)
    with pytest.raises(UserError, match="more than the expected 2 images"):
        prepare("tiny", tiny, fetched, tmp_path / "tiny")
    assert list((tmp_path / "tiny").iterdir()) == []
