"""The faults: each strikes real jobs of a fresh project at random moments, and nothing may be lost or changed by it.

Every function returns how often the fault struck; it fails where something is lost, changed, or reported badly.
"""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from biva import records
from biva.training import checkpoint
from tests.faults import processes
from tests.faults.processes import Job
from tests.faults.project import EIGHT, RUN, UPDATES, Project, new_project
from tests.loopback import Server, body, hang_up, stall, status
from tests.services import free_port

KILLS = 10


class CannotBeTried(Exception):
    """This machine does not let us have the fault."""


class Lab:
    """Where the experiments take place: the undisturbed run, and fresh projects like its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.fresh = new_project(folder / "fresh")
        self._folders = (folder / f"project{number}" for number in count())
        self._projects: list[Project] = []

    @cached_property
    def undisturbed(self) -> dict[str, Any]:
        """What a run comes to without any fault."""
        project = self.project()
        project.finish()
        outcome = project.outcome()
        assert outcome["training"]["updates"] == UPDATES
        assert [run["status"] for run in outcome["tracked"]] == ["FINISHED"]
        return outcome

    def project(self) -> Project:
        self._projects.append(self.fresh.copy(next(self._folders)))
        return self._projects[-1]

    def strike(self, fault: Fault, seed: int) -> int:
        """Let a fault strike; its projects are deleted if all is well, and kept for a look at them if not."""
        assert self.undisturbed
        self._projects = []
        strikes = fault(self, random.Random(seed))
        for project in self._projects:
            shutil.rmtree(project.path)
        return strikes

    def check(self, project: Project) -> None:
        """Run the same commands again to the end: all that they give is as if nothing had happened."""
        project.finish()
        self.compare(project)

    def compare(self, project: Project) -> None:
        outcome = project.outcome()
        for name, value in self.undisturbed.items():
            assert outcome[name] == value, f"{project.path}: {name} differs from the undisturbed run's"


Fault = Callable[[Lab, random.Random], int]

AT_ONCE = {"biva.tracking.mirror.RETRY_SECONDS": 0.1, "biva.training.loop.TELL_SECONDS": 0}
"""Training tells the store of every evaluation, also soon after the store failed."""


def _wait(condition: Callable[[], Any], job: Job) -> None:
    """Until `condition` holds or the job ends."""
    while job.running and not condition():
        time.sleep(0.002)


def _age(path: Path) -> int:
    """Changes whenever the file is replaced, for a moment of which there may be none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _wait_for_updates(
    project: Project, job: Job, chance: random.Random, updates: int = 1, within: float = math.inf
) -> None:
    """Until the job has saved some updates, or so many seconds have passed; and a random moment longer."""
    newest, end = project.folder.checkpoint / checkpoint.NEWEST, time.monotonic() + within

    def saved(before: int) -> bool:
        return _age(newest) != before or time.monotonic() > end

    for _ in range(updates):
        _wait(partial(saved, _age(newest)), job)
    time.sleep(chance.uniform(0, 0.02))


# ------------------------------------------------------------------------------------------------- kills and signals


def killed_training(lab: Lab, chance: random.Random) -> int:
    """SIGKILL of `biva train` again and again, mostly while it trains, else at any moment before."""
    project = lab.project()
    for kill in range(KILLS):
        job = project.train(constants=AT_ONCE)
        _wait_for_updates(project, job, chance, within=chance.choice([math.inf] * 3 + [chance.uniform(0, 1)]))
        assert job.running, f"training ended after {kill} kills:\n{job.output}"
        job.kill()
    lab.check(project)
    return KILLS


def killed_evaluation(lab: Lab, chance: random.Random) -> int:
    """SIGKILL of `biva evaluate` after its first, second and third part."""
    project = lab.project()
    project.run("train", "short", RUN)
    for parts in (1, 2, 3):
        job = project.evaluate()
        _wait(partial(_holds, project.folder.unfinished_evaluation, parts), job)
        time.sleep(chance.uniform(0, 0.02))
        assert job.running, job.output
        job.kill()
    lab.check(project)
    return 3


def _holds(folder: Path, parts: int) -> bool:
    return len(list(folder.glob("*/*.safetensors"))) >= parts


def stopped_training(lab: Lab, chance: random.Random) -> int:
    """SIGTERM and SIGINT: the state is saved, said, and the exit status is the signal's; then two go on at once."""
    project = lab.project()
    for number in (signal.SIGTERM, signal.SIGINT):
        _stop(project, chance, number)
    both = [project.train(), project.train()]
    assert [job.wait() for job in both] == [0, 0], [job.output for job in both]
    assert sum("another process trains this run; waiting" in job.output for job in both) == 1
    lab.check(project)
    return 2


def _stop(project: Project, chance: random.Random, number: signal.Signals) -> None:
    job = project.train()
    _wait_for_updates(project, job, chance, updates=4)
    job.send(number)
    assert job.wait() == 128 + number, job.output
    assert f"stopped by {number.name} at update" in job.output and "Run the same command again" in job.output
    assert "Traceback" not in job.output, job.output


def killed_workflow(lab: Lab, chance: random.Random) -> int:
    """Ctrl-C, which Snakemake and its jobs get alike; SIGKILL of Snakemake, whose job goes on as an orphan; then again.

    The last Snakemake meets an orphan that still runs, or has just ended.
    """
    project = lab.project()
    for kill, number in ((os.killpg, signal.SIGINT), (os.kill, signal.SIGKILL)):
        workflow = _train_by_snakemake(project)
        _wait_for_updates(project, workflow, chance)
        assert workflow.running, workflow.output
        kill(workflow.process.pid, number)
        workflow.wait()
    for arguments in (["--unlock"], []):
        workflow = _train_by_snakemake(project, *arguments)
        assert workflow.wait() == 0, workflow.output
    lab.compare(project)
    return 2


def _train_by_snakemake(project: Project, *arguments: str) -> Job:
    """The real workflow up to the evaluation."""
    evaluation = str(project.folder.evaluation.relative_to(project.path))
    return processes.start(processes.workflow, project.path, ("--cores", "1", *arguments, "--", evaluation))


# ------------------------------------------------------------------------------------------------------------- disks


def limited_files(lab: Lab, chance: random.Random) -> int:
    """No file may grow beyond a limit (RLIMIT_FSIZE), which strikes checkpoint, record or results; then it may."""
    project = lab.project()
    _stop(project, chance, signal.SIGTERM)
    whole = (project.folder.checkpoint / checkpoint.NEWEST).stat().st_size
    limits = (chance.randrange(LOG, 2 * LOG), chance.randrange(LOG, whole))
    for limit in limits:
        _failed_for_want_of_space(project.train(file_limit=limit))
    project.run("train", "short", RUN)
    weights = project.folder.weights.stat().st_size
    project.folder.training.unlink()
    project.folder.weights.unlink()
    _failed_for_want_of_space(project.train(file_limit=weights - 1))
    assert not project.folder.training.exists() and not project.folder.weights.exists()
    project.run("train", "short", RUN)
    _failed_for_want_of_space(project.evaluate(file_limit=chance.randrange(LOG, 20_000)))
    assert not project.folder.evaluation.exists()
    lab.check(project)
    return len(limits) + 2


LOG = 1500
"""Bytes that a job may need for what it says."""


def full_disk(lab: Lab, chance: random.Random) -> int:
    """A file system of its own for the results is full, twice in training and once in evaluation; then it is not."""
    project = lab.project()
    newest = project.folder.checkpoint / checkpoint.NEWEST
    with _small_file_system(project.path / "results") as ballast:
        for _ in range(2):
            _stop(project, chance, signal.SIGTERM)
            ballast.write_bytes(bytes(_free(ballast.parent) - chance.randrange(newest.stat().st_size)))
            _failed_for_want_of_space(project.train())
            ballast.unlink()
        project.run("train", "short", RUN)
        ballast.write_bytes(bytes(_free(ballast.parent) - chance.randrange(20_000)))
        _failed_for_want_of_space(project.evaluate())
        ballast.unlink()
        lab.check(project)
    return 3


def _failed_for_want_of_space(job: Job) -> None:
    """Status 1, one message that tells what to do, and no traceback."""
    assert job.wait() == 1, job.output
    assert re.search("error: .*Free some space.* run the same command again", job.output), job.output
    assert "Traceback" not in job.output, job.output


@contextmanager
def _small_file_system(folder: Path) -> Iterator[Path]:
    """Hold what `folder` holds in 8 MiB of memory; gives the path of a file to fill it with."""
    content = folder.with_name("content")
    folder.rename(content)
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        raise CannotBeTried(f"a file system of its own needs root: {mount.stderr.strip()}")
    try:
        shutil.copytree(content, folder, dirs_exist_ok=True)
        yield folder / "ballast"
    finally:
        subprocess.run(["umount", folder], check=True)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def damaged_checkpoint(lab: Lab, chance: random.Random) -> int:
    """The newest checkpoint has flipped bits, is cut short or empty: the one before it is used, and that is said."""
    project = lab.project()
    newest = project.folder.checkpoint / checkpoint.NEWEST
    for damage in (_flip, _cut, _empty):
        _stop(project, chance, signal.SIGTERM)
        newest.write_bytes(damage(newest.read_bytes(), chance))
        job = project.train()
        _wait_for_updates(project, job, chance)
        job.kill()
        assert f"{checkpoint.NEWEST} cannot be read" in job.output, job.output
        assert f"going on from {newest.with_name(checkpoint.PREVIOUS).relative_to(project.path)}" in job.output
        (project.folder.checkpoint / checkpoint.DAMAGED).unlink()
    lab.check(project)
    return 3


def _flip(content: bytes, chance: random.Random) -> bytes:
    """Flip a bit of one byte in a hundred."""
    flipped = bytearray(content)
    for place in chance.sample(range(len(content)), len(content) // 100):
        flipped[place] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(1, len(content))]


def _empty(_content: bytes, _chance: random.Random) -> bytes:
    return b""


# ---------------------------------------------------------------------------------------------------- tracking store


def locked_store(lab: Lab, chance: random.Random) -> int:
    """Another program holds sqlite's lock for seconds, longer than MLflow waits; training does not mind."""
    project = lab.project()
    job = project.train(constants=AT_ONCE)
    for seconds in (chance.uniform(0, 1), chance.uniform(5, 7)):
        _wait_for_updates(project, job, chance, updates=10)
        with closing(sqlite3.connect(project.database, timeout=60)) as connection:
            connection.execute("begin exclusive")
            time.sleep(seconds)
            connection.rollback()
    assert job.wait() == 0, job.output
    lab.check(project)
    return 2


def vanishing_server(lab: Lab, chance: random.Random) -> int:
    """The tracking server loses answers, is killed twice during training and comes back; training does not mind."""
    project, lost, port = lab.project(), 4, free_port()

    def start() -> Job:
        unanswered = frozenset(chance.sample(range(12), lost))
        server = processes.start(processes.tracking_server, project.path, project.database, port, unanswered)
        _wait(lambda: _listens(port), server)
        assert server.running, server.output
        return server

    server = start()
    address = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
    job = project.train(variables=address, constants=AT_ONCE)
    for _ in range(2):
        _wait_for_updates(project, job, chance, updates=25)
        server.kill()
        _wait_for_updates(project, job, chance, updates=15)
        server = start()
    assert job.wait() == 0, job.output
    assert "MLflow at http://127.0.0.1" in job.output, job.output
    project.run("evaluate", "short", RUN, variables=address)
    server.kill()
    lab.check(project)
    return 2 + 3 * lost


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def killed_while_the_store_is_made(lab: Lab, chance: random.Random) -> int:
    """SIGKILL of `biva train` at a random moment while MLflow makes its tables."""
    project = lab.project()
    for _ in range(3):
        shutil.rmtree(project.database.parent)
        job = project.train()
        _wait(lambda: any(project.database.parent.glob("*mlflow.db*")), job)
        time.sleep(chance.uniform(0, 1))
        job.kill()
    lab.check(project)
    return 3


def eight_at_once(lab: Lab, _chance: random.Random) -> int:
    """Eight trainings, then eight evaluations, begin at one moment with no tracking store; each is as when alone."""
    project, alone = lab.project(), lab.project()
    shutil.rmtree(project.database.parent)
    for verb in ("train", "evaluate"):
        jobs = [project.start(verb, "eight", run) for run in EIGHT]
        assert [job.wait() for job in jobs] == [0] * 8, [job.output for job in jobs]
        refusals = [line for job in jobs for line in job.output.splitlines() if "cannot be used" in line]
        assert all("lock" in line for line in refusals), refusals  # on a slow machine a job may wait in vain
    project.run("track", *(str(project.folder_of("eight", run).path) for run in EIGHT))
    stored = project.stored()
    assert [(run["name"], run["status"]) for run in stored] == [(run, "FINISHED") for run in EIGHT]
    for run, name in zip(stored, EIGHT, strict=True):
        lines = records.read_lines(project.folder_of("eight", name).record)
        elbos = [("selection/elbo", line["update"], line["selection"]["elbo"]) for line in lines]
        assert [point for point in run["points"] if point[0] == "selection/elbo"] == elbos
    assert (project.database.parent / "artifacts/eight").is_dir()
    assert not (project.path / "mlruns").exists()
    for verb in ("train", "evaluate"):
        alone.run(verb, "eight", EIGHT[-1])
    assert alone.stored() == stored[-1:]
    return 8


# ---------------------------------------------------------------------------------------------------------- downloads


def bad_downloads(lab: Lab, chance: random.Random) -> int:
    """Sources that fail in every way, some for ever and some once; a download that is killed; then no source at all."""
    project, raw = lab.project(), "resources/digits/raw"
    content = (lab.fresh.path / raw / "digits.csv").read_bytes()
    cut = chance.randrange(len(content))
    passing = [
        status(500),
        status(503),
        status(429),
        hang_up,
        body(content[:cut], Content_Length=str(len(content))),
        stall(content[:cut], seconds=1),
    ]
    lasting = [status(404), status(403), body(b"<html>moved</html>"), body(_flip(content, chance))]
    patience = {"biva.data.sources.BACKOFF": 0.01, "biva.data.sources.TIMEOUT": (5, 0.3)}

    def fetch() -> Job:
        return project.start("fetch", "digits", variables={"NO_PROXY": "127.0.0.1"}, constants=patience)

    with closing(Server()) as server:
        names = [f"source{number}" for number in range(len(lasting) + 2)]
        addresses = [f"{server.address}/{name}" for name in names]
        _set_sources(project, addresses)
        bad = [[fault] for fault in lasting] + [[hang_up], [chance.choice(passing)]]
        chance.shuffle(bad)
        for name, answers in zip(names, bad, strict=True):
            server.answers[f"/{name}/digits.csv"] = answers
        shutil.rmtree(project.path / raw)
        job = fetch()
        assert job.wait() == 1 and "Traceback" not in job.output, job.output
        assert job.output.count("error: ") == 1
        places = [job.output.index(f"  - {address}: ") for address in addresses]
        assert places == sorted(places), job.output
        assert not list((project.path / raw).iterdir())

        server.answers[f"/{names[-1]}/digits.csv"] = [*chance.sample(passing, 2), body(content)]
        assert fetch().wait() == 0
        assert (project.path / raw / "digits.csv").read_bytes() == content

        shutil.rmtree(project.path / raw)
        server.answers[f"/{names[0]}/digits.csv"] = [stall(content[:cut], seconds=5), body(content)]
        job = project.start("fetch", "digits", variables={"NO_PROXY": "127.0.0.1"})
        _wait(lambda: server.requests[-1:] == [f"/{names[0]}/digits.csv"], job)
        time.sleep(chance.uniform(0, 0.2))
        job.kill()
        assert not (project.path / raw / "digits.csv").exists()
        assert fetch().wait() == 0
        assert (project.path / raw / "digits.csv").read_bytes() == content
    project.run("prepare", "digits")
    data = "resources/digits/data.safetensors"
    assert (project.path / data).read_bytes() == (lab.fresh.path / data).read_bytes()
    return len(bad) + 3


def _set_sources(project: Project, addresses: list[str]) -> None:
    path = project.path / "config/datasets.yaml"
    datasets = yaml.safe_load(path.read_text())
    datasets["datasets"]["digits"]["sources"] = addresses
    path.write_text(yaml.safe_dump(datasets))


FAULTS: list[Fault] = [
    killed_training,
    killed_evaluation,
    stopped_training,
    killed_workflow,
    limited_files,
    full_disk,
    damaged_checkpoint,
    locked_store,
    vanishing_server,
    killed_while_the_store_is_made,
    eight_at_once,
    bad_downloads,
]
"""What `make test` lets strike once, and `make soak` again and again."""
