"""Bounds against hand-computed cases and a linear Gaussian model whose marginal likelihood is known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from biva.bounds import bits_per_dim, elbo, free_bits_loss, importance_weighted_bound
from biva.models.latents import DiagonalGaussian
from tests.models import double_noise


def test_elbo_by_hand() -> None:
    assert elbo(torch.tensor([-80.0, -90.0]), torch.tensor([[1.0, 2.0], [3.0, -0.5]])).tolist() == [-83.0, -92.5]


@pytest.mark.parametrize(
    ("free_bits", "kl_weight", "by_hand"),
    [
        (2.0, 1.0, (80 + 2 + 3 + 90 + 2 + 2) / 2),  # max(KL, 2) per group and example
        (2.0, 0.25, (80 + 5 / 4 + 90 + 4 / 4) / 2),  # the weight is that of the maximum
        (0.0, 1.0, (80 + 4 + 90 + 1.5) / 2),  # a KL term of one sample may be negative
    ],
)
def test_free_bits_by_hand(free_bits: float, kl_weight: float, by_hand: float) -> None:
    loss = free_bits_loss(torch.tensor([-80.0, -90.0]), torch.tensor([[1.0, 3.0], [2.0, -0.5]]), free_bits, kl_weight)
    assert loss.item() == by_hand


def test_importance_weighted_bound_by_hand() -> None:
    """Weights 1, 3 | 5, 7 (and 9 left over): L_2 = mean(log 2, log 6); L_1 = mean of the logs of all five."""
    log_weights = torch.tensor([[1.0], [3.0], [5.0], [7.0], [9.0]]).log()
    assert importance_weighted_bound(log_weights, 2).item() == pytest.approx((math.log(2) + math.log(6)) / 2)
    assert importance_weighted_bound(log_weights, 1).item() == pytest.approx(math.log(1 * 3 * 5 * 7 * 9) / 5)
    assert importance_weighted_bound(log_weights, 5).item() == pytest.approx(math.log(5))


def test_importance_weighted_bound_survives_weights_that_underflow() -> None:
    bound = importance_weighted_bound(torch.tensor([[-2000.0], [-2000.0 + math.log(3)]]), 2)
    assert bound.dtype == torch.float64
    assert bound.item() == pytest.approx(-2000 + math.log(2))


@pytest.mark.parametrize("k", [0, 4])
def test_importance_weighted_bound_needs_enough_samples(k: int) -> None:
    with pytest.raises(ValueError, match="got 3 samples"):
        importance_weighted_bound(torch.zeros(3, 1), k)


def test_bits_per_dim_by_hand() -> None:
    assert bits_per_dim(torch.tensor(-3072 * math.log(2) * 3.08), 3072).item() == pytest.approx(3.08)


def test_bound_converges_to_the_marginal_likelihood_of_a_linear_gaussian_model() -> None:
    """z ~ N(0, I_2), x | z ~ N(A z, s^2 I_3): log p(x) = log N(x; 0, A A' + s^2 I), whatever q is.

    q is the true posterior's mean with independent, too wide errors, so L_1 < L_10 < L_1000 < log p(x).
    """
    rng = np.random.default_rng(0)
    a, s, k, repeats = rng.normal(size=(3, 2)), 0.7, 2000, 400
    x = rng.normal(size=3)
    marginal = stats.multivariate_normal.logpdf(x, np.zeros(3), a @ a.T + s**2 * np.eye(3))
    precision = np.eye(2) + a.T @ a / s**2
    mean = np.linalg.solve(precision, a.T @ x / s**2)

    torch.manual_seed(0)
    rows = k * repeats
    q = DiagonalGaussian(torch.tensor(mean).expand(rows, 2), torch.zeros(rows, 2, dtype=torch.float64))
    z = q.sample(double_noise, "q(z1)")
    prior = DiagonalGaussian(torch.zeros(rows, 2, dtype=torch.float64), torch.zeros(rows, 2, dtype=torch.float64))
    variance = torch.full((rows, 3), 2 * math.log(s), dtype=torch.float64)
    likelihood = DiagonalGaussian(z @ torch.tensor(a).T, variance).log_prob(torch.tensor(x).expand(rows, 3))
    log_weights = elbo(likelihood, (q.log_prob(z) - prior.log_prob(z))[:, None]).view(k, repeats)

    bounds = {j: importance_weighted_bound(log_weights, j) for j in (1, 10, 100, k)}
    means = [bound.mean().item() for bound in bounds.values()]
    assert means == sorted(means)
    spread = log_weights.exp().std().item() / log_weights.exp().mean().item()
    bias = spread**2 / (2 * k)  # delta method: E log of a mean of k weights
    error = bounds[k].std().item() / math.sqrt(repeats)
    assert abs(means[-1] + bias - marginal) < 5 * error
    assert means[0] < marginal - 0.1
