"""Every configuration file of the project as a pydantic model.

The JSON schemas under `workflow/schemas/` are generated from these models (`biva schema`), so a key is written down
once. Loading refuses what it does not know and names file, key, value and what is allowed.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from biva.errors import UserError
from biva.models.architectures import Architecture, ModelName, Shape

CONFIG_FOLDER = Path("config")

FINETUNED = "_finetuned"

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=100)]
Device = Literal["cpu", "cuda", "auto"]
Precision = Literal["fp32", "tf32", "bf16"]
Protocol = Literal["paper", "clean"]
PROTOCOL_SPLITS: dict[Protocol, tuple[str, ...]] = {"paper": ("train", "test"), "clean": ("train", "valid", "test")}
"""Splits that a dataset must have to be trained on; `paper` trains on valid too where there is one."""

FigureName = Literal[
    "learning_curves",
    "bound_over_time",
    "latents_over_training",
    "bound_against_k",
    "kl_per_layer",
    "samples",
    "temperatures",
    "reconstructions",
    "layers",
    "interpolations",
]


class Strict(BaseModel):
    """Unknown keys are errors, and so are numbers that are not finite; values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# ---------------------------------------------------------------------------------------------- config/config.yaml


class MainConfig(Strict):
    """`config/config.yaml`: what runs, and where data may be found."""

    experiments: Name = Field(
        description="A file in config/experiments/, without .yaml: an experiment set or a collection of sets."
    )
    data_mirror: str | None = Field(
        default=None,
        pattern=r"^[^\x00-\x1f]*$",
        description="Folder or https address that is tried before the official sources; BIVA_DATA_MIRROR overrides it.",
    )
    evaluation_jobs: int = Field(
        default=1, ge=1, description="Jobs that share the evaluation of a run's bounds; changes no result."
    )


# -------------------------------------------------------------------------------------- config/experiments/*.yaml


class RunGroup(Strict):
    """One model on one dataset, once per seed."""

    dataset: Name = Field(description="An entry of config/datasets.yaml.")
    architecture: Name = Field(description="A file in config/architectures/, without .yaml.")
    model: ModelName = Field(description="How the posterior is inferred.")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, description="One run per seed.")]


class Training(Strict):
    """Training by paper.md section 4."""

    protocol: Protocol = Field(
        description="paper: train on train+valid, select the best evaluation on test, as the authors did. "
        "clean: train on train, select on valid; test is touched once."
    )
    batch_size: int = Field(ge=1, description="Images per update.")
    max_updates: int = Field(ge=1, description="Training ends here at the latest.")
    minutes: float | None = Field(
        default=None,
        gt=0,
        description="Training ends after so many, over all attempts. The learning rate then follows the clock: it "
        "rises for the first 2% and falls to 0 in the last 30%. Does not repeat bit for bit. null: no limit.",
    )
    evaluate_every: int = Field(ge=1, description="Updates between two evaluations on the selection split.")
    selection_images: int | None = Field(
        default=None, ge=1, description="First images of the selection split only; null: all."
    )
    patience: int | None = Field(
        default=None, ge=1, description="Evaluations without a new best after which training stops; null: never."
    )
    learning_rate: float = Field(default=2e-3, gt=0, description="Adamax, first update.")
    learning_rate_decay: float = Field(default=0.999999, gt=0, le=1, description="Factor per update.")
    learning_rate_minimum: float = Field(default=1e-4, ge=0, description="It does not decay below.")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.999), description="Adamax."
    )
    ema_decay: float = Field(default=0.9995, ge=0, lt=1, description="Exponential moving average of the weights.")
    free_bits: float = Field(default=2.0, ge=0, description="Nats per latent group and example; training only.")
    precision: Precision = Field(
        default="fp32",
        description="Of convolutions and matrix products; latents, likelihood and KL are float32. tf32: NVIDIA GPUs.",
    )
    accumulate: int = Field(
        default=1, ge=1, description="Pieces of equal size that a batch goes through in, to save memory: one update."
    )
    compiled: bool = Field(default=False, description="Compile the model (torch.compile); on GPUs only.")
    checkpoint_seconds: float = Field(default=60, ge=0, description="A kill loses at most this much training.")
    max_skipped_updates: int = Field(
        default=10,
        ge=1,
        description="A batch whose loss or gradient is not finite is skipped; after so many in a row training stops.",
    )

    @model_validator(mode="after")
    def _pieces_are_equal(self) -> Training:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate, got {self.batch_size} and {self.accumulate}"
            )
        return self

    @model_validator(mode="after")
    def _one_schedule(self) -> Training:
        names = ("learning_rate_decay", "learning_rate_minimum")
        unused = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
        if self.minutes is not None and unused:
            raise ValueError(f"with minutes the learning rate falls by the clock: leave out {' and '.join(unused)}")
        return self


class Finetuning(Strict):
    """Training on from a run's selected weights without free bits (paper.md section 4): a run of its own."""

    models: Annotated[tuple[ModelName, ...], Field(min_length=1)] = Field(
        description="The runs of these models are fine-tuned."
    )
    training: Training = Field(description="As for any run; free_bits must be 0.")


class SemiSupervised(Strict):
    """BIVA with a few labels, beside a supervised network of its size that has the labels alone (paper.md section 5).

    Both are runs like any other, one per seed, with a table of their test errors.
    """

    name: Name = Field(description="File name of the table, without .tex.")
    dataset: Name = Field(description="An entry of config/datasets.yaml that has labels.")
    architecture: Name = Field(description="A file in config/architectures/, without .yaml.")
    labels: int = Field(
        ge=1, description="Training images with a label: the same number of every class, drawn anew for every seed."
    )
    label_batch_size: int = Field(
        ge=1,
        description="Labelled images per update, at most `labels`; training.batch_size counts the unlabelled ones.",
    )
    label_weight: float = Field(ge=0, description="alpha, the weight of -log q(y | x) at the labels.")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, description="Two runs per seed.")]
    training: Training | None = Field(
        default=None, description="null: that of the experiment set. patience must be null: both get max_updates."
    )
    paper_table: Name | None = Field(default=None, description="`table` of config/paper_results.csv; null: none.")

    @model_validator(mode="after")
    def _labels_fill_a_batch(self) -> SemiSupervised:
        if self.label_batch_size > self.labels:
            raise ValueError(f"label_batch_size is {self.label_batch_size}, but there are only {self.labels} labels")
        return self

    def includes(self, run: RunConfig) -> bool:
        """Whether the table shows this run."""
        if run.labels is None or run.labels.count != self.labels:
            return False
        return (run.dataset, run.architecture_name) == (self.dataset, self.architecture)


class Evaluation(Strict):
    """Importance-weighted evaluation of the selected weights on the test split."""

    importance_samples: Annotated[tuple[int, ...], Field(min_length=1)] = Field(
        description="Every K to report; all come from the samples of the largest."
    )
    max_images: int | None = Field(default=None, ge=1, description="First images of the test split only; null: all.")
    precision: Precision = Field(
        default="fp32",
        description="Of convolutions and matrix products behind the bounds. Other than fp32: refused where it changes "
        "a bound by 0.01 nats (colour images: 0.001 bits/dim) or more.",
    )
    memory_budget_mb: int | None = Field(
        default=None,
        ge=16,
        description="MiB for one chunk of importance samples; null: up to 256 on a CPU and 8192 on a GPU, if they are "
        "free.",
    )
    prior_samples: int = Field(default=64, ge=1, description="Images drawn from the prior.")
    temperatures: Annotated[tuple[Annotated[float, Field(ge=0, le=2)], ...], Field(min_length=1)] = Field(
        default=(1.0, 0.9, 0.8, 0.7, 0.6),
        description="Factors on the prior's standard deviations; a few images are drawn at each.",
    )

    @model_validator(mode="after")
    def _positive(self) -> Evaluation:
        if min(self.importance_samples) < 1:
            raise ValueError("every K in importance_samples must be at least 1")
        return self


class AnomalyPair(Strict):
    """Models trained on one dataset score the test images of another (paper.md section 5)."""

    name: Name = Field(description="File name of the pair's records, table and figure.")
    normal: Name = Field(description="Dataset that runs of this set train on.")
    anomalous: Name = Field(description="Dataset whose test images are the anomalies; same shape and levels.")
    models: Annotated[tuple[ModelName, ...], Field(min_length=1)] | None = Field(
        default=None, exclude=True, description="The runs of these models score; null: all. Changes no score."
    )
    importance_samples: int = Field(ge=1, description="K of L^{>k}, for every k.")
    max_images: int | None = Field(default=None, ge=1, description="First images of either test split only; null: all.")

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
    figures: tuple[FigureName, ...] = Field(default=(), description="See config/README.md, which shows what is what.")

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

    @model_validator(mode="after")
    def _consistent(self) -> Experiments:
        names = [table.name for table in self.all_tables] + [pair.name for pair in self.anomalies]
        if len(set(names)) < len(names):
            raise ValueError(f"names of tables, semi_supervised and anomaly pairs must differ, got {names}")
        if not self.runs and (self.figures or not self.semi_supervised):
            raise ValueError("runs is empty: a set needs runs or semi_supervised, and runs for figures")
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


# ---------------------------------------------------------------------------------------------- config/datasets.yaml


class RawFile(Strict):
    """One file of a dataset as its publisher offers it."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$", description="Official file name; a mirror may add .gz."
    )
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="Of the decompressed content; of a .tar.gz, as it is."
    )
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$", description="Where no SHA-256 is published.")
    bytes: int = Field(ge=1, description="Size of the same; under trust: first_use, the most that is accepted.")
    trust: Literal["published", "first_use"] = Field(
        default="published",
        description="published: the content must have the published digest. first_use: it is recorded when it first "
        "arrives, compared with the published digest for information, and may not change afterwards.",
    )

    @model_validator(mode="after")
    def _known_digest(self) -> RawFile:
        if self.sha256 and self.md5:
            raise ValueError("give sha256 or md5, not both")
        if self.trust == "published" and not (self.sha256 or self.md5):
            raise ValueError("give the published sha256 or md5, or trust: first_use where none is known")
        return self

    @property
    def published(self) -> str:
        """The published digest, for messages."""
        if self.sha256:
            return f"SHA-256 {self.sha256}"
        return f"MD5 {self.md5}" if self.md5 else "none is known"


Reader = Literal[
    "digits",
    "amat",
    "idx",
    "omniglot_mat",
    "omniglot_png",
    "cifar",
    "svhn_mat",
    "imagenet_png",
    "imagenet_npz",
    "celeba",
    "photo_patches",
]
"""Functions of `biva.data.archives`."""

_FUNCTION = r"^[A-Za-z0-9_.]+:[A-Za-z0-9_]+$"


class DatasetConfig(Strict):
    """One entry of `config/datasets.yaml`."""

    title: str = Field(description="What it is, for people.")
    reader: str = Field(
        description="Function of biva.data.archives that reads the files, or MODULE:FUNCTION for one of your own.",
        json_schema_extra={"anyOf": [{"enum": list(get_args(Reader))}, {"pattern": _FUNCTION}]},
    )
    shape: Shape = Field(description="Channels, height, width.")
    levels: int = Field(ge=2, le=256, description="Grey levels per channel, 0 .. levels-1.")
    binarisation: Literal["none", "static", "dynamic"] = Field(
        description="none: levels to [-1, 1]. static: already 0/1. dynamic: Bernoulli(level / (levels-1)), redrawn."
    )
    splits: Annotated[dict[Literal["train", "valid", "test"], Annotated[int, Field(ge=1)]], Field(min_length=1)] = (
        Field(description="Images per split; a dataset may lack train or valid.")
    )
    files: Annotated[tuple[RawFile, ...], Field(min_length=1)] = Field(description="In the order of the reader.")
    folder: Name = Field(description="Subfolder of a mirror that holds the files.")
    sources: tuple[str, ...] = Field(
        description="Tried in order after the mirror: http(s) addresses, or package:NAME for files that a package has."
    )
    homepage: str | None = Field(default=None, description="Where a person gets the files that no source gives.")
    paper: str = Field(default="not in the paper", description="How results on it compare with the paper's.")
    licence: str = Field(description="Of the data.")
    citation: str = Field(description="Whom to cite for the data.")

    @field_validator("reader")
    @classmethod
    def _known_reader(cls, reader: str) -> str:
        if reader not in get_args(Reader) and not re.match(_FUNCTION, reader):
            raise ValueError(f"expected one of {', '.join(get_args(Reader))}, or MODULE:FUNCTION")
        return reader


class Datasets(Strict):
    """`config/datasets.yaml`."""

    datasets: dict[Name, DatasetConfig] = Field(description="Name of the dataset and its entry.")


# ------------------------------------------------------------------------------------------------------ one run


class Labels(Strict):
    """The labels that a run learns from."""

    count: int = Field(description="Class-balanced, drawn by the run's seed.")
    batch_size: int
    weight: float | None = Field(description="alpha; null: labels are all that the run learns from.")


_SINCE_THE_FIRST_RUNS = {
    "labels": None,
    "finetunes": None,
    "precision": "fp32",
    "compiled": False,
    "accumulate": 1,
    "minutes": None,
}
"""Settings that came later, and the values at which a run is what it was without them: its digest stays the same."""


class RunConfig(Strict):
    """All that decides what one run produces, resolved from the files above; recorded in the run's folder."""

    experiments: Name
    dataset: Name
    model: ModelName | Literal["classifier"]
    architecture_name: Name
    seed: int
    device: Device
    threads: int
    architecture: Architecture
    training: Training
    finetunes: str | None = Field(
        default=None, description="Digest of the run from whose selected weights this one goes on without free bits."
    )
    labels: Labels | None = Field(default=None, description="null: the run learns from images alone.")

    @property
    def variant(self) -> str:
        """The model and what is special about its training; the model's name in paths, tables and figures."""
        if self.labels:
            return f"{self.model}_{self.labels.count}_labels"
        return f"{self.model}{FINETUNED}" if self.finetunes else self.model

    @property
    def name(self) -> str:
        """Path of the run below `results/EXPERIMENTS/runs/`."""
        return self._name_of(self.variant)

    @property
    def parent_name(self) -> str | None:
        """`name` of the run that this one fine-tunes."""
        return self._name_of(self.model) if self.finetunes else None

    def _name_of(self, variant: str) -> str:
        return f"{self.dataset}/{self.architecture_name}/{variant}/seed{self.seed}"

    @property
    def digest(self) -> str:
        """Hash of everything that changes the trained weights: no names, no texts, not when we save or give up."""
        irrelevant: dict[str, Any] = {
            "experiments": True,
            "architecture_name": True,
            "architecture": {"description"},
            "training": {"checkpoint_seconds", "max_skipped_updates"},
        }
        content = self.model_dump(mode="json", exclude=irrelevant)
        for settings in (content, content["training"]):
            for name, default in _SINCE_THE_FIRST_RUNS.items():
                if name in settings and settings[name] == default:
                    del settings[name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def resolve_runs(experiments_name: str, experiments: Experiments, folder: Path = CONFIG_FOLDER) -> list[RunConfig]:
    """All runs of an experiment set, in the file's order, each followed by its fine-tuning, if any."""
    names = {group.architecture for group in experiments.runs} | {s.architecture for s in experiments.semi_supervised}
    architectures = {name: load_architecture(name, folder) for name in names}
    runs = [
        RunConfig(
            experiments=experiments_name,
            dataset=group.dataset,
            model=group.model,
            architecture_name=group.architecture,
            seed=seed,
            device=experiments.device,
            threads=experiments.threads,
            architecture=architectures[group.architecture],
            training=experiments.training,
        )
        for group in experiments.runs
        for seed in group.seeds
    ]
    if finetuning := experiments.finetuning:
        finetuned = {"training": finetuning.training}
        runs = [
            variant
            for run in runs
            for variant in (run, run.model_copy(update=finetuned | {"finetunes": run.digest}))
            if variant is run or run.model in finetuning.models
        ]
    return runs + [
        RunConfig(
            experiments=experiments_name,
            dataset=entry.dataset,
            model=model,
            architecture_name=entry.architecture,
            seed=seed,
            device=experiments.device,
            threads=experiments.threads,
            architecture=architectures[entry.architecture],
            training=entry.training or experiments.training,
            labels=Labels(count=entry.labels, batch_size=entry.label_batch_size, weight=weight),
        )
        for entry in experiments.semi_supervised
        for model, weight in (("biva", entry.label_weight), ("classifier", None))
        for seed in entry.seeds
    ]


# ------------------------------------------------------------------------------------------------------ loading

Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], content: Any, where: str | Path) -> Model:
    """Validate `content` as `model`.

    Raises:
        UserError: a line per wrong key, with its path, its value and what is allowed there.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [_explain(model, issue) for issue in error.errors()]
        raise UserError(f"{where} is not valid:\n" + "\n".join(f"  - {line}" for line in lines)) from None


def _explain(model: type[BaseModel], issue: Any) -> str:
    key = ".".join(str(part) for part in issue["loc"]) or "(the whole file)"
    if issue["type"] == "extra_forbidden":
        allowed = ", ".join(_keys_at(model.model_json_schema(), issue["loc"][:-1]))
        return f"{key}: unknown key with value {_SHOWN.repr(issue['input'])}; allowed here: {allowed}"
    if issue["type"] == "missing":
        return f"{key}: missing, but required"
    return f"{key}: {issue['msg']} (value: {_SHOWN.repr(issue['input'])})"


_SHOWN = reprlib.Repr()
"""Shows as much of a wrong value as a message needs: a few aliases in YAML can stand for more than fits in memory."""
_SHOWN.maxstring = _SHOWN.maxother = 200
_SHOWN.maxlist = _SHOWN.maxdict = 5
_SHOWN.maxlevel = 3


def _keys_at(schema: dict[str, Any], path: tuple[Any, ...]) -> list[str]:
    """Keys that the JSON schema allows at `path`."""
    node = schema
    for part in (None, *path):
        if part is not None:
            node = node.get("properties", {}).get(part) or node.get("items") or node.get("additionalProperties") or {}
        node = next((option for option in node.get("anyOf", []) if "$ref" in option), node)  # a section or null
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return sorted(node.get("properties", {}))


_MOST_BYTES, _MOST_VALUES = 1 << 20, 50_000
"""Of one file; the longest here, datasets.yaml, has some 18,000 and 600."""


class _Loader(yaml.SafeLoader):
    """Plain values only, as many as a person writes: what an alias repeats counts as often as it is repeated.

    A key that a section has twice is refused, where PyYAML would keep the last.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._values = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        before, alias = self._values, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        assert node is not None
        self._values += self._sizes.get(node, 1) if alias else 1
        if self._values > _MOST_VALUES:
            raise yaml.YAMLError(f"more than {_MOST_VALUES:,} values, with those that aliases repeat")
        if not alias:
            self._sizes[node] = self._values - before
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(f"{_SHOWN.repr(key.value)} is there twice, in lines {lines[key.value]} and {line}")
            lines[key.value] = line
        return node

    def construct_yaml_int(self, node: Any) -> int:
        value = super().construct_yaml_int(node)
        if not -(2**63) <= value < 2**63:
            raise yaml.YAMLError(f"a whole number of more than 64 bits{node.start_mark}")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _file(folder: Path, kind: str, name: str) -> Path:
    """Where `name`, a `Name`, is described: nowhere but in the folder."""
    if not re.fullmatch("[a-z0-9_]{1,100}", name):
        raise UserError(
            f"There is no {kind} {_SHOWN.repr(name)}: names in {folder}/ are at most 100 of a-z, 0-9 and _."
        )
    return folder / f"{name}.yaml"


def _read(path: Path, kind: str) -> Any:
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise UserError(f"There is no {kind} {path.stem!r}: {path} does not exist. Known in {path.parent}/: {known}.")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} is longer than {_MOST_BYTES:,} bytes, which is no file of settings.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # PyYAML lets through whatever int(), datetime() and others raise
        raise UserError(f"{path} is not valid YAML: {str(error) or type(error).__name__}") from None


def _load(model: type[Model], path: Path, kind: str) -> Model:
    return parse(model, _read(path, kind), path)


def load_main(folder: Path = CONFIG_FOLDER) -> MainConfig:
    """`config/config.yaml`."""
    return _load(MainConfig, folder / "config.yaml", "configuration")


def load_architecture(name: str, folder: Path = CONFIG_FOLDER) -> Architecture:
    """`config/architectures/NAME.yaml`."""
    return _load(Architecture, _file(folder / "architectures", "architecture", name), "architecture")


def load_sets(name: str, folder: Path = CONFIG_FOLDER) -> tuple[str, ...]:
    """Names of the experiment sets that `config/experiments/NAME.yaml` stands for: its own, or a collection's."""
    path = _file(folder / "experiments", "experiment set", name)
    content = _read(path, "experiment set")
    if isinstance(content, dict) and "sets" in content:
        return parse(Collection, content, path).sets
    return (name,)


def load_experiments(name: str, folder: Path = CONFIG_FOLDER) -> Experiments:
    """`config/experiments/NAME.yaml`, with every dataset and architecture that it names known to exist."""
    path = folder / "experiments" / f"{name}.yaml"
    if (sets := load_sets(name, folder)) != (name,):
        raise UserError(f"{name!r} is a collection of experiment sets. Name one of them: {', '.join(sets)}.")
    experiments = _load(Experiments, path, "experiment set")
    datasets = load_datasets(folder)
    groups: list[tuple[str, RunGroup | SemiSupervised, Training]] = [
        *((f"runs.{n}", group, experiments.training) for n, group in enumerate(experiments.runs)),
        *(
            (f"semi_supervised.{n}", entry, entry.training or experiments.training)
            for n, entry in enumerate(experiments.semi_supervised)
        ),
    ]
    for place, group, training in groups:
        if group.dataset not in datasets:
            raise UserError(
                f"{path} is not valid:\n  - {place}.dataset: unknown dataset {group.dataset!r}; "
                f"allowed: {', '.join(sorted(datasets))}"
            )
        splits = datasets[group.dataset].splits
        if missing := [split for split in PROTOCOL_SPLITS[training.protocol] if split not in splits]:
            raise UserError(
                f"{path} is not valid:\n  - {place}.dataset: {group.dataset!r} has no {' and no '.join(missing)} "
                f"split, which training.protocol: {training.protocol} needs; it has: {', '.join(splits)}"
            )
        shape = load_architecture(group.architecture, folder).input_shape
        if shape != datasets[group.dataset].shape:
            raise UserError(
                f"{path} is not valid:\n  - {place}.architecture: {group.architecture!r} is for images of shape "
                f"{shape}, but dataset {group.dataset!r} has {datasets[group.dataset].shape}"
            )
    for number, pair in enumerate(experiments.anomalies):
        if pair.anomalous not in datasets:
            raise UserError(
                f"{path} is not valid:\n  - anomalies.{number}.anomalous: unknown dataset {pair.anomalous!r}; "
                f"allowed: {', '.join(sorted(datasets))}"
            )
    return experiments


def load_datasets(folder: Path = CONFIG_FOLDER) -> dict[str, DatasetConfig]:
    """`config/datasets.yaml`: dataset name -> entry."""
    return _load(Datasets, folder / "datasets.yaml", "dataset list").datasets


def find_dataset(name: str, folder: Path = CONFIG_FOLDER) -> DatasetConfig:
    """The entry of `config/datasets.yaml` with this name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    datasets = load_datasets(folder)
    if name not in datasets:
        raise UserError(f"There is no dataset {name!r} in {folder / 'datasets.yaml'}. Known: {', '.join(datasets)}.")
    return datasets[name]


def find_run(experiments_name: str, run: str, folder: Path = CONFIG_FOLDER) -> RunConfig:
    """The run `DATASET/ARCHITECTURE/MODEL/seedN` of an experiment set.

    Raises:
        UserError: the set has no such run; the message lists the ones it has.
    """
    runs = resolve_runs(experiments_name, load_experiments(experiments_name, folder), folder)
    for candidate in runs:
        if candidate.name == run:
            return candidate
    known = "\n".join(f"  {candidate.name}" for candidate in runs)
    raise UserError(f"Experiment set {experiments_name!r} has no run {run!r}. Its runs:\n{known}")


def find_anomaly(experiments_name: str, name: str, folder: Path = CONFIG_FOLDER) -> AnomalyPair:
    """The anomaly pair of an experiment set with this name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    return _named(load_experiments(experiments_name, folder).anomalies, experiments_name, name, "anomaly pair")


def find_table(experiments_name: str, name: str, folder: Path = CONFIG_FOLDER) -> Table:
    """The table of an experiment set with this name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    return _named(load_experiments(experiments_name, folder).all_tables, experiments_name, name, "table")


Report = TypeVar("Report", AnomalyPair, Table)


def _named(reports: tuple[Report, ...], experiments_name: str, name: str, kind: str) -> Report:
    for report in reports:
        if report.name == name:
            return report
    known = ", ".join(report.name for report in reports) or "none"
    raise UserError(f"Experiment set {experiments_name!r} has no {kind} {name!r}. Its {kind}s: {known}.")
