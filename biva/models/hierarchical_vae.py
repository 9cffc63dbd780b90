"""The whole model: the generative ladder, a likelihood, and one of the three inference paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from biva.models.architectures import Architecture, ModelName
from biva.models.generative import GenerativeLadder, Walk, from_prior, posterior_above, prior_mean
from biva.models.inference import BidirectionalInference, BottomUpInference, InferencePath, TopDownInference
from biva.models.latents import Noise, repeat
from biva.models.likelihoods import LIKELIHOODS, Likelihood


@dataclass(frozen=True)
class Terms:
    """The terms of the bound at one posterior sample per row, in nats."""

    log_likelihood: Tensor
    """log p(x | z), (B,)."""
    kl: Tensor
    """log q - log p at the sample of every latent group drawn from its posterior, (B, G), groups bottom to top."""
    walk: Walk

    @classmethod
    def of(cls, walk: Walk, likelihood: Likelihood, x: Tensor) -> Terms:
        """The terms of a walk whose rows stand for the images x (B, C, H, W)."""
        log_likelihood = likelihood.log_prob(walk.output, x)
        kls = [step.kl() for step in walk.steps.values() if step.posterior is not None]
        kl = torch.stack(kls, dim=1) if kls else log_likelihood.new_zeros(len(log_likelihood), 0)
        return cls(log_likelihood, kl, walk)


_PATHS: dict[ModelName, Callable[[Architecture], InferencePath]] = {
    "vae": BottomUpInference,
    "lvae": TopDownInference,
    "lvae_plus": TopDownInference,
    "biva": BidirectionalInference,
}


class HierarchicalVAE(nn.Module):
    """VAE, LVAE, LVAE+ or BIVA of one architecture.

    Args:
        architecture: sizes and choices.
        model: `vae`, `lvae`, `lvae_plus` or `biva`; LVAE alone has no generative skip connections.
    """

    def __init__(self, architecture: Architecture, model: ModelName) -> None:
        super().__init__()
        self.likelihood: Likelihood = LIKELIHOODS[architecture.likelihood](architecture.input_shape[0])
        self.inference = _PATHS[model](architecture)
        self.generative = GenerativeLadder(
            architecture,
            self.inference.groups,
            skips=model != "lvae",
            output_channels=self.likelihood.parameters_per_pixel,
        )

    @property
    def group_names(self) -> list[str]:
        """Names of the latent groups, bottom to top, in the order of `Terms.kl`."""
        return self.generative.group_names

    def forward(self, x: Tensor, noise: Noise) -> Terms:
        """The terms of the ELBO at one posterior sample per image x (B, C, H, W)."""
        return self.terms(x, self.inference.encode(x), 1, noise)

    def terms(self, x: Tensor, features: Any, k: int, noise: Noise) -> Terms:
        """The terms of the ELBO at k samples per image x (B, C, H, W): k*B rows, sample-major.

        `features` is `inference.encode(x)`; `noise` gives the numbers of every draw, for all rows.
        """
        walk = self.generative.walk(self.inference.posterior(features, k, noise), rows=k * len(x))
        return Terms.of(walk, self.likelihood, repeat(x, k))

    def terms_above(self, x: Tensor, features: Any, k: int, noise: Noise, *, mode: bool = False) -> Iterator[Terms]:
        """The terms of L^{>0}, ..., L^{>L}, as `terms` gives those of the ELBO, which is L^{>0}.

        In those of L^{>i}, stages above i are drawn from the posterior, stage i and those below from the prior
        (paper.md section 5); or, with `mode`, stage i and those below are the prior's mode, which is its mean, as in
        Havtorn et al. (2021). All of them share the samples of the way up.
        """
        posterior, below = self.inference.posterior(features, k, noise), prior_mean if mode else from_prior(noise)
        for i in range(len(self.generative.stages) + 1):
            walk = self.generative.walk(posterior_above(i, posterior, below), rows=k * len(x))
            yield Terms.of(walk, self.likelihood, repeat(x, k))

    def sample(self, rows: int, noise: Noise, temperature: float = 1.0) -> Tensor:
        """Parameters of p(x | z) for z drawn from the prior at a temperature: (rows, channels, H, W)."""
        return self.generative.walk(from_prior(noise, temperature), rows).output


def count_parameters(model: nn.Module) -> int:
    """The number of trainable scalars."""
    return sum(parameter.numel() for parameter in model.parameters())
