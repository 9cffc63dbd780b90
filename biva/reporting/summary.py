"""The summary of an experiment set: one LaTeX document with its settings and with every table and figure it declares.

What does not exist yet is printed as not run. The document needs the packages booktabs, caption, geometry, graphicx and
multicol. It lies in the set's folder, so that tables and figures are found beside it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from biva.config import Experiments, RunConfig, by_group
from biva.records import RunFolder, read_json, write_atomically
from biva.reporting.figures.registry import FIGURES
from biva.reporting.ours import PROTOCOLS, span
from biva.reporting.provenance import shortened
from biva.reporting.style import name_of
from biva.reporting.table import NOT_RUN, render

LATEX = "pdflatex"


def summary(settings: Experiments, runs: list[RunConfig], folder: Path) -> str:
    """The document, one page as wide as A3 and as long or longer: settings and tables, then figures in three columns.

    `folder` is `results/NAME`, with what exists of its runs, tables and figures.
    """
    about = {f"figures/{name}": FIGURES[name].caption for name in settings.figures}
    return render(
        "summary.tex.j2",
        name=runs[0].experiments,
        settings=settings,
        training=settings.training,
        evaluation=settings.evaluation,
        protocol=PROTOCOLS[settings.training.protocol],
        architectures=sorted({(run.architecture_name, run.architecture.description) for run in runs}),
        runs=_runs(runs, folder),
        origin=origin(runs, folder / "runs"),
        tables=[(stem, (folder / f"{stem}.tex").is_file()) for stem in settings.table_stems],
        figures=[(stem, (folder / f"{stem}.pdf").is_file(), about.get(stem, "")) for stem in settings.figure_stems],
    )


def _runs(runs: list[RunConfig], folder: Path) -> list[dict[str, str]]:
    """For every dataset, architecture and model: its seeds, how many are trained, and what they took."""
    return [
        {"dataset": group[0].dataset, "architecture": group[0].architecture_name, "model": name_of(group[0])}
        | {"seeds": ", ".join(str(run.seed) for run in group)}
        | _taken([RunFolder(folder / "runs" / run.name) for run in group])
        for group in by_group(runs).values()
    ]


def _taken(folders: list[RunFolder]) -> dict[str, str]:
    """How many of one model's runs are trained, their parameters, updates and minutes of training."""
    done = [read_json(folder.identity) | read_json(folder.training) for folder in folders if folder.training.is_file()]
    if not done:
        return {"trained": NOT_RUN, "parameters": "", "updates": "", "minutes": ""}
    frame = pd.DataFrame(done)
    return {
        "trained": f"{len(done)} of {len(folders)}",
        "parameters": span(frame["parameters"]),
        "updates": span(frame["updates"]),
        "minutes": span((frame["wall_seconds"] / 60).round()),
    }


def origin(runs: list[RunConfig], records: Path) -> dict[str, Any]:
    """Devices, commits and data that the trained runs come from; nothing where none is trained."""
    identities = [RunFolder(records / run.name).identity for run in runs]
    known = [read_json(path) for path in identities if path.is_file()]
    if not known:
        return {}
    return {
        "devices": sorted({identity["device"] for identity in known}),
        "commits": sorted({shortened(identity["commit"]) for identity in known}),
        "data": sorted({(one["config"]["dataset"], shortened(one["data_fingerprint"])) for one in known}),
    }


def compile_pdf(document: Path) -> str:
    """Make `NAME.pdf` beside `NAME.tex`, where LaTeX is installed.

    Returns:
        Nothing, or why there is no PDF; an earlier one is deleted then, since it would show something else.
    """
    target = document.with_suffix(".pdf")
    with TemporaryDirectory() as scratch:
        problem = _problem_of_latex(document, scratch)
        if not problem:
            write_atomically(target, (Path(scratch) / target.name).read_bytes())
            return ""
    target.unlink(missing_ok=True)
    return f"{target} was not made: {problem}"


def _problem_of_latex(document: Path, scratch: str) -> str:
    if shutil.which(LATEX) is None:
        return f"{LATEX} is not installed. {document} compiles wherever it is, if figures and tables lie beside it."
    command = [LATEX, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", f"-output-directory={scratch}"]
    done = subprocess.run(
        [*command, document.name],
        cwd=document.parent,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode == 0:
        return ""
    said = next((line for line in done.stdout.splitlines() if line.startswith("!")), done.stdout[-500:])
    return f"{LATEX} says {said!r}."
