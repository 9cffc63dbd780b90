"""Anomaly detection: the definition of L^{>k}."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from biva.bounds import elbo
from biva.errors import UserError
from biva.evaluation import anomaly
from biva.evaluation.anomaly import bounds_above
from biva.evaluation.likelihood import importance_sample
from biva.evaluation.noise import sample_noise
from biva.models.architectures import ModelName
from biva.models.generative import Latent, LatentSource
from biva.models.latents import Noise
from tests.models import MODELS, double_noise, tiny_model
from tests.unit.test_models import log_marginal

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 2, (5, 1, 4, 4), generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("model_name", MODELS)
def test_weights_of_every_k_integrate_to_the_marginal_likelihood(model_name: ModelName) -> None:
    """E[p(x | z) p(z_>k) / q(z_>k | x)] = p(x), which is an integral on a grid for scalar latents."""
    model, x = tiny_model(model_name, seed=3), IMAGES[0]
    torch.manual_seed(0)
    with torch.no_grad():
        exact = log_marginal(model, x)
        _, *above = model.terms_above(x[None], model.inference.encode(x[None]), 60_000, double_noise)
    assert len(above) == 2
    assert above[1].kl.shape == (60_000, 0)
    for terms in above:
        weights = (elbo(terms.log_likelihood, terms.kl) - exact).exp()
        error = weights.std().item() / math.sqrt(len(weights))
        assert error < 0.05
        assert abs(weights.mean().item() - 1) < 5 * error


@pytest.mark.parametrize("model_name", MODELS)
def test_weights_above_the_mode_integrate_to_the_likelihood_of_a_model_without_noise_below(
    model_name: ModelName,
) -> None:
    """E[p(x | z2, z1 = its mode) p(z2) / q(z2 | x)] = int p(x | z2, E[z1 | z2]) p(z2) dz2, summed up on a grid of z2.

    Above all stages nothing is drawn: log p(x | z) where z2 = 0, and z1 is the mean that its prior then has.
    """
    model, n, x = tiny_model(model_name, seed=3), 20_000, IMAGES[0]
    below = [name for name in model.group_names if name != "z2"]
    grid = torch.linspace(-9, 9, 361, dtype=torch.float64)[:, None]

    def likelihood(z2: Tensor) -> Tensor:
        """log p(x | z2, E[z1 | z2]): one walk to ask for the means, whatever z1 is in it, and one with them."""

        def source(z: dict[str, Tensor]) -> LatentSource:
            return lambda index, priors, _d: {
                group: Latent(z[f"z{index + 1}_{group}" if group else f"z{index + 1}"]) for group in priors
            }

        steps = model.generative.walk(source({"z2": z2} | dict.fromkeys(below, torch.full_like(z2, 7))), len(z2)).steps
        means = {name: steps[name].prior.mean for name in below}
        output = model.generative.walk(source({"z2": z2} | means), len(z2)).output
        return model.likelihood.log_prob(output, x.expand(len(z2), *x.shape))

    with torch.no_grad():
        prior = torch.distributions.Normal(0, 1).log_prob(grid[:, 0])
        exact = torch.logsumexp(likelihood(grid) + prior, 0).item() + math.log((grid[1] - grid[0]).item())
        mode = likelihood(torch.zeros(1, 1, dtype=torch.float64)).item()
        torch.manual_seed(0)
        terms = [*model.terms_above(x[None], model.inference.encode(x[None]), n, double_noise, mode=True)]
    weights = (elbo(terms[1].log_likelihood, terms[1].kl) - exact).exp()
    error = weights.std().item() / math.sqrt(n)
    assert error < 0.05
    assert abs(weights.mean().item() - 1) < 5 * error
    assert terms[2].kl.shape == (n, 0)
    torch.testing.assert_close(terms[2].log_likelihood, torch.full((n,), mode, dtype=torch.float64))


@pytest.mark.parametrize(("model_name", "mode"), [*((model, False) for model in MODELS), ("biva", True)])
def test_bounds_of_all_k_in_one_pass(model_name: ModelName, mode: bool) -> None:
    """Chunks change nothing; every image counts once; k = 0 is L_K within the error of both estimates."""
    model = tiny_model(model_name, latent=2)
    whole = bounds_above(model, IMAGES, 6, mode=mode, seed=3, rows=1000, device=CPU)
    assert whole.shape == (3, 5)
    for rows in (1, 4, 7):
        torch.testing.assert_close(bounds_above(model, IMAGES, 6, mode=mode, seed=3, rows=rows, device=CPU), whole)
    two = bounds_above(model, IMAGES[:2], 6, mode=mode, seed=3, rows=9, device=CPU)
    torch.testing.assert_close(two, whole[:, :2])
    many = bounds_above(model, IMAGES, 2000, mode=mode, seed=5, rows=4000, device=CPU)[0]
    reference = importance_sample(model, IMAGES, 2000, seed=6, rows=4000, device=CPU)
    l_k = torch.logsumexp(reference.log_weights, 0) - math.log(2000)
    weights = (reference.log_weights - l_k).exp()
    assert ((many - l_k).abs() < 5 * math.sqrt(2 / 2000) * weights.std(0)).all()


@pytest.mark.parametrize("mode", [False, True])
def test_all_k_share_every_draw(monkeypatch: pytest.MonkeyPatch, mode: bool) -> None:
    """BIVA goes up once, though its stages are drawn from q for some k and from p, or not at all, for others."""
    drawn: list[str] = []

    def counting(*arguments: Any) -> Noise:
        def count(name: str, shape: torch.Size) -> Tensor:
            drawn.append(name)
            return sample_noise(*arguments)(name, shape)

        return count

    monkeypatch.setattr(anomaly, "sample_noise", counting)
    bounds_above(tiny_model("biva"), IMAGES, 3, mode=mode, seed=1, rows=100, device=CPU)
    from_p = [] if mode else ["p(z1_bu)", "p(z1_td)", "p(z2)"]
    assert sorted(drawn) == [*from_p, "q(z1_bu)", "q(z1_td)", "q(z2)"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_bound_that_is_no_number_is_an_error(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Minus infinity too: its difference to another one would be no score."""
    monkeypatch.setattr(anomaly, "importance_weighted_bound", lambda weights, _k: torch.full((len(weights[0]),), value))
    with pytest.raises(UserError, match=r"NaN or infinite at images 0, 1, 2, 3, 4 \(counted"):
        bounds_above(tiny_model("vae"), IMAGES, 1, seed=1, rows=100, device=CPU)
