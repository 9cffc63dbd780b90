"""Services that tests start for themselves: SLURM and PostgreSQL from Debian's packages, in a folder of the test.

Missing packages are installed where that is allowed, which is where `CI=true` and the user is root; elsewhere the test
is skipped and says what it needs.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from filelock import FileLock

PROGRAMS = f"{os.environ['PATH']}:/usr/sbin"


def need(what: str, program: str, *packages: str) -> None:
    """Make sure that a program is there, or skip the test."""
    if shutil.which(program, path=PROGRAMS):
        return
    command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *packages]
    if os.environ.get("CI") != "true" or os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip(f"{what} is not installed: `{' '.join(command)}`, or run as root with CI=true, which does that")
    with FileLock(Path(tempfile.gettempdir()) / "biva-apt.lock"):
        for call in (["apt-get", "update", "--quiet"], command):
            done = subprocess.run(call, check=False, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
            if done.returncode:
                pytest.skip(f"{what} is not installed, and `{' '.join(call)}` failed: no package source can be reached")


@contextmanager
def running(command: list[str], log: Path, user: str | None = None, **variables: str) -> Iterator[None]:
    """A service while the block runs; it and what it started are ended afterwards, whatever happened."""
    program = shutil.which(command[0], path=PROGRAMS) or command[0]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *command[1:]],
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
        )
        try:
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until(ready: Callable[[], bool], log: Path, seconds: float = 60) -> None:
    """Wait until a service is ready.

    Raises:
        RuntimeError: it is not after `seconds`; with the service's log.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not ready after {seconds} seconds:\n{log.read_text()}")
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# ----------------------------------------------------------------------------------------------------------- SLURM

SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MinJobAge=86400
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=64000 Gres=gpu:2
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP
"""
"""One node with two CPUs and, as far as SLURM can tell, two GPUs; without accounting."""


@contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """A cluster of one node; gives the environment variables by which its commands find it."""
    need("SLURM", "slurmctld", "slurmctld", "slurmd", "slurm-client", "munge")
    if os.geteuid() != 0:
        pytest.skip("a SLURM node of one's own needs root")
    with tempfile.TemporaryDirectory(prefix="slurm-") as temporary, ExitStack() as stack:
        folder, host = Path(temporary), socket.gethostname().split(".")[0]
        for name in ("state", "spool"):
            (folder / name).mkdir()
        config = folder / "slurm.conf"
        ports = {"control_port": free_port(), "node_port": free_port()}
        config.write_text(SLURM_CONF.format(folder=folder, host=host, **ports))
        devices = [f"NodeName={host} Name=gpu File=/dev/{device}\n" for device in ("null", "zero")]
        (folder / "gres.conf").write_text("".join(devices))
        key = folder / "munge.key"
        key.touch(mode=0o400)
        key.write_bytes(os.urandom(1024))
        files = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge.pid"}
        files |= {"log-file": folder / "munge.log", "seed-file": folder / "munge.seed"}
        # The plugin hides SLURM_CONF from the srun of a job, which then looks in /etc.
        srun = folder / "bin" / "srun"
        srun.parent.mkdir()
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={config} exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        variables = {"SLURM_CONF": str(config), "PATH": f"{srun.parent}:{os.environ['PATH']}"}

        def start(command: list[str]) -> Path:
            log = folder / f"{command[0]}.out"
            stack.enter_context(running(command, log, **variables))
            return log

        log = start(["munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in files.items())])
        wait_until((folder / "munge.socket").exists, log)
        start(["slurmctld", "-D"])
        log = start(["slurmd", "-D"])
        wait_until(lambda: "idle" in _output(["sinfo", "--noheader", "--format=%T"], variables), log)
        try:
            yield variables
        finally:
            _output(["scancel", "--user=root"], variables)
            wait_until(lambda: not _output(["squeue", "--noheader"], variables), log)


def slurm_jobs(variables: dict[str, str]) -> list[dict[str, str]]:
    """Every job that the cluster has seen, with the columns `state`, `gpus`, `memory`, `partition` and `comment`."""
    names = ("state", "gpus", "memory", "partition", "comment")
    form = "State:200,tres-per-job:200,MinMemory:200,Partition:200,Comment:200"
    lines = _output(["squeue", "--states=all", "--noheader", f"--Format={form}"], variables).splitlines()
    return [{name: line[200 * i : 200 * (i + 1)].strip() for i, name in enumerate(names)} for line in lines]


def _output(command: list[str], variables: dict[str, str]) -> str:
    """What a command prints; nothing if it fails or hangs."""
    environment = os.environ | variables
    with suppress(subprocess.TimeoutExpired):
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20).stdout
    return ""


# ------------------------------------------------------------------------------------------------------ PostgreSQL


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL server with the empty database `mlflow`; gives the database's address."""
    need("PostgreSQL", "pg_createcluster", "postgresql")
    program = {path.name: str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/*"))}
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="postgresql-") as temporary:
        folder, port, log = Path(temporary), str(free_port()), Path(temporary) / "log"
        if user:
            shutil.chown(folder, user)
        data = folder / "data"
        initdb = [program["initdb"], "--pgdata", str(data), "--username=mlflow", "--auth=trust", "--no-sync"]
        subprocess.run(initdb, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)
        server = [program["postgres"], "-D", str(data), "-h", "127.0.0.1", "-p", port, "-k", str(folder)]
        address = ["-h", "127.0.0.1", "-p", port, "-U", "mlflow"]
        with running(server, log, user):
            wait_until(lambda: not subprocess.call([program["pg_isready"], "-q", *address]), log)
            subprocess.run([program["createdb"], *address, "mlflow"], check=True)
            yield f"postgresql://mlflow@127.0.0.1:{port}/mlflow"


@contextmanager
def mlflow_server(database: str, folder: Path) -> Iterator[str]:
    """MLflow's tracking server on a database, with artifacts in `folder`; gives its address."""
    port, log = free_port(), folder / "server.log"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(folder / "artifacts")]
    address = f"http://127.0.0.1:{port}"
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with running(command, log, **variables):
        wait_until(lambda: _answers(f"{address}/health"), log, seconds=180)
        yield address


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
