"""Diagonal Gaussian latents: the distribution, the heads that parametrise it, the way back to a feature map."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biva.models.architectures import Architecture, Shape
from biva.models.layers import at_least_float32, conv, dense

Noise = Callable[[str, torch.Size], Tensor]
"""Gives the standard normal numbers of a draw with this name, in the asked shape.

The name is `q(GROUP)` or `p(GROUP)`, the distribution and the latent group, such as `q(z1_bu)` or `p(z3)`. No two draws
of one pass have the same name, so that noise which goes by names is the same whatever else is drawn, and when.
"""


def latent_name(index: int, group: str) -> str:
    """Name of a latent group of the stage with this index, counted from 0 at the bottom: z1_bu, z1_td, ..., zL."""
    return f"z{index + 1}_{group}" if group else f"z{index + 1}"


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(mean, diag(exp(log_variance))) over tensors of shape (B, ...)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Noise, name: str) -> Tensor:
        """One reparametrised draw per row, (B, ...), from the noise of this name."""
        return self.at(noise(name, self.mean.shape))

    def at(self, standard: Tensor) -> Tensor:
        """The value that standard normal numbers stand for: mean + deviation * number, (B, ...)."""
        return self.mean + torch.exp(0.5 * self.log_variance) * standard

    def standardise(self, z: Tensor) -> Tensor:
        """The numbers that stand for z, the inverse of `at`: (z - mean) / deviation, (B, ...)."""
        return (z - self.mean) * torch.exp(-0.5 * self.log_variance)

    def log_prob(self, z: Tensor) -> Tensor:
        """log N(z; mean, variance) in nats, summed over all but the first axis: (B,)."""
        squares = (z - self.mean) ** 2 * torch.exp(-self.log_variance)
        return -0.5 * (squares + self.log_variance + math.log(2 * math.pi)).flatten(1).sum(1)

    def repeat(self, k: int) -> DiagonalGaussian:
        """The same distribution for k samples of every row, (k*B, ...)."""
        return DiagonalGaussian(repeat(self.mean, k), repeat(self.log_variance, k))

    def rows(self, index: Tensor) -> DiagonalGaussian:
        """The distributions of the rows with these indices, (R, ...)."""
        return DiagonalGaussian(self.mean[index], self.log_variance[index])


def repeat(x: Tensor, k: int) -> Tensor:
    """All rows k times, (B, ...) -> (k*B, ...): row i*B + b of the result is row b."""
    return x if k == 1 else x.repeat(k, *[1] * (x.dim() - 1))


def with_class(h: Tensor, y: Tensor | None) -> Tensor:
    """h (B, C, ...) with a one-hot class (B, Y) behind its channels at every position; without a class, h as it is."""
    if y is None:
        return h
    return torch.cat([h, y.view(*y.shape, *[1] * (h.dim() - 2)).expand(-1, -1, *h.shape[2:])], dim=1)


class GaussianHead(nn.Module):
    """Feature map of a stage -> Gaussian over one of its latent groups (paper.md section 2, latent heads).

    The second half of the outputs goes through softplus and is read as the log-variance, so sigma >= 1 everywhere; with
    `log_variance: linear` it is the log-variance itself. A dense latent sees the whole map; a convolutional one has a
    kernel as large as the map.
    """

    def __init__(self, architecture: Architecture, index: int) -> None:
        super().__init__()
        (channels, size, _), latent = architecture.stage_shapes[index], architecture.stages[index].latent
        self.is_dense, self.is_linear = architecture.latents == "dense", architecture.log_variance == "linear"
        if self.is_dense:
            self.layer = dense(channels * size * size, 2 * latent)
        else:
            self.layer = conv(channels, 2 * latent, size)

    def forward(self, h: Tensor) -> DiagonalGaussian:
        h = F.elu(h)
        mean, raw = at_least_float32(self.layer(h.flatten(1) if self.is_dense else h)).chunk(2, dim=1)
        return DiagonalGaussian(mean, raw if self.is_linear else F.softplus(raw))


class LatentProjection(nn.Module):
    """From the joined latent groups of a stage back to a feature map: a dense layer for vectors, nothing for maps.

    With `classes` a one-hot class stands behind the groups.
    """

    def __init__(self, architecture: Architecture, stage: int, groups: int, classes: int = 0) -> None:
        super().__init__()
        self.layer: nn.Module | None = None
        channels = groups * architecture.stages[stage].latent + classes
        shape = architecture.stage_shapes[stage]
        if architecture.latents == "dense":
            self.layer = dense(channels, math.prod(shape))
            self.output_shape: Shape = shape
        else:
            self.output_shape = (channels, *shape[1:])

    def forward(self, z: Tensor) -> Tensor:
        """(B, groups*N + classes) or (B, groups*N + classes, H, W) -> (B, *output_shape)."""
        return z if self.layer is None else self.layer(z).view(-1, *self.output_shape)
