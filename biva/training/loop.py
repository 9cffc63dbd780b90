"""Training by paper.md section 4, resumable at any update."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

from rich.progress import TextColumn
from safetensors.torch import load as deserialise

from biva import records
from biva.config import RunConfig
from biva.data.datasets import Dataset
from biva.devices import choose_device, computing_in, device_name, enough_memory, use_threads
from biva.errors import UserError, some_of
from biva.models.hierarchical_vae import count_parameters
from biva.progress import progress_bar
from biva.records import LARGEST_LOSS_GROWTH, RunFolder
from biva.training import checkpoint
from biva.training.compilation import compiler_for
from biva.training.distributed import joined_processes
from biva.training.folder import (
    load_parent,
    only_writer,
    set_aside_other_run,
    truncate,
    write_identity,
    write_results,
    write_samples,
)
from biva.training.schedule import end_of, share_done
from biva.training.selection import Selection, count_active, mean_bound, samples, selection_of
from biva.training.signals import Interrupted, caught_signals
from biva.training.state import State, initial_state, step

TELL_SECONDS = 10
"""Evaluations that follow each other faster than this are mirrored together."""

SHOWN = 8
"""Terms that are not finite that a message names."""


@enough_memory(
    "Use a larger training.accumulate, with which a batch goes through in smaller pieces, a smaller batch_size "
    "or a smaller architecture; or end other programs that use the memory."
)
def train(
    run: RunConfig,
    dataset: Dataset,
    folder: RunFolder,
    on_evaluation: Callable[[], None],
    parent_folder: RunFolder | None = None,
) -> None:
    """Train one run to its end, from its newest checkpoint if it has one, and write its record and weights to `folder`.

    Processes that torchrun starts share the work; the first one alone writes. Another training in the folder is waited
    for. `on_evaluation` is called when the record has grown, at most every `TELL_SECONDS`, and whenever training starts
    or ends; e.g. to mirror it. `parent_folder` is that of the run that this one fine-tunes, if it does.

    Raises:
        UserError: wrong settings, no trained parent, a full disk, too little memory, or too many skipped updates in a
            row.
        Interrupted: SIGTERM or SIGINT came; the state is saved.
    """
    use_threads(run.threads)
    with joined_processes(run) as processes:
        device, mirror = choose_device(run.device), on_evaluation if processes.first else lambda: None
        compiler = compiler_for(device) if run.training.compiled else None
        with only_writer(folder.path) if processes.first else nullcontext():
            parent = load_parent(run, dataset, parent_folder) if parent_folder else None
            state = initial_state(run, dataset, device, deserialise(parent.weights) if parent else None)
            selection = selection_of(run, dataset)
            if processes.first:
                set_aside_other_run(run, dataset, folder, parent)
            processes.of_all(None)  # the others look when the first one holds the lock and has tidied up
            state.join(processes)
            if saved := checkpoint.load(folder.checkpoint):
                state.load_state_dict(saved)
            if len(updates := {*processes.of_all(state.update)}) > 1:
                raise UserError(
                    f"{run.name}: the processes found checkpoints of updates {', '.join(map(str, sorted(updates)))}. "
                    "All must see the same results folder."
                )
            if processes.first:
                truncate(folder.record, state.lines)
                write_samples(folder, state.samples)
                name, size = processes.named(device_name(device)), count_parameters(state.model)
                write_identity(run, dataset, folder, parent, state.update, name, size, compiler)
            mirror()
            if not state.stopped:
                _run_to_end(state, selection, folder, mirror)
            if processes.first:
                write_results(folder, state.best["weights"], _result(state, selection))
            mirror()


def _run_to_end(state: State, selection: Selection | None, folder: RunFolder, mirror: Callable[[], None]) -> None:
    """Update, evaluate and save until training ends, a signal stops it, or it skips too many updates in a row."""
    run, training, processes = state.run, state.run.training, state.processes
    saved_at = mirrored_at = time.monotonic()
    started, compiles = saved_at - state.seconds, training.compiled and processes.first
    updates = f"{{task.fields[update]:,}} of {training.max_updates:,}{{task.fields[shown]}}"
    bar = progress_bar(TextColumn(updates), shown=processes.first)
    task = bar.add_task(f"{run.variant}/seed{run.seed}", total=1.0, update=state.update, shown="")
    with caught_signals() as signals, bar:
        while not state.stopped:
            before, not_finite = state.seconds, step(state)
            mine = (time.monotonic() - started, signals[0] if signals else 0, time.monotonic() - saved_at)
            state.seconds, signal, unsaved = map(max, zip(*processes.of_all(mine), strict=True))
            if compiles:
                seconds = state.seconds - before
                print(f"{run.name}: first update in {seconds:.0f} s, compiling included", file=sys.stderr)
                compiles = False
            bar.update(task, completed=share_done(training, state.update, state.seconds), update=state.update)
            if not_finite and processes.first:
                print(f"warning: {_skipped(state, not_finite)}", file=sys.stderr)

            end = end_of(training, state.update, state.seconds)
            evaluates = not not_finite and (end != "" or state.update % training.evaluate_every == 0)
            if evaluates:
                if processes.first:
                    line = evaluate(state, selection)
                    records.append_line(folder.record, line)
                    if (loss := line["train"]["loss"]) > LARGEST_LOSS_GROWTH * state.first_loss > 0:
                        print(
                            f"warning: {run.name}: the loss is {loss:.3g} at update {state.update:,}, but was "
                            f"{state.first_loss:.3g} at the first one: training diverges, and tables will "
                            "say so. Lower training.learning_rate and train anew.",
                            file=sys.stderr,
                        )
                    if f"{state.update}" in state.samples:
                        write_samples(folder, state.samples)
                    shown = _shown(line)
                    bar.update(task, shown=", " + shown.replace(" nats", ""))
                    if bar.disable:
                        _log(run, line, shown)
                    if time.monotonic() - mirrored_at > TELL_SECONDS:
                        mirror()
                        mirrored_at = time.monotonic()
                since_best = processes.of_all(state.since_best)[0]
                early = training.patience is not None and since_best >= training.patience
                state.stopped = "early stopping" if early else end

            gives_up = state.skipped_in_a_row >= training.max_skipped_updates
            if evaluates or signal or gives_up or unsaved > training.checkpoint_seconds:
                content = state.state_dict()
                if processes.first:
                    checkpoint.save(folder.checkpoint, content)
                saved_at = time.monotonic()
            if gives_up or signal:
                mirror()
            if gives_up:
                raise UserError(
                    f"{_skipped(state, not_finite)} It was the last of {state.skipped_in_a_row} in a row. The state of "
                    f"update {state.update:,} is saved in {folder.checkpoint}. {_remedy(state, not_finite)} to train "
                    "anew, or raise training.max_skipped_updates to go on."
                )
            if signal and not state.stopped:
                raise Interrupted(signal, state.update)


def evaluate(state: State, selection: Selection | None) -> dict[str, Any]:
    """Measure the averaged weights, and keep them if they are the best so far: one line of the run record."""
    run, model, training = state.run, state.ema, state.run.training
    updates = (state.update - 1) % training.evaluate_every + 1
    train = {name: total / updates for name, total in state.sums.items()}
    if "kl" in train:
        train["elbo"] = train["log_likelihood"] - train["kl"]
    state.sums = {}
    if state.first_loss > 0:
        state.loss_growth = max(state.loss_growth, train["loss"] / state.first_loss)
    bound, kl, active = dict[str, float](), dict[str, float](), dict[str, dict[str, int]]()
    state.lines += 1
    with computing_in(training.precision, state.device):
        if selection is not None:
            bound, kl = mean_bound(run, model, selection.images, state.device)
            active = count_active(run, model, selection.activity, state.device)
        if state.lines.bit_count() == 1 and (images := samples(run, model, state.device)) is not None:
            state.samples[f"{state.update}"] = images
    best = not state.best or selection is None or bound["elbo"] > state.best["elbo"]
    if best:
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        state.best = {"update": state.update, "weights": weights} | ({"elbo": bound["elbo"]} if bound else {})
    state.since_best = 0 if best else state.since_best + 1
    return {
        "update": state.update,
        "epoch": state.update / state.batches.per_epoch,
        "seconds": state.seconds,
        "images_per_second": state.update * state.batches.batch_size / state.seconds,
        "learning_rate": state.optimiser.param_groups[0]["lr"],
        "train": train,
        "selection": bound,
        "kl_per_group": kl,
        "active_units": active,
        "best": best,
        "skipped_updates": state.skipped,
    }


def _result(state: State, selection: Selection | None) -> dict[str, Any]:
    """Content of `train.json`."""
    return {
        "updates": state.update,
        "epochs": state.update / state.batches.per_epoch,
        "images_seen": state.update * state.batches.batch_size,
        "skipped_updates": state.skipped,
        "loss_growth": state.loss_growth,
        "wall_seconds": state.seconds,
        "stopped": state.stopped,
        "selected": {name: value for name, value in state.best.items() if name != "weights"},
        "selection_split": selection and selection.split,
        "selection_images": selection and len(selection.images),
        "selection_images_in_split": selection and selection.in_split,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _skipped(state: State, not_finite: list[str]) -> str:
    """A sentence that says which batch was skipped, and why."""
    return (
        f"{state.run.name}: a batch after update {state.update:,} was skipped, since it made these not finite or too "
        f"large: {some_of(not_finite, SHOWN)}."
    )


def _remedy(state: State, not_finite: list[str]) -> str:
    """What to change in a training that ended since it skipped updates for these reasons."""
    limit = state.run.training.largest_gradient_norm
    if limit is not None and not_finite == ["gradient_norm"]:
        return f"Raise training.largest_gradient_norm, which is {limit:g}, or lower training.learning_rate"
    if state.update == 0:
        return (
            "No update was made, so the learning rate is not why: these are the numbers of the initialised model. "
            "Look at the images, use a larger training.batch_size or a lower dropout"
        )
    return "Lower training.learning_rate"


def _shown(line: dict[str, Any]) -> str:
    """How good and how fast a training is, in nats and images, from a line of its record."""
    terms = {"loss": f"{line['train']['loss']:.3f}"}
    if line["selection"]:
        terms = {"ELBO": f"{line['selection']['elbo']:.2f}", "KL": f"{line['selection']['kl']:.2f}"}
    return (
        ", ".join(f"{name} {value} nats" for name, value in terms.items())
        + f", {line['images_per_second']:.0f} images/s"
    )


def _log(run: RunConfig, line: dict[str, Any], shown: str) -> None:
    """Say in a line, where there is no bar, how far training is."""
    best = ", best so far" if line["best"] else ""
    print(
        f"{run.name}: update {line['update']:,} of at most {run.training.max_updates:,}, {shown}, "
        f"{line['seconds']:.0f} s{best}",
        file=sys.stderr,
        flush=True,
    )
