"""Every number of an architecture, a training, an evaluation and of labels at its documented limits.

A run either trains, to a loss that is not absurd, and is evaluated, or it is refused in words that name the key. The
limits are those of the schemas, and the largest number where a fraction has none, so that a new key is tried too.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from biva import records
from biva.config import Evaluation, Labels, RunConfig, SemiSupervised, Training
from biva.errors import UserError
from biva.evaluation.run import evaluate
from biva.models.architectures import Architecture
from biva.records import RunFolder
from biva.training.loop import train
from tests.models import tiny_architecture
from tests.unit.test_training import toy_dataset, toy_run

Place = tuple[str | int, ...]

DEFAULTS: dict[type[BaseModel], dict[str, Any]] = {
    Training: toy_run(max_updates=2).training.model_dump(),
    Architecture: toy_run().architecture.model_dump() | {"stages": tiny_architecture(latent=2).model_dump()["stages"]},
    SemiSupervised: {
        "name": "labels", "dataset": "toy", "architecture": "tiny", "labels": 10, "label_batch_size": 10,
        "label_weight": 1.0, "seeds": [1],
    },
    Evaluation: Evaluation(importance_samples=(2,), prior_samples=4).model_dump(),
}  # fmt: skip
COINS, DICE = 16 * math.log(2), math.log(10)
"""Nats that a model loses which takes the 16 pixels for coins, and the class for a die."""


def limits(schema: dict[str, Any], node: dict[str, Any], place: Place = ()) -> Iterator[tuple[Place, float]]:
    """Every number in a schema: where it is, and each of its limits."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    for key, child in node.get("properties", {}).items():
        yield from limits(schema, child, (*place, key))
    for child in node.get("anyOf", []):
        yield from limits(schema, child, place)
    for number, child in enumerate(node.get("prefixItems", [node["items"]] if "items" in node else [])):
        yield from limits(schema, child, (*place, number))
    if node.get("type") == "number" and "exclusiveMinimum" in node:
        yield place, math.nextafter(node["exclusiveMinimum"], math.inf)
    if node.get("type") in ("integer", "number") and "minimum" in node:
        yield place, node["minimum"]
    if node.get("type") == "number" and "exclusiveMaximum" in node:
        yield place, math.nextafter(node["exclusiveMaximum"], -math.inf)
    elif "maximum" in node or node.get("type") == "number":
        yield place, node.get("maximum", sys.float_info.max)


CASES = [
    pytest.param(kind, place, value, id=f"{kind.__name__}.{'.'.join(map(str, place))}={value:g}")
    for kind in DEFAULTS
    for place, value in limits(kind.model_json_schema(), kind.model_json_schema())
    if kind is not SemiSupervised or place[0] != "training"
]


def changed(kind: Any, place: Place, value: float) -> Any:
    """The settings of a kind with one number changed."""
    content = json.loads(json.dumps(DEFAULTS[kind]))  # a copy, with lists for tuples
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return kind.model_validate(content)


def runs_of(settings: BaseModel) -> list[RunConfig]:
    """What is to be trained with these settings: a VAE, and BIVA where its way matters."""
    if isinstance(settings, Training):
        return [toy_run("vae").model_copy(update={"training": settings})]
    run = toy_run(max_updates=2)
    if isinstance(settings, Architecture):
        return [run.model_copy(update={"architecture": settings})]
    if isinstance(settings, SemiSupervised):
        labels = Labels(count=settings.labels, batch_size=settings.label_batch_size, weight=settings.label_weight)
        supervised = labels.model_copy(update={"weight": None})
        run = run.model_copy(update={"seed": settings.seeds[0]})
        return [
            run.model_copy(update={"labels": labels}),
            run.model_copy(update={"labels": supervised, "model": "classifier"}),
        ]
    return []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that evaluations are made of."""
    folder = RunFolder(tmp_path_factory.mktemp("limits"))
    train(toy_run("vae", max_updates=2), toy_dataset(), folder, lambda: None)
    return folder


def test_the_limits_of_all_kinds_are_found() -> None:
    found = {(kind, place, value) for kind, place, value in (case.values for case in CASES)}
    assert found > {
        (Training, ("batch_size",), 1),
        (Training, ("minutes",), 5e-324),
        (Training, ("betas", 1), 1 - 2**-53),
        (Architecture, ("dropout", "inference"), 0),
        (Architecture, ("stages", 0, "blocks"), 1),
        (SemiSupervised, ("label_batch_size",), 1),
        (Evaluation, ("temperatures", 0), 2),
    }


@pytest.mark.parametrize(("kind", "place", "value"), CASES)
def test_a_key_at_its_limit_trains_or_is_refused_by_name(
    kind: Any, place: Place, value: float, trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = [part for part in place if isinstance(part, str)][-1]
    try:
        settings = changed(kind, place, value)
        if kind is Evaluation:
            evaluate(trained, settings, toy_dataset())
            metrics = records.read_json(trained.evaluation)["metrics"]
            assert all(math.isfinite(metric["value"]) for metric in metrics)
        for run in runs_of(settings):
            folder = RunFolder(tmp_path / run.name)
            train(run, toy_dataset(), folder, lambda: None)
            sound = all(map(is_sound, records.read_lines(folder.record)))
            assert sound or f"training.{key}" in capsys.readouterr().err
    except (UserError, ValidationError) as error:
        assert key in str(error)


def is_sound(line: dict[str, Any]) -> bool:
    """Whether what a line of the record says is of the size of what a model gives that knows nothing."""
    train, selection = line["train"], line["selection"]
    if not selection:  # the supervised network
        return bool(train["loss"] < 1000 * DICE)
    pixels = [train["log_likelihood"], train["kl"], selection["elbo"]]
    return all(abs(value) < 1000 * COINS for value in pixels) and train.get("cross_entropy", 0) < 1000 * DICE
