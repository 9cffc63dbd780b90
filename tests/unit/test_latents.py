"""Diagonal Gaussians against SciPy and closed forms."""

import numpy as np
import pytest
import torch
from scipy import stats

from biva.models.generative import Step
from biva.models.latents import DiagonalGaussian, GaussianHead
from tests.models import double_noise, tiny_architecture


def gaussian(*shape: int, seed: int = 0) -> DiagonalGaussian:
    generator = torch.Generator().manual_seed(seed)
    mean, log_variance = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return DiagonalGaussian(mean, log_variance)


def test_log_prob_is_scipys() -> None:
    q, z = gaussian(3, 2, 4, 4), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    density = stats.norm.logpdf(z, q.mean, np.exp(q.log_variance.numpy() / 2))
    np.testing.assert_allclose(q.log_prob(z), density.sum(axis=(1, 2, 3)))


def test_kl_terms_average_to_the_closed_form() -> None:
    """KL(N(m, s^2) || N(n, t^2)) = log t/s + (s^2 + (m-n)^2) / 2t^2 - 1/2, summed over dimensions."""
    q, p = gaussian(1, 5, seed=1), gaussian(1, 5, seed=2)
    s, t = torch.exp(q.log_variance / 2), torch.exp(p.log_variance / 2)
    exact = (torch.log(t / s) + (s**2 + (q.mean - p.mean) ** 2) / (2 * t**2) - 0.5).sum().item()
    torch.manual_seed(0)
    many_q, many_p = q.repeat(200_000), p.repeat(200_000)
    z = many_q.sample(double_noise, "q(z1)")
    terms = Step(z, many_p, many_q).kl()
    assert abs(terms.mean().item() - exact) < 5 * terms.std().item() / np.sqrt(len(terms))


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_heads_read_a_softplus_as_the_log_variance(kind: str) -> None:
    """So no standard deviation is below 1, whatever the features are; `linear` reads the outputs themselves."""
    features, heads = 100 * torch.randn(8, 4, 2, 2), {}
    for activation in ("softplus", "linear"):
        torch.manual_seed(0)
        architecture = tiny_architecture(latents=kind, latent=2).model_copy(update={"log_variance": activation})
        heads[activation] = GaussianHead(architecture, 0)(features)
    softplus, linear = heads["softplus"], heads["linear"]
    assert linear.log_variance.min() < -1
    torch.testing.assert_close(softplus.log_variance, torch.log1p(linear.log_variance.double().exp()).float())
    assert torch.equal(softplus.mean, linear.mean)
    assert softplus.mean.shape[1:] == ((2,) if kind == "dense" else (2, 2, 2))
