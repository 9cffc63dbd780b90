"""How many samples go through a model at once: by the sizes of its architecture, and on a GPU by what fits.

How many there are at once changes the last bits of a number. So on a CPU it is always the same.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from biva.devices import enough_memory
from biva.models.architectures import Architecture
from biva.models.likelihoods import LIKELIHOODS

BUDGET_MB = {"cpu": 256, "cuda": 8192}
"""More samples at once than fit into this are no faster."""

Result = TypeVar("Result")


def rows_for(architecture: Architecture, budget_mb: int | None, device: torch.device) -> int:
    """How many samples a budget in MiB holds, at least 1; None is the budget of the device.

    Counts the float32 numbers alive at the widest moment of a pass: four maps per stage (both inference paths, the
    skips), eight at full resolution (the gated block next to the data), and four times the parameters of p(x | z).
    """
    channels, *size = architecture.input_shape
    stages = sum(4 * math.prod(shape) for shape in architecture.stage_shapes)
    likelihood = LIKELIHOODS[architecture.likelihood](channels)
    pixels = (8 * architecture.filters + 4 * likelihood.parameters_per_pixel) * math.prod(size)
    return max(1, (budget_mb or BUDGET_MB[device.type]) * 2**20 // (4 * (stages + pixels)))


@enough_memory("Lower evaluation.memory_budget_mb, or end other programs that use the memory.")
def halving_rows(compute: Callable[[int], Result], rows: int) -> Result:
    """compute(rows), or with half as many rows, and again, while the GPU's memory does not suffice.

    Raises:
        UserError: it does not suffice for one row, or on a CPU not for so many.
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
