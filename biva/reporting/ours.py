"""Our values in a table: the cell of a model's seeds, and the notes on how they came to be."""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_lowercase

import numpy as np
import pandas as pd

from biva.config import FINETUNED, RunConfig
from biva.reporting.markup import Text, code, joined, styled, text
from biva.reporting.provenance import Difference, models_of, names_of, short_name, shortened
from biva.reporting.style import LABELS, MODELS
from biva.reporting.table import NOT_RUN, Cell

PROTOCOLS = {
    "paper": "trained on the training and validation images; the evaluation with the best ELBO on the test images was "
    "selected, as the authors did",
    "clean": "trained on the training images; the evaluation with the best ELBO on the validation images was selected; "
    "the test images were used once",
}

SELECTION = {"paper": "test images", "clean": "validation images"}
"""Protocol -> what the best evaluation is selected on."""

PAPER_IMAGES = 3_000_000 * 48
"""Images after which 0.999999 per update has brought the paper's learning rate from 2e-3 to its minimum, 1e-4."""


def by_model(runs: Iterable[RunConfig]) -> dict[Text, list[RunConfig]]:
    """The runs of one dataset as a table shows them: name of a model and architecture -> its runs by seed, in order.

    Architectures are distinguished by their number of stages, L, or by their names where that number is the same.
    """
    runs = list(runs)
    stages = {run.architecture_name: len(run.architecture.stages) for run in runs}
    by_stages = len(set(stages.values())) == len(stages)

    def place(run: RunConfig) -> tuple[int, int, str, int]:
        return MODELS.index(run.variant), stages[run.architecture_name], run.architecture_name, run.seed

    models: dict[Text, list[RunConfig]] = {}
    for run in sorted(runs, key=place):
        name = text(LABELS[run.variant])
        if len(stages) > 1:
            of = f"L={stages[run.architecture_name]}" if by_stages else text("(", code(run.architecture_name), ")")
            name = text(name, " ", of)
        models.setdefault(name, []).append(run)
    return models


def results_of(planned: Iterable[RunConfig], results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The part of `biva.reporting.results.collect`'s frame that holds a metric of planned runs."""
    is_planned = (results["dataset"] + "/" + names_of(results)).isin([run.name for run in planned])
    return results[is_planned & (results["metric"] == metric)]


def our_cell(found: pd.DataFrame, planned: int, unlike: list[Difference]) -> Cell:
    """Our value of one model at one K: the mean over the seeds that ran, their spread and their number.

    The spread is the standard deviation of the sample (n - 1). One seed has none: the standard error over test images
    stands there, marked as such. The cell gets the letters of the differences that its runs have.
    """
    values = found["value"].to_numpy(dtype=float)
    if not len(values):
        return Cell(NOT_RUN)
    spread = np.std(values, ddof=1) if len(values) > 1 else found["standard_error"].iloc[0]
    return Cell(
        value=float(values.mean()),
        spread=float(spread) if np.isfinite(spread) else None,
        of_images=len(values) == 1,
        seeds=counted(len(values), planned),
        marks=letters(unlike, names_of(found)),
        of=models_of(found),
    )


def counted(ran: int, planned: int) -> str:
    """Number of seeds that ran, and out of how many where that is not all."""
    return f"{ran}" if ran == planned else f"{ran}/{planned}"


# ------------------------------------------------------------------------------------------------- how they came to be

_SEEDS = styled(
    "Ours: mean ± standard deviation over seeds (number of seeds; 1/2: one of two planned). With one seed there is "
    "none: ± is then the standard error over test images, marked ^{se}."
)


def notes_on_ours(ours: pd.DataFrame, planned: list[RunConfig], protocols: dict[str, str] = PROTOCOLS) -> list[Text]:
    """How our numbers came to be, from the results and not from the plan."""
    if ours.empty:
        return [text("Ours: ", architectures(planned), f"; {NOT_RUN}.")]
    runs = ours.drop_duplicates("run_id")
    seeds = ", ".join(map(str, sorted(set(runs["seed"]))))
    images = part_of_split(runs["images_evaluated"], runs["images_in_split"], "test images")
    made = f"; {_updates(runs)}; {images}; device {', '.join(sorted(set(runs['device'])))}."
    return [
        text(_SEEDS, f" Seeds {seeds}; ", architectures(planned), made),
        *(
            styled(f"Protocol `{protocol}`: {protocols[protocol]}.{_selected_on(runs, protocol)}")
            for protocol in sorted(set(runs["protocol"]))
        ),
    ]


def architectures(runs: Iterable[RunConfig]) -> Text:
    """The architectures of the runs and their numbers of stages."""
    stages = {run.architecture_name: len(run.architecture.stages) for run in runs}
    return text("architecture ", joined(", ", (text(code(name), f" (L={stages[name]})") for name in sorted(stages))))


def part_of_split(images: pd.Series, in_split: pd.Series, what: str) -> str:
    """Which part of a split was used, such as "1,000 of 10,000 test images, drawn"; runs may differ."""
    parts = sorted({(int(used), int(there)) for used, there in zip(images, in_split, strict=True)})
    return " or ".join(
        f"all {there:,} {what}" if used == there else f"{used:,} of {there:,} {what}, drawn" for used, there in parts
    )


def _selected_on(runs: pd.DataFrame, protocol: str) -> str:
    selecting = runs[(runs["protocol"] == protocol) & runs["selection_images"].notna()]
    if selecting.empty:
        return ""
    images, in_split = selecting["selection_images"], selecting["selection_images_in_split"]
    return f" Selected on {part_of_split(images, in_split, SELECTION[protocol])}."


def note_on_budget(ours: pd.DataFrame, planned: list[RunConfig]) -> list[Text]:
    """How far training is from the paper's budget, and how long it took; for a table beside the paper's values.

    The budget is that of runs from the start: fine-tuning comes on top of it.
    """
    if ours.empty:
        return []
    runs = ours.drop_duplicates("run_id")
    names = names_of(runs)
    took = {
        name: runs.loc[names.isin(map(short_name, of_model)), "wall_seconds"].mean() / 3600
        for name, of_model in by_model(planned).items()
    }
    hours = (text(name, f" {significant(mean, 2)}") for name, mean in took.items() if np.isfinite(mean))
    finetuned = runs["model"].str.endswith(FINETUNED)
    images = (runs if finetuned.all() else runs[~finetuned])["images_seen"]
    share = 100 * images.mean() / PAPER_IMAGES
    by_the_clock = any(run.training.minutes is not None for run in planned)
    return [
        text(
            styled("**Not the paper's budget**: " if share < 100 else "**Budget**: "),
            f"{span(images)} images seen, {significant(share, 2)}% of those after which the paper's learning rate has "
            "reached its minimum. Hours of training per run: ",
            joined(", ", hours),
            ". Training ended by the clock; the learning rate rose, stayed, and fell to 0." if by_the_clock else ".",
        )
    ]


def _updates(runs: pd.DataFrame) -> str:
    """The training budget used; that of fine-tuning comes on top of its parent's."""
    finetuned = runs["model"].str.endswith(FINETUNED)
    parts = [(runs[~finetuned], ""), (runs[finetuned], " of fine-tuning")]
    return ", ".join(f"{span(part['updates'])} updates{kind}" for part, kind in parts if not part.empty)


def span(values: pd.Series) -> str:
    """Smallest to largest, with thousands separated."""
    low, high = f"{int(values.min()):,}", f"{int(values.max()):,}"
    return low if low == high else f"{low}–{high}"


def significant(number: float, digits: int) -> str:
    """A positive number to so many digits; a larger one as a whole number, and never as `1e+02`."""
    return f"{number:,.{digits}g}" if number < 10**digits - 0.5 else f"{number:,.0f}"


# -------------------------------------------------------------------------------------- what is not like the others


def letters(unlike: list[Difference], names: Iterable[str]) -> tuple[str, ...]:
    """A letter for everything that these runs (`ARCHITECTURE/MODEL/seedN`) do not have in common with the others."""
    names = set(names)
    return tuple(ascii_lowercase[place] for place, difference in enumerate(unlike) if names & difference.has.keys())


def notes_on_differences(unlike: list[Difference]) -> list[Text]:
    """What the letters at our values mean: what differs, in which runs, and what the others have."""
    notes = []
    for letter, difference in zip(ascii_lowercase, unlike, strict=False):
        by_value: dict[str, list[str]] = {}
        for name, value in difference.has.items():
            by_value.setdefault(value, []).append(name)
        has = joined(
            "; ",
            (text(joined(", ", map(code, names)), ": ", code(shortened(value))) for value, names in by_value.items()),
        )
        usual = (
            text("; the others: ", code(shortened(difference.usual))) if difference.usual not in (*by_value, "") else ""
        )
        notes.append(text(styled(f"^{{{letter}}} **Not like the others**, {difference.what}: "), has, usual, "."))
    return notes
