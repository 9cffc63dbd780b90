"""The RO-Crate of a published set: valid by the public validator, read by the public package, true to the records."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import rocrate
from rocrate.rocrate import ROCrate

from biva import publishing
from biva.config import find_anomaly
from biva.crate import METADATA, crate
from biva.records import RunFolder, read_json, seal
from tests.fake_runs import detect, edit, fake_config, fake_run, fake_test_error, labelled_config

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = sorted((ROOT / "results" / "published").glob("*/"))
FOLDER = Path("results/published/quick")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some runs of `quick`, published: BIVA with anomalies and another commit of the evaluation, and two others."""
    project = tmp_path_factory.mktemp("project")
    (project / "config").symlink_to(ROOT / "config")
    shutil.copy(ROOT / "CITATION.cff", project)
    runs = project / FOLDER / "runs"
    one = fake_run(runs, fake_config("biva"), bounds={1: (-20.0, 0.5)})
    other = fake_run(runs, fake_config("lvae"), bounds={}, started="2026-01-01T00:00:00+00:00")
    labelled = fake_test_error(runs, labelled_config(seed=2), 20.0)
    scores = dict.fromkeys(("L>0", *(f"{kind}>{k}" for kind in ("L", "LLR") for k in (1, 2, 3))), (0.9, 0.8, 1.0))
    detect(one, find_anomaly("quick", "photo_patches", ROOT / "config"), scores, np.zeros((4, 5)), np.zeros((4, 10)))
    edit(one.evaluation, commit="4567def")
    for run in (one, other, labelled):
        run.weights.write_bytes(b"the weights of " + run.path.parent.name.encode())
        seal(run, (run.weights,))
        run.weights.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setattr(publishing, "folders_to_draw", lambda *_: [])  # figures are no part of it, and slow
        publishing.rebuild("quick", FOLDER)
    return project


@pytest.fixture
def published(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy."""
    shutil.copytree(made, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    return FOLDER


def entities(folder: Path) -> dict[str, dict[str, Any]]:
    return {entity["@id"]: entity for entity in read_json(folder / METADATA)["@graph"]}


def refs(value: Any) -> list[str]:
    """The entities that a property refers to."""
    values = value if isinstance(value, list) else [value]
    return [one["@id"] for one in values if isinstance(one, dict)]


def test_it_says_what_ran_on_what_with_what_and_what_came_out(published: Path) -> None:
    found, name = entities(published), "digits/digits_8x8/biva/seed1"
    train, evaluate = found[f"#train/{name}"], found[f"#evaluate/{name}"]
    assert (train["startTime"], train["endTime"]) == ("2026-01-02T03:04:05+00:00", "2026-01-02T04:00:00+00:00")
    assert evaluate["endTime"] == "2026-01-02T05:00:00+00:00"
    tools = [found[action["instrument"]["@id"]] for action in (train, evaluate)]
    assert [tool["version"] for tool in tools] == ["0.1.0, commit 0123abc", "0.1.0, commit 4567def"]
    assert {found[package]["version"] for package in refs(tools[0]["softwareRequirements"])} == {"2.13.0"}
    digits, *settings = refs(train["object"])
    assert (found[digits]["name"], found[digits]["sha256"]) == ("digits/data.safetensors", "f" * 64)
    assert settings == [f"runs/{name}/run.json"]
    (raw,) = refs(found[digits]["isBasedOn"])
    assert found[raw]["sha256"] == "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
    weights = refs(train["result"])[-1]
    assert found[weights]["sha256"] == hashlib.sha256(b"the weights of biva").hexdigest()
    assert weights in refs(evaluate["object"])
    assert refs(evaluate["result"]) == [f"runs/{name}/evaluation.json", f"runs/{name}/bounds.safetensors"]
    scored = [found[data]["name"] for data in refs(found[f"#detect/{name}/photo_patches"]["object"])[1:]]
    assert scored == ["digits/data.safetensors", "photo_patches/data.safetensors"]
    assert "#train/digits/digits_8x8/biva_50_labels/seed2" in found
    root, whole = found["./"], found["#quick"]
    assert (root["datePublished"], whole["startTime"]) == ("2026-01-02T06:00:00+00:00", "2026-01-01T00:00:00+00:00")
    assert found[root["author"]["@id"]]["name"] == "The biva authors"
    assert root["license"]["@id"] == "https://spdx.org/licenses/MIT"
    assert {"results.csv", "tables/likelihood.tex", "anomalies/photo_patches.html"} < {*refs(whole["result"])}


def test_files_that_are_not_there_are_named_by_their_digest(published: Path) -> None:
    """The example of RFC 6920, section 8.1."""
    run = RunFolder(published / "runs" / "digits/digits_8x8/biva/seed1")
    run.weights.write_bytes(b"Hello World!")
    seal(run, (run.weights,))
    run.weights.unlink()
    named = {entity.get("name"): entity["@id"] for entity in crate("quick", published)["@graph"]}
    name = run.weights.relative_to(published).as_posix()
    assert named[name] == "ni:///sha-256;f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk"


def test_it_is_the_same_whenever_and_wherever_it_is_made(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_json(published / METADATA)
    (published / "figures").mkdir()
    (published / "figures" / "more.png").touch()
    assert crate("quick", published) == before
    monkeypatch.chdir(published.parent)
    Path("config").symlink_to(ROOT / "config")
    assert crate("quick", Path("quick")) == before


def test_a_project_without_authors_has_a_crate_too(published: Path) -> None:
    Path("CITATION.cff").write_text("authors: [{family-names: Doe, given-names: Jo, orcid: 'https://orcid.org/0'}]")
    root = {entity["@id"]: entity for entity in crate("quick", published)["@graph"]}
    assert (root["https://orcid.org/0"]["@type"], root["https://orcid.org/0"]["name"]) == ("Person", "Jo Doe")
    Path("CITATION.cff").unlink()
    assert "author" not in crate("quick", published)["@graph"][0]


def test_nothing_is_written_of_a_set_without_finished_runs(published: Path) -> None:
    for path in published.rglob("train.json"):
        path.unlink()
    assert crate("quick", published) == {}


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_the_public_package_finds_every_file_and_every_entity(folder: Path) -> None:
    read, found = ROCrate(folder), entities(folder)
    assert read.mainEntity.id == "workflow/Snakefile"
    for identifier, entity in found.items():
        for name in entity.keys() - {"about", "conformsTo"}:
            assert {*refs(entity[name])} <= found.keys(), (identifier, name)
    here = {entity.id: entity for entity in read.data_entities if not entity.id.startswith("ni:")}
    for identifier, entity in here.items():
        content = (folder / identifier).read_bytes()
        assert entity["sha256"] == hashlib.sha256(content).hexdigest(), identifier
        assert entity["contentSize"] == str(len(content)), identifier
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("figures/")} == here.keys() | {METADATA}


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_the_public_validator_finds_nothing_that_is_required_and_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole profile, with all that it is built on; contexts are those of `rocrate`, not of the network."""
    reason = "roc-validator is not installed: it asks for an older rich than requirements.lock has"
    models = pytest.importorskip("rocrate_validator.models", reason=reason)
    from rocrate_validator import services
    from rocrate_validator.utils.http import HttpRequester

    context = json.loads((Path(rocrate.__file__).parent / "data/ro-crate.jsonld").read_text())["@context"]  # 1.3
    context["ComputationalWorkflow"] = "https://bioschemas.org/ComputationalWorkflow"  # what differs in 1.1
    terms = {name: f"https://w3id.org/ro/terms/workflow-run#{name}" for name in ("md5", "sha256")}
    contexts = {
        "https://w3id.org/ro/crate/1.1/context": context,
        "https://w3id.org/ro/terms/workflow-run/context": terms,
    }

    def get(_: Any, url: str, **__: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = 200 if url in contexts else 404
        response.headers["Content-Type"] = "application/ld+json"
        response._content = json.dumps({"@context": contexts.get(url)}).encode()
        return response

    monkeypatch.setattr(HttpRequester, "get", get, raising=False)
    settings = models.ValidationSettings(
        rocrate_uri=str(folder),
        profile_identifier="provenance-run-crate-0.5",
        requirement_severity=models.Severity.REQUIRED,
        offline=True,
    )
    result = services.validate(settings)
    assert [issue.message for issue in result.get_issues()] == []
    assert result.passed()
