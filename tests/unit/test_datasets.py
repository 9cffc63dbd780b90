"""Canonical files: the real datasets against published numbers, and a tiny one against an independent parser."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from biva.config import DatasetConfig, load_datasets
from biva.config.datasets import READERS
from biva.data.datasets import Dataset, Split, load, prepare
from biva.data.sources import fetch
from biva.errors import UserError
from tests.unit.test_readers import config

CONFIGS = load_datasets(Path(__file__).resolve().parents[2] / "config")

RAW = {"train.amat": b"1 0\n0 1\n1 1\n", "valid.amat": b"0 0\n1 0\n", "test.amat": b"0 1\n"}


def tiny(**changes: Any) -> DatasetConfig:
    splits = {"train": 3, "valid": 2, "test": 1}
    entry = config("amat", RAW, (1, 1, 2), splits, levels=2, binarisation="static").model_dump()
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
    with pytest.raises(UserError, match=r"data.safetensors does not exist. Run `biva prepare tiny --to "):
        load(tmp_path / "tiny")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("data.json", lambda content: None, "data.json does not exist. Run `biva prepare tiny --to "),
        ("data.json", lambda content: b"{", "not valid JSON"),
        ("data.json", lambda content: content.replace(b"levels", b"lavels"), "data.json lacks the field 'levels'"),
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
    ("name", "changes", "said"),
    [
        ("other", {}, "its dataset is 'tiny', but by config/datasets.yaml 'other'"),
        ("tiny", {"binarisation": "dynamic"}, "its binarisation is 'static', but by config/datasets.yaml 'dynamic'"),
        ("tiny", {"shape": (1, 2, 1)}, "its shape is [1, 1, 2], but by config/datasets.yaml [1, 2, 1]"),
        ("tiny", {"splits": {"train": 5, "test": 1}}, "its splits is"),
    ],
)
def test_a_dataset_is_that_of_its_entry(
    raw: Path, tmp_path: Path, name: str, changes: dict[str, Any], said: str
) -> None:
    prepare("tiny", tiny(), raw, tmp_path / "tiny")
    assert load(tmp_path / "tiny", ("tiny", tiny())).name == "tiny"
    with pytest.raises(UserError) as error:
        load(tmp_path / "tiny", (name, tiny(**changes)))
    assert said in str(error.value)


@pytest.mark.parametrize("content", [None, b"1 0\n0 1\n1 0\n"])
def test_missing_or_altered_raw_file_names_the_command(raw: Path, tmp_path: Path, content: bytes | None) -> None:
    (raw / "train.amat").unlink()
    if content is not None:
        (raw / "train.amat").write_bytes(content)
    with pytest.raises(UserError, match=r"train.amat is missing or .* SHA-256(.|\n)*`biva fetch tiny --to "):
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
            with pytest.raises(OSError, match="No space left on device"):
                prepare("tiny", tiny(), raw, target)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert names(tmp_path / "new") == []


# ------------------------------------------------------------------------------------------------ which splits


def with_splits(**sizes: int) -> Dataset:
    images = {split: torch.full((size, 1, 1, 1), size, dtype=torch.uint8) for split, size in sizes.items()}
    return Dataset("tiny", "none", (1, 1, 1), 256, "none", images, {})


def test_all_there_is_to_train_on_where_nothing_is_held_out() -> None:
    assert with_splits(train=3, test=1).split("train+valid").flatten().tolist() == [3, 3, 3]
    assert with_splits(train=3, valid=2, test=1).split("train+valid").flatten().tolist() == [3, 3, 3, 2, 2]


@pytest.mark.parametrize(("split", "missing"), [("train", "train"), ("train+valid", "train"), ("valid", "valid")])
def test_a_split_that_does_not_exist(split: Split, missing: str) -> None:
    with pytest.raises(UserError, match=f"Dataset 'tiny' has no split '{missing}'; it has: test"):
        with_splits(test=1).split(split)


def test_training_and_validation_split_are_mapped_as_one(raw: Path, tmp_path: Path) -> None:
    """3.9 GB of ImageNet must not be copied to be seen as one array."""
    prepare("tiny", tiny(), raw, tmp_path / "tiny")
    dataset = load(tmp_path / "tiny")
    assert dataset.split("train+valid").data_ptr() == dataset.images["train"].data_ptr()
    assert dataset.split("train+valid").flatten().tolist() == [1, 0, 0, 1, 1, 1, 0, 0, 1, 0]


# -------------------------------------------------------------------------------------------- the real datasets


FINGERPRINTS = {
    "digits": "3a4ee936fb4f47d219c9da49bfc4e873a5098d65ae592292786cd5cc07c758f8",
    "photo_patches": "d2dbb65df448ff7505a7aa927a7999c006d26102b8d9abb4c5fa1f87e9000062",
    "mnist_static": "275bec24fbdbd766a659b5a52e33a49999b3d6d65908f999e84d02f5bdf98c86",
    "mnist_dynamic": "6e872a8e9e936bf82ef7eb9135e108bb31014f9be487d87a60c77a9a1af7787f",
    "fashion_mnist": "c39432d89fede88bf7b200725ffe88386c990a14a9f590b08d7ff20d9c3ac5a1",
    "omniglot_lake": "f420f9db263f29ee978a5d0cf35177da555c709db18bf3d18c0ebd0a3fcc5ca1",
}
"""Of the data of all published results: a pin, not a truth. No package, code or seed may silently change them."""


def prepared(name: str, folder: Path, mirror: Path | None) -> Dataset:
    np.random.seed(5)
    torch.manual_seed(5)
    fetch(name, CONFIGS[name], folder / "raw", str(mirror) if mirror else None)
    prepare(name, CONFIGS[name], folder / "raw", folder)
    dataset = load(folder)
    assert dataset.fingerprint == FINGERPRINTS[name]
    return dataset


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


def test_photo_patches_are_those_of_scikit_learn_s_photographs(tmp_path: Path) -> None:
    """Every patch is one of the windows around evenly spaced centres, with its luma to the nearest level."""
    found = prepared("photo_patches", tmp_path, None).split("test").numpy()[:, 0]
    exact = [
        (photo @ [0.299, 0.587, 0.114])[y : y + 32, x : x + 32].reshape(8, 4, 8, 4).mean(axis=(1, 3)) * 16 / 255
        for photo in load_sample_images().images
        for y in (np.linspace(0, 427, 25)[1::2] - 16).astype(int)
        for x in (np.linspace(0, 640, 31)[1::2] - 16).astype(int)
    ]
    assert found.shape == (360, 8, 8)
    distances = np.abs(found[:, None] - np.array(exact)[None]).max(axis=(2, 3))
    assert (distances.min(axis=1) < 0.6).all()
    assert (distances.min(axis=0) < 0.6).all()


def test_photo_patches_are_of_the_kind_of_digits() -> None:
    """The same shape, levels and binarisation, and as many test images."""
    digits, patches = CONFIGS["digits"], CONFIGS["photo_patches"]
    assert (patches.shape, patches.levels, patches.binarisation) == (digits.shape, digits.levels, digits.binarisation)
    assert patches.splits == {"test": digits.splits["test"]}


def test_static_mnist_has_its_published_means_and_is_upright(real_data: Path, tmp_path: Path) -> None:
    dataset = prepared("mnist_static", tmp_path, real_data)
    for split, size, mean in (("train", 50_000, 0.13056), ("valid", 10_000, 0.13113), ("test", 10_000, 0.13251)):
        images = dataset.images[split]
        assert images.shape == (size, 1, 28, 28)
        assert int(images.max()) == 1
        assert round(int(images.sum(dtype=torch.int64)) / images.numel(), 5) == mean
    assert dataset.labels == {}
    # Upright: a tenth of a file, parsed the slow way.
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


def test_fashion_mnist_is_the_published_one(real_data: Path, tmp_path: Path) -> None:
    """Class counts, mean and standard deviation as its publishers and users give them."""
    dataset = prepared("fashion_mnist", tmp_path, real_data)
    assert {split: len(images) for split, images in dataset.images.items()} == {
        "train": 50_000,
        "valid": 10_000,
        "test": 10_000,
    }
    labels = torch.cat([dataset.labels["train"], dataset.labels["valid"]])
    assert labels.bincount().tolist() == [6000] * 10 and dataset.labels["test"].bincount().tolist() == [1000] * 10
    values = dataset.split("train+valid").double() / 255
    assert (round(values.mean().item(), 4), round(values.std().item(), 4)) == (0.2860, 0.3530)  # published


@pytest.fixture(scope="module")
def lake(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    folder = tmp_path_factory.mktemp("lake")
    return prepared("omniglot_lake", folder, real_data), folder


def test_lake_s_archives_have_their_published_numbers_of_drawings(lake: tuple[Dataset, Path]) -> None:
    """30 + 20 alphabets, 964 + 659 characters, each drawn by 20 people."""
    dataset, folder = lake
    for name, characters, alphabets in (("images_background", 964, 30), ("images_evaluation", 659, 20)):
        with zipfile.ZipFile(folder / "raw" / f"{name}.zip") as archive:
            drawings = [path.split("/") for path in archive.namelist() if path.endswith(".png")]
        assert len(drawings) == characters * 20
        assert len({alphabet for _, alphabet, _, _ in drawings}) == alphabets
        assert len({(alphabet, character) for _, alphabet, character, _ in drawings}) == characters
    assert {split: len(images) for split, images in dataset.images.items()} == {
        "train": 23_000,
        "valid": 1_345,
        "test": 8_070,
    }


def test_lake_s_drawings_are_those_of_the_archives(lake: tuple[Dataset, Path]) -> None:
    """The ink of all drawings but the 45 unused ones is that in the archives; hardly any drawing is there twice."""
    dataset, folder = lake
    ink = []
    for name in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(folder / "raw" / f"{name}.zip") as archive:
            for path in sorted(path for path in archive.namelist() if path.endswith(".png")):
                ink.append(1 - np.asarray(Image.open(io.BytesIO(archive.read(path)))).mean())
    images = np.concatenate([dataset.images[split].numpy() for split in ("train", "valid", "test")])
    got = np.sort(images.mean(axis=(1, 2, 3)) / 255)
    assert len(got) == 32_460 - 45
    assert np.quantile(got, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(ink, [0.1, 0.5, 0.9]), abs=1e-3)
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) > 0.999 * len(images)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_official_sources_are_secure_or_embedded(name: str) -> None:
    """Plain http needs a published SHA-256; an entry without a source must name a homepage."""
    config = CONFIGS[name]
    assert config.sources or (config.homepage or "").startswith("https://")
    pinned = all(file.sha256 and file.trust == "published" for file in config.files)
    for source in config.sources:
        assert source.startswith(("https://", "package:")) or (source.startswith("http://") and pinned)


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("omniglot", (24_345, 8_070)),
        ("omniglot_lake", (24_345, 8_070)),
        ("fashion_mnist", (60_000, 10_000)),
        ("cifar10", (50_000, 10_000)),
        ("svhn", (0, 26_032)),
        ("imagenet32", (1_281_149, 49_999)),
        ("imagenet32_npz", (1_281_167, 50_000)),
        ("celeba64", (162_770 + 19_867, 19_962)),
    ],
)
def test_split_sizes_are_the_published_ones(name: str, splits: tuple[int, int]) -> None:
    sizes = CONFIGS[name].splits
    assert (sizes.get("train", 0) + sizes.get("valid", 0), sizes["test"]) == splits


@pytest.mark.parametrize("reader", ["nope", "os", "biva.data.readers.idx", "../raw", "idx:read", "__init__"])
def test_a_reader_is_one_that_there_is_a_file_for(reader: str) -> None:
    with pytest.raises(ValueError, match="expected one of amat, celeba, cifar"):
        tiny(reader=reader)


def test_every_reader_is_used() -> None:
    assert {config.reader for config in CONFIGS.values()} == set(READERS)
