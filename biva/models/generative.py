"""The generative ladder p(x, z) that all four models share, and the walk down its stages (paper.md section 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from biva.models.architectures import Architecture, Shape
from biva.models.latents import (
    DiagonalGaussian,
    GaussianHead,
    LatentProjection,
    Noise,
    latent_name,
    with_class,
)
from biva.models.layers import BlockStack, GatedBlock, at_least_float32, conv


@dataclass(frozen=True)
class Latent:
    """A value for one latent group, (B, ...), and the posterior that it was drawn from, if any."""

    value: Tensor
    posterior: DiagonalGaussian | None = None

    def rows(self, index: Tensor) -> Latent:
        """The value and the posterior of the rows with these indices."""
        return Latent(self.value[index], self.posterior and self.posterior.rows(index))


Priors = Mapping[str, DiagonalGaussian]
"""Group ("td", "bu", or "" where a stage has one group) -> p(z_i^group | z_>i)."""

LatentSource = Callable[[int, Priors, Tensor | None], Mapping[str, Latent]]
"""Answers "where do the latents of stage i come from?".

Called once per stage, top (index L-1) to bottom (index 0), with the index, the priors there and the generative state
d_i (None at the top); gives one `Latent` per group.
"""


def from_prior(noise: Noise, temperature: float = 1.0) -> LatentSource:
    """Latents drawn from the prior with standard deviations scaled by `temperature`; 0 gives the prior's mean."""

    def drawn(index: int, group: str, prior: DiagonalGaussian) -> Latent:
        z = prior.sample(noise, f"p({latent_name(index, group)})")
        return Latent(prior.mean + temperature * (z - prior.mean))

    return lambda index, priors, _d: {group: drawn(index, group, prior) for group, prior in priors.items()}


def prior_mean(_stage: int, priors: Priors, _d: Tensor | None) -> Mapping[str, Latent]:
    """A latent source with which every latent is the mean of its prior."""
    return {group: Latent(prior.mean) for group, prior in priors.items()}


def given(noise: Mapping[str, Tensor]) -> LatentSource:
    """A latent source that turns given numbers, a tensor per latent group, into latents: mean + deviation * number.

    Under the prior all these numbers are independent and standard normal, whatever the stage (see `Step.noise`).
    """
    return lambda index, priors, _d: {
        group: Latent(prior.at(noise[latent_name(index, group)])) for group, prior in priors.items()
    }


def posterior_above(k: int, posterior: LatentSource, below: LatentSource) -> LatentSource:
    """`posterior` for the stages above k, `below` for the k lowest; with the prior there, the walk of L^{>k}.

    k = 0 is the posterior everywhere, k = L the other source everywhere (paper.md section 5).
    """
    return lambda index, priors, d: (posterior if index >= k else below)(index, priors, d)


@dataclass(frozen=True)
class Step:
    """One latent group on the walk: its value, (B, ...), its prior there, and the posterior that gave it, if any."""

    value: Tensor
    prior: DiagonalGaussian
    posterior: DiagonalGaussian | None

    def kl(self) -> Tensor:
        """Monte Carlo term log q(z|.) - log p(z|.) at the value, in nats, (B,); only for a value from a posterior."""
        assert self.posterior is not None
        return self.posterior.log_prob(self.value) - self.prior.log_prob(self.value)

    def noise(self) -> Tensor:
        """The numbers that the prior turns into the value, (value - mean) / deviation: (B, ...)."""
        return self.prior.standardise(self.value)


@dataclass(frozen=True)
class Walk:
    """The result of one walk down the ladder."""

    output: Tensor
    """Parameters of p(x | z), (B, channels of the likelihood, H, W)."""
    steps: Mapping[str, Step]
    """The latent groups by name (z1_bu, z1_td, ..., zL), bottom to top."""


class GenerativeStage(nn.Module):
    """Stage i: priors of its latents given d_i, and the blocks that turn its latents into d_(i-1)."""

    def __init__(
        self,
        architecture: Architecture,
        index: int,
        groups: tuple[str, ...],
        skips: list[Shape] | None,
        classes: int = 0,
    ) -> None:
        super().__init__()
        stage, top = architecture.stages[index], index == len(architecture.stages) - 1
        self.groups = groups
        self.latent_shape = architecture.latent_shapes[index]
        self.priors = nn.ModuleDict({} if top else {f"p_{g}": GaussianHead(architecture, index) for g in groups})
        self.projection = LatentProjection(architecture, index, len(groups), classes)
        shape, self.blocks = self.projection.output_shape, BlockStack()
        for j in range(stage.blocks):
            block = GatedBlock(
                architecture,
                shape,
                stage.kernel,
                dropout=architecture.dropout.generative,
                stride=stage.stride if j == 0 else 1,
                auxiliary=skips[min(j, len(skips) - 1)] if skips else None,
                transposed=True,
                shortcut=j > 0,
            )
            self.blocks.append(block)
            shape = block.output_shape

    def prior(self, d: Tensor | None, rows: int, like: Tensor) -> Priors:
        """p(z_i | z_>i) of every group, given d_i; at the top, where d is None, N(0, I) for `rows` rows."""
        if d is None:
            zeros = like.new_zeros((rows, *self.latent_shape))
            return {group: DiagonalGaussian(zeros, zeros) for group in self.groups}
        return {group: self.priors[f"p_{group}"](d) for group in self.groups}


class GenerativeLadder(nn.Module):
    """p(x | z) prod_i p(z_i | z_>i), top-down, with or without skip connections from block j of stage i+1 to stage i.

    Where a stage has more blocks than the one above, its last blocks share that stage's last skip.

    Args:
        architecture: sizes.
        groups: latent groups of every stage below the top, in the order of concatenation; the top has one.
        skips: generative skip connections (all models but LVAE).
        output_channels: parameters of p(x | z) per pixel.
        classes: of a categorical variable y that joins the top latent (paper.md section 5); 0: none.
    """

    def __init__(
        self,
        architecture: Architecture,
        groups: tuple[str, ...],
        *,
        skips: bool,
        output_channels: int,
        classes: int = 0,
    ) -> None:
        super().__init__()
        stages: list[GenerativeStage] = []
        for index in reversed(range(len(architecture.stages))):
            above = stages[-1].blocks.output_shapes if stages and skips else None
            top = not stages
            stages.append(GenerativeStage(architecture, index, ("",) if top else groups, above, classes if top else 0))
        self.stages = nn.ModuleList(reversed(stages))
        self.skips = skips
        self.output = conv(architecture.filters, output_channels, 1)

    @property
    def group_names(self) -> list[str]:
        """Names of all latent groups, bottom to top: z1_bu, z1_td, ..., zL."""
        return [latent_name(i, group) for i, stage in enumerate(self.stages) for group in sorted(stage.groups)]  # type: ignore[arg-type]

    def walk(self, source: LatentSource, rows: int, y: Tensor | None = None) -> Walk:
        """Walk from stage L to stage 1, asking `source` for the latents of every stage.

        With `y` (rows, classes), one-hot, the walk starts from (z_L, y).
        """
        d: Tensor | None = None
        above: list[Tensor] = []
        steps: dict[str, Step] = {}
        like = next(self.parameters())
        for index in reversed(range(len(self.stages))):
            stage: GenerativeStage = self.stages[index]  # type: ignore[assignment]
            priors = stage.prior(d, rows, like)
            latents = source(index, priors, d)
            for group in stage.groups:
                steps[latent_name(index, group)] = Step(latents[group].value, priors[group], latents[group].posterior)
            z = with_class(torch.cat([latents[group].value for group in stage.groups], dim=1), y if d is None else None)
            skips = [nn.functional.elu(h) for h in above[: len(stage.blocks)]] if self.skips else []
            last = skips[-1] if skips else None
            above = stage.blocks(stage.projection(z), skips + [last] * (len(stage.blocks) - len(skips)))
            d = above[-1]
        assert d is not None
        output = at_least_float32(self.output(nn.functional.elu(d)))
        return Walk(output, {name: steps[name] for name in self.group_names})
