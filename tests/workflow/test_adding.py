"""The worked example of docs/adding.md: its files in a copy of the project, and its commands on them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.docs import ROOT, Block, blocks
from tests.workflow.conftest import Project

RUN_ALL = """
import shlex, sys
from biva.cli import app
for line in sys.stdin:
    name, *arguments = shlex.split(line)
    assert name == "biva"
    app(arguments, standalone_mode=False)
"""


def apply(block: Block, folder: Path) -> None:
    """Make the file, or the edit, that a block shows."""
    how, name = block.info.split("=")
    path = folder / name
    if how == "append":
        path.write_text(path.read_text() + block.text)
    elif block.language == "diff":
        for old, new in re.findall(r"^-(.*)\n((?:\+.*\n)+)", block.text, re.MULTILINE):
            content = path.read_text()
            assert content.count(f"{old}\n") == 1, f"{name} has no line {old!r}"
            path.write_text(content.replace(f"{old}\n", re.sub(r"^\+", "", new, flags=re.MULTILINE)))
    else:
        assert not path.exists()
        path.write_text(block.text)


def test_a_dataset_and_a_model_are_a_file_and_an_entry(project: Project) -> None:
    page = blocks(ROOT / "docs" / "adding.md")
    for block in page:
        if block.info:
            apply(block, project.path)
    short = {"max_updates": 4, "evaluate_every": 2}
    project.edit("config/experiments/ink.yaml", lambda c: c["training"].update(short))
    project.edit("config/experiments/ink.yaml", lambda c: c["evaluation"].update(max_images=4))
    (commands,) = [block.text for block in page if block.language == "sh"]
    environment = os.environ | {"PYTHONPATH": str(project.path), "MLFLOW_TRACKING_URI": "sqlite:////nowhere/mlflow.db"}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        cwd=project.path,
        env=environment,
        input=commands,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "digits_8x8, mean_field" in done.stdout
    table = (project.path / "results/ink/tables/likelihood.tex").read_text()
    assert re.search(r"mean field +& *\$-\$\d", table), table
    assert (project.path / "results/ink/figures/learning_curves.pdf").is_file()
