"""Configuration files: what they refuse and how they say it; the shipped ones; the generated schemas."""

from __future__ import annotations

import difflib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from biva.config import (
    MainConfig,
    find_dataset,
    find_run,
    find_table,
    load_architecture,
    load_datasets,
    load_experiments,
    load_main,
    load_sets,
    parse,
    resolve_runs,
)
from biva.errors import UserError
from biva.schemas import schemas, write_schemas

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "workflow" / "schemas"

Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of config/ that a test may spoil."""
    return shutil.copytree(ROOT / "config", tmp_path / "config")


def spoil(config: Path, edit: Edit, name: str = "experiments/quick.yaml") -> Path:
    path = config / name
    content = yaml.safe_load(path.read_text())
    edit(content)
    path.write_text(yaml.safe_dump(content))
    return path


def set_key(*keys: Any, value: Any) -> Edit:
    def edit(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edit


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (set_key("figurs", value=["samples"]), ["figurs", "unknown key", "['samples']", "figures"]),
        (set_key("training", "batchsize", value=7), ["training.batchsize", "unknown key", "7", "batch_size"]),
        (set_key("runs", 0, "modle", value="vae"), ["runs.0.modle", "unknown key", "'vae'", "model"]),
        (set_key("training", "batch_size", value=0), ["training.batch_size", "greater than or equal to 1", "0"]),
        (set_key("training", "batch_size", value="many"), ["training.batch_size", "integer", "'many'"]),
        (set_key("training", "protocol", value="dirty"), ["training.protocol", "'paper' or 'clean'", "'dirty'"]),
        (set_key("runs", 1, "model", value="gan"), ["runs.1.model", "'lvae_plus'", "'gan'"]),
        (set_key("device", value="tpu"), ["device", "'cpu', 'cuda' or 'auto'", "'tpu'"]),
        (set_key("figures", value=["sample"]), ["figures.0", "'samples'", "'sample'"]),
        (set_key("runs", 0, "dataset", value="../x"), ["runs.0.dataset", "^[a-z0-9_]+$", "'../x'"]),
        (set_key("runs", 0, "seeds", value=[]), ["runs.0.seeds", "at least 1 item"]),
        (set_key("runs", value=[]), ["runs is empty", "runs for figures"]),
        (
            set_key("training", "accumulate", value=5),
            ["training", "batch_size must be a multiple of accumulate, got 48 and 5"],
        ),
        (
            set_key("semi_supervised", 0, "training", "accumulate", value=2),
            ["has training.accumulate: 2; it must be 1"],
        ),
        (set_key("semi_supervised", 0, "label_batch_size", value=51), ["label_batch_size is 51", "only 50 labels"]),
        (set_key("semi_supervised", 0, "training", "patience", value=3), ["training.patience: 3", "must be null"]),
        (set_key("semi_supervised", 0, "training", value=None), ["training.patience: 6", "must be null"]),
        (set_key("semi_supervised", 0, "name", value="likelihood"), ["names of tables", "must differ"]),
        (set_key("semi_supervised", 0, "seeds", value=[1, 1]), ["semi_supervised run", "listed twice"]),
        (set_key("semi_supervised", 0, "dataset", value="svhn"), ["semi_supervised.0.dataset", "'svhn' has no train"]),
        (set_key("semi_supervised", 0, "labels", value=0), ["semi_supervised.0.labels", "greater than or equal to 1"]),
        (set_key("evaluation", "importance_samples", value=[0, 1]), ["evaluation", "at least 1"]),
        (set_key("tables", 0, "k", value=[7]), ["K=[7]", "importance_samples"]),
        (set_key("tables", 0, "dataset", value="mnist_static"), ["'mnist_static'", "no run uses"]),
        (lambda content: content["tables"].append(content["tables"][0]), ["names of tables", "must differ"]),
        (lambda content: content["runs"].append(content["runs"][0]), ["listed twice"]),
        (lambda content: content.pop("device"), ["device", "missing"]),
        (lambda content: content["training"].pop("max_updates"), ["training.max_updates", "missing"]),
        (
            set_key("runs", 0, "dataset", value="minst"),
            ["runs.0.dataset", "'minst'", "digits, fashion_mnist, imagenet32"],
        ),
        (
            set_key("runs", 0, "dataset", value="imagenet32"),
            ["runs.0.dataset", "no valid split", "it has: train, test"],
        ),
        (set_key("runs", 0, "dataset", value="svhn"), ["'svhn' has no train and no valid split", "clean needs"]),
        (set_key("runs", 0, "architecture", value="biva_28x28"), ["runs.0.architecture", "(1, 28, 28)", "(1, 8, 8)"]),
    ],
)
def test_a_wrong_experiment_file_is_refused_with_file_key_value_and_what_is_allowed(
    config: Path, edit: Edit, said: list[str]
) -> None:
    path = spoil(config, edit)
    with pytest.raises(UserError) as caught:
        load_experiments("quick", config)
    for part in [str(path), *said]:
        assert part in str(caught.value)


def test_every_mistake_is_told_at_once(config: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["device"] = "tpu"
        content["training"]["batchsize"] = 7
        del content["threads"]

    spoil(config, edit)
    with pytest.raises(UserError) as caught:
        load_experiments("quick", config)
    assert all(f"- {key}:" in str(caught.value) for key in ("device", "training.batchsize", "threads"))


@pytest.mark.parametrize(
    ("load", "path", "known"),
    [
        (lambda folder: load_experiments("nope", folder), "experiments/nope.yaml", "quick"),
        (lambda folder: load_architecture("nope", folder), "architectures/nope.yaml", "biva_28x28"),
    ],
)
def test_a_missing_file_is_named_with_those_there_are(
    config: Path, load: Callable[[Path], Any], path: str, known: str
) -> None:
    with pytest.raises(UserError) as caught:
        load(config)
    assert str(config / path) in str(caught.value)
    assert known in str(caught.value)


def test_an_architecture_that_an_experiment_names_must_exist(config: Path) -> None:
    spoil(config, set_key("runs", 0, "architecture", value="nope"))
    with pytest.raises(UserError, match=r"architectures/nope\.yaml does not exist"):
        load_experiments("quick", config)


@pytest.mark.parametrize("content", ["runs: [1, 2", "- a\n- list\n", "", "\x00"])
def test_what_is_no_yaml_mapping_is_refused_by_name(config: Path, content: str) -> None:
    (config / "experiments" / "quick.yaml").write_text(content)
    with pytest.raises(UserError, match=r"quick\.yaml is not valid"):
        load_experiments("quick", config)


def test_the_main_configuration_refuses_unknown_keys(config: Path) -> None:
    path = spoil(config, set_key("experiment", value="quick"), "config.yaml")
    with pytest.raises(UserError) as caught:
        load_main(config)
    message = str(caught.value)
    assert str(path) in message
    assert (
        "experiment: unknown key with value 'quick'; allowed here: data_mirror, evaluation_jobs, experiments" in message
    )


@pytest.mark.parametrize("name", ["../quick", "Quick", "a/b", "", 3])
def test_the_name_of_an_experiment_set_is_no_path(name: object) -> None:
    with pytest.raises(UserError, match="experiments"):
        parse(MainConfig, {"experiments": name}, "config.yaml")


@pytest.mark.parametrize(
    ("find", "asked", "known"),
    [
        (
            lambda: find_run("quick", "digits/digits_8x8/biva/seed99", ROOT / "config"),
            "seed99",
            "digits/digits_8x8/biva/seed1",
        ),
        (lambda: find_table("quick", "nope", ROOT / "config"), "nope", "likelihood"),
        (lambda: find_dataset("nope", ROOT / "config"), "nope", "digits, photo_patches, mnist_static"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(find: Callable[[], Any], asked: str, known: str) -> None:
    with pytest.raises(UserError) as caught:
        find()
    assert asked in str(caught.value)
    assert known in str(caught.value)


def with_finetuning(**changes: Any) -> Edit:
    """Fine-tune the BIVA runs of a set, with wrong settings."""

    def edit(content: dict[str, Any]) -> None:
        training = content["training"] | {"free_bits": 0} | changes.get("training", {})
        content["finetuning"] = {"models": ["biva"]} | changes | {"training": training}

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (with_finetuning(training={"free_bits": 1}), ["finetuning.training.free_bits must be 0, got 1"]),
        (with_finetuning(training={"protocol": "paper"}), ["protocol must be that of training, clean"]),
        (with_finetuning(models=[]), ["finetuning.models", "at least 1 item"]),
        (with_finetuning(models=["gan"]), ["finetuning.models.0", "'lvae_plus'", "'gan'"]),
        (with_finetuning(seeds=[1]), ["finetuning.seeds: unknown key", "models, training"]),
        (
            lambda content: (with_finetuning()(content), content["runs"].pop()),
            ["finetuning.models names ['biva'], of which the set has no run"],
        ),
    ],
)
def test_wrong_fine_tuning_is_refused(config: Path, edit: Edit, said: list[str]) -> None:
    path = spoil(config, edit)
    with pytest.raises(UserError) as caught:
        load_experiments("quick", config)
    for part in [str(path), *said]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([], "at least 1 item"),
        (["biva", "vae"], r"anomaly pair 'mnist' names models \['vae'\], of which no run is on 'fashion_mnist'"),
    ],
)
def test_an_anomaly_pair_names_models_that_are_run(config: Path, models: list[str], said: str) -> None:
    spoil(config, set_key("anomalies", 0, "models", value=models), "experiments/fashion_anomaly_small.yaml")
    with pytest.raises(UserError, match=said):
        load_experiments("fashion_anomaly_small", config)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"description": "none", "sets": []}, "sets: .*at least 1 item"),
        ({"description": "twice", "sets": ["quick", "quick"]}, "a set is listed twice"),
        ({"description": "more", "sets": ["quick"], "runs": []}, "runs: unknown key .*allowed here: description, sets"),
    ],
)
def test_a_wrong_collection_is_refused(config: Path, content: dict[str, Any], said: str) -> None:
    (config / "experiments" / "some.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=rf"(?s)some\.yaml is not valid.*{said}"):
        load_sets("some", config)


def test_a_collection_is_no_experiment_set(config: Path) -> None:
    with pytest.raises(UserError, match=r"'paper' is a collection of experiment sets\. Name one of them: static_"):
        load_experiments("paper", config)


# --------------------------------------------------------------------------------------------- what a run consists of


def test_a_fine_tuned_run_follows_its_parent_and_changes_nothing_of_it(config: Path) -> None:
    before = resolve_runs("quick", load_experiments("quick", config), config)
    spoil(config, with_finetuning(training={"learning_rate": 1e-4}))
    runs = resolve_runs("quick", load_experiments("quick", config), config)
    of_biva = [run for run in runs if run.model == "biva" and run.labels is None]
    assert [run.name.split("/", 2)[2] for run in of_biva] == [
        "biva/seed1", "biva_finetuned/seed1", "biva/seed2", "biva_finetuned/seed2",
    ]  # fmt: skip
    assert [run for run in runs if not run.finetunes] == before
    parent, child = of_biva[-2:]
    assert (child.variant, child.parent_name, child.finetunes) == ("biva_finetuned", parent.name, parent.digest)
    assert (child.training.free_bits, child.training.learning_rate) == (0, 1e-4)
    assert find_run("quick", child.name, config) == child
    spoil(config, set_key("training", "batch_size", value=7))
    assert find_run("quick", child.name, config).digest != child.digest


def test_runs_are_named_by_what_they_are() -> None:
    names = [run.name for run in resolve_runs("quick", load_experiments("quick", ROOT / "config"), ROOT / "config")]
    assert len(names) == len(set(names)) == 8 + 10
    assert names[0] == "digits/digits_8x8/vae/seed1"
    assert names[8] == "digits/digits_8x8/biva_50_labels/seed1"
    assert names[13] == "digits/digits_8x8/classifier_50_labels/seed1"
    assert find_run("quick", names[-1], ROOT / "config").name == names[-1]


@pytest.mark.parametrize(
    "edit",
    [
        set_key("training", "batch_size", value=7),
        set_key("training", "learning_rate", value=0.5),
        set_key("training", "free_bits", value=0.5),
        set_key("training", "patience", value=3),
        set_key("training", "protocol", value="paper"),
        set_key("threads", value=2),
        set_key("device", value="auto"),
        set_key("training", "precision", value="bf16"),
        set_key("training", "compiled", value=True),
        set_key("training", "accumulate", value=2),
    ],
)
def test_the_digest_changes_with_what_changes_the_weights(config: Path, edit: Edit) -> None:
    before = find_run("quick", "digits/digits_8x8/biva/seed1", config).digest
    spoil(config, edit)
    assert find_run("quick", "digits/digits_8x8/biva/seed1", config).digest != before


@pytest.mark.parametrize(
    "edit",
    [
        set_key("training", "checkpoint_seconds", value=5),
        set_key("evaluation", "prior_samples", value=3),
        set_key("figures", value=[]),
        set_key("tables", value=[]),
        set_key("description", value="other words"),
    ],
)
def test_the_digest_does_not_change_with_what_cannot_change_the_weights(config: Path, edit: Edit) -> None:
    before = find_run("quick", "digits/digits_8x8/biva/seed1", config).digest
    spoil(config, edit)
    assert find_run("quick", "digits/digits_8x8/biva/seed1", config).digest == before


def test_the_weight_of_labels_is_no_setting_of_the_supervised_network(config: Path) -> None:
    names = [f"digits/digits_8x8/{model}_50_labels/seed1" for model in ("biva", "classifier")]
    before = [find_run("quick", name, config).digest for name in names]
    spoil(config, set_key("semi_supervised", 0, "label_weight", value=3))
    after = [find_run("quick", name, config).digest for name in names]
    assert before[0] != after[0]
    assert before[1] == after[1]


# ------------------------------------------------------------------------------------------------- the shipped files

SHIPPED = [
    ("config", ROOT / "config" / "config.yaml"),
    ("datasets", ROOT / "config" / "datasets.yaml"),
    *(
        ("collection" if "\nsets:" in path.read_text() else "experiments", path)
        for path in sorted((ROOT / "config" / "experiments").glob("*.yaml"))
    ),
    *(("architecture", path) for path in sorted((ROOT / "config" / "architectures").glob("*.yaml"))),
]


@pytest.mark.parametrize(("kind", "path"), SHIPPED, ids=[path.stem for _, path in SHIPPED])
def test_every_shipped_file_is_valid(kind: str, path: Path) -> None:
    """By the JSON schema in the repository, and by loading it."""
    schema = json.loads((SCHEMAS / f"{kind}.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    if kind == "experiments":
        assert resolve_runs(path.stem, load_experiments(path.stem, ROOT / "config"), ROOT / "config")
    elif kind == "collection":
        assert all(load_sets(name, ROOT / "config") == (name,) for name in load_sets(path.stem, ROOT / "config"))
    elif kind == "architecture":
        assert load_architecture(path.stem, ROOT / "config").stages
    elif kind == "datasets":
        assert {"digits", "mnist_static", "mnist_dynamic"} <= load_datasets(ROOT / "config").keys()
    else:
        load_experiments(load_main(ROOT / "config").experiments, ROOT / "config")


def test_static_mnist_has_the_paper_training_settings() -> None:
    """paper.md, section 4, binary 28x28 with the batch of [PT]."""
    training = load_experiments("static_mnist", ROOT / "config").training
    assert (training.protocol, training.batch_size, training.free_bits) == ("paper", 48, 2.0)
    assert (training.learning_rate, training.learning_rate_decay, training.learning_rate_minimum) == (
        2e-3,
        0.999999,
        1e-4,
    )
    assert (training.betas, training.ema_decay) == ((0.9, 0.999), 0.9995)


# ------------------------------------------------------------------------------------------------------- the schemas


@pytest.mark.parametrize("name", sorted(schemas()))
def test_the_schemas_in_the_repository_are_those_of_the_models(name: str) -> None:
    path = SCHEMAS / name
    there = path.read_text().splitlines() if path.is_file() else []
    drift = list(difflib.unified_diff(there, schemas()[name].splitlines(), str(path), "biva/config.py", lineterm=""))
    assert not drift, "run `biva schema`; the models and the schema differ:\n" + "\n".join(drift)


def test_no_schema_is_left_over(tmp_path: Path) -> None:
    written = {path.name for path in write_schemas(tmp_path)}
    assert written == {path.name for path in tmp_path.iterdir()} == {path.name for path in SCHEMAS.iterdir()}


@pytest.mark.parametrize("content", [{"experiments": "quick", "extra": 1}, {}, {"experiments": "../quick"}])
def test_the_schema_refuses_what_the_model_refuses(content: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        parse(MainConfig, content, "config.yaml")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json.loads((SCHEMAS / "config.schema.json").read_text()))
