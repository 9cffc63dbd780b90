"""Importance sampling: the log-weights of K posterior samples of every image, and what is read off them.

What depends on x alone is computed once per image; the samples fill the batch dimension in chunks that fit a memory
budget (`biva.evaluation.memory`). Which samples an image gets depends on neither (`biva.evaluation.noise`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from biva.errors import UserError, some_of
from biva.evaluation.memory import halving_rows
from biva.evaluation.noise import IMAGES_PER_SEED, sample_noise
from biva.models.active_units import active_units, posterior_moments
from biva.models.hierarchical_vae import HierarchicalVAE, Terms

IMAGES_PER_BATCH = IMAGES_PER_SEED
SHOWN = 10
"""Images that a message names."""

Batch = dict[str, Tensor]
"""What the samples of B images give, float64 on the CPU: `log_weights` (k, B), `log_likelihood` (B,), `kl` (B, G), and
per latent group, if k > 1, `moments/GROUP` (3, units)."""

Keeper = Callable[[range, Callable[[], Batch]], Batch]
"""Gives the batch of these images, by calling the function unless it has kept the batch from an earlier attempt."""


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

    @classmethod
    def of(cls, batches: list[Batch], group_names: list[str]) -> ImportanceSamples:
        """All batches together, in the order of their images."""
        whole = _together(batches)
        return cls(
            log_weights=whole["log_weights"],
            log_likelihood=whole["log_likelihood"],
            kl=dict(zip(group_names, whole["kl"].unbind(1), strict=True)),
            active={
                name: active_units(whole[f"moments/{name}"], len(whole["kl"]))
                for name in group_names
                if f"moments/{name}" in whole
            },
        )


def _together(batches: list[Batch]) -> Batch:
    """One batch of the images of all these."""
    whole: Batch = {"log_weights": torch.cat([batch["log_weights"] for batch in batches], dim=1)}
    whole |= {name: torch.cat([batch[name] for batch in batches]) for name in ("log_likelihood", "kl")}
    sums = [name for name in batches[0] if name not in whole]
    return whole | {name: torch.stack([batch[name] for batch in batches]).cumsum(0)[-1] for name in sums}


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


def chunks(k: int, size: int) -> Iterator[tuple[int, int]]:
    """The first sample and the number of samples of every piece into which k samples are cut, none above `size`."""
    for first in range(0, k, size):
        yield first, min(size, k - first)


def batches(images: range, size: int) -> list[range]:
    """The images, cut into pieces of at most `size`."""
    return [images[start : start + size] for start in range(0, len(images), size)]


def draw_batches(
    model: HierarchicalVAE,
    x: Tensor,
    k: int,
    *,
    seed: int,
    rows: int,
    device: torch.device,
    keeper: Keeper = lambda _images, compute: compute(),
    share: slice = slice(None),
) -> list[Batch]:
    """Draw k posterior samples of every image x (N, C, H, W), each image exactly once.

    `model` is in evaluation mode, on `device`; `rows`, samples at once, changes nothing but memory and time; `keeper`
    keeps the batches, and `share` says which of them to draw.

    Raises:
        UserError: a weight is NaN or infinite.
    """
    return [
        keeper(images, partial(halving_rows, partial(_draw, model, x, images, k, seed, device), rows))
        for images in batches(range(len(x)), IMAGES_PER_BATCH)[share]
    ]


def importance_sample(
    model: HierarchicalVAE, x: Tensor, k: int, *, seed: int, rows: int, device: torch.device
) -> ImportanceSamples:
    """`draw_batches`, all of them together."""
    return ImportanceSamples.of(draw_batches(model, x, k, seed=seed, rows=rows, device=device), model.group_names)


@torch.inference_mode()
def _draw(
    model: HierarchicalVAE, x: Tensor, images: range, k: int, seed: int, device: torch.device, rows: int
) -> Batch:
    """The samples of one batch of images, in chunks of at most `rows` rows."""
    if rows < len(images):
        return _together([_draw(model, x, few, k, seed, device, rows) for few in batches(images, rows)])
    batch = x[images.start : images.stop].to(device)
    features = model.inference.encode(batch)
    log_weights, means = [], dict[str, Tensor]()
    log_likelihood, kl = torch.zeros(len(batch), dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for first, chunk in chunks(k, rows // len(batch)):
        terms = model.terms(batch, features, chunk, sample_noise(seed, images, first, device))
        likelihoods = terms.log_likelihood.double().view(chunk, -1)
        kls = terms.kl.double().view(chunk, len(batch), -1)
        log_weights.append((likelihoods - kls.sum(2)).cpu())
        log_likelihood = log_likelihood + likelihoods.sum(0).cpu() / k
        kl = kl + kls.sum(0).cpu() / k
        if k > 1:
            _add_posterior_means(means, terms, first, chunk, k)
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
