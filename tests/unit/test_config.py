"""Configuration files: what they refuse and how they say it; the shipped ones; the generated schemas."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from biva.config import (
    find_dataset,
    find_run,
    find_table,
    load_architecture,
    load_datasets,
    load_experiments,
    load_main,
    load_sets,
    resolve_runs,
)
from biva.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
SCHEMAS = ROOT / "workflow" / "schemas"

Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of config/ that a test may spoil."""
    return shutil.copytree(CONFIG, tmp_path / "config")


def spoil(config: Path, edit: Edit, name: str = "quick") -> Path:
    """Edit an experiment set."""
    path = config / "experiments" / f"{name}.yaml"
    content = yaml.safe_load(path.read_text())
    edit(content)
    path.write_text(yaml.safe_dump(content))
    return path


def put(place: str, value: Any) -> Edit:
    """The edit that sets the value at a place such as `runs.0.dataset`."""

    def edit(content: Any) -> None:
        *parents, last = (int(key) if key.isdigit() else key for key in place.split("."))
        for key in parents:
            content = content[key]
        content[last] = value

    return edit


def with_finetuning(**changes: Any) -> Edit:
    """Fine-tune the BIVA runs of a set, with these settings."""

    def edit(content: dict[str, Any]) -> None:
        training = content["training"] | {"free_bits": 0} | changes.get("training", {})
        content["finetuning"] = {"models": ["biva"]} | changes | {"training": training}

    return edit


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (put("figurs", ["samples"]), ["figurs", "unknown key", "['samples']", "figures"]),
        (put("training.batchsize", 7), ["training.batchsize", "unknown key", "7", "batch_size"]),
        (put("runs.0.modle", "vae"), ["runs.0.modle", "unknown key", "'vae'", "model"]),
        (put("training.batch_size", 0), ["training.batch_size", "greater than or equal to 1", "0"]),
        (put("training.batch_size", "many"), ["training.batch_size", "integer", "'many'"]),
        (put("training.protocol", "dirty"), ["training.protocol", "'paper' or 'clean'", "'dirty'"]),
        (put("figures", ["sample"]), ["figures.0", "'samples'", "'sample'"]),
        (put("runs.0.dataset", "../x"), ["runs.0.dataset", "^[a-z0-9_]+$", "'../x'"]),
        (put("runs.0.seeds", []), ["runs.0.seeds", "at least 1 item"]),
        (put("runs", []), ["runs is empty", "runs for figures"]),
        (put("training.accumulate", 5), ["batch_size must be a multiple of accumulate, got 48 and 5"]),
        (put("semi_supervised.0.training.accumulate", 2), ["has training.accumulate: 2; it must be 1"]),
        (put("semi_supervised.0.label_batch_size", 51), ["label_batch_size is 51", "only 50 labels"]),
        (put("semi_supervised.0.training.patience", 3), ["training.patience: 3", "must be null"]),
        (
            lambda content: (put("training.patience", 6)(content), put("semi_supervised.0.training", None)(content)),
            ["training.patience: 6", "must be null"],
        ),
        (put("semi_supervised.0.name", "likelihood"), ["names of tables", "must differ"]),
        (put("semi_supervised.0.seeds", [1, 1]), ["semi_supervised run", "listed twice"]),
        (put("semi_supervised.0.dataset", "svhn"), ["semi_supervised.0.dataset", "'svhn' has no train"]),
        (put("evaluation.importance_samples", [0, 1]), ["evaluation.importance_samples.0", "equal to 1"]),
        (put("tables.0.k", [7]), ["K=[7]", "importance_samples"]),
        (put("tables.0.k", [1, 1]), ["tables.0.k", "a K is listed twice"]),
        (put("tables.0.paper_table", "statc_mnist"), ["has no table 'statc_mnist' on digits; allowed: null"]),
        (put("semi_supervised.0.paper_table", "semi_supervised"), ["on digits_50_labels; allowed: null"]),
        (put("semi_supervised.0.labels", 55), ["semi_supervised.0.labels", "multiple of 10"]),
        (put("training.batch_size", 1258), ["runs.0: batch_size is 1258, but 'digits' has 1257 images to train on"]),
        (with_finetuning(training={"batch_size": 1258}), ["runs.0: batch_size is 1258, but 'digits' has 1257 images"]),
        (put("anomalies.0.anomalous", "digits"), ["'digits' is the normal dataset itself; allowed: photo_patches"]),
        (put("tables.0.dataset", "mnist_static"), ["'mnist_static'", "no run uses"]),
        (lambda content: content["tables"].append(content["tables"][0]), ["names of tables", "must differ"]),
        (lambda content: content["runs"].append(content["runs"][0]), ["listed twice"]),
        (lambda content: content["training"].pop("max_updates"), ["training.max_updates", "missing"]),
        (put("runs.0.dataset", "minst"), ["runs.0.dataset", "'minst'", "digits, fashion_mnist, imagenet32"]),
        (put("runs.0.dataset", "imagenet32"), ["runs.0.dataset", "no valid split", "it has: train, test"]),
        (put("runs.0.dataset", "svhn"), ["'svhn' has no train and no valid split", "clean needs"]),
        (put("runs.0.architecture", "biva_28x28"), ["runs.0.architecture", "(1, 28, 28)", "(1, 8, 8)"]),
        (put("anomalies.0.models", []), ["anomalies.0.models", "at least 1 item"]),
        (put("anomalies.0.models", ["gan"]), ["anomalies.0.models.0", "'lvae_plus'", "'gan'"]),
        (
            lambda content: (put("anomalies.0.models", ["biva"])(content), content["runs"].pop()),
            ["names models ['biva'], of which no run is on 'digits'"],
        ),
        (put("anomalies.0.anomalous", "minst"), ["anomalous: unknown dataset 'minst'; allowed: photo_patches"]),
        (
            put("anomalies.0.anomalous", "mnist_static"),
            [
                "anomalies.0.anomalous: 'mnist_static' has images of shape (1, 28, 28), binarisation static, but "
                "'digits' has (1, 8, 8), binarisation dynamic; allowed: photo_patches"
            ],
        ),
        *(
            (edit, ["precision: tf32 is a mode of NVIDIA GPUs, but device is cpu; use fp32 or bf16"])
            for edit in (
                put("training.precision", "tf32"),
                put("evaluation.precision", "tf32"),
                put("semi_supervised.0.training.precision", "tf32"),
                with_finetuning(training={"precision": "tf32"}),
            )
        ),
        (put("anomalies.0.below", "mean"), ["anomalies.0.below", "'samples' or 'mode'", "'mean'"]),
        (put("anomalies.0.choose_k_on", "minst"), ["anomalies.0.choose_k_on: unknown dataset 'minst'; allowed: null"]),
        (put("anomalies.0.choose_k_on", "digits"), ["anomalies.0.choose_k_on: 'digits' is one of the pair's own"]),
        (put("anomalies.0.choose_k_on", "photo_patches"), ["'photo_patches' is one of the pair's own datasets"]),
        (
            put("anomalies.0.choose_k_on", "omniglot"),
            ["'omniglot' has images of shape (1, 28, 28), binarisation dynamic, but 'digits' has (1, 8, 8)"],
        ),
        (
            lambda content: (
                put("anomalies.0.choose_k_on", "omniglot")(content),
                put("training.protocol", "paper")(content),
            ),
            ["anomalies.0.choose_k_on: training.protocol: paper trains on the validation images of 'digits'"],
        ),
        (with_finetuning(training={"free_bits": 1}), ["finetuning.training.free_bits must be 0, got 1"]),
        (with_finetuning(training={"protocol": "paper"}), ["protocol must be that of training, clean"]),
        (with_finetuning(models=[]), ["finetuning.models", "at least 1 item"]),
        (with_finetuning(seeds=[1]), ["finetuning.seeds: unknown key", "models, training"]),
        (
            lambda content: (with_finetuning()(content), content["runs"].pop()),
            ["finetuning.models names ['biva'], of which the set has no run"],
        ),
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


def test_images_of_other_levels_are_no_anomalies_of_a_model_of_256(config: Path) -> None:
    path = config / "datasets.yaml"
    content = yaml.safe_load(path.read_text())
    content["datasets"]["svhn"]["levels"] = 17
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"'svhn' has .* none of 17 levels, but 'cifar10' has .* none of 256 levels"):
        load_experiments("cifar10", config)


def test_a_truth_value_is_no_number_of_images(config: Path) -> None:
    path = config / "datasets.yaml"
    path.write_text(path.read_text().replace("valid: 180", "valid: yes", 1))
    with pytest.raises(UserError, match=r"splits: .*true and false are nothing to choose here"):
        load_datasets(config)


def test_datasets_that_may_choose_k_are_those_of_the_same_kind(config: Path) -> None:
    """Of 28x28 images with dynamic binarisation, without the pair's own two; mnist_static is binarised otherwise."""
    spoil(config, put("anomalies.0.choose_k_on", "mnist_static"), "small_fashion_anomalies")
    with pytest.raises(UserError, match=r"allowed: omniglot, omniglot_lake$"):
        load_experiments("small_fashion_anomalies", config)
    spoil(config, put("anomalies.0.choose_k_on", "omniglot"), "small_fashion_anomalies")
    assert load_experiments("small_fashion_anomalies", config).anomalies[0].choose_k_on == "omniglot"


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("digits", {"binarisation": "none"}, "bernoulli, but dataset 'digits' has binarisation: none and 17 levels"),
        ("digits", {"binarisation": "none", "levels": 256}, "bernoulli, but dataset 'digits' has binarisation: none"),
        ("cifar10", {"levels": 32}, "mixture_of_logistics, but dataset 'cifar10' has binarisation: none and 32 levels"),
        (
            "cifar10",
            {"binarisation": "dynamic"},
            "mixture_of_logistics, but dataset 'cifar10' has binarisation: dynamic",
        ),
    ],
)
def test_a_likelihood_is_for_images_of_its_kind(config: Path, name: str, changes: dict[str, Any], said: str) -> None:
    """What has another range of values would be trained on all the same, to bounds that mean nothing."""
    datasets = yaml.safe_load((config / "datasets.yaml").read_text())
    datasets["datasets"][name] |= changes
    (config / "datasets.yaml").write_text(yaml.safe_dump(datasets))
    with pytest.raises(UserError, match=f"architecture: .* has likelihood: {said}"):
        load_experiments({"digits": "quick"}.get(name, name), config)


def test_of_a_refused_item_is_not_said_that_it_is_missing(config: Path) -> None:
    spoil(config, put("runs.0.seeds", [-1]))
    with pytest.raises(UserError) as caught:
        load_experiments("quick", config)
    assert str(caught.value).count("\n") == 1
    assert "runs.0.seeds.0: Input should be greater than or equal to 0" in str(caught.value)


def test_every_mistake_is_reported_at_once(config: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["device"] = "tpu"
        content["training"]["batchsize"] = 7
        del content["threads"]

    spoil(config, edit)
    with pytest.raises(UserError) as caught:
        load_experiments("quick", config)
    assert all(f"- {key}:" in str(caught.value) for key in ("device", "training.batchsize", "threads"))


def test_an_architecture_that_an_experiment_names_must_exist(config: Path) -> None:
    spoil(config, put("runs.0.architecture", "nope"))
    with pytest.raises(UserError, match=r"architectures/nope\.yaml does not exist"):
        load_experiments("quick", config)


@pytest.mark.parametrize("content", ["runs: [1, 2", "- a\n- list\n", "", "\x00"])
def test_what_is_no_yaml_mapping_is_refused_by_name(config: Path, content: str) -> None:
    (config / "experiments" / "quick.yaml").write_text(content)
    with pytest.raises(UserError, match=r"quick\.yaml is not valid"):
        load_experiments("quick", config)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"experiment": "quick"}, "'quick'; allowed here: data_mirror, evaluation_jobs, experiments"),
        ({"experiments": "../quick"}, "'../quick'"),
        ({"experiments": "Quick"}, "'Quick'"),
        ({"experiments": ""}, "at least 1|pattern"),
        ({"experiments": 3}, "string"),
        ({"experiments": "quick", "evaluation_jobs": 2**62}, "evaluation_jobs: .*less than or equal to 1024"),
        ({}, "experiments: missing"),
    ],
)
def test_a_wrong_main_configuration_is_refused_by_the_model_and_by_the_schema(
    config: Path, content: dict[str, Any], said: str
) -> None:
    (config / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=rf"(?s)config\.yaml is not valid.*{said}"):
        load_main(config)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json.loads((SCHEMAS / "config.schema.json").read_text()))


@pytest.mark.parametrize(
    ("find", "asked", "known"),
    [
        (lambda: load_experiments("nope", CONFIG), "experiments/nope.yaml", "quick"),
        (lambda: load_architecture("nope", CONFIG), "architectures/nope.yaml", "biva_28x28"),
        (lambda: find_run("quick", "digits/digits_8x8/biva/seed99", CONFIG), "seed99", "digits/digits_8x8/biva/seed1"),
        (lambda: find_table("quick", "nope", CONFIG), "nope", "likelihood"),
        (lambda: find_dataset("nope", CONFIG), "nope", "\n  photo_patches\n  mnist_static\n"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(find: Callable[[], Any], asked: str, known: str) -> None:
    with pytest.raises(UserError) as caught:
        find()
    assert asked in str(caught.value)
    assert known in str(caught.value)


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
    spoil(config, put("training.batch_size", 7))
    assert find_run("quick", child.name, config).digest != child.digest


def test_runs_are_named_by_what_they_are() -> None:
    names = [run.name for run in resolve_runs("quick", load_experiments("quick", CONFIG), CONFIG)]
    assert len(names) == len(set(names)) == 8 + 10
    assert names[0] == "digits/digits_8x8/vae/seed1"
    assert names[8] == "digits/digits_8x8/biva_50_labels/seed1"
    assert names[13] == "digits/digits_8x8/classifier_50_labels/seed1"
    assert find_run("quick", names[-1], CONFIG).name == names[-1]


@pytest.mark.parametrize(
    ("place", "value", "changes_weights"),
    [
        ("training.batch_size", 7, True),
        ("training.learning_rate", 0.5, True),
        ("training.free_bits", 0.5, True),
        ("training.patience", 3, True),
        ("training.protocol", "paper", True),
        ("training.precision", "bf16", True),
        ("training.compiled", True, True),
        ("training.accumulate", 2, True),
        ("threads", 2, True),
        ("device", "auto", True),
        ("training.checkpoint_seconds", 5, False),
        ("evaluation.prior_samples", 3, False),
        ("figures", [], False),
        ("tables", [], False),
        ("description", "other words", False),
    ],
)
def test_the_digest_changes_with_what_changes_the_weights_alone(
    config: Path, place: str, value: Any, changes_weights: bool
) -> None:
    before = find_run("quick", "digits/digits_8x8/biva/seed1", config).digest
    spoil(config, put(place, value))
    assert (find_run("quick", "digits/digits_8x8/biva/seed1", config).digest != before) == changes_weights


def test_a_table_of_test_errors_has_the_runs_of_its_entry_alone(config: Path) -> None:
    """Another entry, with other settings, may differ in the seeds."""

    def edit(content: dict[str, Any]) -> None:
        (entry,) = content["semi_supervised"]
        content["semi_supervised"].append(entry | {"name": "other", "label_weight": 3, "seeds": [6, 7]})

    spoil(config, edit)
    experiments = load_experiments("quick", config)
    runs = resolve_runs("quick", experiments, config)
    shown = [[run.seed for run in runs if entry.includes(run)] for entry in experiments.semi_supervised]
    assert shown == [[1, 2, 3, 4, 5] * 2, [6, 7] * 2]


def test_the_weight_of_labels_is_no_setting_of_the_supervised_network(config: Path) -> None:
    names = [f"digits/digits_8x8/{model}_50_labels/seed1" for model in ("biva", "classifier")]
    before = [find_run("quick", name, config).digest for name in names]
    spoil(config, put("semi_supervised.0.label_weight", 3))
    after = [find_run("quick", name, config).digest for name in names]
    assert before[0] != after[0]
    assert before[1] == after[1]


# ------------------------------------------------------------------------------------------------- the shipped files

SHIPPED = [
    ("config", CONFIG / "config.yaml"),
    ("datasets", CONFIG / "datasets.yaml"),
    *(
        ("collection" if "\nsets:" in path.read_text() else "experiments", path)
        for path in sorted((CONFIG / "experiments").glob("*.yaml"))
    ),
    *(("architecture", path) for path in sorted((CONFIG / "architectures").glob("*.yaml"))),
]


@pytest.mark.parametrize(("kind", "path"), SHIPPED, ids=[path.stem for _, path in SHIPPED])
def test_every_shipped_file_is_valid(kind: str, path: Path) -> None:
    """By the JSON schema in the repository, and by loading it."""
    schema = json.loads((SCHEMAS / f"{kind}.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    if kind == "experiments":
        assert resolve_runs(path.stem, load_experiments(path.stem, CONFIG), CONFIG)
    elif kind == "collection":
        assert all(load_sets(name, CONFIG) == (name,) for name in load_sets(path.stem, CONFIG))
    elif kind == "architecture":
        assert load_architecture(path.stem, CONFIG).stages
    elif kind == "datasets":
        assert {"digits", "mnist_static", "mnist_dynamic"} <= load_datasets(CONFIG).keys()
    else:
        load_experiments(load_main(CONFIG).experiments, CONFIG)
