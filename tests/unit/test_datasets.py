"""Canonical files: the real datasets against published numbers, and a tiny one against an independent parser."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from biva.config import DatasetConfig, load_datasets
from biva.data.datasets import Dataset, load, prepare
from biva.data.sources import fetch
from biva.errors import UserError

CONFIGS = load_datasets(Path(__file__).resolve().parents[2] / "config")

RAW = {"train.amat": b"1 0\n0 1\n1 1\n", "valid.amat": b"0 0\n1 0\n", "test.amat": b"0 1\n"}


def tiny(**changes: Any) -> DatasetConfig:
    entry = {
        "title": "tiny",
        "reader": "amat",
        "shape": (1, 1, 2),
        "levels": 2,
        "binarisation": "static",
        "splits": {"train": 3, "valid": 2, "test": 1},
        "files": [
            {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in RAW.items()
        ],
        "folder": "tiny",
        "sources": [],
        "licence": "none",
        "citation": "none",
    }
    return DatasetConfig.model_validate(entry | changes)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for name, content in RAW.items():
        (folder / name).write_bytes(content)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


# ------------------------------------------------------------------------------------------------ a tiny dataset


def test_array_file_by_an_independent_parser(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    prepare("tiny", tiny(), raw, folder)
    content = (folder / "data.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, values = json.loads(content[8 : 8 + length]), content[8 + length :]
    expected = {"train": [1, 0, 0, 1, 1, 1], "valid": [0, 0, 1, 0], "test": [0, 1]}
    assert set(header) == {f"{split}/images" for split in expected}
    for split, pixels in expected.items():
        entry = header[f"{split}/images"]
        start, stop = entry["data_offsets"]
        assert entry["dtype"] == "U8" and entry["shape"] == [len(pixels) // 2, 1, 1, 2]
        assert list(values[start:stop]) == pixels
    assert json.loads((folder / "data.json").read_text()) == {
        "dataset": "tiny",
        "fingerprint": hashlib.sha256(content).hexdigest(),
        "shape": [1, 1, 2],
        "levels": 2,
        "binarisation": "static",
        "splits": {"train": 3, "valid": 2, "test": 1},
    }


def test_prepare_is_deterministic_and_loads_back(raw: Path, tmp_path: Path) -> None:
    for folder in ("tiny", "again"):
        prepare("tiny", tiny(), raw, tmp_path / folder)
    for name in ("data.safetensors", "data.json"):
        assert (tmp_path / "tiny" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    dataset = load(tmp_path / "tiny")
    assert (dataset.name, dataset.shape, dataset.levels, dataset.binarisation) == ("tiny", (1, 1, 2), 2, "static")
    assert dataset.labels == {}
    assert dataset.split("valid").tolist() == [[[[0, 0]]], [[[1, 0]]]]
    assert dataset.split("train+valid").tolist() == [[[[1, 0]]], [[[0, 1]]], [[[1, 1]]], [[[0, 0]]], [[[1, 0]]]]
    assert dataset.split("test").dtype == torch.uint8


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_arrays_are_mapped_not_read(raw: Path, tmp_path: Path) -> None:
    prepare("tiny", tiny(), raw, tmp_path / "tiny")
    dataset = load(tmp_path / "tiny")
    assert str(tmp_path / "tiny" / "data.safetensors") in Path("/proc/self/maps").read_text()
    assert len(dataset.images) == 3


def test_missing_dataset_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.safetensors does not exist. Run `biva prepare tiny`"):
        load(tmp_path / "tiny")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("data.json", lambda content: None, "data.json does not exist. Run `biva prepare tiny`"),
        ("data.json", lambda content: b"{", "not valid JSON"),
        ("data.json", lambda content: content.replace(b"levels", b"lavels"), "incomplete ('levels')"),
        ("data.safetensors", lambda content: content[:-1], "is not the file that"),
        ("data.safetensors", lambda content: content[:-1] + bytes([1 - content[-1]]), "is not the file that"),
    ],
)
def test_damaged_dataset(
    raw: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes | None], message: str
) -> None:
    prepare("tiny", tiny(), raw, tmp_path / "tiny")
    path = tmp_path / "tiny" / name
    damaged = damage(path.read_bytes())
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    with pytest.raises(UserError) as error:
        load(tmp_path / "tiny")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": {"train": 3, "test": 1}}, "`splits` does not say the size of valid"),
        ({"splits": {"train": 2, "valid": 2, "test": 1}}, "train.amat has 3 lines; expected one per image: 2"),
        ({"shape": (1, 2, 2)}, "train.amat, line 1: expected 4 values"),
    ],
)
def test_files_that_contradict_the_configuration(
    raw: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        prepare("tiny", tiny(**changes), raw, tmp_path / "tiny")
    assert message in str(error.value)
    assert names(tmp_path / "tiny") == []


def test_too_many_grey_levels_are_refused(tmp_path: Path) -> None:
    grey = {
        "train-images": bytes.fromhex("00000803 00000003 00000001 00000001 00 01 02"),
        "train-labels": bytes.fromhex("00000801 00000003 00 00 00"),
        "test-images": bytes.fromhex("00000803 00000001 00000001 00000001 11"),
        "test-labels": bytes.fromhex("00000801 00000001 00"),
    }
    files = []
    for name, content in grey.items():
        (tmp_path / name).write_bytes(content)
        files.append({"name": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)})
    config = tiny(reader="idx", shape=(1, 1, 1), levels=17, splits={"train": 2, "valid": 1, "test": 1}, files=files)
    with pytest.raises(UserError, match="split test: a pixel has the value 17"):
        prepare("tiny", config, tmp_path, tmp_path / "tiny")
    assert names(tmp_path / "tiny") == []


@pytest.mark.parametrize("content", [None, b"1 0\n0 1\n1 0\n"])
def test_missing_or_altered_raw_file_names_the_command(raw: Path, tmp_path: Path, content: bytes | None) -> None:
    (raw / "train.amat").unlink()
    if content is not None:
        (raw / "train.amat").write_bytes(content)
    with pytest.raises(UserError, match=r"train.amat is missing or does not have the SHA-256(.|\n)*`biva fetch tiny`"):
        prepare("tiny", tiny(), raw, tmp_path / "tiny")
    assert names(tmp_path / "tiny") == []


def test_full_disk_leaves_what_was_there(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "tiny"
    prepare("tiny", tiny(), raw, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for target in (folder, tmp_path / "new"):
            with pytest.raises(UserError, match="No space left on device"):
                prepare("tiny", tiny(), raw, target)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert names(tmp_path / "new") == []


# -------------------------------------------------------------------------------------------- the real datasets


def prepared(name: str, folder: Path, mirror: Path | None) -> Dataset:
    fetch(name, CONFIGS[name], folder / "raw", str(mirror) if mirror else None)
    prepare(name, CONFIGS[name], folder / "raw", folder)
    return load(folder)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared("digits", tmp_path_factory.mktemp("digits"), None)


def test_digits_are_those_of_scikit_learn(digits: Dataset) -> None:
    """Every one of its 1,797 images with its label, once."""
    truth = load_digits()
    pairs = zip(truth.images, truth.target, strict=True)
    expected = sorted((image.astype(int).ravel().tolist(), int(label)) for image, label in pairs)
    found = [
        (image.flatten().tolist(), int(label))
        for split in ("train", "valid", "test")
        for image, label in zip(digits.images[split], digits.labels[split], strict=True)
    ]
    assert sorted(found) == expected
    assert digits.shape == (1, 8, 8)


def test_digits_split_is_stratified(digits: Dataset) -> None:
    """Class counts of the test set of UCI's optdigits, in proportion in every split."""
    published = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    for split, size in {"train": 1257, "valid": 180, "test": 360}.items():
        assert digits.images[split].shape == (size, 1, 8, 8)
        for count, total in zip(digits.labels[split].bincount().tolist(), published, strict=True):
            assert abs(count - size * total / 1797) < 1


def test_digits_test_split_is_that_of_all_results(digits: Dataset) -> None:
    """A pin, not a truth: another scikit-learn must not silently move images between the splits."""
    content = digits.images["test"].numpy().tobytes()
    assert hashlib.sha256(content).hexdigest() == "94f164814fbcf4b3b8ae5c35e9c617d5e3b24cbbce2e8cea3d91b6e4026e1b7d"


def test_digits_split_does_not_depend_on_the_global_seeds(digits: Dataset, tmp_path: Path) -> None:
    np.random.seed(5)
    torch.manual_seed(5)
    assert prepared("digits", tmp_path, None).fingerprint == digits.fingerprint


def test_static_mnist_has_its_published_means(real_data: Path, tmp_path: Path) -> None:
    dataset = prepared("mnist_static", tmp_path, real_data)
    for split, size, mean in (("train", 50_000, 0.13056), ("valid", 10_000, 0.13113), ("test", 10_000, 0.13251)):
        images = dataset.images[split]
        assert images.shape == (size, 1, 28, 28)
        assert int(images.max()) == 1
        assert round(int(images.sum(dtype=torch.int64)) / images.numel(), 5) == mean
    assert dataset.labels == {}


def test_static_mnist_images_are_upright(real_data: Path, tmp_path: Path) -> None:
    """A tenth of a file, parsed the slow way."""
    dataset = prepared("mnist_static", tmp_path, real_data)
    with gzip.open(real_data / "binarized_mnist" / "binarized_mnist_valid.amat.gz", "rt") as stream:
        expected = np.loadtxt(stream, max_rows=1000, dtype=np.uint8).reshape(1000, 1, 28, 28)
    assert np.array_equal(dataset.split("valid")[:1000].numpy(), expected)


def test_dynamic_mnist_is_the_published_one(real_data: Path, tmp_path: Path) -> None:
    dataset = prepared("mnist_dynamic", tmp_path, real_data)
    published = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    for name, md5 in published.items():
        assert hashlib.md5((tmp_path / "raw" / name).read_bytes()).hexdigest() == md5
    official = np.frombuffer((tmp_path / "raw" / "train-images-idx3-ubyte").read_bytes()[16:], dtype=np.uint8)
    together = dataset.split("train+valid")
    assert np.array_equal(together.numpy(), official.reshape(60_000, 1, 28, 28))
    assert {split: len(images) for split, images in dataset.images.items()} == {
        "train": 50_000,
        "valid": 10_000,
        "test": 10_000,
    }
    assert dataset.labels["train"][:5].tolist() == [5, 0, 4, 1, 9]
    assert dataset.labels["test"][:5].tolist() == [7, 2, 1, 0, 4]
    values = together.double() / 255
    assert (round(values.mean().item(), 4), round(values.std().item(), 4)) == (0.1307, 0.3081)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_official_sources_are_secure_or_embedded(name: str) -> None:
    assert CONFIGS[name].sources
    assert all(source.startswith(("https://", "package:")) for source in CONFIGS[name].sources)
