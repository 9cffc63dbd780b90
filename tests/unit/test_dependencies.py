"""pyproject.toml, requirements.lock and environment.yml name the same direct dependencies, in versions that agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "psycopg2-binary": "psycopg2"}
"""Package -> its name in conda-forge, where that is another."""


def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return content


def direct(*, dev: bool) -> dict[str, SpecifierSet]:
    """The package's dependencies and those of its extras."""
    extras = project()["optional-dependencies"]
    lines = project()["dependencies"] + [line for name in extras if dev or name != "dev" for line in extras[name]]
    return {canonicalize_name(r.name): r.specifier for r in map(Requirement, lines)}


def locked() -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def conda() -> dict[str, SpecifierSet]:
    """Packages of environment.yml under their conda names; those of its pip section under their own."""
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    lines = [line for line in dependencies if isinstance(line, str)]
    lines += [line for part in dependencies if isinstance(part, dict) for line in part["pip"]]
    matches = [re.fullmatch(r"([a-z0-9-]+) *(.*)", line) for line in lines]
    # conda's `=3.12` is pip's `==3.12.*`
    pairs = [(match[1], re.sub(r"^=(\d[\d.]*)$", r"==\1.*", match[2])) for match in matches if match]
    assert len(pairs) == len(lines)
    return {name: SpecifierSet(specifier) for name, specifier in pairs}


def test_the_lock_pins_every_direct_dependency_within_its_range() -> None:
    versions = locked()
    for name, specifier in direct(dev=True).items():
        assert versions[name] in specifier, f"{name}: {versions[name]} is not {specifier}"


def test_the_lock_is_exact_and_sorted_and_portable() -> None:
    """No local versions such as +cpu, no project, no package of one CUDA version."""
    versions = locked()
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.]*", version) for version in versions.values())
    assert list(versions) == sorted(versions)
    assert not [name for name in versions if name == "biva" or name.startswith(("nvidia", "cuda", "triton"))]


def test_environment_yml_names_the_dependencies_of_pyproject_with_the_same_ranges() -> None:
    theirs = conda()
    assert theirs.pop("pip") == SpecifierSet()
    assert theirs.pop("python") & SpecifierSet(project()["requires-python"])
    assert theirs == {CONDA_NAMES.get(name, name): specifier for name, specifier in direct(dev=False).items()}


def test_environment_yml_needs_conda_forge_only() -> None:
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert content["name"] == "biva"
    assert content["channels"] == ["conda-forge"]


def test_python_of_the_environment_is_one_that_the_package_supports() -> None:
    version = str(conda()["python"]).removeprefix("==").removesuffix(".*")
    assert version in SpecifierSet(project()["requires-python"])


@pytest.mark.parametrize("tool", ["ruff", "mypy", "snakefmt", "pytest"])
def test_the_tools_of_make_test_are_declared(tool: str) -> None:
    assert re.search(rf"^\t\$\(BIN\)/{tool}\b", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert tool in direct(dev=True)
