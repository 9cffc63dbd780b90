"""Wall time of calls: several repeats, warm-up left out."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

SHORTEST = 0.05
"""Seconds that one repeat takes at least, by calling several times: long against the clock and a wait for the GPU."""

Call = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, once per repeat."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def summary(self) -> dict[str, Any]:
        """Median, lowest and highest, in seconds, and how many there are."""
        return {
            "median": self.median,
            "low": min(self.seconds),
            "high": max(self.seconds),
            "repeats": len(self.seconds),
        }


def timed(calls: Mapping[str, Call], repeats: int, device: torch.device) -> dict[str, Timing]:
    """Time every call, all of them in turn in each repeat: what slows the machine down for a while slows all of them.

    Each is called twice before, for memory to be allocated, kernels to be chosen, and code to be compiled.
    """
    numbers = {}
    for name, call in calls.items():
        call()
        numbers[name] = max(1, math.ceil(SHORTEST / _seconds(call, 1, device)))
    repeated = [{name: _seconds(call, numbers[name], device) for name, call in calls.items()} for _ in range(repeats)]
    return {name: Timing(tuple(seconds[name] for seconds in repeated)) for name in calls}


def _seconds(call: Call, number: int, device: torch.device) -> float:
    """Mean of `number` calls in a row, with what they started on the device finished."""
    _wait(device)
    started = time.perf_counter()
    for _ in range(number):
        call()
    _wait(device)
    return (time.perf_counter() - started) / number


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
