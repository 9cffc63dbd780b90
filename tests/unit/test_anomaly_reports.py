"""The table and the figure of an anomaly pair: numbers counted by hand reach the page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from matplotlib.text import Text

from biva.config import AnomalyPair, RunConfig
from biva.errors import UserError
from biva.reporting.anomalies import anomaly_table
from biva.reporting.canvas import save
from biva.reporting.figures.anomaly import draw_anomaly
from biva.reporting.results import load_paper_results
from tests.fake_runs import anomaly_record, detect, fake_config, fake_run, identity
from tests.latex import compiled_on_one_page

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


def config(seed: int = 1, model: str = "biva", dataset: str = "digits", **training: Any) -> RunConfig:
    return fake_config(model, seed, dataset, stages=3, **training)


def table(records: list[tuple[RunConfig, dict[str, Any] | None]], paper: pd.DataFrame, pair: AnomalyPair = PAIR) -> str:
    return anomaly_table(records, pair, paper, {run.name: identity(run) for run, _ in records})


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


def test_equal_best_values_are_all_bold(paper: pd.DataFrame) -> None:
    tex = table([(config(), anomaly_record(PAIR, AUROCS | {"LLR>2": AUROCS["LLR>1"]}))], paper)
    assert tex.count(r"\mathbf{0.900}") == 2


def test_models_stand_in_order_each_with_its_best(paper: pd.DataFrame) -> None:
    runs = [(config(), None), (config(model="lvae"), anomaly_record(PAIR, shifted(0.01)))]
    other = config(model="vae").model_copy(update={"dataset": "mnist_static"})
    tex = table([*runs, (config(model="vae"), anomaly_record(PAIR, AUROCS)), (other, None)], paper)
    names = [line.split(" &")[0] for line in tex.splitlines() if line.endswith(r"\\") and not line.startswith(" ")]
    assert names == ["Model", "VAE", "LVAE", "BIVA"]
    assert tex.count(r"\mathbf") == 2
    assert r"\mathbf{0.910}" in tex


def test_two_architectures_of_a_model_are_not_seeds_of_it(paper: pd.DataFrame) -> None:
    wider = config().model_copy(update={"architecture_name": "digits_wide"})
    tex = table([(config(), anomaly_record(PAIR, AUROCS)), (wider, anomaly_record(PAIR, shifted(0.04)))], paper)
    assert r"BIVA (\texttt{digits\_8x8}) & $L^{>0}$ & $0.200\ [" in tex
    assert r"BIVA (\texttt{digits\_wide}) & $L^{>0}$ & $0.240\ [" in tex


def test_the_notes_name_images_samples_budget_and_protocol(paper: pd.DataFrame) -> None:
    runs = [config(seed, max_updates=12_000, protocol="paper") for seed in (1, 4)]
    record = anomaly_record(PAIR, AUROCS, images=(1500, 700))
    tex = table([(run, record) for run in runs], paper)
    assert r"test images of \texttt{digits} are normal, those of \texttt{mnist\_dynamic} anomalous" in tex
    for text in (
        r"$1{,}500$ normal and $700$ anomalous test images",
        "$K$ = $20$ importance samples",
        r"$1{,}000$ bootstrap resamplings",
        "Seeds 1, 4;",
        r"at most $12{,}000$ updates; device cpu.",
        r"Protocol \texttt{paper}",
        r"\emph{test} images was selected",
    ):
        assert text in tex
    assert "other than the present ones" not in tex
    changed = PAIR.model_copy(update={"importance_samples": 5})
    assert "other than the present ones" in table([(run, record) for run in runs], paper, changed)


HOSTILE = '\\end{table} 100% & #1_2 ^3 ~4 $x$ {é <"|> 中 \x07'


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("kind", ["one seed", "seeds", "hostile"])
def test_the_table_compiles_on_one_page_and_within_its_width(kind: str, paper: pd.DataFrame, tmp_path: Path) -> None:
    pair = PAIR.model_copy(update={"normal": "fashion_mnist"})
    record = anomaly_record(pair, AUROCS)
    if kind == "hostile":
        record["device"] = HOSTILE
        paper.loc[paper["table"] == "anomaly", ["model", "source"]] = HOSTILE
    runs = [
        config(seed, model, "fashion_mnist")
        for model in ("vae", "lvae", "lvae_plus", "biva")
        for seed in ((1, 2, 3) if kind == "seeds" else (1,))
    ]
    tex = table([(run, None if run.model == "lvae" or run.seed == 3 else record) for run in runs], paper, pair)
    printed = compiled_on_one_page(tex, tmp_path)
    assert "Float too large" not in printed
    if kind != "hostile":
        assert not re.findall(r"Overfull \\hbox.*", printed)


def test_a_pair_without_runs_is_refused(paper: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="on which no run is planned"):
        table([(config(), None)], paper, PAIR.model_copy(update={"normal": "cifar10"}))


def test_a_record_of_another_version_is_refused(paper: pd.DataFrame) -> None:
    record = anomaly_record(PAIR, AUROCS)
    del record["scores"]["LLR>2"]
    with pytest.raises(UserError, match=r"lacks the field 'LLR>2'.*run `biva detect` again"):
        table([(config(), record)], paper)


def panels_of(figure: Figure) -> dict[str, Axes]:
    """The figure's axes by their title; the curves' axes have none."""
    return {axes.get_title(): axes for axes in figure.findobj(Axes) if isinstance(axes, Axes)}


def texts(figure: Figure) -> str:
    """Every text on the figure."""
    return "\n".join(artist.get_text() for artist in figure.findobj(Text) if isinstance(artist, Text))


def test_histograms_count_both_kinds_of_images_in_the_same_bins(tmp_path: Path) -> None:
    """L^{>1} is -2, -3, -4, -5 of normal images and -9, -9 of anomalies: 40 bins of 7 / 40 from -9 to -2."""
    folder = fake_run(tmp_path, config())
    detect(folder, PAIR, AUROCS, NORMAL, ANOMALOUS)
    panels = panels_of(draw_anomaly([folder], PAIR))
    assert [title for title in panels if title] == [
        f"$L^{{>{k}}}$, AUROC {value}" for k, value in enumerate(["0.200", "0.300", "0.400", "0.500"])
    ]
    patches = panels["$L^{>1}$, AUROC 0.300"].patches
    bars = [bar for bar in patches if isinstance(bar, Rectangle)]
    # The values -5, -4, -3 lie 4, 5, 6 above the lowest edge: 22.9, 28.6 and 34.3 bins.
    assert {place: bar.get_height() for place, bar in enumerate(bars) if bar.get_height()} == {
        22: 1,
        28: 1,
        34: 1,
        39: 1,
    }
    assert (bars[0].get_x(), len(bars)) == (-9, 40)
    (outline,) = [patch for patch in patches if isinstance(patch, Polygon)]
    corners = outline.get_xy()
    assert corners[corners[:, 1] == 2][:, 0].tolist() == pytest.approx([-9, -9 + 7 / 40])
    assert set(corners[:, 1]) == {0, 2}


def test_curves_are_those_counted_by_hand(tmp_path: Path) -> None:
    """Scores of the four normal images and the two anomalies:

    L^{>0}: 1, 2, 3, 4 and 1, 1: three normal images come first, the last ties with both anomalies.
    LLR^{>1}: 1, 1, 0, 0 and 8, 8: both anomalies come first.
    LLR^{>3}: 8, 7, 1, 0 and 8, 8: a normal image ties with both anomalies.
    """
    folder = fake_run(tmp_path, config())
    normal = np.array([[-1.0, -2, -3, -4], [-2, -3, -3, -4], [-5, -5, -6, -6], [-9, -9, -4, -4]])
    detect(folder, PAIR, AUROCS, normal, ANOMALOUS)
    lines = {str(line.get_label()): line for line in panels_of(draw_anomaly([folder], PAIR))[""].lines}
    curves = {label: line.get_xydata().tolist() for label, line in lines.items() if label.startswith("$")}
    assert list(curves) == ["$L^{>0}$  0.200"] + [
        rf"$\mathrm{{LLR}}^{{>{k}}}$  {auroc}" for k, auroc in ((1, "0.900"), (2, "0.700"), (3, "0.600"))
    ]
    on_a_straight_part = [[0.25, 0], [0.5, 0]]
    plain = [point for point in curves["$L^{>0}$  0.200"] if point not in on_a_straight_part]
    assert plain == [[0, 0], [0.75, 0], [1, 1]]
    assert curves[r"$\mathrm{LLR}^{>1}$  0.900"] == [[0, 0], [0, 1], [1, 1]]
    assert curves[r"$\mathrm{LLR}^{>3}$  0.600"] == [[0, 0], [0.25, 1], [1, 1]]


@pytest.mark.parametrize(
    ("models", "shown"),
    [
        (["biva", "vae"], ["VAE", "BIVA"]),
        (["biva", "vae", "lvae"], ["BIVA"]),
        (["vae", "lvae_plus", "lvae"], ["VAE", "LVAE", "LVAE+"]),
    ],
)
def test_the_first_seed_of_every_model_or_of_many_models_biva_is_drawn(
    models: list[str], shown: list[str], tmp_path: Path
) -> None:
    folders = [fake_run(tmp_path, config(seed, model)) for model in models for seed in (3, 2)]
    for folder in folders:
        detect(folder, PAIR, AUROCS, NORMAL, ANOMALOUS)
    titles = [line for line in texts(draw_anomaly(folders, PAIR)).splitlines() if ", seed" in line]
    assert titles == [f"{model}, seed 2, digits_8x8" for model in shown]


def test_runs_without_a_record_are_named(tmp_path: Path) -> None:
    folders = [fake_run(tmp_path, config(seed)) for seed in (1, 2)] + [fake_run(tmp_path, config(3, dataset="other"))]
    detect(folders[0], PAIR, AUROCS, NORMAL, ANOMALOUS)
    named = texts(draw_anomaly(folders, PAIR))
    assert "not run: digits/digits_8x8/biva/seed2" in named
    assert "other/" not in named


def test_saved_twice_the_figures_are_the_same_bytes(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, config())
    detect(folder, PAIR, AUROCS, NORMAL, ANOMALOUS)
    for name in ("first", "second"):
        save(draw_anomaly([folder], PAIR), tmp_path / name)
    for kind in ("pdf", "png"):
        assert (tmp_path / f"first.{kind}").read_bytes() == (tmp_path / f"second.{kind}").read_bytes()


def test_nothing_to_draw_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the 1 runs on 'digits' has a record"):
        draw_anomaly([fake_run(tmp_path, config())], PAIR)


def test_a_run_that_is_not_like_the_others_is_marked_and_explained(paper: pd.DataFrame) -> None:
    runs = [config(model=model) for model in ("vae", "lvae", "biva")]
    records = [anomaly_record(PAIR, AUROCS), anomaly_record(PAIR, AUROCS) | {"commit": "4567def"}]
    records += [anomaly_record(PAIR, AUROCS)]
    records[2]["anomalous"]["fingerprint"] = "c" * 64
    tex = table(list(zip(runs, records, strict=True)), paper)
    assert [line.split(" &")[0] for line in tex.splitlines() if "$L^{>0}$ &" in line] == [
        "VAE", r"LVAE$^{\mathrm{a}}$", r"BIVA$^{\mathrm{b}}$",
    ]  # fmt: skip
    assert r"\texttt{digits\_8x8/lvae/seed1}: \texttt{0123abc 4567def}; the others: \texttt{0123abc}." in tex
    assert r"\texttt{ffffffffffff cccccccccccc}; the others: \texttt{ffffffffffff bbbbbbbbbbbb}." in tex
