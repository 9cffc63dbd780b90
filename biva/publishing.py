"""Published results: the small records of runs that were really made, kept in the repository, and what is made of them.

`results/published/NAME/` has what `results/NAME/` has, but for weights, pictures and the scores of single images:
`runs/` with the records of every run and the bounds of its test images, `results.csv`, `tables/`, `anomalies/` with the
tables of the anomaly pairs, and `figures/`.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from biva.config import load_experiments, resolve_runs
from biva.errors import UserError
from biva.records import PUBLISHED, RunFolder
from biva.reporting.canvas import save
from biva.reporting.figures import draw, folders_to_draw, reads_arrays
from biva.reporting.texts import write_texts
from biva.verification import verify


def publish(experiments: str, results: Path, resources: Path) -> list[Path]:
    """Copy the records of a set's evaluated runs to `results/published/NAME`, and rebuild tables and figures there.

    A run that was published before is replaced; others that were, such as another machine's, stay.

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
    published = []
    for run in evaluated:
        folder, copy = RunFolder(source / "runs" / run.name), target / "runs" / run.name
        shutil.rmtree(copy, ignore_errors=True)
        for path in folder.records():
            place = copy / path.relative_to(folder.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        published.append(copy)
    rebuild(experiments, target)
    return published


def rebuild(experiments: str, folder: Path) -> list[Path]:
    """Make `results.csv`, tables and figures of the records in `folder`/runs: no training, no GPU, no data.

    Figures that show images need the arrays, which are not published, and are left out.

    Returns:
        The files.

    Raises:
        UserError: the set is unknown, or a record is damaged.
    """
    files = write_texts(experiments, folder / "runs", folder)
    folders = folders_to_draw(experiments, folder)
    if any(run.evaluation.is_file() for run in folders):
        for name in itertools.filterfalse(reads_arrays, load_experiments(experiments).figures):
            files += save(draw(name, folders), folder / "figures" / name)
    return files


def published_sets(results: Path) -> list[str]:
    """Names of the sets that have published runs."""
    return sorted(path.parent.name for path in (results / PUBLISHED).glob("*/runs"))
