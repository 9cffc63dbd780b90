"""Whatever architecture the configuration accepts can be trained and sampled from; the others are refused by key."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from biva.bounds import free_bits_loss
from biva.models.architectures import Architecture
from biva.models.build import build_model
from biva.models.layers import data_dependent_init
from biva.models.semi_supervised import SupervisedClassifier
from tests.models import MODELS

CLASSES = 3

stages = st.fixed_dictionaries(
    {
        "blocks": st.integers(1, 3),
        "kernel": st.sampled_from([1, 3, 5]),
        "stride": st.sampled_from([1, 2]),
        "latent": st.integers(1, 3),
    }
)
architectures = st.fixed_dictionaries(
    {
        "description": st.just("random"),
        "input_shape": st.sampled_from([[channels, n, n] for channels in (1, 3) for n in (1, 4, 6, 8)]),
        "likelihood": st.sampled_from(["bernoulli", "mixture_of_logistics"]),
        "latents": st.sampled_from(["dense", "convolutional"]),
        "filters": st.integers(1, 4),
        "dropout": st.builds(dict, inference=st.sampled_from([0, 0.5]), generative=st.sampled_from([0, 0.5])),
        "log_variance": st.sampled_from(["softplus", "linear"]),
        "reference_code": st.sampled_from(["tensorflow", "pytorch"]),
        "stages": st.lists(stages, min_size=1, max_size=3),
    }
)
kinds = st.sampled_from([*((model, 0) for model in MODELS), ("biva", CLASSES), ("classifier", CLASSES)])


def noise(_name: str, shape: torch.Size) -> Tensor:
    return torch.randn(shape)


def loss_of(model: Any, x: Tensor, classes: int) -> Tensor:
    """The loss of a batch, the first image of which has a label if the model learns from labels."""
    if isinstance(model, SupervisedClassifier):
        return F.nll_loss(model(x), torch.zeros(len(x), dtype=torch.int64))
    log_q, terms = model(x, torch.tensor([1]), noise) if classes else (torch.zeros(1, 1), model(x, noise))
    return free_bits_loss(terms.log_likelihood, terms.kl, 2.0) - log_q[:, 0].mean()


@given(architectures, kinds)
def test_an_accepted_architecture_trains_and_gives_samples(raw: dict[str, Any], kind: tuple[str, int]) -> None:
    name, classes = kind
    channels, size, _ = raw["input_shape"]
    fits = size % math.prod(stage["stride"] for stage in raw["stages"]) == 0
    if not fits or (raw["likelihood"] == "mixture_of_logistics" and channels != 3):
        with pytest.raises(ValidationError, match=r"likelihood: mixture_of_logistics|stages\.\d\.stride: a map of odd"):
            Architecture.model_validate(raw)
        return
    architecture = Architecture.model_validate(raw)
    torch.manual_seed(0)
    model: Any = build_model(architecture, name, classes)
    x = torch.rand(32, *architecture.input_shape)  # of 4, dropout may leave a unit nothing to be initialised on
    with torch.no_grad(), data_dependent_init(model):
        loss_of(model, x, classes)
    loss = loss_of(model, x, classes)
    assert torch.isfinite(loss)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    if not classes:
        with torch.no_grad():
            samples = model.likelihood.sample(model.sample(2, noise))
        assert samples.shape == (2, *architecture.input_shape)
        assert torch.isfinite(samples).all()
