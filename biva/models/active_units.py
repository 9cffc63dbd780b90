"""Units of a latent group whose posterior mean varies over the data (Burda et al.; paper.md section 5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ACTIVE_VARIANCE = 0.01


def posterior_moments(means: Tensor) -> Tensor:
    """Two estimates of the posterior means of a batch's images, (2, B, units) -> sums over images, (3, units).

    The sums are of the first, of the second, and of their product; those of several batches add up.
    """
    first, second = means
    return torch.stack([first.sum(0), second.sum(0), (first * second).sum(0)])


def active_units(moments: Tensor, images: int) -> Tensor:
    """Units whose posterior mean varies over the data by more than 0.01: bool each.

    Below the first stochastic layer the posterior mean E[z | x] has to be estimated by an average over ancestral
    samples, whose own noise would count as variance. Two halves of the samples give two estimates with independent
    noise; their covariance, from `posterior_moments` summed over batches, is free of it.
    """
    first, second, product = moments
    covariance: Tensor = product / images - first * second / images**2
    return covariance > ACTIVE_VARIANCE


def counted(active: Mapping[str, Tensor]) -> dict[str, dict[str, int]]:
    """Latent group -> how many of its units are active, and how many it has."""
    return {name: {"active": int(units.sum()), "total": units.numel()} for name, units in active.items()}
