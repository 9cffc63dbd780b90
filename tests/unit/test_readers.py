"""Readers: small files in the official formats, with hand-known pixels, and files that are not as declared."""

from __future__ import annotations

import hashlib
import importlib
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from biva.config import DatasetConfig
from biva.data import raw
from biva.data.datasets import load, prepare, read_arrays
from biva.data.pictures import area_average, decode
from biva.data.raw import pieces
from biva.data.readers import celeba, imagenet_png, omniglot_mat
from biva.data.sources import fetch
from biva.errors import UserError

Files = dict[str, bytes]
Read = Callable[[DatasetConfig, Files], dict[str, NDArray[Any]]]

RANDOM = np.random.default_rng(3)


def config(
    reader: str, files: Files, shape: tuple[int, int, int], splits: Mapping[Any, int], **changes: Any
) -> DatasetConfig:
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
    return DatasetConfig.model_validate(entry | changes)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write raw files, read them with the reader of a configuration, and give the whole arrays."""

    def read(config: DatasetConfig, files: Files) -> dict[str, NDArray[Any]]:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        arrays = read_arrays("tiny", config, tmp_path)
        reader = importlib.import_module(f"biva.data.readers.{config.reader}")
        assert any(key.endswith("labels") for key in arrays) == hasattr(reader, "LABELS")
        for key, array in arrays.items():
            assert array.dtype == (np.uint8 if key.endswith("images") else np.int64)
        return {key: np.concatenate(list(pieces(array))) for key, array in arrays.items()}

    return read


def refusal(read: Read, config: DatasetConfig, files: Files) -> str:
    with pytest.raises(UserError) as error:
        read(config, files)
    return str(error.value)


def tar_of(members: Files, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(members: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def picture(pixels: NDArray[Any], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def mat(do_compression: bool = True, **variables: Any) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=do_compression)
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------- text and binary files

SPLITS_OF_SIX = {"train": 3, "valid": 1, "test": 2}

AMAT = {"train.amat": b"0 0 0 1\n1 0 1 0\n1 1 1 1\n", "valid.amat": b"0 1 1 0\n", "test.amat": b"0 0 0 0\n1 0 0 0\n"}
AMAT_CONFIG = config("amat", AMAT, (1, 2, 2), SPLITS_OF_SIX, levels=2)

IDX = {
    "train-images": bytes.fromhex("00000803 00000004 00000002 00000001") + bytes([0, 255, 7, 8, 1, 2, 9, 10]),
    "train-labels": bytes.fromhex("00000801 00000004") + bytes([5, 0, 4, 1]),
    "test-images": bytes.fromhex("00000803 00000002 00000002 00000001") + bytes([100, 101, 102, 103]),
    "test-labels": bytes.fromhex("00000801 00000002") + bytes([9, 3]),
}
IDX_CONFIG = config("idx", IDX, (1, 2, 1), SPLITS_OF_SIX)

DIGITS = {"digits.csv": b"0,16,0\n1,15,1\n2,14,0\n3,13,1\n4,12,0\n5,11,1\n"}
DIGITS_CONFIG = config("digits", DIGITS, (1, 1, 2), {"train": 2, "valid": 2, "test": 2}, levels=17)


def test_amat_by_hand(read: Read) -> None:
    assert {key: array.tolist() for key, array in read(AMAT_CONFIG, AMAT).items()} == {
        "train/images": [[[[0, 0], [0, 1]]], [[[1, 0], [1, 0]]], [[[1, 1], [1, 1]]]],
        "valid/images": [[[[0, 1], [1, 0]]]],
        "test/images": [[[[0, 0], [0, 0]]], [[[1, 0], [0, 0]]]],
    }


def test_idx_by_hand(read: Read) -> None:
    assert {key: array.tolist() for key, array in read(IDX_CONFIG, IDX).items()} == {
        "train/images": [[[[0], [255]]], [[[7], [8]]], [[[1], [2]]]],
        "train/labels": [5, 0, 4],
        "valid/images": [[[[9], [10]]]],
        "valid/labels": [1],
        "test/images": [[[[100], [101]]], [[[102], [103]]]],
        "test/labels": [9, 3],
    }


def test_digits_by_hand(read: Read) -> None:
    arrays = read(DIGITS_CONFIG, DIGITS)
    found = []
    for split in ("train", "valid", "test"):
        assert sorted(arrays[f"{split}/labels"]) == [0, 1]
        found += list(zip(arrays[f"{split}/images"].tolist(), arrays[f"{split}/labels"], strict=True))
    assert sorted(found) == [([[[grey, 16 - grey]]], grey % 2) for grey in range(6)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": IDX_CONFIG.files[:1]}, "reader idx needs 4 file(s) (train images, train labels, test images, test"),
        ({"splits": {"train": 4, "test": 2}}, "`splits` names train, test; reader idx gives train, valid, test"),
        ({"reader": "svhn_mat", "files": IDX_CONFIG.files[:1]}, "reader svhn_mat gives test"),
        ({"shape": (3, 2, 1)}, "are uint8 of shape (1, 2, 1); config/datasets.yaml says uint8 of shape (3, 2, 1)"),
    ],
)
def test_an_entry_that_does_not_fit_its_reader(read: Read, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(read, IDX_CONFIG.model_copy(update=changes), IDX)


# ----------------------------------------------------------------------------------------------------- CIFAR-10

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
CIFAR_CONFIG = config("cifar", CIFAR, (3, 2, 2), {"train": 8, "valid": 2, "test": 2})


def test_cifar_from_a_mirror_to_the_loaded_dataset(tmp_path: Path) -> None:
    (tmp_path / "cifar.tar.gz").write_bytes(CIFAR["cifar.tar.gz"])
    fetch("tiny", CIFAR_CONFIG, tmp_path / "raw", str(tmp_path))
    prepare("tiny", CIFAR_CONFIG, tmp_path / "raw", tmp_path / "tiny")
    dataset = load(tmp_path / "tiny")
    assert dataset.split("train+valid").flatten().tolist() == list(range(120))
    assert dataset.split("train")[1].tolist() == [[[12, 13], [14, 15]], [[16, 17], [18, 19]], [[20, 21], [22, 23]]]
    assert dataset.split("test")[1].flatten().tolist() == list(range(36, 48))
    assert [dataset.labels_of(split).tolist() for split in ("train", "valid", "test")] == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [8, 9],
        [7, 3],
    ]


# --------------------------------------------------------------------------------------------------- .mat files

OMNIGLOT_TRAIN = [[[i / 255, 1.0], [0.0, 0.5], [0.25, 0.75]] for i in range(6)]  # 6 upright images of 3 x 2
OMNIGLOT_TEST = [[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]


def columns(images: list[Any]) -> NDArray[np.float64]:
    """Pixels column by column, an image a column, as MATLAB has them."""
    return np.array([[line[x] for x in range(2) for line in image] for image in images]).T


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


def test_svhn_by_hand(read: Read) -> None:
    arrays = read(SVHN_CONFIG, SVHN)
    assert arrays.keys() == {"test/images", "test/labels"}
    assert arrays["test/labels"].tolist() == [1, 0, 9, 2]  # 10 stands for 0
    for n in range(4):
        for channel in range(3):
            assert arrays["test/images"][n, channel].tolist() == SVHN_X[:, :, channel, n].tolist()


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (picture(np.zeros((2, 3, 3), dtype=np.uint8)), "here has 3 x 2 pixels; expected 2 x 2"),
        (picture(np.zeros((2, 2, 3), dtype=np.uint8), "JPEG"), "here is no PNG picture"),
        (picture(np.zeros((2, 2, 3), dtype=np.uint8))[:40], "here is no PNG picture or is damaged"),
        (b"", "here is no PNG picture"),
    ],
)
def test_another_picture_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decode(content, "PNG", (2, 2), "RGB", "here")


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
LAKE_SIZES = {"train": 2, "valid": 1, "test": 1}
LAKE_CONFIG = config("omniglot_png", LAKE, (1, 28, 28), LAKE_SIZES)


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
    """Ink is white, four of the five drawings are used, none twice, and the same ones whoever packed them."""
    arrays = read(LAKE_CONFIG, LAKE)
    numbers = {split: which(arrays[f"{split}/images"]) for split in LAKE_SIZES}
    assert {split: len(found) for split, found in numbers.items()} == LAKE_SIZES
    assert len({number for found in numbers.values() for number in found}) == 4
    with zipfile.ZipFile(io.BytesIO(LAKE["images_background.zip"])) as archive:
        members = {name: archive.read(name) for name in reversed(archive.namelist())}
    repacked = read(LAKE_CONFIG, LAKE | {"images_background.zip": zip_of(members, zipfile.ZIP_STORED)})
    assert {key: array.tolist() for key, array in repacked.items()} == {key: a.tolist() for key, a in arrays.items()}


# -------------------------------------------------------------------------------------------------- ImageNet 32x32

PIXELS = RANDOM.integers(0, 256, (9, 2, 2, 3), dtype=np.uint8)
IMAGENET_SIZES = {"train": 7, "test": 2}
IMAGENET_TRAIN = {"train_32x32/": b"", **{f"train_32x32/{n:07}.png": picture(PIXELS[n]) for n in range(7)}}
IMAGENET = {
    "train_32x32.tar": tar_of(IMAGENET_TRAIN | {"train_32x32/._0000001.png": b"x", "train_32x32/readme": b"x"}),
    "valid_32x32.tar": tar_of({f"valid_32x32/{n:05}.png": picture(PIXELS[n]) for n in (7, 8)}),
}
IMAGENET_CONFIG = config("imagenet_png", IMAGENET, (3, 2, 2), IMAGENET_SIZES)


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def batch(first: int, stop: int, compressed: bool = False) -> bytes:
    """Channels, rows, columns of an image in a line, as Chrabaszcz's files have them."""
    lines = PIXELS[first:stop].transpose(0, 3, 1, 2).reshape(-1, 12)
    return npz(compressed, data=lines, labels=np.arange(first, stop), mean=np.zeros(12))


NPZ_MEMBERS = {
    "train_data_batch_10.npz": batch(5, 7),
    "train_data_batch_1.npz": batch(0, 3),
    "train_data_batch_2.npz": batch(3, 5, compressed=True),
    "readme.txt": b"x",
}
NPZ = {"train.zip": zip_of(NPZ_MEMBERS), "val.zip": zip_of({"val_data.npz": batch(7, 9)}, zipfile.ZIP_STORED)}
NPZ_CONFIG = config("imagenet_npz", NPZ, (3, 2, 2), IMAGENET_SIZES)


@pytest.mark.parametrize(("config", "files"), [(IMAGENET_CONFIG, IMAGENET), (NPZ_CONFIG, NPZ)])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_imagenet_by_hand(
    read: Read, monkeypatch: pytest.MonkeyPatch, config: DatasetConfig, files: Files, chunk: int
) -> None:
    monkeypatch.setattr(raw, "CHUNK", chunk)
    arrays = read(config, files)
    assert np.array_equal(arrays["train/images"].transpose(0, 2, 3, 1), PIXELS[:7])
    assert np.array_equal(arrays["test/images"].transpose(0, 2, 3, 1), PIXELS[7:])


def test_a_chunk_of_a_tar_is_all_that_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither more than `CHUNK` images, nor the entries of 1.3 million files, which take a gigabyte."""
    monkeypatch.setattr(raw, "CHUNK", 3)
    for name, content in IMAGENET.items():
        (tmp_path / name).write_bytes(content)
    tars: list[tarfile.TarFile] = []
    original = tarfile.open

    def remembering(*arguments: Any, **named: Any) -> tarfile.TarFile:
        tars.append(original(*arguments, **named))
        return tars[-1]

    monkeypatch.setattr(tarfile, "open", remembering)
    arrays = imagenet_png.read([tmp_path / name for name in IMAGENET], IMAGENET_CONFIG)
    sizes = []
    for piece in pieces(arrays["train/images"]):
        sizes.append(len(piece))
        assert len(tars[0].members) <= 1  # type: ignore[attr-defined]
    assert sizes == [3, 3, 1]


def test_a_damaged_archive_leaves_no_array_file(tmp_path: Path) -> None:
    files = IMAGENET | {"valid_32x32.tar": IMAGENET["train_32x32.tar"]}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="test/images are 7"):
        prepare("tiny", config("imagenet_png", files, (3, 2, 2), IMAGENET_SIZES), tmp_path, tmp_path / "tiny")
    assert list((tmp_path / "tiny").iterdir()) == []


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
CELEBA_CONFIG = config("celeba", CELEBA, (3, 64, 64), {"train": 2, "valid": 1, "test": 1})


def test_celeba_by_hand(read: Read) -> None:
    """The square of 148 pixels in the centre: 35 + 148 + 35 = 218 rows, 15 + 148 + 15 = 178 columns."""
    assert celeba.SIZE == (178, 218) and celeba.CROP == 148
    arrays = read(CELEBA_CONFIG, CELEBA)
    for split, numbers in {"train": [1, 4], "valid": [2], "test": [3]}.items():
        for image, number in zip(arrays[f"{split}/images"], numbers, strict=True):
            inside = image[:, 8:-8, 8:-8].reshape(3, -1)
            for channel, expected in enumerate((20 * number, 100, 200 - 20 * number)):
                assert np.abs(inside[channel].astype(int) - expected).max() <= 2  # JPEG loses a little
            assert image[1].max() < 200  # nothing of the white outside, not even at the rim


# --------------------------------------------------------------------------------------------- patches of photographs

ACROSS = np.broadcast_to(np.arange(640) * 255 / 640, (427, 640)).astype(np.uint8)
DOWN = np.broadcast_to(np.arange(427)[:, None] * 255 / 427, (427, 640)).astype(np.uint8)
PHOTOS = {"across.jpg": picture(ACROSS, "JPEG"), "down.jpg": picture(DOWN, "JPEG")}
PHOTOS_CONFIG = config("photo_patches", PHOTOS, (1, 8, 8), {"test": 360})


def test_patches_are_evenly_spaced_windows_of_both_photographs(read: Read) -> None:
    """Grey values that grow with the column, or the row, tell where in the photograph a pixel is from."""
    images = read(PHOTOS_CONFIG, PHOTOS)["test/images"][:, 0].astype(int)
    grows_down = images[:, -1, 0] - images[:, 0, 0] > 8
    assert 30 < grows_down[:90].sum() < 60  # both photographs are mixed
    for patches, side, cells in ((images[~grows_down][:, 0, :], 640, 15), (images[grows_down][:, :, 0], 427, 12)):
        found = patches[np.argsort(patches[:, 0], kind="stable")].reshape(cells, 180 // cells, 8)
        centres = (np.arange(cells) + 0.5) / cells * side
        blocks = centres[:, None] - 16 + 4 * np.arange(8) + 1.5  # a block of 4 pixels, from its first to its last
        assert np.abs(found - (blocks * 255 / side)[:, None, :]).max() < 2


# ------------------------------------------------------------------------------------------------------ what is refused

WHOLE = {
    config.reader: (config, files)
    for config, files in (
        *((AMAT_CONFIG, AMAT), (IDX_CONFIG, IDX), (DIGITS_CONFIG, DIGITS), (CIFAR_CONFIG, CIFAR), (LAKE_CONFIG, LAKE)),
        *((OMNIGLOT_CONFIG, OMNIGLOT), (IMAGENET_CONFIG, IMAGENET), (NPZ_CONFIG, NPZ), (CELEBA_CONFIG, CELEBA)),
        (PHOTOS_CONFIG, PHOTOS),
    )
}
CIFAR_WITHOUT_3 = {name: content for name, content in CIFAR_MEMBERS.items() if "3" not in name}
DATA, TESTDATA = columns(OMNIGLOT_TRAIN), columns(OMNIGLOT_TEST)


def lake(members: Files) -> Files:
    return {"images_background.zip": zip_of(members)}


def imagenet(members: Files) -> Files:
    return {"train_32x32.tar": tar_of(members)}


def batch_1(content: bytes) -> Files:
    return {"train.zip": zip_of({"train_data_batch_1.npz": content})}


@pytest.mark.parametrize(
    ("reader", "files", "message"),
    [
        ("amat", {"train.amat": b"0 0 0 1\n1 0 2 0\n1 1 1 1\n"}, "train/images have values from 0 to 2; "),
        ("amat", {"train.amat": b"0 0 0 1\n1 0 1 0\n1 1 1\n"}, "cannot be read by reader amat"),
        ("amat", {"train.amat": b"0 0 0 1\n1 0 1 0\n"}, "train/images are 2; config/datasets.yaml says 3"),
        ("idx", {"train-images": IDX["train-images"][:-1]}, "cannot be read by reader idx"),
        ("idx", {"train-images": IDX["train-labels"]}, "cannot be read by reader idx: ValueError"),
        ("idx", {"test-labels": IDX["train-labels"]}, "test/labels are 4; config/datasets.yaml says 2"),
        ("idx", {"train-labels": IDX["train-labels"][:-1] + b"\x0a"}, "valid/labels have values from 10 to 10; "),
        ("digits", {"digits.csv": DIGITS["digits.csv"][:-1] + b",0\n"}, "cannot be read by reader digits"),
        ("digits", {"digits.csv": DIGITS["digits.csv"].replace(b"14", b"17")}, "to 17; config/datasets.yaml says 0"),
        ("digits", {"digits.csv": DIGITS["digits.csv"][7:]}, "reader digits"),
        ("cifar", {"cifar.tar.gz": b""}, "reader cifar: ReadError"),
        ("cifar", {"cifar.tar.gz": tar_of(CIFAR_WITHOUT_3, "w:gz")}, "KeyError"),
        ("cifar", {"cifar.tar.gz": tar_of(CIFAR_MEMBERS | {"test_batch.bin": b""}, "w:gz")}, "test/labels are 0; "),
        *(
            ("omniglot_mat", {"chardata.mat": content}, message)
            for content, message in (
                (b"MATLAB 7.3 MAT-file" + bytes(500), "reader omniglot_mat"),
                (mat(data=DATA), "variable testdata: expected numbers of shape (6, 1), got None"),
                (mat(data=columns(OMNIGLOT_TRAIN[1:]), testdata=TESTDATA), "of shape (6, 6), got (6, 5)"),
                (mat(data=DATA * np.nan, testdata=TESTDATA), "real numbers from 0 to 1"),
                (mat(data=DATA * 1j, testdata=TESTDATA), "real numbers from 0 to 1"),
                (mat(data=np.full((6, 6), "a", dtype=object), testdata=TESTDATA), "real numbers from 0 to 1"),
            )
        ),
        ("omniglot_png", lake({}), "2 drawings are there; expected at least 4"),
        ("omniglot_png", lake({"images_background/A/b/1.png": picture(drawing(1)[:100])}), "b/1.png has 105 x 100 pix"),
        ("omniglot_png", lake({"../images_background/A/b/1.png": b"x"}), "2 drawings are there"),
        ("omniglot_png", lake({"/etc/images_background/A/b.png": b"x"}), "2 drawings are there"),
        ("imagenet_png", imagenet({}), "train/images are 0; config/datasets.yaml says 7"),
        ("imagenet_png", imagenet(IMAGENET_TRAIN | {"8.png": picture(PIXELS[8])}), "train/images are 8"),
        ("imagenet_png", imagenet({"a.png": b"no picture"}), "a.png is no PNG picture"),
        ("imagenet_png", {"train_32x32.tar": b"no archive" * 100}, "reader imagenet_png: ReadError"),
        ("imagenet_npz", batch_1(batch(0, 6)), "train/images are 6"),
        ("imagenet_npz", batch_1(npz(labels=np.zeros(3))), "reader imagenet_npz: KeyError"),
        ("imagenet_npz", batch_1(npz(data=np.zeros((7, 12)))), "train/images are float64"),
        ("celeba", {"list_eval_partition.txt": b""}, "train/images are 0; config/datasets.yaml says 2"),
        ("celeba", {"list_eval_partition.txt": PARTITION.replace(b" 2", b"")}, "reader celeba: ValueError"),
        ("celeba", {"list_eval_partition.txt": PARTITION.replace(b"000003", b"000009")}, "reader celeba: KeyError"),
        ("celeba", {"img_align_celeba.zip": b"no archive"}, "reader celeba: BadZipFile"),
        ("photo_patches", {"across.jpg": picture(ACROSS[:-1], "JPEG")}, "across.jpg has 640 x 426 pixels; expected"),
        ("photo_patches", {"across.jpg": PHOTOS["across.jpg"][:900]}, "across.jpg is no JPEG picture or is damaged"),
    ],
)
def test_files_that_are_not_as_declared_are_refused(
    read: Read, monkeypatch: pytest.MonkeyPatch, reader: str, files: Files, message: str
) -> None:
    monkeypatch.setattr(omniglot_mat, "in_another_process", lambda function, *args: function(*args))  # faster
    config, whole = WHOLE[reader]
    assert message in refusal(read, config, whole | files)
