"""Published weights: the model, its numbers and its card from one file."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load, load_file, save, save_file
from safetensors.torch import save_file as save_tensors

from biva.config import Evaluation, RunConfig
from biva.data.array_file import write_arrays
from biva.errors import UserError
from biva.evaluation.repeat import comparison, repeat
from biva.evaluation.run import evaluate
from biva.evaluation.trained_model import TrainedModel
from biva.models.build import build_model
from biva.records import RunFolder, read_json, write_json
from biva.reporting.model_card import model_card
from biva.training.loop import train
from biva.weights import KEY, read_published, sha256_as_trained, with_records
from tests.docs import ROOT, blocks
from tests.fake_runs import edit, fake_config, fake_run, labelled_config
from tests.unit.test_training import toy_dataset, toy_run

SETTINGS = Evaluation(importance_samples=(1, 5), max_images=7, prior_samples=5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that was really trained and evaluated."""
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    train(toy_run(), toy_dataset(), folder, lambda: None)
    evaluate(folder, SETTINGS, toy_dataset())
    return folder


@pytest.fixture
def file(made: RunFolder, tmp_path: Path) -> Path:
    """Its published weights, alone in a folder."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(with_records(made))
    return path


def published(place: Path, run: RunConfig) -> Path:
    """Published weights, untrained, of a run whose numbers are made up."""
    folder = fake_run(place.parent / "made", run, bounds={1: (-25.0, 0.5)})
    model = build_model(run.architecture, run.model, 10 if run.labels else 0)
    save_tensors(model.state_dict(), folder.weights)
    edit(folder.evaluation, weights_sha256=hashlib.sha256(folder.weights.read_bytes()).hexdigest())
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(with_records(folder))
    return place


def test_the_tensors_are_those_of_training_and_the_header_has_the_records(made: RunFolder, file: Path) -> None:
    assert sha256_as_trained(file.read_bytes()) == hashlib.sha256(made.weights.read_bytes()).hexdigest()
    assert all((load_file(file)[name] == values).all() for name, values in load_file(made.weights).items())
    read = read_published(file)
    assert (read.run, read.identity, read.evaluation) == (
        toy_run(),
        read_json(made.identity),
        read_json(made.evaluation),
    )
    assert {with_records(made) for _ in range(5)} == {file.read_bytes()}


def test_the_numbers_are_repeated_to_the_bit_from_the_file_alone(made: RunFolder, file: Path) -> None:
    weights = read_published(file)
    assert weights.settings == SETTINGS
    found = repeat(weights, toy_dataset(), SETTINGS, "cpu")
    assert found == read_json(made.evaluation)["metrics"]
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    lines = comparison(weights, found, SETTINGS, "cpu").splitlines()
    assert re.fullmatch(r"log_likelihood_bound +5 +nats +(-\d+\.\d{5} ± \d\.\d{5}) +\1 +0\.0e\+00", lines[2])
    assert "expect no difference" in lines[-1]


def test_with_other_images_or_k_they_are_other_samples(made: RunFolder, file: Path) -> None:
    weights, fewer = read_published(file), SETTINGS.model_copy(update={"importance_samples": (2,), "max_images": 3})
    found = repeat(weights, toy_dataset(), fewer, "cpu")
    lines = comparison(weights, found, fewer, "cpu").splitlines()
    assert re.fullmatch(r"log_likelihood_bound +2 +nats +- +-\d+\.\d{5} ± \d\.\d{5} +-", lines[1])
    assert "Other images or K" in lines[-1]
    same = SETTINGS.model_copy(update={"importance_samples": (5, 1)})
    assert "expect no difference" in comparison(weights, found, same, "cpu")
    whole = SETTINGS.model_copy(update={"max_images": 10**6})
    assert "Other images or K" in comparison(weights, found, whole, "cpu")
    assert "repeated on some GPU" in comparison(weights, found, SETTINGS, "some GPU")


@pytest.mark.parametrize("name", ["settings", "metrics", "device", "images_in_split"])
def test_a_header_that_lacks_a_field_is_refused(made: RunFolder, file: Path, name: str) -> None:
    change_records(file, lambda records: records["evaluation.json"].pop(name))
    with pytest.raises(UserError, match=rf"weights\.safetensors does not hold .*KeyError: '{name}'"):
        comparison(read_published(file), read_json(made.evaluation)["metrics"], SETTINGS, "cpu")


def test_other_data_are_refused(file: Path) -> None:
    with pytest.raises(UserError, match=r"weights\.safetensors was trained on data .* f{12}, but .* 0{12}"):
        repeat(read_published(file), toy_dataset("0" * 64), SETTINGS, "cpu")


def change_records(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    records = {"run.json": read_published(path).identity, "evaluation.json": read_published(path).evaluation}
    change(records)
    path.write_bytes(save(load(path.read_bytes()), {KEY: json.dumps(records)}))


def change_a_tensor(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def publish_labelled(path: Path) -> None:
    published(path, labelled_config("classifier"))


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "There are no published weights"),
    "no safetensors": (lambda path: path.write_bytes(b"PK\3\4 a zip"), "is no safetensors file"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "or not a whole one"),
    "not published": (lambda path: save_file(load_file(path), path), "its header has no configuration of a run"),
    "other records": (
        lambda path: change_records(path, dict.clear),
        "does not hold what biva writes there (KeyError",
    ),
    "no JSON": (
        lambda path: save_file(load_file(path), path, {KEY: "{"}),
        "does not hold what biva writes there (JSONDecodeError",
    ),
    "unknown key": (lambda path: change_records(path, lambda r: r["run.json"]["config"].update(x=1)), "x: unknown key"),
    "other tensors": (change_a_tensor, "has other tensors than those that were evaluated"),
    "classifier": (publish_labelled, "which learned from labels; expected a model of images alone"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_published_weights_is_refused(name: str, file: Path) -> None:
    spoil, said = WRONG[name]
    spoil(file)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        TrainedModel.from_file(file)
    assert str(file) in str(error.value)


def test_weights_that_do_not_fit_what_this_code_builds_are_refused(file: Path) -> None:
    run, content = toy_run(), file.read_bytes()
    with pytest.raises(UserError, match="The weights of toys: toy/tiny/vae/seed1 are not those of vae with the arch"):
        TrainedModel(run.model_copy(update={"model": "vae"}).model_dump_json(), content)


def test_the_card_says_what_the_records_do(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, bounds={1: (-25.0, 0.5), 1000: (-24.123, 0.25)})
    edit(folder.evaluation, settings={"precision": "fp32"})
    edit(folder.identity, versions={"torch": "2.13.0", "python": "3.11.7"})
    card = model_card(folder)
    assert "# BIVA of `digits`, seed 1" in card
    for said in ("f" * 64, "1,234 parameters", "50 updates of 4 images, 200 images seen", "CC BY 4.0", "`0123abc`"):
        assert said in card
    assert "| `log_likelihood_bound` | 1000 | -24.123 ± 0.25 | nats |" in card
    assert "1 thread, at most 8.33e-05 core-hours" in card
    config = read_json(folder.identity)["config"]
    config["architecture"]["description"] = "two | three\nstages\n"
    edit(folder.identity, config=config)
    assert r"architecture `digits_8x8`: two \| three stages  |" in model_card(folder).splitlines()[7]
    edit(folder.training, wall_seconds=3600 * 1440.4)
    assert "1,440 hours by the clock on cpu with 1 thread, at most 1,440 core-hours" in model_card(folder)
    for path in (folder.identity, folder.evaluation):
        content = read_json(path)
        for name in {"parent", "versions", "parameters", "images", "settings", "metrics"} & content.keys():
            write_json(path, {key: value for key, value in content.items() if key != name})
            with pytest.raises(UserError, match=f"{re.escape(str(path))} lacks the field '{name}'"):
                model_card(folder)
        write_json(path, content)
    assert "biva repeat results/published/quick/runs/digits/digits_8x8/biva/seed1/weights.safetensors" in card


def test_the_code_of_a_card_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_config()
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    published(Path("results/published/quick/runs") / run.name / "weights.safetensors", run)
    folder = next(path.parent for path in Path("results").rglob("train.json"))
    edit(folder / "evaluation.json", settings={"precision": "fp32", "importance_samples": [1]})
    edit(folder / "run.json", versions={"torch": "2.13.0", "python": "3.11.7"})
    (code,) = re.findall(r"```python\n(.*?)```", model_card(RunFolder(folder)), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert [len(values) for values in (*names["bounds"], names["again"])] == [16, 16, 16]


# ----------------------------------------------------------------------------------------------------- torch.hub

MNIST = "small_static_mnist/runs/mnist_static/small_28x28"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what torch.hub reads, and no weights."""
    shutil.copy(ROOT / "hubconf.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of_mnist() -> RunConfig:
    """A tiny model of 28x28 images."""
    run = fake_config("biva", stages=1, dataset="mnist_static")
    return run.model_copy(update={"architecture": run.architecture.model_copy(update={"input_shape": (1, 28, 28)})})


def test_every_name_of_the_hub_is_a_model_once_it_is_published(repository: Path) -> None:
    names = {f"{model}_static_mnist": "small_static_mnist" for model in ("biva", "lvae", "lvae_plus", "vae")}
    names |= {f"{model}_static_mnist_longer": "small_static_mnist_longer" for model in ("biva", "lvae_plus")}
    names |= {"biva_dynamic_mnist": "small_dynamic_mnist", "biva_omniglot_lake": "small_omniglot"}
    names["biva_fashion_mnist"] = "small_fashion_anomalies"
    public = {name for name, value in runpy.run_path("hubconf.py").items() if callable(value) and name[0] != "_"}
    assert public == {*names}  # what torch.hub lists
    for name, experiments in names.items():
        with pytest.raises(UserError, match=f"are not published yet: .*`biva publish {experiments}`"):
            torch.hub.load(str(repository), name, source="local")
    for seed in (2, 3, 10):
        published(repository / f"results/published/{MNIST}/biva/seed{seed}/weights.safetensors", of_mnist())
    model = torch.hub.load(str(repository), "biva_static_mnist", source="local")
    assert isinstance(model, TrainedModel)
    assert model.sample(2).shape == (2, 1, 28, 28)


def test_the_example_of_the_readme_works(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On an untrained model and made-up images, whose numbers mean nothing."""
    published(repository / f"results/published/{MNIST}/biva/seed1/weights.safetensors", of_mnist())
    images = torch.randint(0, 2, (20, 1, 28, 28), dtype=torch.uint8)
    folder = repository / "resources/mnist_static"
    folder.mkdir(parents=True)
    fingerprint = write_arrays(folder / "data.safetensors", {"test/images": images.numpy()})
    about = {"dataset": "mnist_static", "shape": [1, 28, 28], "levels": 2, "binarisation": "static"}
    write_json(folder / "data.json", about | {"fingerprint": fingerprint, "splits": {"test": 20}})
    (example,) = [block.text for block in blocks(ROOT / "README.md") if block.language == "python"]
    exec(example, {})
    said = capsys.readouterr().out
    assert re.search(r"L_1 += -\d+\.\d\d nats", said) and re.search(r"L_100 += -\d+\.\d\d nats", said)
    assert {path.name for path in repository.glob("*.png")} == {"samples.png", "reconstructions.png", "unlikely.png"}
