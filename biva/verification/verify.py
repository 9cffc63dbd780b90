"""Does everything in a set's folder follow from its runs, and are the runs what they were when they ended?

Each check gives findings: sentences that name a file, what is wrong with it and, where that is not plain, what to do.
Whoever changes records, manifests, tables and MLflow's copy alike is not found out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

from biva.config import Experiments, RunConfig, load_experiments, resolve_runs
from biva.errors import UserError
from biva.records import PUBLISHED, RunFolder, is_scored, read_json
from biva.reporting.texts import write_texts
from biva.verification.mlflow import mlflow_findings
from biva.verification.run import (
    anomaly_findings,
    data_findings,
    evaluation_findings,
    identity_findings,
    manifest_findings,
    parent_findings,
    training_findings,
)

Check = tuple[str, Iterable[str]]
"""What is looked at, and the findings."""


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

    A copy has no weights and arrays, and neither data nor MLflow beside it.

    Args:
        experiments: name of the set.
        folder: its results.
        resources: folder of the datasets; those that are not there are not compared.

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
    checks = [check for run in made for check in _checks_of_run(run, place, settings, small_files_only=published)]
    checks += [("run.json", _copies(folders)), ("results.csv and tables", _text_findings(experiments, folder))]
    if not published:
        evaluated = [run for run in folders if run.evaluation.is_file()]
        checks += [
            ("data", _data_findings(folders, resources)),
            ("figures", _missing_figures(settings, folder, folders)),
            ("MLflow", mlflow_findings(experiments, folder, evaluated)),
        ]
    return Verification([text for where, check in checks for text in _told(where, check)], len(made), len(runs))


def _told(where: str, check: Iterable[str]) -> Iterator[str]:
    """The findings, and as the last one what kept the check from going on."""
    try:
        yield from check
    except UserError as error:
        yield str(error)
    except (LookupError, TypeError, ValueError, AttributeError, OSError, SafetensorError) as error:
        yield f"{where}: a record does not have the form that biva writes ({type(error).__name__}: {error})"


def _checks_of_run(
    run: RunConfig, place: dict[str, RunFolder], settings: Experiments, *, small_files_only: bool
) -> Iterator[Check]:
    folder = place[run.name]
    where = str(folder.path)
    yield where, manifest_findings(folder, small_files_only=small_files_only)
    yield where, identity_findings(folder, run)
    if folder.training.is_file():
        yield where, training_findings(folder)
    if folder.evaluation.is_file():
        yield where, evaluation_findings(folder, run, settings.evaluation)
    for pair in settings.anomalies:
        if folder.anomaly(pair.name).is_file():
            yield where, anomaly_findings(folder, run, pair)
    if run.parent_name:
        yield where, parent_findings(folder, place[run.parent_name])


def _copies(folders: list[RunFolder]) -> Iterator[str]:
    """Folders that hold one run."""
    seen: dict[str, Path] = {}
    for folder in folders:
        other = seen.setdefault(read_json(folder.identity)["run_id"], folder.path)
        if other != folder.path:
            yield f"{folder.path} holds the same run as {other}: one of them is a copy"


def _data_findings(folders: list[RunFolder], resources: Path) -> Iterator[str]:
    """Of every dataset that a run read: whether it is still what the run read."""
    said: dict[str, dict[str, list[Path]]] = {}
    for folder in folders:
        identity = read_json(folder.identity)
        read = [(identity["config"]["dataset"], identity["data_fingerprint"], folder.identity)]
        for path in folder.anomalies():
            record = read_json(path)
            read += [(record[kind]["dataset"], record[kind]["fingerprint"], path) for kind in ("normal", "anomalous")]
        for dataset, fingerprint, path in read:
            said.setdefault(dataset, {}).setdefault(fingerprint, []).append(path)
    for dataset, fingerprints in said.items():
        yield from data_findings(dataset, fingerprints, resources)


def _text_findings(experiments: str, folder: Path) -> Iterator[str]:
    """`results.csv` and tables that are not, byte for byte, what the records give."""
    with TemporaryDirectory() as scratch:
        for rebuilt in write_texts(experiments, folder / "runs", Path(scratch)):
            path = folder / rebuilt.relative_to(scratch)
            if not path.is_file():
                yield f"{path} is missing; `snakemake` makes it"
            elif path.read_bytes() != rebuilt.read_bytes():
                yield f"{path} is not what the records of the runs give{_first_difference(path, rebuilt)}"


def _first_difference(path: Path, rebuilt: Path) -> str:
    """The first line that differs, for the message."""
    there, right = (file.read_text(encoding="utf-8", errors="replace").splitlines() for file in (path, rebuilt))
    for number, (one, other) in enumerate(zip(there, right, strict=False), start=1):
        if one != other:
            return f"; line {number} is\n    {one}\n  should be\n    {other}"
    return f": it has {len(there)} lines, should have {len(right)}"


def _missing_figures(settings: Experiments, folder: Path, runs: list[RunFolder]) -> Iterator[str]:
    """Figures that are not there; of an anomaly pair that no run has scored yet there is none."""
    unscored = {f"anomalies/{pair.name}" for pair in settings.anomalies if not is_scored(pair.name, runs)}
    for stem in sorted({*settings.figure_stems} - unscored):
        for path in (folder / f"{stem}.pdf", folder / f"{stem}.png"):
            if not path.is_file():
                yield f"{path} is missing; `snakemake` makes it"
