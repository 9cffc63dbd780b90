"""Files that one process at a time holds, on any machine that shares them, and that say which one does."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import psutil
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from biva.errors import UserError, naming

SECONDS = 60.0
"""How long a lock is waited for that is held for moments."""


@contextmanager
def locked(path: Path, waits_for: str = "") -> Iterator[None]:
    """Hold the lock `path`, a file in which this process leaves its number and its host.

    Args:
        path: in a folder that exists; it stays there.
        waits_for: what another process does as long as it holds the lock. It is said, and waited for without end. By
            default a lock is waited for at most `SECONDS`.

    Raises:
        UserError: another process holds it for too long.
        OSError: the file system has no locks, or the file cannot be written.
    """
    lock: BaseFileLock = FileLock(path)
    try:
        with naming(path):
            lock.acquire(timeout=0 if waits_for else SECONDS)
    except Timeout:
        if not waits_for:
            raise UserError(f"{path} was locked for {SECONDS:.0f} s. {_holder(path)}") from None
        print(f"{path.parent}: {waits_for}; waiting for it to end. {_holder(path)}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        if not isinstance(lock, SoftFileLock):  # what it becomes on a file system without flock; it leaves the same
            with suppress(OSError):  # a full disk
                path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def is_at_work(path: Path) -> bool | None:
    """Whether the process that took a lock last still runs; None where this machine cannot tell.

    It only looks: the lock is not taken, not for a moment. A process that began later has only the number of that one.
    """
    try:
        number, host, since = _taken(path)
        if host != socket.gethostname():
            return None
        process = psutil.Process(number)
        return bool(process.create_time() < since + SECONDS and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except (OSError, ValueError, psutil.Error):
        return None


def _taken(path: Path) -> tuple[int, str, float]:
    """Number and host of the process that took a lock last, and when, in seconds since the epoch."""
    number, host, *_ = path.read_text(encoding="utf-8", errors="replace").split()
    return int(number), host, path.stat().st_mtime


def _holder(path: Path) -> str:
    """Which process holds a lock; and what to do if it was killed, since a file server may not notice that."""
    try:
        number, host, taken = _taken(path)
    except (OSError, ValueError):  # just released, just taken, or on a full disk
        return f"If no process does that any more, on any machine, delete {path}."
    since = datetime.fromtimestamp(taken).astimezone().isoformat(" ", "seconds")
    return (
        f"It is process {number} on {host}, since {since}. If that does not run any more (`ps -p {number}` there), "
        f"delete {path}."
    )
