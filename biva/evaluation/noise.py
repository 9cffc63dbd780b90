"""Random numbers of an evaluation: which ones a draw gets depends on its name, not on what else is drawn, or when."""

from __future__ import annotations

import torch
from torch import Tensor

from biva.models.latents import Noise
from biva.seeds import derive_seed


def named_noise(seed: int, device: torch.device) -> Noise:
    """The same numbers whenever a draw of this name and shape is asked for; a GPU has others than a CPU."""

    def noise(name: str, shape: torch.Size) -> Tensor:
        generator = torch.Generator(device).manual_seed(derive_seed(seed, name))
        return torch.randn(shape, generator=generator, device=device)

    return noise
