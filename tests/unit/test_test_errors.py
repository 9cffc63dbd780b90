"""The table of test errors: hand-computed cells, the paired difference, reported values, and a page that compiles."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from biva.config import LikelihoodTable, RunConfig, SemiSupervised
from biva.errors import UserError
from biva.reporting.likelihood_table import likelihood_table
from biva.reporting.results import collect
from biva.reporting.test_errors import error_table
from tests.fake_runs import edit, fake_config, fake_run, fake_test_error, labelled_config
from tests.latex import fits_on_one_page, needs_latex
from tests.unit.test_likelihood_table import PAPER, notes_of, row_of

DIGITS = SemiSupervised(
    name="labels_50",
    dataset="digits",
    architecture="digits_8x8",
    labels=50,
    label_batch_size=5,
    label_weight=10,
    seeds=(1, 2, 3),
)
MNIST = DIGITS.model_copy(
    update={"name": "labels_100", "dataset": "mnist_dynamic", "labels": 100, "paper_table": "semi_supervised"}
)
ERRORS = {("biva", 1): 10.0, ("biva", 2): 14.0, ("classifier", 1): 20.0, ("classifier", 2): 21.0}


def planned(settings: SemiSupervised = DIGITS) -> list[RunConfig]:
    return [
        labelled_config(model, seed, settings.dataset, settings.labels)
        for model in ("biva", "classifier")
        for seed in settings.seeds
    ]


@pytest.fixture
def results(tmp_path: Path) -> pd.DataFrame:
    return collect([fake_test_error(tmp_path, labelled_config(*run), error) for run, error in ERRORS.items()])


def test_cells_and_the_paired_difference_are_the_hand_computed_ones(results: pd.DataFrame) -> None:
    """s.d. of 10, 14 is 2.83, of 20, 21 0.71; the differences 10 and 7 have mean 8.5 and s.d. 2.12."""
    table = error_table(results, PAPER, DIGITS, planned())
    assert row_of(table, "BIVA") == ["BIVA", "50 labels, all images", "12.00±2.83 (2/3)"]
    assert row_of(table, "Supervised network") == ["Supervised network", "50 labels", "20.50±0.71 (2/3)"]
    for note in (
        "lower by 8.50±2.12 points, and lower for 2 of 2 seeds",
        "best bound on log p(x) of the validation images",
        "10 updates",
        "reports no value",
    ):
        assert note in notes_of(table)


def test_where_biva_is_worse_the_difference_says_so(results: pd.DataFrame) -> None:
    table = error_table(results.assign(value=30 - results["value"]), PAPER, DIGITS, planned())
    assert "the error of BIVA is higher by 8.50±2.12 points, and lower for 0 of 2 seeds" in notes_of(table)


def test_a_training_that_diverged_is_marked(tmp_path: Path) -> None:
    folders = [fake_test_error(tmp_path, labelled_config(*run), error) for run, error in ERRORS.items()]
    edit(folders[3].training, loss_growth=1e6)
    table = error_table(collect(folders), PAPER, DIGITS, planned())
    assert row_of(table, "BIVA")[2] == "12.00±2.83 (2/3)"
    assert row_of(table, "Supervised network")[2] == "20.50±0.71 (2/3)^a"
    assert "digits_8x8/classifier_50_labels/seed2: 1,000,000 times." in notes_of(table)


def test_only_seeds_that_both_models_ran_are_paired(tmp_path: Path) -> None:
    folders = [fake_test_error(tmp_path, labelled_config("biva", 1), 10.0)]
    folders += [fake_test_error(tmp_path, labelled_config("classifier", 2), 20.0)]
    table = error_table(collect(folders), PAPER, DIGITS, planned())
    assert "Paired by seed" not in notes_of(table)
    assert row_of(table, "BIVA")[2] == "10.00±1.00^se (1/3)"


def test_the_papers_value_stands_beside_ours_with_its_mark() -> None:
    table = error_table(collect([]), PAPER, MNIST, planned(MNIST))
    assert row_of(table, "BIVA") == ["BIVA", "100 labels, all images", "not run", "0.83^1,†"]
    assert row_of(table, "Supervised network")[2:] == ["not run", "–"]
    assert "^1 memory of paper Table 5" in notes_of(table)
    assert "unconfirmed" in notes_of(table)


def test_only_the_reported_error_of_as_many_labels_has_a_distance(tmp_path: Path) -> None:
    paper = pd.concat([PAPER, PAPER[PAPER["dataset"] == "mnist_100_labels"].assign(dataset="mnist_1000_labels")])
    ours = collect([fake_test_error(tmp_path, labelled_config("biva", 1, MNIST.dataset, MNIST.labels), 7.0)])
    assert error_table(ours, paper, MNIST, planned(MNIST)).distances["Delta"].tolist() == ["+6.17 percent"]


def test_an_unknown_paper_table_is_refused_with_the_known_one() -> None:
    unknown = MNIST.model_copy(update={"paper_table": "static_mnist"})
    with pytest.raises(UserError, match=r"static_mnist.*it has: semi_supervised"):
        error_table(collect([]), PAPER, unknown, planned(unknown))
    known = MNIST.model_copy(update={"paper_table": None})
    assert "Reported values are left out" in notes_of(error_table(collect([]), PAPER, known, planned(known)))


@pytest.mark.parametrize("other", [{"labels": 50}, {"dataset": "digits"}])
def test_errors_with_other_labels_or_data_are_not_put_beside_ours(other: dict[str, object]) -> None:
    settings = MNIST.model_copy(update=other)
    with pytest.raises(UserError, match=r"semi_supervised.*has no row on its dataset and metric; it has: none"):
        error_table(collect([]), PAPER, settings, planned(settings))


def test_runs_with_other_labels_or_none_do_not_count(tmp_path: Path) -> None:
    folders = [
        fake_test_error(tmp_path, labelled_config("biva", 1), 10.0),
        fake_test_error(tmp_path, labelled_config("biva", 1, labels=20), 99.0),
        fake_run(tmp_path, fake_config("biva", 1), bounds={1: (-25.0, 0.1)}),
    ]
    every_run = [*planned(), labelled_config("biva", 1, labels=20), fake_config("biva", 1)]
    results = collect(folders)
    table = error_table(results, PAPER, DIGITS, every_run)
    assert row_of(table, "BIVA")[2].startswith("10.00")
    likelihoods = LikelihoodTable(name="likelihood", dataset="digits", k=(1,))
    assert row_of(likelihood_table(results, PAPER, likelihoods, every_run), "BIVA")[1].startswith("−25.00")
    assert list(dict.fromkeys(results["model"])) == ["biva", "biva_20_labels", "biva_50_labels"]


@needs_latex
@pytest.mark.parametrize("settings", [DIGITS, MNIST], ids=lambda settings: settings.name)
def test_the_table_compiles_on_one_page_and_within_its_width(
    settings: SemiSupervised, results: pd.DataFrame, tmp_path: Path
) -> None:
    tex = error_table(results, PAPER, settings, planned(settings)).latex()
    fits_on_one_page(tex, tmp_path)
