"""Table of an anomaly pair: how well L^{>k} and LLR^{>k} tell one dataset's test images from another's.

It is made of the records `anomaly/NAME.json` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from biva.config import AnomalyPair, RunConfig, reported_name
from biva.records import CHOOSING_ANOMALOUS, CHOOSING_NORMAL, as_written, images_read
from biva.reporting.markup import Text, code, joined, styled, text
from biva.reporting.ours import (
    PROTOCOLS,
    architectures,
    by_model,
    counted,
    letters,
    notes_on_differences,
    part_of_split,
    span,
)
from biva.reporting.provenance import Difference, differences, diverged, divergence, origin, short_name
from biva.reporting.reported import ReportedCells
from biva.reporting.results import Paper
from biva.reporting.table import NOT_RUN, Cell, Table

Record = dict[str, Any]
Records = Mapping[str, Record]
"""Content of a JSON file of every run that has scored the images, by `RunConfig.name`."""

Scored = list[tuple[RunConfig, Record]]
"""The runs that have scored the images, each with its `anomaly/NAME.json`."""

METRICS: dict[str, str] = {"auroc": "AUROC ↑", "auprc": "AUPRC ↑", "fpr80": "FPR80 ↓"}
"""Metric -> heading of its column; the arrow points to what is better."""

CHOSEN = "§"
"""Mark of the LLR^{>k} of the k that a run chose on other images."""


def anomaly_table(records: Records, made: Records, paper: Paper, pair: AnomalyPair, planned: list[RunConfig]) -> Table:
    """For every model a row per score, with AUROC, AUPRC and FPR80; the reported values stand at the end.

    One seed shows its value and the 95% bootstrap interval, several show mean and standard deviation. The best AUROC
    of a model is bold. What has no record `anomaly/NAME.json` is `not run`; of the others, `made` has the content of
    `run.json` and `train.json` together. Where runs chose k on other images, the LLR^{>k} that they chose are marked.

    Raises:
        UserError: a record lacks a field.
    """
    planned = [run for run in planned if pair.includes(run)]
    scored = [(run, records[run.name]) for run in planned if run.name in records]
    remedy = f"Delete the runs' records of {pair.name} and run `biva detect` again."
    with as_written(f"A record of anomaly pair {pair.name!r}", remedy):
        unlike = _differences(scored, made, planned)
        blocks = [_block(name, runs, records, unlike) for name, runs in by_model(planned).items()]
        notes = _notes_on_ours(scored, planned, pair)
    cells = ReportedCells()
    reported = _reported_block(paper, pair, cells)
    return Table(
        name=pair.name,
        caption=styled(
            f"Anomaly detection by *L*^{{>k}}: test images of `{pair.normal}` are normal, those of `{pair.anomalous}` "
            "anomalous."
        ),
        headings=[[Cell("Model"), Cell("Score"), *map(Cell, METRICS.values())]],
        blocks=[*blocks, *([reported] if reported else [])],
        words=2,
        notes=[
            _definitions(pair),
            *notes,
            *notes_on_differences(unlike),
            *(cells.notes() if reported else [text("No reported value on this pair of datasets is known.")]),
        ],
    )


def score_names(stages: int) -> list[str]:
    """The scores of a model with this number of stages, in the order of the records: `L>0` ..., then `LLR>1` ..."""
    return [f"L>{k}" for k in range(stages + 1)] + [f"LLR>{k}" for k in range(1, stages + 1)]


def symbol(score: str) -> str:
    """A score's name as matplotlib sets it: `LLR>2` with the 2 raised."""
    kind, _, k = score.partition(">")
    return f"$L^{{>{k}}}$" if kind == "L" else rf"$\mathrm{{LLR}}^{{>{k}}}$"


def _definitions(pair: AnomalyPair) -> Text:
    """What the scores and the columns are, and what bold says."""
    below = "from the prior" if pair.below == "samples" else "are the mode of the prior, as in Havtorn et al. (2021)"
    best = f" on these test images; ^{{{CHOSEN}}} was chosen without them" if pair.choose_k_on else ""
    return styled(
        "Scores: −*L*^{>k} (rows *L*^{>k}), where *L*^{>k} takes only the latents above stage *k* from the posterior "
        f"and the others {below}, so that *L*^{{>0}} = *L* is the plain bound; and LLR^{{>k}} = *L* − *L*^{{>k}} "
        "(Havtorn et al. 2021). An image with a higher score is taken for an anomaly. AUROC, AUPRC (anomalies are the "
        "positives): higher is better. FPR80, the fraction of normal images taken for anomalies when 80% of the "
        f"anomalies are found: lower is better. Bold: the best AUROC of the model{best}."
    )


# ------------------------------------------------------------------------------------------------------ our values


def _differences(scored: Scored, made: Records, planned: list[RunConfig]) -> list[Difference]:
    """What the runs that have a record do not have in common; their data are those of all datasets of the pair."""
    results = [
        origin(made[run.name], record)
        | {"architecture": run.architecture_name, "model": run.variant, "seed": run.seed}
        | {"value": divergence(made[run.name])}
        | {"images_evaluated": record["normal"]["images"] + record["anomalous"]["images"]}
        | {"data_fingerprint": " ".join([made[run.name]["data_fingerprint"], *_other_fingerprints(record, run)])}
        for run, record in scored
    ]
    if not results:
        return []
    frame = pd.DataFrame(results)
    return differences(frame, planned) + diverged(frame[frame["value"] > 0])


def _other_fingerprints(record: Record, run: RunConfig) -> list[str]:
    """Those of the datasets that the run was not trained on."""
    return [images["fingerprint"] for images in images_read(record) if images["dataset"] != run.dataset]


def _block(model: Text, runs: list[RunConfig], records: Records, unlike: list[Difference]) -> list[list[Cell]]:
    """The rows of one model: one per score, or one that says `not run`."""
    name = Cell(model, marks=letters(unlike, map(short_name, runs)))
    found = [records[run.name] for run in runs if run.name in records]
    seeds, chosen = [record["scores"] for record in found], {record.get("chosen") for record in found}
    if not found:
        return [[name, Cell("all"), *[Cell(NOT_RUN)] * len(METRICS)]]
    names = score_names(len(runs[0].architecture.stages))
    aurocs = {score: np.mean([seed[score]["auroc"]["value"] for seed in seeds]) for score in names}
    rows = []
    for score in names:
        label = Cell(_row_name(score), marks=(CHOSEN,) if score in chosen else ())
        best = aurocs[score] == max(aurocs.values())
        cells = [
            _our_cell([seed[score][metric] for seed in seeds], runs, best=best and metric == "auroc")
            for metric in METRICS
        ]
        rows.append([name if score == names[0] else Cell(), label, *cells])
    return rows


def _row_name(score: str) -> Text:
    kind, _, k = score.partition(">")
    return styled(f"*L*^{{>{k}}}" if kind == "L" else f"LLR^{{>{k}}}")


def _our_cell(seeds: list[dict[str, float]], planned: list[RunConfig], *, best: bool) -> Cell:
    """One number of one score, given as `value`, `low` and `high` of every seed that ran, out of those planned."""
    values = [seed["value"] for seed in seeds]
    return Cell(
        value=float(np.mean(values)),
        digits=3,
        spread=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        interval=(seeds[0]["low"], seeds[0]["high"]) if len(values) == 1 else None,
        seeds=counted(len(values), len(planned)) if len(planned) > 1 else "",
        bold=best,
        of=(planned[0].group,),
    )


def _notes_on_ours(scored: Scored, planned: list[RunConfig], pair: AnomalyPair) -> list[Text]:
    """How our numbers came to be: images, K, spread, seeds, budget, protocol."""
    sizes, runs = architectures(planned), [run for run, _ in scored]
    records = pd.json_normalize([record for _, record in scored])
    if not runs:
        return [text("Ours: ", sizes, f"; {NOT_RUN}.")]
    images = " and ".join(
        part_of_split(records[f"{kind}.images"], records[f"{kind}.images_in_split"], f"{kind} test images")
        for kind in ("normal", "anomalous")
    )
    ours = f"Ours: {images}; *K* = {span(records['samples'])} importance samples; in brackets the 95% interval over "
    ours += f"{span(records['repeats'])} bootstrap resamplings of the images"
    if len({run.seed for run in planned}) > 1:
        ours += ", or with several seeds mean ± standard deviation over them (number of seeds; 1/2: one of two planned)"
    seeds = ", ".join(map(str, sorted({run.seed for run in runs})))
    budget = span(pd.Series([run.training.max_updates for run in runs]))
    trained = f"; trained for at most {budget} updates; device {', '.join(sorted(set(records['device'])))}."
    notes = [
        text(styled(f"{ours}. Seeds {seeds}; "), sizes, trained),
        *(
            styled(f"Protocol `{protocol}`: {PROTOCOLS[protocol]}.")
            for protocol in sorted({run.training.protocol for run in runs})
        ),
    ]
    notes += _notes_on_choice([(run, record) for run, record in scored if "chosen" in record])
    if any(record["settings"] != pair.model_dump(mode="json") for _, record in scored):
        notes.append(text("Some of our values come from settings of the pair other than the present ones."))
    return notes


def _notes_on_choice(chosen: Scored) -> list[Text]:
    """On which images every run chose k, which one, and how well LLR^{>k} tells them apart."""
    if not chosen:
        return []
    records = pd.json_normalize([record for _, record in chosen])
    normal, other = (
        part_of_split(
            records[f"{kind}.images"],
            records[f"{kind}.images_in_split"],
            f"{split} images of {' or '.join(sorted(set(records[f'{kind}.dataset'])))}",
        )
        for kind, split in ((CHOOSING_NORMAL, "validation"), (CHOOSING_ANOMALOUS, "test"))
    )
    choices = (
        text(code(short_name(run)), " ", _row_name(score), f", AUROC there {record['choosing_auroc'][score]:.3f}")
        for run, record in chosen
        for score in [record["chosen"]]
    )
    return [
        text(
            styled(f"^{{{CHOSEN}}} *k* chosen as that of the LLR^{{>k}} with the highest AUROC on other images: "),
            f"{normal}, against {other}; no test image of the pair had a part in it. ",
            joined("; ", choices),
            ".",
        )
    ]


# ------------------------------------------------------------------------------------------------- reported values


def _reported_block(paper: Paper, pair: AnomalyPair, cells: ReportedCells) -> list[list[Cell]]:
    """A row for every model of which somebody reports detection on this pair of datasets."""
    datasets = f"{reported_name(pair.normal)}/{reported_name(pair.anomalous)}"
    reported = paper[(paper["table"] == "anomaly") & (paper["dataset"] == datasets)]
    return [
        [
            Cell(str(model), columns=2),
            *(cells.cell(of_model[of_model["metric"] == metric], digits=3) for metric in METRICS),
        ]
        for model, of_model in reported.groupby("model", sort=False)
    ]
