"""Likelihoods against SciPy, brute-force sums over all levels, and their own samplers."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit, log_softmax

from biva.models.likelihoods import Bernoulli, MixtureOfLogistics

LEVELS = np.arange(256) * 2 / 255 - 1


def test_bernoulli_is_scipys() -> None:
    rng = np.random.default_rng(0)
    logits, x = rng.normal(size=(5, 1, 4, 4)), rng.integers(0, 2, size=(5, 1, 4, 4))
    expected = stats.bernoulli.logpmf(x, expit(logits)).sum(axis=(1, 2, 3))
    result = Bernoulli(1).log_prob(torch.tensor(logits), torch.tensor(x).double())
    np.testing.assert_allclose(result, expected)


def test_bernoulli_is_finite_at_extreme_logits() -> None:
    output, x = torch.tensor([[[[200.0, -200.0]]]]), torch.tensor([[[[0.0, 0.0]]]])
    assert Bernoulli(1).log_prob(output, x).item() == -200.0


def mixture_output(seed: int, scale: float = 1.0) -> torch.Tensor:
    """Parameters of one pixel, (1, 100, 1, 1), with wide and narrow components."""
    rng = np.random.default_rng(seed)
    output = rng.normal(size=(1, 100, 1, 1)) * scale
    per_channel = output[:, 10:].reshape(1, 3, 3, 10)
    per_channel[:, :, 1] = rng.uniform(-6, 0, size=(1, 3, 10))
    return torch.tensor(output)


def bins(mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """P(level) of a discretised logistic, (..., 256), from SciPy's logistic distribution function."""
    edges = np.concatenate([[-np.inf], (LEVELS[1:] + LEVELS[:-1]) / 2, [np.inf]])
    return np.diff(stats.logistic.cdf(edges, mean[..., None], scale[..., None]), axis=-1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mixture_sums_to_one_over_all_levels_of_every_channel(seed: int) -> None:
    """p(r, g, b) summed over g and b is the red marginal by SciPy; that sums to 1 over r.

    Were the second or third channel not normalised given the earlier ones, the sums over them would miss the marginal.
    """
    output = mixture_output(seed)
    logits, red = output[0, :10, 0, 0].numpy(), output[0, 10:40, 0, 0].numpy().reshape(3, 10)
    marginal = np.exp(log_softmax(logits)) @ bins(red[0], np.exp(np.maximum(red[1], -7)))
    assert marginal.sum() == pytest.approx(1, abs=1e-12)
    green, blue = (torch.tensor(axis.ravel()) for axis in np.meshgrid(LEVELS, LEVELS))
    for level in (0, 100, 255):
        x = torch.stack([torch.full_like(green, LEVELS[level]), green, blue], dim=1)[..., None, None]
        log_prob = MixtureOfLogistics(3).log_prob(output.expand(len(x), -1, 1, 1), x)
        assert log_prob.exp().sum().item() == pytest.approx(marginal[level], rel=1e-9, abs=1e-15)


def test_mixture_adds_up_over_pixels() -> None:
    torch.manual_seed(0)
    output = torch.randn(1, 100, 2, 1, dtype=torch.float64)
    x = torch.tensor(LEVELS[[3, 200, 90, 255, 0, 17]]).view(1, 3, 2, 1)
    whole = MixtureOfLogistics(3).log_prob(output, x)
    parts = [MixtureOfLogistics(3).log_prob(output[:, :, i : i + 1], x[:, :, i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(whole, parts[0] + parts[1])


def test_mixture_is_finite_for_narrow_components_far_away() -> None:
    output = torch.zeros(1, 100, 1, 1)
    output.view(1, 100)[0, 10:].view(3, 3, 10)[:, 1] = -7
    output.view(1, 100)[0, 10:].view(3, 3, 10)[:, 0] = 0.9
    log_prob = MixtureOfLogistics(3).log_prob(output, torch.full((1, 3, 1, 1), -0.5))
    assert torch.isfinite(log_prob).all()
    assert log_prob.item() < -1000


def test_mixture_samples_follow_the_density() -> None:
    """Red levels of 200,000 samples, in 16 bands, against the marginal; five standard errors."""
    output = mixture_output(3, scale=0.5)
    n = 200_000
    draws = MixtureOfLogistics(3).sample(output.expand(n, -1, 1, 1), torch.Generator().manual_seed(0))
    assert draws.abs().max() <= 1
    logits, red = output[0, :10, 0, 0].numpy(), output[0, 10:40, 0, 0].numpy().reshape(3, 10)
    expected = (np.exp(log_softmax(logits)) @ bins(red[0], np.exp(np.maximum(red[1], -7)))).reshape(16, 16).sum(1)
    level = np.rint((draws[:, 0, 0, 0].numpy() + 1) * 127.5).astype(int)
    observed = np.bincount(level // 16, minlength=16) / n
    assert (np.abs(observed - expected) < 5 * np.sqrt(expected * (1 - expected) / n) + 1e-6).all()


def test_mixture_samples_follow_the_joint_distribution_of_all_channels() -> None:
    """Narrow components, so that few levels have any probability, and all of those are enumerated.

    Green and blue are predicted from the level of red, not from the number that was rounded to it: with the latter,
    frequencies and the mean of log p would both be off by many standard errors.
    """
    rng, n = np.random.default_rng(0), 200_000
    output = torch.zeros(1, 100, 1, 1, dtype=torch.float64)
    channels = output[0, 10:].view(3, 3, 10)
    channels[:, 0] = torch.tensor(rng.normal(0.1, 0.004, (3, 10)))
    channels[:, 1], channels[:, 2] = -6.5, torch.tensor(rng.choice([-1.5, 1.5], (3, 10)))
    likelihood = MixtureOfLogistics(3)
    x = likelihood.sample(output.expand(n, -1, 1, 1), torch.Generator().manual_seed(0))
    levels = np.rint((x[..., 0, 0].numpy() + 1) * 127.5).astype(int)
    assert np.abs(LEVELS[levels] - x[..., 0, 0].numpy()).max() < 1e-12
    axes = [np.arange(max(of.min() - 1, 0), min(of.max() + 1, 255) + 1) for of in levels.T]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    log_p = torch.cat(
        [
            likelihood.log_prob(output.expand(len(part), -1, 1, 1), torch.tensor(LEVELS[part])[..., None, None])
            for part in np.array_split(grid, 1 + len(grid) // 50_000)
        ]
    ).numpy()
    p = np.exp(log_p)
    assert p.sum() == pytest.approx(1, abs=1e-5)

    of_samples = dict(zip(map(tuple, grid), log_p, strict=True))
    drawn = np.array([of_samples[tuple(level)] for level in levels])
    assert abs(drawn.mean() - (p * log_p).sum()) < 4 * drawn.std() / np.sqrt(n)
    index = np.ravel_multi_index(tuple(levels.T - [[axis[0]] for axis in axes]), [len(axis) for axis in axes])
    expected, observed = n * p, np.bincount(index, minlength=len(grid))
    often = expected >= 10
    expected, observed = expected[often], observed[often]
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


def test_mixture_is_for_three_channels() -> None:
    with pytest.raises(ValueError, match="3 channels, got 1"):
        MixtureOfLogistics(1)
