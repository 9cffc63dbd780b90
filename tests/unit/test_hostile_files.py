"""Files made to harm, of every format that a reader takes: nothing of them is run, written, or unpacked without bound.

Mutations of whole files are in test_archives.py and test_archive_formats.py, beside the readers' other tests.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save

from biva.config import DatasetConfig
from biva.data import sources
from biva.data.archives import READERS
from biva.data.array_file import map_arrays
from biva.data.checksums import first_use_record, recorded
from biva.data.containers import tar_members
from biva.data.datasets import load
from biva.data.pictures import decode
from biva.data.raw import parts, read
from biva.data.sources import fetch
from biva.errors import UserError
from biva.training import checkpoint
from tests.hostile import bounded, spoilt
from tests.unit.test_archive_formats import (
    CIFAR_CONFIG,
    CIFAR_MEMBERS,
    IMAGENET_SHAPE,
    IMAGENET_SPLITS,
    IMAGENET_TRAIN,
    LAKE,
    LAKE_CONFIG,
    OMNIGLOT,
    OMNIGLOT_CONFIG,
    PIXELS,
    config,
    drawing,
    imagenet_npz,
    picture,
    tar_of,
    zip_of,
)

Result = dict[str, list[Any]] | UserError


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files to be read are, and nothing else ever."""
    return tmp_path_factory.mktemp("here") / "raw"


def result(folder: Path, config: DatasetConfig, files: dict[str, bytes]) -> Result:
    """What a reader makes of files: arrays, or its refusal. Anything else that it raises or does is a failure."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    found: Result
    try:
        with bounded():
            arrays = READERS[config.reader](folder, config)
            found = {key: np.concatenate(list(parts(array))).tolist() for key, array in arrays.items()}
    except UserError as error:
        found = error
    assert {path.name for path in folder.iterdir()} == set(files)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    return found


def of_any_size(config: DatasetConfig) -> DatasetConfig:
    """The same dataset, accepting files of up to 4 MB."""
    files = tuple(file.model_copy(update={"bytes": 1 << 22}) for file in config.files)
    return config.model_copy(update={"files": files})


# ---------------------------------------------------------------------------------------------------- tar archives

NAMES = ["/etc/passwd", "../../out.png", "train_32x32/../../out", "a\0b", "é" * 200, "train_32x32/._x.png", "x/" * 60]
TYPES = [
    *(tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
    *(tarfile.DIRTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, b"?"),
]


@st.composite
def entries(draw: st.DrawFn, names: list[str]) -> bytes:
    """One entry of a tar that no valid one has."""
    info = tarfile.TarInfo(draw(st.sampled_from([*NAMES, *names])))
    info.type, info.linkname = draw(st.sampled_from(TYPES)), draw(st.sampled_from([*NAMES, *names]))
    info.mode, info.mtime = draw(st.integers(0, 0o7777)), draw(st.integers(-9, 2**33))
    content = draw(st.binary(max_size=40) | st.sampled_from([b"1\n" * 300, b"30 GNU.sparse.major=1\n", bytes(600)]))
    info.size = draw(st.sampled_from([len(content), 0, 511, 2**33 - 1, 2**70, -1]))
    try:
        header = bytearray(info.tobuf(draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))))
    except ValueError:  # a pax header cannot say this of it
        header = bytearray(tarfile.TarInfo("x").tobuf())
    return bytes(header) + content + bytes(-len(content) % 512)


def with_entry(members: dict[str, bytes], entry: bytes, place: int) -> bytes:
    """A tar of the members, with the entry before the one that is `place`th."""
    whole = list(members.items())
    ends = bytes(2 * 512)
    pieces = [tar_of(dict(part)).rstrip(b"\0") for part in (whole[:place], whole[place:])]
    first, second = (piece + bytes(-len(piece) % 512) for piece in pieces)
    return first + entry + second + ends


IMAGENET_SMALL = {name: content for name, content in IMAGENET_TRAIN.items() if content}
IMAGENET_TEST = tar_of({f"{n}.png": picture(PIXELS[n]) for n in (7, 8)})
IMAGENET_CONFIG = of_any_size(
    config("imagenet_png", {"train.tar": b" ", "test.tar": b" "}, IMAGENET_SHAPE, IMAGENET_SPLITS)
)


@given(entry=entries(["train_32x32/0000001.png"]), place=st.integers(0, 7))
def test_a_tar_with_a_strange_entry_gives_the_same_images_or_is_refused(folder: Path, entry: bytes, place: int) -> None:
    files = {"train.tar": with_entry(IMAGENET_SMALL, entry, place), "test.tar": IMAGENET_TEST}
    found = result(folder, IMAGENET_CONFIG, files)
    if isinstance(found, UserError):
        assert "train.tar" in str(found)
    else:
        assert found["train/images"] == PIXELS[:7].transpose(0, 3, 1, 2).tolist()


@given(entry=entries(list(CIFAR_MEMBERS)), place=st.integers(0, 7))
def test_a_gzipped_tar_with_a_strange_entry_gives_the_same_images_or_is_refused(
    folder: Path, entry: bytes, place: int
) -> None:
    found = result(folder, CIFAR_CONFIG, {"cifar.tar.gz": gzip.compress(with_entry(CIFAR_MEMBERS, entry, place), 1)})
    if isinstance(found, UserError):
        assert "cifar.tar.gz" in str(found)
    else:
        assert found["train/labels"] == [0, 1, 2, 3, 4, 5, 6, 7]
        assert found["train/images"][1] == [[[12, 13], [14, 15]], [[16, 17], [18, 19]], [[20, 21], [22, 23]]]


def test_a_sparse_file_of_a_million_holes_is_refused_within_bounds(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "holes.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a"}
        content = b"9999999\n" + b"1\n" * 30_000_000
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    with bounded(), pytest.raises(UserError, match=r"holes\.tar\.gz"):
        tar_members(tmp_path / "holes.tar.gz", ("a",), 100)


# ---------------------------------------------------------------------------------------------------- zip archives

DRAWING = "images_background/Greek/character01/0001_01.png"


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    """Lake's drawings beside a member that no valid zip has."""
    with zipfile.ZipFile(io.BytesIO(LAKE["images_background.zip"])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(draw(st.sampled_from([*NAMES, "C:\\x.png", "images_background/../../y/z.png"])))
        info.external_attr = draw(st.sampled_from([0, 0o120777 << 16, 0o060666 << 16, 0xFFFFFFFF]))
        info.compress_type = draw(st.sampled_from([0, 8, 12, 14]))
        info.extra = draw(st.sampled_from([b"", b"\1\0\4\0abcd", b"ab"])) if info.compress_type else b""
        archive.writestr(info, draw(st.sampled_from([b"", b"../../../etc/passwd", bytes(100_000)])))
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@given(content=zips())
def test_a_zip_with_a_strange_member_gives_the_same_images_or_is_refused(folder: Path, content: bytes) -> None:
    tiny = of_any_size(LAKE_CONFIG)
    found = result(folder, tiny, LAKE | {"images_background.zip": content})
    if isinstance(found, UserError):
        assert "images_background.zip" in str(found)
    else:
        assert found == result(folder, tiny, LAKE)


def test_a_zip_with_a_name_twice_is_refused(folder: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(DRAWING, picture(drawing(0)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(DRAWING, picture(drawing(1)))
    found = result(folder, of_any_size(LAKE_CONFIG), LAKE | {"images_background.zip": buffer.getvalue()})
    assert "0001_01.png' twice" in str(found)


# -------------------------------------------------------------------------------------------------------- npz files

ROWS = PIXELS[:7].transpose(0, 3, 1, 2).reshape(-1, 12)
NPZ_CONFIG = of_any_size(config("imagenet_npz", imagenet_npz({}), IMAGENET_SHAPE, IMAGENET_SPLITS))
HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': (7, 12), }"


def npy(header: str, version: int = 1, rows: bytes = ROWS.tobytes()) -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + rows


@st.composite
def headers(draw: st.DrawFn) -> str:
    """A header of an npy file, with one of its parts replaced."""
    strange = ["(", "[", "'", "{[]: 1}", "-1", "9" * 30, "1e9", "None", "()", "(-7, 12)", "(7, 12, -1)", "(2**63, 12)"]
    strange += ["'O'", "'|O'", "[('a', 'O')]", "'V9999999999'", "('|u1', 10**9)", "'<M8[s]'", "True", "\\", "L", "7L"]
    strange += ["__import__('os')", "(7L, 12L)", "(((((" * 50, "-" * 900, "\t\n  x", "\0", "é", "[" * 3000]
    part = draw(st.sampled_from(["'|u1'", "False", "(7, 12)", "7", "'shape'", "{", "}", ",", HEADER]))
    return HEADER.replace(part, draw(st.sampled_from(strange) | st.text(st.characters(max_codepoint=255), max_size=9)))


@given(header=headers(), version=st.integers(1, 3))
@example(header="{'descr': (", version=1)
@example(header="{[]: 1}", version=1)
def test_an_npy_header_is_believed_or_refused(folder: Path, header: str, version: int) -> None:
    content = zip_of({"data.npy": npy(header, version)})
    found = result(folder, NPZ_CONFIG, imagenet_npz({"train_data_batch_1.npz": content}))
    if isinstance(found, UserError):
        assert "train.zip" in str(found)
    else:
        assert np.array_equal(np.array(found["train/images"]).reshape(7, 12), ROWS)


# ------------------------------------------------------------------------------------------------------- .mat files


def inflated(content: bytes) -> list[bytes]:
    """A MATLAB file's header, and its variables unpacked."""
    parts, place = [content[:128]], 128
    while place < len(content):
        _, size = struct.unpack_from("<II", content, place)
        parts.append(zlib.decompress(content[place + 8 : place + 8 + size]))
        place += 8 + size
    return parts


def deflated(parts: list[bytes]) -> bytes:
    packed = [zlib.compress(part) for part in parts[1:]]
    return parts[0] + b"".join(struct.pack("<II", 15, len(part)) + part for part in packed)


MAT = inflated(OMNIGLOT["chardata.mat"])
MAT_CONFIG = of_any_size(OMNIGLOT_CONFIG)


@given(variable=st.integers(1, len(MAT) - 1), data=st.data())
def test_a_mat_file_spoilt_before_it_was_packed(folder: Path, variable: int, data: st.DataObject) -> None:
    content = [*MAT[:variable], data.draw(spoilt(MAT[variable])), *MAT[variable + 1 :]]
    found = result(folder, MAT_CONFIG, {"chardata.mat": deflated(content)})
    if isinstance(found, UserError):
        assert "chardata.mat" in str(found)
    else:
        assert np.array(found["train/images"]).shape == (4, 1, 3, 2)


@given(content=spoilt(MAT[0] + b"".join(MAT[1:])))
def test_a_mat_file_that_is_not_packed(folder: Path, content: bytes) -> None:
    found = result(folder, MAT_CONFIG, {"chardata.mat": content})
    assert not isinstance(found, UserError) or "chardata.mat" in str(found)


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(name: bytes, shape: tuple[int, int], kind: int, content: bytes) -> bytes:
    """A variable of a MATLAB file: flags, dimensions, name, and the content as an element."""
    flags, size = struct.pack("<II", kind, 0), struct.pack("<ii", *shape)
    return element(14, element(6, flags) + element(5, size) + element(1, name) + content)


@pytest.mark.parametrize("declared", [None, 2**32 - 1])
def test_a_mat_file_that_unpacks_to_gigabytes_is_refused_within_bounds(folder: Path, declared: int | None) -> None:
    """4 MB of it are 2 GB of zeros that stand where 36 numbers are expected."""
    compressor = zlib.compressobj(9)
    zeros, size = bytes(1 << 24), 2_000_000_000
    bomb = matrix(b"data", (6, 6), 6, b"")
    bomb = struct.pack("<II", 14, (declared or size)) + bomb[8:] + struct.pack("<II", 9, declared or size)
    packed = compressor.compress(bomb) + compressor.flush(zlib.Z_FULL_FLUSH)
    packed += (compressor.compress(zeros) + compressor.flush(zlib.Z_FULL_FLUSH)) * (size // len(zeros))
    assert len(packed) < 1 << 22
    content = MAT[0] + struct.pack("<II", 15, len(packed)) + packed + deflated(MAT)[128:]
    found = result(folder, MAT_CONFIG, {"chardata.mat": content})
    assert isinstance(found, UserError) and "chardata.mat" in str(found)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (matrix(b"data", (6, 6), 6, element(9, bytes(288))), "has data twice"),
        (matrix(b"data", (1 << 30, 1), 1, b""), "got no numbers (1073741824, 1)"),  # a cell array
        (matrix(b"data", (6, 6), 6, element(2**16 - 1, bytes(288))), "stored as numbers of type 65535"),
        (matrix(b"data", (6, 6), 6, b""), "is damaged"),
    ],
    ids=["twice", "cells", "unknown type", "empty"],
)
def test_a_mat_file_with_a_strange_variable_is_refused(folder: Path, first: bytes, message: str) -> None:
    found = result(folder, MAT_CONFIG, {"chardata.mat": deflated([MAT[0], first, *MAT[1:]])})
    assert message in str(found)


# -------------------------------------------------------------------------------------------------- pictures

PNG = picture(PIXELS[0])


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@given(
    kind=st.sampled_from(
        [b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT"]
    ),
    content=st.binary(max_size=40) | st.just(b"x\0\0" + zlib.compress(bytes(50_000_000))),
    place=st.sampled_from([8, 33, len(PNG) - 12]),
)
def test_a_png_with_a_chunk_too_many(kind: bytes, content: bytes, place: int) -> None:
    try:
        with bounded():
            pixels = decode(PNG[:place] + chunk(kind, content) + PNG[place:], "PNG", (2, 2), "RGB", "here")
    except UserError as error:
        assert "here" in str(error)
    else:
        assert pixels.shape == (2, 2, 3)


# -------------------------------------------------------------------------------------- what is fetched and prepared


@given(content=spoilt(gzip.compress(b"0,16,0\n" * 50)))
def test_what_a_source_gives_is_the_declared_content_or_not_taken(tmp_path_factory: Any, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "digits.csv.gz").write_bytes(content)
    declared = config("digits", {"digits.csv": b"0,16,0\n" * 50}, (1, 1, 2), {"train": 1})
    try:
        with bounded():
            (path,) = fetch("tiny", declared, folder / "raw", str(folder))
    except UserError as error:
        assert "digits.csv" in str(error)
        assert not (folder / "raw").exists() or list((folder / "raw").iterdir()) == []
    else:
        assert path.read_bytes() == b"0,16,0\n" * 50


@pytest.mark.parametrize(
    "source", ["package:", "package:.", "package:a..b", "package:\0", "a\0b", "http://[", "https://"]
)
def test_a_source_that_is_nonsense_is_told_as_one(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PAUSES", ())
    declared = config("digits", {"digits.csv": b"x"}, (1, 1, 2), {"train": 1}).model_copy(update={"sources": (source,)})
    with pytest.raises(UserError, match=r"no source gives digits\.csv"):
        fetch("tiny", declared, tmp_path, None)


ARRAYS: dict[str, NDArray[Any]] = {
    "train/images": np.zeros((2, 1, 2, 2), np.uint8),
    "test/images": np.ones((1, 1, 2, 2), np.uint8),
    "test/labels": np.zeros(1, np.int64),
}


@given(content=spoilt(save(ARRAYS)))
def test_an_array_file_is_mapped_or_refused(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.mktemp("arrays") / "data.safetensors"
    path.write_bytes(content)
    try:
        with bounded():
            arrays = map_arrays(path)
            assert all(array.sum() >= 0 for array in arrays.values())
    except UserError as error:
        assert str(path) in str(error)


@st.composite
def descriptions(draw: st.DrawFn) -> bytes:
    about: dict[str, Any] = {"dataset": "tiny", "shape": [1, 2, 2], "levels": 2, "binarisation": "static"}
    about |= {"splits": {"train": 2, "test": 1}, "fingerprint": "ours"}
    strange: Any = st.sampled_from([None, "", [], {}, 3, -1, 1e300, {"train": []}, ["train", []], [["x"]], "../x"])
    about[draw(st.sampled_from(sorted(about)))] = draw(strange)
    return draw(st.sampled_from([json.dumps(about).encode(), b"[" * 5000, b"null", b"\xff", b'{"a": NaN}']))


@given(description=descriptions())
def test_a_prepared_dataset_is_loaded_or_refused(tmp_path_factory: Any, description: bytes) -> None:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "data.safetensors").write_bytes(save(ARRAYS))
    ours = hashlib.sha256(save(ARRAYS)).hexdigest().encode()
    (folder / "data.json").write_bytes(description.replace(b"ours", ours))
    try:
        with bounded():
            load(folder)
    except UserError as error:
        assert str(folder) in str(error)


@pytest.mark.parametrize("record", ['{"digits.csv": 3}', '{"digits.csv": null}', "[]", "[" * 5000, "\0"])
def test_a_spoilt_record_of_first_use_is_no_reason_to_trust_anew(tmp_path: Path, record: str) -> None:
    first_use_record(tmp_path / "raw").write_text(record)
    with pytest.raises(UserError, match=r"raw\.first-use\.json"):
        recorded(tmp_path / "raw" / "digits.csv")


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "digits.csv")
    (file,) = config("digits", {"digits.csv": b"x"}, (1, 1, 2), {"train": 1}).files
    with bounded(), pytest.raises(UserError, match=r"digits\.csv cannot be read: it is no regular file"):
        read(tmp_path / "digits.csv", file)


# ------------------------------------------------------------------------------------------- nothing is unpickled


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def payload(tmp_path: Path) -> Payload:
    """One that would work."""
    made = Payload(tmp_path / "executed")
    pickle.loads(pickle.dumps(made))
    made.path.unlink()
    return made


def test_a_pickle_in_a_checkpoint_is_not_run(tmp_path: Path, payload: Payload) -> None:
    for content in (payload, {"update": 1, "model": payload}):
        for name in (checkpoint.NEWEST, checkpoint.PREVIOUS):
            torch.save(content, tmp_path / name)
            (tmp_path / "bare").write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=r"No checkpoint in .* can be read"):
            checkpoint.load(tmp_path)
        os.replace(tmp_path / "bare", tmp_path / checkpoint.NEWEST)
        with pytest.raises(UserError, match=r"No checkpoint in .* can be read"):
            checkpoint.load(tmp_path)
    assert not payload.path.exists()


@pytest.mark.parametrize("name", ["data", "labels"])
def test_a_pickle_in_an_npz_file_is_not_run(folder: Path, payload: Payload, name: str) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **({"data": ROWS} | {name: np.array([payload], dtype=object)}))
    found = result(folder, NPZ_CONFIG, imagenet_npz({"train_data_batch_1.npz": buffer.getvalue()}))
    assert isinstance(found, UserError) == (name == "data")
    assert not payload.path.exists()


def test_a_pickle_in_a_mat_file_is_not_run(folder: Path, payload: Payload) -> None:
    buffer = io.BytesIO()
    content = np.frombuffer(pickle.dumps(payload), np.uint8)
    scipy.io.savemat(buffer, {"data": np.array([[content]], dtype=object), "testdata": content})
    assert isinstance(result(folder, MAT_CONFIG, {"chardata.mat": buffer.getvalue()}), UserError)
    assert not payload.path.exists()


def test_a_pickle_instead_of_weights_or_arrays_is_not_run(tmp_path: Path, payload: Payload) -> None:
    (tmp_path / "data.safetensors").write_bytes(pickle.dumps(payload))
    with pytest.raises(UserError, match=r"data\.safetensors"):
        map_arrays(tmp_path / "data.safetensors")
    assert not payload.path.exists()


def test_the_code_names_no_loader_of_pickles() -> None:
    """What the tests above cannot see: a loader that they do not know."""
    code = "\n".join(path.read_text() for path in (Path(__file__).parents[2] / "biva").rglob("*.py"))
    loaders = (
        "import pickle",
        "import dill",
        "joblib",
        "allow_pickle",
        "np.load(",
        "weights_only=False",
        "yaml.unsafe",
    )
    assert not [loader for loader in loaders if loader in code]
    assert code.count("torch.load(") == code.count("weights_only=True") == 1
