"""Classification of images by q(y | x), and the bound on log p(x) of semi-supervised BIVA (paper.md section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from biva.bounds import class_kl, labelled_bound, over_classes, unlabelled_bound
from biva.evaluation.likelihood import IMAGES_PER_BATCH, ImageNoise, checked, latent_width
from biva.models.semi_supervised import Classifier, SemiSupervisedVAE, every_class


@dataclass(frozen=True)
class UnlabelledTerms:
    """The bound on log p(x) of N images at one sample each, and its terms: sums over classes weighted by q(y | x)."""

    bound: Tensor
    """(N,) float64, nats."""
    log_likelihood: Tensor
    """(N,) float64, nats."""
    kl: dict[str, Tensor]
    """Latent group, and y -> (N,) float64, nats."""


@torch.inference_mode()
def unlabelled_terms(
    model: SemiSupervisedVAE, x: Tensor, *, seed: int, rows: int, device: torch.device
) -> UnlabelledTerms:
    """One sample of z^BU per image, and one of the rest per image and class.

    Args:
        model: in evaluation mode, on `device`.
        x: model input (N, C, H, W).
        seed: of the noise.
        rows: image and class pairs walked at once, at least; changes nothing but memory and time.
        device: where to compute.

    Raises:
        UserError: a bound is NaN or +infinite.
    """
    bounds, likelihoods, kls = [], [], []
    for start in range(0, len(x), size := max(1, min(IMAGES_PER_BATCH, rows // model.classes))):
        batch = x[start : start + size].to(device)
        noise = ImageNoise(seed, range(start, start + len(batch)), latent_width(model.generative), device)
        noise.draw(1)
        ascent = model.ascend(batch, noise)
        noise.draw(model.classes)
        images, y = every_class(len(batch), model.classes, device)
        terms = model.terms(batch[images], ascent.rows(images), y, noise)
        log_q = model.log_q(ascent).double()
        likelihood, kl = terms.log_likelihood.double(), terms.kl.double()
        by_class = labelled_bound(likelihood, kl, model.classes).view(model.classes, -1)
        bounds.append(unlabelled_bound(by_class, log_q).cpu())
        likelihoods.append(over_classes(likelihood.view(model.classes, -1), log_q).cpu())
        groups = [over_classes(group.view(model.classes, -1), log_q) for group in kl.unbind(1)]
        kls.append(torch.stack([*groups, class_kl(log_q)], dim=1).cpu())
    by_group = dict(zip([*model.group_names, "y"], torch.cat(kls).unbind(1), strict=True))
    return UnlabelledTerms(checked(torch.cat(bounds)[None])[0], torch.cat(likelihoods), by_group)


@torch.inference_mode()
def classify(model: Classifier, x: Tensor, *, rows: int, device: torch.device) -> Tensor:
    """log q(y | x), (N, Y) float64, at the posterior means of z^BU: one pass, and no noise in a test error.

    Args:
        model: in evaluation mode, on `device`.
        x: model input (N, C, H, W).
        rows: images at once.
        device: where to compute.
    """
    return torch.cat([model.classify(batch.to(device)).double().cpu() for batch in x.split(rows)])
