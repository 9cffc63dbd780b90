"""Single pictures: decoding PNG and JPEG files, and shrinking."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biva.errors import UserError


def decode(content: bytes, kind: str, size: tuple[int, int], mode: str, where: str) -> NDArray[np.uint8]:
    """Pixels of a picture, uint8: (H, W) in mode "L", grey, or (H, W, 3) in "RGB".

    `kind` is "PNG" or "JPEG", and no other format is tried; `size`, width and height that it must have, is compared
    before anything is unpacked; `where` names it in an error.

    Raises:
        UserError: it is no such picture.
    """
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as picture:
            if picture.size == size:
                return np.asarray(picture.convert(mode))
            found = picture.size
    except Exception as error:  # Pillow raises a dozen kinds of them on damaged pictures
        raise UserError(f"{where} is no {kind} picture or is damaged: {error or type(error).__name__}.") from error
    raise UserError(f"{where} has {found[0]} x {found[1]} pixels; expected {size[0]} x {size[1]}.")


@cache
def _overlaps(source: int, target: int) -> NDArray[np.float64]:
    """How much of every source pixel lies in every target pixel, (target, source); a row's sum is `source`.

    The line is cut into source x target units: a source pixel has `target` of them, a target pixel `source`.
    """
    edges = np.arange(target + 1)[:, None] * source
    starts = np.arange(source)[None, :] * target
    inside = np.clip(edges - starts, 0, target)  # units of the source pixel to the left of the edge
    overlaps: NDArray[np.float64] = np.diff(inside, axis=0).astype(np.float64)
    return overlaps


def area_average(values: NDArray[np.uint8], shape: tuple[int, int], scale: int = 1, unit: int = 1) -> NDArray[np.uint8]:
    """Shrink pictures (..., H, W) to `shape`: a pixel becomes the mean of the area it covers, times `scale / unit`.

    Rounded to the nearest. `scale` is the level that stands for the value `unit`. All sums are whole numbers below
    2^53, so they are exact and the same on every machine. (The box filter of Pillow and torchvision weighs whole pixels
    only, and gives other values.)
    """
    height, width = values.shape[-2:]
    sums = _overlaps(height, shape[0]) @ values.astype(np.float64) @ _overlaps(width, shape[1]).T
    whole = height * width * unit
    means: NDArray[np.uint8] = np.floor((2 * scale * sums + whole) / (2 * whole)).astype(np.uint8)
    return means
