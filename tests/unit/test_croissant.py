"""Croissant metadata of every dataset, read by the public package, and against the registry and the specification."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import mlcroissant
import pytest

from biva.config import load_datasets
from biva.data.croissant import croissant

CONFIGS = load_datasets(Path(__file__).resolve().parents[2] / "config")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_public_package_reads_it_as_the_registry_has_it(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, path = CONFIGS[name], tmp_path / f"{name}.json"
    path.write_text(json.dumps(croissant(name, config)))
    logging.getLogger("absl").propagate = True
    read = mlcroissant.Dataset(path).metadata  # raises where it is not valid
    assert "is not standard" not in caplog.text
    assert not read.ctx.issues.errors
    assert (read.name, read.cite_as) == (name, config.citation.strip())
    *files, together = read.distribution
    assert {file.id: (file.sha256, file.md5) for file in files} == {
        file.name: (file.sha256, file.md5) for file in config.files
    }
    assert together.contained_in == [file.name for file in config.files]
    splits, images = read.record_sets
    assert {line["splits/name"]: line["splits/images"] for line in splits.data} == config.splits
    assert images.fields[0].array_shape_tuple == config.shape


def test_what_the_registry_says_in_words_is_taken_apart() -> None:
    static = croissant("mnist_static", CONFIGS["mnist_static"])
    assert static["license"] == "https://spdx.org/licenses/CC-BY-SA-3.0"
    assert [person["name"] for person in static["creator"]] == ["H. Larochelle", "I. Murray"]
    assert static["datePublished"] == "2011"
    assert static["distribution"][0]["contentUrl"].endswith("/binarized_mnist/binarized_mnist_train.amat")
    assert static["distribution"][0]["contentSize"] == "78400000 B"
    patches = croissant("photo_patches", CONFIGS["photo_patches"])
    assert patches.keys() >= {"license", "citeAs", "url"} and not patches.keys() & {"creator", "datePublished"}
    assert patches["distribution"][0]["contentUrl"] == "china.jpg"  # from a package, which is no address
    assert croissant("svhn", CONFIGS["svhn"])["license"] == "non-commercial use only"
    assert (
        "contentSize" not in croissant("omniglot", CONFIGS["omniglot"])["distribution"][0]
    )  # of which the most is known


def test_an_entry_of_which_little_is_known_is_described_too() -> None:
    file = CONFIGS["omniglot"].files[0].model_copy(update={"md5": None})
    known = {"files": (file,), "homepage": None, "sources": (), "citation": "Ours", "licence": "not known"}
    content = croissant("own", CONFIGS["omniglot"].model_copy(update=known))
    assert not content.keys() & {"creator", "datePublished", "url"}
    assert content["distribution"][0].keys() >= {"contentUrl"} and "md5" not in content["distribution"][0]
