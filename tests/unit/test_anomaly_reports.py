"""The table and the figure of an anomaly pair: numbers counted by hand reach the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from biva.config import AnomalyPair, RunConfig
from biva.errors import UserError
from biva.reporting.anomalies import anomaly_table, draw_anomaly
from biva.reporting.results import load_paper_results
from tests.fake_runs import anomaly_record, detect, fake_config, fake_run

ROOT = Path(__file__).resolve().parents[2]
PAIR = AnomalyPair(name="mnist", normal="digits", anomalous="mnist_dynamic", importance_samples=20)
AUROCS = {"L>0": (0.2, 0.1, 0.3), "L>1": (0.3, 0.2, 0.4), "L>2": (0.4, 0.3, 0.5), "L>3": (0.5, 0.4, 0.6)} | {
    "LLR>1": (0.9, 0.85, 0.95),
    "LLR>2": (0.7, 0.6, 0.8),
    "LLR>3": (0.6, 0.5, 0.7),
}
NORMAL = np.array([[-1.0, -2, -3, -4], [-2, -3, -4, -5], [-5, -5, -6, -6], [-9, -9, -9, -9]])
ANOMALOUS = np.array([[-1.0, -1], [-9, -9], [-9, -8], [-9, -9]])


@pytest.fixture
def paper() -> pd.DataFrame:
    return load_paper_results(ROOT / "config" / "paper_results.csv")


def shifted(by: float) -> dict[str, tuple[float, float, float]]:
    return {score: (value + by, low + by, high + by) for score, (value, low, high) in AUROCS.items()}


def config(seed: int = 1) -> RunConfig:
    return fake_config("biva", seed, stages=3)


def table(records: list[tuple[RunConfig, dict[str, Any] | None]], paper: pd.DataFrame, pair: AnomalyPair = PAIR) -> str:
    return anomaly_table(records, pair, paper)


def test_one_seed_shows_the_interval_and_the_best_in_bold(paper: pd.DataFrame) -> None:
    tex = table([(config(), anomaly_record(PAIR, AUROCS))], paper)
    assert r"$L^{>0}$ & $0.200\ [0.100, 0.300]$ & $0.020\ [0.010, 0.030]$ & $0.800\ [0.700, 0.900]$ \\" in tex
    assert r"$\mathrm{LLR}^{>1}$ & $\mathbf{0.900}\ [0.850, 0.950]$" in tex
    assert tex.count(r"\mathbf") == 1
    assert "No reported value on this pair of datasets is known" in tex


def test_several_seeds_show_mean_and_deviation(paper: pd.DataFrame) -> None:
    """0.2 and 0.24: mean 0.22, sample s.d. 0.04 / sqrt 2 = 0.028; one of three planned has not run."""
    records = [(config(seed), anomaly_record(PAIR, shifted(by))) for seed, by in ((1, 0.0), (2, 0.04))]
    assert r"$L^{>0}$ & $0.220{\pm}0.028$ (2)" in table([*records], paper)
    assert r"$L^{>0}$ & $0.220{\pm}0.028$ (2/3)" in table([*records, (config(3), None)], paper)


def test_what_has_not_run_says_so(paper: pd.DataFrame) -> None:
    assert r"BIVA & all & not run & not run & not run \\" in table([(config(), None)], paper)


def test_reported_values_carry_source_and_mark(paper: pd.DataFrame) -> None:
    pair = PAIR.model_copy(update={"normal": "fashion_mnist"})
    run = config().model_copy(update={"dataset": "fashion_mnist"})
    tex = table([(run, anomaly_record(pair, AUROCS))], paper, pair)
    assert r"$0.984^{1,\dagger}$ & -- & -- \\" in tex
    assert "memory of that paper (unconfirmed)" in tex


def test_a_pair_without_runs_is_refused(paper: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="on which no run is planned"):
        table([(config(), None)], paper, PAIR.model_copy(update={"normal": "cifar10"}))


def test_a_record_of_another_version_is_refused(paper: pd.DataFrame) -> None:
    record = anomaly_record(PAIR, AUROCS)
    del record["scores"]["LLR>2"]
    with pytest.raises(UserError, match=r"lacks the field 'LLR>2'.*run `biva detect` again"):
        table([(config(), record)], paper)


def test_histograms_and_curves_are_the_records(tmp_path: Path) -> None:
    """L^{>0}: four normal images in four bins, both anomalies in the last.

    LLR^{>1} is 1 for all normal images and 8 for all anomalies: its curve finds both before any normal image.
    """
    folder = fake_run(tmp_path, config())
    detect(folder, PAIR, AUROCS, NORMAL, ANOMALOUS)
    figure = draw_anomaly([folder], PAIR)
    every = [axes for axes in figure.findobj(Axes) if isinstance(axes, Axes)]
    panels = {axes.get_title(): axes for axes in every}
    first = panels["$L^{>0}$, AUROC 0.200"]
    heights = [bar.get_height() for bar in first.patches if isinstance(bar, Rectangle)]
    assert [height for height in heights if height] == [1, 1, 1, 1]
    assert heights[0] == heights[-1] == 1
    (curves,) = [axes for axes in every if axes.get_ylabel() == "anomalies found"]
    lines = {line.get_label(): line for line in curves.lines}
    llr = lines[r"$\mathrm{LLR}^{>1}$  0.900"]
    assert llr.get_xydata().tolist() == [[0, 0], [0, 1], [1, 1]]


def test_nothing_to_draw_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the 1 runs on 'digits' has a record"):
        draw_anomaly([fake_run(tmp_path, config())], PAIR)
