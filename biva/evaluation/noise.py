"""Random numbers of an evaluation: which ones a draw gets depends on its name, not on what else is drawn, or when."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from biva.models.latents import Noise
from biva.seeds import derive_seed

IMAGES_PER_SEED = 64
SAMPLES_PER_SEED = 16
NUMBERS_PER_IMAGE = 1024
"""Samples of one generator, at most: wide latents have fewer samples per seed, so that no block of numbers is large."""


def named_noise(seed: int, device: torch.device) -> Noise:
    """The same numbers whenever a draw of this name and shape is asked for; a GPU has others than a CPU."""
    return lambda name, shape: _numbers(shape, device, seed, name)


def sample_noise(seed: int, images: range, first: int, device: torch.device) -> Noise:
    """Numbers of the samples of these images from number `first` on; as many samples as are asked for, sample-major.

    They depend on the seed, the image's number, the sample's and the draw's name alone. So an image gets the same
    samples whatever chunks, images or draws it shares a pass with, and the first ten of 1,000 samples are those of ten.
    A GPU has other numbers than a CPU. None of `images` may be on the other side of a multiple of `IMAGES_PER_SEED`.
    """
    batch, row = divmod(images.start, IMAGES_PER_SEED)

    def noise(name: str, shape: torch.Size) -> Tensor:
        last = first + shape[0] // len(images)
        size = max(1, min(SAMPLES_PER_SEED, NUMBERS_PER_IMAGE // math.prod(shape[1:])))
        pieces = []
        for block in range(first // size, -(-last // size)):
            numbers = _numbers((size, IMAGES_PER_SEED, *shape[1:]), device, seed, batch, block, name)
            samples = slice(max(0, first - block * size), last - block * size)
            pieces.append(numbers[samples, row : row + len(images)])
        return torch.cat(pieces).flatten(0, 1)

    return noise


def _numbers(shape: tuple[int, ...], device: torch.device, *purpose: int | str) -> Tensor:
    generator = torch.Generator(device).manual_seed(derive_seed(*purpose))
    return torch.randn(shape, generator=generator, device=device)
