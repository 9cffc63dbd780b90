"""What a run does at most, and how long that takes at a given rate: pure arithmetic on its configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from biva.bench.flops import Costs
from biva.config import DatasetConfig, Experiments, RunConfig
from biva.data.datasets import Split
from biva.data.inputs import SELECTION_SPLIT, TRAINING_SPLIT


@dataclass(frozen=True)
class Work:
    """Images and samples that a run goes through, from start to end."""

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


def work_of(run: RunConfig, experiments: Experiments, datasets: Mapping[str, DatasetConfig]) -> Work:
    """All work of a run, without early stopping."""
    training, evaluation = run.training, experiments.evaluation
    dataset = datasets[run.dataset]
    selected = _first(_images(dataset, SELECTION_SPLIT[training.protocol]), training.selection_images)
    samples = max(evaluation.importance_samples) if run.labels is None else 1
    scored = sum(
        pair.importance_samples * _first(_images(datasets[name], "test"), pair.max_images)
        for pair in experiments.anomalies
        if pair.includes(run)
        for name in (pair.normal, pair.anomalous)
    )
    return Work(
        training=training.max_updates * training.batch_size,
        selection=math.ceil(training.max_updates / training.evaluate_every) * selected,
        samples=samples,
        evaluation=samples * _first(_images(dataset, "test"), evaluation.max_images),
        detection=scored * (len(run.architecture.stages) + 1),
    )


def _images(dataset: DatasetConfig, split: Split) -> int:
    """Images of a split; "train+valid" is only train where there is no other."""
    return sum(images for name, images in dataset.splits.items() if name in split.split("+"))


def _first(images: int, limit: int | None) -> int:
    return images if limit is None else min(images, limit)


@dataclass(frozen=True)
class Rates:
    """FLOP/s that training and evaluation sustain, and who says so."""

    training: float
    evaluation: float
    source: str


def training_hours(work: Work, costs: Costs, rates: Rates) -> float:
    """Updates, and the evaluations between them."""
    updates = work.training * costs.training / rates.training
    return (updates + work.selection * costs.evaluation(1) / rates.evaluation) / 3600


def evaluation_hours(work: Work, costs: Costs, rates: Rates) -> float:
    """Importance-weighted bounds, and the scores of anomaly pairs, whose every bound costs a walk per sample too."""
    return (work.evaluation + work.detection) * costs.evaluation(work.samples) / rates.evaluation / 3600


def memory(run: RunConfig, dataset: DatasetConfig, costs: Costs) -> int:
    """Bytes that training needs on its device, estimated: model, activations of a batch, training images."""
    images = _images(dataset, TRAINING_SPLIT[run.training.protocol])
    return costs.training_memory(run.training.batch_size) + images * math.prod(dataset.shape)
