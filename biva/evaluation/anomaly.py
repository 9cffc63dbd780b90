"""Anomaly detection (paper.md section 5): L^{>k} of every image, the scores made of it, and how well they separate.

An image unlike the training data may still have a high likelihood, because its details are easy to predict. L^{>k}
ignores the details: it keeps what the latents above stage k say about the image.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import auc, average_precision_score, roc_curve
from torch import Tensor

from biva.bounds import elbo, importance_weighted_bound
from biva.evaluation.likelihood import IMAGES_PER_BATCH, ImageNoise, checked, chunks, latent_width
from biva.models.hierarchical_vae import HierarchicalVAE

Scores = NDArray[np.float64]


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


def scores(bounds: Scores) -> dict[str, Scores]:
    """Anomaly scores, higher is more anomalous.

    Args:
        bounds: L^{>k}, (L + 1, N).

    Returns:
        `L>k` -> -L^{>k} for k = 0 .. L, and `LLR>k` -> L - L^{>k} for k = 1 .. L (Havtorn et al. 2021); each (N,).
    """
    plain = {f"L>{k}": -bound for k, bound in enumerate(bounds)}
    return plain | {f"LLR>{k}": bounds[0] - bound for k, bound in enumerate(bounds) if k > 0}


@dataclass(frozen=True)
class Separation:
    """How well a score tells anomalies from normal images; each a fraction."""

    auroc: float
    """Chance that an anomaly scores higher than a normal image."""
    auprc: float
    """Average precision, anomalies being the positives."""
    fpr80: float
    """Normal images taken for anomalies when 80% of the anomalies are found."""


def separation(normal: Scores, anomalous: Scores) -> Separation:
    """AUROC, AUPRC and FPR80 of one score, (N,) on normal and (M,) on anomalous images."""
    labels = np.concatenate([np.zeros(len(normal)), np.ones(len(anomalous))])
    values = np.concatenate([normal, anomalous])
    false_positives, true_positives, _ = roc_curve(labels, values)
    return Separation(
        auroc=float(auc(false_positives, true_positives)),
        auprc=float(average_precision_score(labels, values)),
        fpr80=float(false_positives[true_positives >= 0.8][0]),
    )


def bootstrap(normal: Scores, anomalous: Scores, *, repeats: int, seed: int) -> dict[str, tuple[float, float]]:
    """Central 95% intervals of the three numbers over resampled images: name -> (low, high)."""
    rng = np.random.default_rng(seed)
    draws = [
        asdict(separation(rng.choice(normal, len(normal)), rng.choice(anomalous, len(anomalous))))
        for _ in range(repeats)
    ]
    quantiles = {name: np.quantile([draw[name] for draw in draws], [0.025, 0.975]) for name in draws[0]}
    return {name: (float(low), float(high)) for name, (low, high) in quantiles.items()}
