"""One update of toy models, by one process or by one of two."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from biva.config import Labels, RunConfig
from biva.seeds import derive_seed
from biva.training.distributed import Processes, joined_processes
from biva.training.objectives import Loss, loss_of
from biva.training.state import initial_state, step
from tests.unit.test_training import CPU, toy_dataset, toy_run


def runs() -> dict[str, RunConfig]:
    """Every objective; a batch in pieces. Some images' KL reaches the free bits and others' does not."""
    labels = Labels(count=20, batch_size=4, weight=10.0)
    plain = toy_run("biva", free_bits=0.05)
    return {
        "vae": toy_run("vae", free_bits=0.05),
        "pieces": toy_run("biva", free_bits=0.05, accumulate=3),
        "labels": plain.model_copy(update={"labels": labels}),
        "classifier": plain.model_copy(
            update={"model": "classifier", "labels": labels.model_copy(update={"weight": None})}
        ),
    }


def given(name: str, shape: torch.Size) -> Tensor:
    """The same noise for every image."""
    generator = torch.Generator().manual_seed(derive_seed(name))
    return torch.randn(shape[1:], generator=generator).expand(shape)


def broken(*arguments: Any) -> Loss:
    loss = loss_of(*arguments)
    return loss._replace(value=loss.value * torch.nan)


def update(run: RunConfig, processes: Processes) -> dict[str, Any]:
    """Gradients and means of an update with given noise and no dropout, after a batch that is broken in one process."""
    state = initial_state(run, toy_dataset(), CPU)
    state.noise = given
    for module in state.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0
    state.join(processes)
    with pytest.MonkeyPatch.context() as patch:
        if processes.rank == processes.count - 1:
            patch.setattr("biva.training.state.loss_of", broken)
        assert step(state) == ["loss"]
    assert step(state) == []
    gradients = {name: weight.grad for name, weight in state.model.named_parameters() if weight.grad is not None}
    return {"gradients": gradients, "sums": state.sums, "drawn": processes.of_all(torch.randn(3))}


def share(rank: str, port: str) -> None:
    """Be one of two processes; the updates go into the current folder."""
    os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
    with joined_processes(runs()["labels"]) as them:
        torch.save({name: update(run, them) for name, run in runs().items()}, f"rank{rank}.pt")
