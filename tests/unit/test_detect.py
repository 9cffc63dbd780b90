"""The anomaly record of a run: what it says where the answer is known."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from biva import records
from biva.config import AnomalyPair, Evaluation
from biva.data.datasets import Dataset
from biva.errors import UserError
from biva.evaluation.detect import detect
from biva.records import RunFolder
from biva.training.loop import train
from tests.fake_runs import edit
from tests.unit.test_training import toy_dataset, toy_run

PAIR = AnomalyPair(name="pair", normal="toy", anomalous="other", importance_samples=3)
SETTINGS = Evaluation(importance_samples=(1,))


@pytest.fixture(autouse=True)
def _few_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("biva.evaluation.detect.BOOTSTRAP_REPEATS", 40)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    train(toy_run(max_updates=60, evaluate_every=30, learning_rate=0.01, ema_decay=0.5), dark(), folder, lambda: None)
    return folder


def dark() -> Dataset:
    """Images that are almost black, 60 of them for the test."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 3, (60, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return replace(toy_dataset(), images={"train": images, "valid": images, "test": images})


def other(images: torch.Tensor) -> Dataset:
    return replace(dark(), name="other", fingerprint="0" * 64, images={"test": images})


def run(folder: RunFolder, anomalous: Dataset, pair: AnomalyPair = PAIR) -> dict[str, dict[str, dict[str, float]]]:
    detect(folder, pair, SETTINGS, dark(), anomalous)
    scores: dict[str, dict[str, dict[str, float]]] = records.read_json(folder.anomaly(pair.name))["scores"]
    return scores


def test_bright_images_stand_out_by_the_plain_bound(trained: RunFolder) -> None:
    scores = run(trained, other(16 - dark().images["test"]))
    assert scores["L>0"]["auroc"] == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})
    assert scores["L>0"]["auprc"]["value"] == pytest.approx(1.0)
    assert scores["L>0"]["fpr80"]["value"] == 0.0
    assert list(scores) == ["L>0", "L>1", "L>2", "LLR>1", "LLR>2"]


def test_more_of_the_same_does_not(trained: RunFolder) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 3, (60, 1, 4, 4), generator=generator, dtype=torch.uint8)
    auroc = run(trained, other(images))["L>0"]["auroc"]
    assert auroc["low"] < 0.5 < auroc["high"]
    assert auroc["low"] < auroc["value"] < auroc["high"]


def test_arrays_hold_every_image_and_score(trained: RunFolder, tmp_path: Path) -> None:
    run(trained, other(dark().images["test"][:20]), PAIR.model_copy(update={"max_images": 25}))
    record = records.read_json(trained.anomaly("pair"))
    arrays = load_file(trained.anomaly("pair").with_suffix(".safetensors"))
    counts = {kind: (record[kind]["images"], record[kind]["images_in_split"]) for kind in ("normal", "anomalous")}
    assert counts == {"normal": (25, 60), "anomalous": (20, 20)}
    assert arrays["normal"].shape == (3, 25)
    assert arrays["anomalous"].shape == (3, 20)
    np.testing.assert_array_equal(arrays["score/LLR>2/normal"], arrays["normal"][0] - arrays["normal"][2])
    np.testing.assert_array_equal(arrays["score/L>1/anomalous"], -arrays["anomalous"][1])


def test_below_the_mode_nothing_is_drawn(trained: RunFolder) -> None:
    """L^{>2} of two stages is then log p(x | the mode of all latents): the same whatever the number of samples."""
    bounds = []
    for samples in (1, 4):
        pair = PAIR.model_copy(update={"below": "mode", "importance_samples": samples})
        run(trained, other(dark().images["test"][:5]), pair)
        bounds.append(load_file(trained.anomaly("pair").with_suffix(".safetensors"))["normal"])
    np.testing.assert_allclose(bounds[0][2], bounds[1][2], rtol=1e-5)
    assert (bounds[0][:2] != bounds[1][:2]).all()
    run(trained, other(dark().images["test"][:5]))
    samples_of_prior = load_file(trained.anomaly("pair").with_suffix(".safetensors"))["normal"]
    assert (samples_of_prior[2] != bounds[0][2]).all()


CHOOSES = PAIR.model_copy(update={"choose_k_on": "third"})


def choose(folder: RunFolder, valid: torch.Tensor, third: torch.Tensor, anomalous: torch.Tensor) -> dict[str, Any]:
    """The record of a pair whose k is chosen on these images."""
    normal = replace(dark(), images=dark().images | {"valid": valid})
    choosing = replace(other(third), name="third", fingerprint="3" * 64)
    detect(folder, CHOOSES, SETTINGS, normal, other(anomalous), choosing)
    return records.read_json(folder.anomaly("pair"))


def test_k_is_chosen_on_validation_images_and_a_third_dataset_alone(trained: RunFolder) -> None:
    """Bright validation images look less normal than dark images of the third dataset: the other way round."""
    test = dark().images["test"]
    record = choose(trained, test[:40], 16 - test[:20], anomalous=test)
    assert record["choosing_auroc"]["L>0"] == pytest.approx(1)
    assert (record["choosing_normal"]["images"], record["choosing_anomalous"]["images"]) == (40, 20)
    assert record["choosing_anomalous"]["dataset"] == "third"
    other_pair = choose(trained, test[:40], 16 - test[:20], anomalous=16 - test)
    for field in ("choosing_auroc", "chosen"):
        assert other_pair[field] == record[field]
    assert other_pair["scores"] != record["scores"]
    turned = choose(trained, 16 - test[:40], test[:20], anomalous=test)
    assert turned["choosing_auroc"]["L>0"] == pytest.approx(0)
    assert turned["scores"] == record["scores"] == run(trained, other(test))


def test_the_draw_of_max_images_chooses_too(trained: RunFolder) -> None:
    images = dark().images["test"]
    detect(
        trained,
        CHOOSES.model_copy(update={"max_images": 10}),
        SETTINGS,
        dark(),
        other(images),
        replace(other(images), name="third"),
    )
    record = records.read_json(trained.anomaly("pair"))
    for kind in ("choosing_normal", "choosing_anomalous"):
        assert (record[kind]["images"], record[kind]["images_in_split"]) == (10, 60)


def test_images_that_were_trained_on_choose_no_k(trained: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(trained.path, folder.path)
    config = records.read_json(folder.identity)["config"]
    config["training"]["protocol"] = "paper"
    edit(folder.identity, config=config)
    with pytest.raises(UserError, match="was trained with protocol paper, on the validation images of toy too"):
        choose(folder, *[dark().images["test"]] * 3)


def test_repeating_gives_the_same_bits(trained: RunFolder) -> None:
    anomalous = other(16 - dark().images["test"])
    first = (run(trained, anomalous), trained.anomaly("pair").with_suffix(".safetensors").read_bytes())
    assert (run(trained, anomalous), trained.anomaly("pair").with_suffix(".safetensors").read_bytes()) == first


def test_other_data_than_trained_on_are_refused(trained: RunFolder) -> None:
    with pytest.raises(UserError, match="was trained on data with fingerprint ffffffffffff"):
        detect(trained, PAIR, SETTINGS, replace(dark(), fingerprint="1" * 64), other(dark().images["test"]))
