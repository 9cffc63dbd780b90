"""LaTeX tables: our likelihood bounds beside the reported ones, so that every cell says where it comes from.

The tables need the package booktabs only. Every string from a config or CSV file is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from string import ascii_lowercase

import numpy as np
import pandas as pd

from biva.config import FINETUNED, LikelihoodTable, RunConfig
from biva.errors import UserError
from biva.reporting.provenance import Difference, differences, names_of
from biva.reporting.style import LABELS, MODELS

NOT_RUN = "not run"
NOT_REPORTED = "--"

MARKS = {"yes": "", "no": r"\dagger", "value only": r"\ddagger"}
EXACT = r"\ast"
EXPLANATIONS = {
    MARKS["no"]: f"$^{{{MARKS['no']}}}$\\,unconfirmed: from memory, not checked against the source.",
    MARKS["value only"]: f"$^{{{MARKS['value only']}}}$\\,the value is confirmed, its setting is not.",
}
"""Mark -> what it says, for the notes of a table."""

PROTOCOLS = {
    "paper": "trained on the training and validation images; the evaluation with the best ELBO on the "
    "\\emph{test} images was selected, as the authors did",
    "clean": "trained on the training images; the evaluation with the best ELBO on the validation images was "
    "selected; the test images were used once",
}


PAPER_IMAGES = 3_000_000 * 48
"""Images after which 0.999999 per update has brought the paper's learning rate from 2e-3 to its minimum, 1e-4."""


@dataclass(frozen=True)
class _Quantity:
    """What a likelihood table of one kind of image shows."""

    metric: str
    unit: str
    title: str
    direction: str


NATS = _Quantity("log_likelihood_bound", "nats", r"Importance-weighted lower bounds $L_K$ on $\log p(x)$", "higher")
BITS = _Quantity("bits_per_dim", "bits/dim", r"Importance-weighted upper bounds on $-\log_2 p(x)$", "lower")


def likelihood_table(
    results: pd.DataFrame, paper: pd.DataFrame, table: LikelihoodTable, planned: list[RunConfig]
) -> str:
    """One `table` environment: a row per model and architecture, and per K our value and, if any, the reported value.

    Ours is `mean ± s.d. (n)` over n seeds, or with one seed the standard error over test images, marked `se`.
    Bounds are in nats, higher is better, or for colour images in bits/dim, lower is better. Reported values
    carry a mark unless they are confirmed, and the number of their source. What has no result is `not run`.

    Args:
        results: the frame of `biva.reporting.results.collect`.
        paper: the frame of `biva.reporting.results.load_paper_results`.
        table: which dataset, which K, and which reported values.
        planned: the runs of the experiment set; those on the table's dataset get a row and decide which results count.

    Raises:
        UserError: no run is planned on the dataset, or `paper` has no table of that name for it.
    """
    planned = [run for run in planned if table.includes(run)]
    if not planned:
        raise UserError(f"Table {table.name!r} is of dataset {table.dataset!r}, on which no run is planned.")
    quantity = BITS if planned[0].architecture.likelihood == "mixture_of_logistics" else NATS
    ours = results_of(planned, results, quantity.metric)
    reported = _Reported(_paper_rows(paper, table), quantity) if table.paper_table else None

    unlike = differences(ours, planned)
    rows = []
    for name, runs in rows_of(planned).items():
        run, seeds = runs[0], [run.seed for run in runs]
        mine = ours[(ours["architecture"] == run.architecture_name) & (ours["model"] == run.variant)]
        cells = [name]
        for k in table.k:
            cells.append(our_cell(mine[mine["k"] == k], seeds, unlike))
            if reported:
                cells.append(reported.cell_of_ours(run, k, last=k == table.k[-1]))
        rows.append(cells)
    frame = pd.DataFrame(
        rows + (reported.remaining_rows(table.k) if reported else []),
        columns=_columns(table.k, with_reported=reported is not None),
    )
    body = frame.to_latex(index=False, escape=False, column_format=_column_format(frame), multicolumn_format="c")
    if reported:
        body = _with_rules(body, ours=len(rows), ks=len(table.k))
    return environment(
        caption=f"{quantity.title} of {code(table.dataset)} test images, in {quantity.unit}; "
        f"{quantity.direction} is better.",
        label=f"tab:{table.name}",
        body=body,
        notes=[
            *notes_on_ours(ours, planned, PROTOCOLS),
            *_note_on_precision(results_of(planned, results, "difference_from_fp32")),
            *notes_on_differences(unlike),
            *(reported.notes() if reported else [_why_nothing_reported(paper, table)]),
        ],
    )


def rows_of(runs: list[RunConfig]) -> dict[str, list[RunConfig]]:
    """Name of a table's row, as LaTeX -> the runs of one model and architecture, by seed; in the order of the rows.

    Architectures are told apart by their number of stages, L, or by their names where that does not do it.
    """
    stages = {run.architecture_name: len(run.architecture.stages) for run in runs}
    by_stages = len(set(stages.values())) == len(stages)

    def place(run: RunConfig) -> tuple[int, int, str, int]:
        return MODELS.index(run.variant), stages[run.architecture_name], run.architecture_name, run.seed

    rows: dict[str, list[RunConfig]] = {}
    for run in sorted(runs, key=place):
        architecture = f"L={stages[run.architecture_name]}" if by_stages else f"({code(run.architecture_name)})"
        name = escape(LABELS[run.variant]) + (f" {architecture}" if len(stages) > 1 else "")
        rows.setdefault(name, []).append(run)
    return rows


def architectures(runs: Iterable[RunConfig]) -> str:
    """The architectures of the runs and their numbers of stages, for the notes of a table."""
    stages = {run.architecture_name: len(run.architecture.stages) for run in runs}
    return "architecture " + ", ".join(f"{code(name)} (L={stages[name]})" for name in sorted(stages))


# ------------------------------------------------------------------------------------------------------ our values


def results_of(planned: list[RunConfig], results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of the metric that belong to planned runs."""
    names = {(run.dataset, run.architecture_name, run.variant, run.seed) for run in planned}
    keys = zip(results["dataset"], results["architecture"], results["model"], results["seed"], strict=True)
    is_planned = np.array([key in names for key in keys], dtype=bool)
    return results[is_planned & (results["metric"] == metric).to_numpy()]


def our_cell(runs: pd.DataFrame, seeds: list[int], unlike: list[Difference]) -> str:
    """Our value of one model at one K: `mean ± s.d. (n)` over the seeds that ran, out of those planned, and its marks.

    The s.d. is of the sample (n - 1). One seed has none: the standard error over test images stands there, marked.
    """
    values = runs["value"].to_numpy(dtype=float)
    if len(values) == 0:
        return NOT_RUN
    if len(values) > 1:
        spread = rf"{{\pm}}{np.std(values, ddof=1):.2f}$"
    else:
        error = float(runs["standard_error"].iloc[0])
        spread = "$" if np.isnan(error) else rf"{{\pm}}{error:.2f}^{{\mathrm{{se}}}}$"
    count = f"{len(values)}" if len(values) == len(seeds) else f"{len(values)}/{len(seeds)}"
    return f"${_number(float(np.mean(values)))}{spread} ({count}){marks(unlike, names_of(runs))}"


def marks(unlike: list[Difference], names: Iterable[str]) -> str:
    """Superscript letters for what these runs (`ARCHITECTURE/MODEL/seedN`) do not have in common with the others."""
    names = set(names)
    odd = [_letter(place) for place, difference in enumerate(unlike) if names & difference.has.keys()]
    return f"$^{{{','.join(odd)}}}$" if odd else ""


def notes_on_differences(unlike: list[Difference]) -> list[str]:
    """What the letters at our values mean: what differs, in which runs, and what the others have."""
    notes = []
    for place, difference in enumerate(unlike):
        by_value: dict[str, list[str]] = {}
        for name, value in difference.has.items():
            by_value.setdefault(value, []).append(name)
        has = "; ".join(f"{', '.join(map(code, names))}: {_shortened(value)}" for value, names in by_value.items())
        others = f"; the others: {_shortened(difference.usual)}" if difference.usual not in (*by_value, "") else ""
        notes.append(rf"$^{{{_letter(place)}}}$\,\textbf{{Not like the others}}, {difference.what}: {has}{others}.")
    return notes


def _shortened(value: str) -> str:
    """Commits and fingerprints by their first 12 digits, which a line has room for."""
    return code(re.sub(r"\b([0-9a-f]{12})[0-9a-f]{8,}", r"\1", value))


def _letter(place: int) -> str:
    return rf"\mathrm{{{ascii_lowercase[place]}}}"


def _number(value: float) -> str:
    """Two decimals, in math mode."""
    return f"{value:.2f}" if np.isfinite(value) else r"\mathrm{not\ finite}"


def notes_on_ours(ours: pd.DataFrame, planned: list[RunConfig], protocols: dict[str, str]) -> list[str]:
    """How our numbers came to be: spread, protocol, budget, images; from the results, not from the plan."""
    if ours.empty:
        return [f"Ours: {architectures(planned)}; {NOT_RUN}."]
    run_rows = ours.drop_duplicates("run_id")
    notes = [
        "Ours: mean $\\pm$ standard deviation over seeds (number of seeds; $1/2$: one of two planned). With one seed "
        "there is none: $\\pm$ is then the standard error over test images, marked $^{\\mathrm{se}}$. "
        f"Seeds {_list(run_rows['seed'])}; {architectures(planned)}; "
        f"{_updates(run_rows)}; {span(run_rows['images_evaluated'])} test images; device "
        + ", ".join(escape(device) for device in sorted(set(run_rows["device"])))
        + "."
    ]
    notes += _notes_on_minutes(run_rows, planned)
    for protocol in sorted(set(run_rows["protocol"])):
        notes.append(f"Protocol {code(protocol)}: {protocols.get(protocol, 'unknown to this version of biva')}.")
    return notes


def _notes_on_minutes(runs: pd.DataFrame, planned: list[RunConfig]) -> list[str]:
    """How far training by the clock is from the paper's."""
    minutes = {run.variant: run.training.minutes for run in planned if run.training.minutes is not None}
    if not minutes:
        return []
    seen = runs.loc[runs["model"].isin(minutes), "images_seen"]
    share = 100 * seen.mean() / PAPER_IMAGES
    budgets = ", ".join(f"{escape(LABELS[variant])} {value:g}" for variant, value in minutes.items())
    return [
        rf"\textbf{{Not the paper's schedule}}: training ended after so many minutes: {budgets}. The learning rate "
        rf"rose, stayed, and fell to 0 at the end. {span(seen)} images seen, {share:.2g}\% of those after which the "
        "paper's learning rate has reached its minimum."
    ]


def _note_on_precision(differences: pd.DataFrame) -> list[str]:
    """What is known of runs that were not evaluated in fp32."""
    if differences.empty:
        return []
    return [
        f"{differences['run_id'].nunique()} of our runs evaluated in less than fp32: on the first test images, with "
        f"the same noise, the mean of $L_K$ differs by at most {differences['value'].abs().max():.1g} "
        f"{escape(differences['unit'].iloc[0])}."
    ]


def _updates(runs: pd.DataFrame) -> str:
    """The training budget used; that of fine-tuning comes on top of its parent's."""
    finetuned = runs["model"].str.endswith(FINETUNED)
    parts = [(runs[~finetuned], ""), (runs[finetuned], " of fine-tuning")]
    return ", ".join(f"{span(part['updates'])} updates{kind}" for part, kind in parts if not part.empty)


# ------------------------------------------------------------------------------------------------- reported values


def _paper_rows(paper: pd.DataFrame, table: LikelihoodTable) -> pd.DataFrame:
    rows = paper[(paper["table"] == table.paper_table) & (paper["dataset"] == table.dataset)]
    if rows.empty:
        known = sorted(set(paper.loc[paper["dataset"] == table.dataset, "table"]))
        raise UserError(
            f"Table {table.name!r} asks for paper_table {table.paper_table!r}, of which config/paper_results.csv has "
            f"no row on dataset {table.dataset!r}; it has: {', '.join(known) or 'none (use paper_table: null)'}."
        )
    return rows


def _why_nothing_reported(paper: pd.DataFrame, table: LikelihoodTable) -> str:
    if (paper["dataset"] == table.dataset).any():
        return "Reported values are left out of this table: its configuration names no paper\\_table."
    return "The paper reports no value on this dataset."


class _Reported:
    """The reported values of one table. Remembers which it has shown, so that the notes explain these and no more."""

    def __init__(self, rows: pd.DataFrame, quantity: _Quantity) -> None:
        self._rows = rows[rows["metric"].isin([quantity.metric, "log_likelihood"])]
        self._taken: set[str] = set()
        self._sources: list[str] = []
        self._marks: set[str] = set()
        self._without_k = False
        self._missing = False

    def cell_of_ours(self, run: RunConfig, k: int, last: bool) -> str:
        """The reported value of the model that `run` reproduces: `BIVA`, or with the number of stages `BIVA L=15`."""
        label = LABELS[run.variant]
        names = [label, f"{label} L={len(run.architecture.stages)}"]
        self._taken.update(names)
        return self._cell(self._rows[self._rows["model"].isin(names)], k, last)

    def remaining_rows(self, ks: tuple[int, ...]) -> list[list[str]]:
        """A row for every reported model without a run of ours: first those with a K of the table, then the others."""
        rest = self._rows[~self._rows["model"].isin(self._taken)]
        with_k = set(rest.loc[rest["k"].isin(ks), "model"])
        models = sorted(dict.fromkeys(rest["model"]), key=lambda model: model not in with_k)
        rows = []
        for model in models:
            cells = [escape(model)]
            for k in ks:
                cells += [NOT_RUN, self._cell(rest[rest["model"] == model], k, last=k == ks[-1])]
            if set(cells[2::2]) != {NOT_REPORTED}:
                rows.append(cells)
        return rows

    def _cell(self, rows: pd.DataFrame, k: int, last: bool) -> str:
        """The value at this K. A value whose K is not stated stands in the last column, in brackets."""
        at_k = rows[rows["k"] == k]
        without_k = rows[rows["k"].isna()] if last and at_k.empty else rows.iloc[:0]
        for row in (at_k if not at_k.empty else without_k).to_dict("records"):
            value = f"({_number(row['value'])})" if not without_k.empty else _number(row["value"])
            self._without_k |= not without_k.empty
            if row["source"] not in self._sources:
                self._sources.append(row["source"])
            marks = [MARKS[row["confirmed"]], EXACT if row["metric"] == "log_likelihood" else ""]
            self._marks.update(marks)
            superscript = [str(self._sources.index(row["source"]) + 1), *filter(None, marks)]
            return f"${value}^{{{','.join(superscript)}}}$"
        self._missing = True
        return NOT_REPORTED

    def notes(self) -> list[str]:
        """What brackets, marks and numbers at the reported values mean."""
        explanations = {
            **EXPLANATIONS,
            EXACT: f"$^{{{EXACT}}}$\\,exact log-likelihood, not a bound.",
        }
        sentences = ["Reported: values of the paper and the literature, from the numbered sources."]
        if self._missing:
            sentences.append(f"{NOT_REPORTED}\\,: no reported value known.")
        if self._without_k:
            sentences.append("In brackets: $K$ is not stated, or does not apply.")
        sentences += [text for mark, text in explanations.items() if mark in self._marks]
        sources = "; ".join(f"$^{{{n}}}$\\,{escape(source)}" for n, source in enumerate(self._sources, start=1))
        return [" ".join(sentences), f"Sources: {sources}."]


# ----------------------------------------------------------------------------------------------------------- LaTeX


def _columns(ks: tuple[int, ...], with_reported: bool) -> pd.Index:
    heads = [f"$K = {k}$" for k in ks]
    if not with_reported:
        return pd.Index(["Model", *heads])
    return pd.MultiIndex.from_tuples([("", "Model")] + [(head, sub) for head in heads for sub in ("ours", "reported")])


def _column_format(frame: pd.DataFrame) -> str:
    return "@{}l" + "r" * (frame.shape[1] - 1) + "@{}"


def _with_rules(body: str, ours: int, ks: int) -> str:
    """Thin rules under every K of the two-line header, and between our models and those that only others report."""
    begin, toprule, heads, subheads, midrule, *rows = body.splitlines()
    under_k = "".join(rf"\cmidrule(lr){{{2 * n}-{2 * n + 1}}}" for n in range(1, ks + 1))
    mine, others = rows[:ours], rows[ours:]
    between = [] if others[0] == r"\bottomrule" else [r"\midrule"]
    return "\n".join([begin, toprule, heads, under_k, subheads, midrule, *mine, *between, *others])


def environment(caption: str, label: str, body: str, notes: Iterable[str]) -> str:
    """A `table` environment: the tabular `body` under its caption, and below it the notes, a paragraph each."""
    return "\n".join(
        [
            r"\begin{table}[tbp]",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            r"\smallskip",
            r"\footnotesize",
            r"\setlength{\tabcolsep}{3pt}",
            body.rstrip("\n"),
            r"\par",
            r"\medskip",
            r"\begin{minipage}{\linewidth}",
            r"\scriptsize\raggedright",
            "\n\n".join(notes),
            r"\end{minipage}",
            r"\end{table}",
            "",
        ]
    )


def standalone(tex: str) -> str:
    """A document that holds the table alone and compiles with booktabs, to look at the table or to check it."""
    return "\n".join(
        [
            r"\documentclass{article}",
            r"\usepackage[utf8]{inputenc}",
            r"\usepackage{booktabs}",
            r"\pagestyle{empty}",
            r"\begin{document}",
            tex.rstrip("\n"),
            r"\end{document}",
            "",
        ]
    )


_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # at the start of a row, it would be an argument of the \\ before
    "]": "{]}",
    "*": "{*}",
}


def escape(text: str) -> str:
    """`text` as LaTeX prints it literally. White space becomes single spaces.

    A character that plain pdflatex fonts may lack is printed by its code point, such as U+4E2D.
    """
    return "".join(_ESCAPES.get(character, _printable(character)) for character in " ".join(text.split()))


def _printable(character: str) -> str:
    western_letter = "\u00c0" <= character <= "\u00ff" and character not in "\u00d0\u00d7\u00de\u00f0\u00f7\u00fe"
    if western_letter or (character.isascii() and character.isprintable()):
        return character
    return f"U+{ord(character):04X}"


def code(text: str) -> str:
    """`text`, escaped, in typewriter letters."""
    return rf"\texttt{{{escape(text)}}}"


def _list(values: pd.Series) -> str:
    return ", ".join(str(value) for value in sorted(set(values)))


def span(values: pd.Series) -> str:
    """Smallest to largest, with thousands separated."""
    low, high = (f"{int(value):,}".replace(",", "{,}") for value in (values.min(), values.max()))
    return f"${low}$" if low == high else f"${low}$--${high}$"
