"""Every command of the documentation is run here in a copy of the project, or says in its comment what it needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake.cli import parse_args

from biva.cli import app
from biva.config import load_experiments, load_sets, resolve_runs
from tests.commands import CONFIG, assert_names_exist, assert_parsed
from tests.docs import PAGES, ROOT, Command, commands
from tests.fake_runs import fake_run, fake_test_error
from tests.workflow.conftest import Project, copy_project

COMMANDS = [c for page in PAGES if page.name not in ("adding.md", "tutorial.md") for c in commands(page)]
"""All but those of docs/adding.md and docs/tutorial.md, which have tests of their own."""

RUN_IN_CI = ("make reproduce", "make test")
"""Run by .ci/run; the first is `snakemake --cores all`."""

SHELL = ("export", ".")
"""Change nothing but the reader's shell."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy with runs of `quick`, whose numbers are made up."""
    copy = copy_project(tmp_path_factory.mktemp("docs") / "project")
    for run in resolve_runs("quick", load_experiments("quick", CONFIG), CONFIG):
        runs = copy.path / "results/quick/runs"
        if run.labels:
            fake_test_error(runs, run, 20.0)
        else:
            fake_run(runs, run, bounds=dict.fromkeys((1, 10, 100, 1000), (-23.0, 0.2)))
    return copy


def is_run_here(command: Command) -> bool:
    return not (command.is_marked or command.text in (*RUN_IN_CI, "snakemake --cores all") or command.words[0] in SHELL)


def name_of(command: Command) -> str:
    return f"{command.page.name}: {command.text[:70]}"


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_a_command_is_one_that_there_is(command: Command) -> None:
    name, *arguments = command.words
    if name == "torchrun":
        name, *arguments = arguments[arguments.index("biva") :]
    if name == "biva":
        filled = [word.replace("SET", "quick") for word in arguments]
        assert_parsed(filled)
        assert_names_exist(filled)
    elif name == "snakemake":
        _, options = parse_args([word for word in arguments if word != "mycluster" and word != "--profile"])
        settings = dict(setting.split("=") for setting in options.config or ())
        assert load_sets(settings.get("experiments", "quick"), CONFIG)
        profile = options.workflow_profile
        assert profile is None or (ROOT / "workflow/profiles" / profile).is_dir()
    elif name == "make":
        (target,) = (word for word in arguments if "=" not in word)
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert command.is_marked or is_run_here(command) or name in SHELL


def test_what_is_run_elsewhere_is_run_there() -> None:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert set(RUN_IN_CI) <= set(lines)
    assert "\t$(BIN)/snakemake --cores $(CORES)\n" in (ROOT / "Makefile").read_text()


def test_commands_without_a_mark_work(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the pages; each once."""
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("PYTHONPATH", str(project.path))
    done = set()
    for command in filter(is_run_here, COMMANDS):
        name, *arguments = command.words
        if command.text in done:
            continue
        done.add(command.text)
        if name == "biva":
            app(arguments, standalone_mode=False)
        elif name == "snakemake":
            assert {"-n", "--dry-run"} & set(arguments), f"{name_of(command)}: run by no test; say what it needs"
            project.planned(*(word for word in arguments if word != "-n"))
        else:
            assert name == "python", f"{name_of(command)}: run by no test; say what it needs"
            subprocess.run([sys.executable, *arguments], cwd=project.path, check=True)
    assert len(done) > 10


def test_imported_data_leave_nothing_to_fetch_or_prepare(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/reproduce.md promises of `biva data import`."""
    other = copy_project(project.path.parent / "other")
    monkeypatch.chdir(project.path)
    for dataset in ("digits", "photo_patches"):
        app(["fetch", dataset], standalone_mode=False)
        app(["prepare", dataset], standalone_mode=False)
    app(["data", "export", "digits", "photo_patches", "--to", "both.tar"], standalone_mode=False)
    monkeypatch.chdir(other.path)
    app(["data", "import", str(project.path / "both.tar")], standalone_mode=False)
    assert sorted(path.name for path in Path("resources/digits").iterdir()) == ["data.json", "data.safetensors"]
    planned = other.planned()
    assert planned["train"] == 18
    assert not {"fetch", "prepare"} & planned.keys()
