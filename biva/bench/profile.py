"""Where the time of a call goes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def largest_costs(call: Callable[[], object], device: torch.device, number: int = 8) -> list[dict[str, Any]]:
    """The operations that take the largest shares of one call's time, each without what it calls.

    On a GPU they are its kernels, and the time is theirs: what the GPU waits for is left out.

    Returns:
        `operation`, `calls`, `share` of the time of all operations; the largest share first.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        call()
        if on_gpu:
            torch.cuda.synchronize(device)
    own: Any = [event for event in profiler.key_averages() if (event.device_type.name == "CUDA") == on_gpu]
    times = [event.self_device_time_total if on_gpu else event.self_cpu_time_total for event in own]
    shares = [
        {"operation": event.key, "calls": event.count, "share": time / sum(times)}
        for event, time in zip(own, times, strict=True)
    ]
    return sorted(shares, key=lambda entry: -entry["share"])[:number]
