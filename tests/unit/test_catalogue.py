"""The table of all datasets, on a folder of the test's own."""

from __future__ import annotations

from pathlib import Path

from biva.config import load_datasets
from biva.data.catalogue import catalogue

CONFIGS = load_datasets(Path(__file__).resolve().parents[2] / "config")


def row(name: str, resources: Path) -> str:
    lines = [line for line in catalogue(CONFIGS, resources).splitlines() if line.split()[:1] == [name]]
    return lines[0]


def test_every_dataset_is_listed_with_its_splits_and_origin(tmp_path: Path) -> None:
    table = catalogue(CONFIGS, tmp_path / "nothing")
    for name, config in CONFIGS.items():
        assert config.title.split(",")[0] in table
        assert " - " in row(name, tmp_path)
    assert "162,770 / 19,867 / 19,962" in row("celeba64", tmp_path) and "by hand" in row("celeba64", tmp_path)
    assert "- / - / 26,032" in row("svhn", tmp_path) and "ufldl.stanford.edu" in row("svhn", tmp_path)
    assert "170.1 MB" in row("cifar10", tmp_path) and "184.3 MB" in row("cifar10", tmp_path)
    assert "NOT comparable" in table


def test_what_is_present(tmp_path: Path) -> None:
    folder = tmp_path / "celeba64"
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "list_eval_partition.txt").touch()
    assert "raw 1 of 2" in row("celeba64", tmp_path)
    (folder / "raw" / "img_align_celeba.zip").touch()
    (folder / "data.safetensors").touch()
    assert " raw " in row("celeba64", tmp_path) and "prepared" not in row("celeba64", tmp_path)
    (folder / "data.json").touch()
    assert " raw, prepared " in row("celeba64", tmp_path)
