"""Everything the paper reports has its place in an experiment set, beside our number or "not run"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from biva import cli
from biva.config import find_anomaly, find_dataset, load_experiments, load_sets, resolve_runs
from biva.errors import UserError
from biva.reporting.anomalies import anomaly_table
from biva.reporting.likelihood_table import likelihood_table
from biva.reporting.results import collect
from biva.reporting.table import Table
from tests.fake_runs import anomaly_record, identity
from tests.latex import fits_on_one_page, needs_latex
from tests.unit.test_likelihood_table import PAPER

CONFIG = Path(__file__).parents[2] / "config"
ROWS: list[dict[str, Any]] = PAPER.to_dict("records")  # type: ignore[assignment]
SETS = [name for name in load_sets("paper", CONFIG) if name != "semi_supervised_mnist"]
"""The sets about likelihood and anomalies."""

OURS = {
    ("static_mnist", "BIVA"): "mnist_static/biva_28x28/biva/seed1",
    ("static_mnist", "BIVA finetuned"): "mnist_static/biva_28x28/biva_finetuned/seed1",
    ("dynamic_mnist", "BIVA"): "mnist_dynamic/biva_28x28/biva/seed1",
    ("omniglot", "BIVA"): "omniglot/biva_28x28/biva/seed1",
    ("fashion_mnist", "BIVA"): "fashion_mnist/biva_28x28/biva/seed1",
    ("cifar10_ablation", "LVAE L=15"): "cifar10/biva_32x32/lvae/seed1",
    ("cifar10_ablation", "LVAE+ L=15"): "cifar10/biva_32x32/lvae_plus/seed1",
    ("cifar10_ablation", "LVAE+ L=29"): "cifar10/lvae_plus_32x32/lvae_plus/seed1",
    ("cifar10_ablation", "BIVA L=15"): "cifar10/biva_32x32/biva/seed1",
    ("cifar10", "BIVA L=15"): "cifar10/biva_32x32/biva/seed1",
    ("imagenet32", "BIVA"): "imagenet32/biva_32x32/biva/seed1",
    ("celeba64", "BIVA L=20"): "celeba64/biva_64x64/biva/seed1",
}
"""Row of config/paper_results.csv -> the run that reproduces it. The other rows are other people's models."""


@pytest.fixture(scope="module")
def tables() -> dict[str, list[Table]]:
    """`table` of config/paper_results.csv -> every table of the sets that shows it, when nothing has run."""
    shown: dict[str, list[Table]] = {}
    for name in SETS:
        settings = load_experiments(name, CONFIG)
        runs = resolve_runs(name, settings, CONFIG)
        for table in settings.tables:
            of_set = likelihood_table(collect([]), PAPER, table, runs)
            shown.setdefault(table.paper_table or "", []).append(of_set)
        for pair in settings.anomalies:
            shown.setdefault("anomaly", []).append(anomaly_table({}, {}, PAPER, pair, runs))
    return shown


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row["table"] not in ("anomaly", "semi_supervised")],
    ids=lambda row: f"{row['table']} {row['model']} {row['k']}",
)
def test_a_reported_bound_stands_in_its_table(row: dict[str, Any], tables: dict[str, list[Table]]) -> None:
    """In the row of the run that reproduces it, which is not run here, or else below ours."""
    of_ours = (row["table"], row["model"]) in OURS
    for table in tables[row["table"]]:
        named = [cells for cells in table.blocks[0 if of_ours else 1] if of_ours or str(cells[0].text) == row["model"]]
        (cells,) = [cells for cells in named if row["value"] in [cell.value for cell in cells]]
        (place,) = [place for place, cell in enumerate(cells) if cell.value == row["value"]]
        assert cells[place - 1].words == "not run"
        assert bool({"†", "‡"} & {*cells[place].marks}) is (row["confirmed"] != "yes")
        better = "higher" if row["higher_is_better"] == "true" else "lower"
        assert f"in {row['unit']}; {better} is better" in str(table.caption)


@pytest.mark.parametrize("row", [row for row in ROWS if row["table"] == "anomaly"], ids=lambda row: row["dataset"])
def test_a_reported_detection_stands_in_its_table(row: dict[str, Any], tables: dict[str, list[Table]]) -> None:
    shown = [(table, cells[1]) for table in tables["anomaly"] for cells in table.blocks[-1]]
    ((table, auroc),) = [(table, auroc) for table, auroc in shown if auroc.value == row["value"]]
    assert all(dataset in str(table.caption) for dataset in row["dataset"].split("/"))
    assert [str(cell.text) for cell in table.blocks[0][0]][:3] == ["BIVA", "all", "not run"]
    assert auroc.marks == ("1", "†")


def test_the_reported_semi_supervised_error_has_a_set() -> None:
    assert "semi_supervised" in set(PAPER["table"])
    assert "semi_supervised_mnist" in load_sets("paper", CONFIG)


@pytest.mark.parametrize(("table", "model"), OURS)
def test_what_the_paper_reports_of_its_models_has_a_run(table: str, model: str) -> None:
    assert ((PAPER["table"] == table) & (PAPER["model"] == model)).any()
    sets = [name for name in SETS if table in {t.paper_table for t in load_experiments(name, CONFIG).tables}]
    assert sets
    for name in sets:
        assert OURS[table, model] in {run.name for run in resolve_runs(name, load_experiments(name, CONFIG), CONFIG)}


@pytest.mark.parametrize("name", SETS)
def test_the_papers_training_settings(name: str) -> None:
    """paper.md, section 4, with the batch of [PT]; all test images at K = 1 and 1000."""
    settings = load_experiments(name, CONFIG)
    training = settings.training
    assert training.protocol == ("clean" if name == "static_mnist_clean" else "paper")
    assert (training.batch_size, training.free_bits, training.selection_images) == (48, 2.0, None)
    assert (training.learning_rate, training.learning_rate_minimum) == (2e-3, 1e-4)
    assert training.learning_rate_decay == 0.999999
    assert (training.betas, training.ema_decay) == ((0.9, 0.999), 0.9995)
    assert {1, 1000} <= set(settings.evaluation.importance_samples)
    assert settings.evaluation.max_images is None


def test_one_evaluation_is_one_epoch() -> None:
    """The authors select the best epoch."""
    for name in SETS:
        settings = load_experiments(name, CONFIG)
        (dataset,) = {group.dataset for group in settings.runs}
        splits = find_dataset(dataset, CONFIG).splits
        images = splits["train"] + (splits.get("valid", 0) if settings.training.protocol == "paper" else 0)
        for training in (settings.training, *([settings.finetuning.training] if settings.finetuning else [])):
            assert training.evaluate_every == images // training.batch_size, name


def test_tables_of_a_set_of_which_nothing_has_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the commands of config/README.md."""
    (tmp_path / "config").symlink_to(CONFIG)
    monkeypatch.chdir(tmp_path)
    cli.collect("cifar10")
    cli.table("cifar10", "cifar10_ablation")
    with pytest.raises(UserError, match="Nothing to draw for anomaly pair 'svhn'"):
        cli.anomalies("cifar10", "svhn")
    for table in ("tables/cifar10_ablation.tex", "anomalies/svhn.tex"):
        assert "not run" in (tmp_path / "results" / "cifar10" / table).read_text()


@needs_latex
def test_the_cifar10_tables_compile_on_one_page_and_within_their_width(
    tables: dict[str, list[Table]], tmp_path: Path
) -> None:
    """Without runs; and the longest, of the 31 scores of BIVA with L=15, with one."""
    pair = find_anomaly("cifar10", "svhn", CONFIG)
    runs = resolve_runs("cifar10", load_experiments("cifar10", CONFIG), CONFIG)
    (biva,) = (run for run in runs if pair.includes(run))
    aurocs = {f"{kind}>{k}": (0.5, 0.4, 0.6) for kind in ("L", "LLR") for k in range(16)}
    records, made = {biva.name: anomaly_record(pair, aurocs)}, {biva.name: identity(biva)}
    scored = anomaly_table(records, made, PAPER, pair, runs)
    assert sum(cells[2].value == 0.5 for cells in scored.blocks[0]) == 31
    for table in (*tables["cifar10_ablation"], *tables["cifar10"], *tables["anomaly"], scored):
        fits_on_one_page(table.latex(), tmp_path)
