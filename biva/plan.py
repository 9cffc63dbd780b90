"""What experiment sets would run, how much work that is, and how long it takes: `biva plan`. Nothing is started.

The work is what a run does at most, without early stopping. Hours are its FLOPs over a rate: the one that `biva bench`
measured for the run's model on this machine, or else an assumed one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from biva.config import CONFIG_FOLDER, DatasetConfig, Experiments, Labels, RunConfig, by_group, resolve_runs
from biva.data.datasets import Split
from biva.data.inputs import SELECTION_SPLIT
from biva.data.raw import CLASSES
from biva.devices import device_name
from biva.models.architectures import Architecture
from biva.models.build import build_model
from biva.origin import processor
from biva.records import read_json
from biva.reporting.ours import significant

ASSUMED_CPU = 20e9
"""FLOP/s of one CPU core, a cautious assumption: one with AVX2 does 50 to 100 in the convolutions themselves."""

ASSUMED_GPU = 10e12
"""FLOP/s of a GPU, a cautious assumption: half of the float32 peak of an NVIDIA A100 (19.5, its data sheet)."""


@dataclass(frozen=True)
class Costs:
    """FLOPs of a model per image: a multiplication and an addition are two, convolutions and matrix products count."""

    training: float
    """Forward and backward pass."""
    encoding: float
    """What importance sampling computes once per image, however many samples follow."""
    sampling: float
    """What every importance sample takes on top."""

    def evaluation(self, k: int) -> float:
        """FLOPs per image and importance sample, when k samples are drawn of every image."""
        return self.encoding / k + self.sampling


@cache
def count(architecture: Architecture, model: str, labels: Labels | None = None, batch_size: int = 1) -> Costs:
    """Count a model's FLOPs on tensors that have shapes and no numbers, which takes no memory.

    With labels, the labelled images of an update count as work for its `batch_size` images, and evaluation is one pass
    per image: through the classifier, and of a semi-supervised model through every class.
    """
    is_classifier = labels is not None and labels.weight is None

    def forward(labelled: int, images: int) -> Tensor:
        """Run the model on so many images; the sum of everything that its loss is made of."""
        x, y = torch.zeros(labelled + images, *architecture.input_shape), torch.zeros(labelled, dtype=torch.int64)
        if is_classifier:
            return cast(Tensor, built(x).sum())
        log_q, terms = built(x, y, no_noise) if labels else (x.new_zeros(1), built(x, no_noise))
        return cast(Tensor, log_q.sum() + terms.log_likelihood.sum() + terms.kl.sum())

    with torch.device("meta"):
        built: Any = build_model(architecture, model, CLASSES if labels else 0)
        with FlopCounterMode(display=False) as update:
            forward(labels.batch_size if labels else 0, 0 if is_classifier else batch_size).backward()
        with FlopCounterMode(display=False) as evaluation:
            forward(int(is_classifier), int(not is_classifier))
        with FlopCounterMode(display=False) as encoding:
            if labels is None:
                built.inference.encode(torch.zeros(1, *architecture.input_shape))
    once = encoding.get_total_flops()
    return Costs(update.get_total_flops() / batch_size, once, evaluation.get_total_flops() - once)


def no_noise(_name: str, shape: torch.Size) -> Tensor:
    """Zeros, where only shapes matter."""
    return torch.zeros(shape)


@dataclass(frozen=True)
class Work:
    """Images and samples that a run goes through at most, from start to end."""

    training: int
    """Images seen in training."""
    selection: int
    """Images evaluated with one sample, to select weights during training."""
    samples: int
    """K of the evaluation."""
    evaluation: int
    """Images times K."""
    detection: int
    """Images times K times the number of bounds L^{>k}, in all anomaly pairs."""

    def hours(self, costs: Costs, rates: Rates) -> tuple[float, float]:
        """Hours of training with the evaluations in it, and of evaluation with the scores of anomaly pairs."""
        updates = self.training * costs.training / rates.training
        selection = self.selection * costs.evaluation(1) / rates.evaluation
        samples = (self.evaluation + self.detection) * costs.evaluation(self.samples) / rates.evaluation
        return (updates + selection) / 3600, samples / 3600


@dataclass(frozen=True)
class Rates:
    """FLOP/s that training and evaluation sustain, and where these numbers come from."""

    training: float
    evaluation: float
    source: str


def work_of(run: RunConfig, experiments: Experiments, datasets: Mapping[str, DatasetConfig]) -> Work:
    """All work of a run."""

    def images(dataset: str, split: Split, limit: int | None) -> int:
        number = sum(n for name, n in datasets[dataset].splits.items() if name in split.split("+"))
        return number if limit is None else min(number, limit)

    training, evaluation = run.training, experiments.evaluation
    selected = images(run.dataset, SELECTION_SPLIT[training.protocol], training.selection_images)
    samples = max(evaluation.importance_samples) if run.labels is None else 1
    scored = 0
    for pair in experiments.anomalies:
        if not pair.includes(run):
            continue
        parts: list[tuple[str, Split]] = [(pair.normal, "test"), (pair.anomalous, "test")]
        if pair.choose_k_on:
            parts += [(pair.normal, "valid"), (pair.choose_k_on, "test")]
        scored += pair.importance_samples * sum(images(name, split, pair.max_images) for name, split in parts)
    return Work(
        training=training.max_updates * training.batch_size,
        selection=math.ceil(training.max_updates / training.evaluate_every) * selected,
        samples=samples,
        evaluation=samples * images(run.dataset, "test", evaluation.max_images),
        detection=scored * (len(run.architecture.stages) + 1),
    )


def conditions(run: RunConfig, device: torch.device) -> dict[str, Any]:
    """What a measurement and a run must agree in, if the one shall say how fast the other is."""
    return {
        "architecture": run.architecture.model_dump(mode="json", exclude={"description"}),
        "model": run.model,
        "device": device_name(device),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": run.threads if device.type == "cpu" else None,
    }


def rates_of(run: RunConfig, experiments: Experiments, samples: int, benchmarks: Path) -> Rates:
    """The newest measurement of the run's model under its conditions, or else assumed rates.

    Of the batch sizes and the K that were measured, the nearest are taken.
    """
    device = planned_device(run.device)
    here = device == "cpu" or torch.cuda.is_available()
    wanted = conditions(run, torch.device(device)) if here else None
    records = map(read_json, benchmarks.glob("[!.]*.json"))
    for record in sorted(records, key=lambda found: found["finished"], reverse=True):
        updates = [
            row
            for row in record["training"]
            if (row["precision"], row["compiled"]) == (run.training.precision, run.training.compiled)
        ]
        walks = [row for row in record["evaluation"] if row["precision"] == experiments.evaluation.precision]
        if record["conditions"] == wanted and updates and walks:
            update = min(updates, key=lambda row: abs(math.log(row["batch"] / run.training.batch_size)))
            walk = min(walks, key=lambda row: abs(math.log(row["K"] / samples)))
            source = f"measured {record['finished'][:10]}, batch {update['batch']}, K = {walk['K']}"
            return Rates(1e9 * update["GFLOP/s"], 1e9 * walk["GFLOP/s"], source)
    cores = min(run.threads, os.cpu_count() or 1)
    return assumed(ASSUMED_GPU if device == "cuda" else ASSUMED_CPU * cores, "default")


def assumed(rate: float, origin: str) -> Rates:
    """The same FLOP/s for training and evaluation, marked as an assumption."""
    return Rates(rate, rate, f"assumed {rate / 1e9:,g} GFLOP/s ({origin})")


def planned_device(device: str) -> str:
    """`cpu` or `cuda`: what a run of this setting would use here; a machine that lacks it can still plan for it."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def plan(
    sets: Mapping[str, Experiments],
    datasets: Mapping[str, DatasetConfig],
    benchmarks: Path,
    flops_rate: float | None,
    folder: Path = CONFIG_FOLDER,
) -> str:
    """A line per model and dataset, and totals, by `rates_of` or, where it is given, by `flops_rate` in FLOP/s."""
    rows = []
    for name, experiments in sets.items():
        for group, runs in by_group(resolve_runs(name, experiments, folder)).items():
            run, training = runs[0], runs[0].training
            work = work_of(run, experiments, datasets)
            costs = count(run.architecture, run.model, run.labels, training.batch_size if run.labels else 1)
            measured = partial(rates_of, run, experiments, work.samples, benchmarks)
            rates = assumed(flops_rate, "--flops-rate") if flops_rate else measured()
            of_training, of_evaluation = work.hours(costs, rates)
            rows.append(
                {
                    "set": name,
                    "run": group,
                    "seeds": len(runs),
                    "updates": f"{training.max_updates:,}" if training.minutes is None else f"{training.minutes:g} min",
                    "images seen": f"{work.training:,}" if training.minutes is None else "",
                    "images*K": f"{work.evaluation + work.detection:,}",
                    "training h": len(runs) * min(of_training, (training.minutes or math.inf) / 60),
                    "evaluation h": len(runs) * of_evaluation,
                    "device": planned_device(run.device),
                    "speed": rates.source,
                }
            )
    table, hours = pd.DataFrame(rows), partial(significant, digits=2)
    training_hours, evaluation_hours = table["training h"].sum(), table["evaluation h"].sum()
    return "\n".join(
        [
            table.to_string(index=False, float_format=hours),
            "",
            f"In all {table['seeds'].sum()} run(s), {hours(training_hours)} h of training at most and "
            f"{hours(evaluation_hours)} h of evaluation: {hours(training_hours + evaluation_hours)} h, one run after "
            "the other.",
            "Updates and images are of one run, hours of all seeds of a line. Early stopping may end training before.",
            "images*K: evaluation and anomaly pairs.",
        ]
    )
