"""Evaluation of a trained run: `evaluation.json` and `evaluation.safetensors` in its folder."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor

from biva import records
from biva.bounds import bits_per_dim, importance_weighted_bound
from biva.config import Evaluation, RunConfig, parse
from biva.data.datasets import Dataset
from biva.data.raw import CLASSES
from biva.devices import choose_device, device_name
from biva.errors import UserError
from biva.evaluation.classification import classify, unlabelled_terms
from biva.evaluation.kept import keeper_in
from biva.evaluation.likelihood import ImportanceSamples, count_active, fixed_input, importance_sample, rows_within
from biva.evaluation.pictures import pictures
from biva.models.build import build_model
from biva.models.layers import fold_weight_norm
from biva.precision import computing_in
from biva.records import RunFolder
from biva.seeds import derive_seed


def load_model(run: RunConfig, weights: bytes, device: torch.device) -> Any:
    """A trained model in evaluation mode, weight normalisation folded into plain weights."""
    model = build_model(run.architecture, run.model, CLASSES if run.labels else 0)
    model.load_state_dict(deserialise(weights))
    fold_weight_norm(model)
    return model.to(device).eval()


@dataclass(frozen=True)
class Trained:
    """A run whose training is complete, ready to be evaluated."""

    run: RunConfig
    model: Any
    """A model of `biva.models.build`."""
    device: torch.device
    weights_sha256: str


def load_trained(folder: RunFolder, dataset: Dataset) -> Trained:
    """Load a run's selected weights, and set the threads that its configuration asks for.

    Raises:
        UserError: training is not complete, or `dataset` is not what the run was trained on.
    """
    identity = records.read_json(folder.identity)
    records.read_json(folder.training)  # its presence says that training is complete
    if identity["data_fingerprint"] != dataset.fingerprint:
        raise UserError(
            f"{folder.path} was trained on data with fingerprint {identity['data_fingerprint'][:12]}, but the data "
            f"here has {dataset.fingerprint[:12]}. Prepare the data that it was trained on, or train it again."
        )
    run = parse(RunConfig, identity["config"], folder.identity)
    torch.set_num_threads(run.threads)
    device, weights = choose_device(run.device), folder.weights.read_bytes()
    return Trained(run, load_model(run, weights, device), device, hashlib.sha256(weights).hexdigest())


Record = dict[str, Any]
Arrays = dict[str, Tensor]


def evaluate(folder: RunFolder, settings: Evaluation, dataset: Dataset) -> None:
    """Evaluate the selected weights on the test split: bounds, or the test error of a run with labels.

    An evaluation of bounds that is killed goes on where it was, if nothing has changed that could change a number.

    Raises:
        UserError: training is not complete, or the data is not what the run was trained on.
    """
    started = time.monotonic()
    trained = load_trained(folder, dataset)
    run = trained.run
    x = fixed_input(dataset, "test")[: settings.max_images]
    seed = derive_seed(run.seed, "evaluation")
    with computing_in("fp32", trained.device):
        if run.labels is None:
            arrays, numbers = _likelihood(trained, x, settings, seed, folder.unfinished_evaluation)
        else:
            labels = dataset.labels_of("test")[: settings.max_images]
            arrays, numbers = _classification(trained, x, labels, settings, seed)
    records.write_atomically(folder.arrays, serialise(arrays))
    result = {
        "settings": settings.model_dump(mode="json"),
        "split": "test",
        "images": len(x),
        "device": device_name(trained.device),
        "seed": seed,
        "commit": records.commit(),
        "weights_sha256": trained.weights_sha256,
        **numbers,
        "wall_seconds": time.monotonic() - started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    records.write_json(folder.evaluation, result)
    records.seal(folder, (folder.arrays, folder.evaluation))
    shutil.rmtree(folder.unfinished_evaluation, ignore_errors=True)


def _likelihood(
    trained: Trained, x: Tensor, settings: Evaluation, seed: int, unfinished: Path
) -> tuple[Arrays, Record]:
    """Bounds, KL per latent group, active units, samples and reconstructions; parts are kept in `unfinished`."""
    run, model, device = trained.run, trained.model, trained.device
    k, rows = max(settings.importance_samples), rows_within(settings.memory_budget_mb, run.architecture)
    depends_on = [trained.weights_sha256, seed, k, rows, device_name(device), records.commit()]
    key = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]
    samples = importance_sample(model, x, k, seed=seed, rows=rows, device=device, keeper=keeper_in(unfinished / key))
    bounds = {k: importance_weighted_bound(samples.log_weights, k) for k in sorted(set(settings.importance_samples))}
    arrays = {f"bound/{k}": bound for k, bound in bounds.items()} | pictures(model, x, settings, seed, device)
    return arrays, {
        "metrics": metrics(samples, bounds, run),
        "kl_per_group": {name: _mean(value) for name, value in samples.kl.items()},
        "active_units": count_active(samples),
    }


def _classification(
    trained: Trained, x: Tensor, labels: Tensor, settings: Evaluation, seed: int
) -> tuple[Arrays, Record]:
    """Test error in percent, log q(y | x) of every image; of a semi-supervised model also its bound on log p(x)."""
    run, model, device = trained.run, trained.model, trained.device
    rows = rows_within(settings.memory_budget_mb, run.architecture)
    log_q = classify(model, x, rows=rows, device=device)
    arrays, kl = {"log_q": log_q}, {}
    metrics = [_row("test_error", None, 100 * (log_q.argmax(dim=1) != labels).double(), "percent")]
    if run.model != "classifier":
        terms = unlabelled_terms(model, x, seed=seed, rows=rows, device=device)
        arrays["bound/1"], kl = terms.bound, terms.kl
        metrics.append(_row("log_likelihood_bound", 1, terms.bound, "nats"))
        metrics.append(_row("kl_divergence", 1, torch.stack(list(kl.values())).sum(0), "nats"))
        metrics.append(_row("log_likelihood", 1, terms.log_likelihood, "nats"))
    return arrays, {
        "metrics": metrics,
        "kl_per_group": {name: _mean(value) for name, value in kl.items()},
        "active_units": {},
    }


def metrics(samples: ImportanceSamples, bounds: dict[int, Tensor], run: RunConfig) -> list[dict[str, Any]]:
    """The rows that go into `results.csv`: each metric with its mean, standard error over images, K and unit."""
    rows = [_row("log_likelihood_bound", k, bound, "nats") for k, bound in bounds.items()]
    if run.architecture.likelihood != "bernoulli":
        dimensions = math.prod(run.architecture.input_shape)
        rows += [_row("bits_per_dim", k, bits_per_dim(bound, dimensions), "bits/dim") for k, bound in bounds.items()]
    rows.append(_row("kl_divergence", 1, torch.stack(list(samples.kl.values())).sum(0), "nats"))
    rows.append(_row("log_likelihood", 1, samples.log_likelihood, "nats"))
    if samples.active:
        active = sum(int(units.sum()) for units in samples.active.values())
        rows.append({"metric": "active_units", "k": None, "unit": "units", "value": active, "standard_error": None})
    return rows


def _row(metric: str, k: int | None, values: Tensor, unit: str) -> Record:
    return {"metric": metric, "k": k, "unit": unit, **_mean(values)}


def _mean(values: Tensor) -> dict[str, float | None]:
    """Mean over images and its standard error (none for a single image)."""
    n = len(values)
    error = (values.std(correction=1) / math.sqrt(n)).item() if n > 1 else None
    return {"value": values.mean().item(), "standard_error": error}
