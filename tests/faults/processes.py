"""`biva`, and a tracking server, as real processes that start at once: forked from one that has imported everything."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

from biva import cli
from tests.workflow.conftest import forked, snakemake

# No other store than the job's own, and no word about it from MLflow.
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}


@dataclass
class Job:
    """A process, and the file that has what it prints."""

    process: Any
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def running(self) -> bool:
        alive: bool = self.process.is_alive()
        return alive

    def send(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Its exit status; minus the signal that killed it."""
        self.process.join(300)
        assert not self.running, f"still running after 300 s:\n{self.output}"
        status: int = self.process.exitcode
        return status

    def kill(self) -> int:
        self.send(signal.SIGKILL)
        return self.wait()


def start(target: Callable[..., None], folder: Path, *arguments: Any) -> Job:
    """Run `target(*arguments)` in a process of its own whose current folder is `folder`."""
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    log = next(path for number in count() if not (path := logs / f"{number:03d}.log").exists())
    log.touch()
    return Job(forked(_begin, target, folder, log, arguments), log)


def _begin(target: Callable[..., None], folder: Path, log: Path, arguments: tuple[Any, ...]) -> None:
    assert "tests.warm" in sys.modules, "the process from which jobs are forked has imported nothing"
    os.chdir(folder)
    with log.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    target(*arguments)


def biva(arguments: tuple[str, ...], variables: dict[str, str], constants: dict[str, Any], file_limit: int) -> None:
    """The command line, with these environment variables and constants (`module.NAME`) instead of the usual.

    Args:
        file_limit: bytes that a file may have (RLIMIT_FSIZE); -1: as many as it likes.
    """
    os.environ |= variables
    for name, value in constants.items():
        module, _, constant = name.rpartition(".")
        setattr(import_module(module), constant, value)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, -1))
    sys.argv = ["biva", *arguments]
    cli.main()


def workflow(arguments: tuple[str, ...]) -> None:
    """The command `snakemake`, in a process group of its own."""
    os.setsid()
    os.environ["XDG_CACHE_HOME"] = str(Path.cwd() / ".cache")
    snakemake(arguments)


def tracking_server(database: Path, port: int, unanswered: frozenset[int]) -> None:
    """MLflow's own application on the loopback; the answers to the requests of these numbers are lost on the way."""
    from mlflow.server import app, constants
    from werkzeug.serving import make_server

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = f"sqlite:///{database}"
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = (database.parent / "artifacts").as_uri()
    numbers = count()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        answer = app(environ, start_response)
        if next(numbers) in unanswered:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return answer

    make_server("127.0.0.1", port, application, threaded=True).serve_forever()


def empty_store(database: Path) -> None:
    """MLflow's tables with nothing in them."""
    from mlflow import MlflowClient

    database.parent.mkdir(parents=True)
    MlflowClient(f"sqlite:///{database}").search_experiments()
