"""What of one run's folder does not hold together: its manifest, its records, its data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from safetensors.numpy import load_file

from biva import records
from biva.config import AnomalyPair, Evaluation, RunConfig, find_dataset, parse
from biva.data.checksums import is_intact
from biva.evaluation.separation import separation
from biva.records import RunFolder, read_json, read_lines, settings_digest, sha256
from biva.reporting.provenance import is_of_one_commit
from biva.seeds import derive_seed

TOLERANCE = 1e-6
"""Relative; means of float32 numbers may be added up in another order on another machine."""


def manifest_findings(folder: RunFolder, *, small_files_only: bool) -> Iterator[str]:
    """Files that are not what the run wrote.

    Args:
        folder: of a finished run.
        small_files_only: the folder is a published copy, without weights and arrays.
    """
    if not folder.manifest.is_file():
        yield (
            f"{folder.manifest} does not exist, so nobody can tell whether the run's files were edited: either "
            "it was deleted, or the version of biva that made the run wrote none. `biva train` writes it and keeps the "
            "result where checkpoint/ still is; then run `biva evaluate`."
        )
        return
    manifest = read_json(folder.manifest)
    for name, digest in manifest["files"].items():
        path = folder.path / name
        if path.is_file():
            if sha256(path) != digest:
                yield f"{path} was changed after the run had written it"
        elif not (small_files_only and path.suffix == ".safetensors"):
            yield f"{path} is missing"
    for path in _results(folder):
        if path.is_file() and path.relative_to(folder.path).as_posix() not in manifest["files"]:
            yield f"{path} is not in {folder.manifest.name}: the run did not write it, or was killed before its end"
    if manifest["run_id"] != read_json(folder.identity)["run_id"]:
        yield f"{folder.manifest} is of the run {manifest['run_id']}, but {folder.identity.name} of another"


def _results(folder: RunFolder) -> list[Path]:
    """Every file that a manifest covers."""
    return [
        folder.identity,
        folder.record,
        folder.samples,
        folder.training,
        folder.weights,
        folder.evaluation,
        folder.arrays,
        *folder.anomalies(),
        *(path.with_suffix(".safetensors") for path in folder.anomalies()),
    ]


def identity_findings(folder: RunFolder, run: RunConfig) -> Iterator[str]:
    """Ways in which `run.json` is not of the run as it is planned now, or of no code that anybody can get again."""
    identity = read_json(folder.identity)
    config = parse(RunConfig, identity["config"], folder.identity)
    if (identity["experiments"], identity["name"]) != (run.experiments, run.name):
        yield f"{folder.identity} is of the run {identity['experiments']}: {identity['name']}, not of {run.name}"
    if config.digest != identity["config_digest"]:
        yield f"{folder.identity}: its settings have the digest {config.digest}, not {identity['config_digest']}"
    elif config.digest != run.digest:
        yield (
            f"{folder.identity}: trained with settings other than the present ones (digest {config.digest}, now "
            f"{run.digest}); `snakemake` trains it again"
        )
    written = [read_json(path) for path in (folder.evaluation, *folder.anomalies()) if path.is_file()]
    for commit in records.commits(identity, *written):
        if not is_of_one_commit(commit):
            yield f"{folder.path}: made by code that is in no commit ({commit})"


def training_findings(folder: RunFolder) -> Iterator[str]:
    """Ways in which `record.jsonl` and `train.json` contradict each other."""
    training, lines = read_json(folder.training), {line["update"]: line for line in read_lines(folder.record)}
    if not folder.record.is_file() or not folder.record.read_bytes().endswith(b"\n"):
        yield f"{folder.record} is missing or ends within a line"
    if max(lines, default=0) != training["updates"]:
        end = f"{max(lines, default=0)}, but {folder.training.name} at {training['updates']}"
        yield f"{folder.record} ends at update {end}"
    selected = training["selected"]
    line = lines.get(selected["update"])
    if line is None or line["selection"].get("elbo") != selected.get("elbo"):
        yield f"{folder.training} has another ELBO of the selected update than {folder.record.name}"


def evaluation_findings(folder: RunFolder, run: RunConfig, settings: Evaluation) -> Iterator[str]:
    """Ways in which `evaluation.json` does not follow from weights, settings and the arrays beside it."""
    record, where = read_json(folder.evaluation), folder.evaluation
    if folder.weights.is_file() and record["weights_sha256"] != sha256(folder.weights):
        yield f"{where} is of other weights than {folder.weights.name}"
    if settings_digest(record["settings"]) != settings_digest(settings.model_dump(mode="json")):
        yield f"{where}: evaluated with settings other than the present ones; `snakemake` evaluates it again"
    if record["seed"] != derive_seed(run.seed, "evaluation"):
        yield f"{where} is of another seed than the run's"
    arrays = load_file(folder.arrays) if folder.arrays.is_file() else {}
    for metric in record["metrics"]:
        bound = arrays.get(f"bound/{metric['k']}")
        if metric["metric"] == "log_likelihood_bound" and bound is not None:
            if not _close(float(bound.mean(dtype="float64")), metric["value"]):
                yield f"{where}: the bound at K={metric['k']} is not the mean of those in {folder.arrays.name}"
            if len(bound) != record["images"]:
                yield f"{where} is of {record['images']} images, but {folder.arrays.name} has {len(bound)}"


def anomaly_findings(folder: RunFolder, run: RunConfig, pair: AnomalyPair) -> Iterator[str]:
    """Ways in which `anomaly/NAME.json` does not follow from settings and the arrays beside it."""
    where = folder.anomaly(pair.name)
    record, path = read_json(where), where.with_suffix(".safetensors")
    if settings_digest(record["settings"]) != settings_digest(pair.model_dump(mode="json")):
        yield f"{where}: scored with settings other than the present ones; `snakemake` scores it again"
    if record["seed"] != derive_seed(run.seed, "anomaly", pair.name):
        yield f"{where} is of another seed than the run's"
    arrays = load_file(path) if path.is_file() else {}
    for score, numbers in record["scores"].items() if arrays else ():
        found = separation(arrays[f"score/{score}/normal"], arrays[f"score/{score}/anomalous"])
        if not all(_close(getattr(found, name), number["value"]) for name, number in numbers.items()):
            yield f"{where}: the numbers of {score} do not follow from {path.name}"


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE) or (math.isnan(one) and math.isnan(other))


def parent_findings(folder: RunFolder, parent: RunFolder) -> Iterator[str]:
    """Ways in which a fine-tuned run did not start from the run in `parent`."""
    said = read_json(folder.identity)["parent"]
    if said["run_id"] != read_json(parent.identity)["run_id"]:
        yield f"{folder.identity}: it started from the run {said['run_id']}, which is not the one in {parent.path}"
    if parent.weights.is_file() and said["weights_sha256"] != sha256(parent.weights):
        yield f"{folder.identity}: it started from other weights than those in {parent.path}"


def data_findings(name: str, fingerprints: dict[str, list[Path]], resources: Path) -> Iterator[str]:
    """Ways in which a dataset in `resources` is not what runs say that they read.

    Args:
        name: the dataset.
        fingerprints: what runs say -> the records that say it.
        resources: holds the datasets; what is not there is not looked at.
    """
    folder = resources / name
    for file in find_dataset(name).files:
        path = folder / "raw" / file.name
        if path.is_file() and not is_intact(path, file):
            yield f"{path} is not the published file; `biva fetch {name}` fetches it again"
    arrays, description = folder / "data.safetensors", folder / "data.json"
    if not arrays.is_file():
        return
    fingerprint = sha256(arrays)
    if not description.is_file() or read_json(description)["fingerprint"] != fingerprint:
        yield f"{arrays} is not the file that {description.name} describes; `biva prepare {name}` makes it again"
    for said, where in fingerprints.items():
        if said != fingerprint:
            names = ", ".join(map(str, where))
            yield f"{arrays} has the fingerprint {fingerprint[:12]}, but {said[:12]} was read by {names}"
