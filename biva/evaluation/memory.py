"""How many samples are walked at once: as many as a memory budget holds, by what a walk is measured to need.

The samples at once change the last bits of a number, if they are few. So on a CPU their number does not follow the
memory that happens to be free, as long as that suffices.
"""

from __future__ import annotations

import math
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from biva.models.hierarchical_vae import HierarchicalVAE

LARGEST_BUDGET_MB = {"cpu": 256, "cuda": 8192}
"""More samples at once than fit into this are no faster. What the allocator holds beside the tensors comes on top."""

MEASURED_ROWS = 8

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

Result = TypeVar("Result")


def rows_for(model: HierarchicalVAE, x: Tensor, budget_mb: int | None, device: torch.device) -> int:
    """How many samples of images like the first of x (N, C, H, W) may be walked at once, at least 1.

    Args:
        model: in evaluation mode, on `device`.
        x: model input.
        budget_mb: MiB for the tensors of a walk; None: `LARGEST_BUDGET_MB`, halved until twice as much is available.
        device: where the model is.
    """
    per_row = memory_per_row(model, x[:1].to(device))
    budget = (budget_mb or LARGEST_BUDGET_MB[device.type]) * 2**20
    if budget_mb is None:
        available, wanted = available_memory(device), budget
        while 2 * budget > available and budget > per_row:
            budget //= 2
        if budget < wanted:
            print(f"warning: {available / 2**20:,.0f} MiB are free; fewer samples are walked at once", file=sys.stderr)
    return max(1, budget // per_row)


@torch.inference_mode()
def memory_per_row(model: HierarchicalVAE, x: Tensor) -> int:
    """Bytes that a sample of an image x (1, C, H, W) needs at most, where at least 8 are walked at once.

    That is an eighth of the tensors alive at the peak of walking 8. The peak of a longer walk is less than in
    proportion, since at every moment there is a fixed part and one that grows with the samples.
    """
    features = model.inference.encode(x)
    live = _LiveTensors()
    with live:
        model.terms(x, features, MEASURED_ROWS, lambda _name, shape: x.new_zeros(shape))
    return math.ceil(live.peak / MEASURED_ROWS)


class _LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that were made within it and are still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: dict[int, int] = {}
        self.now: int = 0
        self.peak: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, a second, to keep it out of what is compiled nowhere

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address not in self.sizes:
            self.sizes[address] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._remove, address)

    def _remove(self, address: int) -> None:
        self.now -= self.sizes.pop(address)


def available_memory(device: torch.device) -> int:
    """Bytes that may still be allocated: on the GPU; or in the machine, the container and the SLURM job."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    used, limits = psutil.Process().memory_info().rss, []
    if slurm := os.environ.get("SLURM_MEM_PER_NODE"):
        limits.append(int(slurm) * 2**20)
    limits += [int(text) for path in _CGROUP_LIMITS if path.is_file() and (text := path.read_text().strip()).isdigit()]
    return int(min([psutil.virtual_memory().available, *(limit - used for limit in limits)]))


def halving_rows(compute: Callable[[int], Result], rows: int) -> Result:
    """compute(rows), or with half as many rows, and again, while the GPU's memory does not suffice.

    Raises:
        torch.OutOfMemoryError: it does not suffice for one row.
    """
    while True:
        try:
            return compute(rows)
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
        rows //= 2
        torch.cuda.empty_cache()
        print(f"warning: the GPU's memory is full; trying again with {rows} samples at once", file=sys.stderr)
