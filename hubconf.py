"""The published models for `torch.hub.load(REPOSITORY, NAME)`, which reads this file (docs/weights.md)."""

from collections.abc import Callable as _Callable
from pathlib import Path as _Path
from typing import Any as _Any

dependencies = ["filelock", "numpy", "psutil", "pydantic", "safetensors", "torch", "yaml"]

_PUBLISHED = _Path(__file__).parent / "results" / "published"

_MODELS = {
    "biva_static_mnist": ("small_static_mnist", "mnist_static", "biva"),
    "lvae_plus_static_mnist": ("small_static_mnist", "mnist_static", "lvae_plus"),
    "lvae_static_mnist": ("small_static_mnist", "mnist_static", "lvae"),
    "vae_static_mnist": ("small_static_mnist", "mnist_static", "vae"),
    "biva_static_mnist_longer": ("small_static_mnist_longer", "mnist_static", "biva"),
    "lvae_plus_static_mnist_longer": ("small_static_mnist_longer", "mnist_static", "lvae_plus"),
    "biva_dynamic_mnist": ("small_dynamic_mnist", "mnist_dynamic", "biva"),
    "biva_omniglot_lake": ("small_omniglot", "omniglot_lake", "biva"),
    "biva_fashion_mnist": ("small_fashion_anomalies", "fashion_mnist", "biva"),
}
"""Name -> experiment set, dataset, model."""


def _entry(experiments: str, dataset: str, model: str) -> _Callable[[], _Any]:
    def load() -> _Any:
        from biva.errors import UserError
        from biva.evaluation.trained_model import TrainedModel

        runs = _PUBLISHED / experiments / "runs" / dataset
        found = sorted(runs.glob(f"*/{model}/seed*/weights.safetensors"))
        if not found:
            raise UserError(
                f"The weights of {model} on {dataset} are not published yet: there is none below {runs}. "
                f"`biva publish {experiments}` puts them there once the set has run."
            )
        return TrainedModel.from_file(found[0])

    load.__doc__ = f"{model} trained on {dataset}, with elbo(x), log_prob(x, k), sample(n) and reconstruct(x)."
    return load


globals().update({name: _entry(*published) for name, published in _MODELS.items()})
