"""Training by paper.md section 4, resumable at any update."""

from __future__ import annotations

import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save as serialise
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from biva import records
from biva.bounds import free_bits_loss
from biva.config import Protocol, RunConfig, Training
from biva.data.datasets import Dataset, Split
from biva.devices import choose_device, device_name
from biva.errors import UserError
from biva.evaluation.likelihood import fixed_input, importance_sample, rows_within
from biva.models.hierarchical_vae import HierarchicalVAE, count_parameters
from biva.models.layers import data_dependent_init
from biva.records import RunFolder
from biva.seeds import derive_seed
from biva.training import checkpoint
from biva.training.batches import Batches

SPLITS: dict[Protocol, tuple[Split, Split]] = {"paper": ("train+valid", "test"), "clean": ("train", "valid")}
"""Protocol -> the split that is trained on, the split that selects the weights."""

SELECTION_BUDGET_MB = 512


class Interrupted(Exception):
    """A signal asked training to stop; everything is saved."""

    def __init__(self, number: int, update: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} at update {update:,}; the state is saved. "
            "Run the same command again to go on."
        )
        self.exit_status = 128 + number


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


def initial_state(run: RunConfig, dataset: Dataset, device: torch.device) -> State:
    """A model after data-dependent initialisation on one batch, the EMA started from it, the optimiser at update 0."""
    training = run.training
    images = dataset.split(SPLITS[training.protocol][0])
    if training.batch_size > len(images):
        raise UserError(
            f"training.batch_size is {training.batch_size}, but dataset {dataset.name!r} has only {len(images)} "
            f"training images. Use a smaller batch."
        )
    torch.manual_seed(derive_seed(run.seed, "initialisation"))
    model = HierarchicalVAE(run.architecture, run.model).to(device)
    batches = Batches(
        images,
        dataset.levels,
        dataset.binarisation,
        training.batch_size,
        derive_seed(run.seed, "data"),
        device,
    )
    torch.manual_seed(derive_seed(run.seed, "training"))
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


def evaluate_selection(state: State, run: RunConfig, x: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Bound of the EMA weights on the selection split: means of its terms, and the KL of every latent group; nats."""
    model: HierarchicalVAE = state.ema.module  # type: ignore[assignment]
    model.eval()
    seed = derive_seed(run.seed, "selection")
    rows = rows_within(SELECTION_BUDGET_MB, run.architecture)
    samples = importance_sample(model, x, 1, seed=seed, rows=rows, device=state.sums.device)
    kl = {name: value.mean().item() for name, value in samples.kl.items()}
    terms = {
        "elbo": samples.log_weights.mean().item(),
        "log_likelihood": samples.log_likelihood.mean().item(),
        "kl": sum(kl.values()),
    }
    return terms, kl


def train(run: RunConfig, dataset: Dataset, folder: RunFolder, on_evaluation: Callable[[], None]) -> None:
    """Train one run to its end, from its newest checkpoint if it has one, and write its record and weights.

    Args:
        run: everything that decides the result.
        dataset: what to train on.
        folder: where the record goes; another process that trains there is waited for.
        on_evaluation: called after every line of the record, e.g. to mirror it.

    Raises:
        UserError: wrong settings, a full disk, or a diverged run.
        Interrupted: SIGTERM or SIGINT came; the state is saved.
    """
    torch.set_num_threads(run.threads)
    device = choose_device(run.device)
    with _only_writer(folder.path):
        state = initial_state(run, dataset, device)
        _set_aside_other_run(run, dataset, folder)
        saved = checkpoint.load(folder.checkpoint)
        if saved is not None:
            state.load_state_dict(saved)
            _truncate(folder.record, state.lines)
        else:
            folder.record.unlink(missing_ok=True)
        _write_identity(run, dataset, folder, state, device)
        on_evaluation()
        if not state.stopped:
            _run_to_end(state, run, dataset, folder, on_evaluation)
        _write_results(state, run, folder)
        on_evaluation()


def _run_to_end(
    state: State, run: RunConfig, dataset: Dataset, folder: RunFolder, on_evaluation: Callable[[], None]
) -> None:
    training = run.training
    x = fixed_input(dataset, SPLITS[training.protocol][1])
    progress = tqdm(
        total=training.max_updates, initial=state.update, desc=run.name, unit="update", disable=None, mininterval=1
    )
    started, saved_at = time.monotonic() - state.seconds, time.monotonic()
    with _signals() as signals, progress:
        while not state.stopped:
            step(state, training)
            progress.update()
            state.seconds = time.monotonic() - started
            due = state.update % training.evaluate_every == 0 or state.update == training.max_updates
            if due:
                line = _evaluate(state, run, x)
                state.lines += 1
                records.append_line(folder.record, line)
                progress.set_postfix(
                    ELBO=f"{line['selection']['elbo']:.2f}",
                    KL=f"{line['selection']['kl']:.2f}",
                    images=f"{line['images_per_second']:.0f}/s",
                )
                if progress.disable:
                    print(_summary(run, line), file=sys.stderr, flush=True)
                on_evaluation()
            if due or signals or time.monotonic() - saved_at > training.checkpoint_seconds:
                checkpoint.save(folder.checkpoint, state.state_dict())
                saved_at = time.monotonic()
            if signals and not state.stopped:
                raise Interrupted(signals[0], state.update)


def _summary(run: RunConfig, line: dict[str, Any]) -> str:
    return (
        f"{run.name}: update {line['update']:,} of at most {run.training.max_updates:,}, "
        f"ELBO {line['selection']['elbo']:.2f} nats, KL {line['selection']['kl']:.2f} nats, "
        f"{line['images_per_second']:.0f} images/s, {line['seconds']:.0f} s{', best so far' if line['best'] else ''}"
    )


def _evaluate(state: State, run: RunConfig, x: Tensor) -> dict[str, Any]:
    """One line of the run record; updates the selection and decides whether training ends."""
    training = run.training
    updates = (state.update - 1) % training.evaluate_every + 1
    log_likelihood, kl, loss = (state.sums / updates).tolist()
    state.sums.zero_()
    if not torch.isfinite(torch.tensor(loss)):
        raise UserError(
            f"{run.name}: the training loss became {loss} between update {state.update - updates:,} and "
            f"{state.update:,}. The last checkpoint is from before. Lower training.learning_rate and train again."
        )
    selection, kl_per_group = evaluate_selection(state, run, x)
    best = not state.best or selection["elbo"] > state.best["elbo"]
    if best:
        weights = {name: value.clone() for name, value in state.ema.module.state_dict().items()}
        state.best = {"update": state.update, "elbo": selection["elbo"], "weights": weights}
    state.since_best = 0 if best else state.since_best + 1
    if training.patience is not None and state.since_best >= training.patience:
        state.stopped = "early stopping"
    elif state.update == training.max_updates:
        state.stopped = "max_updates"
    return {
        "update": state.update,
        "epoch": state.update / state.batches.per_epoch,
        "seconds": state.seconds,
        "images_per_second": state.update * training.batch_size / state.seconds,
        "learning_rate": state.schedule.get_last_lr()[0],
        "train": {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl, "loss": loss},
        "selection": selection,
        "kl_per_group": kl_per_group,
        "best": best,
    }


def _write_identity(run: RunConfig, dataset: Dataset, folder: RunFolder, state: State, device: torch.device) -> None:
    """Write `run.json` at the start; on resuming, note by which code and where the run goes on."""
    now, code = datetime.now(UTC).isoformat(timespec="seconds"), records.commit()
    if state.update and folder.identity.exists():
        identity = records.read_json(folder.identity)
        resumed = {"time": now, "update": state.update, "commit": code, "device": device_name(device)}
        identity["resumed"] = [*identity.get("resumed", []), resumed]
    else:
        identity = {
            "run_id": uuid.uuid4().hex,
            "experiments": run.experiments,
            "name": run.name,
            "started": now,
            "config": run.model_dump(mode="json"),
            "config_digest": run.digest,
            "commit": code,
            "data_fingerprint": dataset.fingerprint,
            "device": device_name(device),
            "parameters": count_parameters(state.model),
            "versions": records.versions(),
        }
    records.write_json(folder.identity, identity)


def _write_results(state: State, run: RunConfig, folder: RunFolder) -> None:
    """`weights.safetensors`, then `train.json`, whose presence says that training is complete."""
    weights = {name: value.contiguous().cpu() for name, value in state.best["weights"].items()}
    records.write_atomically(folder.weights, serialise(weights))
    result = {
        "updates": state.update,
        "epochs": state.update / state.batches.per_epoch,
        "images_seen": state.update * run.training.batch_size,
        "wall_seconds": state.seconds,
        "stopped": state.stopped,
        "selected": {"update": state.best["update"], "elbo": state.best["elbo"]},
        "selection_split": SPLITS[run.training.protocol][1],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    records.write_json(folder.training, result)


def _set_aside_other_run(run: RunConfig, dataset: Dataset, folder: RunFolder) -> None:
    """Move a run of other settings or other data, with its checkpoint, to `superseded/RUN_ID/`: nothing is lost."""
    if not folder.identity.exists():
        return
    identity = records.read_json(folder.identity)
    if (identity["config_digest"], identity["data_fingerprint"]) == (run.digest, dataset.fingerprint):
        return
    target = folder.path / "superseded" / identity["run_id"]
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.path.iterdir():
        if path.name not in ("superseded", LOCK):
            path.rename(target / path.name)
    print(f"{run.name}: settings or data have changed; the earlier run is kept in {target}", file=sys.stderr)


def _truncate(record: Path, lines: int) -> None:
    """Drop what the record says about updates after the checkpoint: they are made again."""
    kept = record.read_text(encoding="utf-8").split("\n")[:lines] if record.exists() else []
    records.write_atomically(record, "".join(f"{line}\n" for line in kept).encode())


LOCK = ".lock"


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Hold the run's lock, waiting for an orphan of a killed workflow to end if need be."""
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{path}: another process trains this run; waiting for it to end", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT in a list instead of dying of them."""
    caught: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda received, _frame: caught.append(received)) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
