"""Bounds: over updates, over time, against the number of importance samples, and of the models side by side."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biva.errors import UserError
from biva.records import RunFolder, read_json, read_lines
from biva.reporting.canvas import key
from biva.reporting.figures.registry import figure
from biva.reporting.runs import Group, Run, by_model
from biva.reporting.style import COLOURS, LABELS, MARKERS, MUTED


@figure("Learning curves", reads="record")
def learning_curves(part: Any, group: Group) -> None:
    """The evidence lower bound (ELBO) during training, per model and seed: on the selection split with the averaged
    weights (solid), and on the training batches with the current weights and dropout (dashed). A dot marks the best
    evaluation on the selection split, whose weights training selects.
    """
    axes = part.subplots()
    curves = []
    for run in group:
        lines = read_lines(run.folder.record)
        updates = [line["update"] for line in lines]
        for source, style, width in (("selection", "-", 0.8), ("train", "--", 0.5)):
            elbo = [line[source]["elbo"] for line in lines]
            curves.append(elbo)
            axes.plot(updates, elbo, style, color=COLOURS[run.model], linewidth=width)
        if run.folder.training.is_file():
            selected = read_json(run.folder.training)["selected"]
            axes.plot(selected["update"], selected["elbo"], "o", color=COLOURS[run.model])
    _cut_off_the_start(axes, curves)
    axes.set_xlabel("updates")
    axes.set_ylabel("ELBO (nats), higher is better")
    models = [key(LABELS[model], color=COLOURS[model]) for model in by_model(group)]
    kinds = [
        key("selection split", color=MUTED, linewidth=0.8),
        key("training batches", color=MUTED, linewidth=0.5, linestyle="--"),
        key("selected", color=MUTED, linestyle="", marker="o"),
    ]
    part.legend(handles=models + kinds, loc="outside lower center", ncols=4)


@figure("Bound over wall time", reads="record")
def bound_over_time(part: Any, group: Group) -> None:
    """The evidence lower bound on the selection split over the wall time of training, evaluations included and pauses
    left out; in nats, for colour images in bits per dimension. Thin: each seed; thick: the mean of a model's seeds
    until the first of them ends. Times compare only between runs on the same device.
    """
    axes = part.subplots()
    curves = {run: _bound_over_seconds(run) for run in group}
    last = max((seconds[-1] for seconds, _ in curves.values() if seconds.size), default=0.0)
    unit, length = next((unit for unit in _TIME_UNITS if last < 2 * 60 * unit[1]), _TIME_UNITS[-1])
    for model, runs in by_model(group).items():
        seeds = [curves[run] for run in runs if curves[run][0].size]
        several = len(seeds) > 1
        for seconds, bound in seeds:
            axes.plot(seconds / length, bound, color=COLOURS[model], linewidth=0.4 if several else 1.0)
        if several:
            seconds, bound = _mean_curve(seeds)
            axes.plot(seconds / length, bound, color=COLOURS[model], linewidth=1.2)
    _cut_off_the_start(axes, [bound.tolist() for _, bound in curves.values()])
    devices = sorted({read_json(run.folder.identity)["device"] for run in group})
    axes.set_xlabel(f"training time ({unit}) on {', '.join(devices)}")
    binary = _dimensions(group[0]) is None
    axes.set_ylabel("ELBO (nats), higher is better" if binary else "bits/dim, lower is better")
    handles = [
        key(f"{LABELS[model]} ({_seeds(runs)})", color=COLOURS[model]) for model, runs in by_model(group).items()
    ]
    title = "thin: a seed; thick: mean"
    part.legend(handles=handles, loc="outside lower center", ncols=2, title=title, title_fontsize=6)


@figure("Bound against K", reads="evaluation")
def bound_against_k(part: Any, group: Group) -> None:
    """The importance-weighted bound L_K against the number K of samples per image: mean over test images and seeds,
    with a band of one standard error over test images. It rises towards log p(x); all K use the same samples.
    """
    axes = part.subplots()
    for model, runs in by_model(group).items():
        bounds = [_bounds(run.folder) for run in runs]
        ks = sorted(set.intersection(*(set(bound) for bound in bounds)))
        value = np.array([np.mean([bound[k][0] for bound in bounds]) for k in ks])
        error = np.array([np.mean([bound[k][1] for bound in bounds]) for k in ks])
        axes.plot(ks, value, marker=MARKERS[model], color=COLOURS[model], label=f"{LABELS[model]} ({_seeds(runs)})")
        axes.fill_between(ks, value - error, value + error, color=COLOURS[model], alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("importance samples $K$")
    axes.set_ylabel("$L_K$ (nats), higher is better")
    title = "mean over seeds ± 1 s.e. over test images"
    part.legend(loc="outside lower center", ncols=2, title=title, title_fontsize=6)


@figure("The ladder of models", reads="evaluation", height=lambda _group: 1.8)
def ladder(part: Any, group: Group) -> None:
    """The importance-weighted bound L_K of every model at the largest K that all runs have, mean over test images: a
    marker per seed, a bar at the mean of the seeds. What lies between the markers of one model is chance; what lies
    between the models beyond that is what a step of the ladder gives.
    """
    axes = part.subplots()
    bounds = {run: _bounds(run.folder) for run in group}
    common = set.intersection(*(set(bound) for bound in bounds.values()))
    if not common:
        raise UserError("Nothing to draw in figure 'ladder': its runs have no K in common. `biva evaluate` them again.")
    k = max(common)
    models = by_model(group)
    for place, (model, runs) in enumerate(models.items()):
        values = [bounds[run][k][0] for run in runs]
        look = {"color": COLOURS[model], "markerfacecolor": "none", "markersize": 4, "linestyle": ""}
        axes.plot([place] * len(values), values, MARKERS[model], **look)
        axes.hlines(np.mean(values), place - 0.25, place + 0.25, color=COLOURS[model])
    axes.set_xticks(range(len(models)), [f"{LABELS[model]} ({_seeds(runs)})" for model, runs in models.items()])
    axes.set_xlim(-0.5, len(models) - 0.5)
    axes.set_ylabel(f"$L_{{{k}}}$ (nats), higher is better")


def _cut_off_the_start(axes: Any, curves: list[list[float]]) -> None:
    """Let the axis begin where every curve has finished a tenth of its evaluations: the first ones dwarf the rest."""
    later = np.concatenate([curve[len(curve) // 10 :] for curve in curves])
    shown = later[np.isfinite(later)]
    if shown.size and shown.min() < shown.max():
        margin = 0.05 * (shown.max() - shown.min())
        axes.set_ylim(shown.min() - margin, shown.max() + margin)


def _seeds(runs: Group) -> str:
    return f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"


_TIME_UNITS = (("seconds", 1), ("minutes", 60), ("hours", 3600), ("days", 86400))

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def _bound_over_seconds(run: Run) -> Curve:
    """Seconds of training, and the ELBO on the selection split in nats, or for colour images its bits/dim."""
    lines, dimensions = read_lines(run.folder.record), _dimensions(run)
    elbo = np.array([line["selection"]["elbo"] for line in lines], dtype=float)
    bound = elbo if dimensions is None else -elbo / (math.log(2) * dimensions)
    return np.array([line["seconds"] for line in lines], dtype=float), bound


def _dimensions(run: Run) -> int | None:
    """Sub-pixels of a colour image, whose bound is given in bits/dim; None for binary images."""
    architecture = read_json(run.folder.identity)["config"]["architecture"]
    return None if architecture["likelihood"] == "bernoulli" else math.prod(architecture["input_shape"])


def _mean_curve(curves: list[Curve]) -> Curve:
    """Mean of curves over the times that all of them cover, each interpolated linearly between its points."""
    times = np.unique(np.concatenate([x for x, _ in curves]))
    times = times[(times >= max(x[0] for x, _ in curves)) & (times <= min(x[-1] for x, _ in curves))]
    return times, np.mean([np.interp(times, x, y) for x, y in curves], axis=0)


def _bounds(folder: RunFolder) -> dict[int, tuple[float, float]]:
    """K -> (L_K, its standard error over test images; NaN for a single image), in nats."""
    bounds = [m for m in read_json(folder.evaluation)["metrics"] if m["metric"] == "log_likelihood_bound"]
    return {m["k"]: (m["value"], math.nan if m["standard_error"] is None else m["standard_error"]) for m in bounds}
