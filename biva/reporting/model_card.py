"""The model card of published weights: what they are, how they came to be, and how good they are."""

from __future__ import annotations

from biva.config import RunConfig, find_dataset, parse
from biva.records import PUBLISHED, RunFolder, as_written, commits, read_json
from biva.reporting.ours import PROTOCOLS, significant
from biva.reporting.style import name_of
from biva.reporting.table import render


def model_card(folder: RunFolder) -> str:
    """The card in Markdown, from the records of an evaluated run.

    Raises:
        UserError: a record is missing or damaged, or there is no dataset of that name any more.
    """
    identity, training, evaluation = map(read_json, (folder.identity, folder.training, folder.evaluation))
    run = parse(RunConfig, identity["config"], folder.identity)
    with as_written(folder.path, "Restore the records from git or a backup."):
        return render(
            "model_card.md.j2",
            run=run,
            model=name_of(run),
            dataset=find_dataset(run.dataset),
            protocol=PROTOCOLS[run.training.protocol],
            identity=identity,
            training=training,
            evaluation=evaluation,
            commits=commits(identity, evaluation),
            hours=training["wall_seconds"] / 3600,
            significant=significant,
            weights=f"results/{PUBLISHED}/{run.experiments}/runs/{run.name}/{folder.weights.name}",
        )
