"""Run records on disk: the truth about a run, of which MLflow and the tables are views.

A run's folder `results/EXPERIMENTS/runs/DATASET/ARCHITECTURE/MODEL/seedN/` holds

| file | written by | content |
|---|---|---|
| `run.json` | train, at the start | identity: run id, config, commit, data fingerprint, device, versions |
| `record.jsonl` | train, appended | one line per evaluation during training |
| `samples.safetensors` | train, written anew | images from the prior after the 1st, 2nd, 4th, 8th ... evaluation |
| `train.json` | train, at the end | updates, images seen, wall seconds, the selected update, why training stopped |
| `weights.safetensors` | train, at the end | the selected EMA weights |
| `evaluation.json` | evaluate | metrics on the test split, KL per latent group, active units |
| `bounds.safetensors` | evaluate | L_K of every test image in nats, by `bound/K` |
| `evaluation.safetensors` | evaluate | samples, reconstructions, other pictures; with labels log q(y given x) |
| `anomaly/NAME.json`, `.safetensors` | detect | how L^{>k} separates another dataset; every image's L^{>k} |
| `manifest.json` | train, evaluate, detect, at their ends | SHA-256 of every file above |
| `mlflow.json` | train, track | MLflow's id of the run; no result, and in no manifest |
| `checkpoint/` | train, evaluate | what a killed training or evaluation resumes from; no result |
| `README.md` | publish | model card of published weights |
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from biva.errors import UserError, naming
from biva.locks import locked

LARGEST_LOSS_GROWTH = 1000
"""A training whose mean loss between two evaluations is more than so many times that of its first update diverged."""

PUBLISHED = "published"
"""Folder below `results/` with copies of sets' records, which git keeps."""


def is_ours(path: Path) -> bool:
    """Whether a file or folder has a name such as ours have; editors, file managers and sync tools leave others."""
    return re.fullmatch(r"[a-z0-9_]+(\.(csv|html|json|pdf|png|safetensors|tex))?", path.name) is not None


class RunFolder:
    """Names of the files in one run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / ".lock"
        self.identity = path / "run.json"
        self.record = path / "record.jsonl"
        self.samples = path / "samples.safetensors"
        self.training = path / "train.json"
        self.weights = path / "weights.safetensors"
        self.evaluation = path / "evaluation.json"
        self.bounds = path / "bounds.safetensors"
        self.arrays = path / "evaluation.safetensors"
        self.manifest = path / "manifest.json"
        self.card = path / "README.md"
        self.mlflow = path / "mlflow.json"
        self.checkpoint = path / "checkpoint"
        self.unfinished_evaluation = path / "checkpoint" / "evaluation"
        """What a killed evaluation goes on from."""

    def anomaly(self, name: str) -> Path:
        """Record of an anomaly pair; its arrays lie beside it as `.safetensors`."""
        return self.path / "anomaly" / f"{name}.json"

    def anomalies(self) -> list[Path]:
        """The records of all anomaly pairs that there are, by name."""
        return sorted(filter(is_ours, (self.path / "anomaly").glob("*.json")))

    def records(self) -> list[Path]:
        """The small files that there are: all but weights, pictures, scores of images and checkpoints."""
        files = (self.identity, self.record, self.training, self.evaluation, self.bounds, self.manifest)
        return [path for path in (*files, *self.anomalies()) if path.is_file()]


@contextmanager
def writing_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that gets the name `path` at the end, if all went well; until then the old content stays.

    A reader, a crash or a full disk sees the old content or the new, never half of it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by `writing_atomically`."""
    with writing_atomically(path) as file:
        file.write(content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` atomically, sorted and indented, so that equal records are equal bytes."""
    write_atomically(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def read_bytes(path: Path) -> bytes:
    """Content of a file. An error that its file system reports says which file it was."""
    with naming(path):
        return path.read_bytes()


class _Object(dict[str, Any]):
    """A JSON object, or one inside it, that names its file where a field is missing."""

    def __init__(self, where: Path, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self._where = where

    def __missing__(self, field: str) -> Any:
        raise UserError(
            f"{self._where} lacks the field {field!r}, as after an edit or from another version of biva. Restore it "
            "from a backup, or delete it and run the step that writes it."
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. To ask it, or an object inside it, for a field that is not there is a `UserError` too.

    Raises:
        UserError: the file is missing or is not a JSON object.
    """
    try:
        content = json.loads(read_bytes(path), object_hook=partial(_Object, path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Run the step that writes it first (`biva --help`).") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}. Delete it and run the step that writes it.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object, but holds a {type(content).__name__}.")
    return content


@contextmanager
def as_written(records: Path | str, remedy: str) -> Iterator[None]:
    """Refuse records that have something else in a field than biva writes, as after an edit or from another version.

    Raises:
        UserError: what is done with them inside failed; says which records, how it failed, and the remedy.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(
            f"{records} does not hold what biva writes there ({type(error).__name__}: {error}). {remedy}"
        ) from None


def read_arrays(path: Path) -> dict[str, Any]:
    """Read the NumPy arrays of a safetensors file by name. It is not mapped, which some file systems refuse.

    Raises:
        UserError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(read_bytes(path))
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}). Delete it and run the step that writes it.") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: RunFolder, files: Iterable[Path]) -> None:
    """Enter into `manifest.json` what a finished step wrote; what other steps of the same run entered stays.

    A step enters its own files only: what somebody changed before it ran still differs from its entry.
    """
    run_id = read_json(folder.identity)["run_id"]
    with locked(folder.path / ".manifest.lock"):  # a run may be evaluated and detect anomalies at the same time
        earlier = read_json(folder.manifest) if folder.manifest.is_file() else {}
        kept = earlier["files"] if earlier.get("run_id") == run_id else {}
        written = {path.relative_to(folder.path).as_posix(): sha256(path) for path in files}
        write_json(folder.manifest, {"run_id": run_id, "files": kept | written})


def read_weights(folder: RunFolder, train: str) -> tuple[bytes, str]:
    """The selected weights of a trained run, a safetensors file, and their SHA-256.

    Raises:
        UserError: they were changed since, or there is no manifest to tell; names the command that trains them.
    """
    weights = read_bytes(folder.weights)
    digest = hashlib.sha256(weights).hexdigest()
    if read_json(folder.manifest)["files"].get(folder.weights.name) != digest:
        raise UserError(
            f"{folder.weights} is not what training wrote: its SHA-256 is not the one in {folder.manifest.name}. "
            f"Delete it and run `{train}`: it writes it again from the last checkpoint."
        )
    return weights, digest


def manifest_digest(folder: RunFolder) -> str:
    """SHA-256 of `manifest.json`, which `results.csv` and MLflow hold; a run without one is refused."""
    read_json(folder.manifest)
    return sha256(folder.manifest)


def commits(run: dict[str, Any], *records: dict[str, Any]) -> list[str]:
    """The commits that made a result: of the training, of its resumptions, of later records; each once."""
    return list(dict.fromkeys(made["commit"] for made in (run, *run.get("resumed", []), *records)))


def settings_digest(settings: dict[str, Any]) -> str:
    """Hash of the settings of an evaluation, or of an anomaly pair, that change a number."""
    content = {name: value for name, value in settings.items() if name != "memory_budget_mb"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


CHOOSING_NORMAL, CHOOSING_ANOMALOUS = "choosing_normal", "choosing_anomalous"
"""What an anomaly record calls the validation images and the third dataset's images that choose k."""


def images_read(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What an anomaly record says of each kind of images that were scored: dataset, fingerprint, numbers of images."""
    return [record[kind] for kind in ("normal", "anomalous", CHOOSING_NORMAL, CHOOSING_ANOMALOUS) if kind in record]


def anomaly_metrics(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The numbers of an anomaly record as a list of metrics, such as `evaluation.json` has.

    A metric is named `anomaly/PAIR/SCORE/auroc`, `auprc` or `fpr80`; a score is `bound_above_2`, for L^{>2}, or
    `llr_above_2`, and `chosen` is the LLR^{>k} of the k that was chosen on other images, if it was. Each is a fraction;
    `low` and `high` are the ends of its 95% bootstrap interval, `k` is K, the importance samples.
    """
    named = {_score_name(score): numbers for score, numbers in record["scores"].items()}
    if "chosen" in record:
        named["chosen"] = record["scores"][record["chosen"]]
    return [
        {
            "metric": f"anomaly/{record['settings']['name']}/{score}/{name}",
            "k": record["samples"],
            "value": number["value"],
            "standard_error": None,
            "low": number["low"],
            "high": number["high"],
            "unit": "fraction",
        }
        for score, numbers in named.items()
        for name, number in numbers.items()
    ]


def _score_name(score: str) -> str:
    """`L>2` and `LLR>2` in words that MLflow takes for a name."""
    kind, _, stage = score.partition(">")
    return f"{'bound' if kind == 'L' else 'llr'}_above_{stage}"


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `a.b` -> text; a list of settings, such as the stages, becomes one list per key."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            columns = {field: [item.get(field) for item in value] for field in value[0]}
            flat |= flatten(columns, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat


def append_line(path: Path, content: dict[str, Any]) -> None:
    """Append one JSON line and have it on disk before returning; of half a line `read_lines` takes no notice."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a JSON lines file; a last line that a crash cut short is left out. Missing file: no lines.

    Raises:
        UserError: a line is no JSON.
    """
    if not path.is_file():
        return []
    try:
        lines = read_bytes(path).split(b"\n")[:-1]
        return [json.loads(line, object_hook=partial(_Object, path)) for line in lines]
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}). Restore it from a backup, or delete the folder and train the run again."
        ) from None
