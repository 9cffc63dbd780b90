"""Published weights: one file of tensors that says what it is.

`biva publish` puts a run's `run.json` and `evaluation.json` into the header of its `weights.safetensors`; the tensors
stay as training wrote them. So the model and every number of it can be had again from the file alone.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from biva.config import Evaluation, RunConfig, parse
from biva.errors import UserError
from biva.records import RunFolder, as_written, read_json

KEY = "biva"
"""The one entry of the header's metadata: several would be written in another order every time."""

PLACE = (
    "Published weights are results/published/SET/runs/DATASET/ARCHITECTURE/MODEL/seedN/weights.safetensors, which "
    "`biva publish SET` writes."
)


@dataclass(frozen=True)
class PublishedWeights:
    """A file of published weights, read and found sound."""

    path: Path
    content: bytes
    """Of the file."""
    run: RunConfig
    identity: dict[str, Any]
    """`run.json`."""
    evaluation: dict[str, Any]
    """`evaluation.json`."""
    settings: Evaluation
    """Of the evaluation."""

    def as_written(self) -> AbstractContextManager[None]:
        """Refuse the file where its header lacks what is done with it inside: see `biva.records.as_written`."""
        return as_written(f"The header of {self.path}", PLACE)


def with_records(folder: RunFolder) -> bytes:
    """Content of a run's weights file with its records in the header: the same bytes for the same run."""
    records = {path.name: read_json(path) for path in (folder.identity, folder.evaluation)}
    return save(load(folder.weights.read_bytes()), {KEY: json.dumps(records, sort_keys=True)})


def sha256_as_trained(content: bytes) -> str:
    """SHA-256 of the file that training wrote, from the content of the published one: it has the tensors alone.

    Raises:
        SafetensorError: it is no safetensors file.
    """
    return hashlib.sha256(save(load(content))).hexdigest()


def read_published(path: Path) -> PublishedWeights:
    """Read published weights.

    Raises:
        UserError: the file is missing, damaged or no safetensors file, does not say what it is, or is of a run that
            learned from labels.
    """
    if not path.is_file():
        raise UserError(f"There are no published weights {path}. {PLACE}")
    content = path.read_bytes()
    try:
        trained = sha256_as_trained(content)
        header = json.loads(content[8:][: int.from_bytes(content[:8], "little")])
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file, or not a whole one ({error}). {PLACE}") from None
    metadata = header.get("__metadata__", {})
    if KEY not in metadata:
        raise UserError(f"{path} does not say what it is: its header has no configuration of a run. {PLACE}")
    with as_written(f"The header of {path}", PLACE):
        records = json.loads(metadata[KEY])
        identity, evaluation = records["run.json"], records["evaluation.json"]
        config, evaluated = identity["config"], evaluation["weights_sha256"]
        settings = parse(Evaluation, evaluation["settings"], path)
    if trained != evaluated:
        raise UserError(
            f"{path} has other tensors than those that were evaluated, by the records in its header. {PLACE}"
        )
    run = parse(RunConfig, config, path)
    if run.labels is not None:
        raise UserError(f"{path} is of {run.name}, which learned from labels; expected a model of images alone.")
    return PublishedWeights(path, content, run, identity, evaluation, settings)
