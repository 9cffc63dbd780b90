"""Table of an anomaly pair: how well L^{>k} and LLR^{>k} tell one dataset's test images from another's.

It is made of the records `anomaly/NAME.json` alone. The table needs the package booktabs only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from biva.config import AnomalyPair, RunConfig
from biva.errors import UserError
from biva.reporting.provenance import Difference, differences, origin, short_name
from biva.reporting.tables import (
    MARKS,
    NOT_REPORTED,
    NOT_RUN,
    PROTOCOLS,
    architectures,
    code,
    environment,
    escape,
    marks,
    notes_on_differences,
    rows_of,
    span,
)

Record = dict[str, Any]

METRICS: dict[str, str] = {"auroc": r"AUROC $\uparrow$", "auprc": r"AUPRC $\uparrow$", "fpr80": r"FPR80 $\downarrow$"}
"""Metric -> head of its column; the arrow points to what is better."""

CONFIRMATION = {"yes": "", "no": " (unconfirmed)", "value only": " (the value is confirmed, its setting is not)"}

LINES_AT_FULL_SIZE = 35


def anomaly_table(
    records: list[tuple[RunConfig, Record | None]], pair: AnomalyPair, paper: pd.DataFrame, made: dict[str, Record]
) -> str:
    """One `table` environment: for every model a row per score, with AUROC, AUPRC and FPR80.

    One seed shows its value and the 95% bootstrap interval, several show `mean ± s.d. (n)`. The best AUROC of a model
    is bold. What has no record is `not run`. Reported values stand at the end, with the number of their source and
    the mark of their confirmation.

    Args:
        records: the planned runs, each with its `anomaly/NAME.json` or None; those on the pair's normal dataset count.
        pair: the anomaly pair.
        paper: the frame of `biva.reporting.results.load_paper_results`.
        made: name of a run with a record -> its `run.json`.

    Raises:
        UserError: no run is planned on the normal dataset, or a record lacks a field.
    """
    records = [(run, record) for run, record in records if pair.includes(run)]
    if not records:
        raise UserError(f"Anomaly pair {pair.name!r} is about dataset {pair.normal!r}, on which no run is planned.")
    try:
        unlike = _differences(records, made)
        blocks, notes = _our_blocks(records, unlike), _notes_on_ours(records, pair)
    except KeyError as error:
        raise UserError(
            f"A record of anomaly pair {pair.name!r} lacks the field {error}. It was written by another version of "
            "biva: delete it and run `biva detect` again."
        ) from None
    rows, reported_notes = _reported(paper, pair)
    return environment(
        caption=f"Anomaly detection by $L^{{>k}}$: test images of {code(pair.normal)} are normal, those of "
        f"{code(pair.anomalous)} anomalous.",
        label=f"tab:{pair.name}",
        body=_tabular([*blocks, rows] if rows else blocks),
        notes=[_DEFINITIONS, *notes, *notes_on_differences(unlike), *reported_notes],
    )


_DEFINITIONS = (
    r"Scores: $-L^{>k}$ (rows $L^{>k}$), where $L^{>k}$ takes only the latents above stage $k$ from the posterior and "
    r"the others from the prior, so that $L^{>0} = L$ is the plain bound; and $\mathrm{LLR}^{>k} = L - L^{>k}$ "
    r"(Havtorn et al.\ 2021). An image with a higher score is taken for an anomaly. AUROC, AUPRC (anomalies are the "
    r"positives): higher is better. FPR80, the share of normal images taken for anomalies when 80\% of the anomalies "
    r"are found: lower is better. Bold: the best AUROC of the model."
)


# ------------------------------------------------------------------------------------------------------ our values


def _differences(records: list[tuple[RunConfig, Record | None]], made: dict[str, Record]) -> list[Difference]:
    """What the runs that have a record do not have in common; their data are those of both datasets."""
    rows = [
        origin(made[run.name], record)
        | {"architecture": run.architecture_name, "model": run.variant, "seed": run.seed}
        | {"images_evaluated": record["normal"]["images"] + record["anomalous"]["images"]}
        | {"data_fingerprint": f"{made[run.name]['data_fingerprint']} {record['anomalous']['fingerprint']}"}
        for run, record in records
        if record is not None
    ]
    return differences(pd.DataFrame(rows), [run for run, _ in records]) if rows else []


def _our_blocks(records: list[tuple[RunConfig, Record | None]], unlike: list[Difference]) -> list[list[str]]:
    """The lines of every model (and architecture)."""
    by_name = {run.name: (run, record) for run, record in records}
    rows = rows_of([run for run, _ in records])
    return [
        _block(name + marks(unlike, map(short_name, runs)), [by_name[run.name] for run in runs])
        for name, runs in rows.items()
    ]


def _block(name: str, group: list[tuple[RunConfig, Record | None]]) -> list[str]:
    """The lines of one model: a score each, or one that says `not run`."""
    scores = [record["scores"] for _, record in group if record is not None]
    if not scores:
        return [_line(name, "all", *[NOT_RUN] * len(METRICS))]
    names = score_names(len(group[0][0].architecture.stages))
    aurocs = {score: np.mean([seed[score]["auroc"]["value"] for seed in scores]) for score in names}
    best = max(aurocs.values())
    lines = []
    for score in names:
        cells = [
            our_cell([seed[score][metric] for seed in scores], len(group), metric == "auroc" and aurocs[score] == best)
            for metric in METRICS
        ]
        lines.append(_line(name if score == names[0] else "", symbol(score), *cells))
    return lines


def score_names(stages: int) -> list[str]:
    """The scores of a model with this number of stages, in the order of the records: `L>0` ..., then `LLR>1` ..."""
    return [f"L>{k}" for k in range(stages + 1)] + [f"LLR>{k}" for k in range(1, stages + 1)]


def symbol(score: str) -> str:
    """A score's name as LaTeX and matplotlib set it: `LLR>2` with the 2 raised."""
    kind, _, k = score.partition(">")
    return f"$L^{{>{k}}}$" if kind == "L" else rf"$\mathrm{{LLR}}^{{>{k}}}$"


def our_cell(seeds: list[dict[str, float]], planned: int, bold: bool) -> str:
    """One number of one score, given as `value`, `low` and `high` of every seed that ran, out of those planned.

    One seed: the value and its interval. Several: `mean ± s.d. (n)`, the s.d. being that of the sample (n - 1).
    """
    values = [seed["value"] for seed in seeds]
    mean = f"{np.mean(values):.3f}"
    shown = rf"\mathbf{{{mean}}}" if bold else mean
    if len(values) > 1:
        spread = rf"{{\pm}}{np.std(values, ddof=1):.3f}"
    else:
        spread = rf"\ [{seeds[0]['low']:.3f}, {seeds[0]['high']:.3f}]"
    if len(values) < planned:
        return f"${shown}{spread}$ ({len(values)}/{planned})"
    return f"${shown}{spread}$" + (f" ({planned})" if planned > 1 else "")


def _notes_on_ours(records: list[tuple[RunConfig, Record | None]], pair: AnomalyPair) -> list[str]:
    """How our numbers came to be: images, K, spread, seeds, budget, protocol."""
    ran = [(run, record) for run, record in records if record is not None]
    sizes = architectures(run for run, _ in records)
    if not ran:
        return [f"Ours: {sizes}; {NOT_RUN}."]
    runs = [run for run, _ in ran]
    done = pd.DataFrame(
        {
            "normal": record["normal"]["images"],
            "anomalous": record["anomalous"]["images"],
            "samples": record["samples"],
            "repeats": record["repeats"],
            "device": record["device"],
        }
        for _, record in ran
    )
    budget = pd.Series([run.training.max_updates for run in runs])
    notes = [
        f"Ours: {span(done['normal'])} normal and {span(done['anomalous'])} anomalous test images; $K$ = "
        f"{span(done['samples'])} importance samples; in brackets the 95\\% interval over {span(done['repeats'])} "
        f"bootstrap resamplings of the images{_note_on_seeds(records)}. "
        f"Seeds {', '.join(str(seed) for seed in sorted({run.seed for run in runs}))}; {sizes}; "
        f"trained for at most {span(budget)} updates; device "
        + ", ".join(escape(device) for device in sorted(set(done["device"])))
        + "."
    ]
    for protocol in sorted({run.training.protocol for run in runs}):
        notes.append(f"Protocol {code(protocol)}: {PROTOCOLS[protocol]}.")
    if any(record["settings"] != pair.model_dump(mode="json") for _, record in ran):
        notes.append("Some of our values come from settings of the pair other than the present ones.")
    return notes


def _note_on_seeds(records: list[tuple[RunConfig, Record | None]]) -> str:
    if len({run.seed for run, _ in records}) == 1:
        return ""
    return (
        r", or with several seeds mean $\pm$ standard deviation over them (number of seeds; $1/2$: one of two planned)"
    )


# ------------------------------------------------------------------------------------------------- reported values


def _reported(paper: pd.DataFrame, pair: AnomalyPair) -> tuple[list[str], list[str]]:
    """A line for every reported model, and the notes on their sources."""
    rows = paper[
        (paper["table"] == "anomaly")
        & (paper["dataset"] == f"{_reported_name(pair.normal)}/{_reported_name(pair.anomalous)}")
        & paper["metric"].isin(list(METRICS))
    ]
    if rows.empty:
        return [], ["No reported value on this pair of datasets is known."]
    sources: dict[tuple[str, str], int] = {}
    lines = []
    for model, values in rows.groupby("model", sort=False):
        cells = dict.fromkeys(METRICS, NOT_REPORTED)
        for row in values.to_dict("records"):
            number = sources.setdefault((row["source"], row["confirmed"]), len(sources) + 1)
            cells[row["metric"]] = f"${row['value']:.3f}{_superscript(number, row['confirmed'])}$"
        name = rf"\multicolumn{{2}}{{@{{}}p{{31mm}}}}{{\raggedright {escape(str(model))}}}"
        lines.append(_line(name, *cells.values()))
    listed = "; ".join(
        f"${_superscript(number, confirmed)}$\\,{escape(source)}{CONFIRMATION[confirmed]}"
        for (source, confirmed), number in sources.items()
    )
    return lines, [
        f"Below the last rule: reported values. {NOT_REPORTED}\\,: no reported value known. Sources: {listed}."
    ]


def _reported_name(dataset: str) -> str:
    """The dataset as reported values name it, which do not say how it is binarised."""
    return dataset.removesuffix("_dynamic").removesuffix("_static")


def _superscript(number: int, confirmed: str) -> str:
    return f"^{{{','.join([str(number), *filter(None, [MARKS[confirmed]])])}}}"


# ----------------------------------------------------------------------------------------------------------- LaTeX


def _line(*cells: str) -> str:
    return " & ".join(cells) + r" \\"


def _tabular(blocks: list[list[str]]) -> str:
    """A rule between any two blocks of lines; smaller letters where many lines must fit on a page."""
    size = r"\scriptsize" if sum(map(len, blocks)) > LINES_AT_FULL_SIZE else r"\footnotesize"
    ruled = [line for block in blocks for line in (r"\midrule", *block)]
    head = _line("Model", "Score", *METRICS.values())
    return "\n".join(
        [size, r"\begin{tabular}{@{}llrrr@{}}", r"\toprule", head, *ruled, r"\bottomrule", r"\end{tabular}"],
    )
