"""How far the runs of experiment sets are: `biva status`.

It looks at the runs' files, whichever machine trains them: it writes nothing, takes no lock and needs no torch.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table

from biva.config import AnomalyPair, DatasetConfig, Evaluation, Experiments, RunConfig, resolve_runs
from biva.errors import UserError, explained
from biva.locks import is_at_work
from biva.records import RunFolder, as_written, read_json, read_lines, settings_digest
from biva.training.schedule import share_done

SECONDS = 2.0
"""Between two looks on a terminal."""

SILENCE = 600.0
"""Seconds without news after which a run of another machine is taken for stopped."""

STATES = ("unreadable", "stopped", "training", "evaluating", "trained", "waiting", "done")
"""In the order in which runs are shown."""


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    state: str
    at: str = ""
    """Where it is, and why it does not go on."""
    elbo: str = ""
    """In nats, on the selection images: the latest, or that of the selected weights; of a classifier its loss."""
    speed: str = ""
    left: float | None = None
    """Seconds of training that are left at most, if that is known."""
    news: float | None = None
    """When its files last changed, in seconds since the epoch, if that is of interest."""
    spent: float = 0.0
    """Seconds that it has computed."""


def show(sets: Mapping[str, Experiments], datasets: Mapping[str, DatasetConfig], results: Path) -> None:
    """Print how far sets are; on a terminal anew every `SECONDS`, until all runs are done or Ctrl-C ends it."""
    runs = {name: resolve_runs(name, settings) for name, settings in sets.items()}

    def look() -> tuple[Group, bool]:
        now, lines, rows = time.time(), [], list[tuple[str, Progress]]()
        for name, settings in sets.items():
            found = [(run, progress(run, settings, datasets, results / name, now)) for run in runs[name]]
            lines.append(f"{name}: {total(found)}{_reports(settings, results / name)}")
            rows += [(f"{name}/" * (len(sets) > 1) + run.name, state) for run, state in found]
        return Group(*lines, _table(rows, now)), all(state.state == "done" for _, state in rows)

    terminal = sys.stdout.isatty()
    width = None if terminal else 200
    console = Console(force_terminal=terminal, width=width, markup=False, emoji=False, highlight=False)
    report, done = look()
    if done or not console.is_interactive:
        console.print(report)
        return
    with suppress(KeyboardInterrupt), Live(report, console=console, auto_refresh=False) as live:
        while not done:
            time.sleep(SECONDS)
            report, done = look()
            live.update(report, refresh=True)


def progress(
    run: RunConfig, settings: Experiments, datasets: Mapping[str, DatasetConfig], results: Path, now: float
) -> Progress:
    """How far a run of a set is, by what lies in the set's `results` at the time `now`."""
    folder, logs = RunFolder(results / "runs" / run.name), results / "logs"
    remedy = "Restore it from a backup, or delete the folder and train the run again."
    try:
        with as_written(folder.path, remedy):
            there = read_json(folder.identity) if folder.identity.is_file() else {}
            if there.get("config_digest") != run.digest or not folder.training.is_file():
                return _training(run, folder, there, logs / "train" / f"{run.name}.log", now)
            return _evaluation(run, settings, datasets[run.dataset].splits["test"], folder, logs, now)
    except (UserError, OSError) as error:
        return Progress("unreadable", explained(error))


def _training(run: RunConfig, folder: RunFolder, there: dict[str, Any], log: Path, now: float) -> Progress:
    """How far a training is that has not ended; `there` is what `run.json` has, be it of other settings."""
    training, begun = run.training, there.get("config_digest") == run.digest
    lines = read_lines(folder.record) if begun else []
    news = _changed(folder.lock, *([folder.identity, folder.record, *folder.checkpoint.glob("*.pt")] if begun else []))
    at_work, ended = is_at_work(folder.lock), _ended(news, log)
    why = ended or ("its process has ended" if at_work is False else "nothing new")
    if at_work is None:
        at_work = not ended and now - news < max(SILENCE, 2 * training.checkpoint_seconds)
    if not (at_work or begun or ended):
        return Progress("waiting", "anew, with other settings" if there else "")
    state, why = ("training", "") if at_work else ("stopped", why)
    if not lines:
        return Progress(state, why or "no evaluation yet", news=news)
    start: dict[str, Any] = {"update": 0, "seconds": 0.0}
    last, earlier = lines[-1], lines[-11] if len(lines) > 10 else start
    share, before = (share_done(training, line["update"], line["seconds"]) for line in (last, earlier))
    rest = (1 - share) * (last["seconds"] - earlier["seconds"]) / (share - before)
    clock = "" if training.minutes is None else f"{last['seconds'] / 60:.1f} of {training.minutes:g} min"
    return Progress(
        state,
        ", ".join(filter(None, [f"update {last['update']:,} of {training.max_updates:,}", clock, why])),
        f"{last['selection']['elbo']:.2f}" if last["selection"] else f"loss {last['train']['loss']:.3f}",
        f"{last['images_per_second']:,.0f}",
        max(0.0, rest - (now - _changed(folder.record))) if at_work else None,
        news,
        last["seconds"],
    )


def _evaluation(
    run: RunConfig, settings: Experiments, images: int, folder: RunFolder, logs: Path, now: float
) -> Progress:
    """How far a trained run is with its evaluation, on so many test images or fewer, and with the anomaly pairs."""
    training, log = read_json(folder.training), logs / "evaluate" / run.name
    elbo = f"{training['selected']['elbo']:.2f}" if "elbo" in training["selected"] else ""
    steps: list[tuple[str, Evaluation | AnomalyPair, Path, list[Path]]] = [
        ("evaluation", settings.evaluation, folder.evaluation, [log.with_suffix(".log"), *log.glob("*.log")])
    ]
    for pair in filter(lambda pair: pair.includes(run), settings.anomalies):
        steps.append((pair.name, pair, folder.anomaly(pair.name), [logs / "detect" / run.name / f"{pair.name}.log"]))
    left, spent = [], training["wall_seconds"]
    for name, wanted, path, its_logs in steps:
        record = read_json(path) if path.is_file() else {"settings": {}}
        if settings_digest(record["settings"]) == settings_digest(wanted.model_dump(mode="json")):
            spent += record["wall_seconds"]
        else:
            left.append((name, wanted, its_logs))
    if not left:
        return Progress("done", f"in {duration(spent)}", elbo, spent=spent)
    drawn, news = _drawn(folder)
    errors = (_ended(news if wanted is settings.evaluation else 0.0, *its_logs) for _, wanted, its_logs in left)
    ended, names = next(filter(None, errors), ""), [name for name, _, _ in left]
    if ended or not drawn or names[0] != "evaluation":
        return Progress("stopped" if ended else "trained", ended or f"to do: {', '.join(names)}", elbo, spent=spent)
    at = f"{drawn:,} of {min(images, settings.evaluation.max_images or images):,} test images"
    return Progress("evaluating" if now - news < SILENCE else "stopped", at, elbo, news=news, spent=spent)


def _changed(*paths: Path) -> float:
    """When the newest of these files changed, in seconds since the epoch; 0 if there is none."""
    newest = 0.0
    for path in paths:
        with suppress(OSError):  # such as one that is just being replaced
            newest = max(newest, path.stat().st_mtime)
    return newest


def _ended(since: float, *logs: Path) -> str:
    """What the last attempt of a job said of its end, if it failed or was stopped and wrote that after `since`."""
    for log in logs:
        if _changed(log) > since:
            for line in reversed(log.read_text(errors="replace").splitlines()):
                if line.startswith(("error: ", "stopped by ")):
                    return line
    return ""


def _drawn(folder: RunFolder) -> tuple[int, float]:
    """Of how many images an evaluation has kept all samples, and since when."""
    kept = max(folder.unfinished_evaluation.glob("*"), key=_changed, default=folder.unfinished_evaluation)
    batches = {path.name.partition(".")[0] for path in kept.glob("[0-9]*.safetensors")}
    ends = (map(int, batch.split("-")) for batch in batches)
    return sum(stop - start for start, stop in ends), _changed(kept)


def total(runs: list[tuple[RunConfig, Progress]]) -> str:
    """How many runs are in each state, and how long the rest takes, if runs like them have been done."""
    states = Counter(found.state for _, found in runs)
    text = f"{len(runs)} run(s): " + ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    open_runs = [(run, found) for run, found in runs if found.state != "done"]
    if not open_runs:
        return text
    took: dict[str, list[float]] = {}
    for run, found in runs:
        if found.state == "done":
            took.setdefault(run.group, []).append(found.spent)
    if any(run.group not in took for run, _ in open_runs):
        return f"{text}; the time left is known once a run of every model is done"
    left = sum(max(0.0, mean(took[run.group]) - found.spent) for run, found in open_runs)
    at_once = states["training"] + states["evaluating"]
    return f"{text}; about {duration(left)} of work left" + (f", {at_once} at once" if at_once > 1 else "")


def _reports(settings: Experiments, results: Path) -> str:
    """How many of a set's files of tables and figures are there."""
    files = [results / file for file in settings.report_files]
    return f"; {sum(file.is_file() for file in files)} of {len(files)} files of tables and figures" if files else ""


def _table(rows: list[tuple[str, Progress]], now: float) -> Table:
    """A line per run, those of most interest first; what all names begin with stands at the top."""
    common = os.path.commonpath([run.rpartition("/")[0] for run, _ in rows])
    table = Table(Column(f"{common}/..." if common else "run", overflow="fold"), box=None, pad_edge=False)
    for header in ("state", "at", "ELBO", "images/s", "left", "news"):
        table.add_column(header, no_wrap=header != "at")
    for run, found in sorted(rows, key=lambda row: STATES.index(row[1].state)):
        left = "" if found.left is None else duration(found.left)
        news = "" if found.news is None else f"{duration(max(0.0, now - found.news))} ago"
        table.add_row(os.path.relpath(run, common), found.state, found.at, found.elbo, found.speed, left, news)
    return table


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter: `40 s`, `12 min`, `3 h 5 min`, `2 d 4 h`."""
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    if minutes < 1:
        return f"{int(seconds)} s"
    if hours < 1:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
