"""Peak memory of some work, each in a process of its own: what ran before leaves no trace."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from biva.bench.timing import Call


def peak_memory(prepare: Callable[..., Call], *arguments: Any) -> int:
    """Bytes at the peak of calling twice what `prepare(*arguments)` returns, its preparation included.

    On a GPU: what torch had allocated there. Else the resident memory of the whole process, Python and torch included.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, prepare, arguments).result()


def _peak(prepare: Callable[..., Call], arguments: tuple[Any, ...]) -> int:
    call = prepare(*arguments)
    call()
    call()
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else _resident()


def _resident() -> int:
    """Peak of this process. Linux's `ru_maxrss` starts from that of the parent process, so it is the second choice."""
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines() if status.is_file() else []:
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
