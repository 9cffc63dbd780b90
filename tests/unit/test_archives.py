"""Readers of raw files: hand-written bytes with hand-known arrays, malformed bytes, mutated bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biva.config import DatasetConfig
from biva.data import archives
from biva.data.archives import READERS
from biva.data.raw import parts
from biva.errors import UserError
from tests.hostile import bounded, spoilt

SPLITS = {"train": 3, "valid": 1, "test": 2}

AMAT = {
    "train.amat": b"0 0 0 1\n1 0 1 0\n1 1 1 1\n",
    "valid.amat": b"0 1 1 0\n",
    "test.amat": b"0 0 0 0\n1 0 0 0\n",
}

IDX = {
    "train-images": bytes.fromhex("00000803 00000004 00000002 00000001") + bytes([0, 255, 7, 8, 1, 2, 9, 10]),
    "train-labels": bytes.fromhex("00000801 00000004") + bytes([5, 0, 4, 1]),
    "test-images": bytes.fromhex("00000803 00000002 00000002 00000001") + bytes([100, 101, 102, 103]),
    "test-labels": bytes.fromhex("00000801 00000002") + bytes([9, 3]),
}

DIGITS = {"digits.csv": b"0,16,0\n1,15,1\n2,14,0\n3,13,1\n4,12,0\n5,11,1\n"}


def config(reader: str, files: dict[str, bytes], shape: tuple[int, int, int], **changes: Any) -> DatasetConfig:
    """A dataset of tiny files, which may be some bytes longer than they should."""
    entry = {
        "title": "tiny",
        "reader": reader,
        "shape": shape,
        "levels": 256,
        "binarisation": "dynamic",
        "splits": SPLITS,
        "files": [{"name": name, "sha256": "0" * 64, "bytes": len(content) + 8} for name, content in files.items()],
        "folder": "tiny",
        "sources": [],
        "licence": "none",
        "citation": "none",
    }
    return DatasetConfig.model_validate(entry | changes)


AMAT_CONFIG = config("amat", AMAT, (1, 2, 2))
IDX_CONFIG = config("idx", IDX, (1, 2, 1))
DIGITS_CONFIG = config("digits", DIGITS, (1, 1, 2), levels=17, splits={"train": 2, "valid": 2, "test": 2})


@pytest.fixture(scope="session")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Write raw files, read them with the reader of a configuration, and give the arrays as lists."""
    folder = tmp_path_factory.mktemp("raw")

    def read(config: DatasetConfig, files: dict[str, bytes]) -> dict[str, Any]:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        with bounded():
            arrays = READERS[config.reader](folder, config)
        for key, array in arrays.items():
            assert array.dtype == (np.uint8 if key.endswith("images") else np.int64)
        return {key: np.concatenate(list(parts(array))).tolist() for key, array in arrays.items()}

    return read


# ------------------------------------------------------------------------------------------------------- amat


def test_amat_by_hand(read: Callable[..., dict[str, Any]]) -> None:
    assert read(AMAT_CONFIG, AMAT) == {
        "train/images": [[[[0, 0], [0, 1]]], [[[1, 0], [1, 0]]], [[[1, 1], [1, 1]]]],
        "valid/images": [[[[0, 1], [1, 0]]]],
        "test/images": [[[[0, 0], [0, 0]]], [[[1, 0], [0, 0]]]],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0 0 0 1\n1 0 2 0\n1 1 1 1\n", "train.amat, line 2: expected 4 values"),
        (b"0 0 0 1\n1 0 1 0\n1 1 1 1", "train.amat, line 3"),
        (b"0 0 0 1\n1 0 1 0\n1 1 1\n", "train.amat, line 3"),
        (b"0 0 0 1\r\n1 0 1 0\r\n", "train.amat, line 1"),
        (b"0 0 0 1\n1 0 1 0\n", "has 2 lines; expected one per image: 3"),
        (b"0 0 0 1\n" * 4, "has 4 lines; expected one per image: 3"),
        (b"", "has 0 lines"),
        (b"0 0 0 1\n" * 1000, "is 8,000 bytes long; config/datasets.yaml declares 32"),
    ],
)
def test_amat_malformed(read: Callable[..., dict[str, Any]], content: bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(AMAT_CONFIG, AMAT | {"train.amat": content})
    assert message in str(error.value)


# -------------------------------------------------------------------------------------------------------- idx


def test_idx_by_hand(read: Callable[..., dict[str, Any]]) -> None:
    assert read(IDX_CONFIG, IDX) == {
        "train/images": [[[[0], [255]]], [[[7], [8]]], [[[1], [2]]]],
        "train/labels": [5, 0, 4],
        "valid/images": [[[[9], [10]]]],
        "valid/labels": [1],
        "test/images": [[[[100], [101]]], [[[102], [103]]]],
        "test/labels": [9, 3],
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images", b"", "ends within its IDX header"),
        ("train-images", IDX["train-images"][:15], "ends within its IDX header"),
        ("train-images", IDX["train-images"][:-1], "is 23 bytes long; its header says 24"),
        ("train-images", IDX["train-images"] + b"\0", "is 25 bytes long; its header says 24"),
        ("train-images", IDX["train-labels"] + bytes(12), "expected 00 00 08 03"),
        ("train-images", b"\x1f\x8b" + IDX["train-images"][2:], "starts with the bytes 1f 8b 08 03"),
        ("train-images", struct.pack(">4I", 0x00000803, *(2**32 - 1,) * 3), "declares the dimensions (4294967295,"),
        ("train-labels", IDX["train-labels"][:-1] + b"\x0a", "has a label 10; expected 0 to 9"),
        ("test-labels", IDX["train-labels"], "declares the dimensions (4,); expected (2,)"),
    ],
)
def test_idx_malformed(read: Callable[..., dict[str, Any]], name: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(IDX_CONFIG, IDX | {name: content})
    assert name in str(error.value) and message in str(error.value)


# ----------------------------------------------------------------------------------------------------- digits


def test_digits_by_hand(read: Callable[..., dict[str, Any]]) -> None:
    arrays = read(DIGITS_CONFIG, DIGITS)
    found = []
    for split in ("train", "valid", "test"):
        assert sorted(arrays[f"{split}/labels"]) == [0, 1]
        found += list(zip(arrays[f"{split}/images"], arrays[f"{split}/labels"], strict=True))
    assert sorted(found) == [([[[grey, 16 - grey]]], grey % 2) for grey in range(6)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (DIGITS["digits.csv"][:-1] + b",0\n", "line 6: expected 3 whole numbers"),
        (DIGITS["digits.csv"].replace(b"14", b"17"), "line 3: expected grey values up to 16"),
        (DIGITS["digits.csv"].replace(b"14", b"-4"), "line 3: expected 3 whole numbers"),
        (DIGITS["digits.csv"].replace(b"14", b"1e1"), "line 3: expected 3 whole numbers"),
        (DIGITS["digits.csv"].replace(b"14", "\uff11".encode()), "line 3: expected 3 whole numbers"),
        (DIGITS["digits.csv"].replace(b"15,1", b"15,10"), "line 2: expected grey values up to 16 and a label up to 9"),
        (DIGITS["digits.csv"][7:], "has 5 lines; expected one per image: 6"),
        (DIGITS["digits.csv"].replace(b"15,1", b"15,7"), "cannot be split with the classes in equal proportions"),
        (b"", "has 0 lines"),
    ],
)
def test_digits_malformed(read: Callable[..., dict[str, Any]], content: bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(DIGITS_CONFIG, {"digits.csv": content})
    assert "digits.csv" in str(error.value) and message in str(error.value)


# --------------------------------------------------------------------------------------------- for every reader


@pytest.mark.parametrize("config", [AMAT_CONFIG, IDX_CONFIG, DIGITS_CONFIG], ids=lambda config: config.reader)
def test_missing_file_is_named(config: DatasetConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{config.files[0].name} cannot be read: No such file.*biva fetch"):
        READERS[config.reader](tmp_path, config)


@pytest.mark.parametrize("config", [AMAT_CONFIG, IDX_CONFIG, DIGITS_CONFIG], ids=lambda config: config.reader)
def test_wrong_number_of_files_is_refused(config: DatasetConfig, tmp_path: Path) -> None:
    wrong = config.model_copy(update={"files": config.files * 2})
    with pytest.raises(UserError, match=f"reader {config.reader} needs {len(config.files)} file"):
        READERS[config.reader](tmp_path, wrong)


def test_idx_holds_images_of_one_channel(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one channel"):
        archives.idx(tmp_path, config("idx", IDX, (3, 2, 1)))


@st.composite
def one_spoilt(draw: st.DrawFn, files: dict[str, bytes]) -> dict[str, bytes]:
    """`files`, with one of them spoilt."""
    name = draw(st.sampled_from(sorted(files)))
    return files | {name: draw(spoilt(files[name]))}


@given(files=one_spoilt(AMAT))
def test_amat_mutations(read: Callable[..., dict[str, Any]], files: dict[str, bytes]) -> None:
    try:
        arrays = read(AMAT_CONFIG, files)
    except UserError as error:
        assert ".amat" in str(error)
        return
    for split in SPLITS:
        lines = files[f"{split}.amat"].decode("ascii").split("\n")
        assert lines.pop() == ""
        assert arrays[f"{split}/images"] == [
            [[[int(a), int(b)], [int(c), int(d)]]] for a, b, c, d in (line.split(" ") for line in lines)
        ]


@given(files=one_spoilt(IDX))
def test_idx_mutations(read: Callable[..., dict[str, Any]], files: dict[str, bytes]) -> None:
    try:
        arrays = read(IDX_CONFIG, files)
    except UserError as error:
        assert any(name in str(error) for name in files)
        return
    assert all(len(files[name]) == len(IDX[name]) for name in files)
    images = arrays["train/images"] + arrays["valid/images"] + arrays["test/images"]
    pixels = files["train-images"][16:] + files["test-images"][16:]
    assert [value for image in images for row in image[0] for value in row] == list(pixels)
    labels = arrays["train/labels"] + arrays["valid/labels"] + arrays["test/labels"]
    assert labels == list(files["train-labels"][8:] + files["test-labels"][8:])


@given(files=one_spoilt(DIGITS))
def test_digits_mutations(read: Callable[..., dict[str, Any]], files: dict[str, bytes]) -> None:
    try:
        arrays = read(DIGITS_CONFIG, files)
    except UserError as error:
        assert "digits.csv" in str(error)
        return
    found = [
        [*image[0][0], label]
        for split in SPLITS
        for image, label in zip(arrays[f"{split}/images"], arrays[f"{split}/labels"], strict=True)
    ]
    rows = files["digits.csv"].decode("ascii").splitlines()
    assert sorted(found) == sorted([int(cell) for cell in row.split(",")] for row in rows)
