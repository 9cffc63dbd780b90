"""The arithmetic of convolutions and matrix products: float32, TF32 or bfloat16.

Weights, optimiser, latents, likelihood and KL stay float32 in all of them: the models return float32 from every latent
head and from the output layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from biva.config import Precision
from biva.errors import UserError

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
"""Type of the numbers that are multiplied."""


def find_precision(name: str) -> Precision:
    """The precision with this name.

    Raises:
        UserError: there is none.
    """
    for precision in DTYPES:
        if precision == name:
            return precision
    raise UserError(f"There is no precision {name!r}. Known: {', '.join(DTYPES)}.")


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute in a precision: a forward pass, or a whole training step.

    fp32: full float32, also where torch would take TF32 by itself (CUDA convolutions). tf32: float32 numbers, of which
    a GPU multiplies the first 10 bits of the mantissa. bf16: torch's autocast.

    Raises:
        UserError: tf32 without a GPU.
    """
    if precision == "tf32" and device.type != "cuda":
        raise UserError(f"Precision tf32 is a mode of NVIDIA GPUs, but the device is {device.type}. Use fp32 or bf16.")
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = precision == "tf32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
