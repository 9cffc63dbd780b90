"""Training of one run by several processes that torchrun starts, usually one per GPU.

Every process draws the batch, the noise and the dropout of the whole batch and keeps its own rows of them, so that one
process or several follow the same random streams. The loss is a mean over images (free bits act on every image's KL by
itself), so the mean of the processes' gradients is the gradient of one process, but for the order of summation.
The first process alone writes anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from biva.config import RunConfig
from biva.errors import UserError
from biva.models.latents import Noise
from biva.training.signals import Interrupted

PATIENCE = timedelta(days=7)
"""How long processes wait for the first one, which evaluates, or waits for another training of the run to end."""


@dataclass(frozen=True)
class Processes:
    """The processes that train a run, seen from one of them; by default it is alone, and everything here does nothing.

    A batch has its labelled images first, then the unlabelled ones; whatever follows them in a model has rows in that
    order too, the unlabelled ones perhaps several times (`SemiSupervisedVAE.forward`).
    """

    rank: int = 0
    count: int = 1
    labelled: int = 0
    """Labelled images in a whole batch."""
    unlabelled: int = 0
    """Unlabelled images in a whole batch, or in one of the pieces that it goes through in."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def named(self, device: str) -> str:
        """What computes, in words."""
        return device if self.count == 1 else f"{self.count} x {device}"

    def own(self, batch: Any) -> Any:
        """This process's part of a batch, which may be a tuple of tensors."""
        if self.count == 1:
            return batch
        return tuple(map(self.rows, batch)) if isinstance(batch, tuple) else self.rows(batch)

    def rows(self, whole: Tensor) -> Tensor:
        """This process's rows of what the whole batch has, (rows, ...) -> (rows / count, ...)."""
        repeats = (len(whole) - self.labelled) // max(1, self.unlabelled)
        blocks = whole.split([self.labelled, *[self.unlabelled] * repeats])
        return torch.cat([block.chunk(self.count)[self.rank] for block in blocks if len(block)])

    def noise(self, noise: Noise) -> Noise:
        """Noise for this process's rows from that of all."""
        if self.count == 1:
            return noise
        return lambda name, shape: self.rows(noise(name, torch.Size([self.count * shape[0], *shape[1:]])))

    def share(self, model: nn.Module, average: nn.Module) -> None:
        """Give a model that all processes have built the first one's weights, and dropout for this one's rows."""
        if self.count == 1:
            return
        for tensor in [*model.state_dict().values(), *average.state_dict().values()]:
            self._together(partial(dist.broadcast, tensor, 0))
        for module in [*model.modules()]:
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    setattr(module, name, _SharedDropout(child.p, self))

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their means over the processes, in one exchange."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        self._together(partial(dist.all_reduce, flat))
        flat /= self.count
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def largest(self, *numbers: float) -> list[float]:
        """The largest that any process has of each number; waits for all of them, but not for their GPUs."""
        if self.count == 1:
            return [*numbers]
        result = torch.tensor(numbers, dtype=torch.float64)
        self._together(partial(dist.all_reduce, result, dist.ReduceOp.MAX))
        return result.tolist()

    def of_the_first(self, number: int) -> int:
        """What the first process has of a number that is not negative."""
        return int(self.largest(number if self.first else 0)[0])

    def _together(self, exchange: Callable[[], object]) -> None:
        try:
            exchange()
        except RuntimeError as error:
            raise UserError(
                f"Process {self.rank} of {self.count} lost the others ({str(error).splitlines()[0]}). What they print "
                "says why. Start the same command again: training goes on from its last checkpoint."
            ) from error


class _SharedDropout(nn.Dropout):
    """The rows of one process of the dropout that the whole batch would have in one."""

    def __init__(self, rate: float, processes: Processes) -> None:
        super().__init__(rate)
        self.processes = processes

    def forward(self, h: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return h
        whole = torch.cat([torch.ones_like(h)] * self.processes.count)
        return h * self.processes.rows(super().forward(whole))


@contextmanager
def joined_processes(run: RunConfig) -> Iterator[Processes]:
    """The processes that torchrun started to train this run; without torchrun, this one alone.

    Raises:
        UserError: a batch cannot be divided among them, or there are fewer GPUs than processes.
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
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        only_labels = labels is not None and labels.weight is None
        unlabelled = 0 if only_labels else training.batch_size // training.accumulate
        yield Processes(rank, count, labels.batch_size if labels else 0, unlabelled)
    except Interrupted as interruption:  # reported by the first process
        if rank:
            raise SystemExit(interruption.exit_status) from None
        raise
    finally:
        dist.destroy_process_group()
