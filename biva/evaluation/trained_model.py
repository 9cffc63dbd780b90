"""A run's selected weights as one object to compute with: the bound, samples, reconstructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from biva import bounds
from biva.config import RunConfig
from biva.evaluation.likelihood import importance_sample
from biva.evaluation.memory import rows_for
from biva.evaluation.run import load_model
from biva.models.hierarchical_vae import Terms
from biva.models.latents import Noise
from biva.weights import read_published


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
        self.architecture = run.architecture
        self.input_shape = tuple(run.architecture.input_shape)
        self.model = load_model(run, weights, torch.device("cpu"))
        self.eval()

    @classmethod
    def from_file(cls, path: str | Path) -> TrainedModel:
        """The model of published weights: a file of `results/published/`.

        Raises:
            UserError: there is no such file, or it is not that of a model of images alone, as `biva publish` wrote it.
        """
        published = read_published(Path(path))
        return cls(published.run.model_dump_json(), published.content)

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
            ValueError: x has another shape or other values.
        """
        terms = self._terms(x)
        return bounds.elbo(terms.log_likelihood, terms.kl)

    @torch.inference_mode()
    def log_prob(self, x: Tensor, k: int) -> Tensor:
        """The importance-weighted bound L_k on log p(x), from k posterior samples per image, in nats: (B,) float64.

        It grows with k, towards log p(x) (paper.md section 5). Memory does not grow with k. x is as for `elbo`.

        Raises:
            ValueError: x has another shape or other values, or k is below 1.
            UserError: a sample's weight is not a number.
        """
        self._check(x)
        if k < 1:
            raise ValueError(f"k is {k}; expected at least 1")
        device, seed = self._device, int(torch.randint(2**62, ()))
        rows = rows_for(self.architecture, None, device)
        samples = importance_sample(self.model, x, k, seed=seed, rows=rows, device=device)
        return bounds.importance_weighted_bound(samples.log_weights, k).to(device)

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
        self._check(x)
        terms: Terms = self.model(x, self._noise())
        return terms

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or tuple(x.shape[1:]) != self.input_shape:
            raise ValueError(f"x has the shape {tuple(x.shape)}; expected (B, {', '.join(map(str, self.input_shape))})")
        if self.architecture.likelihood == "bernoulli" and not ((x == 0) | (x == 1)).all():
            raise ValueError("x has other values than 0 and 1; grey images in [0, 1] become binary by x.bernoulli()")
        if not (x.abs() <= 1).all():
            raise ValueError("x has values outside [-1, 1]; bytes become such by 2 * x / 255 - 1")

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _noise(self) -> Noise:
        device = self._device
        return lambda _name, shape: torch.randn(shape, device=device)
