"""Prepared datasets in a tar: what arrives is what was sent, and nothing else is let in or overwritten."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from biva.data.bundle import export_datasets, import_datasets
from biva.data.datasets import load, prepare
from biva.errors import UserError
from tests.hostile import last_bit_flipped
from tests.unit.test_readers import Files, config, tar_of

RAW = {
    "one": {"train": b"1 0\n0 1\n1 1\n", "valid": b"0 0\n1 0\n", "test": b"0 1\n"},
    "two": {"train": b"1 1\n", "valid": b"1 0\n", "test": b"0 1\n0 0\n"},
}
CONFIGS = {
    name: config(
        *("amat", {f"{split}.amat": content for split, content in rows.items()}, (1, 1, 2)),
        {split: content.count(b"\n") for split, content in rows.items()},
        levels=2,
        binarisation="static",
        licence="CC BY 4.0",
    )
    for name, rows in RAW.items()
}
"""Datasets of 1x1x2 pixels whose raw files, train, valid and test, have these lines."""


@pytest.fixture
def resources(tmp_path: Path) -> Path:
    """Both datasets, prepared."""
    for name, rows in RAW.items():
        raw = tmp_path / "here" / name / "raw"
        raw.mkdir(parents=True)
        for split, content in rows.items():
            (raw / f"{split}.amat").write_bytes(content)
        prepare(name, CONFIGS[name], raw, raw.parent)
    return tmp_path / "here"


@pytest.fixture
def archive(resources: Path, tmp_path: Path) -> Path:
    export_datasets(CONFIGS, resources, tmp_path / "datasets.tar")
    return tmp_path / "datasets.tar"


def members(path: Path) -> Files:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_was_exported_arrives(archive: Path, resources: Path, tmp_path: Path) -> None:
    assert import_datasets(archive, CONFIGS, tmp_path / "there") == ["one", "two"]
    there = files(tmp_path / "there")
    assert sorted(there) == ["one/data.json", "one/data.safetensors", "two/data.json", "two/data.safetensors"]
    assert there == {name: content for name, content in files(resources).items() if "/raw/" not in name}
    dataset = load(tmp_path / "there" / "one")
    assert np.array_equal(dataset.split("train").numpy().reshape(3, 2), [[1, 0], [0, 1], [1, 1]])


def test_equal_datasets_are_equal_archives_with_licences_and_checksums(archive: Path, resources: Path) -> None:
    again = archive.with_name("again.tar")
    export_datasets(CONFIGS, resources, again)
    assert again.read_bytes() == archive.read_bytes()
    content = members(archive)
    licences = content["LICENCES.txt"].decode()
    assert licences.count("CC BY 4.0") == 2
    for name in CONFIGS:
        assert hashlib.sha256(content[f"{name}/data.safetensors"]).hexdigest() in licences


def changed(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Files], Files]:
    return lambda content: content | {name: edit(content[name])}


def renamed(old: str, new: str) -> Callable[[Files], Files]:
    return lambda content: {name.replace(old, new): data for name, data in content.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed("two/data.safetensors", last_bit_flipped), "is damaged: two/data.safetensors has the SHA-256"),
        (
            changed("two/data.json", lambda data: data.replace(b'"levels": 2', b'"levels": 256')),
            "was prepared by another entry: its levels is 256, but by config/datasets.yaml 2",
        ),
        (renamed("two/", "three/"), "has dataset 'three', which config/datasets.yaml does not have"),
        (renamed("two/", "../two/"), "has dataset '..', which config/datasets.yaml does not have"),
        (renamed("two/", "/two/"), "has dataset '', which"),
        (lambda content: dict([*content.items()][:-1]), "has no two/data.safetensors: it is no whole export"),
        (lambda content: dict([*content.items()][:1]), "holds no dataset"),
        (changed("one/data.json", lambda _: b"["), "is damaged"),
        (changed("one/data.json", lambda _: b"[]"), "one/data.json says None"),
    ],
)
def test_a_wrong_archive_is_refused_and_nothing_is_written(
    archive: Path, tmp_path: Path, change: Callable[[Files], Files], said: str
) -> None:
    wrong = tmp_path / "wrong.tar"
    wrong.write_bytes(tar_of(change(members(archive))))
    with pytest.raises(UserError) as error:
        import_datasets(wrong, CONFIGS, tmp_path / "there")
    assert said in str(error.value)
    assert not (tmp_path / "there").exists()


def test_an_archive_cut_anywhere_is_refused(archive: Path, tmp_path: Path) -> None:
    whole, cut = archive.read_bytes(), tmp_path / "cut.tar"
    needed = whole.rindex(b"two/data.safetensors")
    for length in (0, 1, 511, 512, 1000, needed, needed + 512, needed + 600):
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError):
            import_datasets(cut, CONFIGS, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_what_is_there_is_kept_if_equal_and_never_overwritten(archive: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    import_datasets(archive, CONFIGS, there)
    times = {path: path.stat().st_mtime_ns for path in there.rglob("*")}
    import_datasets(archive, CONFIGS, there)
    assert {path: path.stat().st_mtime_ns for path in there.rglob("*")} == times
    (there / "one" / "data.safetensors").unlink()
    (there / "two" / "data.safetensors").write_bytes(b"mine")
    before = files(there)
    with pytest.raises(UserError, match=r"two/data\.safetensors is there with another content"):
        import_datasets(archive, CONFIGS, there)
    assert files(there) == before


def test_only_whole_datasets_are_exported_and_no_file_is_lost(resources: Path, archive: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        export_datasets(CONFIGS, resources, archive)
    target = archive.with_name("new.tar")
    (resources / "two" / "data.json").unlink()
    with pytest.raises(UserError, match="'two' is not prepared"):
        export_datasets(CONFIGS, resources, target)
    other = CONFIGS["one"].model_copy(update={"binarisation": "dynamic"})
    with pytest.raises(UserError, match="was prepared by another entry: its binarisation is 'static'"):
        export_datasets({"one": other}, resources, target)
    assert not target.exists()
