"""Files made to harm, where no digest vouches for them: nothing of them is run, written, or unpacked without bound.

These are the files of `trust: first_use` (Lake's zips, Burda's mat file), what a source gives, and what
`biva data import` takes.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save

from biva.config import DatasetConfig
from biva.data.array_file import map_arrays
from biva.data.bundle import import_datasets
from biva.data.checksums import first_use_record, recorded
from biva.data.datasets import load, read_arrays
from biva.data.limits import expect_at_most, in_another_process
from biva.data.pictures import decode
from biva.data.raw import pieces
from biva.data.sources import fetch
from biva.errors import UserError
from biva.training import checkpoint
from tests.hostile import bounded, spoilt
from tests.unit.test_readers import (
    IMAGENET,
    LAKE,
    LAKE_CONFIG,
    NPZ,
    NPZ_CONFIG,
    OMNIGLOT,
    OMNIGLOT_CONFIG,
    OMNIGLOT_TEST,
    OMNIGLOT_TRAIN,
    PIXELS,
    columns,
    config,
    mat,
    npz,
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
            arrays = read_arrays("tiny", config, folder)
            found = {key: np.concatenate(list(pieces(array))).tolist() for key, array in arrays.items()}
    except UserError as error:
        found = error
    assert {path.name for path in folder.iterdir()} == set(files)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    return found


def of_first_use(config: DatasetConfig) -> DatasetConfig:
    """The same dataset, for whose files of up to 4 MB nobody vouches."""
    files = tuple(file.model_copy(update={"bytes": 1 << 22, "trust": "first_use"}) for file in config.files)
    return config.model_copy(update={"files": files})


LAKE_UNVOUCHED, MAT_UNVOUCHED = of_first_use(LAKE_CONFIG), of_first_use(OMNIGLOT_CONFIG)

# ---------------------------------------------------------------------------------------- sizes before unpacking

ZEROS = bytes(200_000_000)


def bomb_of_gzip() -> bytes:
    return gzip.compress(ZEROS, 1)


def bomb_of_zip() -> bytes:
    return zip_of({"a": ZEROS})


def bomb_of_mat() -> bytes:
    packed = zlib.compress(ZEROS, 1)
    return OMNIGLOT["chardata.mat"][:128] + struct.pack("<II", 15, len(packed)) + packed


@pytest.mark.parametrize("bomb", [bomb_of_gzip, bomb_of_zip, bomb_of_mat])
def test_a_file_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, bomb: Callable[[], bytes]
) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(bomb())
    with bounded(), pytest.raises(UserError, match=r"bomb unpacks to more than the expected 199,999,999 bytes"):
        expect_at_most(path, 199_999_999)
    expect_at_most(path, 200_000_000)


def test_only_files_of_first_use_are_measured(folder: Path) -> None:
    files = {"train.zip": zip_of({"a": ZEROS}), "val.zip": NPZ["val.zip"]}
    assert "train/images are 0" in str(result(folder, NPZ_CONFIG, files))
    assert "unpacks to more than the expected" in str(result(folder, of_first_use(NPZ_CONFIG), files))


# ---------------------------------------------------------------------------------------------------- zip archives

NAMES = ["/etc/passwd", "../../out.png", "a\0b", "é" * 200, "x/" * 60, "C:\\x.png", "images_background/../../y/z.png"]


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    """Lake's drawings beside a member that no valid zip has."""
    with zipfile.ZipFile(io.BytesIO(LAKE["images_background.zip"])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(draw(st.sampled_from(NAMES)))
        info.external_attr = draw(st.sampled_from([0, 0o120777 << 16, 0o060666 << 16, 0xFFFFFFFF]))
        info.compress_type = draw(st.sampled_from([0, 8, 12, 14]))
        info.extra = draw(st.sampled_from([b"", b"\1\0\4\0abcd", b"ab"])) if info.compress_type else b""
        archive.writestr(info, draw(st.sampled_from([b"", b"../../../etc/passwd", bytes(100_000)])))
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@given(content=zips())
def test_a_zip_with_a_strange_member_gives_the_same_images_or_is_refused(folder: Path, content: bytes) -> None:
    found = result(folder, LAKE_UNVOUCHED, LAKE | {"images_background.zip": content})
    assert isinstance(found, UserError) or found == result(folder, LAKE_UNVOUCHED, LAKE)


@given(content=spoilt(LAKE["images_background.zip"]))
def test_a_spoilt_zip_is_read_or_refused(folder: Path, content: bytes) -> None:
    found = result(folder, LAKE_UNVOUCHED, LAKE | {"images_background.zip": content})
    assert isinstance(found, UserError) or np.array(found["train/images"]).shape == (2, 1, 28, 28)


def test_a_zip_with_a_name_twice_is_refused(folder: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"x")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a", b"y")
    assert "has a member twice" in str(
        result(folder, LAKE_UNVOUCHED, LAKE | {"images_background.zip": buffer.getvalue()})
    )


def test_a_zip_that_lies_about_its_sizes_gives_no_more_than_it_says(folder: Path) -> None:
    name = "images_background/A/b/1.png"
    content = bytearray(zip_of({name: ZEROS}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.index(signature) + offset
        content[place : place + 4] = struct.pack("<I", 10)
    assert "Bad CRC-32" in str(result(folder, LAKE_UNVOUCHED, LAKE | {"images_background.zip": bytes(content)}))


# ------------------------------------------------------------------------------------------------------- .mat files


MAT = mat(do_compression=False, data=columns(OMNIGLOT_TRAIN), testdata=columns(OMNIGLOT_TEST))
CRASH = MAT[:176] + bytes(4) + MAT[180:]
"""The values of the first variable are of a type that there is not: SciPy's reader ends its process."""


@settings(max_examples=3)  # a process each
@given(content=spoilt(MAT))
@example(content=CRASH)
def test_a_spoilt_mat_file_is_read_or_refused(folder: Path, content: bytes) -> None:
    found = result(folder, MAT_UNVOUCHED, {"chardata.mat": content})
    assert isinstance(found, UserError) or np.array(found["train/images"]).shape == (4, 1, 3, 2)


def test_a_crash_of_another_process_is_an_error_here() -> None:
    with pytest.raises(ValueError, match="its reader crashed"):
        in_another_process(os.abort)


# -------------------------------------------------------------------------------------------------- pictures

PNG = picture(PIXELS[0])


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_picture_is_refused_before_it_is_unpacked() -> None:
    """A few bytes that would unpack to 10^10 pixels."""
    content = PNG[:8] + chunk(b"IHDR", struct.pack(">II", 100_000, 100_000) + PNG[24:29]) + PNG[33:]
    with bounded(), pytest.raises(UserError, match=r"here (is no PNG picture|has 100000 x 100000 pixels)"):
        decode(content, "PNG", (2, 2), "L", "here")


@given(content=spoilt(PNG))
def test_a_spoilt_png_is_read_or_refused(content: bytes) -> None:
    try:
        with bounded():
            assert decode(content, "PNG", (2, 2), "RGB", "here").shape == (2, 2, 3)
    except UserError as error:
        assert "here" in str(error)


@given(
    kind=st.sampled_from([b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"acTL", b"fdAT"]),
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


# ----------------------------------------------------------------------------------- what is fetched and imported


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
def test_a_source_that_is_nonsense_is_reported_as_one(tmp_path: Path, source: str) -> None:
    declared = config("digits", {"digits.csv": b"x"}, (1, 1, 2), {"train": 1}).model_copy(update={"sources": (source,)})
    with pytest.raises(UserError, match=r"no source gives digits\.csv"):
        fetch("tiny", declared, tmp_path, None)


@pytest.mark.parametrize("record", ['{"digits.csv": 3}', '{"digits.csv": null}', "[]", "[" * 5000, "\0"])
def test_a_spoilt_record_of_first_use_is_no_reason_to_trust_anew(tmp_path: Path, record: str) -> None:
    first_use_record(tmp_path / "raw").write_text(record)
    with pytest.raises(UserError, match=r"raw\.first-use\.json"):
        recorded(tmp_path / "raw" / "digits.csv")


ARRAYS: dict[str, NDArray[Any]] = {
    "train/images": np.zeros((2, 1, 2, 2), np.uint8),
    "test/images": np.ones((1, 1, 2, 2), np.uint8),
    "test/labels": np.zeros(1, np.int64),
}
DESCRIPTION = {"dataset": "tiny", "shape": [1, 2, 2], "levels": 2, "binarisation": "static"}
DESCRIPTION |= {"splits": {"train": 2, "test": 1}, "fingerprint": hashlib.sha256(save(ARRAYS)).hexdigest()}


@given(content=spoilt(save(ARRAYS)))
def test_an_array_file_is_mapped_or_refused(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.mktemp("arrays") / "data.safetensors"
    path.write_bytes(content)
    try:
        with bounded():
            arrays = map_arrays(path).values()
            assert all(array.clone().shape == array.shape for array in arrays)  # every byte can be read
            assert sum(array.nbytes for array in arrays) < len(content)
    except UserError as error:
        assert str(path) in str(error)


@st.composite
def descriptions(draw: st.DrawFn) -> bytes:
    about: dict[str, Any] = dict(DESCRIPTION)
    strange: Any = st.sampled_from([None, "", [], {}, 3, -1, 1e300, {"train": []}, ["train", []], [["x"]], "../x"])
    about[draw(st.sampled_from(sorted(about)))] = draw(strange)
    return draw(st.sampled_from([json.dumps(about).encode(), b"[" * 5000, b"null", b"\xff", b'{"a": NaN}']))


@given(description=descriptions())
def test_a_prepared_dataset_is_loaded_or_refused(tmp_path_factory: Any, description: bytes) -> None:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "data.safetensors").write_bytes(save(ARRAYS))
    (folder / "data.json").write_bytes(description)
    try:
        with bounded():
            load(folder)
    except UserError as error:
        assert str(folder) in str(error)


BUNDLE = {"tiny/data.json": json.dumps(DESCRIPTION).encode(), "tiny/data.safetensors": save(ARRAYS)}
BUNDLE_CONFIG = config("imagenet_png", IMAGENET, (1, 2, 2), {"train": 2, "test": 1}, levels=2, binarisation="static")
TYPES = [
    *(tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
    *(tarfile.DIRTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, b"?"),
]


@st.composite
def entries(draw: st.DrawFn) -> bytes:
    """One entry of a tar that no valid one has."""
    info = tarfile.TarInfo(draw(st.sampled_from([*NAMES, *BUNDLE])))
    info.type, info.linkname = draw(st.sampled_from(TYPES)), draw(st.sampled_from([*NAMES, *BUNDLE]))
    info.mode, info.mtime = draw(st.integers(0, 0o7777)), draw(st.integers(-9, 2**33))
    content = draw(st.binary(max_size=40) | st.sampled_from([b"1\n" * 300, b"30 GNU.sparse.major=1\n", bytes(600)]))
    info.size = draw(st.sampled_from([len(content), 0, 511, 2**33 - 1, 2**70, -1]))
    try:
        header = info.tobuf(draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])))
    except ValueError:  # a pax header cannot say this of it
        header = tarfile.TarInfo("x").tobuf()
    return header + content + bytes(-len(content) % 512)


def assert_imported_or_refused(folder: Path, archive: bytes) -> None:
    """Either exactly the two files of the dataset arrive, or nothing does."""
    (folder / "datasets.tar").write_bytes(archive)
    there = folder / "resources"
    try:
        with bounded():
            import_datasets(folder / "datasets.tar", {"tiny": BUNDLE_CONFIG}, there)
    except UserError as error:
        assert "datasets.tar" in str(error)
        assert not there.exists()
    else:
        files = {str(path.relative_to(there)): path.read_bytes() for path in there.rglob("*") if path.is_file()}
        assert files["tiny/data.safetensors"] == save(ARRAYS) and len(files) == 2
        assert json.loads(files["tiny/data.json"]) == DESCRIPTION
    assert {path.name for path in folder.iterdir()} <= {"datasets.tar", "resources"}


@given(entry=entries(), last=st.booleans())
def test_a_tar_with_a_strange_entry_is_imported_as_it_was_exported_or_refused(
    tmp_path_factory: Any, entry: bytes, last: bool
) -> None:
    whole = tar_of(BUNDLE).rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    assert_imported_or_refused(
        tmp_path_factory.mktemp("import"), (whole + entry if last else entry + whole) + bytes(1024)
    )


@given(content=spoilt(tar_of(BUNDLE)))
def test_a_spoilt_tar_is_imported_as_it_was_exported_or_refused(tmp_path_factory: Any, content: bytes) -> None:
    assert_imported_or_refused(tmp_path_factory.mktemp("import"), content)


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
    lines = PIXELS[:7].transpose(0, 3, 1, 2).reshape(-1, 12)
    content = npz(**({"data": lines} | {name: np.array([payload], dtype=object)}))
    found = result(folder, NPZ_CONFIG, NPZ | {"train.zip": zip_of({"train_data_batch_1.npz": content})})
    assert isinstance(found, UserError) == (name == "data")
    assert not payload.path.exists()


def test_a_pickle_instead_of_weights_or_arrays_is_not_run(tmp_path: Path, payload: Payload) -> None:
    (tmp_path / "data.safetensors").write_bytes(pickle.dumps(payload))
    with pytest.raises(UserError, match=r"data\.safetensors"):
        map_arrays(tmp_path / "data.safetensors")
    assert not payload.path.exists()


def test_the_code_names_no_loader_of_pickles() -> None:
    """What the tests above cannot see: a loader that they do not know."""
    code = "\n".join(path.read_text() for path in (Path(__file__).parents[2] / "biva").rglob("*.py"))
    loaders = ("import pickle", "import dill", "joblib", "allow_pickle", "weights_only=False", "yaml.unsafe")
    assert not [loader for loader in loaders if loader in code]
    assert code.count("torch.load(") == code.count("weights_only=True") == 1
