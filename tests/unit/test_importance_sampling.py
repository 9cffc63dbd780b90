"""Importance sampling over images: invariances, coverage, and active units with known variances."""

import math

import pytest
import torch
from torch import Tensor

from biva.bounds import elbo
from biva.data.datasets import Dataset
from biva.data.inputs import fixed_input, part
from biva.evaluation.likelihood import ImportanceSamples, importance_sample
from biva.evaluation.noise import sample_noise
from biva.models.architectures import ModelName
from biva.models.hierarchical_vae import HierarchicalVAE
from tests.models import MODELS, tiny_model

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 2, (5, 1, 4, 4), generator=torch.Generator().manual_seed(0)).double()


def sample(
    model: HierarchicalVAE, x: Tensor = IMAGES, k: int = 7, *, rows: int = 1000, seed: int = 3
) -> ImportanceSamples:
    return importance_sample(model, x, k, seed=seed, rows=rows, device=CPU)


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("model_name", MODELS)
def test_chunk_size_changes_nothing(model_name: ModelName, rows: int) -> None:
    """From one row at a time (batches of one image, chunks of one sample) to everything at once."""
    model = tiny_model(model_name, latent=3)
    whole, parts = sample(model), sample(model, rows=rows)
    torch.testing.assert_close(parts.log_weights, whole.log_weights)
    torch.testing.assert_close(parts.log_likelihood, whole.log_likelihood)
    for name in model.group_names:
        torch.testing.assert_close(parts.kl[name], whole.kl[name])
        assert torch.equal(parts.active[name], whole.active[name])


def test_every_image_counts_exactly_once_with_samples_of_its_own() -> None:
    """The first images give the same without the rest, whether or not the last batch is full."""
    model = tiny_model("lvae")
    whole = sample(model, rows=2)
    assert whole.log_weights.shape == (7, 5)
    for n in (1, 2, 4):
        torch.testing.assert_close(sample(model, IMAGES[:n], rows=2).log_weights, whole.log_weights[:, :n])
    twice = sample(model, IMAGES[[0, 0]])
    assert not torch.equal(twice.log_weights[:, 0], twice.log_weights[:, 1])


def test_log_weights_are_those_of_the_model_and_their_parts_add_up() -> None:
    """The numbers of every sample, asked for by name, fed to a plain forward pass."""
    model = tiny_model("biva", latent=2)
    result = sample(model, k=4)
    for k in range(4):
        with torch.no_grad():
            terms = model(IMAGES, sample_noise(3, range(5), k, CPU))
        torch.testing.assert_close(elbo(terms.log_likelihood, terms.kl), result.log_weights[k])
    kl = torch.stack(list(result.kl.values())).sum(0)
    torch.testing.assert_close(result.log_likelihood - kl, result.log_weights.mean(0))


def test_active_units_are_shown_only_where_two_samples_allow_an_estimate() -> None:
    model = tiny_model("vae", latent=3)
    assert sample(model, k=1).active == {}
    assert {name: units.shape for name, units in sample(model, k=2).active.items()} == {"z1": (3,), "z2": (3,)}


def dataset(binarisation: str) -> Dataset:
    images = torch.arange(17, dtype=torch.uint8).repeat(200, 1).view(-1, 1, 1, 17)
    return Dataset("toy", "f" * 64, (1, 1, 17), 17, binarisation, {"test": images, "valid": images}, {})  # type: ignore[arg-type]


def test_fixed_input_is_drawn_once_per_split() -> None:
    drawn = fixed_input(dataset("dynamic"), "test")
    assert torch.equal(drawn, fixed_input(dataset("dynamic"), "test"))
    assert not torch.equal(drawn, fixed_input(dataset("dynamic"), "valid"))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}


def test_a_part_of_a_split_is_one_draw_of_which_smaller_parts_are_the_start() -> None:
    drawn = part("toy", "test", 1000, 300)
    assert len(drawn.unique()) == 300
    assert torch.equal(part("toy", "test", 1000, 50), drawn[:50])
    assert not torch.equal(part("toy", "valid", 1000, 300), drawn)
    assert not torch.equal(part("other", "test", 1000, 300), drawn)
    for n in (None, 1000, 2000):
        assert torch.equal(part("toy", "test", 1000, n), torch.arange(1000))


def test_a_part_of_a_sorted_split_has_every_class_in_proportion() -> None:
    """Ten classes of 1,000 images, one after the other: of 1,000 drawn, each class has 100 +- 5 binomial errors."""
    counts = torch.bincount(part("toy", "test", 10_000, 1000) // 1000, minlength=10)
    assert ((counts - 100).abs() < 5 * math.sqrt(1000 * 0.1 * 0.9)).all()
