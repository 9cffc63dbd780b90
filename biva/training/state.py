"""What training changes, and one update of it (paper.md section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from biva.config import RunConfig, Training
from biva.data.datasets import Dataset
from biva.data.raw import CLASSES
from biva.models.build import build_model
from biva.models.latents import Noise
from biva.models.layers import data_dependent_init
from biva.precision import computing_in
from biva.seeds import derive_seed
from biva.training.batches import Stream
from biva.training.objectives import Objective, objective_of


@dataclass
class State:
    """All that training changes, and what for."""

    objective: Objective
    model: nn.Module
    noise: Noise
    """Of training, drawn from torch's global generator."""
    ema: AveragedModel
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    batches: Stream
    sums: Tensor
    """`objective.numbers` and the loss, summed over the updates since the last evaluation; float64."""
    update: int = 0
    seconds: float = 0.0
    lines: int = 0
    """Lines in the run record."""
    since_best: int = 0
    """Evaluations since the best one."""
    best: dict[str, Any] = field(default_factory=dict)
    """Selected so far: `update`, `elbo` (nats, selection split; not of a classifier), `weights`."""
    stopped: str = ""
    """Why training ended; empty while it goes on."""

    _MODULES = ("model", "ema", "optimiser", "schedule", "batches")
    _VALUES = ("sums", "update", "seconds", "lines", "since_best", "best", "stopped")

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values; with the state of torch's global generators, which draw noise and dropout."""
        content: dict[str, Any] = {name: getattr(self, name).state_dict() for name in self._MODULES}
        content |= {name: getattr(self, name) for name in self._VALUES}
        content["cpu_generator"] = torch.get_rng_state()
        if self.sums.is_cuda:
            content["cuda_generator"] = torch.cuda.get_rng_state(self.sums.device)
        return content

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        device = self.sums.device
        for name in self._MODULES:
            getattr(self, name).load_state_dict(content[name])
        for name in self._VALUES:
            setattr(self, name, content[name])
        self.sums = self.sums.to(device)
        torch.set_rng_state(content["cpu_generator"])
        if self.sums.is_cuda:
            torch.cuda.set_rng_state(content["cuda_generator"], device)


def initial_state(
    run: RunConfig, dataset: Dataset, device: torch.device, parent_weights: Mapping[str, Tensor] | None = None
) -> State:
    """A model after data-dependent initialisation on one batch, the EMA started from it, the optimiser at update 0.

    A run that fine-tunes another starts from that one's weights instead, with random streams of its own.
    """
    training, objective = run.training, objective_of(run)

    def seed(purpose: str) -> int:
        return derive_seed(run.seed, purpose, *(["finetuning"] if run.finetunes else []))

    torch.manual_seed(seed("initialisation"))
    model = build_model(run.architecture, run.model, CLASSES if run.labels else 0).to(device)
    batches = objective.batches(dataset, device, seed)
    torch.manual_seed(seed("training"))

    def noise(shape: torch.Size) -> Tensor:
        return torch.randn(shape, device=device)

    if parent_weights is not None:
        model.load_state_dict(parent_weights)
    else:
        with torch.no_grad(), data_dependent_init(model):
            objective.loss(model, batches.next(), noise)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(training.ema_decay))
    ema.update_parameters(model)  # the first call copies: the average starts at the initialised weights
    if training.compiled:
        model.compile(options={"fallback_random": True})  # draws as without
    optimiser = torch.optim.Adamax(model.parameters(), lr=training.learning_rate, betas=training.betas, foreach=True)
    floor = training.learning_rate_minimum / training.learning_rate
    return State(
        objective=objective,
        model=model,
        noise=noise,
        ema=ema,
        optimiser=optimiser,
        schedule=torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda update: max(training.learning_rate_decay**update, floor)
        ),
        batches=batches,
        sums=torch.zeros(len(objective.numbers) + 1, dtype=torch.float64, device=device),
    )


def step(state: State, training: Training) -> None:
    """One update of the weights and of their moving average, without waiting for the device."""
    batch = state.batches.next()
    state.model.train()
    state.optimiser.zero_grad()
    with computing_in(training.precision, state.sums.device):
        for piece in batch.chunk(training.accumulate) if training.accumulate > 1 else [batch]:
            loss, numbers = state.objective.loss(state.model, piece, state.noise)
            (loss / training.accumulate).backward()
            state.sums += torch.stack([*numbers, loss.detach()]).double() / training.accumulate
    state.optimiser.step()
    state.schedule.step()
    state.ema.update_parameters(state.model)
    state.update += 1
