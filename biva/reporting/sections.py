"""What the page of a set says of one model: learning curves, the numbers and origin of every seed, and the settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from biva.config import RunConfig
from biva.records import RunFolder, commits, flatten, read_json, read_lines
from biva.reporting.markup import Text, code, styled, text
from biva.reporting.ours import SELECTION, significant
from biva.reporting.provenance import shortened
from biva.reporting.strips import number, ticks
from biva.reporting.style import name_of
from biva.reporting.table import NOT_RUN, Cell


def section(group: list[RunConfig], records: Path) -> dict[str, Any]:
    """The section of one model: its curves, a column of facts per seed, and the settings."""
    folders = [RunFolder(records / run.name) for run in group]
    facts = [_facts(run, folder) for run, folder in zip(group, folders, strict=True)]
    return {
        "run": group[0],
        "name": name_of(group[0]),
        "seeds": [run.seed for run in group],
        "curves": _curves(group, folders),
        "facts": {label: [one.get(label, "") for one in facts] for of_seed in facts for label in of_seed},
        "records": [[path.relative_to(folder.path).as_posix() for path in folder.records()] for folder in folders],
        "settings": flatten(group[0].model_dump(mode="json", exclude={"seed"})),
    }


_HARDWARE = ("processor", "instruction_set")
"""What is shown of `hardware` in `run.json`."""

MOST_POINTS = 300
"""Of a curve; a longer one is thinned out."""


def _facts(run: RunConfig, folder: RunFolder) -> dict[str | Text, str | Text]:
    """What is known of one run: how far it is, its numbers, and where they come from."""
    if not folder.identity.is_file():
        return {"State": NOT_RUN}
    identity = read_json(folder.identity)
    training, evaluation = (read_json(path) if path.is_file() else {} for path in (folder.training, folder.evaluation))
    state = "evaluated" if evaluation else f"trained; evaluation {NOT_RUN}"
    if not training:
        last = max((line["update"] for line in read_lines(folder.record)), default=0)
        state = f"in training: update {last:,} of at most {run.training.max_updates:,}"
    facts: dict[str | Text, str | Text] = {"State": state}
    for metric in evaluation.get("metrics", ()):
        k = "" if metric["k"] is None else f"{metric['k']}"
        name = text(metric["metric"].replace("_", " ").replace("kl", "KL"), f", K = {k}" if k else "")
        if metric["metric"] == "log_likelihood_bound":
            name = styled(f"*L*_{{{k}}}")
        digits = 0 if metric["unit"] == "units" else 3
        value = Cell(value=metric["value"], digits=digits, spread=metric["standard_error"])
        facts[text(name, f" ({metric['unit']})")] = value.text
    if training:
        facts |= {
            "Updates": f"{training['updates']:,}",
            "Selected update": f"{training['selected']['update']:,}",
            "Images seen": f"{training['images_seen']:,}",
            "Ended by": training["stopped"].replace("_", " "),
            "Minutes": significant(training["wall_seconds"] / 60, 3),
        }
    same = identity["config_digest"] == run.digest
    hardware, versions = identity.get("hardware", {}), identity["versions"]
    facts |= {
        "Run id": code(identity["run_id"]),
        "Commit": code(shortened(" ".join(commits(identity, *([evaluation] if evaluation else []))))),
        "Data": code(shortened(identity["data_fingerprint"])),
        "Settings": text(code(identity["config_digest"]), "" if same else ", not the present ones"),
        "Device": ", ".join([identity["device"], *(hardware[of] for of in _HARDWARE if of in hardware)]),
        "Software": ", ".join(f"{name} {versions[name]}" for name in ("torch", "python") if name in versions),
        "Started": identity["started"],
    }
    if identity["parent"]:
        facts["Goes on from"] = code(identity["parent"]["run_id"])
    return facts


def _curves(group: list[RunConfig], folders: list[RunFolder]) -> dict[str, Any]:
    """The learning curves of a model's seeds, in percent of a box; nothing where no evaluation of training is recorded.

    What is shown is the ELBO on the selection split, or for a network without one the error on its training batches.
    The box begins, as in the figure of learning curves, where a tenth of the evaluations is done.
    """
    of_seeds = [read_lines(folder.record) for folder in folders]
    first = next((lines[0] for lines in of_seeds if lines), None)
    if first is None:
        return {}
    part, name = ("selection", "elbo") if "elbo" in first["selection"] else ("train", "error")
    points = [[(line["update"], line[part][name]) for line in lines] for lines in of_seeds]
    shown = [y for curve in points for _, y in curve[len(curve) // 10 :] if math.isfinite(y)] or [0.0]
    last = max(x for curve in points for x, _ in curve)
    low, high = min(shown), max(shown)
    height = high - low or 1.0

    def place(x: float, y: float) -> tuple[str, str]:
        return f"{100 * x / last:.2f}", f"{100 - 100 * (y - low) / height:.2f}"

    lines = []
    for folder, curve in zip(folders, points, strict=True):
        best = read_json(folder.training)["selected"] if folder.training.is_file() else {}
        some = curve[:: len(curve) // MOST_POINTS + 1]
        line = " ".join(",".join(place(*at)) for at in some if math.isfinite(at[1]))
        is_shown = name in best and math.isfinite(best[name])
        lines.append({"points": line, "selected": place(best["update"], best[name]) if is_shown else None})
    ends = [
        f"seed {run.seed} ends at {number(curve[-1][1], 'z.2f')} after {curve[-1][0]:,} updates"
        for run, curve in zip(group, points, strict=True)
        if curve
    ]
    what = f"ELBO (nats) on the {SELECTION[group[0].training.protocol]}"
    return {
        "lines": lines,
        "what": what if name == "elbo" else "Error (%) on the training batches",
        "ends": "; ".join(ends),
        "x": [(place(tick, low)[0], f"{tick:,.0f}") for tick in ticks(0, last)],
        "y": [(place(0, tick)[1], number(tick)) for tick in ticks(low, high)],
    }
