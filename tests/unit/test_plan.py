"""Plans: work, hours and memory of made-up runs by hand, and which measurement is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from biva.config import (
    AnomalyPair,
    DatasetConfig,
    Experiments,
    Protocol,
    RunConfig,
    load_datasets,
    load_experiments,
)
from biva.plan import (
    ASSUMED_CPU,
    ASSUMED_GPU,
    Costs,
    Rates,
    Work,
    assumed,
    conditions,
    plan,
    planned_device,
    rates_of,
    work_of,
)
from biva.records import write_json
from tests.fake_runs import fake_config, fake_set

CONFIG = Path(__file__).parents[2] / "config"
COSTS = Costs(training=600, encoding=100, sampling=90)


def dataset(**splits: int) -> DatasetConfig:
    like = load_datasets(CONFIG)["digits"]
    return like.model_copy(update={"splits": splits, "shape": (1, 8, 8)})


DATASETS = {"digits": dataset(train=100, valid=20, test=30), "other": dataset(test=50)}


def experiments(anomalies: tuple[AnomalyPair, ...] = (), **evaluation: Any) -> Experiments:
    of_pairs = [pair.model_dump() for pair in anomalies]
    return fake_set(evaluation={"importance_samples": (1, 5, 10)} | evaluation, tables=[], anomalies=of_pairs)


# ------------------------------------------------------------------------------------------------------------- work


@pytest.mark.parametrize(
    ("protocol", "limit", "selected"), [("clean", None, 20), ("clean", 7, 7), ("clean", 1000, 20), ("paper", None, 30)]
)
def test_training_and_selection_by_hand(protocol: Protocol, limit: int | None, selected: int) -> None:
    """95 updates of 4 images; evaluated after 10, 20, ..., 90 and 95."""
    run = fake_config(protocol=protocol, max_updates=95, evaluate_every=10, selection_images=limit)
    work = work_of(run, experiments(), DATASETS)
    assert (work.training, work.selection) == (380, 10 * selected)


@pytest.mark.parametrize(("limit", "images"), [(None, 30), (12, 12), (99, 30)])
def test_evaluation_draws_the_largest_k(limit: int | None, images: int) -> None:
    run = fake_config()
    work = work_of(run, experiments(max_images=limit), DATASETS)
    assert (work.samples, work.evaluation, work.detection) == (10, images * 10, 0)


def test_anomaly_pairs_walk_once_per_bound() -> None:
    """Three bounds L^{>0}, L^{>1}, L^{>2} of two stages, of 30 normal and 40 of 50 other images."""
    pair = AnomalyPair(name="pair", normal="digits", anomalous="other", importance_samples=7, max_images=40)
    run = fake_config(stages=2)
    assert work_of(run, experiments((pair,)), DATASETS).detection == 3 * 7 * (30 + 40)


def test_choosing_k_walks_over_validation_images_and_those_of_a_third_dataset_too() -> None:
    """15 of 30 normal and of 50 other test images, 15 of 20 validation images, and the 12 that the third has."""
    pair = AnomalyPair(
        name="pair", normal="digits", anomalous="other", importance_samples=7, max_images=15, choose_k_on="third"
    )
    run = fake_config(stages=2)
    work = work_of(run, experiments((pair,)), DATASETS | {"third": dataset(test=12)})
    assert work.detection == 3 * 7 * (15 + 15 + 15 + 12)


def test_hours_by_hand() -> None:
    work = Work(training=7200, selection=36, samples=10, evaluation=900, detection=100)
    rates = Rates(training=1200.0, evaluation=2.0, source="made up")
    # 7200 images * 600 FLOPs at 1200 a second: an hour; 36 * (100 + 90) at 2 a second: 0.95 hours
    # 1000 samples * (100 / 10 + 90) at 2 a second
    assert work.hours(COSTS, rates) == pytest.approx((1 + 0.95, 50_000 / 3600))


# ------------------------------------------------------------------------------------------------------------ rates


def benchmark(folder: Path, name: str, run: RunConfig, finished: str, **changes: Any) -> None:
    record = {
        "conditions": conditions(run, torch.device("cpu")),
        "training": [
            {"precision": "bf16", "compiled": False, "batch": 4, "GFLOP/s": 99.0},
            {"precision": "fp32", "compiled": True, "batch": 4, "GFLOP/s": 98.0},
            {"precision": "fp32", "compiled": False, "batch": 4, "GFLOP/s": 1.0},
            {"precision": "fp32", "compiled": False, "batch": 64, "GFLOP/s": 2.0},
        ],
        "evaluation": [
            {"precision": "bf16", "K": 1, "GFLOP/s": 97.0},
            {"precision": "fp32", "K": 1, "GFLOP/s": 3.0},
            {"precision": "fp32", "K": 100, "GFLOP/s": 4.0},
        ],
        "finished": f"{finished}T00:00:00+00:00",
    }
    write_json(folder / f"{name}.json", record | changes)


def rates(run: RunConfig, folder: Path, samples: int = 1) -> Rates:
    return rates_of(run, experiments(), samples, folder)


@pytest.mark.parametrize(
    ("batch", "samples", "expected"), [(4, 1, (1e9, 3e9)), (6, 9, (1e9, 3e9)), (60, 2000, (2e9, 4e9))]
)
def test_the_nearest_measurement_is_taken(
    tmp_path: Path, batch: int, samples: int, expected: tuple[float, float]
) -> None:
    run = fake_config(batch_size=batch)
    benchmark(tmp_path, "one", run, "2026-01-01")
    found = rates(run, tmp_path, samples)
    assert (found.training, found.evaluation) == expected


def test_the_newest_measurement_is_taken(tmp_path: Path) -> None:
    run = fake_config()
    for name, finished in (("b", "2026-01-01"), ("a", "2026-03-01"), ("c", "2026-02-01")):
        benchmark(tmp_path, name, run, finished)
    assert rates(run, tmp_path).source == "measured 2026-03-01, batch 4, K = 1"


def test_a_measurement_of_something_else_is_not_taken(tmp_path: Path) -> None:
    run = fake_config()
    for key, value in (("model", "vae"), ("processor", "another"), ("threads", 9)):
        other = conditions(run, torch.device("cpu")) | {key: value}
        benchmark(tmp_path, key, run, "2026-01-01", conditions=other)
    benchmark(tmp_path, "work", run, "2026-01-01", training=[])
    assert rates(run, tmp_path) == assumed(ASSUMED_CPU, "default")


def test_threads_that_the_machine_lacks_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    for threads, counted in ((8, 3), (2, 2)):
        run = fake_config().model_copy(update={"threads": threads})
        assert rates(run, tmp_path).training == counted * ASSUMED_CPU


def test_a_gpu_can_be_planned_for_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = fake_config().model_copy(update={"device": "cuda"})
    assert rates(run, tmp_path) == assumed(ASSUMED_GPU, "default")
    assert [planned_device(device) for device in ("cpu", "cuda", "auto")] == ["cpu", "cuda", "cpu"]


# ----------------------------------------------------------------------------------------------------------- report


def test_the_plan_has_a_line_per_model_and_totals_over_all_seeds_of_all_sets(tmp_path: Path) -> None:
    sets = {name: load_experiments(name, CONFIG) for name in ("quick", "small_fashion_anomalies")}
    lines = plan(sets, load_datasets(CONFIG), tmp_path, 1e9, CONFIG).splitlines()
    models = ("vae", "lvae", "lvae_plus", "biva", "biva_50_labels", "classifier_50_labels")
    runs = [*(["quick", f"digits/digits_8x8/{model}"] for model in models)]
    assert [line.split()[:2] for line in lines[1:9]] == [
        *runs,
        *(["small_fashion_anomalies", f"fashion_mnist/small_28x28/{model}"] for model in ("biva", "lvae_plus")),
    ]
    assert all(line.endswith("assumed 1 GFLOP/s (--flops-rate)") for line in lines[1:9])
    assert f"{1560 * 48:,}" in lines[1]
    assert lines[10].startswith("In all 20 run(s), ")
