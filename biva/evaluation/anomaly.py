"""Anomaly detection (paper.md section 5): L^{>k} of every image.

An image unlike the training data may still have a high likelihood, because its details are easy to predict. L^{>k}
ignores the details: it keeps what the latents above stage k say about the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from biva.bounds import elbo, importance_weighted_bound
from biva.evaluation.likelihood import IMAGES_PER_BATCH, ImageNoise, checked, chunks, latent_width
from biva.models.hierarchical_vae import HierarchicalVAE


@torch.inference_mode()
def bounds_above(
    model: HierarchicalVAE, x: Tensor, samples: int, *, seed: int, rows: int, device: torch.device
) -> Tensor:
    """L^{>k} of every image for k = 0 .. L, from importance-weighted samples; each image exactly once.

    L^{>0} is the ELBO (with one sample) or L_K (with K), L^{>L} is the likelihood under the prior alone. All k use the
    same noise, so the posterior samples that two of them share are equal and their difference is less noisy.

    Args:
        model: in evaluation mode, on `device`.
        x: model input (N, C, H, W).
        samples: K, per image and k.
        seed: of the noise.
        rows: samples walked at once; changes nothing but memory and time.
        device: where to compute.

    Returns:
        (L + 1, N) float64, nats.

    Raises:
        UserError: one is NaN or +infinite.
    """
    stages = len(model.generative.stages)
    bounds = torch.empty(stages + 1, len(x), dtype=torch.float64)
    per_batch = min(IMAGES_PER_BATCH, rows)
    for start in range(0, len(x), per_batch):
        batch = x[start : start + per_batch].to(device)
        images = range(start, start + len(batch))
        features = model.inference.encode(batch)
        for k in range(stages + 1):
            # A walk draws at most every latent twice: on the way up from q, and on the way down from p.
            noise = ImageNoise(seed, images, 2 * latent_width(model.generative), device)
            parts = []
            for chunk in chunks(samples, max(1, rows // len(batch))):
                noise.draw(chunk)
                terms = model.terms(batch, features, chunk, noise, above=k)
                parts.append(elbo(terms.log_likelihood.double(), terms.kl.double()).view(chunk, -1))
            bounds[k, images.start : images.stop] = importance_weighted_bound(torch.cat(parts), samples).cpu()
    return checked(bounds)
