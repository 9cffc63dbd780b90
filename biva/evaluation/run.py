"""Evaluation of a trained run: `evaluation.json` and the arrays beside it in the run's folder."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor

from biva import records
from biva.bounds import bits_per_dim, importance_weighted_bound
from biva.config import Evaluation, Precision, RunConfig, parse
from biva.data.datasets import Dataset
from biva.data.inputs import fixed_input, part
from biva.data.raw import CLASSES
from biva.devices import choose_device, computing_in, device_name, use_threads
from biva.errors import UserError
from biva.evaluation.classification import classify, unlabelled_terms
from biva.evaluation.kept import keeper_in
from biva.evaluation.likelihood import Batch, ImportanceSamples, draw_batches, zero_weights
from biva.evaluation.memory import rows_for
from biva.evaluation.pictures import SHOWN, pictures
from biva.models.active_units import counted
from biva.models.build import build_model
from biva.models.layers import fold_weight_norm
from biva.origin import commit, made_by
from biva.records import RunFolder
from biva.seeds import derive_seed


def load_model(run: RunConfig, weights: bytes, device: torch.device) -> Any:
    """A trained model in evaluation mode, weight normalisation folded into plain weights.

    Raises:
        UserError: the weights do not fit the model that this code builds.
    """
    model = build_model(run.architecture, run.model, CLASSES if run.labels else 0)
    try:
        model.load_state_dict(deserialise(weights))
    except RuntimeError as error:
        raise UserError(
            f"The weights of {run.experiments}: {run.name} are not those of {run.model} with the architecture "
            f"{run.architecture_name!r} as this code builds it. Use the code of the commit that trained them. {error}"
        ) from None
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


def refuse_other_data(where: str, identity: dict[str, Any], dataset: Dataset) -> None:
    """Make sure that `dataset` is what the run with this `run.json` was trained on.

    Raises:
        UserError: it is not.
    """
    if identity["data_fingerprint"] != dataset.fingerprint:
        raise UserError(
            f"{where} was trained on data with fingerprint {identity['data_fingerprint'][:12]}, but the data "
            f"here has {dataset.fingerprint[:12]}. Prepare the data that it was trained on, or train it again."
        )


def load_trained(folder: RunFolder, dataset: Dataset) -> Trained:
    """Load a run's selected weights, and set the threads that its configuration asks for.

    Raises:
        UserError: training is not complete, its weights were changed since, or `dataset` is not what the run was
            trained on.
    """
    identity = records.read_json(folder.identity)
    records.read_json(folder.training)  # its presence says that training is complete
    refuse_other_data(str(folder.path), identity, dataset)
    run = parse(RunConfig, identity["config"], folder.identity)
    use_threads(run.threads)
    device = choose_device(run.device)
    weights, digest = records.read_weights(folder, f"biva train {run.experiments} {run.name}")
    return Trained(run, load_model(run, weights, device), device, digest)


LOOKED_AT = 64

Record = dict[str, Any]
Arrays = dict[str, Tensor]


@dataclass(frozen=True)
class Sampling:
    """The importance samples of some test images of a run, kept batch by batch until the evaluation is complete."""

    trained: Trained
    x: Tensor
    """Model input, (N, C, H, W)."""
    some: Tensor
    """That of the evaluated images that are looked at closely: at most `LOOKED_AT`, drawn, the same in all runs."""
    k: int
    rows: int
    """Samples at once."""
    folder: Path
    """Where batches are kept."""

    @classmethod
    def of(cls, trained: Trained, dataset: Dataset, settings: Evaluation, folder: RunFolder) -> Sampling:
        """The sampling that the evaluation's settings ask for."""
        x, total = fixed_input(dataset, "test"), len(dataset.split("test"))
        some = x[part(dataset.name, "test", total, min(LOOKED_AT, settings.max_images or total))]
        rows = rows_for(trained.run.architecture, settings.memory_budget_mb, trained.device)
        k = max(settings.importance_samples)
        return cls(trained, x[evaluated_images(dataset, settings)], some, k, rows, folder.unfinished_evaluation)

    def draw(self, precision: Precision, share: slice = slice(None)) -> list[Batch]:
        """A share of the batches, drawn in a precision, or read where they have been drawn before."""
        model, device, seed = self.trained.model, self.trained.device, evaluation_seed(self.trained.run)
        images = hashlib.sha256(self.x.numpy().tobytes()).hexdigest()
        depends_on = [self.trained.weights_sha256, images, seed, self.k, self.rows, precision]
        depends_on += [device_name(device), commit(), torch.__version__]
        keeper = keeper_in(self.folder / hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16])
        with computing_in(precision, device):
            return draw_batches(
                model, self.x, self.k, seed=seed, rows=self.rows, device=device, keeper=keeper, share=share
            )

    def samples(self, precision: Precision) -> ImportanceSamples:
        """All batches together."""
        return ImportanceSamples.of(self.draw(precision), self.trained.model.group_names)


def evaluation_seed(run: RunConfig) -> int:
    """The seed of all random numbers of the run's evaluation."""
    return derive_seed(run.seed, "evaluation")


def evaluated_images(dataset: Dataset, settings: Evaluation) -> Tensor:
    """Indices of the test images that are evaluated, (N,)."""
    return part(dataset.name, "test", len(dataset.split("test")), settings.max_images)


def evaluate_share(folder: RunFolder, settings: Evaluation, dataset: Dataset, share: slice) -> None:
    """Draw the importance samples of a share of the batches, and keep them for `evaluate`.

    Raises:
        UserError: as `evaluate`; or the run has labels, and its evaluation no parts.
    """
    trained = load_trained(folder, dataset)
    if trained.run.labels is not None:
        raise UserError(f"{trained.run.name} learned from labels; its evaluation is one pass and has no parts.")
    with computing_in("fp32", trained.device):
        sampling = Sampling.of(trained, dataset, settings, folder)
        if not share.start:
            rounding(sampling, settings)
        sampling.draw(settings.precision, share)


def evaluate(folder: RunFolder, settings: Evaluation, dataset: Dataset) -> None:
    """Evaluate the selected weights on the test split: bounds, or the test error of a run with labels.

    An evaluation of bounds that is killed goes on where it was, if nothing has changed that could change a number; so
    does one of which `evaluate_share` has drawn some batches.

    Raises:
        UserError: training is not complete, the data is not what the run was trained on, a weight is not a number, or
            the evaluation's precision changes the bounds too much.
    """
    started = time.monotonic()
    trained = load_trained(folder, dataset)
    origin = made_by(device_name(trained.device))
    with computing_in("fp32", trained.device):
        if trained.run.labels is None:
            bounds, arrays, numbers = _likelihood(Sampling.of(trained, dataset, settings, folder), settings)
        else:
            bounds, arrays, numbers = _classification(trained, dataset, settings)
    files = {folder.arrays: arrays} | ({folder.bounds: bounds} if bounds else {})
    for path, content in files.items():
        records.write_atomically(path, serialise(content))
    result = {
        "settings": settings.model_dump(mode="json"),
        "split": "test",
        "images": len(evaluated_images(dataset, settings)),
        "images_in_split": len(dataset.split("test")),
        "seed": evaluation_seed(trained.run),
        **origin,
        "weights_sha256": trained.weights_sha256,
        **numbers,
        "wall_seconds": time.monotonic() - started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    records.write_json(folder.evaluation, result)
    records.seal(folder, (*files, folder.evaluation))
    shutil.rmtree(folder.unfinished_evaluation, ignore_errors=True)


def _likelihood(sampling: Sampling, settings: Evaluation) -> tuple[Arrays, Arrays, Record]:
    """Bounds, KL per latent group, active units, and pictures of some test images and of samples."""
    run, model, device = sampling.trained.run, sampling.trained.model, sampling.trained.device
    differences = rounding(sampling, settings)
    samples = sampling.samples(settings.precision)
    if (zero := zero_weights(samples.log_weights))["samples"]:
        print(
            f"warning: {run.name}: {zero['samples']:,} of {samples.log_weights.numel():,} importance weights, of "
            f"{zero['images']:,} images, are zero (log-weight -inf). They count in every mean.",
            file=sys.stderr,
        )
    bounds = bounds_of(samples, settings)
    shown = pictures(model, sampling.some[:SHOWN], settings, evaluation_seed(run), device)
    return (
        {f"bound/{k}": bound for k, bound in bounds.items()},
        shown,
        {
            "metrics": metrics(samples, bounds, run) + differences,
            "kl_per_group": {name: _mean(value) for name, value in samples.kl.items()},
            "active_units": counted(samples.active),
            "zero_weights": zero,
        },
    )


def bounds_of(samples: ImportanceSamples, settings: Evaluation) -> dict[int, Tensor]:
    """K -> L_K of every image in nats, (N,) float64, for every K that the settings ask for."""
    return {k: importance_weighted_bound(samples.log_weights, k) for k in sorted(set(settings.importance_samples))}


LARGEST_DIFFERENCE = {"nats": 0.01, "bits/dim": 0.001}


def rounding(sampling: Sampling, settings: Evaluation) -> list[Record]:
    """L_K in the evaluation's precision minus L_K in fp32, from the same noise, of some test images: a metric per K.

    In fp32 there is nothing to compare.

    Raises:
        UserError: a mean difference is not below 0.01 nats, for colour images 0.001 bits/dim.
    """
    precision, run = settings.precision, sampling.trained.run
    if precision == "fp32":
        return []
    compared = replace(sampling, x=sampling.some)
    rounded, exact = (compared.samples(each).log_weights for each in (precision, "fp32"))
    return [
        _difference(importance_weighted_bound(rounded, k) - importance_weighted_bound(exact, k), k, precision, run)
        for k in sorted(set(settings.importance_samples))
    ]


def _difference(nats: Tensor, k: int, precision: Precision, run: RunConfig) -> Record:
    difference, unit = nats, "nats"
    if run.architecture.likelihood != "bernoulli":
        difference, unit = bits_per_dim(nats, math.prod(run.architecture.input_shape)), "bits/dim"
    metric = _metric("difference_from_fp32", k, difference, unit)
    if not abs(metric["value"]) < LARGEST_DIFFERENCE[unit]:
        raise UserError(
            f"Evaluated in {precision}, L_{k} of {run.name} differs from fp32 by {metric['value']:+.4f} {unit}: mean "
            f"over {len(nats)} test images, same noise, at most {difference.abs().max():.4f}. Results may differ by "
            f"less than {LARGEST_DIFFERENCE[unit]} {unit}. Use evaluation.precision: fp32."
        )
    return metric


def _classification(trained: Trained, dataset: Dataset, settings: Evaluation) -> tuple[Arrays, Arrays, Record]:
    """Test error in percent, log q(y | x) of every image; of a semi-supervised model also its bound on log p(x)."""
    run, model, device = trained.run, trained.model, trained.device
    rows = rows_for(run.architecture, settings.memory_budget_mb, device)
    images = evaluated_images(dataset, settings)
    x, labels = fixed_input(dataset, "test")[images], dataset.labels_of("test")[images]
    log_q = classify(model, x, rows=rows, device=device)
    bounds: Arrays = {}
    kl: Arrays = {}
    metrics = [_metric("test_error", None, 100 * (log_q.argmax(dim=1) != labels).double(), "percent")]
    if run.model != "classifier":
        bound, log_likelihood, kl = unlabelled_terms(model, x, seed=evaluation_seed(run), rows=rows, device=device)
        bounds["bound/1"] = bound
        metrics.append(_metric("log_likelihood_bound", 1, bound, "nats"))
        metrics.append(_metric("kl_divergence", 1, torch.stack(list(kl.values())).sum(0), "nats"))
        metrics.append(_metric("log_likelihood", 1, log_likelihood, "nats"))
    return (
        bounds,
        {"log_q": log_q},
        {
            "metrics": metrics,
            "kl_per_group": {name: _mean(value) for name, value in kl.items()},
            "active_units": {},
        },
    )


def metrics(samples: ImportanceSamples, bounds: dict[int, Tensor], run: RunConfig) -> list[Record]:
    """What goes into `results.csv`: each metric with its mean, standard error over images, K and unit."""
    found = [_metric("log_likelihood_bound", k, bound, "nats") for k, bound in bounds.items()]
    if run.architecture.likelihood != "bernoulli":
        dimensions = math.prod(run.architecture.input_shape)
        found += [
            _metric("bits_per_dim", k, bits_per_dim(bound, dimensions), "bits/dim") for k, bound in bounds.items()
        ]
    found.append(_metric("kl_divergence", 1, torch.stack(list(samples.kl.values())).sum(0), "nats"))
    found.append(_metric("log_likelihood", 1, samples.log_likelihood, "nats"))
    if samples.active:
        active = sum(int(units.sum()) for units in samples.active.values())
        found.append({"metric": "active_units", "k": None, "unit": "units", "value": active, "standard_error": None})
    return found


def _metric(name: str, k: int | None, values: Tensor, unit: str) -> Record:
    return {"metric": name, "k": k, "unit": unit, **_mean(values)}


def _mean(values: Tensor) -> dict[str, float | None]:
    """Mean over images and its standard error (none for a single image, or where a value is infinite)."""
    n, mean = len(values), values.mean().item()
    error = (values.std(correction=1) / math.sqrt(n)).item() if n > 1 and math.isfinite(mean) else None
    return {"value": mean, "standard_error": error}
