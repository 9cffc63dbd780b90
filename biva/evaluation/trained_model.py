"""A run's selected weights as one object to compute with: the bound, samples, reconstructions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from biva import bounds
from biva.config import RunConfig
from biva.evaluation.run import load_model
from biva.models.hierarchical_vae import Terms
from biva.models.latents import Noise


class TrainedModel(nn.Module):
    """A trained model of images alone, in evaluation mode.

    Random numbers are torch's own: `torch.manual_seed` repeats a result. Pickled, it is its configuration, the bytes of
    `weights.safetensors` and the name of this class, and nothing of how the network is built.

    Args:
        config: the run's configuration, JSON of `biva.config.RunConfig`.
        weights: content of the run's `weights.safetensors`.
    """

    def __init__(self, config: str, weights: bytes) -> None:
        super().__init__()
        self._made_of = (config, weights)
        run = RunConfig.model_validate_json(config)
        self.input_shape = tuple(run.architecture.input_shape)
        self.model = load_model(run, weights, torch.device("cpu"))
        self.eval()

    def __reduce__(self) -> tuple[Any, ...]:
        return TrainedModel, self._made_of

    def forward(self, x: Tensor) -> Tensor:
        """The evidence lower bound, as `elbo` gives it; what MLflow calls."""
        return self.elbo(x)

    @torch.inference_mode()
    def elbo(self, x: Tensor) -> Tensor:
        """The evidence lower bound at one posterior sample per image, in nats: (B,).

        Args:
            x: (B, C, H, W) as the model was trained on: binary pixels in {0, 1}, colour in [-1, 1].

        Raises:
            ValueError: x has another shape.
        """
        terms = self._terms(x)
        return bounds.elbo(terms.log_likelihood, terms.kl)

    @torch.inference_mode()
    def sample(self, n: int) -> Tensor:
        """Images drawn from the prior, in [0, 1]: (n, C, H, W); for binary data the means of p(x | z)."""
        shown: Tensor = self.model.likelihood.picture(self.model.sample(n, self._noise()))
        return shown

    @torch.inference_mode()
    def reconstruct(self, x: Tensor) -> Tensor:
        """What the model makes of a posterior sample of each image, in [0, 1]: (B, C, H, W); x as for `elbo`."""
        shown: Tensor = self.model.likelihood.picture(self._terms(x).walk.output)
        return shown

    def _terms(self, x: Tensor) -> Terms:
        if x.ndim != 4 or tuple(x.shape[1:]) != self.input_shape:
            raise ValueError(f"x has the shape {tuple(x.shape)}; expected (B, {', '.join(map(str, self.input_shape))})")
        terms: Terms = self.model(x, self._noise())
        return terms

    def _noise(self) -> Noise:
        device = next(self.parameters()).device
        return lambda _name, shape: torch.randn(shape, device=device)
