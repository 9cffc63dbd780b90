"""Importance sampling: the log-weights of K posterior samples of every image, and what is read off them.

What depends on x alone is computed once per image; the samples fill the batch dimension in chunks that fit a memory
budget. The noise of an image is a stream of its own, so neither the chunk size, nor the other images, nor the device
changes which samples an image gets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from biva.data.datasets import Dataset, Split
from biva.data.preprocessing import model_input
from biva.models.architectures import Architecture
from biva.models.generative import GenerativeLadder
from biva.models.hierarchical_vae import HierarchicalVAE, Terms
from biva.seeds import derive_seed

IMAGES_PER_BATCH = 64
ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True)
class ImportanceSamples:
    """K posterior samples of N images, summarised."""

    log_weights: Tensor
    """log p(x, z) - log q(z | x), (K, N) float64, nats."""
    log_likelihood: Tensor
    """log p(x | z), mean over the samples, (N,) float64, nats."""
    kl: dict[str, Tensor]
    """Latent group -> log q - log p, mean over the samples, (N,) float64, nats."""
    active: dict[str, Tensor]
    """Latent group -> whether each of its units is active, flat, bool; empty when K < 2."""


def count_active(samples: ImportanceSamples) -> dict[str, dict[str, int]]:
    """Latent group -> its active units, and all its units."""
    return {name: {"active": int(units.sum()), "total": units.numel()} for name, units in samples.active.items()}


def fixed_input(dataset: Dataset, split: Split) -> Tensor:
    """Model input for a split, (N, C, H, W): dynamic binarisation is drawn once, the same for every run and seed."""
    generator = torch.Generator().manual_seed(derive_seed("fixed binarisation", dataset.name, split))
    return model_input(dataset.split(split), dataset.levels, dataset.binarisation, generator)


def rows_within(budget_mb: int, architecture: Architecture) -> int:
    """How many samples may be walked at once.

    Counts what is alive at the widest moment of a walk: four maps per stage (both inference paths, the skips) and
    eight at full resolution (the gated block next to the data), in float32.
    """
    stages = sum(4 * math.prod(shape) for shape in architecture.stage_shapes)
    full = 8 * architecture.filters * math.prod(architecture.input_shape[1:])
    return max(1, budget_mb * 2**20 // (4 * (stages + full)))


class ImageNoise:
    """Standard normal numbers for the samples of a batch of images, one independent Philox stream per image."""

    def __init__(self, seed: int, images: range, width: int, device: torch.device) -> None:
        """`width`: numbers that one sample of one image takes, over all its latents."""
        self.streams = [np.random.Generator(np.random.Philox(key=[seed, image])) for image in images]
        self.width, self.device = width, device
        self.block, self.used = torch.empty(0), 0

    def draw(self, k: int) -> None:
        """Fetch the numbers of the next k samples of every image."""
        numbers = [stream.standard_normal((k, self.width), dtype=np.float32) for stream in self.streams]
        self.block = torch.from_numpy(np.stack(numbers, axis=1)).flatten(0, 1).to(self.device)
        self.used = 0

    def __call__(self, shape: torch.Size) -> Tensor:
        """The next latent's numbers for the k*B rows, sample-major."""
        size = math.prod(shape[1:])
        self.used += size
        return self.block[:, self.used - size : self.used].reshape(shape)


def latent_width(generative: GenerativeLadder) -> int:
    """Scalars in all latents of one sample."""
    return sum(math.prod(stage.latent_shape) * len(stage.groups) for stage in generative.stages)  # type: ignore[arg-type, misc]


def chunks(k: int, size: int) -> Iterator[int]:
    """Sizes of the pieces into which k samples are cut, none above `size`."""
    for start in range(0, k, size):
        yield min(size, k - start)


class _Activity:
    """Running covariance over images of two independent estimates of each unit's posterior mean.

    Active units are those whose posterior mean varies over the data by more than 0.01 (Burda et al.; paper.md section
    5). Below the first stochastic layer the posterior mean E[z | x] has to be estimated by an average over ancestral
    samples, whose own noise would count as variance. Even and odd samples give two estimates with independent noise;
    their covariance is unbiased.
    """

    def __init__(self) -> None:
        self.images = 0
        self.moments: dict[str, Tensor] = {}

    def add(self, means: dict[str, Tensor], images: int) -> None:
        """`means`: group -> (2, B, units), the estimates from even and odd samples."""
        self.images += images
        for name, (even, odd) in means.items():
            moments = torch.stack([even.sum(0), odd.sum(0), (even * odd).sum(0)])
            self.moments[name] = self.moments.get(name, torch.zeros_like(moments)) + moments

    def active(self) -> dict[str, Tensor]:
        """Group -> bool per unit."""
        return {
            name: (product / self.images - even * odd / self.images**2 > ACTIVE_VARIANCE).cpu()
            for name, (even, odd, product) in self.moments.items()
        }


@torch.inference_mode()
def importance_sample(
    model: HierarchicalVAE, x: Tensor, k: int, *, seed: int, rows: int, device: torch.device
) -> ImportanceSamples:
    """Draw k posterior samples of every image, each image exactly once.

    Args:
        model: in evaluation mode, on `device`.
        x: model input (N, C, H, W).
        k: samples per image.
        seed: of the noise.
        rows: samples walked at once; changes nothing but memory and time.
        device: where to compute.
    """
    n, names = len(x), model.group_names
    per_batch = min(IMAGES_PER_BATCH, rows)
    log_weights, log_likelihood = torch.empty(k, n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    kl, activity = torch.zeros(n, len(names), dtype=torch.float64), _Activity()
    for start in range(0, n, per_batch):
        batch = x[start : start + per_batch].to(device)
        images = range(start, start + len(batch))
        noise = ImageNoise(seed, images, latent_width(model.generative), device)
        features = model.inference.encode(batch)
        done = 0
        means: dict[str, Tensor] = {}
        for chunk in chunks(k, max(1, rows // len(batch))):
            noise.draw(chunk)
            terms = model.terms(batch, features, chunk, noise)
            likelihoods = terms.log_likelihood.double().view(chunk, -1)
            kls = terms.kl.double().view(chunk, len(batch), -1)
            log_weights[done : done + chunk, images.start : images.stop] = (likelihoods - kls.sum(2)).cpu()
            log_likelihood[images.start : images.stop] += likelihoods.sum(0).cpu() / k
            kl[images.start : images.stop] += kls.sum(0).cpu() / k
            if k > 1:
                _add_posterior_means(means, terms, done, chunk, k)
            done += chunk
        activity.add(means, len(batch))
    return ImportanceSamples(
        log_weights, log_likelihood, dict(zip(names, kl.unbind(1), strict=True)), activity.active()
    )


def _add_posterior_means(means: dict[str, Tensor], terms: Terms, first: int, chunk: int, k: int) -> None:
    """Add this chunk to the averages of the posterior means over even and over odd samples: group -> (2, B, units)."""
    for name, step in terms.walk.steps.items():
        assert step.posterior is not None
        samples = step.posterior.mean.double().unflatten(0, (chunk, -1)).flatten(2)
        halves = [samples[(parity - first) % 2 :: 2].sum(0) / ((k + 1 - parity) // 2) for parity in (0, 1)]
        means[name] = means[name] + torch.stack(halves) if name in means else torch.stack(halves)
