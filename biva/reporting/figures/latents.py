"""What the latent groups hold: KL and active units, after training and while it goes on."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import numpy as np

from biva.records import read_json, read_lines
from biva.reporting.canvas import key, panels
from biva.reporting.figures.registry import figure
from biva.reporting.runs import Group, by_model, first_seeds
from biva.reporting.style import COLOURS, LABELS, MUTED

LEGEND_COLUMNS = 8


def group_order(name: str) -> tuple[int, str]:
    """Sort key of latent groups, bottom to top: z1_bu, z1_td, z2_bu, ..., z10."""
    number = re.match(r"z(\d+)", name)
    return (int(number.group(1)) if number else 0, name)


def _group_label(name: str) -> str:
    stage, _, path = name.removeprefix("z").partition("_")
    return f"$z_{{{stage}}}$" if not path else rf"$z_{{{stage}}}^{{\mathrm{{{path.upper()}}}}}$"


# -------------------------------------------------------------------------------------------------- after training


def _kl_row_heights(group: Group) -> list[float]:
    """Height in inches of every row of two panels: enough for the labels of its latent groups."""
    groups = [len(read_json(runs[0].folder.evaluation)["kl_per_group"]) for runs in by_model(group).values()]
    return [0.5 + 0.14 * max(groups[place : place + 2]) for place in range(0, len(groups), 2)]


@figure("KL per latent group", reads="evaluation", height=lambda group: 0.5 + sum(_kl_row_heights(group)))
def kl_per_layer(part: Any, group: Group) -> None:
    """KL divergence of the posterior from the prior for every latent group in nats, mean over test images and seeds,
    from the bottom stage to the top; a dot per seed. A group near zero carries no information about the image. The
    numbers are active units / units.
    """
    models = by_model(group)
    axes_of_models = panels(part, len(models), heights=_kl_row_heights(group))
    for axes, (model, runs) in zip(axes_of_models, models.items(), strict=True):
        records = [read_json(run.folder.evaluation) for run in runs]
        names = sorted(records[0]["kl_per_group"], key=group_order)
        kl = np.array([[record["kl_per_group"][name]["value"] for name in names] for record in records])
        places = np.arange(len(names))
        axes.barh(places, kl.mean(axis=0), height=0.7, color=COLOURS[model])
        if len(runs) > 1:
            axes.plot(kl.T, places, ".", color="black", markersize=2)
        are_counted = all(record["active_units"] for record in records)  # with K = 1 they are not
        for place, name in enumerate(names if are_counted else ()):
            units = [record["active_units"][name] for record in records]
            text = f"{np.mean([unit['active'] for unit in units]):g}/{units[0]['total']}"
            end: Any = (max(kl[:, place].max(), 0), place)
            look: Any = {"va": "center", "fontsize": 5, "color": MUTED}
            axes.annotate(text, end, xytext=(3, 0), textcoords="offset points", **look)
        axes.set_yticks(places, [_group_label(name) for name in names])
        axes.set_title(LABELS[model])
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.25)
        axes.set_ylim(-0.7, len(names) - 0.3)
    widest = max(axes.get_xlim()[1] for axes in axes_of_models)
    for axes in axes_of_models:
        axes.set_xlim(0, widest)
    part.supxlabel("KL (nats), dots: seeds; numbers: active units / units", fontsize=7)


# --------------------------------------------------------------------------------------------- while training goes on


def _groups(records: list[list[dict[str, Any]]]) -> list[str]:
    """Latent groups of any of the records, bottom to top."""
    return sorted({name for lines in records for line in lines for name in line["kl_per_group"]}, key=group_order)


def _line_style(name: str) -> Literal["-", "--"]:
    return "--" if name.endswith("_td") else "-"


def _training_height(group: Group) -> float:
    """Height in inches: a row per model, and the legend."""
    stages = {group_order(name)[0] for name in _groups([read_lines(run.folder.record) for run in group])}
    return 0.65 + 0.95 * len(by_model(group)) + 0.15 * math.ceil((len(stages) + 2) / LEGEND_COLUMNS)


@figure("Latent groups over training", reads="record", height=_training_height)
def latents_over_training(part: Any, group: Group) -> None:
    """Every latent group during training, on the selection split with the averaged weights: its KL in nats, and the
    share of its units that are active, which means that their posterior mean varies over the images by more than 0.01.
    A colour per stage, lighter towards the top; first seed of each model.
    """
    import matplotlib

    runs = first_seeds(group)
    records = [read_lines(run.folder.record) for run in runs]
    groups = _groups(records)
    stages = sorted({group_order(name)[0] for name in groups})
    colours = dict(zip(stages, matplotlib.colormaps["cividis"](np.linspace(0, 0.9, len(stages))).tolist(), strict=True))
    rows = part.subplots(len(runs), 2, squeeze=False, sharex=True, sharey="col")
    for (left, right), run, lines in zip(rows, runs, records, strict=True):
        updates = [line["update"] for line in lines]
        for name in _groups([lines]):
            look = {"color": colours[group_order(name)[0]], "linestyle": _line_style(name), "linewidth": 0.8}
            units = [line["active_units"][name] for line in lines]
            left.plot(updates, [line["kl_per_group"][name] for line in lines], **look)
            right.plot(updates, [unit["active"] / unit["total"] for unit in units], **look)
        left.set_title(f"{LABELS[run.model]}, seed {run.seed}: KL (nats)")
        right.set_title("active units / units")
        right.set_ylim(-0.03, 1.03)
    for axes in rows[-1]:
        axes.set_xlabel("updates")
    handles = [key(f"$z_{{{stage}}}$", color=colour) for stage, colour in colours.items()]
    if any("_" in name for name in groups):
        for path in ("bu", "td"):
            label = rf"$z^{{\mathrm{{{path.upper()}}}}}$"
            handles.append(key(label, color=MUTED, linestyle=_line_style(f"z_{path}")))
    part.legend(handles=handles, loc="outside lower center", ncols=LEGEND_COLUMNS, columnspacing=1.2)
