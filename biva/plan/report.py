"""The plan of experiment sets: what would run, how much work it is, how long it takes; nothing is started."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from biva.bench.flops import Costs, count, count_labelled
from biva.config import CONFIG_FOLDER, DatasetConfig, Experiments, RunConfig, resolve_runs
from biva.models.architectures import ModelName
from biva.plan.rates import assumed, planned_device, rates_of
from biva.plan.work import evaluation_hours, memory, training_hours, work_of
from biva.text import aligned, size

_HEADINGS = (
    *("set", "run", "seeds", "updates", "images seen", "images*K", "training h", "evaluation h", "memory", "device"),
    "speed",
)


@dataclass(frozen=True)
class _Planned:
    """The runs of one model on one dataset, which differ in their seeds only."""

    row: tuple[str, ...]
    runs: int
    training_hours: float
    evaluation_hours: float


def plan(
    sets: Mapping[str, Experiments],
    datasets: Mapping[str, DatasetConfig],
    benchmarks: Path,
    flops_rate: float | None,
    folder: Path = CONFIG_FOLDER,
) -> str:
    """A line per model and dataset, and totals.

    Args:
        sets: name -> experiment set.
        datasets: entries of `config/datasets.yaml`.
        benchmarks: folder of the records of `biva bench`.
        flops_rate: FLOP/s to assume instead of what was measured; None: as measured, or a default.
        folder: of the configuration.
    """
    planned = [
        _planned(name, experiments, runs, datasets, benchmarks, flops_rate)
        for name, experiments in sets.items()
        for runs in _by_seed(resolve_runs(name, experiments, folder))
    ]
    training = sum(entry.training_hours for entry in planned)
    evaluation = sum(entry.evaluation_hours for entry in planned)
    return "\n".join(
        [
            *aligned(_HEADINGS, [entry.row for entry in planned]),
            "",
            f"In all {sum(entry.runs for entry in planned)} run(s), {_hours(training)} h of training at most and "
            f"{_hours(evaluation)} h of evaluation: {_hours(training + evaluation)} h, one run after the other.",
            "Updates, images and memory are of one run, hours of all seeds of a line. Early stopping may end training",
            "before. images*K: evaluation and anomaly pairs. Memory is estimated: model, a batch's activations, data.",
        ]
    )


def _by_seed(runs: Iterable[RunConfig]) -> list[list[RunConfig]]:
    groups: dict[tuple[str, str, str], list[RunConfig]] = {}
    for run in runs:
        groups.setdefault((run.dataset, run.architecture_name, run.variant), []).append(run)
    return list(groups.values())


_count = cache(count)


def _costs(run: RunConfig) -> Costs:
    return _count(run.architecture, cast(ModelName, run.model)) if run.labels is None else count_labelled(run)


def _planned(
    name: str,
    experiments: Experiments,
    runs: list[RunConfig],
    datasets: Mapping[str, DatasetConfig],
    benchmarks: Path,
    flops_rate: float | None,
) -> _Planned:
    run = runs[0]
    costs, work = _costs(run), work_of(run, experiments, datasets)
    rates = rates_of(run, benchmarks, work.samples) if flops_rate is None else assumed(flops_rate, "--flops-rate")
    training = len(runs) * min(training_hours(work, costs, rates), (run.training.minutes or math.inf) / 60)
    evaluation = len(runs) * evaluation_hours(work, costs, rates)
    row = (
        name,
        f"{run.dataset}/{run.architecture_name}/{run.variant}",
        ", ".join(str(each.seed) for each in runs),
        *(
            (f"{run.training.max_updates:,}", f"{work.training:,}")
            if run.training.minutes is None
            else (f"{run.training.minutes:g} minutes", "")
        ),
        f"{work.evaluation + work.detection:,}",
        _hours(training),
        _hours(evaluation),
        size(memory(run, datasets[run.dataset], costs)),
        planned_device(run.device),
        rates.source,
    )
    return _Planned(row, len(runs), training, evaluation)


def _hours(hours: float) -> str:
    """Two digits of small numbers, whole hours of large ones."""
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
