"""One benchmark: everything measured in one run on one machine, as the record that `biva bench` writes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import product
from subprocess import DEVNULL, run
from typing import Any

import torch
from torch import Tensor

from biva import records
from biva.bench.flops import Costs, count
from biva.bench.limit import convolution_calls, convolution_rates, copy_rate, matrix_rate
from biva.bench.machine import machine
from biva.bench.memory import peak_memory
from biva.bench.profile import largest_costs
from biva.bench.timing import timed
from biva.bench.work import Subject, evaluation, importance_call, training_step
from biva.bounds import importance_weighted_bound
from biva.config import Precision
from biva.devices import choose_device
from biva.evaluation.likelihood import IMAGES_PER_BATCH, ImportanceSamples
from biva.devices import computing_in

_log = logging.getLogger(__name__)


def bench(
    subject: Subject,
    *,
    precisions: Sequence[Precision],
    batch_sizes: Sequence[int],
    importance_samples: Sequence[int],
    images: int,
    repeats: int,
) -> dict[str, Any]:
    """Measure training and evaluation of a model beside the machine's limits.

    Args:
        subject: the model, and where it runs.
        precisions: each is measured.
        batch_sizes: of training, each is measured.
        importance_samples: K of the evaluation, each is measured.
        images: whose importance samples are drawn.
        repeats: of every timing; the median counts.

    Returns:
        The record: seconds, bytes, FLOP/s; one entry per combination.

    Raises:
        UserError: the device is not there or does not know a precision.
    """
    device = choose_device(subject.device)
    for precision in precisions:
        with computing_in(precision, device):  # refused now, not after minutes
            pass
    costs = count(subject.architecture, subject.model)
    _log.info("peak memory")
    training_peaks = {
        (precision, size): peak_memory(training_step, subject, precision, size)
        for precision, size in product(precisions, batch_sizes)
    }
    evaluation_peaks = {
        (precision, k): peak_memory(importance_call, subject, precision, k, images)
        for precision, k in product(precisions, importance_samples)
    }
    _log.info("start-up")
    start_up = {
        " ".join(verb): _start_up(verb, repeats) for verb in (("--help",), ("describe", subject.architecture_name))
    }
    subject.set_up()
    _log.info("matrix products and copies")
    hardware = {
        "matrix_flops_per_second": {precision: matrix_rate(precision, repeats, device) for precision in precisions},
        "copy_bytes_per_second": copy_rate(repeats, device),
    }
    training = []
    for (precision, size), peak in training_peaks.items():
        _log.info("training, %s, batch %d", precision, size)
        training.append({**_training(subject, costs, precision, size, repeats, device), "peak_memory_bytes": peak})
    evaluations, bounds = [], {}
    for (precision, k), peak in evaluation_peaks.items():
        _log.info("evaluation, %s, K = %d", precision, k)
        entry, bounds[precision, k] = _evaluation(subject, costs, precision, k, images, repeats, device)
        evaluations.append({**entry, "peak_memory_bytes": peak})
    for entry in evaluations:
        precision, k = entry["precision"], entry["importance_samples"]
        entry["bound"] = bounds[precision, k].mean().item()
        if precision != "fp32" and ("fp32", k) in bounds:
            difference = bounds[precision, k] - bounds["fp32", k]
            entry["difference_from_fp32"] = {
                "mean": difference.mean().item(),
                "largest": difference.abs().max().item(),
            }
    return {
        "architecture": subject.architecture_name,
        "architecture_settings": subject.architecture.model_dump(mode="json", exclude={"description"}),
        "model": subject.model,
        "parameters": costs.parameters,
        "compiled": subject.compiled,
        "machine": machine(device) | {"threads": subject.threads},
        "largest_convolution": str(costs.largest),
        "hardware": hardware,
        "start_up": start_up,
        "training": training,
        "evaluation": evaluations,
        "commit": records.commit(),
        "versions": records.versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _start_up(verb: tuple[str, ...], repeats: int) -> dict[str, Any]:
    """Seconds of a whole `biva VERB`, imports included."""
    command = [sys.executable, "-m", "biva", *verb]
    return timed({"": lambda: run(command, stdout=DEVNULL, check=True)}, repeats, torch.device("cpu"))[""].summary()


def _training(
    subject: Subject, costs: Costs, precision: Precision, batch_size: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    step = training_step(subject, precision, batch_size)
    limits = convolution_calls(costs.largest, batch_size, precision, device, backward=True)
    timings = timed({"step": step, **limits}, repeats, device)
    seconds = timings["step"].median
    rate = batch_size * costs.training / seconds
    limit = convolution_rates(costs.largest, batch_size, timings, backward=True)
    return {
        "precision": precision,
        "batch_size": batch_size,
        "seconds": timings["step"].summary(),
        "steps_per_second": 1 / seconds,
        "images_per_second": batch_size / seconds,
        "flops_per_image": costs.training,
        "flops_per_second": rate,
        "limit_flops_per_second": limit,
        "share_of_limit": rate / max(limit.values()),
        "largest_costs": largest_costs(step, device),
    }


def _evaluation(
    subject: Subject, costs: Costs, precision: Precision, k: int, images: int, repeats: int, device: torch.device
) -> tuple[dict[str, Any], Tensor]:
    """The entry of the record, and L_k of every image."""
    work = evaluation(subject, precision, k, images)
    limits = convolution_calls(costs.largest, work.rows, precision, device, backward=False)
    drawn: dict[str, ImportanceSamples] = {}

    def importance() -> None:
        drawn["last"] = work.importance()

    calls = {"importance": importance, "sequential": work.sequential, "plain": work.plain, **limits}
    timings = timed(calls, repeats, device)
    samples_per_second = images * k / timings["importance"].median
    sequential, plain = IMAGES_PER_BATCH / timings["sequential"].median, images / timings["plain"].median
    rate = samples_per_second * costs.evaluation(k)
    limit = convolution_rates(costs.largest, work.rows, timings, backward=False)
    entry = {
        "precision": precision,
        "importance_samples": k,
        "images": images,
        "rows": work.rows,
        "seconds": timings["importance"].summary(),
        "image_samples_per_second": samples_per_second,
        "sequential_seconds": timings["sequential"].summary(),
        "sequential_image_samples_per_second": sequential,
        "ratio_to_sequential": samples_per_second / sequential,
        "plain_seconds": timings["plain"].summary(),
        "plain_image_samples_per_second": plain,
        "ratio_to_plain": samples_per_second / plain,
        "ratio_of_flops": costs.evaluation(1) / costs.evaluation(k),
        "flops_per_image_sample": costs.evaluation(k),
        "flops_per_second": rate,
        "limit_flops_per_second": limit,
        "share_of_limit": rate / max(limit.values()),
    }
    return entry, importance_weighted_bound(drawn["last"].log_weights, k)
