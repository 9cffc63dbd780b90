"""The learning rate by updates and by the clock, and runs that end by the clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from biva.config import Training, parse
from biva.errors import UserError
from biva.records import RunFolder
from biva.training import loop
from biva.training.loop import train
from biva.training.schedule import free_bits, kl_weight, learning_rate, share_done
from biva.training.state import step
from tests.unit.test_training import toy_dataset, toy_run


def settings(**changes: Any) -> Training:
    return Training(**{"protocol": "clean", "batch_size": 1, "max_updates": 10**9, "evaluate_every": 1} | changes)


def test_the_papers_rate_reaches_its_minimum_after_three_million_updates() -> None:
    """0.002 x 0.999999^n = 0.0001 at n = ln 20 / 1e-6, nearly."""
    paper = settings()
    assert learning_rate(paper, 1, 0.0) == pytest.approx(0.001999998)
    assert learning_rate(paper, 2_995_000, 0.0) > 0.0001
    assert learning_rate(paper, 2_996_000, 0.0) == pytest.approx(0.0001)
    assert learning_rate(paper, 9_000_000, 1e9) == pytest.approx(0.0001)


@pytest.mark.parametrize(
    ("seconds", "factor"),
    [(0, 0.0), (6, 0.5), (12, 1.0), (300, 1.0), (420, 1.0), (510, 0.5), (582, 0.1), (600, 0.0), (700, 0.0)],
)
def test_by_the_clock_it_rises_stays_and_falls_to_zero(seconds: float, factor: float) -> None:
    """Ten minutes: 12 seconds up, and from 7 minutes on down."""
    assert learning_rate(settings(minutes=10), 12345, seconds) == pytest.approx(0.002 * factor)


def test_free_bits_fall_and_the_weight_of_the_kl_rises_where_they_shall() -> None:
    assert [free_bits(settings(), update) for update in (0, 10**6)] == [2.0, 2.0]
    falling = settings(free_bits=3, free_bits_updates=100)
    assert [free_bits(falling, update) for update in (0, 25, 100, 101)] == [3.0, 2.25, 0.0, 0.0]
    assert [kl_weight(settings(), update) for update in (0, 10**6)] == [1.0, 1.0]
    assert [kl_weight(settings(kl_warm_up=100), update) for update in (0, 25, 100, 101)] == [0.0, 0.25, 1.0, 1.0]


@pytest.mark.parametrize("other", [{"learning_rate_decay": 0.9}, {"learning_rate_minimum": 0.0}])
def test_two_schedules_at_once_are_refused(other: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=f"leave out {next(iter(other))}"):
        settings(minutes=1, **other)


@pytest.mark.parametrize(
    ("minutes", "update", "seconds", "share"),
    [(None, 0, 9.0, 0.0), (None, 250, 1e9, 0.25), (2, 100, 90, 0.75), (2, 900, 90, 0.9), (2, 100, 121, 1.0)],
)
def test_what_is_done_of_a_training(minutes: float | None, update: int, seconds: float, share: float) -> None:
    assert share_done(settings(max_updates=1000, minutes=minutes), update, seconds) == pytest.approx(share)


@pytest.fixture
def an_update_takes_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]

    def slow_step(*arguments: Any) -> list[str]:
        clock[0] += 1
        return step(*arguments)

    monkeypatch.setattr("biva.training.loop.step", slow_step)
    monkeypatch.setattr("biva.training.loop.time.monotonic", lambda: clock[0])


@pytest.mark.usefixtures("an_update_takes_a_second")
def test_a_run_ends_with_its_minutes_also_in_two_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute is 30 updates of a second; those after the last checkpoint are made again."""
    run = toy_run(max_updates=1000, evaluate_every=7, minutes=0.5, learning_rate=0.01)
    folder, evaluations = RunFolder(tmp_path), []

    def killed_at_the_third() -> None:
        evaluations.append(1)
        if len(evaluations) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "TELL_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        train(run, toy_dataset(), folder, killed_at_the_third)
    train(run, toy_dataset(), folder, lambda: None)

    result = json.loads(folder.training.read_text())
    assert (result["stopped"], result["updates"], result["wall_seconds"]) == ("minutes", 30, 30.0)
    lines = [json.loads(line) for line in folder.record.read_text().splitlines()]
    assert [line["update"] for line in lines] == [7, 14, 21, 28, 30]
    # The rate of an update is that of the second in which it began.
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.01, 0.01, 0.01, 0.01 / 3, 0.01 / 9])


def test_a_wrong_number_of_minutes_is_named() -> None:
    with pytest.raises(UserError, match="minutes: Input should be greater than 0"):
        parse(Training, settings().model_dump() | {"minutes": 0}, "here")
