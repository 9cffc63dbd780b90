"""Anomaly detection (paper.md section 5): L^{>k} of every image.

An image unlike the training data may still have a high likelihood, because its details are easy to predict. L^{>k}
ignores the details: it keeps what the latents above stage k say about the image.
"""

from __future__ import annotations

import math
from functools import cache, partial

import torch
from torch import Tensor

from biva.bounds import elbo, importance_weighted_bound
from biva.evaluation.likelihood import IMAGES_PER_BATCH, batches, checked, chunks
from biva.evaluation.memory import halving_rows
from biva.evaluation.noise import sample_noise
from biva.models.hierarchical_vae import HierarchicalVAE


def bounds_above(
    model: HierarchicalVAE, x: Tensor, samples: int, *, mode: bool = False, seed: int, rows: int, device: torch.device
) -> Tensor:
    """L^{>k} of every image for k = 0 .. L, each image exactly once, from importance-weighted samples.

    L^{>0} is the ELBO (with one sample) or L_K (with K), L^{>L} is the likelihood under the prior alone. All k share
    the way up and the noise of every draw, so their differences are less noisy. K = `samples` per image and k; with
    `mode` the k lowest stages are the prior's mode, and not samples from it. `model` is in evaluation mode, on
    `device`, and x its input, (N, C, H, W). `rows`, samples at once, changes nothing but memory and time.

    Returns:
        (L + 1, N) float64, nats.

    Raises:
        UserError: one is NaN or infinite.
    """
    bounds = [
        halving_rows(partial(_bounds_above, model, x, images, samples, mode, seed, device), rows)
        for images in batches(range(len(x)), IMAGES_PER_BATCH)
    ]
    together = torch.cat(bounds, dim=1)
    return checked(together.masked_fill(together == -math.inf, math.nan))  # of which scores would be no numbers


@torch.inference_mode()
def _bounds_above(
    model: HierarchicalVAE,
    x: Tensor,
    images: range,
    samples: int,
    mode: bool,
    seed: int,
    device: torch.device,
    rows: int,
) -> Tensor:
    """Those of one batch, as many images at once as there may be rows."""
    if rows < len(images):
        few = [_bounds_above(model, x, few, samples, mode, seed, device, rows) for few in batches(images, rows)]
        return torch.cat(few, dim=1)
    batch, log_weights = x[images.start : images.stop].to(device), []
    features = model.inference.encode(batch)
    for first, chunk in chunks(samples, rows // len(batch)):
        noise = cache(sample_noise(seed, images, first, device))
        of_chunk = model.terms_above(batch, features, chunk, noise, mode=mode)
        log_weights.append(
            [elbo(terms.log_likelihood.double(), terms.kl.double()).view(chunk, -1) for terms in of_chunk]
        )
    return torch.stack(
        [importance_weighted_bound(torch.cat(of_k), samples).cpu() for of_k in zip(*log_weights, strict=True)]
    )
