"""`--config experiments=paper` plans every table and figure of the paper; the sections are those of paper.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflow.conftest import copy_project

LIKELIHOOD = ("static_mnist", "dynamic_mnist", "omniglot", "fashion_mnist", "imagenet32", "celeba64")
FIGURES = {
    "section 4, training": ["learning_curves"],
    "section 5, L_K": ["bound_against_k"],
    "section 5, samples": ["samples"],
    "section 5, reconstructions": ["reconstructions"],
    "section 5, KL per latent group and active units": ["kl_per_layer"],
    "section 5, per-layer pictures": ["layers"],
}
TARGETS = {
    "sections 4 and 5, likelihood": [f"{name}/tables/likelihood.tex" for name in LIKELIHOOD],
    "section 4, finetuned": ["static_mnist/runs/mnist_static/biva_28x28/biva_finetuned/seed1/evaluation.json"],
    "section 4, the clean protocol": ["static_mnist_clean/tables/likelihood.tex"],
    "sections 1 and 3, what each part of BIVA adds": [
        "cifar10/tables/cifar10_ablation.tex",
        "cifar10/runs/cifar10/biva_32x32/lvae/seed1/evaluation.json",
        "cifar10/runs/cifar10/biva_32x32/lvae_plus/seed1/evaluation.json",
        "cifar10/runs/cifar10/lvae_plus_32x32/lvae_plus/seed1/evaluation.json",
        "cifar10/runs/cifar10/biva_32x32/biva/seed1/evaluation.json",
    ],
    "section 5, CIFAR-10": ["cifar10/tables/cifar10.tex"],
    "section 5, semi-supervised classification": ["semi_supervised_mnist/tables/labels_100.tex"],
    "section 5, anomaly detection": [
        f"{pair}.{form}"
        for pair in ("fashion_mnist/anomalies/mnist", "cifar10/anomalies/svhn")
        for form in ("tex", "pdf")
    ],
} | {
    section: [f"{name}/figures/{figure}.pdf" for name in (*LIKELIHOOD, "cifar10") for figure in figures]
    for section, figures in FIGURES.items()
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """File that Snakemake would make -> the rule."""
    project = copy_project(tmp_path_factory.mktemp("paper") / "project")
    done = project.snakemake("--summary", "--config", "experiments=paper")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.split("output_file\t", 1)[1].splitlines()[1:]
    return {line.split("\t")[0]: line.split("\t")[2] for line in lines}


@pytest.mark.parametrize("section", TARGETS)
def test_what_the_paper_reports_is_planned(planned: dict[str, str], section: str) -> None:
    assert not [target for target in TARGETS[section] if f"results/{target}" not in planned]


def test_every_set_is_collected_and_every_dataset_fetched(planned: dict[str, str]) -> None:
    collected = {path.split("/")[1] for path, rule in planned.items() if rule == "collect"}
    assert collected == {*LIKELIHOOD, "static_mnist_clean", "cifar10", "semi_supervised_mnist"}
    fetched = {path.split("/")[1] for path, rule in planned.items() if rule == "fetch"}
    mnist = {"mnist_static", "mnist_dynamic", "fashion_mnist"}
    assert fetched == mnist | {"omniglot", "cifar10", "svhn", "imagenet32", "celeba64"}


def test_anomalies_are_scored_by_the_models_that_the_pair_names(planned: dict[str, str]) -> None:
    scored = {str(Path(path).parents[1]) for path, rule in planned.items() if rule == "detect"}
    assert scored == {
        "results/fashion_mnist/runs/fashion_mnist/biva_28x28/biva/seed1",
        "results/cifar10/runs/cifar10/biva_32x32/biva/seed1",
    }
