"""What the machine can do at best: the architecture's largest convolution by itself, matrix products, copies."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from biva.bench.flops import Convolution
from biva.bench.timing import Call, Timing, timed
from biva.config import Precision
from biva.devices import DTYPES, computing_in

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

MATRIX = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrix product."""

COPY_BYTES = 2**28


def convolution_calls(
    layer: Convolution, rows: int, precision: Precision, device: torch.device, *, backward: bool
) -> dict[str, Call]:
    """Memory format -> one pass of the layer over `rows` images, forward, or forward and backward."""
    return {
        name: _convolution(layer, rows, precision, device, memory_format, backward=backward)
        for name, memory_format in FORMATS.items()
    }


def convolution_rates(layer: Convolution, rows: int, timings: dict[str, Timing], *, backward: bool) -> dict[str, float]:
    """Memory format -> FLOP/s, of what `convolution_calls` took."""
    flops = (3 if backward else 1) * rows * layer.flops
    return {name: flops / timings[name].median for name in FORMATS}


def _convolution(
    layer: Convolution,
    rows: int,
    precision: Precision,
    device: torch.device,
    memory_format: torch.memory_format,
    *,
    backward: bool,
) -> Call:
    x, weight = (
        torch.randn(shape, dtype=DTYPES[precision], device=device)
        .contiguous(memory_format=memory_format)
        .requires_grad_(backward)
        for shape in ((rows, *layer.input), layer.weight)
    )

    def call() -> None:
        with computing_in(precision, device):
            y = F.conv2d(x, weight, None, layer.stride, layer.padding)
            if backward:
                torch.autograd.grad(y, (x, weight), torch.ones_like(y))

    return call


def matrix_rate(precision: Precision, repeats: int, device: torch.device) -> float:
    """FLOP/s of a square matrix product."""
    size = MATRIX[device.type]
    a, b = (torch.randn(size, size, dtype=DTYPES[precision], device=device) for _ in range(2))

    def call() -> None:
        with computing_in(precision, device):
            torch.mm(a, b)

    return 2 * size**3 / timed({"product": call}, repeats, device)["product"].median


def copy_rate(repeats: int, device: torch.device) -> float:
    """Bytes per second, read and written, of a copy within the device's memory."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / timed({"copy": lambda: target.copy_(source)}, repeats, device)["copy"].median
