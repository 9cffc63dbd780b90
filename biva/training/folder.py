"""A run's folder during training: one writer, an identity, results at the end, and nothing lost."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors.torch import save as serialise
from torch import Tensor

from biva import records
from biva.config import RunConfig
from biva.data.datasets import Dataset
from biva.errors import UserError
from biva.locks import locked
from biva.origin import made_by, versions
from biva.records import RunFolder


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the run's lock, waiting for an orphan of a killed workflow to end if need be."""
    path.mkdir(parents=True, exist_ok=True)
    run = RunFolder(path)
    with locked(run.lock, "another process trains this run"):
        for file in (run.identity, run.record, run.samples, run.training, run.weights):
            for left_by_a_kill in path.glob(f".{file.name}.*.tmp"):
                left_by_a_kill.unlink()
        yield


@dataclass(frozen=True)
class Parent:
    """The run whose selected weights a fine-tuning starts from."""

    weights: bytes
    identity: dict[str, str]
    """What the fine-tuned run's `run.json` says of it."""


def load_parent(run: RunConfig, dataset: Dataset, folder: RunFolder) -> Parent:
    """The run in `folder`, which `run` fine-tunes.

    Raises:
        UserError: its training is not complete, it was trained with other settings or data than there are now, or its
            weights were changed since.
    """
    train = f"biva train {run.experiments} {run.parent_name}"
    remedy = f"Run `{train}` first."
    if not (folder.training.is_file() and folder.weights.is_file()):
        raise UserError(f"{run.name} fine-tunes {run.parent_name}, whose training is not complete. {remedy}")
    identity = records.read_json(folder.identity)
    now = {"config_digest": run.finetunes, "data_fingerprint": dataset.fingerprint}
    if changed := [f"{key} {identity[key]}, now {value}" for key, value in now.items() if identity[key] != value]:
        raise UserError(
            f"{run.name} fine-tunes {run.parent_name}, but {folder.path} was trained with other settings or data "
            f"({'; '.join(changed)}). {remedy}"
        )
    weights, digest = records.read_weights(folder, train)
    return Parent(weights, {"run_id": identity["run_id"], "weights_sha256": digest})


def set_aside_other_run(run: RunConfig, dataset: Dataset, folder: RunFolder, parent: Parent | None) -> None:
    """Move a run of other settings, data or parent weights to `superseded/RUN_ID/`: nothing is lost."""
    if not folder.identity.exists():
        return
    identity = records.read_json(folder.identity)
    earlier = (identity["config_digest"], identity["data_fingerprint"], identity["parent"])
    if earlier == (run.digest, dataset.fingerprint, parent and parent.identity):
        return
    target = folder.path / "superseded" / identity["run_id"]
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.path.iterdir(), key=lambda path: path == folder.identity):
        if path != folder.lock and path.name != "superseded":  # `run.json` last: a kill before leaves this to do
            path.rename(target / path.name)
    print(f"{run.name}: settings or data have changed; the earlier run is kept in {target}", file=sys.stderr)


def truncate(record: Path, lines: int) -> None:
    """Drop what the record says about updates after the checkpoint: they are made again."""
    if not lines:
        record.unlink(missing_ok=True)
    elif record.exists():
        kept = record.read_text(encoding="utf-8").split("\n")[:lines]
        records.write_atomically(record, "".join(f"{line}\n" for line in kept).encode())


def write_samples(folder: RunFolder, samples: dict[str, Tensor]) -> None:
    """Write `samples.safetensors` as of the state: no later samples stay there, and no damage."""
    if samples:
        records.write_atomically(folder.samples, serialise(samples))
    else:
        folder.samples.unlink(missing_ok=True)


def write_identity(
    run: RunConfig,
    dataset: Dataset,
    folder: RunFolder,
    parent: Parent | None,
    update: int,
    device: str,
    parameters: int,
    compiler: str | None,
) -> None:
    """Write `run.json` at the start; on resuming from an `update`, note by which code and where the run goes on.

    A run that was killed before its first checkpoint starts again under its own id, if by the same code and machine.
    `device` is what computes and `compiler` that of the model, if it is compiled, in words.
    """
    now, origin = datetime.now(UTC).isoformat(timespec="seconds"), made_by(device)
    identity = records.read_json(folder.identity) if folder.identity.exists() else {}
    same_start = {name: identity.get(name) for name in origin} == origin
    if same_start and not update and not folder.training.exists():
        return
    if identity and update:
        resumed = {"time": now, "update": update, **origin}
        identity["resumed"] = [*identity.get("resumed", []), resumed]
    else:
        identity = {
            "run_id": uuid.uuid4().hex,
            "experiments": run.experiments,
            "name": run.name,
            "variant": run.variant,
            "parent": parent and parent.identity,
            "started": now,
            "config": run.model_dump(mode="json"),
            "config_digest": run.digest,
            "data_fingerprint": dataset.fingerprint,
            **origin,
            "parameters": parameters,
            "versions": versions() | ({"compiler": compiler} if compiler else {}),
        }
    records.write_json(folder.identity, identity)


def write_results(folder: RunFolder, weights: dict[str, Tensor], result: dict[str, Any]) -> None:
    """`weights.safetensors`, then `train.json`, whose presence says that training is complete; then the manifest."""
    on_cpu = {name: value.contiguous().cpu() for name, value in weights.items()}
    records.write_atomically(folder.weights, serialise(on_cpu))
    records.write_json(folder.training, result)
    samples = [folder.samples] if folder.samples.exists() else []
    records.seal(folder, (folder.identity, folder.record, *samples, folder.weights, folder.training))
