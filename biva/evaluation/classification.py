"""Classification of images by q(y | x), and the bound on log p(x) of semi-supervised BIVA (paper.md section 5)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from biva.bounds import class_kl, labelled_bound, over_classes, unlabelled_bound
from biva.evaluation.likelihood import IMAGES_PER_BATCH, batches, checked
from biva.evaluation.memory import halving_rows
from biva.evaluation.noise import sample_noise
from biva.models.semi_supervised import Classifier, SemiSupervisedVAE, every_class


def unlabelled_terms(
    model: SemiSupervisedVAE, x: Tensor, *, seed: int, rows: int, device: torch.device
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The bound on log p(x) of images x (N, C, H, W), its likelihood, and its KL by latent group, and y: float64 (N,).

    In nats, from one sample of z^BU per image, and one of the rest per image and class, summed over classes weighted by
    q(y | x). `model` is in evaluation mode, on `device`; `rows`, image and class pairs at once, at least all classes of
    an image, changes nothing but memory and time.

    Raises:
        UserError: a bound is NaN or +infinite.
    """
    columns = torch.cat(
        [
            halving_rows(partial(_unlabelled_terms, model, x, images, seed, device), rows)
            for images in batches(range(len(x)), IMAGES_PER_BATCH)
        ]
    )
    bound, log_likelihood, *kl = (column.contiguous() for column in columns.unbind(1))
    checked(bound[None])
    return bound, log_likelihood, dict(zip([*model.generative.group_names, "y"], kl, strict=True))


@torch.inference_mode()
def _unlabelled_terms(
    model: SemiSupervisedVAE, x: Tensor, images: range, seed: int, device: torch.device, rows: int
) -> Tensor:
    """Bound, log-likelihood, the KL of every group and that of y, of one batch of images: (B, G + 3)."""
    found = []
    for few in batches(images, max(1, rows // model.classes)):
        batch, noise = x[few.start : few.stop].to(device), sample_noise(seed, few, 0, device)
        ascent = model.ascend(batch, noise)
        index, y = every_class(len(batch), model.classes, device)
        terms = model.terms(batch[index], ascent.rows(index), y, noise)
        log_q, likelihood, kl = model.log_q(ascent).double(), terms.log_likelihood.double(), terms.kl.double()
        bound = unlabelled_bound(labelled_bound(likelihood, kl, model.classes).view(model.classes, -1), log_q)
        means = [over_classes(values.view(model.classes, -1), log_q) for values in (likelihood, *kl.unbind(1))]
        found.append(torch.stack([bound, *means, class_kl(log_q)], dim=1).cpu())
    return torch.cat(found)


@torch.inference_mode()
def classify(model: Classifier, x: Tensor, *, rows: int, device: torch.device) -> Tensor:
    """log q(y | x), (N, Y) float64, at the posterior means of z^BU: one pass, and no noise in a test error.

    `model` is in evaluation mode, on `device`; x (N, C, H, W); `rows` at once change nothing but memory and time.
    """

    def log_q(rows: int) -> Tensor:
        return torch.cat([model.classify(batch.to(device)).double().cpu() for batch in x.split(rows)])

    return halving_rows(log_q, rows)
