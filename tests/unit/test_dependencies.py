"""pyproject.toml, requirements.lock and environment.yml name the same direct dependencies, in versions that agree."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "psycopg2-binary": "psycopg2"}
"""Package -> its name in conda-forge, where that is another."""


FOR_SNAKEMAKE = {"packaging": "snakemake", "sqlalchemy": "sqlmodel"}
"""Package of conda -> the package that pip installs and that asks for an older one than conda would take."""


def requirements(package: str) -> dict[str, SpecifierSet]:
    """What the metadata of an installed package name, without extras."""
    parsed = map(Requirement, requires(package) or ())
    return {canonicalize_name(r.name): r.specifier for r in parsed if r.marker is None}


def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return content


def direct(*, dev: bool) -> dict[str, SpecifierSet]:
    """The package's dependencies and those of its extras."""
    extras = project()["optional-dependencies"]
    lines = project()["dependencies"] + [line for name in extras if dev or name != "dev" for line in extras[name]]
    return {canonicalize_name(r.name): r.specifier for r in map(Requirement, lines)}


def lock(file: str = "requirements.lock") -> dict[str, tuple[str, list[str]]]:
    """Package -> its version and the hashes of its files."""
    pins = re.findall(r"^([\w.-]+)==(\S+)((?: \\\n +--hash=\S+)*)$", (ROOT / file).read_text(), re.MULTILINE)
    return {name: (version, re.findall(r"--hash=(\S+)", hashes)) for name, version, hashes in pins}


def conda() -> dict[str, SpecifierSet]:
    """Packages of environment.yml under their conda names; those of its pip section under their own."""
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    lines = [line for line in dependencies if isinstance(line, str)]
    lines += [line for part in dependencies if isinstance(part, dict) for line in part["pip"]]
    matches = [re.fullmatch(r"([a-z0-9-]+) *(.*)", line) for line in lines]
    # conda's `=3.11` is pip's `==3.11.*`
    pairs = [(match[1], re.sub(r"^=(\d[\d.]*)$", r"==\1.*", match[2])) for match in matches if match]
    assert len(pairs) == len(lines)
    return {name: SpecifierSet(specifier) for name, specifier in pairs}


def test_the_lock_pins_every_direct_dependency_within_its_range() -> None:
    versions = lock()
    for name, specifier in direct(dev=True).items():
        assert versions[name][0] in specifier, f"{name}: {versions[name][0]} is not {specifier}"


def test_the_lock_is_exact_sorted_portable_and_has_hashes() -> None:
    """No local versions such as +cpu, no project, no package of one CUDA version; hashes of all builds of a package."""
    names = list(lock())
    assert names == sorted(names)
    assert not [name for name in names if name == "biva" or name.startswith(("nvidia", "cuda", "triton"))]
    for name, (version, hashes) in lock().items():
        assert re.fullmatch(r"[0-9][0-9A-Za-z.]*", version), name
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", text) for text in hashes), name
        assert len(set(hashes)) == len(hashes), name
    assert all(len(lock()[name][1]) > 12 for name in ("torch", "numpy", "scipy", "pandas", "safetensors"))


def test_what_the_site_needs_is_exact_has_hashes_and_is_not_in_the_lock() -> None:
    site = lock("docs/site/requirements.txt")
    assert {"mkdocs-material", "mkdocstrings-python", "latex2mathml", "mermaidx"} <= site.keys()
    assert not site.keys() & lock().keys()
    assert all(hashes for _, hashes in site.values())


def test_make_installs_the_locked_files_and_nothing_else_before_them() -> None:
    """torch's own lines first, by the same hashes; those of the site only where that is built."""
    site, torch, everything, project = re.findall(r"pip install (.*)", (ROOT / "Makefile").read_text())
    assert site == "-qq --no-deps --requirement docs/site/requirements.txt"
    assert torch.startswith("-qq --no-deps --no-index ")
    assert everything == "-qq --no-deps --requirement requirements.lock"
    assert project.startswith("-qq --no-build-isolation --editable .")


def test_conda_and_the_image_have_the_python_of_the_locks_cpu_build() -> None:
    """Which is that of the tests that were run with it."""
    (of_lock,) = re.findall(
        r"^# .*\+cpu for Linux x86_64 and Python (\S+);", (ROOT / "requirements.lock").read_text(), re.M
    )
    (of_image,) = re.findall(r"^ARG BASE=python:(\S+)-slim$", (ROOT / "Containerfile").read_text(), re.M)
    assert {of_image, str(conda()["python"]).removeprefix("==").removesuffix(".*")} == {of_lock}
    assert of_lock in SpecifierSet(project()["requires-python"])


def test_no_file_names_an_index() -> None:
    pinned = ("requirements.lock", "docs/site/requirements.txt")
    for name in (*pinned, "Makefile", "environment.yml", "Containerfile", "pyproject.toml", ".ci/lock"):
        assert "://" not in (ROOT / name).read_text().replace("http://127.0.0.1", "").replace("sqlite:///", ""), name


def test_the_licence_of_every_direct_dependency_is_listed_as_its_metadata_name_it() -> None:
    text = (ROOT / "docs" / "licences.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][1:]
    versions = {name: version for name, (version, _) in lock().items() if name in direct(dev=True)}
    assert {canonicalize_name(name): version for name, version, _, _ in rows} == versions
    assert not [name for name, _, licence, _ in rows if licence in ("", "unknown", "UNKNOWN")]
    printed = subprocess.run([sys.executable, ROOT / ".ci" / "licences"], capture_output=True, text=True, check=True)
    for row, line in zip(rows, printed.stdout.splitlines()[-len(rows) :], strict=True):
        name, version, *_ = (cell.strip() for cell in line.split("|")[1:-1])
        if version == row[1]:  # another version may have another licence
            assert line == f"| {' | '.join(row)} |", name


def test_environment_yml_names_the_dependencies_of_pyproject_with_the_same_ranges_from_conda_forge_alone() -> None:
    theirs, supported = conda(), SpecifierSet(project()["requires-python"])
    for name, of in FOR_SNAKEMAKE.items():
        assert theirs.pop(name) == requirements(of)[name], f"{name}: {of} asks for another, which pip would install"
    assert theirs.pop("pip") == SpecifierSet()
    assert str(theirs.pop("python")).removeprefix("==").removesuffix(".*") in supported
    assert theirs == {CONDA_NAMES.get(name, name): specifier for name, specifier in direct(dev=False).items()}
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert (content["name"], content["channels"]) == ("biva", ["conda-forge"])
