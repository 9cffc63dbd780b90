"""`config/experiments/NAME.yaml`: an experiment set, or a collection of sets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from biva.config.base import Device, Name, Precision, Strict
from biva.config.runs import RunConfig
from biva.config.training import Training
from biva.models.architectures import ModelName

FigureName = Literal[
    "learning_curves",
    "bound_over_time",
    "latents_over_training",
    "bound_against_k",
    "ladder",
    "kl_per_layer",
    "samples",
    "temperatures",
    "reconstructions",
    "layers",
    "interpolations",
]


def reported_name(dataset: str) -> str:
    """The dataset as reported values name it that do not say how it is binarised."""
    return dataset.removesuffix("_dynamic").removesuffix("_static")


Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
Models = Annotated[tuple[ModelName, ...], Field(min_length=1)]


class RunGroup(Strict):
    """One model on one dataset, once per seed."""

    dataset: Name = Field(description="An entry of config/datasets.yaml.")
    architecture: Name = Field(description="A file in config/architectures/, without .yaml.")
    model: ModelName = Field(description="How the posterior is inferred.")
    seeds: Seeds = Field(description="One run per seed.")


class Finetuning(Strict):
    """Training on from a run's selected weights without free bits (paper.md section 4): a run of its own."""

    models: Models = Field(description="The runs of these models are fine-tuned.")
    training: Training = Field(description="As for any run; free_bits must be 0.")


class SemiSupervised(Strict):
    """BIVA with a few labels, beside a supervised network of its size that has the labels alone (paper.md section 5).

    Both are runs like any other, one per seed, with a table of their test errors.
    """

    name: Name = Field(description="File name of the table, without .tex.")
    dataset: Name = Field(description="An entry of config/datasets.yaml that has labels.")
    architecture: Name = Field(description="A file in config/architectures/, without .yaml.")
    labels: int = Field(
        ge=1,
        multiple_of=10,
        description="Training images with a label: as many of each of ten classes, drawn anew for every seed.",
    )
    label_batch_size: int = Field(
        ge=1,
        description="Labelled images per update, at most `labels`; training.batch_size counts the unlabelled ones.",
    )
    label_weight: float = Field(ge=0, le=1e6, description="alpha, the weight of -log q(y | x) at the labels.")
    seeds: Seeds = Field(description="Two runs per seed.")
    training: Training | None = Field(
        default=None, description="null: that of the experiment set. patience must be null: both get max_updates."
    )
    paper_table: Name | None = Field(default=None, description="`table` of config/paper_results.csv; null: none.")

    @model_validator(mode="after")
    def _labels_fill_a_batch(self) -> SemiSupervised:
        if self.label_batch_size > self.labels:
            raise ValueError(f"label_batch_size is {self.label_batch_size}, but there are only {self.labels} labels")
        return self

    @property
    def reported_dataset(self) -> str:
        """`dataset` of the rows of `config/paper_results.csv` that fit."""
        return f"{reported_name(self.dataset)}_{self.labels}_labels"

    def includes(self, run: RunConfig) -> bool:
        """Whether the table shows this run; other entries may have the same labels with other seeds and settings."""
        if run.labels is None or run.labels.count != self.labels or run.seed not in self.seeds:
            return False
        return (run.dataset, run.architecture_name) == (self.dataset, self.architecture)


class Evaluation(Strict):
    """Importance-weighted evaluation of the selected weights on the test split."""

    importance_samples: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = Field(
        description="Every K to report; all come from the samples of the largest."
    )
    max_images: int | None = Field(
        default=None,
        ge=1,
        description="A random draw of so many images of the test split, the same for all runs; null: all.",
    )
    precision: Precision = Field(
        default="fp32",
        description="Of convolutions and matrix products behind the bounds. Other than fp32: refused where it changes "
        "a bound by 0.01 nats (colour images: 0.001 bits/dim) or more.",
    )
    memory_budget_mb: int | None = Field(
        default=None,
        ge=16,
        description="MiB for one chunk of importance samples, estimated from the architecture; null: 256 on a CPU, "
        "8192 on a GPU. On a GPU whose memory is full, half as many samples are tried, and again.",
    )
    prior_samples: int = Field(default=64, ge=1, le=1024, description="Images drawn from the prior.")
    temperatures: Annotated[tuple[Annotated[float, Field(ge=0, le=2)], ...], Field(min_length=1)] = Field(
        default=(1.0, 0.9, 0.8, 0.7, 0.6),
        description="Factors on the prior's standard deviations; a few images are drawn at each.",
    )


class AnomalyPair(Strict):
    """Models trained on one dataset score the test images of another (paper.md section 5)."""

    name: Name = Field(description="File name of the pair's records, table and figure.")
    normal: Name = Field(description="Dataset that runs of this set train on.")
    anomalous: Name = Field(description="Dataset whose test images are the anomalies; same shape and levels.")
    models: Models | None = Field(
        default=None, exclude=True, description="The runs of these models score; null: all. Changes no score."
    )
    importance_samples: int = Field(ge=1, description="K of L^{>k}, for every k.")
    max_images: int | None = Field(
        default=None,
        ge=1,
        description="A random draw of so many images of every split that is scored, the same for all runs; null: all.",
    )
    below: Literal["samples", "mode"] = Field(
        default="samples",
        exclude_if=lambda below: below == "samples",
        description="The k lowest stages in L^{>k}: samples from the prior, or its mode (Havtorn et al., 2021).",
    )
    choose_k_on: Name | None = Field(
        default=None,
        exclude_if=lambda dataset: dataset is None,
        description="A third dataset, of the same shape and binarisation, whose test images choose k of LLR^{>k}: that "
        "of the highest AUROC against the validation images of `normal`, without a look at the pair's test images. "
        "Needs training.protocol: clean. null: k is not chosen.",
    )

    def includes(self, run: RunConfig) -> bool:
        """Whether this run scores the pair."""
        if run.labels is not None or run.dataset != self.normal:
            return False
        return self.models is None or run.model in self.models


class LikelihoodTable(Strict):
    """A table of likelihood bounds: our runs on one dataset beside the paper's rows."""

    name: Name = Field(description="File name of the table, without .tex.")
    dataset: Name = Field(description="Its runs are shown.")
    paper_table: Name | None = Field(default=None, description="`table` of config/paper_results.csv; null: none.")
    k: Annotated[tuple[int, ...], Field(min_length=1)] = Field(description="A column per K.")

    @field_validator("k")
    @classmethod
    def _distinct(cls, k: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(k)) < len(k):
            raise ValueError(f"a K is listed twice in {list(k)}")
        return k

    @property
    def reported_dataset(self) -> str:
        """`dataset` of the rows of `config/paper_results.csv` that fit."""
        return self.dataset

    def includes(self, run: RunConfig) -> bool:
        """Whether the table shows this run."""
        return run.labels is None and run.dataset == self.dataset


Table = LikelihoodTable | SemiSupervised


class Experiments(Strict):
    """`config/experiments/NAME.yaml`: runs, settings, and the tables and figures to make of them."""

    description: str = Field(description="One line for people.")
    device: Device = Field(description="auto: a CUDA device where there is one.")
    threads: int = Field(
        ge=1, le=1024, description="CPU threads per job; part of what makes a CPU run repeatable bit for bit."
    )
    runs: tuple[RunGroup, ...] = Field(default=(), description="One run per dataset, architecture, model and seed.")
    training: Training = Field(description="Of all runs.")
    finetuning: Finetuning | None = Field(default=None, description="Some runs go on without free bits; null: none.")
    semi_supervised: tuple[SemiSupervised, ...] = Field(default=(), description="BIVA with a few labels.")
    evaluation: Evaluation = Field(description="Of all runs.")
    anomalies: tuple[AnomalyPair, ...] = Field(default=(), description="Test images of other datasets to score.")
    tables: tuple[LikelihoodTable, ...] = Field(default=(), description="Tables of bounds.")
    figures: tuple[FigureName, ...] = Field(default=(), description="docs/configuration.md ends with what they show.")

    @property
    def table_stems(self) -> list[str]:
        """Every table that the set makes: a path below `results/NAME/`, without .tex."""
        return [f"tables/{table.name}" for table in self.all_tables] + [
            f"anomalies/{pair.name}" for pair in self.anomalies
        ]

    @property
    def figure_stems(self) -> list[str]:
        """Every figure that the set makes: a path below `results/NAME/`, without .pdf and .png."""
        return [f"figures/{name}" for name in self.figures] + [f"anomalies/{pair.name}" for pair in self.anomalies]

    @property
    def report_files(self) -> list[str]:
        """The files of all tables and figures, below `results/NAME/`."""
        files = [f"{stem}.{form}" for stem in self.table_stems for form in ("tex", "html", "json")]
        return files + [f"{stem}.{form}" for stem in self.figure_stems for form in ("pdf", "png")]

    @model_validator(mode="after")
    def _consistent(self) -> Experiments:
        names = [table.name for table in self.all_tables] + [pair.name for pair in self.anomalies]
        if len(set(names)) < len(names):
            raise ValueError(f"names of tables, semi_supervised and anomaly pairs must differ, got {names}")
        if not self.runs and (self.figures or not self.semi_supervised):
            raise ValueError("runs is empty: a set needs runs or semi_supervised, and runs for figures")
        if self.device == "cpu" and '"precision":"tf32"' in self.model_dump_json():
            raise ValueError("precision: tf32 is a mode of NVIDIA GPUs, but device is cpu; use fp32 or bf16")
        for pair in self.anomalies:
            if pair.normal not in {group.dataset for group in self.runs}:
                raise ValueError(f"anomaly pair {pair.name!r} is about dataset {pair.normal!r}, which no run uses")
            on_normal = {group.model for group in self.runs if group.dataset == pair.normal}
            if unknown := set(pair.models or ()) - on_normal:
                raise ValueError(
                    f"anomaly pair {pair.name!r} names models {sorted(unknown)}, of which no run is on {pair.normal!r}"
                )
        runs = [(g.dataset, g.architecture, g.model, s) for g in self.runs for s in g.seeds]
        if len(set(runs)) < len(runs):
            raise ValueError("the same run (dataset, architecture, model, seed) is listed twice")
        if self.finetuning:
            self._check_finetuning(self.finetuning)
        self._check_semi_supervised()
        for table in self.tables:
            if table.dataset not in {group.dataset for group in self.runs}:
                raise ValueError(f"table {table.name!r} is of dataset {table.dataset!r}, which no run uses")
            if missing := set(table.k) - set(self.evaluation.importance_samples):
                raise ValueError(
                    f"table {table.name!r} wants K={sorted(missing)}, not in evaluation.importance_samples"
                )
        return self

    @property
    def all_tables(self) -> tuple[Table, ...]:
        """Tables of likelihood bounds, then those of test errors."""
        return (*self.tables, *self.semi_supervised)

    def _check_finetuning(self, finetuning: Finetuning) -> None:
        if finetuning.training.free_bits != 0:
            raise ValueError(f"finetuning.training.free_bits must be 0, got {finetuning.training.free_bits}")
        if finetuning.training.protocol != self.training.protocol:
            raise ValueError(f"finetuning.training.protocol must be that of training, {self.training.protocol}")
        if missing := set(finetuning.models) - {group.model for group in self.runs}:
            raise ValueError(f"finetuning.models names {sorted(missing)}, of which the set has no run")

    def _check_semi_supervised(self) -> None:
        runs = [
            (entry.dataset, entry.architecture, entry.labels, s) for entry in self.semi_supervised for s in entry.seeds
        ]
        if len(set(runs)) < len(runs):
            raise ValueError("the same semi_supervised run (dataset, architecture, labels, seed) is listed twice")
        for entry in self.semi_supervised:
            training = entry.training or self.training
            if training.patience is not None:
                raise ValueError(
                    f"semi_supervised {entry.name!r} has training.patience: {training.patience}; it must be null, so "
                    "that both networks get max_updates"
                )
            if training.accumulate > 1:
                raise ValueError(
                    f"semi_supervised {entry.name!r} has training.accumulate: {training.accumulate}; it must be 1: "
                    "a batch with labels is not cut into pieces"
                )


class Collection(Strict):
    """`config/experiments/NAME.yaml` that stands for several experiment sets, such as everything in the paper."""

    description: str = Field(description="One line for people.")
    sets: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        description="Experiment sets: files in config/experiments/, without .yaml; not collections."
    )

    @model_validator(mode="after")
    def _distinct(self) -> Collection:
        if len(set(self.sets)) < len(self.sets):
            raise ValueError(f"a set is listed twice in {list(self.sets)}")
        return self
