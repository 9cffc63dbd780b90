"""`biva status`: what made-up files of runs say, at a time of the test's own, and that they are only looked at."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from biva import locks, status
from biva.config import AnomalyPair, Experiments, RunConfig, load_datasets
from biva.records import RunFolder
from biva.status import Progress, duration, progress, show, total
from tests.fake_runs import (
    cut_record,
    detect,
    edit,
    evaluate,
    fake_config,
    fake_run,
    fake_set,
    fake_test_error,
    finish_training,
    labelled_config,
)
from tests.unit.test_training import Terminal

DATASETS = load_datasets(Path(__file__).parents[2] / "config")
PAIR = AnomalyPair(name="patches", normal="digits", anomalous="photo_patches", importance_samples=1)
NOBODY = 2**22 + 1
"""A number that no process of Linux has."""
THIS = 0
"""The process of the test, whose own number is another in every one that collects tests."""


def settings(*pairs: AnomalyPair) -> Experiments:
    evaluation = {"importance_samples": [1], "max_images": 20}
    return fake_set(evaluation=evaluation, tables=[], anomalies=[pair.model_dump() for pair in pairs])


def look(results: Path, run: RunConfig, *pairs: AnomalyPair, later: float = 0) -> Progress:
    return progress(run, settings(*pairs), DATASETS, results, time.time() + later)


def take_lock(folder: RunFolder, number: int, host: str | None = None) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.lock.write_text(f"{number}\n{host or socket.gethostname()}\n")


def evaluated(folder: RunFolder, run: RunConfig) -> None:
    evaluate(folder, run, {1: (-24.0, 0.1)})
    edit(folder.evaluation, settings=settings().evaluation.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("number", "host", "later", "state", "at"),
    [
        (THIS, None, 0, "training", "update 50 of 1,000"),
        (THIS, None, 9999, "training", "update 50 of 1,000"),
        (NOBODY, None, 0, "stopped", "update 50 of 1,000, its process has ended"),
        (1, "elsewhere", 30, "training", "update 50 of 1,000"),
        (NOBODY, "elsewhere", 9999, "stopped", "update 50 of 1,000, nothing new"),
    ],
)
def test_a_run_is_trained_if_its_process_lives_or_if_one_elsewhere_gives_news(
    tmp_path: Path, number: int, host: str | None, later: float, state: str, at: str
) -> None:
    run = fake_config()
    folder = fake_run(tmp_path / "runs", run, trained=False)
    take_lock(folder, number or os.getpid(), host)
    with folder.record.open("a") as file:
        file.write('{"update": 60, "sele')  # as a reader may find it
    found = look(tmp_path, run, later=later)
    assert (found.state, found.at, found.speed) == (state, at, "8")
    assert float(found.elbo) < 0
    if state == "stopped":
        assert found.left is None
    else:  # 950 updates of half a second are left when the last line is written
        assert found.left == pytest.approx(max(0, 950 * 0.5 - later), abs=30)


def test_a_number_that_another_process_has_now_is_not_the_run_any_more(tmp_path: Path) -> None:
    run = fake_config()
    folder = fake_run(tmp_path / "runs", run, trained=False)
    take_lock(folder, os.getpid())
    os.utime(folder.lock, (0, 0))
    assert look(tmp_path, run).state == "stopped"


def test_with_minutes_the_clock_says_what_is_left(tmp_path: Path) -> None:
    run = fake_config(minutes=1.0)
    take_lock(fake_run(tmp_path / "runs", run, trained=False), os.getpid())
    found = look(tmp_path, run)
    assert found.at == "update 50 of 1,000, 0.4 of 1 min"
    assert found.left == pytest.approx(60 - 25, abs=30)


def test_a_classifier_has_a_loss(tmp_path: Path) -> None:
    run = labelled_config("classifier")
    folder = fake_test_error(tmp_path / "runs", run, 20.0)
    folder.training.unlink()
    assert look(tmp_path, run).elbo == "loss 0.250"


def nothing(_folder: RunFolder, _run: RunConfig) -> None:
    pass


def starting(folder: RunFolder, _run: RunConfig) -> None:
    take_lock(folder, os.getpid())


def before_its_first_evaluation(folder: RunFolder, run: RunConfig) -> None:
    fake_run(folder.path.parents[3], run, updates=0, trained=False)
    take_lock(folder, os.getpid())


def with_other_settings(folder: RunFolder, run: RunConfig) -> None:
    fake_run(folder.path.parents[3], run)
    edit(folder.identity, config_digest="other")


def damaged(folder: RunFolder, run: RunConfig) -> None:
    fake_run(folder.path.parents[3], run, trained=False)
    folder.record.write_text("{\n{}\n")


def of_another_version(folder: RunFolder, run: RunConfig) -> None:
    fake_run(folder.path.parents[3], run, trained=False)
    folder.record.write_text('{"steps": 1}\n')


def trained(folder: RunFolder, run: RunConfig) -> None:
    fake_run(folder.path.parents[3], run)


def evaluating(folder: RunFolder, run: RunConfig) -> None:
    """Two batches of this evaluation, one of them twice, and more of an earlier one."""
    fake_run(folder.path.parents[3], run)
    for kept in ("old/00000000-00000016.a", "new/00000000-00000004.b", "new/00000000-00000004.c", "new/0008-0012.d"):
        path = folder.unfinished_evaluation / f"{kept}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.utime(folder.unfinished_evaluation / "old", (0, 0))


def evaluated_otherwise(folder: RunFolder, run: RunConfig) -> None:
    fake_run(folder.path.parents[3], run, bounds={1: (-24.0, 0.1)})


def without_its_pair(folder: RunFolder, run: RunConfig) -> None:
    trained(folder, run)
    evaluated(folder, run)


def done(folder: RunFolder, run: RunConfig) -> None:
    without_its_pair(folder, run)
    detect(folder, PAIR, {"L>0": (0.5, 0.4, 0.6)}, np.zeros((1, 2)), np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("files", "state", "at"),
    [
        (nothing, "waiting", ""),
        (starting, "training", "no evaluation yet"),
        (before_its_first_evaluation, "training", "no evaluation yet"),
        (with_other_settings, "waiting", "anew, with other settings"),
        (damaged, "unreadable", "is damaged"),
        (of_another_version, "unreadable", "lacks the field 'update'"),
        (trained, "trained", "to do: evaluation, patches"),
        (evaluating, "evaluating", "8 of 20 test images"),
        (evaluated_otherwise, "trained", "to do: evaluation, patches"),
        (without_its_pair, "trained", "to do: patches"),
        (done, "done", "in 4 s"),  # 0.3 of training, 1.5 of evaluation, 2.5 of the pair
    ],
)
def test_what_files_say(tmp_path: Path, files: Callable[[RunFolder, RunConfig], None], state: str, at: str) -> None:
    run = fake_config()
    files(RunFolder(tmp_path / "runs" / run.name), run)
    found = look(tmp_path, run, PAIR)
    assert (found.state, at if found.state == "unreadable" and at in found.at else found.at) == (state, at)


@pytest.mark.parametrize(
    ("files", "log"),
    [
        (nothing, "train/{}"),
        (trained, "evaluate/{}"),
        (trained, "evaluate/{}/2of8"),
        (without_its_pair, "detect/{}/patches"),
    ],
)
def test_a_job_that_failed_says_why(tmp_path: Path, files: Callable[[RunFolder, RunConfig], None], log: str) -> None:
    run = fake_config()
    files(RunFolder(tmp_path / "runs" / run.name), run)
    path = tmp_path / "logs" / f"{log.format(run.name)}.log"
    path.parent.mkdir(parents=True)
    path.write_text("one\nerror: [Errno 28] No space. Free some.\nmore\n")
    found = look(tmp_path, run, PAIR)
    assert (found.state, found.at) == ("stopped", "error: [Errno 28] No space. Free some.")


def test_an_error_before_the_last_news_is_over(tmp_path: Path) -> None:
    """Of a training and, here, of an evaluation, which somebody goes on with by hand."""
    run = fake_config()
    evaluating(RunFolder(tmp_path / "runs" / run.name), run)
    log = tmp_path / "logs" / "evaluate" / f"{run.name}.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: No space.\n")
    assert look(tmp_path, run, later=1).at == "error: No space."
    os.utime(log, (1, 1))
    assert look(tmp_path, run).state == "evaluating"


def test_a_training_that_was_stopped_before_the_last_news_goes_on(tmp_path: Path) -> None:
    run = fake_config()
    folder, log = fake_run(tmp_path / "runs", run, trained=False), tmp_path / "logs" / "train" / f"{run.name}.log"
    log.parent.mkdir(parents=True)
    log.write_text("stopped by SIGTERM at update 50; the state is saved.\n")
    take_lock(folder, 1, "elsewhere")
    os.utime(log, (1, 1))
    assert look(tmp_path, run).state == "training"
    os.utime(log)
    assert look(tmp_path, run).at == "update 50 of 1,000, stopped by SIGTERM at update 50; the state is saved."


def test_the_time_left_is_that_of_runs_that_are_done() -> None:
    one, two, three = (fake_config(seed=seed) for seed in (1, 2, 3))
    done, training = Progress("done", spent=3600.0), Progress("training", spent=600.0)
    assert total([(one, done), (two, done)]) == "2 run(s): 2 done"
    assert total([(one, done), (two, training), (three, Progress("waiting"))]) == (
        "3 run(s): 1 training, 1 waiting, 1 done; about 1 h 50 min of work left"
    )
    assert total([(one, done), (two, training), (three, training)]).endswith("about 1 h 40 min of work left, 2 at once")
    other = fake_config("vae")
    assert total([(one, done), (other, training)]).endswith("the time left is known once a run of every model is done")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (59.9, "59 s"),
        (90, "1 min"),
        (3599, "59 min"),
        (3700, "1 h 1 min"),
        (1e5, "1 d 3 h"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


# --------------------------------------------------------------------------------------------------- what is printed


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Experiments]:
    """Two sets of one run each; that of `a` is trained."""
    run = fake_config()
    monkeypatch.setattr(status, "resolve_runs", lambda name, _: [run.model_copy(update={"experiments": name})])
    take_lock(fake_run(tmp_path / "a" / "runs", run, trained=False), os.getpid())
    return {"a": settings(), "b": settings()}


def test_in_a_log_it_is_printed_once_and_plain_and_nothing_is_written(
    tmp_path: Path, sets: dict[str, Experiments], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def files() -> list[tuple[Path, int]]:
        return sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))

    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(locks, "FileLock", None)  # so that none can be taken
    before = files()
    show(sets, DATASETS, tmp_path)
    assert files() == before
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:6] == ["a:", "1", "run(s):", "1", "training;", "the"] and lines[1][0] == "b:"
    assert lines[2] == ["run", "state", "at", "ELBO", "images/s", "left", "news"]
    assert [line[:3] for line in lines[3:]] == [
        ["a/digits/digits_8x8/biva/seed1", "training", "update"],
        ["b/digits/digits_8x8/biva/seed1", "waiting"],
    ]


@pytest.mark.parametrize("ends", ["Ctrl-C", "done"])
def test_on_a_terminal_it_is_shown_until_all_is_done_or_ctrl_c(
    tmp_path: Path, sets: dict[str, Experiments], monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    run, looks = fake_config(), []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if ends == "Ctrl-C" and len(looks) == 3:
            raise KeyboardInterrupt
        folder = RunFolder(tmp_path / "a" / "runs" / run.name)
        if len(looks) == 1:
            cut_record(folder, 3)
        elif ends == "done":
            finish_training(folder, run, 30)
            evaluated(folder, run)

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    show({"a": sets["a"]}, DATASETS, tmp_path)
    shown = terminal.getvalue()
    assert "update 50 of" in shown and "update 30 of" in shown
    assert looks == [2.0, 2.0] + [2.0] * (ends == "Ctrl-C")
    assert ("1 done" in shown) == (ends == "done")
