"""How fast a run will be: as measured by `biva bench` on this machine, or else by an assumption that is told."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch

from biva.bench.machine import machine
from biva.config import Precision, RunConfig
from biva.plan.work import Rates
from biva.records import read_json

ASSUMED_CPU = 20e9
"""FLOP/s of one CPU core, a cautious assumption: one with AVX2 does 50 to 100 in the convolutions themselves."""

ASSUMED_GPU = 10e12
"""FLOP/s of a GPU, a cautious assumption: half of the float32 peak of an NVIDIA A100 (19.5, its data sheet)."""

EVALUATION: Precision = "fp32"
"""Of the evaluation of all runs."""


def planned_device(device: str) -> str:
    """`cpu` or `cuda`: what a run of this setting would use here; a machine that lacks it can still plan for it."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def rates_of(run: RunConfig, benchmarks: Path, samples: int) -> Rates:
    """The newest measurement of the run's model on this machine and device, or else the assumed rate.

    Args:
        run: what is planned.
        benchmarks: folder of the records of `biva bench`.
        samples: K of the evaluation; the measurement with the nearest one is taken.
    """
    device = planned_device(run.device)
    there = device == "cpu" or torch.cuda.is_available()
    paths = sorted(benchmarks.glob("*.json")) if there else []
    records = [(record, path) for path in paths if _is_of(record := read_json(path), run, torch.device(device))]
    if not records:
        cores = min(run.threads, os.cpu_count() or 1)
        return assumed(ASSUMED_GPU if device == "cuda" else ASSUMED_CPU * cores, "default")
    record, path = max(records, key=lambda found: found[0]["finished"])
    training = min(
        _entries(record, "training", run.training.precision), key=_distance("batch_size", run.training.batch_size)
    )
    evaluation = min(_entries(record, "evaluation", EVALUATION), key=_distance("importance_samples", samples))
    source = (
        f"measured {record['finished'][:10]}, batch {training['batch_size']}, "
        f"K = {evaluation['importance_samples']}: {path}"
    )
    return Rates(training["flops_per_second"], evaluation["flops_per_second"], source)


def assumed(rate: float, origin: str) -> Rates:
    """The same FLOP/s for training and evaluation, marked as an assumption."""
    return Rates(rate, rate, f"assumed {rate / 1e9:,g} GFLOP/s ({origin})")


def _is_of(record: dict[str, Any], run: RunConfig, device: torch.device) -> bool:
    """Whether a record tells how fast this run will be here. The threads of the CPU do not matter to a GPU."""
    here = machine(device) | {"threads": run.threads if device.type == "cpu" else record["machine"]["threads"]}
    wanted = (run.architecture.model_dump(mode="json", exclude={"description"}), run.model, run.training.compiled, here)
    found = tuple(record[key] for key in ("architecture_settings", "model", "compiled", "machine"))
    needed = (("training", run.training.precision), ("evaluation", EVALUATION))
    return found == wanted and all(_entries(record, kind, precision) for kind, precision in needed)


def _entries(record: dict[str, Any], kind: str, precision: Precision) -> list[dict[str, Any]]:
    return [entry for entry in record[kind] if entry["precision"] == precision]


def _distance(key: str, wanted: int) -> Any:
    """Orders entries by how far, as a ratio, they are from what is wanted."""
    return lambda entry: abs(math.log(entry[key] / wanted))
