"""The table of an anomaly pair: numbers counted by hand reach their cells, and what is missing or odd is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from biva.config import AnomalyPair, RunConfig
from biva.errors import UserError
from biva.reporting.anomalies import anomaly_table
from biva.reporting.table import Table
from tests.fake_runs import anomaly_record, fake_config, identity
from tests.latex import fits_on_one_page, needs_latex
from tests.unit.test_likelihood_table import PAPER, notes_of, rows_of

PAIR = AnomalyPair(name="mnist", normal="digits", anomalous="mnist_dynamic", importance_samples=20)
AUROCS = {"L>0": (0.2, 0.1, 0.3), "L>1": (0.3, 0.2, 0.4), "L>2": (0.4, 0.3, 0.5), "L>3": (0.5, 0.4, 0.6)} | {
    "LLR>1": (0.9, 0.85, 0.95),
    "LLR>2": (0.7, 0.6, 0.8),
    "LLR>3": (0.6, 0.5, 0.7),
}


def shifted(by: float) -> dict[str, tuple[float, float, float]]:
    return {score: (value + by, low + by, high + by) for score, (value, low, high) in AUROCS.items()}


def config(seed: int = 1, model: str = "biva", dataset: str = "digits", **training: Any) -> RunConfig:
    return fake_config(model, seed, dataset, stages=3, **training)


Scored = list[tuple[RunConfig, dict[str, Any] | None]]
"""Planned runs, each with its record of the pair, if it has one."""


def table(scored: Scored, pair: AnomalyPair = PAIR, paper: pd.DataFrame = PAPER, **growth: float) -> Table:
    """The table; `growth` has that of the loss, by model."""
    made = {run.name: identity(run) | {"loss_growth": growth.get(run.model, 1.0)} for run, _ in scored}
    records = {run.name: record for run, record in scored if record}
    return anomaly_table(records, made, paper, pair, [run for run, _ in scored])


def best(table: Table) -> list[str]:
    """The texts of the bold cells."""
    return [str(cell.text) for block in table.blocks for row in block for cell in row if cell.bold]


def test_one_seed_shows_the_interval_and_the_best_in_bold() -> None:
    shown = table([(config(), anomaly_record(PAIR, AUROCS))])
    assert rows_of(shown)[0] == [
        "BIVA", "L^>0", "0.200 [0.100, 0.300]", "0.020 [0.010, 0.030]", "0.800 [0.700, 0.900]",
    ]  # fmt: skip
    assert rows_of(shown)[4][:3] == ["", "LLR^>1", "0.900 [0.850, 0.950]"]
    assert best(shown) == ["0.900 [0.850, 0.950]"]
    assert "No reported value on this pair of datasets is known" in notes_of(shown)
    equal = table([(config(), anomaly_record(PAIR, AUROCS | {"LLR>2": AUROCS["LLR>1"]}))])
    assert best(equal) == ["0.900 [0.850, 0.950]"] * 2


def test_several_seeds_show_mean_and_deviation() -> None:
    """0.2 and 0.24: mean 0.22, sample s.d. 0.04 / sqrt 2 = 0.028; one of three planned has not run."""
    scored: Scored = [(config(seed), anomaly_record(PAIR, shifted(by))) for seed, by in ((1, 0.0), (2, 0.04))]
    assert rows_of(table(scored))[0][:3] == ["BIVA", "L^>0", "0.220±0.028 (2)"]
    assert rows_of(table([*scored, (config(3), None)]))[0][2] == "0.220±0.028 (2/3)"


def test_reported_values_carry_source_and_mark() -> None:
    pair = PAIR.model_copy(update={"normal": "fashion_mnist"})
    run = config().model_copy(update={"dataset": "fashion_mnist"})
    shown = table([(run, anomaly_record(pair, AUROCS))], pair)
    assert [cells[1:] for cells in rows_of(shown)[7:]] == [["0.984^1,†", "–", "–"]]
    assert "^1 memory of that paper" in notes_of(shown)
    assert "^† unconfirmed" in notes_of(shown)


def test_models_stand_in_order_each_with_its_best() -> None:
    scored: Scored = [(config(), None), (config(model="lvae"), anomaly_record(PAIR, shifted(0.01)))]
    other = config(model="vae").model_copy(update={"dataset": "mnist_static"})
    shown = table([*scored, (config(model="vae"), anomaly_record(PAIR, AUROCS)), (other, None)])
    assert [row[0] for row in rows_of(shown) if row[0]] == ["VAE", "LVAE", "BIVA"]
    assert rows_of(shown)[-1] == ["BIVA", "all", "not run", "not run", "not run"]
    assert [text[:5] for text in best(shown)] == ["0.900", "0.910"]


def test_two_architectures_of_a_model_are_not_seeds_of_it() -> None:
    wider = config().model_copy(update={"architecture_name": "digits_wide"})
    shown = table([(config(), anomaly_record(PAIR, AUROCS)), (wider, anomaly_record(PAIR, shifted(0.04)))])
    assert [row[0] for row in rows_of(shown) if row[0]] == ["BIVA (digits_8x8)", "BIVA (digits_wide)"]
    assert [row[2][:5] for row in rows_of(shown) if row[0]] == ["0.200", "0.240"]


def test_the_notes_name_images_samples_budget_and_protocol() -> None:
    runs = [config(seed, max_updates=12_000, protocol="paper") for seed in (1, 4)]
    record = anomaly_record(PAIR, AUROCS, images=(1500, 2000))
    shown = table([(run, record) for run in runs])
    assert "test images of digits are normal, those of mnist_dynamic anomalous" in str(shown.caption)
    for note in (
        "1,500 of 2,000 normal test images, drawn and all 2,000 anomalous test images",
        "K = 20 importance samples",
        "1,000 bootstrap resamplings",
        "Seeds 1, 4;",
        "at most 12,000 updates; device cpu.",
        "Protocol paper: ",
        "test images was selected",
    ):
        assert note in notes_of(shown)
    assert "other than the present ones" not in notes_of(shown)
    changed = PAIR.model_copy(update={"importance_samples": 5})
    assert "other than the present ones" in notes_of(table([(run, record) for run in runs], changed))


def test_a_run_that_is_not_like_the_others_is_marked_and_explained() -> None:
    runs = [config(model=model) for model in ("vae", "lvae", "biva")]
    records = [anomaly_record(PAIR, AUROCS) for _ in runs]
    records[1]["commit"] = "4567def"
    records[2]["anomalous"]["fingerprint"] = "c" * 64
    shown = table(list(zip(runs, records, strict=True)), biva=2000)
    assert [row[0] for row in rows_of(shown) if row[0]] == ["VAE", "LVAE^a", "BIVA^b,c"]
    assert "that of the first update: digits_8x8/biva/seed1: 2,000 times." in notes_of(shown)
    assert "digits_8x8/lvae/seed1: 0123abc 4567def; the others: 0123abc." in notes_of(shown)
    assert "other data: digits_8x8/biva/seed1: ffffffffffff cccccccccccc" in notes_of(shown)


def test_the_chosen_k_is_marked_and_the_note_says_where_it_was_chosen() -> None:
    """LLR^{>2} was chosen, though LLR^{>1} is best on the test images: it alone is bold. Another seed chose k = 3."""
    pair = PAIR.model_copy(update={"choose_k_on": "omniglot"})
    records = [anomaly_record(pair, AUROCS), anomaly_record(pair, AUROCS)]
    alone = table([(config(), records[0])], pair)
    assert [row[1] for row in rows_of(alone)[4:]] == ["LLR^>1", "LLR^>2^§", "LLR^>3"]
    assert best(alone) == ["0.900 [0.850, 0.950]"]
    for note in (
        "Bold: the best AUROC of the model on these test images; ^§ was chosen without them.",
        "^§ k chosen as that of the LLR^>k with the highest AUROC on other images: 1,500 of 2,000 validation images of "
        "digits, drawn, against all 2,000 test images of omniglot; no test image of the pair had a part in it. "
        "digits_8x8/biva/seed1 LLR^>2, AUROC there 0.875.",
    ):
        assert note in notes_of(alone)
    records[1] |= {"chosen": "LLR>3", "choosing_auroc": {"LLR>3": 0.75}}
    both = table([(config(seed), record) for seed, record in enumerate(records, start=1)], pair)
    assert [row[1] for row in rows_of(both)[4:]] == ["LLR^>1", "LLR^>2^§", "LLR^>3^§"]
    assert "seed1 LLR^>2, AUROC there 0.875; digits_8x8/biva/seed2 LLR^>3, AUROC there 0.750." in notes_of(both)


def test_runs_that_chose_on_other_data_are_marked() -> None:
    pair = PAIR.model_copy(update={"choose_k_on": "omniglot"})
    records = [anomaly_record(pair, AUROCS) for _ in range(3)]
    records[2]["choosing_anomalous"]["fingerprint"] = "d" * 64
    shown = table([(config(seed), record) for seed, record in enumerate(records, start=1)], pair)
    assert "other data: digits_8x8/biva/seed3: ffffffffffff bbbbbbbbbbbb dddddddddddd" in notes_of(shown)


def test_a_pair_that_chooses_no_k_says_nothing_of_it_and_keeps_its_settings() -> None:
    """Records from before the fields were there are of the same settings; with a field they are of others."""
    record = anomaly_record(PAIR, AUROCS)
    assert record["settings"].keys() == {"name", "normal", "anomalous", "importance_samples", "max_images"}
    assert "§" not in table([(config(), record)]).latex() + notes_of(table([(config(), record)]))
    for change in ({"below": "mode"}, {"choose_k_on": "omniglot"}):
        changed = table([(config(), record)], PAIR.model_copy(update=change))
        assert "other than the present ones" in notes_of(changed)
        assert ("are the mode of the prior" in notes_of(changed)) == ("below" in change)


def test_a_record_of_another_version_is_refused() -> None:
    record = anomaly_record(PAIR, AUROCS)
    del record["scores"]["LLR>2"]
    with pytest.raises(UserError, match=r"KeyError: 'LLR>2'.*run `biva detect` again"):
        table([(config(), record)])


HOSTILE = '\\end{table} 100% & #1_2 ^3 ~4 $x$ {é <"|> 中 \x07'


@needs_latex
@pytest.mark.parametrize("kind", ["one seed", "seeds", "hostile", "chosen"])
def test_the_table_compiles_on_one_page_and_within_its_width(kind: str, tmp_path: Path) -> None:
    choice = {"choose_k_on": "omniglot", "below": "mode"} if kind == "chosen" else {}
    pair = PAIR.model_copy(update={"normal": "fashion_mnist"} | choice)
    record, paper = anomaly_record(pair, AUROCS), PAPER.copy()
    if kind == "hostile":
        record["device"] = HOSTILE
        paper.loc[paper["table"] == "anomaly", ["model", "source"]] = HOSTILE
    runs = [
        config(seed, model, "fashion_mnist")
        for model in ("vae", "lvae", "lvae_plus", "biva")
        for seed in ((1, 2, 3) if kind == "seeds" else (1,))
    ]
    shown = table([(run, None if run.model == "lvae" or run.seed == 3 else record) for run in runs], pair, paper)
    fits_on_one_page(shown.latex(), tmp_path, within_its_width=kind != "hostile")
