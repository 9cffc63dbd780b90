"""What an edit runs again, by the real Snakemake after a complete run of the workflow with a stand-in for `biva`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.conftest import ROOT, Project, copy_project

EXPERIMENTS = "config/experiments/quick.yaml"
REPORTS = {"collect": 1, "table": 1, "figure": 2, "track": 1}
RUN = "results/quick/runs/digits/digits_8x8/vae/seed1"


def two_small_runs(content: dict[str, Any]) -> None:
    content["runs"] = [{"dataset": "digits", "architecture": "digits_8x8", "model": "vae", "seeds": [1, 2]}]
    content["figures"] = ["learning_curves", "samples"]
    content["tables"] = [{"name": "likelihood", "dataset": "digits", "k": [1]}]
    content["evaluation"]["importance_samples"] = [1, 10]
    del content["semi_supervised"]


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = copy_project(tmp_path_factory.mktemp("finished") / "project")
    shutil.copy(ROOT / "tests" / "workflow" / "stand_in_cli.py", project.path / "biva" / "cli.py")
    project.edit(EXPERIMENTS, two_small_runs)
    done = project.snakemake("--cores", "2")
    assert done.returncode == 0, done.stdout
    return project


@pytest.fixture
def finished(finished_once: Project, tmp_path: Path) -> Project:
    return finished_once.copy(tmp_path / "project")


def calls(project: Project) -> list[str]:
    return (project.path / "calls.txt").read_text().splitlines()


def set_key(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edit


def changes_no_number(content: dict[str, Any]) -> None:
    content["description"] = "other words"
    content["training"]["checkpoint_seconds"] = 5
    content["evaluation"]["memory_budget_mb"] = 100


def test_a_finished_workflow_made_everything_once_and_has_nothing_to_do(finished: Project) -> None:
    verbs = sorted(line.split()[0] for line in calls(finished))
    assert verbs == sorted(["fetch", "prepare", *2 * ["train", "evaluate", "figure"], "collect", "table", "track"])
    for name in ["results.csv", "tables/likelihood.tex", "figures/samples.pdf", "figures/samples.png", "tracked.txt"]:
        assert (finished.path / "results" / "quick" / name).is_file()
    assert (finished.path / "results/quick/tracked.txt").read_text() == "tracked\n"
    assert finished.planned() == {}


@pytest.mark.parametrize(
    ("edit", "planned"),
    [
        (changes_no_number, {}),
        (set_key("figures", value=["samples"]), {"track": 1}),
        (set_key("figures", value=["learning_curves", "samples", "reconstructions"]), {"figure": 1, "track": 1}),
        (set_key("tables", 0, "k", value=[1, 10]), {"table": 1, "track": 1}),
        (set_key("evaluation", "importance_samples", value=[1, 100]), {"evaluate": 2, **REPORTS, "figure": 1}),
        (set_key("runs", 0, "seeds", value=[1, 2, 3]), {"train": 1, "evaluate": 1, **REPORTS}),
        (set_key("runs", 0, "seeds", value=[1]), REPORTS),
        (set_key("training", "batch_size", value=7), {"train": 2, "evaluate": 2, **REPORTS}),
        (set_key("threads", value=2), {"train": 2, "evaluate": 2, **REPORTS}),
    ],
    ids=lambda value: "" if callable(value) else "+".join(value) or "nothing",
)
def test_an_edit_of_the_experiment_file_runs_again_only_what_it_changes(
    finished: Project, edit: Callable[[dict[str, Any]], None], planned: dict[str, int]
) -> None:
    finished.edit(EXPERIMENTS, edit)
    assert finished.planned() == planned


def test_an_edit_of_the_architecture_trains_again(finished: Project) -> None:
    finished.edit("config/architectures/digits_8x8.yaml", set_key("filters", value=8))
    assert finished.planned() == {"train": 2, "evaluate": 2, **REPORTS}


def test_newer_files_of_equal_content_run_nothing_again(finished: Project) -> None:
    later = time.time() + 100
    for path in [
        *finished.path.glob("biva/**/*.py"),
        *finished.path.glob("resources/**/*"),
        finished.path / EXPERIMENTS,
    ]:
        os.utime(path, (later, later))
    assert finished.planned() == {}


def test_a_new_fingerprint_trains_again(finished: Project) -> None:
    (finished.path / "resources/digits/data.json").write_text('{"fingerprint": "another"}')
    assert finished.planned() == {"train": 2, "evaluate": 2, **REPORTS}


def test_edited_code_runs_nothing_again(finished: Project) -> None:
    for name in ("biva/training/loop.py", "workflow/rules/train.smk"):
        path = finished.path / name
        path.write_text(path.read_text() + "\n# edited\n")
    assert finished.planned() == {}


def test_training_can_be_forced(finished: Project) -> None:
    assert finished.planned("--forcerun", "train") == {"train": 2, "evaluate": 2, **REPORTS}
    assert finished.planned("--force", f"{RUN}/train.json") == {"train": 1}


def test_what_training_resumes_from_is_there_when_it_runs_again(finished: Project) -> None:
    before = len(calls(finished))
    done = finished.snakemake("--cores", "1", "--force", f"{RUN}/train.json")
    assert done.returncode == 0, done.stdout
    (call,) = calls(finished)[before:]
    command, existing = call.split(" | ")
    assert command == "train quick digits/digits_8x8/vae/seed1"
    assert {"run.json", "record.jsonl", "checkpoint"} <= set(existing.split())
    assert not {"train.json", "weights.safetensors"} & set(existing.split())


@pytest.mark.parametrize(("variables", "used"), [({}, "configured"), ({"BIVA_DATA_MIRROR": "set"}, "set")])
def test_the_mirror_reaches_the_jobs(finished: Project, variables: dict[str, str], used: str) -> None:
    cli = finished.path / "biva" / "cli.py"
    cli.write_text(cli.read_text().replace('existing = ""', 'import os; existing = os.environ["BIVA_DATA_MIRROR"]'))
    arguments = ["--cores", "1", "--config", "data_mirror=configured", "--force", "resources/digits/fetched.txt"]
    done = finished.snakemake(*arguments, **variables)
    assert done.returncode == 0, done.stdout
    assert calls(finished)[-1] == f"fetch digits | {used}"


def test_a_failing_job_shows_its_log_and_does_not_stop_the_others(finished: Project) -> None:
    cli = finished.path / "biva" / "cli.py"
    cli.write_text(
        cli.read_text().replace(
            '    existing = ""',
            "    if verb == 'train' and arguments[1].endswith('seed1'):\n"
            "        sys.exit('error: this run diverged')\n    existing = \"\"",
        )
    )
    before = len(calls(finished))
    done = finished.snakemake("--cores", "1", "--forcerun", "train")
    assert done.returncode != 0
    assert "error: this run diverged" in done.stdout
    commands = [line.split(" | ")[0] for line in calls(finished)[before:]]
    assert commands == [f"{verb} quick digits/digits_8x8/vae/seed2" for verb in ("train", "evaluate")]
