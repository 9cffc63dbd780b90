"""What training changes, and one update of it (paper.md section 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from biva.bounds import free_bits_loss
from biva.config import Protocol, RunConfig, Training
from biva.data.datasets import Dataset, Split
from biva.errors import UserError
from biva.models.hierarchical_vae import HierarchicalVAE
from biva.models.layers import data_dependent_init
from biva.seeds import derive_seed
from biva.training.batches import Batches

SPLITS: dict[Protocol, tuple[Split, Split]] = {"paper": ("train+valid", "test"), "clean": ("train", "valid")}
"""Protocol -> the split that is trained on, the split that selects the weights."""


@dataclass
class State:
    """All that training changes."""

    model: HierarchicalVAE
    ema: AveragedModel
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    batches: Batches
    sums: Tensor
    """log-likelihood, KL, loss, summed over the updates since the last evaluation; float64."""
    update: int = 0
    seconds: float = 0.0
    lines: int = 0
    """Lines in the run record."""
    since_best: int = 0
    """Evaluations since the best one."""
    best: dict[str, Any] = field(default_factory=dict)
    """Selected so far: `update`, `elbo` (nats, selection split), `weights`."""
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
    training = run.training
    images = dataset.split(SPLITS[training.protocol][0])
    if training.batch_size > len(images):
        raise UserError(
            f"training.batch_size is {training.batch_size}, but dataset {dataset.name!r} has only {len(images)} "
            f"training images. Use a smaller batch."
        )

    def seed(purpose: str) -> int:
        return derive_seed(run.seed, purpose, *(["finetuning"] if run.finetunes else []))

    torch.manual_seed(seed("initialisation"))
    model = HierarchicalVAE(run.architecture, run.model).to(device)
    batches = Batches(
        images,
        dataset.levels,
        dataset.binarisation,
        training.batch_size,
        seed("data"),
        device,
    )
    torch.manual_seed(seed("training"))
    if parent_weights is not None:
        model.load_state_dict(parent_weights)
    else:
        with torch.no_grad(), data_dependent_init(model):
            model(batches.next(), _noise(device))
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(training.ema_decay))
    ema.update_parameters(model)  # the first call copies: the average starts at the initialised weights
    optimiser = torch.optim.Adamax(model.parameters(), lr=training.learning_rate, betas=training.betas, foreach=True)
    floor = training.learning_rate_minimum / training.learning_rate
    return State(
        model=model,
        ema=ema,
        optimiser=optimiser,
        schedule=torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda update: max(training.learning_rate_decay**update, floor)
        ),
        batches=batches,
        sums=torch.zeros(3, dtype=torch.float64, device=device),
    )


def _noise(device: torch.device) -> Callable[[torch.Size], Tensor]:
    return lambda shape: torch.randn(shape, device=device)


def step(state: State, training: Training) -> None:
    """One update of the weights and of their moving average, without waiting for the device."""
    x = state.batches.next()
    state.model.train()
    terms = state.model(x, _noise(x.device))
    loss = free_bits_loss(terms.log_likelihood, terms.kl, training.free_bits)
    state.optimiser.zero_grad()
    loss.backward()
    state.optimiser.step()
    state.schedule.step()
    state.ema.update_parameters(state.model)
    kl = terms.kl.detach().sum(1)
    state.sums += torch.stack([terms.log_likelihood.detach().mean(), kl.mean(), loss.detach()]).double()
    state.update += 1
