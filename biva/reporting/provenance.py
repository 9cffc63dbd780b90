"""What results of one table do not have in common though they should.

Models differ in a table by intention. Their code, data, protocol and evaluation should not, and every run should have
been made with the settings that the configuration has now.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from biva.config import RunConfig
from biva.records import LARGEST_LOSS_GROWTH, commits, settings_digest

LOSS_GROWTH = "loss_growth"
"""Metric of runs alone whose training diverged: their largest loss as a multiple of the first update's."""


def origin(run: dict[str, Any], record: dict[str, Any]) -> dict[str, str]:
    """Where a record of an evaluation or of an anomaly pair comes from: columns of the results frame."""
    return {
        "protocol": run["config"]["training"]["protocol"],
        "run_id": run["run_id"],
        "commit": " ".join(commits(run, record)),
        "config_digest": run["config_digest"],
        "evaluation_digest": settings_digest(record["settings"]),
        "data_fingerprint": run["data_fingerprint"],
    }


def shortened(value: str) -> str:
    """Commits and fingerprints in a text by their first 12 digits, which a line has room for."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{8,}", r"\1", value)


def is_of_one_commit(commit: str) -> bool:
    """Whether the column `commit` names one state of the code that anybody can get again."""
    return " " not in commit and not commit.endswith("-dirty") and commit != "unknown"


@dataclass(frozen=True)
class Difference:
    """One thing that some of a table's runs do not have in common with the others."""

    what: str
    has: dict[str, str]
    """Name of a run that differs -> what it has."""
    usual: str
    """What the others have; empty where that is not one thing."""


def short_name(run: RunConfig) -> str:
    """`ARCHITECTURE/MODEL/seedN`, the run's name within a table of one dataset."""
    return run.name.partition("/")[2]


def names_of(results: pd.DataFrame) -> pd.Series:
    """`short_name` of the run of every result."""
    return results["architecture"] + "/" + results["model"] + "/seed" + results["seed"].astype("str")


def models_of(results: pd.DataFrame) -> tuple[str, ...]:
    """`DATASET/ARCHITECTURE/MODEL` of the results, each once."""
    return tuple((results["dataset"] + "/" + results["architecture"] + "/" + results["model"]).unique())


def differences(results: pd.DataFrame, planned: Iterable[RunConfig]) -> list[Difference]:
    """What results of one table do not have in common; nothing where all is well.

    What most of them have is what is expected. `results` has the columns of `origin`, architecture, model, seed and
    images_evaluated; `planned` are the table's runs as the configuration has them now.
    """
    names = names_of(results)

    def column(values: pd.Series) -> dict[str, str]:
        return dict(zip(names, map(str, values), strict=True))

    now = {short_name(run): run.digest for run in planned}
    evaluations = results["evaluation_digest"] + " on " + results["images_evaluated"].astype("str") + " images"
    found = [
        _unlike_most(
            "code of another commit than most, of several, or of none", column(results["commit"]), is_of_one_commit
        ),
        _unlike_most("other data", column(results["data_fingerprint"])),
        _unlike_most("other protocol", column(results["protocol"])),
        _unlike_most("other evaluation settings or images", column(evaluations)),
        Difference(
            "configuration other than the present one",
            {name: digest for name, digest in column(results["config_digest"]).items() if digest != now.get(name)},
            usual="",
        ),
    ]
    return [difference for difference in found if difference.has]


def divergence(training: dict[str, Any]) -> float:
    """The multiple of the first update's loss that a training reached, where that is out of all proportion, else 0."""
    growth: float = training.get(LOSS_GROWTH, 0)  # runs of earlier versions have none
    return growth if growth > LARGEST_LOSS_GROWTH else 0


def diverged(growth: pd.DataFrame) -> list[Difference]:
    """The runs that diverged, where there are any: those of `growth`, which has their `divergence` as its values."""
    has = dict(zip(names_of(growth), growth["value"].map("{:,.0f} times".format), strict=True))
    what = f"a loss that was, at an evaluation of training, over {LARGEST_LOSS_GROWTH:,} times that of the first update"
    return [Difference(what, has, usual="")] if has else []


def _unlike_most(what: str, values: dict[str, str], is_sound: Callable[[str], bool] = bool) -> Difference:
    """Runs whose value is unsound, or is not the most frequent sound one (of equals, the first)."""
    all_values = list(values.values())
    usual = max(all_values, key=lambda value: (is_sound(value), all_values.count(value)), default="")
    odd = {name: value for name, value in values.items() if value != usual or not is_sound(value)}
    return Difference(what, odd, usual)
