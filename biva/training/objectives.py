"""What a run minimises, and the bound that its weights are selected by.

A run without labels maximises the ELBO of images. One with labels is either semi-supervised BIVA or the supervised
network that it is measured against (paper.md section 5).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from biva.bounds import class_kl, free_bits_loss, labelled_bound, over_classes, unlabelled_bound, with_free_bits
from biva.config import RunConfig
from biva.data.raw import CLASSES
from biva.models.generative import Walk
from biva.models.hierarchical_vae import Terms
from biva.models.latents import Noise
from biva.training import schedule


class Loss(NamedTuple):
    """What one pass over a batch gives; all but `value` is detached."""

    value: Tensor
    """The scalar to minimise."""
    numbers: dict[str, Tensor]
    """Scalars whose means over updates the record has."""
    terms: dict[str, Tensor]
    """Means over the batch of what the loss is made of, by name: where one is not finite, the loss went wrong."""


def loss_of(run: RunConfig, model: Any, batch: Any, noise: Noise, update: int = 0) -> Loss:
    """The training loss of a run on one of its batches, after so many updates.

    A batch is images (B, C, H, W), for a run with labels followed by the labels of the first ones.
    """
    of_kl = schedule.free_bits(run.training, update), schedule.kl_weight(run.training, update)
    if run.labels is None:
        return _negative_elbo(model, batch, noise, *of_kl)
    x, y = batch
    if run.labels.weight is None:
        return _cross_entropy(model, x, y)
    return _semi_supervised(model, x, y, noise, *of_kl, run.labels.weight)


def bound_terms(run: RunConfig, model: Any, x: Tensor, noise: Noise) -> tuple[Tensor, dict[str, Tensor]]:
    """The two terms of the bound on log p(x) at one sample per image, without free bits; the bound is their difference.

    Of images x without labels, (B, C, H, W), and not of the supervised network, which has no bound.

    Returns:
        log p(x | z), (B,); and the KL of every latent group, and of y where the run has labels, each (B,). In nats.
    """
    if run.labels is None:
        terms = model(x, noise)
        return terms.log_likelihood, _by_group(terms.walk, terms.kl)
    log_q, terms = model(x, torch.empty(0, dtype=torch.int64, device=x.device), noise)
    return _mean_over_classes(terms.walk, log_q, terms.log_likelihood, terms.kl)


def _negative_elbo(model: Any, x: Tensor, noise: Noise, free_bits: float, kl_weight: float) -> Loss:
    """The negative ELBO with free bits (paper.md section 4)."""
    terms = model(x, noise)
    loss = free_bits_loss(terms.log_likelihood, terms.kl, free_bits, kl_weight)
    numbers = {"log_likelihood": terms.log_likelihood.detach().mean(), "kl": terms.kl.detach().sum(1).mean()}
    return Loss(loss, numbers, _named(terms))


def _semi_supervised(
    model: Any, x: Tensor, y: Tensor, noise: Noise, free_bits: float, kl_weight: float, weight: float
) -> Loss:
    """The bounds of labelled and unlabelled images, and alpha times the classifier's loss (paper.md section 5).

    The loss is the sum of three batch means: minus the bound on log p(x, y) of the labelled images, minus the bound on
    log p(x) of the unlabelled ones, and alpha times -log q(y | x, z^BU) at the labels. Every training image counts as
    an unlabelled one, those with a label too. Free bits hold per Gaussian latent group, for every class; the KL of y
    has none: it is exact, at most log Y, and must not be free, since y is what the model is for.

    The record's likelihood and KL are those of the unlabelled images, cross-entropy and error those of the labelled.
    """
    log_q, terms = model(x, y, noise)
    labelled, log_q_labelled, log_q_unlabelled = len(y), log_q[: len(y)], log_q[len(y) :]
    bounds = labelled_bound(terms.log_likelihood, kl_weight * with_free_bits(terms.kl, free_bits), CLASSES)
    unlabelled = unlabelled_bound(bounds[labelled:].view(CLASSES, -1), log_q_unlabelled)
    cross_entropy = F.nll_loss(log_q_labelled, y)
    loss = weight * cross_entropy - bounds[:labelled].mean() - unlabelled.mean()
    with torch.no_grad():
        rows = terms.log_likelihood[labelled:], terms.kl[labelled:]
        log_likelihood, kl = _mean_over_classes(terms.walk, log_q_unlabelled, *rows)
    numbers = {
        "log_likelihood": log_likelihood.mean(),
        "kl": torch.stack([*kl.values()]).sum(0).mean(),
        "cross_entropy": cross_entropy.detach(),
        "error": _error(log_q_labelled, y),
    }
    return Loss(loss, numbers, {"log q(y | x)": log_q.detach().mean()} | _named(terms))


def _cross_entropy(model: Any, x: Tensor, y: Tensor) -> Loss:
    """The mean of -log q(y | x) at the labels."""
    log_q = model(x)
    return Loss(F.nll_loss(log_q, y), {"error": _error(log_q, y)}, {"log q(y | x)": log_q.detach().mean()})


def _mean_over_classes(
    walk: Walk, log_q: Tensor, log_likelihood: Tensor, kl: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """What `bound_terms` returns, from the rows of every class: log q(y | x) (B, Y), likelihood (Y*B,), KL (Y*B, G)."""

    def mean(rows: Tensor) -> Tensor:
        return over_classes(rows.view(log_q.shape[1], -1), log_q)

    by_group = {name: mean(rows) for name, rows in _by_group(walk, kl).items()}
    return mean(log_likelihood), by_group | {"y": class_kl(log_q)}


def _by_group(walk: Walk, kl: Tensor) -> dict[str, Tensor]:
    """The columns of a KL, by latent group."""
    return dict(zip(walk.steps, kl.unbind(-1), strict=True))


def _named(terms: Terms) -> dict[str, Tensor]:
    """`Loss.terms` of the terms of a bound."""
    kl = _by_group(terms.walk, terms.kl.detach().mean(0))
    return {"log p(x | z)": terms.log_likelihood.detach().mean()} | {f"KL of {name}": kl[name] for name in kl}


def _error(log_q: Tensor, y: Tensor) -> Tensor:
    """Percent of images of which another class is the most probable."""
    return 100 * (log_q.detach().argmax(dim=1) != y).double().mean()
