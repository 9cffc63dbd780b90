"""Peak memory of some work, each in a process of its own: what ran before leaves no trace."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from biva.bench.timing import Call


def peak_memory(prepare: Callable[..., Call], *arguments: Any) -> int:
    """Bytes at the peak of calling twice what `prepare(*arguments)` returns, its preparation included.

    On a GPU: what torch had allocated there. Else the resident memory of the whole process, Python and torch included.
    A process starts with its parent's peak, so this one must not have grown before.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, prepare, arguments).result()


def _peak(prepare: Callable[..., Call], arguments: tuple[Any, ...]) -> int:
    call = prepare(*arguments)
    call()
    call()
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
