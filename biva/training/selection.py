"""What training measures of the averaged weights, with the same noise every time: bound, active units, samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from biva.config import RunConfig
from biva.data.datasets import Dataset, Split
from biva.data.inputs import SELECTION_SPLIT, fixed_input, part
from biva.errors import UserError
from biva.models.active_units import active_units, counted, posterior_moments
from biva.models.latents import Noise
from biva.seeds import derive_seed
from biva.training.objectives import bound_terms

ACTIVITY_IMAGES = 500
SAMPLES = 16


@dataclass(frozen=True)
class Selection:
    """The drawn part of the selection split that training is measured on."""

    split: Split
    in_split: int
    """Images of the whole split."""
    images: Tensor
    """Model input (n, C, H, W) that the bound is computed on."""
    activity: Tensor
    """Model input (m, C, H, W), of these images, that active units are counted on."""


def selection_of(run: RunConfig, dataset: Dataset) -> Selection | None:
    """What selects the weights of a run; None for a supervised network, which has nothing without labels to go by."""
    if run.labels is not None and run.labels.weight is None:
        return None
    split = SELECTION_SPLIT[run.training.protocol]
    x = fixed_input(dataset, split)
    images = x[part(dataset.name, split, len(x), run.training.selection_images)]
    activity = x[part(dataset.name, split, len(x), min(ACTIVITY_IMAGES, len(images)))]
    return Selection(split, len(x), images, activity)


@torch.inference_mode()
def mean_bound(
    run: RunConfig, model: Any, x: Tensor, device: torch.device
) -> tuple[dict[str, float], dict[str, float]]:
    """The bound on log p(x) at one sample per image x (N, C, H, W), and its terms: means over images, nats.

    `model` is in evaluation mode, on `device`.

    Returns:
        `elbo`, `log_likelihood` and `kl`; and the KL of every latent group.

    Raises:
        UserError: the bound is NaN or +infinite.
    """
    noise, log_likelihoods, kls = _noise(run, "selection", device), [], []
    for batch in x.split(run.training.batch_size):
        log_likelihood, kl = bound_terms(run, model, batch.to(device), noise)
        log_likelihoods.append(log_likelihood.double())
        kls.append(torch.stack([*kl.values()], dim=1).double())
    means = dict(zip(kl, torch.cat(kls).mean(0).tolist(), strict=True))
    terms = {"log_likelihood": torch.cat(log_likelihoods).mean().item(), "kl": sum(means.values())}
    elbo = terms["log_likelihood"] - terms["kl"]
    if not elbo < math.inf:
        raise UserError(
            f"{run.name}: the ELBO of the averaged weights on selection images is {elbo}: training has diverged. "
            "Lower training.learning_rate and train anew."
        )
    return {"elbo": elbo, **terms}, means


@torch.inference_mode()
def count_active(run: RunConfig, model: Any, x: Tensor, device: torch.device) -> dict[str, dict[str, int]]:
    """Latent group -> its active units and all its units, from two samples of every image x (N, C, H, W).

    Nothing for a run with labels. `model` is in evaluation mode, on `device`.
    """
    if run.labels is not None:
        return {}
    noise, moments = _noise(run, "activity", device), dict[str, Tensor]()
    for batch in x.to(device).split(run.training.batch_size):
        steps = model.terms(batch, model.inference.encode(batch), 2, noise).walk.steps
        for name, step in steps.items():
            means = step.posterior.mean.double().unflatten(0, (2, -1)).flatten(2)
            moments[name] = moments.get(name, 0) + posterior_moments(means)
    return counted({name: active_units(sums, len(x)) for name, sums in moments.items()})


@torch.inference_mode()
def samples(run: RunConfig, model: Any, device: torch.device) -> Tensor | None:
    """Images from the prior, (16, C, H, W) uint8, always of the same noise; None for a run with labels.

    `model` is in evaluation mode, on `device`.
    """
    if run.labels is not None:
        return None
    generator = _generator(run, "pixels of samples during training", device)
    output = model.sample(SAMPLES, _noise(run, "samples during training", device))
    image: Tensor = model.likelihood.picture(output, generator)
    return (255 * image.float()).round().byte().cpu()


def _noise(run: RunConfig, purpose: str, device: torch.device) -> Noise:
    generator = _generator(run, purpose, device)
    return lambda _name, shape: torch.randn(shape, generator=generator, device=device)


def _generator(run: RunConfig, purpose: str, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(derive_seed(run.seed, purpose))
