"""Figures of an experiment set, drawn from run records alone, at the width of one column.

A run whose record for a figure does not exist yet is named on the figure as not run.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import ScalarFormatter
from safetensors.numpy import load_file

from biva.config import FigureName
from biva.errors import UserError
from biva.records import RunFolder, read_json, read_lines, variant_of, write_atomically
from biva.reporting.style import COLOURS, COLUMN_WIDTH, LABELS, LOOK, MARKERS, MODELS, MUTED
from biva.vision import torchvision_utils

Images = npt.NDArray[np.float32]

SAMPLES_SHOWN = 64
RECONSTRUCTIONS_SHOWN = 10


@dataclass(frozen=True)
class Run:
    """A run's folder and what `run.json` says of it, or its place `.../DATASET/ARCHITECTURE/MODEL/seedN` if not run."""

    folder: RunFolder
    dataset: str
    architecture: str
    model: str
    seed: int

    @classmethod
    def at(cls, folder: RunFolder) -> Run:
        if folder.identity.is_file():
            identity = read_json(folder.identity)
            config = identity["config"]
            return cls(folder, config["dataset"], config["architecture_name"], variant_of(identity), config["seed"])
        parts = folder.path.resolve().parts[-4:]
        if len(parts) < 4 or parts[2] not in MODELS or not re.fullmatch(r"seed-?\d+", parts[3]):
            raise UserError(f"{folder.path} is no run folder: expected .../DATASET/ARCHITECTURE/MODEL/seedN.")
        return cls(folder, parts[0], parts[1], parts[2], int(parts[3].removeprefix("seed")))

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.architecture}/{self.model}/seed{self.seed}"


_Group = list[Run]
"""Runs of one dataset and architecture, by model and seed: what may be compared in one pair of axes."""


def in_order(folders: Iterable[RunFolder]) -> list[Run]:
    """Runs by dataset, architecture, model and seed."""
    return sorted(
        (Run.at(folder) for folder in folders),
        key=lambda run: (run.dataset, run.architecture, MODELS.index(run.model), run.seed),
    )


def draw(figure: FigureName, folders: Iterable[RunFolder]) -> Figure:
    """Draw one figure of these runs, in one part per dataset and architecture.

    Raises:
        UserError: no run has the record that the figure shows.
    """
    drawing = _DRAWINGS[figure]
    runs = in_order(folders)
    ready = [run for run in runs if drawing.record(run.folder).is_file()]
    if not ready:
        raise UserError(
            f"Nothing to draw in figure {figure!r}: none of the {len(runs)} runs has {drawing.made_by}. "
            f"Run `biva {drawing.verb} EXPERIMENTS RUN` first."
        )
    groups: dict[tuple[str, str], _Group] = {}
    for run in ready:
        groups.setdefault((run.dataset, run.architecture), []).append(run)
    with matplotlib.rc_context(LOOK):
        canvas = Figure(layout="constrained")
        heights = [drawing.height(group) for group in groups.values()]
        canvas.set_size_inches(COLUMN_WIDTH, sum(heights))
        for part, group in zip(parts(canvas, heights), groups.values(), strict=True):
            part.suptitle(f"{drawing.title}: {group[0].dataset}, {group[0].architecture}", fontsize=8)
            drawing.draw(part, group)
        name_missing(canvas, [run for run in runs if run not in ready])
    return canvas


def save(figure: Figure, stem: Path) -> None:
    """Write `STEM.pdf` and `STEM.png`, atomically; equal figures give equal bytes, since no date is written."""
    for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {})):
        content = io.BytesIO()
        with matplotlib.rc_context(LOOK):
            figure.savefig(content, format=kind, metadata=metadata)
        write_atomically(stem.with_name(f"{stem.name}.{kind}"), content.getvalue())


def parts(canvas: Figure, heights: list[float]) -> list[Any]:
    """One part of the figure per height, from top to bottom."""
    return list(canvas.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat)


def pairs_of_axes(part: Any, number: int, heights: list[float] | None = None) -> list[Axes]:
    """Axes two by two; of an odd number the last stands alone. `heights` are the relative heights of the rows."""
    rows = math.ceil(number / 2)
    axes = list(part.subplots(rows, min(number, 2), squeeze=False, height_ratios=heights).flat)
    for surplus in axes[number:]:
        surplus.remove()
    return axes[:number]


def name_missing(canvas: Figure, missing: list[Run]) -> None:
    """Write below the figure which runs have no record for it."""
    if missing:
        names = "\n".join(run.name for run in missing)
        canvas.supxlabel(f"not run: {names}", fontsize=5, color=MUTED)


def first_seeds(runs: list[Run]) -> list[Run]:
    """Of runs in order, the first seed of every model (and architecture)."""
    return list({(run.architecture, run.model): run for run in reversed(runs)}.values())[::-1]


def _by_model(group: _Group) -> dict[str, _Group]:
    models = dict.fromkeys(run.model for run in group)
    return {model: [run for run in group if run.model == model] for model in models}


# ------------------------------------------------------------------------------------------------- learning curves


def _draw_learning_curves(part: Any, group: _Group) -> None:
    """ELBO over updates: on the selection split solid, on training batches dashed, a dot at the selected update."""
    axes: Axes = part.subplots()
    curves = []
    for run in group:
        lines = read_lines(run.folder.record)
        updates = [line["update"] for line in lines]
        colour = COLOURS[run.model]
        for source, style in (("selection", "-"), ("train", "--")):
            elbo = [line[source]["elbo"] for line in lines]
            curves.append(elbo)
            axes.plot(updates, elbo, style, color=colour, linewidth=0.8 if source == "selection" else 0.5)
        if run.folder.training.is_file():
            selected = read_json(run.folder.training)["selected"]
            axes.plot(selected["update"], selected["elbo"], "o", color=colour)
    _cut_off_the_start(axes, curves)
    axes.set_xlabel("updates")
    axes.set_ylabel("ELBO (nats), higher is better")
    models = [Line2D([], [], color=COLOURS[model], label=LABELS[model]) for model in _by_model(group)]
    kinds = [
        Line2D([], [], color=MUTED, linewidth=0.8, label="selection split"),
        Line2D([], [], color=MUTED, linewidth=0.5, linestyle="--", label="training batches"),
        Line2D([], [], color=MUTED, linestyle="", marker="o", label="selected"),
    ]
    part.legend(handles=models + kinds, loc="outside lower center", ncols=4)


def _cut_off_the_start(axes: Axes, curves: list[list[float]]) -> None:
    """Let the axis begin where every curve has finished a tenth of its evaluations: the first ones dwarf the rest."""
    later = np.concatenate([curve[len(curve) // 10 :] for curve in curves])
    shown = later[np.isfinite(later)]
    if shown.size and shown.min() < shown.max():
        margin = 0.05 * (shown.max() - shown.min())
        axes.set_ylim(shown.min() - margin, shown.max() + margin)


# -------------------------------------------------------------------------------------------------------- images


def image_grid(images: Images, columns: int) -> Images:
    """Compose images row by row into one picture, with a white pixel around each.

    Args:
        images: (N, C, H, W) in [0, 1], C = 1 or 3.
        columns: images per row.

    Returns:
        (height, width, 3); grey images have three equal channels.
    """
    grid = torchvision_utils().make_grid(torch.from_numpy(images), nrow=columns, padding=1, pad_value=1.0)
    picture: Images = grid.permute(1, 2, 0).numpy()
    return picture


def _show(axes: Axes, picture: Images, title: str) -> None:
    axes.imshow(picture, vmin=0, vmax=1)
    axes.set_title(title)
    axes.set_axis_off()


def _draw_samples(part: Any, group: _Group) -> None:
    """Draws from the prior, the first seed of every model."""
    runs = first_seeds(group)
    for axes, run in zip(pairs_of_axes(part, len(runs)), runs, strict=True):
        samples = load_file(run.folder.arrays)["samples"][:SAMPLES_SHOWN]
        columns = math.ceil(math.sqrt(len(samples)))
        _show(axes, image_grid(samples, columns), f"{LABELS[run.model]}, seed {run.seed}")


def _draw_reconstructions(part: Any, group: _Group) -> None:
    """Test images in the upper row, their reconstructions below, the first seed of every model."""
    runs = first_seeds(group)
    for axes, run in zip(part.subplots(len(runs), 1, squeeze=False).flat, runs, strict=True):
        arrays = load_file(run.folder.arrays)
        pair = [arrays[name][:RECONSTRUCTIONS_SHOWN] for name in ("originals", "reconstructions")]
        picture = image_grid(np.concatenate(pair), columns=len(pair[0]))
        _show(axes, picture, f"{LABELS[run.model]}, seed {run.seed}")


# --------------------------------------------------------------------------------------------------- latent groups


def group_order(name: str) -> tuple[int, str]:
    """Sort key of latent groups, bottom to top: z1_bu, z1_td, z2_bu, ..., z10."""
    number = re.match(r"z(\d+)", name)
    return (int(number.group(1)) if number else 0, name)


def _group_label(name: str) -> str:
    stage, _, path = name.removeprefix("z").partition("_")
    return f"$z_{{{stage}}}$" if not path else rf"$z_{{{stage}}}^{{\mathrm{{{path.upper()}}}}}$"


def _draw_kl_per_layer(part: Any, group: _Group) -> None:
    """A bar per latent group, z_1 at the bottom: KL, mean over seeds, a dot per seed; beside it the active units."""
    models = _by_model(group)
    panels = pairs_of_axes(part, len(models), _kl_row_heights(group))
    for axes, (model, runs) in zip(panels, models.items(), strict=True):
        records = [read_json(run.folder.evaluation) for run in runs]
        names = sorted(records[0]["kl_per_group"], key=group_order)
        kl = np.array([[record["kl_per_group"][name]["value"] for name in names] for record in records])
        places = np.arange(len(names))
        axes.barh(places, kl.mean(axis=0), height=0.7, color=COLOURS[model])
        if len(runs) > 1:
            for values in kl:
                axes.plot(values, places, ".", color="black", markersize=2)
        for place, name in enumerate(names):
            units = [record["active_units"][name] for record in records]
            active = np.mean([unit["active"] for unit in units])
            axes.annotate(
                f"{active:g}/{units[0]['total']}",
                (kl[:, place].max(), place),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=5,
                color=MUTED,
            )
        axes.set_yticks(places, [_group_label(name) for name in names])
        axes.set_title(LABELS[model])
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.25)
        axes.set_ylim(-0.7, len(names) - 0.3)
    widest = max(axes.get_xlim()[1] for axes in panels)
    for axes in panels:
        axes.set_xlim(0, widest)
    part.supxlabel("KL (nats), dots: seeds; numbers: active units / units", fontsize=7)


def _kl_row_heights(group: _Group) -> list[float]:
    """Height in inches of every row of two panels: enough for the labels of its latent groups."""
    groups = [
        max(len(read_json(run.folder.evaluation)["kl_per_group"]) for run in runs) for runs in _by_model(group).values()
    ]
    return [0.5 + 0.14 * max(groups[place : place + 2]) for place in range(0, len(groups), 2)]


def _kl_height(group: _Group) -> float:
    return 0.5 + sum(_kl_row_heights(group))


# -------------------------------------------------------------------------------------------------- bound against K


def _draw_bound_against_k(part: Any, group: _Group) -> None:
    """L_K over K: mean over seeds, with a band of one standard error over test images."""
    axes: Axes = part.subplots()
    for model, runs in _by_model(group).items():
        bounds = [_bounds(run.folder) for run in runs]
        ks = sorted(set.intersection(*(set(bound) for bound in bounds)))
        value = np.array([np.mean([bound[k][0] for bound in bounds]) for k in ks])
        error = np.array([np.mean([bound[k][1] for bound in bounds]) for k in ks])
        seeds = f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"
        axes.plot(ks, value, marker=MARKERS[model], color=COLOURS[model], label=f"{LABELS[model]} ({seeds})")
        axes.fill_between(ks, value - error, value + error, color=COLOURS[model], alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("importance samples $K$")
    axes.set_ylabel("$L_K$ (nats), higher is better")
    part.legend(
        loc="outside lower center", ncols=2, title="mean over seeds ± 1 s.e. over test images", title_fontsize=6
    )


def _bounds(folder: RunFolder) -> dict[int, tuple[float, float]]:
    """K -> (L_K, its standard error over test images), in nats."""
    metrics = read_json(folder.evaluation)["metrics"]
    return {m["k"]: (m["value"], m["standard_error"]) for m in metrics if m["metric"] == "log_likelihood_bound"}


# -------------------------------------------------------------------------------------------------------- registry


@dataclass(frozen=True)
class _Drawing:
    """How one figure is made, and from which record."""

    title: str
    record: Callable[[RunFolder], Path]
    made_by: str
    verb: str
    height: Callable[[_Group], float]
    draw: Callable[[Any, _Group], None]


def _image_rows(per_row: float, per_line: int) -> Callable[[_Group], float]:
    """Height in inches of a figure with `per_line` models side by side."""
    return lambda group: 0.3 + per_row * math.ceil(len(_by_model(group)) / per_line)


_DRAWINGS: dict[str, _Drawing] = {
    "learning_curves": _Drawing(
        "Learning curves", lambda f: f.record, "training evaluations", "train", lambda _: 2.6, _draw_learning_curves
    ),
    "samples": _Drawing(
        "Samples from the prior", lambda f: f.arrays, "an evaluation", "evaluate", _image_rows(1.75, 2), _draw_samples
    ),
    "reconstructions": _Drawing(
        "Originals above reconstructions",
        lambda f: f.arrays,
        "an evaluation",
        "evaluate",
        _image_rows(0.85, 1),
        _draw_reconstructions,
    ),
    "kl_per_layer": _Drawing(
        "KL per latent group", lambda f: f.evaluation, "an evaluation", "evaluate", _kl_height, _draw_kl_per_layer
    ),
    "bound_against_k": _Drawing(
        "Bound against K", lambda f: f.evaluation, "an evaluation", "evaluate", lambda _: 2.6, _draw_bound_against_k
    ),
}
