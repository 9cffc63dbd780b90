"""Is a re-run of a set the same as the published one? Every value to the bit, within error, or worse by more than that.

The test is one-sided, as that of MLPerf's reference convergence points: a re-run is told from the published one where
it is worse by more than error explains, and not where it is better.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from biva.errors import UserError
from biva.records import RunFolder
from biva.reporting.per_image import read_bounds
from biva.reporting.results import Results
from biva.reporting.table import NOT_RUN

LEVEL = 0.05
"""Probability that a value which differs by error alone is called different."""

DIRECTION = {"log_likelihood_bound": 1, "auroc": 1, "auprc": 1, "bits_per_dim": -1, "test_error": -1, "fpr80": -1}
"""Last part of a metric's name -> 1 where higher is better, -1 where lower is. Other metrics describe a model, and are
not compared."""

EQUAL, WITHIN, UNKNOWN, DIFFERENT = "equal to the bit", "within error", "worse, error unknown", "different"
NOT_PUBLISHED = "not published"

STATUS = {EQUAL: 0, WITHIN: 3, UNKNOWN: 3, DIFFERENT: 4}
"""Verdict -> exit status of `biva same` where it is the worst of all."""

_ELSEWHERE = (
    "On another processor than that of the published runs few values can be equal to the bit: it rounds otherwise, and "
    "training makes of that up to as much as another seed does (docs/numbers.md)."
)

_OTHERWISE = (
    "Trained otherwise: the training settings, the device or the number of threads are not those of the published run "
    "with that seed."
)

_CELL = ["dataset", "architecture", "model", "metric", "K"]
_COMPARABLE = {"data_fingerprint": "other data", "evaluation_digest": "other settings of the evaluation"}

Folders = tuple[Path, Path]
"""Of the published set and of the one that was run again."""


def compare(published: Results, rerun: Results, folders: Folders) -> pd.DataFrame:
    """A row per dataset, architecture, model, metric and K: both means over seeds, their distance, and a verdict.

    `equal to the bit`: every seed that was run again has the very value that is published. `different`: the mean over
    seeds is worse by more than `explained` says, or one of the two is not finite. `within error`: all else that ran.

    The bounds of single test images are read from the runs in `folders`, where they have them.

    Raises:
        UserError: nothing that is published was run again, or it was on other data or evaluated with other settings.
    """
    published, rerun = _comparable(published), _comparable(rerun)
    if rerun.empty:
        raise UserError("Nothing is evaluated yet of what was to be compared. `snakemake` runs the set.")
    before, after = (dict(list(frame.groupby(_CELL, sort=False))) for frame in (published, rerun))
    if not before.keys() & after.keys():
        raise UserError("Nothing that is published was run again: there is nothing to compare. `snakemake` runs it.")
    _refuse_other_evaluations(published, rerun)
    rows = [
        dict(zip(_CELL, cell, strict=True))
        | _judged(before.get(cell, published.iloc[:0]), after.get(cell, rerun.iloc[:0]), folders)
        for cell in dict.fromkeys([*before, *after])
    ]
    return pd.DataFrame(rows)


def explained(published: Results, rerun: Results, folders: Folders) -> tuple[float, str]:
    """By how much the re-run's mean may be worse, so that error alone makes it worse in one of twenty cases.

    Both sides are evaluated on the same images, which are no source of error then. If the re-run is the same, the seeds
    of both sides are draws from one distribution, Monte Carlo error included: Student's test of two samples of equal
    variance, which needs three runs in all. With one run on either side, or where all seeds of a side have one value,
    what another seed does is not known. The rest of the error is bounded by the spread over images: of their
    differences, where both sides have bounds of single images, and else, which is far too wide, of both sides as if
    their images were not the same.

    Both hold results of one metric and K, one per seed.

    Returns:
        The margin in the unit of the metric, NaN where nothing gives one (a single image), and what it was taken from:
        `seeds`, `images, paired`, or `images`.
    """
    freedom = len(published) + len(rerun) - 2
    squares = sum(np.square(values - values.mean()).sum() for values in map(_values, (published, rerun)))
    if squares:
        error = np.sqrt(squares / freedom * (1 / len(published) + 1 / len(rerun)))
        return float(stdtrit(freedom, 1 - LEVEL) * error), "seeds"
    quantile, (one, other) = float(ndtri(1 - LEVEL)), (published.iloc[0], rerun.iloc[0])
    if one["metric"] in ("log_likelihood_bound", "bits_per_dim"):
        before, after = (
            read_bounds(RunFolder(folder / "runs" / _run_of(row))).get(row["k"])
            for folder, row in zip(folders, (one, other), strict=True)
        )
        if before is not None and after is not None and len(after) > 1:
            per_nat = abs(one["value"] / before.mean())
            error = np.std(after - before, ddof=1) / np.sqrt(len(after))
            return float(quantile * per_nat * error), "images, paired"
    return quantile * float(np.hypot(_standard_error(one), _standard_error(other))), "images"


def report(verdicts: pd.DataFrame) -> str:
    """The rows as a table, how many there are of each verdict, and how to read it."""
    shown = verdicts.assign(run=verdicts["dataset"] + "/" + verdicts["architecture"] + "/" + verdicts["model"])
    columns = ["run", "metric", "K", "published", "re-run", "worse by", "explained", "error of", "verdict"]
    otherwise = verdicts["trained"].any()
    columns += ["trained"] if otherwise else []
    counts = verdicts["verdict"].value_counts()
    return "\n".join(
        [
            shown[columns].to_string(index=False, float_format="{:.3f}".format, na_rep=""),
            "",
            ", ".join(f"{number} {verdict}" for verdict, number in counts.items()) + ".",
            *([_ELSEWHERE] if {WITHIN, DIFFERENT} & {*counts.index} else []),
            *([_OTHERWISE] if otherwise else []),
            "Means over seeds (number of seeds). Explained: by how much error alone makes one value of twenty worse.",
            *(
                ["Error of images: seeds have no spread here, so what another seed does is not known and not in it."]
                if verdicts["error of"].str.startswith("images").any()
                else []
            ),
        ]
    )


def status(verdicts: pd.DataFrame) -> int:
    """That of the worst verdict; what is not run or not published does not count."""
    return max(STATUS.get(verdict, 0) for verdict in verdicts["verdict"])


def _direction(metric: str) -> int:
    return DIRECTION.get(metric.rpartition("/")[2], 0)


def _comparable(frame: Results) -> Results:
    """The results that can be better or worse, with K as a text too."""
    frame = frame.assign(K=frame["k"].astype("string").fillna("").astype("str"))
    return frame[frame["metric"].map(_direction) != 0]


def _refuse_other_evaluations(published: Results, rerun: Results) -> None:
    both = rerun.merge(published, on=_CELL, suffixes=("", "_published"))
    for column, what in _COMPARABLE.items():
        unlike = both[both[column] != both[f"{column}_published"]]
        if not unlike.empty:
            raise UserError(
                f"{_run_of(unlike.iloc[0])} was run with {what} than the published one ({unlike['metric'].iloc[0]}), "
                "so nothing can be compared."
            )


def _judged(published: Results, rerun: Results, folders: Folders) -> dict[str, object]:
    shown: dict[str, object] = {"published": _mean(published), "re-run": _mean(rerun)}
    shown |= {"worse by": np.nan, "explained": np.nan, "error of": ""}
    both = rerun.merge(published, on="seed", suffixes=("", "_published"))
    shown["trained"] = "otherwise" if (both["config_digest"] != both["config_digest_published"]).any() else ""
    if rerun.empty or published.empty:
        return shown | {"verdict": NOT_RUN if rerun.empty else NOT_PUBLISHED}
    if _is_equal(published, rerun):
        return shown | {"verdict": EQUAL}
    worse = _direction(published["metric"].iloc[0]) * (_values(published).mean() - _values(rerun).mean())
    if not np.isfinite(worse):
        return shown | {"verdict": DIFFERENT}
    margin, source = explained(published, rerun, folders)
    verdict = WITHIN if worse <= max(0.0, margin) else UNKNOWN if np.isnan(margin) else DIFFERENT
    return shown | {"worse by": worse, "explained": margin, "error of": source, "verdict": verdict}


def _is_equal(published: Results, rerun: Results) -> bool:
    values = published.set_index("seed")["value"]
    if not rerun["seed"].isin(values.index).all():
        return False
    return np.array_equal(values[rerun["seed"]], rerun["value"], equal_nan=True)


def _values(runs: Results) -> NDArray[np.float64]:
    """One per seed; in means of these, unlike in those of pandas, a value that is not a number counts."""
    return runs["value"].to_numpy(dtype=float)


def _mean(runs: Results) -> str:
    return f"{_values(runs).mean():.3f} ({len(runs)})" if len(runs) else ""


def _run_of(row: pd.Series) -> str:
    return f"{row['dataset']}/{row['architecture']}/{row['model']}/seed{row['seed']}"


def _standard_error(row: pd.Series) -> float:
    """That of the mean over images; of an anomaly score, from its 95% interval."""
    half_width = (row["high"] - row["low"]) / 2 / ndtri(0.975)
    return float(half_width if pd.isna(row["standard_error"]) else row["standard_error"])
