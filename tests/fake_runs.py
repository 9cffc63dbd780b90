"""Run folders in the formats of `biva.records`, with made-up numbers: what reporting and tracking read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from biva.config import AnomalyPair, Experiments, Labels, RunConfig
from biva.records import RunFolder, append_line, read_json, seal, write_json

IMAGES = 5
"""Images of the pretended test split."""


def fake_config(
    model: str = "biva",
    seed: int = 1,
    dataset: str = "digits",
    stages: int = 2,
    experiments: str = "quick",
    **training: Any,
) -> RunConfig:
    """A run on 8x8 images; `training` overrides the training settings."""
    return RunConfig.model_validate(
        {
            "experiments": experiments,
            "dataset": dataset,
            "model": model,
            "architecture_name": "digits_8x8",
            "seed": seed,
            "device": "cpu",
            "threads": 1,
            "architecture": {
                "description": "made up",
                "input_shape": (1, 8, 8),
                "likelihood": "bernoulli",
                "latents": "dense",
                "filters": 4,
                "dropout": {"inference": 0.5, "generative": 0.5},
                "stages": [{"blocks": 1, "kernel": 3, "stride": 1, "latent": 20 - s} for s in range(stages)],
            },
            "training": {"protocol": "clean", "batch_size": 4, "max_updates": 1000, "evaluate_every": 10, **training},
        }
    )


def fake_set(**changes: Any) -> Experiments:
    """A set of two seeds of VAE and BIVA on 8x8 images, with a table of their bounds; `changes` go into its file."""
    return Experiments.model_validate(
        {
            "description": "Some runs",
            "device": "cpu",
            "threads": 1,
            "runs": [
                {"dataset": "digits", "architecture": "digits_8x8", "model": model, "seeds": [1, 2]}
                for model in ("vae", "biva")
            ],
            "training": fake_config().training.model_dump(),
            "evaluation": {"importance_samples": [1, 1000]},
            "tables": [{"name": "likelihood", "dataset": "digits", "k": [1, 1000]}],
            "anomalies": [
                {"name": "photos", "normal": "digits", "anomalous": "photo_patches", "importance_samples": 2}
            ],
        }
        | changes
    )


def labelled_config(model: str = "biva", seed: int = 1, dataset: str = "digits", labels: int = 50) -> RunConfig:
    """A run that learns from labels too."""
    weight = 10.0 if model == "biva" else None
    update = {"model": model, "labels": Labels(count=labels, batch_size=5, weight=weight)}
    return fake_config("biva", seed, dataset).model_copy(update=update)


def group_names(config: RunConfig) -> list[str]:
    """Latent groups, bottom to top."""
    stages = len(config.architecture.stages)
    if config.model != "biva":
        return [f"z{stage}" for stage in range(1, stages + 1)]
    below = [f"z{stage}_{path}" for stage in range(1, stages) for path in ("bu", "td")]
    return [*below, f"z{stages}"]


def record_line(config: RunConfig, update: int) -> dict[str, Any]:
    """One line of `record.jsonl`."""
    elbo = -20.0 - 100.0 / update - 0.25 * config.seed
    groups = group_names(config)
    return {
        "update": update,
        "epoch": update / 100,
        "seconds": update * 0.5,
        "images_per_second": 8.0,
        "skipped_updates": 0,
        "learning_rate": 2e-3 * 0.999999**update,
        "train": {"elbo": elbo - 1, "log_likelihood": elbo + 4, "kl": 5.0, "loss": 1 - elbo},
        "selection": {"elbo": elbo, "log_likelihood": elbo + 5, "kl": 5.0},
        "kl_per_group": {name: 5.0 / len(groups) for name in groups},
        "active_units": {name: {"active": place, "total": 8} for place, name in enumerate(groups)},
        "best": True,
    }


def identity(config: RunConfig) -> dict[str, Any]:
    """Content of `run.json`."""
    return {
        "run_id": hashlib.md5(config.name.encode()).hexdigest(),
        "experiments": config.experiments,
        "name": config.name,
        "started": "2026-01-02T03:04:05+00:00",
        "config": config.model_dump(mode="json"),
        "variant": config.variant,
        "parent": None,
        "config_digest": config.digest,
        "commit": "0123abc",
        "data_fingerprint": "f" * 64,
        "device": "cpu",
        "parameters": 1234,
        "versions": {"biva": "0.1.0", "torch": "2.13.0"},
    }


def fake_run(
    runs: Path,
    config: RunConfig | None = None,
    *,
    updates: int = 50,
    trained: bool = True,
    bounds: dict[int, tuple[float, float]] | None = None,
    started: str = "2026-01-02T03:04:05+00:00",
    run_id: str | None = None,
    commit: str = "0123abc",
    device: str = "cpu",
) -> RunFolder:
    """Write the folder of a run below `runs`.

    Args:
        updates: the run has a line every ten updates, up to this one.
        trained: with `train.json`.
        bounds: with an evaluation whose `log_likelihood_bound` at K is this (value, standard error); None: without.
        run_id: None makes one from the run's name.
    """
    config = config or fake_config()
    folder = RunFolder(runs / config.name)
    folder.path.mkdir(parents=True)
    given = {"run_id": run_id} if run_id else {}
    write_json(folder.identity, identity(config) | given | {"started": started, "commit": commit, "device": device})
    for update in range(10, updates + 1, 10):
        append_line(folder.record, record_line(config, update))
    if trained:
        finish_training(folder, config, updates)
    if bounds is not None:
        evaluate(folder, config, bounds)
    return folder


def finish_training(folder: RunFolder, config: RunConfig, updates: int) -> None:
    """Write `train.json`."""
    write_json(
        folder.training,
        {
            "updates": updates,
            "epochs": updates / 100,
            "images_seen": updates * config.training.batch_size,
            "wall_seconds": 0.1 + 0.2,
            "stopped": "max_updates",
            "selected": {"update": updates, "elbo": record_line(config, updates)["selection"]["elbo"]},
            "selection_split": "valid",
            "selection_images": 3,
            "selection_images_in_split": 7,
            "finished": "2026-01-02T04:00:00+00:00",
        },
    )
    seal(folder, (folder.identity, folder.record, folder.training))


def evaluate(folder: RunFolder, config: RunConfig, bounds: dict[int, tuple[float, float]]) -> None:
    """Write `evaluation.json` and the arrays beside it; sheets are of `ramp`, so that each pixel is known."""
    groups = group_names(config)
    metrics: list[dict[str, Any]] = [
        {"metric": "log_likelihood_bound", "k": k, "value": value, "standard_error": error, "unit": "nats"}
        for k, (value, error) in bounds.items()
    ]
    metrics += [
        {"metric": "kl_divergence", "k": 1, "value": 5.0, "standard_error": 0.1, "unit": "nats"},
        {"metric": "active_units", "k": None, "value": 7.0, "standard_error": None, "unit": "units"},
    ]
    write_json(
        folder.evaluation,
        {
            "settings": {"importance_samples": list(bounds), "max_images": None, "temperatures": [1.0, 0.5]},
            "split": "test",
            "images": IMAGES,
            "images_in_split": IMAGES,
            "device": "cpu",
            "commit": read_json(folder.identity)["commit"],
            "seed": config.seed,
            "wall_seconds": 1.5,
            "weights_sha256": "a" * 64,
            "metrics": metrics,
            "kl_per_group": {name: {"value": 1.0 + place, "standard_error": 0.1} for place, name in enumerate(groups)},
            "active_units": {name: {"active": place, "total": 8} for place, name in enumerate(groups)},
            "finished": "2026-01-02T05:00:00+00:00",
        },
    )
    save_file(
        {
            "sheet/samples": sheet(ramp(9), 3),
            "sheet/reconstructions": sheet(torch.cat([ramp(4).flip(0), ramp(4)]), 4),
            "sheet/temperatures": sheet(ramp(6), 3),
            "sheet/layers": sheet(ramp(12), 4),
            "sheet/interpolations": sheet(ramp(10), 5),
        },
        folder.arrays,
    )
    save_bounds(folder, {k: np.full(IMAGES, value) for k, (value, _) in bounds.items()})
    seal(folder, (folder.evaluation, folder.arrays))


def save_bounds(folder: RunFolder, bounds: dict[int, NDArray[np.float64]]) -> None:
    """Write `bounds.safetensors`: K -> L_K of every test image."""
    save_arrays({f"bound/{k}": values for k, values in bounds.items()}, folder.bounds)
    seal(folder, (folder.bounds,))


def fake_test_error(runs: Path, config: RunConfig, value: float, error: float = 1.0) -> RunFolder:
    """A run with labels whose test error is `value` percent; that of a classifier has no ELBO anywhere."""
    folder = fake_run(runs, config, updates=10, bounds={})
    line = record_line(config, 10)
    metrics = [{"metric": "test_error", "k": None, "value": value, "standard_error": error, "unit": "percent"}]
    selected = {"update": 10, "elbo": line["selection"]["elbo"]}
    if config.model == "classifier":
        line |= {"train": {"error": 5.0, "loss": 0.25}, "selection": {}, "kl_per_group": {}}
        del selected["elbo"]
    folder.record.unlink()
    append_line(folder.record, line)
    edit(folder.training, selected=selected)
    edit(folder.evaluation, metrics=metrics, kl_per_group={}, active_units={})
    folder.bounds.unlink()
    save_file({"log_q": torch.zeros(IMAGES, 10)}, folder.arrays)
    return folder


def anomaly_record(
    pair: AnomalyPair, aurocs: dict[str, tuple[float, float, float]], images: tuple[int, int] = (IMAGES, 2 * IMAGES)
) -> dict[str, Any]:
    """Content of `anomaly/NAME.json`: per score (value, low, high) of the AUROC.

    AUPRC is a tenth of it, FPR80 one minus it. Where k is chosen, LLR^{>2} is, with an AUROC of 0.875 there.
    """

    def part(dataset: str, fingerprint: str, images: int) -> dict[str, Any]:
        return {"dataset": dataset, "fingerprint": fingerprint, "images": images, "images_in_split": 2000}

    def numbers(value: float, low: float, high: float) -> dict[str, float]:
        return {"value": value, "low": low, "high": high}

    choice: dict[str, Any] = {}
    if pair.choose_k_on:
        choice["choosing_normal"] = part(pair.normal, "a" * 64, 1500)
        choice["choosing_anomalous"] = part(pair.choose_k_on, "c" * 64, 2000)
        choice |= {"choosing_auroc": dict.fromkeys(aurocs, 0.25) | {"LLR>2": 0.875}, "chosen": "LLR>2"}
    return {
        "settings": pair.model_dump(mode="json"),
        **choice,
        "normal": part(pair.normal, "a" * 64, images[0]),
        "anomalous": part(pair.anomalous, "b" * 64, images[1]),
        "samples": pair.importance_samples,
        "seed": 1,
        "device": "cpu",
        "commit": "0123abc",
        "finished": "2026-01-02T06:00:00+00:00",
        "wall_seconds": 2.5,
        "repeats": 1000,
        "scores": {
            score: {
                "auroc": numbers(value, low, high),
                "auprc": numbers(value / 10, low / 10, high / 10),
                "fpr80": numbers(1 - value, 1 - high, 1 - low),
            }
            for score, (value, low, high) in aurocs.items()
        },
    }


def detect(
    folder: RunFolder,
    pair: AnomalyPair,
    aurocs: dict[str, tuple[float, float, float]],
    normal: NDArray[np.float64],
    anomalous: NDArray[np.float64],
) -> None:
    """Write `anomaly/NAME.json` and its arrays: L^{>k} of the normal (L+1, N) and the anomalous (L+1, M) images."""
    record = anomaly_record(pair, aurocs, (normal.shape[1], anomalous.shape[1]))
    write_json(folder.anomaly(pair.name), record)
    arrays = {"normal": normal, "anomalous": anomalous}
    for kind, bounds in list(arrays.items()):
        for k, bound in enumerate(bounds):
            arrays[f"score/L>{k}/{kind}"] = -bound
            arrays[f"score/LLR>{k}/{kind}"] = bounds[0] - bound
        del arrays[f"score/LLR>0/{kind}"]
    save_arrays(arrays, folder.anomaly(pair.name).with_suffix(".safetensors"))


def ramp(count: int) -> torch.Tensor:
    """(count, 1, 8, 8) images; image n has the grey value n / count in the left half and 1 - n / count in the right."""
    grey = (torch.arange(count) / count).view(-1, 1, 1, 1)
    return torch.cat([grey.expand(-1, 1, 8, 4), 1 - grey.expand(-1, 1, 8, 4)], dim=3).contiguous()


def sheet(images: torch.Tensor, columns: int) -> torch.Tensor:
    """(3, height, width) uint8: images (N, 1, H, W) in [0, 1] in rows, with a white pixel between and around them."""
    count, _, height, width = images.shape
    picture = torch.full((3, count // columns * (height + 1) + 1, columns * (width + 1) + 1), 255, dtype=torch.uint8)
    for place, image in enumerate(images):
        row, column = 1 + place // columns * (height + 1), 1 + place % columns * (width + 1)
        picture[:, row : row + height, column : column + width] = (255 * image).round().byte()
    return picture


def cut_record(folder: RunFolder, lines: int) -> None:
    """Leave only the first lines of `record.jsonl`, as a kill at that moment would."""
    kept = folder.record.read_text().splitlines(keepends=True)[:lines]
    folder.record.write_text("".join(kept))


def edit(path: Path, **changes: Any) -> None:
    """Change top-level fields of a JSON file."""
    write_json(path, json.loads(path.read_text()) | changes)
