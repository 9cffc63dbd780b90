"""Anomaly detection by one trained run: `anomaly/NAME.json` and `.safetensors` in its folder."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import torch
from safetensors.torch import save as serialise

from biva import records
from biva.config import AnomalyPair, Evaluation
from biva.data.datasets import Dataset, Split
from biva.data.inputs import TRAINING_SPLIT, fixed_input, part
from biva.devices import computing_in, device_name
from biva.errors import UserError
from biva.evaluation.anomaly import bounds_above
from biva.evaluation.memory import rows_for
from biva.evaluation.run import load_trained
from biva.evaluation.separation import Scores, bootstrap, choice, scores, separation
from biva.origin import made_by
from biva.records import CHOOSING_ANOMALOUS, CHOOSING_NORMAL, RunFolder
from biva.seeds import derive_seed

BOOTSTRAP_REPEATS = 300


def detect(
    folder: RunFolder,
    pair: AnomalyPair,
    settings: Evaluation,
    normal: Dataset,
    anomalous: Dataset,
    choosing: Dataset | None = None,
) -> None:
    """Score the test images of both datasets by L^{>k} for every k, and say how well each score separates them.

    All are images of the shape and the binarisation that the run was trained on, as loading a pair makes sure.

    With `choosing`, the dataset that the pair's `choose_k_on` names, its test images and the validation images of the
    normal dataset are scored too, and k is chosen there (`choice`).

    Raises:
        UserError: training is not complete, `normal` is not what the run was trained on, or the run was trained on
            the validation images that should choose k.
    """
    started = time.monotonic()
    trained = load_trained(folder, normal)
    run, model, device = trained.run, trained.model, trained.device
    origin = made_by(device_name(device))
    if run.labels is not None:
        raise UserError(f"{run.name} learned from labels; anomalies are scored by runs that learned from images alone.")
    scored: dict[str, tuple[Dataset, Split]] = {"normal": (normal, "test"), "anomalous": (anomalous, "test")}
    if choosing is not None:
        if "valid" in TRAINING_SPLIT[run.training.protocol].split("+"):
            raise UserError(
                f"{run.name} was trained with protocol {run.training.protocol}, on the validation images of "
                f"{normal.name} too, so they cannot choose k for anomaly pair {pair.name!r}. Train it with "
                "training.protocol: clean, or leave out the pair's choose_k_on."
            )
        scored |= {CHOOSING_NORMAL: (normal, "valid"), CHOOSING_ANOMALOUS: (choosing, "test")}
    seed = derive_seed(run.seed, "anomaly", pair.name)
    rows = rows_for(run.architecture, settings.memory_budget_mb, device)
    bounds, images = {}, {}
    for kind, (dataset, split) in scored.items():
        total = len(dataset.split(split))
        x = fixed_input(dataset, split)[part(dataset.name, split, total, pair.max_images)]
        with computing_in("fp32", device):
            bounds[kind] = bounds_above(
                model,
                x,
                pair.importance_samples,
                mode=pair.below == "mode",
                seed=derive_seed(seed, kind),
                rows=rows,
                device=device,
            )
        images[kind] = {
            "dataset": dataset.name,
            "fingerprint": dataset.fingerprint,
            "images": len(x),
            "images_in_split": total,
        }
    values = {kind: scores(bound.numpy()) for kind, bound in bounds.items()}
    arrays = bounds | {
        f"score/{name}/{kind}": torch.from_numpy(score)
        for kind, named in values.items()
        for name, score in named.items()
    }
    path = folder.anomaly(pair.name)
    array_path = path.with_suffix(".safetensors")
    records.write_atomically(array_path, serialise({k: v.contiguous() for k, v in arrays.items()}))
    result = {
        "settings": pair.model_dump(mode="json"),
        **images,
        "samples": pair.importance_samples,
        "seed": seed,
        **origin,
        "repeats": BOOTSTRAP_REPEATS,
        "scores": {
            name: summary(score, values["anomalous"][name], seed=derive_seed(seed, "bootstrap", name))
            for name, score in values["normal"].items()
        },
        **(choice(values[CHOOSING_NORMAL], values[CHOOSING_ANOMALOUS]) if choosing else {}),
        "wall_seconds": time.monotonic() - started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    records.write_json(path, result)
    records.seal(folder, (array_path, path))


def summary(normal: Scores, anomalous: Scores, *, seed: int) -> dict[str, Any]:
    """AUROC, AUPRC and FPR80 of one score, each with the ends of its 95% bootstrap interval."""
    ends = bootstrap(normal, anomalous, repeats=BOOTSTRAP_REPEATS, seed=seed)
    numbers = separation(normal, anomalous)
    return {name: dict(zip(("value", "low", "high"), (numbers[name], *ends[name]), strict=True)) for name in numbers}
