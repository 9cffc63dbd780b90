"""The summary of an experiment set: one LaTeX document with its settings and with every table and figure it declares.

What does not exist yet is printed as not run. The document needs the packages booktabs, caption, geometry, graphicx and
multicol. It lies in the set's folder, so that tables and figures are found beside it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from biva.config import Experiments, RunConfig
from biva.records import RunFolder, read_json, write_atomically
from biva.reporting.figures import caption
from biva.reporting.style import name_of
from biva.reporting.tables import NOT_RUN, PROTOCOLS, code, escape, span

LATEX = "pdflatex"


def summary(experiments: Experiments, runs: list[RunConfig], folder: Path) -> str:
    """The document, one page as wide as A3 and as long or longer: settings and tables, then figures in three columns.

    Args:
        experiments: the set.
        runs: all its runs.
        folder: `results/NAME`, with what exists of its runs, tables and figures.
    """
    tables = [_table(folder, stem) for stem in experiments.table_stems]
    figures = [_figure(folder, stem) for stem in experiments.figure_stems]
    return "\n".join(
        [
            *_PREAMBLE,
            r"\begin{document}",
            r"\begin{lrbox}{\content}\begin{minipage}{\textwidth}",
            rf"{{\Large\bfseries {code(folder.name)}}}\quad {{\large {escape(experiments.description)}}}\par",
            *_in_columns(2, [_settings(experiments, runs), _runs(runs, folder), *tables]),
            r"\hrule",
            *_in_columns(3, figures),
            r"\end{minipage}\end{lrbox}",
            *_ONE_PAGE,
            r"\end{document}",
            "",
        ]
    )


_PREAMBLE = (
    r"\documentclass[10pt]{article}",
    r"\usepackage[utf8]{inputenc}",
    r"\usepackage[a3paper,margin=12mm]{geometry}",
    r"\usepackage{booktabs,caption,graphicx,multicol}",
    r"\captionsetup{font=footnotesize,labelfont=bf,skip=3pt}",
    r"\setlength{\parindent}{0pt}",
    r"\setlength{\columnsep}{6mm}",
    r"\raggedcolumns",
    r"\pagestyle{empty}",
    "% Equal contents give equal bytes.",
    r"\ifdefined\pdfinfoomitdate\pdfinfoomitdate=1\pdftrailerid{}\fi",
    "% Tables stand where they are written, and do not float.",
    r"\renewenvironment{table}[1][]{\captionsetup{type=table}}{\par}",
    r"\newsavebox{\content}",
)

_ONE_PAGE = (
    "% The page grows with its content.",
    r"\ifdefined\pdfpageheight\else\let\pdfpageheight\pageheight\fi",
    r"\dimen0=\dimexpr\ht\content+\dp\content+24mm\relax",
    r"\ifdim\dimen0>\pdfpageheight\pdfpageheight=\dimen0\fi",
    r"\shipout\vbox{\kern\dimexpr12mm-1in\relax\hbox{\kern\dimexpr12mm-1in\relax\usebox{\content}}}",
)


def _in_columns(number: int, boxes: list[str]) -> list[str]:
    """Boxes one below the other in columns of equal height; no break cuts a box."""
    if not boxes:
        return []
    whole = [f"\\begin{{minipage}}{{\\linewidth}}\n{box}\n\\end{{minipage}}\\par\\medskip" for box in boxes]
    return [rf"\begin{{multicols}}{{{number}}}", *whole, r"\end{multicols}"]


# ------------------------------------------------------------------------------------------------ settings and runs


def _settings(experiments: Experiments, runs: list[RunConfig]) -> str:
    """Protocol and budget of training, and how the results were evaluated, in sentences."""
    training, evaluation = experiments.training, experiments.evaluation
    ends = f"at most {training.max_updates:,} updates".replace(",", "{,}")
    if training.minutes is not None:
        ends = f"{training.minutes:g} minutes, {ends}"
    if training.patience is not None:
        ends += f", or until {training.patience} evaluations bring no new best"
    schedule = f"Adamax, learning rate {training.learning_rate:g}"
    if training.minutes is not None:
        schedule += " after a warm-up, falling to 0 by the clock"
    elif training.learning_rate_decay < 1:
        schedule += f" times {training.learning_rate_decay:g} per update, at least {training.learning_rate_minimum:g}"
    images = "all test images" if evaluation.max_images is None else f"the first {evaluation.max_images:,} test images"
    ks = ", ".join(f"{k:,}" for k in sorted(set(evaluation.importance_samples)))
    sentences = (
        rf"\textbf{{Protocol}} {code(training.protocol)}: {PROTOCOLS[training.protocol]}.",
        rf"\textbf{{Budget}}: {ends}; an evaluation every {training.evaluate_every:,} updates; batches of "
        f"{training.batch_size} images; device {code(experiments.device)}, CPU threads per run: {experiments.threads}.",
        rf"\textbf{{Training}}: {schedule}; EMA {training.ema_decay:g}; free bits {training.free_bits:g} nats per "
        "latent group and image.",
        rf"\textbf{{Evaluation}}: {images}; importance samples $K$ = {ks}.",
        *(
            rf"\textbf{{Architecture}} {code(name)}: {escape(description)}."
            for name, description in sorted({(run.architecture_name, run.architecture.description) for run in runs})
        ),
    )
    return "\n".join([r"\footnotesize\raggedright", *(rf"{sentence}\par" for sentence in sentences)])


def _runs(runs: list[RunConfig], folder: Path) -> str:
    """A line per dataset, architecture and model: its seeds, and what they took."""
    groups: dict[tuple[str, str, str], list[RunConfig]] = {}
    for run in runs:
        groups.setdefault((run.dataset, run.architecture_name, name_of(run)), []).append(run)
    heads = ("Dataset", "Architecture", "Model", "Seeds", "Trained", "Parameters", "Updates", "Minutes")
    rows = [
        [
            *(code(dataset), code(architecture), escape(name)),
            ", ".join(str(run.seed) for run in group),
            *_taken([RunFolder(folder / "runs" / run.name) for run in group]),
        ]
        for (dataset, architecture, name), group in groups.items()
    ]
    frame = pd.DataFrame(rows, columns=list(heads))
    body = frame.to_latex(index=False, escape=False, column_format="@{}lllllrrr@{}")
    small = r"\footnotesize\centering\setlength{\tabcolsep}{4pt}"
    return "\n".join([small, body, r"\par\medskip\raggedright", _origin(runs, folder)])


def _taken(folders: list[RunFolder]) -> list[str]:
    """Of the runs of one model: how many are trained, parameters, updates and minutes of training."""
    done = [folder for folder in folders if folder.training.is_file()]
    if not done:
        return [NOT_RUN, "", "", ""]
    identities, trainings = [read_json(f.identity) for f in done], [read_json(f.training) for f in done]
    return [
        f"{len(done)} of {len(folders)}",
        span(pd.Series([identity["parameters"] for identity in identities])),
        span(pd.Series([training["updates"] for training in trainings])),
        span(pd.Series([training["wall_seconds"] / 60 for training in trainings]).round()),
    ]


def _origin(runs: list[RunConfig], folder: Path) -> str:
    """Devices, commits and data that the trained runs come from."""
    identities = [RunFolder(folder / "runs" / run.name).identity for run in runs]
    known = [read_json(path) for path in identities if path.is_file()]
    if not known:
        return ""
    devices = sorted({escape(identity["device"]) for identity in known})
    commits = sorted({code(_short(identity["commit"])) for identity in known})
    data = sorted({(identity["config"]["dataset"], identity["data_fingerprint"]) for identity in known})
    lines = [
        f"Device {', '.join(devices)}. Commit {', '.join(commits)}.",
        *(f"Data {code(dataset)}: {code(fingerprint[:12])}." for dataset, fingerprint in data),
    ]
    return " ".join(lines)


def _short(commit: str) -> str:
    """A commit's first digits, with `-dirty` if it has it."""
    digits, _, dirty = commit.partition("-")
    return digits[:10] + (f"-{dirty}" if dirty else "")


# ------------------------------------------------------------------------------------------------ tables and figures


def _table(folder: Path, stem: str) -> str:
    if not (folder / f"{stem}.tex").is_file():
        return rf"\footnotesize Table {code(stem)}: {NOT_RUN}."
    return rf"\input{{{stem}.tex}}"


def _figure(folder: Path, stem: str) -> str:
    """A figure at the width of a column, and what to know to read it."""
    kind, _, name = stem.partition("/")
    if not (folder / f"{stem}.pdf").is_file():
        return rf"\footnotesize Figure {code(stem)}: {NOT_RUN}."
    image = rf"\includegraphics[width=\linewidth]{{{stem}.pdf}}"
    return rf"{image}\par\scriptsize\raggedright {escape(caption(name))}" if kind == "figures" else image


# ------------------------------------------------------------------------------------------------------------- PDF


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
