"""The four models: exact marginal likelihoods of tiny ones, gradients, structure."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from biva.bounds import elbo, free_bits_loss, importance_weighted_bound
from biva.models.architectures import Dropout, ModelName, Stage
from biva.models.generative import Latent, Priors, from_prior
from biva.models.hierarchical_vae import HierarchicalVAE
from biva.models.layers import GatedBlock
from tests.models import MODELS, assert_gradient_by_finite_differences, double_noise, tiny_architecture, tiny_model


@pytest.mark.parametrize("model", MODELS)
def test_latent_groups(model: ModelName) -> None:
    expected = ["z1_bu", "z1_td", "z2"] if model == "biva" else ["z1", "z2"]
    assert tiny_model(model).group_names == expected


def log_joint(model: Any, x: Tensor, z: Mapping[str, Tensor], y: int | None = None) -> Tensor:
    """log p(x, z), or log p(x, z | y), for given latents, one row each; x is a single image."""

    def given(index: int, priors: Priors, _d: Tensor | None) -> Mapping[str, Latent]:
        return {group: Latent(z[f"z{index + 1}_{group}" if group else f"z{index + 1}"]) for group in priors}

    rows = len(next(iter(z.values())))
    one_hot = None if y is None else F.one_hot(torch.full((rows,), y), model.classes).double()
    walk = model.generative.walk(given, rows, one_hot)
    prior = sum(step.prior.log_prob(step.value) for step in walk.steps.values())
    joint: Tensor = model.likelihood.log_prob(walk.output, x.expand(rows, *x.shape)) + prior
    return joint


def log_marginal(model: Any, x: Tensor, y: int | None = None) -> float:
    """log p(x), or log p(x | y), of scalar latents: an integral over one to three numbers, done on a grid."""
    names = model.generative.group_names
    points = torch.linspace(-9, 9, 49 if len(names) == 3 else 121, dtype=torch.float64)
    grid = torch.tensor(list(itertools.product(points.tolist(), repeat=len(names))), dtype=torch.float64)
    parts = [
        log_joint(model, x, dict(zip(names, part.split(1, 1), strict=True)), y).detach() for part in grid.split(40_000)
    ]
    return torch.logsumexp(torch.cat(parts), 0).item() + len(names) * math.log((points[1] - points[0]).item())


@pytest.mark.parametrize(("model_name", "stages"), [*((model, 2) for model in MODELS), ("biva", 1)])
def test_importance_weights_integrate_to_the_marginal_likelihood(model_name: ModelName, stages: int) -> None:
    """The weights p(x, z) / q(z | x) average to it only if q is the density that the samples really come from.

    This tests every inference path, the prior and the walk against each other.
    """
    model = tiny_model(model_name, seed=3, stages=stages)
    x = torch.randint(0, 2, (1, 4, 4), generator=torch.Generator().manual_seed(1)).double()
    torch.manual_seed(0)
    with torch.no_grad():
        exact = log_marginal(model, x)
        features = model.inference.encode(x[None])
        terms = model.terms(x[None], features, 40_000, double_noise)
    log_weights = elbo(terms.log_likelihood, terms.kl)
    weights = (log_weights - exact).exp()
    error = weights.std().item() / math.sqrt(len(weights))
    assert error < 0.02
    assert abs(weights.mean().item() - 1) < 5 * error
    assert importance_weighted_bound(log_weights[:, None], 1).item() < exact


@pytest.mark.parametrize("likelihood", ["bernoulli", "mixture_of_logistics"])
@pytest.mark.parametrize("latents", ["dense", "convolutional"])
@pytest.mark.parametrize("model_name", MODELS)
def test_gradients_are_finite_differences(model_name: ModelName, latents: str, likelihood: str) -> None:
    """Directional derivative of the training loss over all parameters, in float64, noise held fixed."""
    model = tiny_model(model_name, latents=latents, likelihood=likelihood)
    channels = 3 if likelihood == "mixture_of_logistics" else 1
    x = torch.randint(0, 2, (3, channels, 4, 4), generator=torch.Generator().manual_seed(2)).double()

    def loss() -> Tensor:
        torch.manual_seed(5)
        terms = model(x, double_noise)
        return free_bits_loss(terms.log_likelihood, terms.kl, 0.1)

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss(), parameters)
    assert_gradient_by_finite_differences(loss, parameters, gradients)


def dependence(model: HierarchicalVAE, moved: str) -> dict[str, bool]:
    """Latent group -> whether its posterior changes when the draw of this name gets other noise."""
    x = torch.randint(0, 2, (1, 1, 4, 4), generator=torch.Generator().manual_seed(0)).double()

    def posteriors(shift: float) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1)

        def noise(name: str, shape: torch.Size) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64) + shift * (name == moved)

        with torch.no_grad():
            steps = model(x, noise).walk.steps
        return {name: step.posterior.mean for name, step in steps.items() if step.posterior is not None}

    before, after = posteriors(0.0), posteriors(1.0)
    return {name: not torch.equal(before[name], after[name]) for name in before}


@pytest.mark.parametrize(
    ("model_name", "moved", "expected"),
    [
        ("vae", "q(z1)", {"z1": False, "z2": True}),  # q(z2 | z1, x)
        ("vae", "q(z2)", {"z1": False, "z2": False}),
        ("lvae_plus", "q(z2)", {"z1": True, "z2": False}),  # q(z1 | x, z2)
        ("lvae_plus", "q(z1)", {"z1": False, "z2": False}),
        ("biva", "q(z1_bu)", {"z1_bu": False, "z1_td": True, "z2": True}),  # q(z2 | x, z1_bu), q(z1_td | x, z1_bu, z2)
        ("biva", "q(z2)", {"z1_bu": False, "z1_td": True, "z2": False}),
        ("biva", "q(z1_td)", {"z1_bu": False, "z1_td": False, "z2": False}),
    ],
)
def test_posteriors_depend_on_what_the_paper_says(model_name: ModelName, moved: str, expected: dict[str, bool]) -> None:
    assert dependence(tiny_model(model_name), moved) == expected


@pytest.mark.parametrize("model_name", MODELS)
def test_dropout_of_inference_and_of_generation_go_their_own_ways(model_name: ModelName) -> None:
    """Blocks that receive the generative state d have the rate of p, all others of the inference path that of q."""
    rates = Dropout(inference=0.2, generative=0.5)
    architecture = tiny_architecture().model_copy(update={"dropout": rates})
    blocks = {n: b for n, b in HierarchicalVAE(architecture, model_name).named_modules() if isinstance(b, GatedBlock)}
    merging = {"inference.merges.0"} if model_name != "vae" else set()
    assert merging <= blocks.keys()
    for name, block in blocks.items():
        assert block.dropout.p == (0.5 if name.startswith("generative") or name in merging else 0.2), name


@pytest.mark.parametrize(("reference_code", "kernels"), [("tensorflow", [5, 7, 7]), ("pytorch", [3, 3, 3])])
def test_kernels_of_merging_blocks_are_those_of_the_stage_above_or_always_3(
    reference_code: str, kernels: list[int]
) -> None:
    stages = tuple(Stage(blocks=1, kernel=kernel, stride=1, latent=1) for kernel in (1, 5, 7))
    changes = {"stages": stages, "reference_code": reference_code}
    merges = HierarchicalVAE(tiny_architecture().model_copy(update=changes), "biva").inference.merges
    assert [merge.conv_in.kernel_size[0] for merge in merges] == kernels


def test_lvae_has_no_generative_skips() -> None:
    """With skips, p(x | z) depends on the top latent beyond z1; without, z1 alone decides."""
    for model_name, expected in (("lvae", False), ("lvae_plus", True)):
        model = tiny_model(model_name)  # type: ignore[arg-type]

        def outputs(top: float, model: HierarchicalVAE = model) -> Tensor:
            z = {0: torch.zeros(1, 1, dtype=torch.float64), 1: torch.full((1, 1), top, dtype=torch.float64)}
            with torch.no_grad():
                return model.generative.walk(lambda index, _p, _d: {"": Latent(z[index])}, 1).output

        assert (not torch.equal(outputs(0.0), outputs(3.0))) is expected


def test_temperature_scales_the_prior() -> None:
    """At temperature 0 every latent is its prior's mean; at the top, where the prior is N(0, I), t scales the noise."""
    model = tiny_model("biva")
    with torch.no_grad():
        cold = model.generative.walk(from_prior(double_noise, 0.0), 3)
        torch.manual_seed(0)
        full = model.generative.walk(from_prior(double_noise), 3)
        torch.manual_seed(0)
        half = model.generative.walk(from_prior(double_noise, 0.5), 3)
    for step in cold.steps.values():
        torch.testing.assert_close(step.value, step.prior.mean)
    torch.testing.assert_close(half.steps["z2"].value, full.steps["z2"].value / 2)
