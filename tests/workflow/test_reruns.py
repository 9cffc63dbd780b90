"""What an edit runs again, by the real Snakemake after a complete run of the workflow with a stand-in for `biva`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.conftest import ROOT, Project, copy_project, small_set

EXPERIMENTS = "config/experiments/quick.yaml"
LAST = {"summary": 1, "track": 1}
FROM_RESULTS = {"collect": 1, "table": 1, **LAST}
REPORTS = {**FROM_RESULTS, "figure": 2, "anomalies": 1}
ALL_AGAIN = {"train": 2, "evaluate": 2, "detect": 2, **REPORTS}
PAIR = {"name": "photos", "normal": "digits", "anomalous": "photo_patches", "importance_samples": 2}
RUN = "results/quick/runs/digits/digits_8x8/vae/seed1"


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = copy_project(tmp_path_factory.mktemp("finished") / "project")
    shutil.copy(ROOT / "tests" / "workflow" / "stand_in_cli.py", project.path / "biva" / "cli.py")
    project.edit(EXPERIMENTS, small_set(k=(1, 10), figures=["learning_curves", "samples"], anomalies=[PAIR]))
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
    content["training"]["checkpoint_seconds"] = 5
    content["evaluation"]["memory_budget_mb"] = 100


def test_a_finished_workflow_made_everything_once_and_has_nothing_to_do(finished: Project) -> None:
    verbs = sorted(line.split()[0] for line in calls(finished))
    twice = ["fetch", "prepare", "train", "evaluate", "detect", "figure"]
    assert verbs == sorted([*2 * twice, "collect", "table", "anomalies", "summary", "track"])
    reports = ["tables/likelihood.tex", "figures/samples.pdf", "figures/samples.png", "summary.tex", "index.html"]
    pairs = ["anomalies/photos.tex", "anomalies/photos.pdf", "anomalies/photos.png"]
    for name in ["results.csv", *reports, *pairs, "tracked.txt"]:
        assert (finished.path / "results" / "quick" / name).is_file()
    assert (finished.path / "results/quick/tracked.txt").read_text() == "tracked\n"
    assert finished.planned() == {}


@pytest.mark.parametrize(
    ("edit", "planned"),
    [
        (changes_no_number, {}),
        (set_key("description", value="other words"), LAST),
        (set_key("figures", value=["samples"]), LAST),
        (set_key("figures", value=["learning_curves", "samples", "reconstructions"]), {"figure": 1, **LAST}),
        (set_key("tables", 0, "k", value=[1, 10]), {"table": 1, **LAST}),
        (set_key("evaluation", "importance_samples", value=[1, 100]), {"evaluate": 2, "figure": 1, **FROM_RESULTS}),
        (set_key("anomalies", 0, "importance_samples", value=3), {"detect": 2, "anomalies": 1, **FROM_RESULTS}),
        (set_key("anomalies", 0, "below", value="mode"), {"detect": 2, "anomalies": 1, **FROM_RESULTS}),
        (set_key("anomalies", 0, "below", value="samples"), {}),
        (set_key("anomalies", value=[]), FROM_RESULTS),
        (set_key("runs", 0, "seeds", value=[1, 2, 3]), {"train": 1, "evaluate": 1, "detect": 1, **REPORTS}),
        (set_key("runs", 0, "seeds", value=[1]), REPORTS),
        (set_key("training", "batch_size", value=7), ALL_AGAIN),
        (set_key("threads", value=2), ALL_AGAIN),
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
    assert finished.planned() == ALL_AGAIN


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
    assert finished.planned() == ALL_AGAIN


def test_a_new_fingerprint_of_the_anomalies_scores_again(finished: Project) -> None:
    (finished.path / "resources/photo_patches/data.json").write_text('{"fingerprint": "another"}')
    assert finished.planned() == {"detect": 2, "anomalies": 1, **FROM_RESULTS}


def test_edited_code_runs_nothing_again(finished: Project) -> None:
    for name in ("biva/training/loop.py", "workflow/rules/train.smk"):
        path = finished.path / name
        path.write_text(path.read_text() + "\n# edited\n")
    assert finished.planned() == {}


def test_training_can_be_forced(finished: Project) -> None:
    assert finished.planned("--forcerun", "train") == ALL_AGAIN
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
    run = "quick digits/digits_8x8/vae/seed2"
    assert commands[0] == f"train {run}"
    assert sorted(commands[1:]) == [f"detect {run} photos", f"evaluate {run}"]


# ----------------------------------------------------------------------------------------------------- fine-tuning


def fine_tune(content: dict[str, Any]) -> None:
    content["finetuning"] = {"models": ["vae"], "training": content["training"] | {"free_bits": 0}}


@pytest.fixture(scope="module")
def finetuned_once(finished_once: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished workflow, to whose runs fine-tuning was added later."""
    project = finished_once.copy(tmp_path_factory.mktemp("finetuned") / "project")
    project.edit(EXPERIMENTS, fine_tune)
    done = project.snakemake("--cores", "1")
    assert done.returncode == 0, done.stdout
    return project


def test_fine_tuning_added_later_trains_nothing_else_again(finished_once: Project, finetuned_once: Project) -> None:
    added = [line.split(" | ")[0] for line in calls(finetuned_once)[len(calls(finished_once)) :]]
    runs = [f"quick digits/digits_8x8/vae_finetuned/seed{seed}" for seed in (1, 2)]
    verbs = ("train", "evaluate")
    assert sorted(line for line in added if line.startswith(verbs)) == sorted(f"{v} {r}" for v in verbs for r in runs)
    assert finetuned_once.planned() == {}


def test_a_parent_is_trained_first(finetuned_once: Project, tmp_path: Path) -> None:
    project = finetuned_once.copy(tmp_path / "project")
    shutil.rmtree(project.path / "results")
    (project.path / "calls.txt").unlink()
    child = "results/quick/runs/digits/digits_8x8/vae_finetuned/seed1/train.json"
    assert project.snakemake("--cores", "2", child).returncode == 0
    runs = [line.split()[2] for line in calls(project)]
    assert runs == [f"digits/digits_8x8/{variant}/seed1" for variant in ("vae", "vae_finetuned")]


@pytest.mark.parametrize(
    ("edit", "planned"),
    [
        (
            set_key("finetuning", "training", "batch_size", value=7),
            {"finetune": 2, "evaluate": 2, "detect": 2, **REPORTS},
        ),
        (
            set_key("training", "batch_size", value=7),
            {"train": 2, "finetune": 2, "evaluate": 4, "detect": 4, **REPORTS},
        ),
    ],
    ids=["its own settings", "the parent's settings"],
)
def test_fine_tuning_runs_again_with_its_parent(
    finetuned_once: Project, tmp_path: Path, edit: Callable[[dict[str, Any]], None], planned: dict[str, int]
) -> None:
    project = finetuned_once.copy(tmp_path / "project")
    project.edit(EXPERIMENTS, edit)
    assert project.planned() == planned


def test_other_weights_of_the_parent_fine_tune_again(finetuned_once: Project, tmp_path: Path) -> None:
    project = finetuned_once.copy(tmp_path / "project")
    (project.path / RUN / "weights.safetensors").write_text('{"trained": "anew"}')
    assert project.planned() == {"finetune": 1, "evaluate": 2, "detect": 2, **REPORTS}
