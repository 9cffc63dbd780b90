"""Tiny models for tests: a few parameters, every kind of layer."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
import torch
from torch import nn

from biva.models.architectures import Architecture, Dropout, ModelName, Stage
from biva.models.hierarchical_vae import HierarchicalVAE

MODELS: tuple[ModelName, ...] = ("vae", "lvae", "lvae_plus", "biva")


def tiny_architecture(
    *, latents: str = "dense", likelihood: str = "bernoulli", latent: int = 1, stages: int = 2
) -> Architecture:
    """Stages over 4x4 images, 4 -> 2 -> 2, or over 4x4 colour images for the mixture of logistics."""
    return Architecture(
        description="tiny",
        input_shape=(3 if likelihood == "mixture_of_logistics" else 1, 4, 4),
        likelihood=likelihood,
        latents=latents,
        filters=4,
        dropout=Dropout(inference=0.0, generative=0.0),
        stages=tuple(Stage(blocks=2, kernel=3, stride=stride, latent=latent) for stride in (2, 1)[:stages]),
    )


def tiny_model(model: ModelName, *, seed: int = 0, **sizes: object) -> HierarchicalVAE:
    """A float64 model in evaluation mode whose weights are large enough for every part to matter."""
    torch.manual_seed(seed)
    return with_large_weights(HierarchicalVAE(tiny_architecture(**sizes), model))  # type: ignore[arg-type]


Built = TypeVar("Built", bound=nn.Module)


def with_large_weights(built: Built) -> Built:
    """The model in float64 and evaluation mode, with weights that are large enough for every part to matter."""
    built.double()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
            if name.endswith("original0"):
                parameter.uniform_(0.7, 1.3)
    return built.eval()


def double_noise(_name: str, shape: torch.Size) -> torch.Tensor:
    """Float64 standard normal numbers."""
    return torch.randn(shape, dtype=torch.float64)


def no_noise(_name: str, shape: torch.Size) -> torch.Tensor:
    """Zeros, with which every draw is its mean."""
    return torch.zeros(shape)


def assert_gradient_by_finite_differences(
    loss: Callable[[], torch.Tensor], parameters: Sequence[nn.Parameter], gradients: Sequence[torch.Tensor | None]
) -> None:
    """The slope along one random direction; a gradient of None belongs to a parameter that the loss does not read."""
    generator = torch.Generator().manual_seed(7)
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    slope = sum((g * v).sum().item() for g, v in zip(gradients, directions, strict=True) if g is not None)
    values, h = [], 1e-6
    for sign in (1, -1):
        with torch.no_grad():
            for p, v in zip(parameters, directions, strict=True):
                p.add_(v, alpha=sign * h)
            values.append(loss().item())
            for p, v in zip(parameters, directions, strict=True):
                p.sub_(v, alpha=sign * h)
    assert slope == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5, abs=1e-6)
