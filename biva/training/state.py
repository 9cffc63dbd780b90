"""What training changes, and one update of it (paper.md section 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from biva.config import RunConfig, Training
from biva.data.datasets import Dataset
from biva.data.raw import CLASSES
from biva.errors import UserError
from biva.models.build import build_model
from biva.models.latents import Noise
from biva.models.layers import data_dependent_init
from biva.precision import computing_in
from biva.seeds import derive_seed
from biva.training.batches import Stream
from biva.training.distributed import Processes
from biva.training.objectives import Objective, objective_of
from biva.training.schedule import learning_rate_factor


@dataclass
class State:
    """All that training changes, and what for."""

    objective: Objective
    model: nn.Module
    noise: Noise
    """Of training, drawn from torch's global generator."""
    ema: AveragedModel
    average: Callable[[], None]
    """Moves the average towards the weights."""
    optimiser: torch.optim.Optimizer
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
    samples: dict[str, Tensor] = field(default_factory=dict)
    """Update -> images from the prior; see `Objective.samples`."""
    stopped: str = ""
    """Why training ended; empty while it goes on."""
    skipped: int = 0
    """Batches that no update was made of, since the loss or its gradient was not finite."""
    skipped_in_a_row: int = 0
    """Of these, the ones since the latest update."""
    processes: Processes = field(default_factory=Processes)
    """Those that share every batch."""
    schedule: torch.optim.lr_scheduler.LRScheduler = field(init=False)

    def __post_init__(self) -> None:
        factor = partial(learning_rate_factor, self.objective.run.training)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda update: factor(update, self.seconds))

    _MODULES = ("model", "ema", "optimiser", "schedule", "batches")
    _VALUES = (
        "sums", "update", "seconds", "lines", "since_best", "best", "samples", "stopped", "skipped", "skipped_in_a_row",
    )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values; with the state of torch's global generators, which draw noise and dropout."""
        content: dict[str, Any] = {name: getattr(self, name).state_dict() for name in self._MODULES}
        content |= {name: getattr(self, name) for name in self._VALUES}
        return content | self.generators()

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        device = self.sums.device
        content = content | {"optimiser": _of_one_vector(content["optimiser"], self.model)}
        for name in self._MODULES:
            getattr(self, name).load_state_dict(content[name])
        for name in self._VALUES:
            setattr(self, name, content.get(name, getattr(self, name)))  # checkpoints of earlier versions lack some
        self.sums = self.sums.to(device)
        self.set_generators(content)

    @contextmanager
    def drawing_as_after(self, generators: Mapping[str, Tensor]) -> Iterator[None]:
        """Draw noise and dropout once more as they were drawn since `generators`, and then go on as if it were not."""
        now = self.generators()
        self.set_generators(generators)
        try:
            yield
        finally:
            self.set_generators(now)

    def generators(self) -> dict[str, Tensor]:
        """The state of torch's global generators, which draw noise and dropout."""
        states = {"cpu_generator": torch.get_rng_state()}
        if self.sums.is_cuda:
            states["cuda_generator"] = torch.cuda.get_rng_state(self.sums.device)
        return states

    def set_generators(self, states: Mapping[str, Tensor]) -> None:
        """Draw what followed when `generators` gave this."""
        torch.set_rng_state(states["cpu_generator"])
        if self.sums.is_cuda:
            torch.cuda.set_rng_state(states["cuda_generator"], self.sums.device)

    def join(self, processes: Processes) -> None:
        """Share every batch with other processes, which have built or loaded the same state.

        Raises:
            UserError: theirs is of another update.
        """
        if (update := processes.as_the_first(self.update)) != self.update:
            raise UserError(
                f"Process {processes.rank} found a checkpoint of update {self.update:,}, the first one of update "
                f"{update:,}. All processes must see the same results folder."
            )
        processes.share(self.model, self.ema)
        self.processes = processes


def joined(model: nn.Module, with_gradients: bool = False) -> nn.Parameter:
    """One vector of which the model's parameters become views, and so do their gradients.

    What treats all numbers alike then takes one operation, and not one for each of hundreds of small tensors.
    """
    parameters = [*model.parameters()]
    whole = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, values in zip(parameters, whole.detach().split(sizes), strict=True):
        parameter.data = values.view_as(parameter)
    if with_gradients:
        whole.grad = torch.zeros_like(whole)
        for parameter, values in zip(parameters, whole.grad.split(sizes), strict=True):
            parameter.grad = values.view_as(parameter)
    return whole


def _of_one_vector(optimiser: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Adamax's state for `joined`. Checkpoints of earlier versions have it by parameter, and none of unused ones."""
    state, (group,) = optimiser["state"], optimiser["param_groups"]
    sizes = [parameter.numel() for parameter in model.parameters()]
    if len(group["params"]) == 1 or not state:
        return optimiser | {"param_groups": [group | {"params": [0]}]}
    whole = {
        name: torch.cat([state[i][name].flatten() if i in state else torch.zeros(n) for i, n in enumerate(sizes)])
        for name in ("exp_avg", "exp_inf")
    }
    step = next(iter(state.values()))["step"]
    return {"state": {0: whole | {"step": step}}, "param_groups": [group | {"params": [0], "foreach": None}]}


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

    def noise(_name: str, shape: torch.Size) -> Tensor:
        return torch.randn(shape, device=device)

    if parent_weights is not None:
        model.load_state_dict(parent_weights)
    else:
        with torch.no_grad(), data_dependent_init(model):
            objective.loss(model, batches.next(), noise)
    ema = AveragedModel(model)  # a copy: the average starts at the initialised weights
    weights, averages = joined(model, with_gradients=True), joined(ema.module)
    if training.compiled:
        model.compile(options={"fallback_random": True})  # draws as without
    optimiser = torch.optim.Adamax([weights], lr=training.learning_rate, betas=training.betas)
    return State(
        objective=objective,
        model=model,
        noise=noise,
        ema=ema,
        average=partial(get_ema_multi_avg_fn(training.ema_decay), [averages], [weights], ema.n_averaged),
        optimiser=optimiser,
        batches=batches,
        sums=torch.zeros(len(objective.numbers) + 1, dtype=torch.float64, device=device),
    )


def step(state: State, training: Training) -> list[str]:
    """One update of the weights and of their moving average; none if the loss or its gradient is not finite.

    A batch without an update leaves weights, optimiser, moving average, schedule and the count of updates as they were;
    only the random streams have moved on.

    Returns:
        What was not finite; nothing if the update was made.
    """
    batch, processes, before = state.batches.next(), state.processes, state.generators()
    pieces = batch.chunk(training.accumulate) if training.accumulate > 1 else [batch]
    pieces, noise = [processes.own(piece) for piece in pieces], processes.noise(state.noise)
    sums = state.sums.clone()
    state.optimiser.zero_grad(set_to_none=False)
    with computing_in(training.precision, state.sums.device):
        for piece in pieces:
            loss, numbers = state.objective.loss(state.model, piece, noise)
            (loss / training.accumulate).backward()
            told = torch.stack([*numbers, loss.detach()]).double() / training.accumulate
            processes.average([told])
            sums += told
    gradient = state.optimiser.param_groups[0]["params"][0].grad
    processes.average([gradient])
    if not sums.isfinite().all() & gradient.norm().isfinite():
        state.skipped += 1
        state.skipped_in_a_row += 1
        with torch.no_grad(), state.drawing_as_after(before), computing_in(training.precision, state.sums.device):
            terms = [name for piece in pieces for name in state.objective.not_finite(state.model, piece, noise)]
        return processes.gathered(terms) or _not_finite_gradients(state.model)
    state.sums = sums
    state.optimiser.step()
    state.schedule.step()
    state.average()
    state.update += 1
    state.skipped_in_a_row = 0
    return []


def _not_finite_gradients(model: nn.Module) -> list[str]:
    names = [n for n, w in model.named_parameters() if w.grad is not None and not w.grad.isfinite().all()]
    if not names:
        return ["the norm of the gradient"]
    return [f"the gradient of {names[0]}" + (f" and of {len(names) - 1} more" if names[1:] else "")]
