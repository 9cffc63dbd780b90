"""Experiment sets on a machine with neither Snakemake nor MLflow nor a network, in a limited time: `biva run`.

The same verbs run in the same order, each in a process of its own. What is finished is left alone, what the end of the
time cuts off goes on with the next call. Whatever there is at the end is packed, to be carried home.
"""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor

from biva.config import Experiments, RunConfig, load_experiments, resolve_runs
from biva.data.datasets import DESCRIPTION
from biva.errors import UserError
from biva.publishing import publish
from biva.records import PUBLISHED, RunFolder, is_scored, read_json, sha256, write_atomically
from biva.reporting.canvas import save
from biva.reporting.figures import draw, folders_to_draw
from biva.reporting.figures.anomaly import draw_anomaly
from biva.reporting.texts import write_texts
from biva.training import checkpoint

RESERVE_SECONDS = 45
"""Of the time, for tables, figures and packing."""

SAVING_SECONDS = 30
"""After SIGTERM a training may take so long to save its state."""

MIB = 1 << 20


@dataclass(frozen=True)
class Step:
    """One verb."""

    arguments: tuple[str, ...]
    done: Callable[[], bool]


def steps(experiments: str, results: Path, resources: Path) -> Iterator[Step]:
    """Check and measure the first run's model, then train and evaluate every run of the set, in its file's order."""
    settings = load_experiments(experiments)
    runs = resolve_runs(experiments, settings)
    if runs[0].labels is None:
        yield from _measurements(runs[0], results / "bench")
    for run in runs:
        folder, data = RunFolder(results / experiments / "runs" / run.name), resources / run.dataset / DESCRIPTION
        yield Step(("train", experiments, run.name), partial(_trained, run, folder, data))
        yield Step(("evaluate", experiments, run.name), partial(_evaluated, folder, settings))
        for pair in settings.anomalies:
            if pair.includes(run):
                yield Step(("detect", experiments, run.name, pair.name), folder.anomaly(pair.name).is_file)


def _measurements(run: RunConfig, folder: Path) -> Iterator[Step]:
    """Of a model, once."""
    subject = [run.architecture_name, "--model", run.model, "--device", run.device]
    work = ["--batch-size", str(run.training.batch_size), "--images", "16", "--repeats", "3"]
    compiled = ["--compile"] if run.training.compiled else []
    record = folder / f"{run.architecture_name}-{run.model}.json"
    yield Step(("check", *subject), record.is_file)
    yield Step(("bench", *subject, *work, *compiled), record.is_file)


def _trained(run: RunConfig, folder: RunFolder, data: Path) -> bool:
    if not folder.training.is_file():
        return False
    identity = read_json(folder.identity)
    made_by = identity["config_digest"], identity["data_fingerprint"]
    return made_by == (run.digest, read_json(data)["fingerprint"])


def _evaluated(folder: RunFolder, settings: Experiments) -> bool:
    if not folder.evaluation.is_file():
        return False
    record = read_json(folder.evaluation)
    made_of = record["settings"], record["weights_sha256"]
    return made_of == (settings.evaluation.model_dump(mode="json"), sha256(folder.weights))


def run(sets: Sequence[str], results: Path, resources: Path, until: float) -> list[str]:
    """Work through the sets until then, and report what there is.

    Returns:
        What went wrong: nothing may keep what was computed from being packed.
    """
    problems = []
    try:
        finished = work((step for name in sets for step in steps(name, results, resources)), until)
        print("All is done." if finished else "The time is up. The same command goes on from here.")
    except UserError as error:
        problems.append(str(error))
    for name in sets:
        try:
            report(name, results, resources)
        except UserError as error:
            problems.append(str(error))
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
    return problems


def work(steps: Iterable[Step], until: float) -> bool:
    """Make the steps that are not done; what `until`, on the monotonic clock, cuts off has saved its state.

    Returns:
        Whether all are done.

    Raises:
        UserError: a step failed; it has told why.
    """
    for step in steps:
        if step.done():
            continue
        if time.monotonic() >= until:
            return False
        print(f"$ biva {' '.join(step.arguments)}", flush=True)
        process = subprocess.Popen([sys.executable, "-m", "biva", *step.arguments])
        try:
            status = process.wait(timeout=max(0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(timeout=SAVING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            return False
        if status:
            raise UserError(f"`biva {' '.join(step.arguments)}` failed with status {status}.")
    return True


def report(experiments: str, results: Path, resources: Path) -> None:
    """Write the set's tables and figures from what has been evaluated, and publish it.

    Raises:
        UserError: a record is damaged, or the set does not verify.
    """
    settings, folder = load_experiments(experiments), results / experiments
    folders = folders_to_draw(experiments, folder)
    if not any(run.evaluation.is_file() for run in folders):
        return
    write_texts(experiments, folder / "runs", folder)
    for figure in settings.figures:
        save(draw(figure, folders), folder / "figures" / figure)
    for pair in settings.anomalies:
        if is_scored(pair.name, folders):
            save(draw_anomaly(folders, pair), folder / "anomalies" / pair.name)
    publish(experiments, results, resources)


def pack(sets: Iterable[str], results: Path, to: Path, part_mb: float, limit_mb: float) -> list[Path]:
    """Write what the sets' runs have given into parts of a tar: `cat results.tar.* | tar x` unpacks it.

    The records, tables, figures, per-image bounds and pictures come first, then weights in bfloat16, compressed, each
    run's selected ones or, while it trains, the moving average. What there is no room for is left out, and named.

    Args:
        sets: names of experiment sets.
        results: the folder of all results.
        to: folder of the parts `results.tar.00`, ...; those of an earlier call are replaced.
        part_mb: MiB of a part, at most.
        limit_mb: MiB of all parts, at most.

    Returns:
        The parts.

    Raises:
        UserError: they cannot be written, or there is no room for the records.
    """
    content, limit = io.BytesIO(), int(limit_mb * MIB) - tarfile.RECORDSIZE
    with tarfile.open(fileobj=content, mode="w") as tar:
        for path in sorted(_small_files(sets, results)):
            tar.add(path)
        if content.tell() > limit:
            raise UserError(f"Records, tables and figures alone take {content.tell() / MIB:.0f} MiB: raise --limit-mb.")
        for path, weights in _weights(sets, results):
            if content.tell() + len(weights) + tarfile.RECORDSIZE > limit:
                print(f"no room for {path} ({len(weights) / MIB:.0f} MiB)", file=sys.stderr)
                continue
            member = tarfile.TarInfo(path.as_posix())
            member.size = len(weights)
            tar.addfile(member, io.BytesIO(weights))
    whole, part = content.getvalue(), int(part_mb * MIB)
    parts = [whole[start : start + part] for start in range(0, len(whole), part)]
    paths = [to / f"results.tar.{number:02d}" for number in range(len(parts))]
    for path, piece in zip(paths, parts, strict=True):
        write_atomically(path, piece)
    for earlier in {*to.glob("results.tar.*")} - {*paths}:
        earlier.unlink()
    return paths


def _small_files(sets: Iterable[str], results: Path) -> Iterator[Path]:
    yield from (results / "bench").glob("*.json")
    for name in sets:
        yield from (path for path in (results / PUBLISHED / name).rglob("*") if path.is_file())
        yield from (results / name / "figures").glob("*")
        for run in _folders(name, results):
            yield from (*run.records(), *filter(Path.is_file, [run.arrays, run.samples]))


def _weights(sets: Iterable[str], results: Path) -> Iterator[tuple[Path, bytes]]:
    """Of the newest run first."""
    runs = [run for name in sets for run in _folders(name, results)]
    for run in sorted(runs, key=lambda run: run.record.stat().st_mtime if run.record.is_file() else 0.0, reverse=True):
        if run.weights.is_file():
            weights = deserialise(run.weights.read_bytes())
        elif (state := checkpoint.load(run.checkpoint)) is not None:
            prefix = "module."
            weights = {n.removeprefix(prefix): w for n, w in state["ema"].items() if n.startswith(prefix)}
        else:
            continue
        rounded = serialise({name: _rounded(weight) for name, weight in weights.items()})
        yield run.path / "weights_bf16.safetensors.gz", gzip.compress(rounded, compresslevel=1, mtime=0)


def _rounded(weight: Tensor) -> Tensor:
    return weight.bfloat16().contiguous() if weight.is_floating_point() else weight.contiguous()


def _folders(name: str, results: Path) -> list[RunFolder]:
    runs = resolve_runs(name, load_experiments(name))
    return [RunFolder(results / name / "runs" / run.name) for run in runs]
