"""Figure of an anomaly pair: histograms of L^{>k} and ROC curves, from `anomaly/NAME.json` and its arrays alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from biva.config import AnomalyPair
from biva.errors import UserError
from biva.records import RunFolder, read_arrays, read_json
from biva.reporting.anomalies import score_names, symbol
from biva.reporting.canvas import Part, panels, stack
from biva.reporting.runs import Run, first_seeds, in_order
from biva.reporting.style import LABELS, MUTED

Arrays = dict[str, NDArray[np.float64]]

BINS = 40
NORMAL, ANOMALOUS = "#BBBBBB", "#D55E00"
"""A filled light grey and a dark orange line, which differ in lightness too."""


def draw_anomaly(folders: Iterable[RunFolder], pair: AnomalyPair) -> Figure:
    """Histograms of L^{>k} per k and ROC curves, of the first seed of every model; of more than two, BIVA's alone.

    Runs on the pair's normal dataset are drawn.

    Raises:
        UserError: no run has a record of the pair.
    """
    runs = [run for run in in_order(folders) if run.dataset == pair.normal]
    ready = [run for run in runs if run.folder.anomaly(pair.name).is_file() and _arrays(run, pair).is_file()]
    if not ready:
        raise UserError(
            f"Nothing to draw for anomaly pair {pair.name!r}: none of the {len(runs)} runs on {pair.normal!r} has a "
            f"record of it. Run `biva detect EXPERIMENTS RUN {pair.name}` first."
        )
    shown = first_seeds(ready)
    if len(shown) > 2:
        shown = [run for run in shown if run.model == "biva"] or shown
    parts = [_part(run, pair, read_arrays(_arrays(run, pair))) for run in shown]
    return stack(parts, missing=[run.name for run in runs if run not in ready])


def _part(run: Run, pair: AnomalyPair, arrays: Arrays) -> Part:
    """The histograms of a run above its ROC curves."""
    scores = read_json(run.folder.anomaly(pair.name))["scores"]
    aurocs = {score: numbers["auroc"]["value"] for score, numbers in scores.items()}
    heights = [0.4 + 0.95 * math.ceil(len(arrays["normal"]) / 2), 2.0]  # panels two by two, and a legend; the curves

    def draw(part: Any) -> None:
        upper, lower = part.subfigures(2, 1, height_ratios=heights)
        _draw_histograms(upper, arrays, aurocs, pair)
        _draw_roc(lower, arrays, aurocs)

    return Part(f"{LABELS[run.model]}, seed {run.seed}, {run.architecture}", 0.2 + sum(heights), draw)


def _arrays(run: Run, pair: AnomalyPair) -> Path:
    return run.folder.anomaly(pair.name).with_suffix(".safetensors")


def _draw_histograms(part: Any, arrays: Arrays, aurocs: dict[str, float], pair: AnomalyPair) -> None:
    """Test images over L^{>k}, a panel per k, normal ones and anomalies in the same bins."""
    axes_of_k = panels(part, len(arrays["normal"]))
    for k, axes in enumerate(axes_of_k):
        normal, anomalous = arrays["normal"][k], arrays["anomalous"][k]
        bins = np.histogram_bin_edges(np.concatenate([normal, anomalous]), BINS).tolist()
        axes.hist(normal, bins, color=NORMAL, label=f"{pair.normal} (normal)")
        label = f"{pair.anomalous} (anomalous)"
        axes.hist(anomalous, bins, histtype="step", color=ANOMALOUS, linewidth=0.8, label=label)
        axes.set_title(f"{symbol(f'L>{k}')}, AUROC {aurocs[f'L>{k}']:.3f}")
        axes.grid(axis="x", visible=False)
    part.supxlabel("nats", fontsize=7)
    part.supylabel("test images", fontsize=7)
    part.legend(*axes_of_k[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)


def _draw_roc(part: Any, arrays: Arrays, aurocs: dict[str, float]) -> None:
    """ROC of the plain bound, dashed, and of LLR^{>k}, darker for lower k."""
    axes: Axes = part.subplots()
    axes.axline((0, 0), slope=1, color=MUTED, linewidth=0.4)
    ratios = [score for score in score_names(len(arrays["normal"]) - 1) if score.startswith("LLR")]
    colours = matplotlib.colormaps["cividis"](np.linspace(0, 0.85, len(ratios)))
    for score, colour, style in zip(["L>0", *ratios], ["black", *colours], ["--", *["-"] * len(ratios)], strict=True):
        false_positives, true_positives = _roc(arrays, score)
        label = f"{symbol(score)}  {aurocs[score]:.3f}"
        axes.plot(false_positives, true_positives, style, color=colour, label=label)
    axes.set_aspect("equal")
    for limits, ticks in ((axes.set_xlim, axes.set_xticks), (axes.set_ylim, axes.set_yticks)):
        limits(-0.01, 1.01)
        ticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_xlabel("normal images taken for anomalies")
    axes.set_ylabel("anomalies found")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), title="score, AUROC", title_fontsize=6)


def _roc(arrays: Arrays, score: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates of a score, anomalies being the positives."""
    from sklearn.metrics import roc_curve  # takes a second, and most of what imports this module draws no curve

    normal, anomalous = arrays[f"score/{score}/normal"], arrays[f"score/{score}/anomalous"]
    labels = np.concatenate([np.zeros(len(normal)), np.ones(len(anomalous))])
    false_positives, true_positives, _ = roc_curve(labels, np.concatenate([normal, anomalous]))
    return false_positives, true_positives
