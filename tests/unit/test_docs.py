"""What the documentation points to exists, and what it quotes is said so."""

from __future__ import annotations

import ast
import json
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import snakemake
import yaml

import biva
from biva.config import Experiments, load_experiments
from biva.reference import reference
from tests.docs import PAGES, ROOT, blocks, headings

PAGES_WITH_IDS = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@PAGES_WITH_IDS
def test_links_lead_somewhere(page: Path) -> None:
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "../../actions/")):  # the latter below the repository on GitHub
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            assert anchor in headings(path), target
        if path.suffix == ".py":
            symbol = text.strip("`").rsplit(".", 1)[-1]
            assert re.search(rf"^ *(class|def) {symbol}\b|^{symbol}\b", path.read_text(), re.MULTILINE), text


@PAGES_WITH_IDS
def test_files_and_verbs_in_the_text_exist(page: Path) -> None:
    from biva.cli import app

    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        if re.fullmatch(r"(\.\./)?(biva|config|docs|tests|workflow)/[a-z0-9_./-]*", code):
            made = f"file={code}" in {block.info for block in blocks(page)}
            assert made or (ROOT / code).exists() or (page.parent / code).exists(), code
        if match := re.match(r"biva ([a-z]+)\b", code):
            verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
            assert match[1] in verbs | {"data"}, code


def test_tests_that_are_named_exist() -> None:
    tests = "".join(path.read_text() for path in ROOT.glob("tests/**/*.py"))
    for page in PAGES:
        for name in re.findall(r"`(test_\w+)`", prose(page)):
            assert f"def {name}(" in tests, f"{page.name}: {name}"


def test_commands_stand_in_shell_blocks() -> None:
    """So that tests/workflow/test_docs.py sees them all."""
    for page in PAGES:
        assert not re.findall(r"^ {4,}(?:biva|snakemake|make|conda|torchrun) .*$", prose(page), re.MULTILINE), page
        for block in blocks(page):
            assert block.language or not re.search(r"^(biva|snakemake|make) ", block.text, re.MULTILINE), page


def test_sections_of_the_paper_that_the_code_cites_exist() -> None:
    cited = {
        number
        for path in ROOT.glob("biva/**/*.py")
        for number in re.findall(r"paper\.md,?\s+section\s+(\d)", path.read_text())
    }
    sections = re.findall(r"^## (\d)\.", (ROOT / "docs/paper.md").read_text(), re.MULTILINE)
    assert cited
    assert cited <= set(sections)


def test_every_module_is_in_the_map_and_so_on_the_site() -> None:
    rows = re.findall(r"^\| (`biva/.*?) \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    rooms = {ROOT / name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    modules = {*ROOT.glob("biva/**/*.py")} - {ROOT / "biva/__init__.py", ROOT / "biva/__main__.py"}
    assert not [module for module in modules if not rooms & {module, *module.parents}]


def test_the_option_for_conda_has_its_present_name_and_the_older_one_once() -> None:
    assert [page.name for page in PAGES for _ in range(page.read_text().count("--use-conda"))] == ["cluster.md"]


def test_every_page_is_in_the_navigation_of_the_site_once() -> None:
    entries = re.findall(r"^ .* (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(entries) == sorted(page.relative_to(ROOT).as_posix() for page in PAGES)


# ------------------------------------------------------------------------------------------------ quoted messages


def texts(folder: Path) -> str:
    """All strings in the Python files of a folder, what is filled in replaced by a NUL."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


@cache
def said() -> str:
    """What the project and Snakemake say."""
    rules = [path.read_text() for path in (ROOT / "Makefile", ROOT / "workflow/rules/common.smk")]
    snakemake_says = texts(Path(snakemake.__file__).parent)
    return texts(Path(biva.__file__).parent) + "".join(rules) + snakemake_says


def quoted() -> list[str]:
    rows = re.findall(r"^\| `(.+?)`", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    return rows


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_one_that_is_said(message: str) -> None:
    pieces = [piece.strip() for piece in message.split("…") if piece.strip()]
    place = re.search("[^\n]*?".join(map(re.escape, pieces)), said())
    assert place, message


# -------------------------------------------------------------------------------------------- reference and the rest


def test_the_set_that_has_everything_is_accepted_and_has_every_key(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (example,) = [b.text for b in blocks(ROOT / "config/README.md") if b.text.startswith("description: one line")]
    (tmp_path / "config/experiments/example.yaml").write_text(example)
    assert load_experiments("example", tmp_path / "config").model_fields_set == Experiments.model_fields.keys()


def test_every_key_of_the_reference_has_a_meaning() -> None:
    """If this fails: describe the key in biva/config/."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", reference(), re.MULTILINE)
    assert len(rows) > 60
    assert [key for key, meaning in rows if not meaning] == []


def test_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license", "references"} <= citation.keys()
    assert citation["version"] == biva.__version__
    assert f'\nversion = "{biva.__version__}"\n' in (ROOT / "pyproject.toml").read_text()
    zenodo = json.loads((ROOT / ".zenodo.json").read_text())
    assert (zenodo["title"], zenodo["description"]) == (citation["title"], citation["abstract"])
    assert (zenodo["license"], zenodo["keywords"]) == (citation["license"], citation["keywords"])
    assert zenodo["creators"] == citation["authors"]
    assert f"({biva.__version__})" in (ROOT / "CHANGELOG.md").read_text()
