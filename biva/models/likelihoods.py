"""p(x | z): Bernoulli for binary images, a mixture of discretised logistics for colour images (paper.md section 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 256
MIXTURES = 10
MINIMUM_LOG_SCALE = -7.0


class Bernoulli:
    """Independent binary pixels; `output` holds their logits, (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        self.parameters_per_pixel = channels

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """sum_d x_d log p_d + (1 - x_d) log(1 - p_d) for x in {0, 1}."""
        return -F.binary_cross_entropy_with_logits(output, x, reduction="none").flatten(1).sum(1)

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Binary images."""
        return torch.bernoulli(torch.sigmoid(output), generator=generator)

    def picture(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The probability of a white pixel."""
        return torch.sigmoid(output)

    def unscale(self, x: Tensor) -> Tensor:
        """The same image, since the model's input is in [0, 1] already."""
        return x


class MixtureOfLogistics:
    """Mixture of 10 discretised logistics over 256 levels, autoregressive over the three channels of a pixel.

    x is in [-1, 1], level i at 2 i / 255 - 1. Per pixel and mixture component: a logit, and per channel a mean, a
    log-scale (at least -7) and a coefficient; the means of channel 2 and 3 are shifted by tanh(coefficient) times the
    earlier channels of x. `output` is (B, 100, H, W).
    """

    def __init__(self, channels: int) -> None:
        if channels != 3:
            raise ValueError(f"the mixture of logistics is defined for 3 channels, got {channels}")
        self.parameters_per_pixel = MIXTURES * (1 + 3 * channels)

    @staticmethod
    def _split(output: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits (B, M, H, W); means, log-scales, coefficients (B, 3, M, H, W)."""
        logits, rest = output.split([MIXTURES, 9 * MIXTURES], dim=1)
        means, log_scales, coefficients = rest.unflatten(1, (3, 3, MIXTURES)).unbind(2)
        return logits, means, log_scales.clamp(min=MINIMUM_LOG_SCALE), torch.tanh(coefficients)

    @staticmethod
    def _shift(means: Tensor, coefficients: Tensor, x: Tensor) -> Tensor:
        """Means given the earlier channels of x (B, 3, 1, H, W) or of the same shape as the means."""
        red, green, _ = x.unbind(1)
        shifts = (
            torch.zeros_like(means[:, 0]),
            coefficients[:, 0] * red,
            coefficients[:, 1] * red + coefficients[:, 2] * green,
        )
        return means + torch.stack(shifts, dim=1)

    def log_prob(self, output: Tensor, x: Tensor) -> Tensor:
        """log of the probability of each pixel's bin of width 2/255; the first and last bin reach to infinity."""
        logits, means, log_scales, coefficients = self._split(output)
        x = x.unsqueeze(2)
        centred = x - self._shift(means, coefficients, x)
        half, precision = 1 / (LEVELS - 1), torch.exp(-log_scales)
        upper, lower = precision * (centred + half), precision * (centred - half)
        # sigma(u) - sigma(l) = sigma(u) sigma(-l) (1 - e^(l-u)), which loses no digits however small it is
        below, above = F.logsigmoid(upper), F.logsigmoid(-lower)
        inside = below + above + torch.log(-torch.expm1(-2 * half * precision))
        bins = torch.where(x < -0.999, below, torch.where(x > 0.999, above, inside))
        pixels = torch.logsumexp(bins.sum(1) + F.log_softmax(logits, dim=1), dim=1)
        return pixels.flatten(1).sum(1)

    def sample(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Colour images on the 256 levels: a component per pixel, then channel after channel, given earlier levels."""
        logits, means, log_scales, coefficients = self._split(output)
        weights = torch.softmax(logits, dim=1).movedim(1, -1)
        component = torch.multinomial(weights.flatten(0, -2), 1, generator=generator).view(weights.shape[:-1])
        index = component[:, None, None].expand(-1, 3, 1, -1, -1)
        mean, log_scale, coefficient = (t.gather(2, index).squeeze(2) for t in (means, log_scales, coefficients))
        uniform = torch.rand(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        free = mean + torch.exp(log_scale) * torch.logit(uniform)
        red = _nearest_level(free[:, 0])
        green = _nearest_level(free[:, 1] + coefficient[:, 0] * red)
        blue = _nearest_level(free[:, 2] + coefficient[:, 1] * red + coefficient[:, 2] * green)
        return torch.stack([red, green, blue], dim=1)

    def picture(self, output: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A sample, scaled to [0, 1]."""
        return self.unscale(self.sample(output, generator))

    def unscale(self, x: Tensor) -> Tensor:
        """An image scaled from [-1, 1] to [0, 1]."""
        return (x + 1) / 2


def _nearest_level(x: Tensor) -> Tensor:
    """The value of the level whose bin x lies in."""
    half = (LEVELS - 1) / 2
    return torch.round((x.clamp(-1, 1) + 1) * half) / half - 1


Likelihood = Bernoulli | MixtureOfLogistics
"""p(x | z) by the parameters that the models compute; log p(x | z) is in nats, summed over pixels and channels: (B,).

A sample is in the space of the model's input; what is shown, and what `unscale` makes of an input, is in [0, 1]."""

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "mixture_of_logistics": MixtureOfLogistics,
}
