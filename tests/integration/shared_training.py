"""Toy runs with dropout, for one process or for several: `torchrun -m tests.integration.shared_training FOLDER`."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from biva.config import Labels, RunConfig
from biva.records import RunFolder
from biva.training.loop import train
from biva.training.objectives import Loss, loss_of
from tests.unit.test_semi_supervised import labelled_dataset
from tests.unit.test_training import toy_run

EVERY_BATCH = {"max_updates": 6, "evaluate_every": 3, "free_bits": 0.05}
"""Free bits that some images' KL reaches and others' does not."""


def runs() -> dict[str, RunConfig]:
    """Every objective; a batch in pieces; and a run of which some batches are broken."""
    labels = Labels(count=20, batch_size=4, weight=10.0)
    plain = toy_run("biva", **EVERY_BATCH)
    return {
        "vae": toy_run("vae", **EVERY_BATCH),
        "pieces": toy_run("biva", accumulate=3, **EVERY_BATCH),
        "labels": plain.model_copy(update={"labels": labels}),
        "classifier": plain.model_copy(
            update={"model": "classifier", "labels": labels.model_copy(update={"weight": None})}
        ),
        "broken": plain.model_copy(update={"seed": 2}),
    }


def train_all(folder: Path) -> None:
    """Train every run to its end, in `folder`/NAME."""
    for name, run in runs().items():
        with pytest.MonkeyPatch.context() as patch:
            if name == "broken":
                break_batches(patch, {2, 3})
            train(run, labelled_dataset(), RunFolder(folder / name), lambda: None)


def break_batches(patch: pytest.MonkeyPatch, numbers: set[int]) -> None:
    """Make the loss of these batches NaN, counted from 0; of several processes, in the last one alone."""
    calls = iter(range(-1, 1000))  # the first call initialises the model
    last = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)

    def broken(*arguments: Any) -> Loss:
        loss = loss_of(*arguments)
        return loss._replace(value=loss.value * torch.nan) if next(calls) in numbers and last else loss

    patch.setattr("biva.training.state.loss_of", broken)


if __name__ == "__main__":
    join: Any = cache(dist.init_process_group)  # torchrun's processes can meet only once: they stay for all runs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "init_process_group", join)
        patch.setattr(dist, "destroy_process_group", lambda: None)
        train_all(Path(sys.argv[1]))
