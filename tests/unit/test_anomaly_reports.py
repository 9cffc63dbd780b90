"""The figure of an anomaly pair: numbers counted by hand reach the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from biva.errors import UserError
from biva.reporting.canvas import save
from biva.reporting.figures.anomaly import draw_anomaly
from tests.fake_runs import detect, fake_run
from tests.unit.test_anomaly_table import AUROCS, PAIR, config
from tests.unit.test_figures import texts

NORMAL = np.array([[-1.0, -2, -3, -4], [-2, -3, -4, -5], [-5, -5, -6, -6], [-9, -9, -9, -9]])
ANOMALOUS = np.array([[-1.0, -1], [-9, -9], [-9, -8], [-9, -9]])


def panels_of(figure: Figure) -> dict[str, Axes]:
    """The figure's axes by their title; the curves' axes have none."""
    return {axes.get_title(): axes for axes in figure.findobj(Axes) if isinstance(axes, Axes)}


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
    heights = {place: bar.get_height() for place, bar in enumerate(bars) if bar.get_height()}
    assert heights == {22: 1, 28: 1, 34: 1, 39: 1}
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
