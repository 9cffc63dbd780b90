"""The configuration files by name, and the runs that an experiment set asks for."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from biva.config.base import PROTOCOL_SPLITS, TRAINED_ON, Protocol
from biva.config.datasets import DatasetConfig, Datasets
from biva.config.experiments import AnomalyPair, Collection, Experiments, RunGroup, SemiSupervised, Table
from biva.config.main import MainConfig
from biva.config.runs import Labels, RunConfig
from biva.config.training import Training
from biva.config.yaml_files import file_of, load, parse, read
from biva.errors import UserError
from biva.models.architectures import Architecture

Found = TypeVar("Found")

CONFIG_FOLDER = Path(os.environ.get("BIVA_CONFIG") or "config")


def load_main(folder: Path = CONFIG_FOLDER) -> MainConfig:
    """`config/config.yaml`."""
    return load(MainConfig, folder / "config.yaml", "configuration")


def load_architecture(name: str, folder: Path = CONFIG_FOLDER) -> Architecture:
    """`config/architectures/NAME.yaml`."""
    return load(Architecture, file_of(folder / "architectures", "architecture", name), "architecture")


def load_sets(name: str, folder: Path = CONFIG_FOLDER) -> tuple[str, ...]:
    """Names of the experiment sets that `config/experiments/NAME.yaml` stands for: its own, or a collection's."""
    path = file_of(folder / "experiments", "experiment set", name)
    content = read(path, "experiment set")
    if isinstance(content, dict) and "sets" in content:
        return parse(Collection, content, path).sets
    return (name,)


def load_experiments(name: str, folder: Path = CONFIG_FOLDER) -> Experiments:
    """`config/experiments/NAME.yaml`, with every dataset and architecture that it names known to exist."""
    path = folder / "experiments" / f"{name}.yaml"
    if (sets := load_sets(name, folder)) != (name,):
        raise UserError(f"{name!r} is a collection of experiment sets. Name one of them: {', '.join(sets)}.")
    experiments = load(Experiments, path, "experiment set")
    if mistakes := list(_mistakes(experiments, load_datasets(folder), folder)):
        raise UserError(f"{path} is not valid:\n" + "\n".join(f"  - {mistake}" for mistake in mistakes))
    return experiments


def _mistakes(experiments: Experiments, datasets: dict[str, DatasetConfig], folder: Path) -> Iterator[str]:
    """The keys of a set that name a dataset that does not exist, or one that does not fit the other settings."""
    allowed = f"allowed: {', '.join(sorted(datasets))}"
    groups: list[tuple[str, RunGroup | SemiSupervised, Training]] = [
        *((f"runs.{n}", group, experiments.training) for n, group in enumerate(experiments.runs)),
        *(
            (f"semi_supervised.{n}", entry, entry.training or experiments.training)
            for n, entry in enumerate(experiments.semi_supervised)
        ),
    ]
    for place, group, training in groups:
        if group.dataset not in datasets:
            yield f"{place}.dataset: unknown dataset {group.dataset!r}; {allowed}"
            continue
        dataset, architecture = datasets[group.dataset], load_architecture(group.architecture, folder)
        if missing := [split for split in PROTOCOL_SPLITS[training.protocol] if split not in dataset.splits]:
            yield (
                f"{place}.dataset: {group.dataset!r} has no {' and no '.join(missing)} split, which training.protocol: "
                f"{training.protocol} needs; it has: {', '.join(dataset.splits)}"
            )
        images = sum(count for split, count in dataset.splits.items() if split in TRAINED_ON[training.protocol])
        for each in (training, experiments.finetuning and experiments.finetuning.training):
            if each and each.batch_size > images > 0:
                yield f"{place}: batch_size is {each.batch_size}, but {group.dataset!r} has {images} images to train on"
        if architecture.input_shape != dataset.shape:
            yield (
                f"{place}.architecture: {group.architecture!r} is for images of shape {architecture.input_shape}, but "
                f"dataset {group.dataset!r} has {dataset.shape}"
            )
        if architecture.likelihood != dataset.likelihood:
            yield (
                f"{place}.architecture: {group.architecture!r} has likelihood: {architecture.likelihood}, but dataset "
                f"{group.dataset!r} has binarisation: {dataset.binarisation} and {dataset.levels} levels; bernoulli is "
                "for binarised images, mixture_of_logistics for 256 levels with binarisation: none"
            )
    reported = _reported_tables(folder)
    for table in experiments.all_tables if reported else ():
        known = sorted(name for name, dataset in reported if dataset == table.reported_dataset)
        if table.paper_table and table.paper_table not in known:
            yield (
                f"paper_table of table {table.name!r}: paper_results.csv has no table {table.paper_table!r} on "
                f"{table.reported_dataset}; allowed: {', '.join(known) or 'null'}"
            )
    for number, pair in enumerate(experiments.anomalies):
        if pair.normal in datasets:
            mistakes = _mistakes_of_pair(pair, experiments.training.protocol, datasets)
            yield from (f"anomalies.{number}.{mistake}" for mistake in mistakes)


def _reported_tables(folder: Path) -> set[tuple[str, str]]:
    """Table and dataset of every row of `config/paper_results.csv`; `biva.reporting` validates all of it."""
    path = folder / "paper_results.csv"
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8", newline="") as file:
        return {(row.get("table", ""), row.get("dataset", "")) for row in csv.DictReader(file)}


def _mistakes_of_pair(pair: AnomalyPair, protocol: Protocol, datasets: dict[str, DatasetConfig]) -> Iterator[str]:
    """Keys of the pair with datasets that its models cannot score, or on which k cannot be chosen."""
    if pair.choose_k_on and protocol != "clean":
        yield (
            f"choose_k_on: training.protocol: {protocol} trains on the validation images of {pair.normal!r}, by which "
            "k would be chosen; allowed: null, or training.protocol: clean"
        )
    kind = {name: (dataset.shape, dataset.binarisation, dataset.likelihood) for name, dataset in datasets.items()}
    scorable = [name for name in sorted(datasets) if kind[name] == kind[pair.normal]]
    own, why = {pair.normal, pair.anomalous}, "one of the pair's own datasets, on which k must not be chosen"
    for key, other, taken, reason in (
        ("anomalous", pair.anomalous, {pair.normal}, "the normal dataset itself"),
        ("choose_k_on", pair.choose_k_on, own, why),
    ):
        allowed = f"allowed: {', '.join(name for name in scorable if name not in taken) or 'null'}"
        if other is None:
            continue
        if other not in datasets:
            yield f"{key}: unknown dataset {other!r}; {allowed}"
        elif other in taken:
            yield f"{key}: {other!r} is {reason}; {allowed}"
        elif other not in scorable:
            yield (
                f"{key}: {other!r} has images of shape {_images(datasets[other])}, but {pair.normal!r} has "
                f"{_images(datasets[pair.normal])}; {allowed}"
            )


def _images(dataset: DatasetConfig) -> str:
    levels = f" of {dataset.levels} levels" if dataset.binarisation == "none" else ""
    return f"{dataset.shape}, binarisation {dataset.binarisation}{levels}"


def load_datasets(folder: Path = CONFIG_FOLDER) -> dict[str, DatasetConfig]:
    """`config/datasets.yaml`: dataset name -> entry."""
    return load(Datasets, folder / "datasets.yaml", "dataset list").datasets


def resolve_runs(experiments_name: str, experiments: Experiments, folder: Path = CONFIG_FOLDER) -> list[RunConfig]:
    """All runs of an experiment set, in the file's order, each followed by its fine-tuning, if any."""
    names = {group.architecture for group in experiments.runs} | {s.architecture for s in experiments.semi_supervised}
    architectures = {name: load_architecture(name, folder) for name in names}

    def run(group: RunGroup | SemiSupervised, seed: int, **others: Any) -> RunConfig:
        return RunConfig(
            experiments=experiments_name,
            dataset=group.dataset,
            architecture_name=group.architecture,
            architecture=architectures[group.architecture],
            seed=seed,
            device=experiments.device,
            threads=experiments.threads,
            **others,
        )

    runs = []
    for group in experiments.runs:
        for seed in group.seeds:
            runs.append(run(group, seed, model=group.model, training=experiments.training))
            if (finetuning := experiments.finetuning) and group.model in finetuning.models:
                runs.append(runs[-1].model_copy(update={"training": finetuning.training, "finetunes": runs[-1].digest}))
    for entry in experiments.semi_supervised:
        training = entry.training or experiments.training
        for model, weight in (("biva", entry.label_weight), ("classifier", None)):
            labels = Labels(count=entry.labels, batch_size=entry.label_batch_size, weight=weight)
            runs += [run(entry, seed, model=model, training=training, labels=labels) for seed in entry.seeds]
    return runs


def find_dataset(name: str, folder: Path = CONFIG_FOLDER) -> DatasetConfig:
    """The entry of `config/datasets.yaml` with this name; UserError, with all names, if there is none."""
    return _found(name, load_datasets(folder), f"{folder / 'datasets.yaml'} has no dataset")


def find_run(experiments_name: str, run: str, folder: Path = CONFIG_FOLDER) -> RunConfig:
    """The run `DATASET/ARCHITECTURE/MODEL/seedN` of a set; UserError, with those that it has, if there is none."""
    runs = resolve_runs(experiments_name, load_experiments(experiments_name, folder), folder)
    return _found(run, {run.name: run for run in runs}, f"Experiment set {experiments_name!r} has no run")


def find_anomaly(experiments_name: str, name: str, folder: Path = CONFIG_FOLDER) -> AnomalyPair:
    """The anomaly pair of a set with this name; UserError, with those that it has, if there is none."""
    pairs = {pair.name: pair for pair in load_experiments(experiments_name, folder).anomalies}
    return _found(name, pairs, f"Experiment set {experiments_name!r} has no anomaly pair")


def find_table(experiments_name: str, name: str, folder: Path = CONFIG_FOLDER) -> Table:
    """The table of a set with this name; UserError, with those that it has, if there is none."""
    tables = {table.name: table for table in load_experiments(experiments_name, folder).all_tables}
    return _found(name, tables, f"Experiment set {experiments_name!r} has no table")


def _found(name: str, known: dict[str, Found], there_is_none: str) -> Found:
    if name not in known:
        raise UserError("\n  ".join([f"{there_is_none} {name!r}. Known:", *(known or ["none"])]))
    return known[name]
