"""What Snakemake plans for the shipped experiment sets, and what it refuses before any job starts."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workflow.conftest import Project

RUN = "results/quick/runs/digits/digits_8x8/biva"


def expected_jobs(path: Path) -> dict[str, int]:
    """Counted from the experiment file itself."""
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    groups, few_labels = content.get("runs", []), content.get("semi_supervised", [])
    models = content.get("finetuning", {}).get("models", [])
    finetuned = [group for group in groups if group["model"] in models]
    pairs = content.get("anomalies", [])
    datasets = {group["dataset"] for group in [*groups, *few_labels]} | {pair["anomalous"] for pair in pairs}
    datasets |= {pair["choose_k_on"] for pair in pairs if "choose_k_on" in pair}
    trained = [*groups, *few_labels, *few_labels]
    scored = [group for pair in pairs for group in [*groups, *finetuned] if group["dataset"] == pair["normal"]]
    counts = {"fetch": len(datasets), "prepare": len(datasets), "collect": 1, "summary": 1, "track": 1}
    counts |= {"train": seeds(trained), "finetune": seeds(finetuned), "evaluate": seeds(trained + finetuned)}
    counts |= {"detect": seeds(scored), "anomalies": len(pairs)}
    counts |= {"table": len(content.get("tables", [])) + len(few_labels), "figure": len(content.get("figures", []))}
    return {rule: jobs for rule, jobs in counts.items() if jobs}


def seeds(groups: list[dict[str, Any]]) -> int:
    return sum(len(group["seeds"]) for group in groups)


@pytest.mark.parametrize("name", ["", "small_fashion_anomalies", "static_mnist", "semi_supervised_mnist"])
def test_a_shipped_experiment_set_is_planned_in_full(project: Project, name: str) -> None:
    """By default it is `quick`."""
    planned = project.planned(*(["--config", f"experiments={name}"] if name else []))
    assert planned == expected_jobs(project.path / "config" / "experiments" / f"{name or 'quick'}.yaml")


def test_the_dataset_that_chooses_k_is_prepared_and_given_to_the_scores(project: Project) -> None:
    commands = project.snakemake("--dry-run", "--printshellcmds", "--config", "experiments=small_fashion_anomalies")
    assert " mnist --anomalous resources/mnist_dynamic --choosing resources/omniglot_lake " in commands.stdout


def test_jobs_share_the_evaluations_of_bounds_alone(project: Project) -> None:
    path = project.path / "config" / "experiments" / "quick.yaml"
    shared = {"evaluate_part": 3 * seeds(yaml.safe_load(path.read_text())["runs"])}
    assert project.planned("--config", "evaluation_jobs=3") == expected_jobs(path) | shared


def test_another_set_can_be_asked_for_by_file_name(project: Project) -> None:
    planned = project.planned("results/static_mnist_smoke/results.csv")
    assert planned == {"fetch": 1, "prepare": 1, "train": 1, "finetune": 1, "evaluate": 2, "collect": 1}


def test_a_collection_plans_all_its_sets(project: Project) -> None:
    sets = ["quick", "static_mnist_smoke"]
    content = yaml.safe_dump({"description": "two sets", "sets": sets})
    (project.path / "config" / "experiments" / "both.yaml").write_text(content)
    alone = [expected_jobs(project.path / "config" / "experiments" / f"{name}.yaml") for name in sets]
    assert project.planned("--config", "experiments=both") == Counter(alone[0]) + Counter(alone[1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        # no rule makes a file outside its place
        ("results/quick/tables/../../../outside.tex", ["MissingRuleException"]),
        (f"{RUN}/../../seed1/train.json", ["MissingRuleException"]),
        (f"{RUN}/seed-1/train.json", ["MissingRuleException"]),
        ("resources/../x/data.json", ["MissingRuleException"]),
        # what no set names is refused with what there is
        (f"{RUN}/seed99/train.json", ["has no run 'digits/digits_8x8/biva/seed99'", "digits/digits_8x8/biva/seed1"]),
        ("results/quick/tables/nope.tex", ["has no table 'nope'", "likelihood"]),
        ("results/nope/results.csv", ["no experiment set 'nope'", "quick"]),
        ("--config experiments=nope", ["There is no experiment set 'nope'", "quick, ", "static_mnist"]),
        ("--config experiments=../quick", ["experiments", "'../quick'"]),
        ("--config experiment=quick", ["unknown key with value 'quick'", "data_mirror, evaluation_jobs, experiments"]),
    ],
)
def test_what_cannot_be_planned_is_refused(project: Project, arguments: str, said: list[str]) -> None:
    done = project.snakemake("--dry-run", *arguments.split())
    assert done.returncode != 0
    for part in said:
        assert part in done.stdout
    assert "Traceback" not in done.stdout or "--config" not in arguments


def test_an_unknown_key_is_refused_before_any_job_starts(project: Project) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["training"]["batchsize"] = 7

    project.edit("config/experiments/quick.yaml", edit)
    done = project.snakemake("--cores", "1")
    assert done.returncode != 0
    for part in ["config/experiments/quick.yaml", "training.batchsize", "7", "allowed here", "batch_size"]:
        assert part in done.stdout
    assert "Traceback" not in done.stdout
    assert not (project.path / "resources").exists()
    assert not (project.path / "results").exists()


def test_captions_and_rules_name_each_other() -> None:
    """Captions that a rule names exist; every caption but that of the whole report is named by a rule."""
    workflow = Path(__file__).parents[2] / "workflow"
    rules = "".join(path.read_text() for path in (workflow / "rules").glob("*.smk"))
    named = set(re.findall(r'"(\w+\.rst)"', rules))
    assert named | {"workflow.rst"} == {path.name for path in (workflow / "report").iterdir()}
