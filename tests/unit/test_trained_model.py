"""A trained model as one object: the bound, samples, reconstructions."""

from __future__ import annotations

import math
import pickle
import pickletools

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch.distributions import Bernoulli, Normal

from biva.config import RunConfig
from biva.evaluation.trained_model import TrainedModel
from biva.models.build import build_model
from tests.fake_runs import fake_config


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return fake_config(stages=1, model="vae")


@pytest.fixture(scope="module")
def trained(config: RunConfig) -> TrainedModel:
    torch.manual_seed(0)
    weights = build_model(config.architecture, config.model).state_dict()
    return TrainedModel(config.model_dump_json(), save(weights))


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.bernoulli(torch.full((3, 1, 8, 8), 0.5))


def test_the_bound_is_that_of_one_posterior_sample(trained: TrainedModel, x: torch.Tensor) -> None:
    torch.manual_seed(1)
    bound = trained.elbo(x)
    torch.manual_seed(1)
    logits = torch.logit(trained.reconstruct(x).double())
    step = trained.model(x, _replayed(seed=1)).walk.steps["z1"]
    posterior = Normal(step.posterior.mean.double(), (0.5 * step.posterior.log_variance.double()).exp())
    kl = posterior.log_prob(step.value.double()) - Normal(0.0, 1.0).log_prob(step.value.double())
    likelihood = -F.binary_cross_entropy_with_logits(logits, x.double(), reduction="none")
    expected = likelihood.flatten(1).sum(1) - kl.flatten(1).sum(1)
    torch.testing.assert_close(bound.double(), expected, rtol=1e-4, atol=1e-4)
    assert bound.shape == (3,) and not bound.requires_grad


def test_with_many_samples_the_bound_is_the_integral_over_the_latent(config: RunConfig) -> None:
    """log p(x) of a model with one latent number, by an integral over a grid."""
    architecture = config.architecture
    stages = tuple(stage.model_copy(update={"latent": 1}) for stage in architecture.stages)
    run = config.model_copy(update={"architecture": architecture.model_copy(update={"stages": stages})})
    torch.manual_seed(0)
    model = TrainedModel(run.model_dump_json(), save(build_model(run.architecture, run.model).state_dict()))
    x = torch.bernoulli(torch.full((3, 1, 8, 8), 0.5))
    z = torch.linspace(-6, 6, 1001).view(-1, 1)
    with torch.inference_mode():
        logits = model.model.sample(len(z), lambda _name, shape: z.view(shape)).double()
    prior = Normal(0.0, 1.0).log_prob(z.double()).flatten() + math.log(12 / 1000)
    likelihood = Bernoulli(logits=logits).log_prob(x.double().unsqueeze(1)).flatten(2).sum(2)  # (3, 1001)
    exact = (likelihood + prior).logsumexp(1)
    torch.testing.assert_close(model.log_prob(x, 4000), exact, rtol=0, atol=0.02)


@pytest.mark.parametrize("method", ["elbo", "log_prob", "reconstruct"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "mixture_of_logistics"])
def test_images_that_the_model_cannot_take_are_refused(config: RunConfig, likelihood: str, method: str) -> None:
    """A number between 0 and 1 has a plausible bound, which means nothing; bytes would blame the model's weights."""
    binary = likelihood == "bernoulli"
    architecture = {"likelihood": likelihood, "input_shape": (1 if binary else 3, 8, 8)}
    run = config.model_copy(update={"architecture": config.architecture.model_copy(update=architecture)})
    model = TrainedModel(run.model_dump_json(), save(build_model(run.architecture, run.model).state_dict()))
    x = torch.ones(2, *run.architecture.input_shape)
    arguments = [2] if method == "log_prob" else []
    for wrong in (0.5 if binary else -1.1, 255.0, math.nan):
        broken = x.clone()
        broken[1, 0, 3, 4] = wrong
        with pytest.raises(ValueError, match="other values than 0 and 1" if binary else r"outside \[-1, 1\]"):
            getattr(model, method)(broken, *arguments)
    with pytest.raises(ValueError, match=r"has the shape \(2, 9, 8\)"):
        getattr(model, method)(torch.ones(2, 9, 8), *arguments)
    assert getattr(model, method)(x, *arguments).isfinite().all()


def test_the_seed_of_torch_repeats_a_bound(trained: TrainedModel, x: torch.Tensor) -> None:
    bounds = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        bounds.append(trained.log_prob(x, 5))
    assert torch.equal(bounds[0], bounds[1]) and not torch.equal(bounds[0], bounds[2])
    assert bounds[0].shape == (3,) and bounds[0].dtype == torch.float64


def _replayed(seed: int):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    return lambda _name, shape: torch.randn(shape, generator=generator)


def test_pickled_it_names_one_class_and_computes_the_same(trained: TrainedModel, x: torch.Tensor) -> None:
    content = pickle.dumps(trained)
    named = [argument for opcode, argument, _ in pickletools.genops(content) if opcode.name.endswith("UNICODE")]
    assert [name for name in named if name.startswith(("biva", "torch"))] == ["biva.evaluation.trained_model"]
    again = pickle.loads(content)
    for model in (trained, again):
        assert not model.training
        assert model.sample(2).shape == (2, 1, 8, 8)
        assert model.sample(2).min() >= 0 and model.sample(2).max() <= 1
    results = []
    for model in (trained, again):
        torch.manual_seed(2)
        results.append((model(x), model.reconstruct(x), model.sample(4)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_another_shape_is_refused(trained: TrainedModel) -> None:
    with pytest.raises(ValueError, match=r"x has the shape \(3, 8, 8\); expected \(B, 1, 8, 8\)"):
        trained.elbo(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match=r"x has the shape \(3, 1, 8, 9\); expected \(B, 1, 8, 8\)"):
        trained.log_prob(torch.zeros(3, 1, 8, 9), 5)
    with pytest.raises(ValueError, match="k is 0; expected at least 1"):
        trained.log_prob(torch.zeros(3, 1, 8, 8), 0)
