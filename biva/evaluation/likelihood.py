"""Importance sampling: the log-weights of K posterior samples of every image, and what is read off them.

What depends on x alone is computed once per image; the samples fill the batch dimension in chunks that fit a memory
budget (`biva.evaluation.memory`). The noise of an image is a stream of its own, so neither the chunk size, nor the
other images, nor the device changes which samples an image gets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from biva.errors import UserError, some_of
from biva.evaluation.memory import halving_rows
from biva.models.architectures import Architecture
from biva.models.generative import GenerativeLadder
from biva.models.hierarchical_vae import HierarchicalVAE, Terms

IMAGES_PER_BATCH = 64
SHOWN = 10
"""Images that a message names."""
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


def checked(log_weights: Tensor, first: int = 0) -> Tensor:
    """Log-weights (K, N) of the images from number `first` on, as they are; -inf, a weight of zero, counts in the mean.

    Raises:
        UserError: one is NaN or +inf; the message names the images.
    """
    broken = (log_weights.isnan() | (log_weights == math.inf)).any(dim=0).nonzero().flatten() + first
    if len(broken):
        images = some_of([*map(str, broken.tolist())], SHOWN)
        raise UserError(
            f"Importance weights are NaN or infinite at images {images} (counted from 0). No bound can be given, "
            "since none may be left out of its mean. The model's weights have diverged or are damaged: train it again, "
            "with a lower training.learning_rate."
        )
    return log_weights


def zero_weights(log_weights: Tensor) -> dict[str, int]:
    """How many importance weights are zero, and of how many images: log-weights (K, N) of -inf."""
    zero = log_weights == -math.inf
    return {"samples": int(zero.sum()), "images": int(zero.any(dim=0).sum())}


def count_active(samples: ImportanceSamples) -> dict[str, dict[str, int]]:
    """Latent group -> its active units, and all its units."""
    return {name: {"active": int(units.sum()), "total": units.numel()} for name, units in samples.active.items()}


def rows_within(budget_mb: int, architecture: Architecture) -> int:
    """How many rows may be walked at once, estimated from the architecture alone: where there is one sample per image.

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

    def __call__(self, _name: str, shape: torch.Size) -> Tensor:
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


def posterior_moments(means: Tensor) -> Tensor:
    """Two estimates of the posterior means of a batch's images, (2, B, units) -> sums over images, (3, units).

    The sums are of the first, of the second, and of their product; those of several batches add up.
    """
    first, second = means
    return torch.stack([first.sum(0), second.sum(0), (first * second).sum(0)])


def active_units(moments: Tensor, images: int) -> Tensor:
    """Units whose posterior mean varies over the data by more than 0.01 (Burda et al.; paper.md section 5): bool each.

    Below the first stochastic layer the posterior mean E[z | x] has to be estimated by an average over ancestral
    samples, whose own noise would count as variance. Even and odd samples give two estimates with independent noise;
    their covariance, from `posterior_moments`, is unbiased.
    """
    first, second, product = moments
    covariance: Tensor = product / images - first * second / images**2
    return covariance > ACTIVE_VARIANCE


Part = dict[str, Tensor]
"""What a batch of B images gives, float64 on the CPU: `log_weights` (k, B), `log_likelihood` (B,), `kl` (B, G), and per
latent group, if k > 1, `moments/GROUP` (3, units)."""

Keeper = Callable[[range, Callable[[], Part]], Part]
"""Gives the part of these images, by calling the function unless it has kept the part from an earlier attempt."""


def batches(images: int, rows: int) -> list[range]:
    """The images of every part."""
    size = min(IMAGES_PER_BATCH, rows)
    return [range(start, min(start + size, images)) for start in range(0, images, size)]


def draw_parts(
    model: HierarchicalVAE,
    x: Tensor,
    k: int,
    *,
    seed: int,
    rows: int,
    device: torch.device,
    keeper: Keeper = lambda _images, compute: compute(),
    share: slice = slice(None),
) -> list[Part]:
    """Draw k posterior samples of every image, each image exactly once.

    Args:
        model: in evaluation mode, on `device`.
        x: model input (N, C, H, W).
        k: samples per image.
        seed: of the noise.
        rows: samples walked at once; changes nothing but memory and time.
        device: where to compute.
        keeper: of the parts.
        share: which of all parts to draw.

    Raises:
        UserError: a weight is NaN or infinite.
    """
    parts = []
    for images in batches(len(x), rows)[share]:
        compute = partial(halving_rows, partial(_part, model, x, images, k, seed, device), rows)
        parts.append(keeper(images, compute))
    return parts


def importance_sample(
    model: HierarchicalVAE, x: Tensor, k: int, *, seed: int, rows: int, device: torch.device
) -> ImportanceSamples:
    """`draw_parts`, all of them joined."""
    return joined(draw_parts(model, x, k, seed=seed, rows=rows, device=device), model.group_names)


def joined(parts: list[Part], group_names: list[str]) -> ImportanceSamples:
    """What all parts are together, given in the order of their images."""
    whole = _together(parts)
    return ImportanceSamples(
        log_weights=whole["log_weights"],
        log_likelihood=whole["log_likelihood"],
        kl=dict(zip(group_names, whole["kl"].unbind(1), strict=True)),
        active={
            name: active_units(whole[f"moments/{name}"], len(whole["kl"]))
            for name in group_names
            if f"moments/{name}" in whole
        },
    )


def _together(parts: list[Part]) -> Part:
    """One part of the images of all these."""
    whole: Part = {"log_weights": torch.cat([part["log_weights"] for part in parts], dim=1)}
    whole |= {name: torch.cat([part[name] for part in parts]) for name in ("log_likelihood", "kl")}
    sums = [name for name in parts[0] if name not in whole]
    return whole | {name: torch.stack([part[name] for part in parts]).cumsum(0)[-1] for name in sums}


@torch.inference_mode()
def _part(model: HierarchicalVAE, x: Tensor, images: range, k: int, seed: int, device: torch.device, rows: int) -> Part:
    """The samples of one batch of images, in chunks of at most `rows` rows."""
    if rows < len(images):
        pieces = [images[start : start + rows] for start in range(0, len(images), rows)]
        return _together([_part(model, x, piece, k, seed, device, rows) for piece in pieces])
    batch = x[images.start : images.stop].to(device)
    noise = ImageNoise(seed, images, latent_width(model.generative), device)
    features = model.inference.encode(batch)
    log_weights, means, done = [], dict[str, Tensor](), 0
    log_likelihood, kl = torch.zeros(len(batch), dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for chunk in chunks(k, max(1, rows // len(batch))):
        noise.draw(chunk)
        terms = model.terms(batch, features, chunk, noise)
        likelihoods = terms.log_likelihood.double().view(chunk, -1)
        kls = terms.kl.double().view(chunk, len(batch), -1)
        log_weights.append((likelihoods - kls.sum(2)).cpu())
        log_likelihood = log_likelihood + likelihoods.sum(0).cpu() / k
        kl = kl + kls.sum(0).cpu() / k
        if k > 1:
            _add_posterior_means(means, terms, done, chunk, k)
        done += chunk
    moments = {f"moments/{name}": posterior_moments(of_group).cpu() for name, of_group in means.items()}
    weights = checked(torch.cat(log_weights), images.start)  # before it is kept
    return {"log_weights": weights, "log_likelihood": log_likelihood, "kl": kl, **moments}


def _add_posterior_means(means: dict[str, Tensor], terms: Terms, first: int, chunk: int, k: int) -> None:
    """Add this chunk to the averages of the posterior means over even and over odd samples: group -> (2, B, units)."""
    for name, step in terms.walk.steps.items():
        assert step.posterior is not None
        samples = step.posterior.mean.double().unflatten(0, (chunk, -1)).flatten(2)
        halves = [samples[(parity - first) % 2 :: 2].sum(0) / ((k + 1 - parity) // 2) for parity in (0, 1)]
        means[name] = means[name] + torch.stack(halves) if name in means else torch.stack(halves)
