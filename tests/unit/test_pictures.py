"""Pictures against plain walks of the same model with the same noise, and interpolation against geometry."""

import math

import pytest
import torch
from torch import Tensor

from biva.config import Evaluation
from biva.evaluation.noise import named_noise
from biva.evaluation.pictures import (
    INTERPOLATION_STEPS,
    PER_TEMPERATURE,
    interpolations,
    layers,
    pictures,
    sheet,
    slerp,
    temperatures,
)
from biva.models.architectures import ModelName
from biva.models.generative import from_prior
from biva.models.hierarchical_vae import HierarchicalVAE
from tests.models import MODELS, tiny_model

CPU = torch.device("cpu")
SEED = 7
IMAGES = torch.randint(0, 2, (6, 1, 4, 4), generator=torch.Generator().manual_seed(0)).double()


@torch.no_grad()
def reconstruction(model: HierarchicalVAE, x: Tensor) -> Tensor:
    return torch.sigmoid(model(x, named_noise(SEED, CPU)).walk.output)


@torch.no_grad()
def decoded_prior_means(model: HierarchicalVAE, rows: int) -> Tensor:
    return torch.sigmoid(model.generative.walk(from_prior(named_noise(99, CPU), temperature=0), rows).output)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_layers_go_from_the_image_over_its_reconstruction_to_the_priors_mean(name: ModelName) -> None:
    model = tiny_model(name, latent=3)
    image, all_posterior, top_posterior, all_prior = layers(model, IMAGES, SEED).unbind(1)
    assert torch.equal(image, IMAGES)
    torch.testing.assert_close(all_posterior, reconstruction(model, IMAGES))
    torch.testing.assert_close(all_prior, decoded_prior_means(model, len(IMAGES)))
    for other in (all_posterior, all_prior):
        assert (top_posterior - other).abs().amax() > 1e-3


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_interpolations_begin_and_end_with_both_images_and_their_reconstructions(name: ModelName) -> None:
    model = tiny_model(name, latent=3)
    rows = interpolations(model, IMAGES, SEED)
    assert rows.shape == (3, INTERPOLATION_STEPS + 2, 1, 4, 4)
    whole = reconstruction(model, IMAGES)
    for ends, expected in (((0, -1), IMAGES), ((1, -2), whole)):
        torch.testing.assert_close(rows[:, ends[0]], expected[:3])
        torch.testing.assert_close(rows[:, ends[1]], expected[3:])
    assert (rows[:, 2:-2].diff(dim=1).abs().amax(dim=(0, 2, 3, 4)) > 0).all()


@torch.no_grad()
def test_a_single_image_leads_to_itself() -> None:
    model = tiny_model("biva", latent=2)
    (row,) = interpolations(model, IMAGES[:1], SEED)
    assert torch.equal(row[0], row[-1])
    torch.testing.assert_close(row[1:-1], reconstruction(model, IMAGES[:1]).expand(INTERPOLATION_STEPS, -1, -1, -1))


@torch.no_grad()
def test_temperatures_share_their_noise() -> None:
    model = tiny_model("biva", latent=2)
    warm, cold, warm_again = temperatures(model, (1.0, 0.0, 1.0), SEED, CPU)
    assert torch.equal(warm, warm_again)
    torch.testing.assert_close(warm, torch.sigmoid(model.sample(PER_TEMPERATURE, named_noise(SEED, CPU))))
    torch.testing.assert_close(cold, decoded_prior_means(model, PER_TEMPERATURE))


@torch.no_grad()
def test_pictures_of_colour_images() -> None:
    model = tiny_model("lvae", latents="convolutional", likelihood="mixture_of_logistics").float()
    x = torch.rand(2, 3, 4, 4) * 2 - 1
    for images in (layers(model, x, SEED), interpolations(model, x, SEED), temperatures(model, (0.5,), SEED, CPU)):
        assert images.shape[2:] == (3, 4, 4)
        assert images.min() >= 0
        assert images.max() <= 1


def test_more_samples_change_no_other_picture_of_colour_images() -> None:
    model, x = tiny_model("lvae", likelihood="mixture_of_logistics").float(), torch.rand(2, 3, 4, 4) * 2 - 1
    few, many = (pictures(model, x, Evaluation(importance_samples=(1,), prior_samples=n), SEED, CPU) for n in (4, 9))
    assert [name for name, sheet in few.items() if not torch.equal(sheet, many[name])] == ["sheet/samples"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_has_white_lines_between_images_in_rows_and_a_white_end(channels: int) -> None:
    images = torch.rand(5, channels, 3, 2, generator=torch.Generator().manual_seed(0))
    picture = sheet(images, columns=2)
    assert (picture.shape, picture.dtype) == ((3, 3 * 4 + 1, 2 * 3 + 1), torch.uint8)
    expected = torch.full((3, 13, 7), 255.0)
    for place, image in enumerate(images):
        row, column = 1 + 4 * (place // 2), 1 + 3 * (place % 2)
        expected[:, row : row + 3, column : column + 2] = 255 * image
    assert (picture - expected).abs().max() <= 0.5 + 1e-4


def test_slerp_turns_at_a_constant_rate_on_the_circle() -> None:
    start, end = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    for t in (0.0, 0.25, 0.5, 1.0):
        expected = [[2 * math.cos(t * math.pi / 2), 2 * math.sin(t * math.pi / 2)]]
        torch.testing.assert_close(slerp(start, end, t), torch.tensor(expected))


@pytest.mark.parametrize("factor", [1.0, 3.0, -1.0])
def test_slerp_of_parallel_rows_is_the_straight_line(factor: float) -> None:
    start = torch.tensor([[1.0, 2.0], [3.0, -4.0]]).view(2, 2, 1, 1)
    torch.testing.assert_close(slerp(start, factor * start, 0.25), (0.75 + 0.25 * factor) * start)


def test_slerp_keeps_noise_noise_where_a_straight_line_does_not() -> None:
    """Halfway between independent standard normal rows the variance is 1; the straight line has 1/2."""
    start, end = torch.randn(2, 200, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert abs(slerp(start, end, 0.5).var().item() - 1) < 5 * math.sqrt(2 / 100_000)
    assert abs(torch.lerp(start, end, 0.5).var().item() - 0.5) < 5 * math.sqrt(0.5 / 100_000)
