"""Active units of posterior means with known variances."""

import math

import torch

from biva.models.active_units import active_units, posterior_moments


def test_active_units_ignore_the_noise_of_the_estimate() -> None:
    """Posterior means of variance 0, 0.005 and 0.02 over the data, each estimated with noise of variance 0.05.

    The threshold is 0.01. Variances of the noisy estimates themselves would all lie above it.
    """
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    truth = torch.randn(n, 3, generator=generator, dtype=torch.float64) * torch.tensor([0.0, 0.005, 0.02]).sqrt()
    estimates = truth + math.sqrt(0.05) * torch.randn(2, n, 3, generator=generator, dtype=torch.float64)
    moments = torch.stack([posterior_moments(part) for part in estimates.split(5000, dim=1)]).sum(0)
    assert active_units(moments, n).tolist() == [False, False, True]
