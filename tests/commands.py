"""Command lines of `biva`: how they end, and whether those of help texts and documentation are right."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer.main

from biva.cli import app, main
from biva.config import find_anomaly, find_dataset, find_run, find_table, load_architecture, load_experiments, load_sets

CONFIG = Path(__file__).parents[1] / "config"


def status_of(*arguments: str) -> int:
    """The status with which `biva` ends, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["biva", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def assert_parsed(arguments: Sequence[str]) -> None:
    """The parser takes these words after `biva`."""
    command: Any = typer.main.get_command(app)
    name, rest = "biva", list(arguments)
    while hasattr(command, "commands") and rest and rest[0] in command.commands:
        name, *rest = rest
        command = command.commands[name]
    if rest != ["--help"]:
        command.make_context(name, rest)


def assert_names_exist(arguments: Sequence[str]) -> None:
    """Sets, runs, datasets and what else a command line names are there."""
    match arguments:
        case [("describe" | "check" | "bench"), architecture, *_]:
            load_architecture(architecture, CONFIG)
        case [("fetch" | "prepare"), dataset, *_]:
            find_dataset(dataset, CONFIG)
        case [("train" | "evaluate" | "detect"), experiments, run, *pair]:
            find_run(experiments, run, CONFIG)
            if arguments[0] == "detect":
                find_anomaly(experiments, pair[0], CONFIG)
        case ["anomalies", experiments, pair, *_]:
            find_anomaly(experiments, pair, CONFIG)
        case ["table", experiments, table, *_]:
            find_table(experiments, table, CONFIG)
        case [("collect" | "figure" | "summary" | "publish" | "compare" | "same"), experiments, *_]:
            load_experiments(experiments, CONFIG)
        case [("plan" | "status" | "verify"), experiments, *_]:
            assert load_sets(Path(experiments).name, CONFIG)
        case ["repeat", weights, *_]:
            _, _, experiments, _, *name, _ = Path(weights).parts
            find_run(experiments, "/".join(name), CONFIG)
        case ["data", "export", *datasets]:
            for dataset in takewhile(lambda word: not word.startswith("-"), datasets):
                find_dataset(dataset, CONFIG)
        case [("init" | "track" | "schema" | "data" | "rebuild" | "--help"), *_]:
            pass
        case _:
            pytest.fail(f"no check for the command: biva {' '.join(arguments)}")
