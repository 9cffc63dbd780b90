"""From stored pixels to what the model sees."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Binarisation = Literal["none", "static", "dynamic"]


def model_input(
    images: Tensor, levels: int, binarisation: Binarisation, generator: torch.Generator | None = None
) -> Tensor:
    """Turn pixels, uint8 of any shape, 0 .. `levels` - 1, into the model's input (paper.md section 6): float32.

    `static`: the values as they are, 0 or 1. `none`: the levels scaled to [-1, 1]. `dynamic`: 0 or 1, drawn with
    probability level / (levels - 1) for 1 from `generator`, on the device of `images`. Every call goes on in its
    stream, so another epoch sees other binary images; a generator of the same state gives the same ones.

    Raises:
        ValueError: `dynamic` without a generator, which could not be repeated.
    """
    values = images.float()
    if binarisation == "static":
        return values
    if binarisation == "none":
        return 2 * values / (levels - 1) - 1
    if generator is None:
        raise ValueError("dynamic binarisation needs a generator")
    uniform = torch.rand(images.shape, generator=generator, device=images.device)
    return (uniform < values / (levels - 1)).float()
