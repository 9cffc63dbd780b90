"""Training by paper.md section 4, resumable at any update."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from safetensors.torch import load as deserialise
from torch import Tensor
from tqdm import tqdm

from biva import records
from biva.config import RunConfig
from biva.data.datasets import Dataset
from biva.data.inputs import SELECTION_SPLIT, fixed_input
from biva.devices import choose_device, device_name
from biva.errors import UserError, some_of
from biva.precision import computing_in
from biva.records import RunFolder
from biva.training import checkpoint
from biva.training.distributed import Processes, joined_processes
from biva.training.folder import (
    load_parent,
    only_writer,
    set_aside_other_run,
    truncate,
    write_identity,
    write_results,
    write_samples,
)
from biva.training.schedule import is_over
from biva.training.signals import Interrupted, caught_signals
from biva.training.state import State, initial_state, step

TELL_SECONDS = 10
"""Of short evaluation intervals, MLflow is not told of every one at once."""

SHOWN = 8
"""Terms that are not finite that a message names."""


def evaluate_selection(state: State, x: Tensor) -> tuple[dict[str, float], dict[str, float], dict[str, dict[str, int]]]:
    """What selects the EMA weights, on the selection split: terms and KL per group (nats), active units."""
    model, device = state.ema.module, state.sums.device
    model.eval()
    with computing_in(state.objective.run.training.precision, device):
        return *state.objective.evaluate(model, x, device), state.objective.active_units(model, x, device)


def train(
    run: RunConfig,
    dataset: Dataset,
    folder: RunFolder,
    on_evaluation: Callable[[], None],
    parent_folder: RunFolder | None = None,
) -> None:
    """Train one run to its end, from its newest checkpoint if it has one, and write its record and weights.

    Processes that torchrun starts share the work; the first one alone writes.

    Args:
        run: everything that decides the result.
        dataset: what to train on.
        folder: where the record goes; another process that trains there is waited for.
        on_evaluation: called when the record has grown, at most every `TELL_SECONDS`, and whenever training starts or
            ends; e.g. to mirror it.
        parent_folder: the run that this one fine-tunes, if it does.

    Raises:
        UserError: wrong settings, no trained parent, a full disk, or too many skipped updates in a row.
        Interrupted: SIGTERM or SIGINT came; the state is saved.
    """
    torch.set_num_threads(run.threads)
    with joined_processes(run) as processes:
        _train(run, dataset, folder, on_evaluation if processes.first else lambda: None, parent_folder, processes)


def _train(
    run: RunConfig,
    dataset: Dataset,
    folder: RunFolder,
    on_evaluation: Callable[[], None],
    parent_folder: RunFolder | None,
    processes: Processes,
) -> None:
    device = choose_device(run.device)
    if run.training.compiled and device.type == "cpu":
        raise UserError(
            f"{run.name}: training.compiled is for GPUs, but the device is a CPU, where compiled code does not repeat "
            "to the bit. Set compiled: false, or train on a GPU."
        )
    with only_writer(folder.path) if processes.first else nullcontext():
        parent = load_parent(run, dataset, parent_folder) if parent_folder else None
        state = initial_state(run, dataset, device, deserialise(parent.weights) if parent else None)
        if processes.first:
            set_aside_other_run(run, dataset, folder, parent)
        processes.largest(0)  # the others look when the first one holds the lock and has tidied up
        saved = checkpoint.load(folder.checkpoint)
        if saved is not None:
            state.load_state_dict(saved)
        state.join(processes)
        if processes.first:
            if saved is not None:
                truncate(folder.record, state.lines)
            else:
                folder.record.unlink(missing_ok=True)
            write_samples(state, folder)
            write_identity(run, dataset, folder, state, processes.named(device_name(device)), parent)
        on_evaluation()
        if not state.stopped:
            _run_to_end(state, run, dataset, folder, on_evaluation)
        if processes.first:
            write_results(state, run, folder)
        on_evaluation()


def _run_to_end(
    state: State, run: RunConfig, dataset: Dataset, folder: RunFolder, on_evaluation: Callable[[], None]
) -> None:
    training, processes = run.training, state.processes
    x = fixed_input(dataset, SELECTION_SPLIT[training.protocol])[: training.selection_images]
    progress = tqdm(
        total=training.max_updates,
        initial=state.update,
        desc=run.name,
        unit="update",
        disable=None if processes.first else True,
        mininterval=1,
    )
    started = time.monotonic() - state.seconds
    saved_at = told_at = time.monotonic()
    with caught_signals() as signals, progress:
        while not state.stopped:
            not_finite = step(state, training)
            state.seconds = time.monotonic() - started
            if training.minutes is not None:  # the learning rate follows it, and must be one in all processes
                state.seconds = processes.as_the_first(state.seconds)
            ends = state.update == training.max_updates or is_over(training, state.seconds)
            due = not not_finite and (state.update % training.evaluate_every == 0 or ends)
            if not not_finite:
                progress.update()
            elif processes.first:
                progress.write(f"warning: {_skipped(state, run, not_finite)}", file=sys.stderr)
            if due and processes.first:
                line = _evaluate(state, run, x)
                state.lines += 1
                records.append_line(folder.record, line)
                if state.lines.bit_count() == 1 and _sample(state):  # the 1st, 2nd, 4th, 8th ... evaluation
                    write_samples(state, folder)
                progress.set_postfix(**_shown(line), images=f"{line['images_per_second']:.0f}/s")
                if progress.disable:
                    print(_summary(run, line), file=sys.stderr, flush=True)
                if time.monotonic() - told_at > TELL_SECONDS:
                    on_evaluation()
                    told_at = time.monotonic()
            if due:
                state.stopped = processes.as_the_first(state.stopped)
            gives_up = state.skipped_in_a_row >= training.max_skipped_updates
            signal = processes.largest(signals[0] if signals else 0)
            if due or signal or gives_up or time.monotonic() - saved_at > training.checkpoint_seconds:
                if processes.first:
                    checkpoint.save(folder.checkpoint, state.state_dict())
                saved_at = time.monotonic()
            if gives_up or signal:
                on_evaluation()
            if gives_up:
                raise UserError(
                    f"{_skipped(state, run, not_finite)} It was the last of {state.skipped_in_a_row} in a row. The "
                    f"state of update {state.update:,} is saved in {folder.checkpoint}. Lower training.learning_rate "
                    "to train anew, or raise training.max_skipped_updates to go on."
                )
            if signal and not state.stopped:
                raise Interrupted(signal, state.update)


def _skipped(state: State, run: RunConfig, not_finite: list[str]) -> str:
    terms = some_of(not_finite, SHOWN)
    return f"{run.name}: a batch after update {state.update:,} was skipped, because of {terms}: not finite."


def _shown(line: dict[str, Any]) -> dict[str, str]:
    """What to watch: the terms of the bound on the selection split, or the loss of a classifier; nats."""
    if not line["selection"]:
        return {"loss": f"{line['train']['loss']:.3f}"}
    return {"ELBO": f"{line['selection']['elbo']:.2f}", "KL": f"{line['selection']['kl']:.2f}"}


def _summary(run: RunConfig, line: dict[str, Any]) -> str:
    return (
        f"{run.name}: update {line['update']:,} of at most {run.training.max_updates:,}, "
        f"{', '.join(f'{name} {value} nats' for name, value in _shown(line).items())}, "
        f"{line['images_per_second']:.0f} images/s, {line['seconds']:.0f} s{', best so far' if line['best'] else ''}"
    )


def _sample(state: State) -> bool:
    """Let the averaged weights draw images; whether they did."""
    model, device = state.ema.module, state.sums.device
    model.eval()
    with computing_in(state.objective.run.training.precision, device):
        images = state.objective.samples(model, device)
    if images is not None:
        state.samples[f"{state.update}"] = images
    return images is not None


def _evaluate(state: State, run: RunConfig, x: Tensor) -> dict[str, Any]:
    """One line of the run record; updates the selection and decides whether training ends."""
    training = run.training
    updates = (state.update - 1) % training.evaluate_every + 1
    train = dict(zip((*state.objective.numbers, "loss"), (state.sums / updates).tolist(), strict=True))
    state.sums.zero_()
    if "kl" in train:
        train["elbo"] = train["log_likelihood"] - train["kl"]
    selection, kl_per_group, active_units = evaluate_selection(state, x)
    best = not state.best or "elbo" not in selection or selection["elbo"] > state.best["elbo"]
    if best:
        weights = {name: value.clone() for name, value in state.ema.module.state_dict().items()}
        bound = {"elbo": selection["elbo"]} if "elbo" in selection else {}
        state.best = {"update": state.update, **bound, "weights": weights}
    state.since_best = 0 if best else state.since_best + 1
    if training.patience is not None and state.since_best >= training.patience:
        state.stopped = "early stopping"
    elif state.update == training.max_updates:
        state.stopped = "max_updates"
    elif is_over(training, state.seconds):
        state.stopped = "minutes"
    return {
        "update": state.update,
        "epoch": state.update / state.batches.per_epoch,
        "seconds": state.seconds,
        "images_per_second": state.update * state.batches.batch_size / state.seconds,
        "learning_rate": state.schedule.get_last_lr()[0],
        "train": train,
        "selection": selection,
        "kl_per_group": kl_per_group,
        "active_units": active_units,
        "best": best,
        "skipped_updates": state.skipped,
    }
