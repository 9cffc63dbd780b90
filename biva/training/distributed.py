"""Training of one run by several processes that torchrun starts, usually one per GPU.

Each takes its rows of every batch and draws noise and dropout for them from a seed of its rank. The loss is a mean over
images (free bits act on every image's KL by itself), so the mean of the processes' gradients, which torch's
`DistributedDataParallel` computes during the backward pass, is a gradient of the whole batch. The first process alone
writes anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from biva.config import RunConfig
from biva.errors import UserError
from biva.training.signals import Interrupted

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long processes wait for the first one, which evaluates, or waits for another training of the run to end."""


@dataclass(frozen=True)
class Processes:
    """The processes that train a run, seen from one of them; by default it is alone, and this does nothing."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def named(self, device: str) -> str:
        """What computes, in words."""
        return device if self.count == 1 else f"{self.count} x {device}"

    def own(self, batch: Any) -> Any:
        """This process's rows of a batch, (B, ...) -> (B / count, ...); with labels, of both kinds of images."""
        if isinstance(batch, Tensor):
            return batch.chunk(self.count)[self.rank]
        x, labels = batch
        return torch.cat([*map(self.own, x.tensor_split([len(labels)]))]), self.own(labels)

    def of_all(self, mine: T) -> list[T]:
        """What every process has, by rank; waits for all of them, but not for their GPUs."""
        everyones = [mine] * self.count
        if self.count > 1:
            dist.all_gather_object(everyones, mine)
        return everyones


@contextmanager
def joined_processes(run: RunConfig) -> Iterator[Processes]:
    """The processes that torchrun started to train this run; without torchrun, this one alone.

    Raises:
        UserError: a batch cannot be divided among them, there are fewer GPUs than processes, or one of them is lost.
    """
    if not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys() or os.environ["WORLD_SIZE"] == "1":
        yield Processes()
        return
    rank, local, count = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    training, labels = run.training, run.labels
    parts = {"training.batch_size / training.accumulate": training.batch_size // training.accumulate}
    if labels:
        parts["label_batch_size"] = labels.batch_size
    for name, size in parts.items():
        if size % count:
            raise UserError(
                f"{run.name}: {name} is {size}, which {count} processes cannot share equally. Start a number of "
                "processes that divides it (--nproc-per-node)."
            )
    if run.device != "cpu" and torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise UserError(
                f"torchrun started a process for GPU {local}, but this machine has {torch.cuda.device_count()}, "
                "counted from 0. Start at most one process per GPU (--nproc-per-node)."
            )
        torch.cuda.set_device(local)
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    print(f"{run.name}: process {rank} of {count} waits for the others at {place}", file=sys.stderr, flush=True)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield Processes(rank, count)
    except Interrupted as interruption:  # reported by the first process
        if rank:
            raise SystemExit(interruption.exit_status) from None
        raise
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):  # gloo has no errors of its own
            raise
        raise UserError(
            f"Process {rank} of {count} lost the others ({str(error).splitlines()[0]}). What they print says why. "
            "Start the same command again: training goes on from its last checkpoint."
        ) from error
    finally:
        dist.destroy_process_group()
