"""What the latent groups hold: KL and active units, after training and while it goes on."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.lines import Line2D

from biva.records import read_json, read_lines
from biva.reporting.canvas import pairs_of_axes
from biva.reporting.runs import Group, by_model, first_seeds
from biva.reporting.style import COLOURS, LABELS, MUTED


def group_order(name: str) -> tuple[int, str]:
    """Sort key of latent groups, bottom to top: z1_bu, z1_td, z2_bu, ..., z10."""
    number = re.match(r"z(\d+)", name)
    return (int(number.group(1)) if number else 0, name)


def _group_label(name: str) -> str:
    stage, _, path = name.removeprefix("z").partition("_")
    return f"$z_{{{stage}}}$" if not path else rf"$z_{{{stage}}}^{{\mathrm{{{path.upper()}}}}}$"


def draw_kl_per_layer(part: Any, group: Group) -> None:
    """A bar per latent group, z_1 at the bottom: KL, mean over seeds, a dot per seed; beside it the active units."""
    models = by_model(group)
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
                (max(kl[:, place].max(), 0), place),
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


def _kl_row_heights(group: Group) -> list[float]:
    """Height in inches of every row of two panels: enough for the labels of its latent groups."""
    groups = [
        max(len(read_json(run.folder.evaluation)["kl_per_group"]) for run in runs) for runs in by_model(group).values()
    ]
    return [0.5 + 0.14 * max(groups[place : place + 2]) for place in range(0, len(groups), 2)]


def kl_height(group: Group) -> float:
    """Height in inches of the figure of KL bars."""
    return 0.5 + sum(_kl_row_heights(group))


# --------------------------------------------------------------------------------------------- while training goes on


def draw_latents_over_training(part: Any, group: Group) -> None:
    """Over updates, per model its first seed: KL of every latent group, and the share of its units that are active.

    A colour per stage, darker towards the data; top-down latents are dashed.
    """
    runs = first_seeds(group)
    records = [read_lines(run.folder.record) for run in runs]
    groups = _groups(records)
    stages = sorted({group_order(name)[0] for name in groups})
    colours = dict(zip(stages, matplotlib.colormaps["cividis"](np.linspace(0, 0.9, len(stages))).tolist(), strict=True))
    panels = part.subplots(len(runs), 2, squeeze=False, sharex=True, sharey="col")
    for (left, right), run, lines in zip(panels, runs, records, strict=True):
        updates = [line["update"] for line in lines]
        counted = [line for line in lines if "active_units" in line]  # not in records of earlier versions
        for name in groups:
            if lines and name in lines[0]["kl_per_group"]:
                look = {"color": colours[group_order(name)[0]], "linestyle": _line_style(name), "linewidth": 0.8}
                left.plot(updates, [line["kl_per_group"][name] for line in lines], **look)
                right.plot([line["update"] for line in counted], [_share(line, name) for line in counted], **look)
        if not counted:
            right.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=right.transAxes, color=MUTED)
        left.set_title(f"{LABELS[run.model]}, seed {run.seed}: KL (nats)")
        right.set_title("active units / units")
        right.set_ylim(-0.03, 1.03)
    for axes in panels[-1]:
        axes.set_xlabel("updates")
    handles = [Line2D([], [], color=colour, label=f"$z_{{{stage}}}$") for stage, colour in colours.items()]
    if any("_" in name for name in groups):
        for path in ("bu", "td"):
            label = rf"$z^{{\mathrm{{{path.upper()}}}}}$"
            handles.append(Line2D([], [], color=MUTED, linestyle=_line_style(f"z_{path}"), label=label))
    part.legend(handles=handles, loc="outside lower center", ncols=LEGEND_COLUMNS, columnspacing=1.2)


LEGEND_COLUMNS = 8


def _groups(records: list[list[dict[str, Any]]]) -> list[str]:
    """Latent groups of any of the records, bottom to top."""
    return sorted({name for lines in records for line in lines for name in line["kl_per_group"]}, key=group_order)


def _line_style(name: str) -> Literal["-", "--"]:
    return "--" if name.endswith("_td") else "-"


def _share(line: dict[str, Any], name: str) -> float:
    units = line["active_units"][name]
    return float(units["active"] / units["total"])


def training_height(group: Group) -> float:
    """Height in inches: a row per model, and the legend."""
    stages = {group_order(name)[0] for name in _groups([read_lines(run.folder.record) for run in group])}
    return 0.65 + 0.95 * len(by_model(group)) + 0.15 * math.ceil((len(stages) + 2) / LEGEND_COLUMNS)
