"""The bounds of the paper as pure functions of log-likelihoods, KL terms and log-weights; everything in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def elbo(log_likelihood: Tensor, kl: Tensor) -> Tensor:
    """log p(x | z) - sum over groups of KL: the ELBO at one sample, which is also the log importance weight.

    Args:
        log_likelihood: (B,).
        kl: (B, G).

    Returns:
        (B,), higher is better.
    """
    return log_likelihood - kl.sum(dim=1)


def free_bits_loss(log_likelihood: Tensor, kl: Tensor, free_bits: float) -> Tensor:
    """Training loss: the negative ELBO with max(KL, free_bits) per latent group and example (paper.md section 4).

    A group whose KL is below `free_bits` nats feels no pressure towards its prior. With 0 there are no free bits: it is
    the negative ELBO itself, in which Monte Carlo terms below zero count in full.

    Args:
        log_likelihood: (B,).
        kl: (B, G), Monte Carlo terms, so possibly negative.
        free_bits: nats per group and example.

    Returns:
        Scalar, mean over the batch.
    """
    return -elbo(log_likelihood, kl.clamp(min=free_bits) if free_bits > 0 else kl).mean()


def importance_weighted_bound(log_weights: Tensor, k: int) -> Tensor:
    """L_k = E[log 1/k sum_j w_j] (paper.md section 5), estimated from K >= k samples per image.

    The K samples are cut into floor(K / k) disjoint groups of k; each group gives an unbiased estimate of L_k and
    their mean is returned. So every k of a report uses all the samples that it can.

    Args:
        log_weights: (K, B), log p(x, z) - log q(z | x).
        k: samples in the bound, 1 <= k <= K.

    Returns:
        (B,) float64, higher is better.
    """
    total = len(log_weights)
    if not 1 <= k <= total:
        raise ValueError(f"L_{k} needs at least {k} samples per image and k >= 1, got {total} samples")
    groups = log_weights[: total - total % k].double().unflatten(0, (-1, k))
    return (torch.logsumexp(groups, dim=1) - math.log(k)).mean(dim=0)


def bits_per_dim(bound: Tensor, dimensions: int) -> Tensor:
    """-bound / (ln 2 * dimensions), lower is better; `dimensions` counts sub-pixels, C*H*W (paper.md section 5)."""
    return -bound / (math.log(2) * dimensions)
