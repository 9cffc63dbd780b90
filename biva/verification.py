"""Does everything in a set's folder follow from its runs, and are the runs what they were when they ended?

Each check gives findings: sentences that name a file, what is wrong with it and, where that is not plain, what to do.
Whoever changes records, manifests, tables and MLflow's copy alike is not found out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from biva import tracking
from biva.config import (
    AnomalyPair,
    Evaluation,
    Experiments,
    RunConfig,
    find_dataset,
    load_experiments,
    parse,
    resolve_runs,
)
from biva.crate import METADATA, crate
from biva.errors import UserError, explained
from biva.records import (
    CHOOSING_ANOMALOUS,
    CHOOSING_NORMAL,
    PUBLISHED,
    RunFolder,
    as_written,
    commits,
    images_read,
    is_ours,
    manifest_digest,
    read_arrays,
    read_json,
    read_lines,
    settings_digest,
    sha256,
)
from biva.reporting.model_card import model_card
from biva.reporting.per_image import read_bounds
from biva.reporting.provenance import is_of_one_commit
from biva.reporting.texts import write_texts
from biva.seeds import derive_seed
from biva.weights import sha256_as_trained, with_records

TOLERANCE = 1e-6
"""Relative; means of float32 numbers may be added up in another order on another machine."""

SPEED = "images_per_second"


@dataclass(frozen=True)
class Verification:
    """What was looked at, and what was found."""

    findings: list[str]
    runs: int
    """Runs that were looked at: those whose training is complete."""
    planned: int
    """Runs that the set has."""


def verify(experiments: str, folder: Path, resources: Path) -> Verification:
    """Look at everything in `folder`, which is `results/NAME` or its copy `results/published/NAME`.

    A copy has weights of some runs alone, of the arrays the bounds alone, and neither data nor MLflow beside it.
    Datasets that are not in `resources` are not compared.

    Raises:
        UserError: the set is unknown, or `folder` has no finished run of it.
    """
    settings = load_experiments(experiments)
    runs = resolve_runs(experiments, settings)
    place = {run.name: RunFolder(folder / "runs" / run.name) for run in runs}
    made = [run for run in runs if place[run.name].training.is_file() or place[run.name].manifest.is_file()]
    if not made:
        raise UserError(f"There is nothing to verify: {folder} has no finished run of the set {experiments!r}.")
    published = folder.parent.name == PUBLISHED
    folders = [place[run.name] for run in made]
    findings: list[str] = []
    for run in made:
        for where, check in _checks_of_run(run, place, settings, published=published):
            findings += _findings(where, check)
    findings += _findings(folder / "results.csv", _text_findings(experiments, folder))
    if published and not findings:
        findings += _findings(folder / METADATA, _crate_findings(experiments, folder))
    if not published:
        findings += _findings(resources, _data_findings(folders, resources))
        findings += _missing_reports(settings, folder, folders)
        evaluated = [run for run in folders if run.evaluation.is_file()]
        findings += _findings(folder, _mlflow_findings(experiments, folder, evaluated))
    return Verification(findings, len(made), len(runs))


def _findings(where: Path, check: Iterable[str]) -> Iterator[str]:
    """The findings, and as the last one what kept the check from going on; `where` is the file that it is about."""
    try:
        with as_written(f"{where}, or a record that it needs,", "Restore it from git or a backup."):
            yield from check
    except (UserError, OSError) as error:
        yield explained(error)


# --------------------------------------------------------------------------------------------------------- one run


def _checks_of_run(
    run: RunConfig, place: dict[str, RunFolder], settings: Experiments, *, published: bool
) -> Iterator[tuple[Path, Iterator[str]]]:
    """Every check of a run, after the file that it is about."""
    folder = place[run.name]
    yield folder.manifest, _manifest_findings(folder, published=published)
    yield folder.identity, _identity_findings(folder, run)
    if folder.training.is_file():
        yield folder.training, _training_findings(folder)
    if folder.evaluation.is_file():
        yield folder.evaluation, _evaluation_findings(folder, run, settings.evaluation)
    for pair in settings.anomalies:
        if folder.anomaly(pair.name).is_file():
            yield folder.anomaly(pair.name), _anomaly_findings(folder, run, pair)
    if published and folder.weights.is_file():
        yield folder.weights, _published_weights_findings(folder)
    if run.parent_name:
        yield folder.identity, _parent_findings(folder, place[run.parent_name])


def _manifest_findings(folder: RunFolder, *, published: bool) -> Iterator[str]:
    """Files that are not what the run wrote; a published copy lacks arrays but for bounds, and most weights."""
    manifest = read_json(folder.manifest)
    for name, digest in manifest["files"].items():
        path = folder.path / name
        if path.is_file():
            is_published = published and path == folder.weights
            if (sha256_as_trained(path.read_bytes()) if is_published else sha256(path)) != digest:
                yield f"{path} was changed after the run had written it"
        elif not (published and path.suffix == ".safetensors" and path != folder.bounds):
            yield f"{path} is missing"
    written = {*folder.records(), *folder.path.glob("*.safetensors"), *folder.path.glob("anomaly/*.safetensors")}
    for path in sorted(filter(is_ours, written - {folder.manifest})):
        if path.relative_to(folder.path).as_posix() not in manifest["files"]:
            yield f"{path} is not in {folder.manifest.name}: the run did not write it, or was killed before its end"
    if manifest["run_id"] != read_json(folder.identity)["run_id"]:
        yield f"{folder.manifest} is of the run {manifest['run_id']}, but {folder.identity.name} of another"


def _published_weights_findings(folder: RunFolder) -> Iterator[str]:
    """Ways in which published weights and their model card do not say what the records beside them do."""
    if folder.weights.read_bytes() != with_records(folder):
        yield f"{folder.weights} has other records in its header than those beside it"
    if not folder.card.is_file() or folder.card.read_text(encoding="utf-8") != model_card(folder):
        yield f"{folder.card} is not what the records give; `biva rebuild` writes it again"


def _weights_in_manifest(folder: RunFolder) -> str:
    """SHA-256 of the weights that the run wrote, also where they are not published."""
    digest: str = read_json(folder.manifest)["files"][folder.weights.name]
    return digest


def _identity_findings(folder: RunFolder, run: RunConfig) -> Iterator[str]:
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
    for commit in commits(identity, *written):
        if not is_of_one_commit(commit):
            yield f"{folder.path}: made by code that is in no commit ({commit})"


def _training_findings(folder: RunFolder) -> Iterator[str]:
    """Ways in which `record.jsonl` and `train.json` contradict each other."""
    training, lines = read_json(folder.training), {line["update"]: line for line in read_lines(folder.record)}
    if not folder.record.is_file() or not folder.record.read_bytes().endswith(b"\n"):
        yield f"{folder.record} is missing or ends within a line"
    if (last := max(lines, default=0)) != training["updates"]:
        yield f"{folder.record} ends at update {last}, but {folder.training.name} at {training['updates']}"
    selected = training["selected"]
    line = lines.get(selected["update"])
    if line is None or line["selection"].get("elbo") != selected.get("elbo"):
        yield f"{folder.training} has another ELBO of the selected update than {folder.record.name}"


def _evaluation_findings(folder: RunFolder, run: RunConfig, settings: Evaluation) -> Iterator[str]:
    """Ways in which `evaluation.json` does not follow from weights, settings and the bounds beside it."""
    record, where = read_json(folder.evaluation), folder.evaluation
    if record["weights_sha256"] != _weights_in_manifest(folder):
        yield f"{where} is of other weights than {folder.weights.name}"
    if settings_digest(record["settings"]) != settings_digest(settings.model_dump(mode="json")):
        yield f"{where}: evaluated with settings other than the present ones; `snakemake` evaluates it again"
    if record["seed"] != derive_seed(run.seed, "evaluation"):
        yield f"{where} is of another seed than the run's"
    bounds = read_bounds(folder)
    for metric in record["metrics"]:
        bound = bounds.get(metric["k"])
        if metric["metric"] == "log_likelihood_bound" and bound is not None:
            if not _close(float(bound.mean(dtype="float64")), metric["value"]):
                yield f"{where}: the bound at K={metric['k']} is not the mean of those in {folder.bounds.name}"
            if len(bound) != record["images"]:
                yield f"{where} is of {record['images']} images, but {folder.bounds.name} has {len(bound)}"


def _anomaly_findings(folder: RunFolder, run: RunConfig, pair: AnomalyPair) -> Iterator[str]:
    """Ways in which `anomaly/NAME.json` does not follow from settings and the arrays beside it."""
    from biva.evaluation.separation import choice, separation  # needs no torch, unlike the rest of biva.evaluation

    where = folder.anomaly(pair.name)
    record, path = read_json(where), where.with_suffix(".safetensors")
    if settings_digest(record["settings"]) != settings_digest(pair.model_dump(mode="json")):
        yield f"{where}: scored with settings other than the present ones; `snakemake` scores it again"
    if record["seed"] != derive_seed(run.seed, "anomaly", pair.name):
        yield f"{where} is of another seed than the run's"
    arrays = read_arrays(path) if path.is_file() else {}
    for score, numbers in record["scores"].items() if arrays else ():
        found = separation(arrays[f"score/{score}/normal"], arrays[f"score/{score}/anomalous"])
        if not all(_close(found[name], number["value"]) for name, number in numbers.items()):
            yield f"{where}: the numbers of {score} do not follow from {path.name}"
    if arrays and "chosen" in record:
        kinds = (CHOOSING_NORMAL, CHOOSING_ANOMALOUS)
        choosing = choice(*({score: arrays[f"score/{score}/{kind}"] for score in record["scores"]} for kind in kinds))
        if choosing["chosen"] != record["chosen"] or not all(
            _close(auroc, record["choosing_auroc"][score]) for score, auroc in choosing["choosing_auroc"].items()
        ):
            yield f"{where}: the choice of k does not follow from {path.name}"


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE) or (math.isnan(one) and math.isnan(other))


def _parent_findings(folder: RunFolder, parent: RunFolder) -> Iterator[str]:
    """Ways in which a fine-tuned run did not start from the run in `parent`."""
    recorded = read_json(folder.identity)["parent"]
    if recorded["run_id"] != read_json(parent.identity)["run_id"]:
        yield f"{folder.identity}: it started from the run {recorded['run_id']}, which is not the one in {parent.path}"
    if recorded["weights_sha256"] != _weights_in_manifest(parent):
        yield f"{folder.identity}: it started from other weights than those in {parent.path}"


# --------------------------------------------------------------------------------------------------------- the set


def _text_findings(experiments: str, folder: Path) -> Iterator[str]:
    """`results.csv`, tables and the page that are not, byte for byte, what the records give."""
    with TemporaryDirectory() as scratch:
        for rebuilt in write_texts(experiments, folder / "runs", Path(scratch), pictures=folder):
            path = folder / rebuilt.relative_to(scratch)
            if not path.is_file():
                yield f"{path} is missing; `snakemake` makes it"
            elif path.read_bytes() != rebuilt.read_bytes():
                yield f"{path} is not what the records of the runs give{_first_difference(path, rebuilt)}"


def _crate_findings(experiments: str, folder: Path) -> Iterator[str]:
    """What others read of a published set, where it is not what lies beside it: files, or what it says of them."""
    path, right = folder / METADATA, crate(experiments, folder)
    there = read_json(path) if path.is_file() else {}
    named, present = (
        {one["@id"]: one["sha256"] for one in content.get("@graph", ()) if "sha256" in one and ":" not in one["@id"]}
        for content in (there, right)  # of the files of the folder; others have an address
    )
    if named and (unlike := {name for name, _ in named.items() ^ present.items()}):
        for name in sorted(unlike):
            yield f"{folder / name} is not as {METADATA} has it: it was edited, added or removed after `biva publish`"
    elif there != right:
        yield f"{path} is not what the records give; `biva rebuild` writes it again"


def _first_difference(path: Path, rebuilt: Path) -> str:
    """The first line that differs, for the message."""
    there, right = (file.read_text(encoding="utf-8", errors="replace").splitlines() for file in (path, rebuilt))
    for number, (one, other) in enumerate(zip(there, right, strict=False), start=1):
        if one != other:
            same = next((place for place, pair in enumerate(zip(one, other, strict=False)) if len({*pair}) > 1), 0)
            is_, should = (line[max(0, same - 100) :][:300] for line in (one, other))  # a picture's line is long
            return f"; line {number} is\n    {is_}\n  should be\n    {should}"
    if len(there) == len(right):
        return ": its lines end otherwise"
    return f": it has {len(there)} lines, should have {len(right)}"


def _missing_reports(settings: Experiments, folder: Path, runs: list[RunFolder]) -> Iterator[str]:
    """Figures and the summary, where they are not there; of an anomaly pair that no run has scored there is none."""
    scored = {f"anomalies/{path.stem}" for run in runs for path in run.anomalies()}
    drawn = [stem for stem in settings.figure_stems if stem.startswith("figures/") or stem in scored]
    for name in (*(f"{stem}.{kind}" for stem in drawn for kind in ("pdf", "png")), "summary.tex"):
        if not (folder / name).is_file():
            yield f"{folder / name} is missing; `snakemake` makes it"


def _data_findings(folders: list[RunFolder], resources: Path) -> Iterator[str]:
    """Check that every dataset in `resources` that a run read is still what the run read."""
    from biva.data.checksums import is_intact  # reads files alone, unlike the rest of biva.data

    read: list[tuple[str, str, Path]] = []
    for folder in folders:
        identity = read_json(folder.identity)
        read.append((identity["config"]["dataset"], identity["data_fingerprint"], folder.identity))
        for path in folder.anomalies():
            read += [(part["dataset"], part["fingerprint"], path) for part in images_read(read_json(path))]
    for name in dict.fromkeys(dataset for dataset, _, _ in read):
        for file in find_dataset(name).files:
            path = resources / name / "raw" / file.name
            if path.is_file() and not is_intact(path, file):
                yield f"{path} is not the published file; `biva fetch {name}` fetches it again"
        arrays, description = resources / name / "data.safetensors", resources / name / "data.json"
        if not arrays.is_file():
            continue
        present = sha256(arrays)
        if not description.is_file() or read_json(description)["fingerprint"] != present:
            yield f"{arrays} is not the file that {description.name} describes; `biva prepare {name}` makes it again"
        for other in sorted({fingerprint for dataset, fingerprint, _ in read if dataset == name} - {present}):
            names = ", ".join(str(path) for *of, path in read if of == [name, other])
            yield f"{arrays} has the fingerprint {present[:12]}, but {other[:12]} was read by {names}"


# --------------------------------------------------------------------------------------------------- MLflow's copy


def _mlflow_findings(experiments: str, folder: Path, finished: list[RunFolder]) -> Iterator[str]:
    """Differences between MLflow's copy and the disk; none where MLflow is not installed, which has no copy then."""
    if find_spec("mlflow") is None:
        print(f"{folder}: MLflow is not installed here, so nothing was compared with it", file=sys.stderr)
        return
    try:
        with tracking.stored_runs(experiments) as stored, TemporaryDirectory() as scratch:
            for run in finished:
                copy = stored.get(read_json(run.identity)["run_id"])
                if copy is None:
                    yield f"{run.path}: MLflow has no finished run of this run_id; `biva track {run.path}` completes it"
                else:
                    yield from (f"{run.path}: MLflow {text}" for text in _differences(run, copy, Path(scratch)))
            if tracking.SUMMARY_NAME in stored:
                yield from _reports(folder, stored[tracking.SUMMARY_NAME], Path(scratch) / "reports")
            else:
                yield f"{folder}: MLflow has no copy of the tables and figures; `biva track` logs them"
    except tracking.TrackingError as error:
        yield f"{folder}: not compared with MLflow. {error}"


def _differences(run: RunFolder, copy: tracking.StoredRun, scratch: Path) -> Iterator[str]:
    """How MLflow's copy of one run differs from its records."""
    identity, stored = read_json(run.identity), copy.run.data
    tags = {name: identity[name] for name in ("name", "commit", "config_digest", "data_fingerprint")}
    for tag, value in (tags | {tracking.MANIFEST: manifest_digest(run)}).items():
        if stored.tags.get(tag) != value:
            yield f"has the tag {tag} {stored.tags.get(tag)}, the disk {value}"
    points = tracking.points_of(run)
    latest = tracking.finals_of(run) | {name: expected[-1][1] for name, expected in points.items()}
    for name, value in latest.items():
        found = copy.points(name)
        if name in points and not _same_points(name, found, points[name]):
            yield f"has other points of the metric {name} than {run.record.name}"
        elif name != SPEED and not (found and _same(found[-1][1], value) and _same(stored.metrics[name], value)):
            yield f"has {stored.metrics.get(name)} as the metric {name}, the disk {value}"
    copies = copy.download(tracking.RECORDS.as_posix(), scratch / identity["run_id"])
    for path in run.records():
        file = copies / path.relative_to(run.path)
        if not (file.is_file() and file.read_bytes() == path.read_bytes()):
            yield f"has another {path.relative_to(run.path)} than the disk"


def _same_points(name: str, found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> bool:
    """Whether steps and values agree; of the speed the steps, since a resumed run repeats updates at another one."""
    if [step for step, _ in found] != [step for step, _ in expected]:
        return False
    return name == SPEED or all(_same(one, other) for (_, one), (_, other) in zip(found, expected, strict=True))


def _same(stored: float, value: float) -> bool:
    """Whether two numbers agree, where MLflow's databases keep an infinity as the largest number."""
    if math.isinf(value):
        return stored == value or stored == math.copysign(sys.float_info.max, value)
    return stored == value or (math.isnan(stored) and math.isnan(value))


def _reports(folder: Path, copy: tracking.StoredRun, scratch: Path) -> Iterator[str]:
    """Tables and figures that are not those that were logged; MLflow also keeps those that the set no longer makes."""
    logged = copy.download("", scratch)
    for path in sorted(path for path in logged.rglob("*") if path.is_file()):
        file = folder / path.relative_to(logged)
        if file.is_file() and file.read_bytes() != path.read_bytes():
            yield f"{file} is not the one that MLflow has"
