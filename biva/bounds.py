"""The bounds of the paper as pure functions of log-likelihoods, KL terms and log-weights, all of them in nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def elbo(log_likelihood: Tensor, kl: Tensor) -> Tensor:
    """log p(x | z) - sum over groups of KL: the ELBO at one sample, which is also the log importance weight.

    From log p(x | z) (B,) and KL (B, G): (B,), higher is better.
    """
    return log_likelihood - kl.sum(dim=1)


def free_bits_loss(log_likelihood: Tensor, kl: Tensor, free_bits: float, kl_weight: float = 1.0) -> Tensor:
    """Training loss: the negative ELBO with max(KL, free_bits) per latent group and example (paper.md section 4).

    From log p(x | z) (B,) and KL (B, G), Monte Carlo terms, so possibly negative; `kl_weight` is the factor of that
    maximum. A scalar, the mean over the batch.
    """
    return -elbo(log_likelihood, kl_weight * with_free_bits(kl, free_bits)).mean()


def with_free_bits(kl: Tensor, free_bits: float) -> Tensor:
    """max(KL, free_bits) of Monte Carlo terms (B, G): a group below `free_bits` nats feels no pressure to its prior.

    0 means none, and no maximum: max(KL, 0) would drop the negative terms and so overrate the KL.
    """
    return kl.clamp(min=free_bits) if free_bits else kl


def importance_weighted_bound(log_weights: Tensor, k: int) -> Tensor:
    """L_k = E[log 1/k sum_j w_j] (paper.md section 5), estimated from K >= k samples per image: (B,) float64.

    The K samples are cut into floor(K / k) disjoint groups of k; each group gives an unbiased estimate of L_k and
    their mean is returned. So every k of a report uses all the samples that it can. Higher is better. `log_weights`
    are log p(x, z) - log q(z | x), (K, B).
    """
    total = len(log_weights)
    if not 1 <= k <= total:
        raise ValueError(f"L_{k} needs at least {k} samples per image and k >= 1, got {total} samples")
    groups = log_weights[: total - total % k].double().unflatten(0, (-1, k))
    return (torch.logsumexp(groups, dim=1) - math.log(k)).mean(dim=0)


def labelled_bound(log_likelihood: Tensor, kl: Tensor, classes: int) -> Tensor:
    """Bound on log p(x, y) at one sample, p(y) uniform: the ELBO given y, minus log Y (paper.md section 5).

    From log p(x | z, y) (B,) and the KL of the Gaussian latent groups given y (B, G): (B,), higher is better.
    """
    return elbo(log_likelihood, kl) - math.log(classes)


def over_classes(values: Tensor, log_q: Tensor) -> Tensor:
    """The exact expectation sum_y q(y | x) value(x, y), from values (Y, B) and log q(y | x) (B, Y): (B,)."""
    return (log_q.exp() * values.T).sum(dim=1)


def unlabelled_bound(labelled: Tensor, log_q: Tensor) -> Tensor:
    """Bound on log p(x): the labelled bounds weighted by q(y | x), plus the entropy of q(y | x) (paper.md section 5).

    From `labelled_bound` at every class (Y, B) and log q(y | x) (B, Y): (B,), higher is better.
    """
    return over_classes(labelled - log_q.T, log_q)


def class_kl(log_q: Tensor) -> Tensor:
    """The exact KL(q(y | x) || p(y)) for a uniform p(y), from log q(y | x) (B, Y): (B,)."""
    return (log_q.exp() * (log_q + math.log(log_q.shape[1]))).sum(dim=1)


def bits_per_dim(bound: Tensor, dimensions: int) -> Tensor:
    """-bound / (ln 2 * dimensions), lower is better; `dimensions` counts sub-pixels, C*H*W (paper.md section 5)."""
    return -bound / (math.log(2) * dimensions)
