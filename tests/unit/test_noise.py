"""The noise of an evaluation: whose numbers a draw gets, and that they are independent standard normal ones."""

import math

import pytest
import torch
from torch import Tensor

from biva.evaluation.noise import named_noise, sample_noise

CPU = torch.device("cpu")


def block(
    k: int,
    *,
    images: range = range(5),
    first: int = 0,
    name: str = "q(z1)",
    units: tuple[int, ...] = (3,),
    seed: int = 1,
) -> Tensor:
    """Numbers of k samples, (k, B, units)."""
    numbers = sample_noise(seed, images, first, CPU)(name, torch.Size([k * len(images), *units]))
    return numbers.view(k, len(images), *units)


@pytest.mark.parametrize("units", [(3,), (100,), (2, 30, 30)])
def test_a_sample_of_an_image_has_its_numbers_whatever_it_shares_a_pass_with(units: tuple[int, ...]) -> None:
    """Chunks that begin and end within blocks of one seed, and some of the images of a batch."""
    whole = block(40, units=units)
    assert whole.shape == (40, 5, *units)
    for first, k in ((0, 10), (3, 14), (15, 2), (16, 16), (33, 7)):
        assert torch.equal(block(k, first=first, units=units), whole[first : first + k])
    assert torch.equal(block(4, images=range(2, 4), first=30, units=units), whole[30:34, 2:4])
    assert not torch.equal(block(1, images=range(64, 69), units=units), whole[:1])


def test_other_names_and_seeds_have_other_numbers() -> None:
    assert not torch.equal(block(2), block(2, name="p(z1)"))
    assert not torch.equal(block(2), block(2, seed=2))
    noise, size = named_noise(1, CPU), torch.Size([4])
    assert torch.equal(noise("q(z1)", size), noise("q(z1)", size))
    assert not torch.equal(noise("q(z1)", size), noise("p(z1)", size))


@pytest.mark.parametrize("units", [2, 40])
def test_the_numbers_are_independent_and_standard_normal(units: int) -> None:
    """Mean, variance, and correlation of neighbours along samples, images and units: 5 standard errors."""
    numbers = block(600, images=range(20), units=(units,)).double()
    n = numbers.numel()
    assert abs(numbers.mean().item()) < 5 / math.sqrt(n)
    assert abs(numbers.var().item() - 1) < 5 * math.sqrt(2 / n)
    for axis, lags in ((0, (1, 15, 16)), (1, (1,)), (2, (1,))):
        for lag in lags:
            length = numbers.shape[axis] - lag
            product = numbers.narrow(axis, 0, length) * numbers.narrow(axis, lag, length)
            assert abs(product.mean().item()) < 5 / math.sqrt(product.numel())
