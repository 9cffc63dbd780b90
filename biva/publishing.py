"""Published results: the small records of runs that were really made, kept in the repository, and what is made of them.

`results/published/NAME/` has what `results/NAME/` has, but for pictures, the scores of single images and most weights:
`runs/` with the records of every run and the bounds of its test images, `results.csv`, `tables/`, `anomalies/` with the
tables of the anomaly pairs, `index.html`, and `figures/`. Of every model one run has its weights too (`biva.weights`),
with a model card. `workflow/` has the Snakefile and its rules, and `ro-crate-metadata.json` says to other programs what
all of it is (`biva.crate`).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from biva.config import load_experiments, resolve_runs
from biva.crate import METADATA, SNAKEFILE, crate
from biva.errors import UserError
from biva.records import PUBLISHED, RunFolder, is_ours, write_atomically, write_json
from biva.reporting.canvas import save
from biva.reporting.figures import draw, folders_to_draw
from biva.reporting.figures.registry import FIGURES
from biva.reporting.model_card import model_card
from biva.reporting.texts import write_texts
from biva.verification import verify
from biva.weights import with_records

LARGEST_WEIGHTS = 10_000_000
"""Bytes of a file; larger ones are not for git, and are not published."""


def publish(experiments: str, results: Path, resources: Path) -> list[Path]:
    """Copy the records of a set's evaluated runs to `results/published/NAME`, and rebuild tables and figures there.

    The run that an evaluated one fine-tunes is copied too, evaluated or not. Weights go with the lowest published seed
    of every model that learned from images alone, if they are small enough for git.
    A run that was published before is replaced once its copy is whole; others, such as another machine's, stay.

    Returns:
        The folders of the published runs.

    Raises:
        UserError: the set does not verify, or none of its runs is evaluated; nothing was published then.
    """
    source, target = results / experiments, results / PUBLISHED / experiments
    if findings := verify(experiments, source, resources).findings:
        listed = "\n".join(f"- {finding}" for finding in findings)
        raise UserError(f"{source} does not verify, so nothing was published:\n{listed}")
    runs = resolve_runs(experiments, load_experiments(experiments))
    evaluated = [run for run in runs if RunFolder(source / "runs" / run.name).evaluation.is_file()]
    if not evaluated:
        raise UserError(f"{source} has no evaluated run, so nothing was published. `snakemake` evaluates them.")
    before = [run for run in runs if RunFolder(target / "runs" / run.name).evaluation.is_file()]
    images = [run for run in runs if run.labels is None and (run in evaluated or run in before)]
    by_seed = sorted(images, key=lambda run: run.seed, reverse=True)
    with_weights = {run.group: run for run in by_seed}.values()  # the lowest seed of every model
    parents = {run.parent_name for run in evaluated}
    published = []
    for run in (run for run in runs if run in evaluated or run.name in parents):
        folder, copy = RunFolder(source / "runs" / run.name), target / "runs" / run.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=copy.parent, ignore_cleanup_errors=True) as scratch:
            new = RunFolder(Path(scratch, copy.name))
            for path in filter(Path.is_file, (*folder.records(), folder.mlflow)):
                place = new.path / path.relative_to(folder.path)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
            if run in evaluated and run in with_weights and folder.weights.stat().st_size <= LARGEST_WEIGHTS:
                new.weights.write_bytes(with_records(folder))
            shutil.rmtree(copy, ignore_errors=True)
            new.path.rename(copy)
        published.append(copy)
    for run in (run for run in before if run not in with_weights):
        other = RunFolder(target / "runs" / run.name)
        other.weights.unlink(missing_ok=True)
        other.card.unlink(missing_ok=True)
    shutil.rmtree((target / SNAKEFILE).parent, ignore_errors=True)
    rebuild(experiments, target)
    return published


def rebuild(experiments: str, folder: Path) -> list[Path]:
    """Make `results.csv`, tables, the page, figures, model cards and the crate of the records in `folder`/runs alone.

    Tables of names that the set has no more are deleted. Needs no GPU and no data. Figures that show images need the
    arrays, which are not published, and are left out. The workflow is copied where it is not there yet.

    Returns:
        The files.

    Raises:
        UserError: the set is unknown, or a record is damaged.
    """
    files = write_texts(experiments, folder / "runs", folder)
    folders = folders_to_draw(experiments, folder)
    if any(run.evaluation.is_file() for run in folders):
        for name in load_experiments(experiments).figures:
            if FIGURES[name].reads != "arrays":
                files += save(draw(name, folders), folder / "figures" / name)
    for old in filter(is_ours, {*folder.glob("tables/*"), *folder.glob("anomalies/*")} - {*files}):
        old.unlink()
    for run in (RunFolder(weights.parent) for weights in sorted(folder.glob("runs/*/*/*/*/weights.safetensors"))):
        write_atomically(run.card, model_card(run).encode())
        files.append(run.card)
    if not (folder / SNAKEFILE).is_file():
        source = Path(__file__).with_name("project") / SNAKEFILE
        for path in (source, *source.parent.glob("rules/*.smk")):
            write_atomically((folder / SNAKEFILE).parent / path.relative_to(source.parent), path.read_bytes())
    if content := crate(experiments, folder):
        write_json(folder / METADATA, content)
        files.append(folder / METADATA)
    return files


def published_sets(results: Path, asked: Sequence[str] = ()) -> list[str]:
    """Names of the sets that have published runs: those that are asked for, or all.

    Raises:
        UserError: nothing is published of one that is asked for.
    """
    known = sorted(path.parent.name for path in (results / PUBLISHED).glob("*/runs") if is_ours(path.parent))
    if unknown := sorted({*asked} - {*known}):
        there = ", ".join(known) or "nothing yet"
        raise UserError(f"Nothing is published of {', '.join(unknown)}. Published: {there}.")
    return [*asked] or known
