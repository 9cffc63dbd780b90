"""What training changes, and one update of it (paper.md section 4)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from biva.config import RunConfig
from biva.data.datasets import Dataset
from biva.data.raw import CLASSES
from biva.devices import computing_in
from biva.models.build import build_model
from biva.models.latents import Noise
from biva.models.layers import data_dependent_init
from biva.seeds import derive_seed
from biva.training.batches import Batches, MixedBatches, batches_of
from biva.training.compilation import compile_model
from biva.training.distributed import Processes
from biva.training.objectives import Loss, loss_of
from biva.training.schedule import learning_rate


@dataclass
class State:
    """All that training changes."""

    run: RunConfig
    device: torch.device
    model: nn.Module
    ema: nn.Module
    """The same model with the exponential moving average of the weights, in evaluation mode."""
    optimiser: torch.optim.Optimizer
    batches: Batches | MixedBatches
    noise: Noise
    """The noise of training, drawn from torch's global generator."""
    processes: Processes = field(default_factory=Processes)
    """Those that share every batch."""
    shared: DistributedDataParallel | None = None
    """The model, whose gradients all processes average; None: this one is alone."""
    update: int = 0
    seconds: float = 0.0
    """Seconds of training, over all attempts."""
    sums: dict[str, float] = field(default_factory=dict)
    """`Loss.numbers`, loss and gradient norm, summed over the updates since the last evaluation."""
    first_loss: float = 0.0
    """That of the first update; 0 before it."""
    loss_growth: float = 0.0
    """The largest mean loss between two evaluations, as a multiple of the first update's loss."""
    lines: int = 0
    """Lines in the run record."""
    best: dict[str, Any] = field(default_factory=dict)
    """Selected so far: `update`, `elbo` (nats, selection images; not of a classifier), `weights`."""
    since_best: int = 0
    """Evaluations since the best one."""
    samples: dict[str, Tensor] = field(default_factory=dict)
    """Update -> images from the prior, of the first, second, fourth, eighth ... evaluation."""
    stopped: str = ""
    """Why training ended; empty while it goes on."""
    skipped: int = 0
    """Batches that no update was made of, since the loss or its gradient was not finite."""
    skipped_in_a_row: int = 0
    """Batches skipped since the latest update."""

    _MODULES = ("model", "ema", "optimiser", "batches")
    _VALUES = (
        "update", "seconds", "sums", "first_loss", "loss_growth", "lines", "best", "since_best", "samples", "stopped",
        "skipped", "skipped_in_a_row",
    )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values; with the states of all processes' generators, which draw noise and dropout."""
        content: dict[str, Any] = {name: getattr(self, name).state_dict() for name in self._MODULES}
        content |= {name: getattr(self, name) for name in self._VALUES}
        generators = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        return content | {"generators": self.processes.of_all(generators)}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken, if there are as many processes as then."""
        for name in self._MODULES:
            getattr(self, name).load_state_dict(content[name])
        for name in self._VALUES:
            setattr(self, name, content[name])
        if self.processes.rank >= len(content["generators"]):
            self._seed()
            return
        generators = content["generators"][self.processes.rank]
        torch.set_rng_state(generators["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(generators["cuda"], self.device)

    def join(self, processes: Processes) -> None:
        """Share every batch with other processes, which have built the same state, from the first one's weights."""
        if processes.count == 1:
            return
        self.processes, self.shared = processes, DistributedDataParallel(self.model)
        before = self.batches.state_dict()
        with warnings.catch_warnings(action="ignore"):  # of strides of axes of size 1
            _backward(self)  # all updates sum gradients in an order that follows this pass, also after a resume
        self.batches.load_state_dict(before)
        self._seed()

    def _seed(self) -> None:
        """Draw noise and dropout of this process's own, from its rank and the update."""
        torch.manual_seed(seed_of(self.run, "training", self.processes.rank, self.update))


def seed_of(run: RunConfig, *purpose: str | int) -> int:
    """A run's seed for a purpose; a run that fine-tunes another has others than that one."""
    return derive_seed(run.seed, *purpose, *(["finetuning"] if run.finetunes else []))


def initial_state(
    run: RunConfig, dataset: Dataset, device: torch.device, parent_weights: Mapping[str, Tensor] | None = None
) -> State:
    """A model after data-dependent initialisation on one batch, the EMA started from it, the optimiser at update 0.

    A run that fine-tunes another starts from that one's weights instead, with random streams of its own.
    """
    training = run.training

    def noise(_name: str, shape: torch.Size) -> Tensor:
        return torch.randn(shape, device=device)

    torch.manual_seed(seed_of(run, "initialisation"))
    model = build_model(run.architecture, run.model, CLASSES if run.labels else 0).to(device)
    batches = batches_of(run, dataset, device, partial(seed_of, run))
    torch.manual_seed(seed_of(run, "training"))
    if parent_weights is not None:
        model.load_state_dict(parent_weights)
    else:
        with torch.no_grad(), data_dependent_init(model):
            loss_of(run, model, batches.next(), noise)
    ema = deepcopy(model).eval().requires_grad_(False)  # the average starts at the initialised weights
    if training.compiled:
        compile_model(model)
    optimiser = torch.optim.Adamax(model.parameters(), lr=training.learning_rate, betas=training.betas, foreach=True)
    return State(run, device, model, ema, optimiser, batches, noise)


def step(state: State) -> list[str]:
    """One update of the weights and of their moving average; none if loss or gradient is not finite, or too large.

    A batch without an update leaves weights, optimiser, moving average and the count of updates as they were; only the
    random streams have moved on.

    Returns:
        What was not finite: terms of the loss, or else the loss, or else its gradient, named also where its norm is
        above `training.largest_gradient_norm`; nothing if the update was made.
    """
    training, processes = state.run.training, state.processes
    weights = state.optimiser.param_groups[0]["params"]
    state.optimiser.zero_grad()
    loss, total = _backward(state)
    norm = get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    everyones = processes.of_all(torch.stack([*total, norm.double()]).tolist())
    values = [sum(of_each) / processes.count for of_each in zip(*everyones, strict=True)]
    means = dict(zip((*loss.terms, "loss", *loss.numbers, "gradient_norm"), values, strict=True))

    limits = {"gradient_norm": training.largest_gradient_norm or math.inf}
    if broken := [n for n, mean in means.items() if not math.isfinite(mean) or mean > limits.get(n, math.inf)]:
        state.skipped += 1
        state.skipped_in_a_row += 1
        return [name for name in broken if name in loss.terms] or broken[:1]
    state.optimiser.param_groups[0]["lr"] = learning_rate(training, state.update, state.seconds)
    state.optimiser.step()
    get_ema_multi_avg_fn(training.ema_decay)([*state.ema.parameters()], weights, state.update)
    for name in means.keys() - loss.terms.keys():
        state.sums[name] = state.sums.get(name, 0.0) + means[name]
    state.first_loss = state.first_loss or means["loss"]
    state.update += 1
    state.skipped_in_a_row = 0
    return []


def _backward(state: State) -> tuple[Loss, Tensor]:
    """Add the gradient of the next batch's loss, which is the mean of all processes' gradients, to the weights'.

    Returns:
        The loss of the last piece that the batch went through in; and of this process's part of the whole batch, in one
        tensor, the terms, the loss and the numbers.
    """
    training, processes, model = state.run.training, state.processes, state.shared or state.model
    batch, total = state.batches.next(), torch.zeros((), device=state.device)
    pieces = batch.chunk(training.accumulate) if training.accumulate > 1 else [batch]
    with computing_in(training.precision, state.device):
        for number, piece in enumerate(pieces, 1):
            with state.shared.no_sync() if state.shared and number < len(pieces) else nullcontext():
                loss = loss_of(state.run, model, processes.own(piece), state.noise, state.update)
                (loss.value / training.accumulate).backward()
            parts = [*loss.terms.values(), loss.value.detach(), *loss.numbers.values()]
            total = total + torch.stack(parts).double() / training.accumulate
    return loss, total
