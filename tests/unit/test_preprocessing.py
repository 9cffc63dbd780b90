"""From pixels to model input, against hand-computed values and the binomial distribution."""

from __future__ import annotations

import pytest
import torch

from biva.data.preprocessing import model_input


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_levels_are_scaled_to_minus_one_to_one() -> None:
    pixels = torch.tensor([0, 51, 102, 204, 255], dtype=torch.uint8)
    expected = torch.tensor([-1.0, -0.6, -0.2, 0.6, 1.0])
    scaled = model_input(pixels, 256, "none")
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled, expected, rtol=0, atol=1e-7)
    assert scaled[0] == -1 and scaled[-1] == 1
    assert model_input(torch.tensor([0, 1, 2], dtype=torch.uint8), 3, "none").tolist() == [-1, 0, 1]


def test_static_images_stay_as_they_are() -> None:
    pixels = torch.tensor([[[[0, 1], [1, 0]]]], dtype=torch.uint8)
    values = model_input(pixels, 2, "static")
    assert values.dtype == torch.float32
    assert values.tolist() == [[[[0.0, 1.0], [1.0, 0.0]]]]


def test_dynamic_mean_is_the_grey_probability() -> None:
    levels, draws = 17, 20_000
    pixels = torch.arange(levels, dtype=torch.uint8)
    total = torch.zeros(levels)
    source = generator()
    for _ in range(draws // 1000):
        binary = model_input(pixels.expand(1000, levels), levels, "dynamic", source)
        assert set(binary.flatten().tolist()) == {0.0, 1.0}
        total += binary.sum(dim=0)
    for level, mean in enumerate((total / draws).tolist()):
        probability = level / 16
        assert abs(mean - probability) <= 5 * (probability * (1 - probability) / draws) ** 0.5


def test_dynamic_black_and_white_are_certain() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).expand(100_000, 2)
    assert model_input(pixels, 256, "dynamic", generator()).mean(dim=0).tolist() == [0.0, 1.0]


def test_dynamic_black_stays_black_at_the_smallest_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))
    assert model_input(torch.tensor([0, 1], dtype=torch.uint8), 256, "dynamic", generator()).tolist() == [0.0, 1.0]


def test_dynamic_draws_repeat_with_the_generator_and_differ_between_epochs() -> None:
    pixels = torch.full((4, 1, 28, 28), 128, dtype=torch.uint8)
    source = generator(3)
    first, second = (model_input(pixels, 256, "dynamic", source) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, model_input(pixels, 256, "dynamic", generator(3)))
    assert not torch.equal(first, model_input(pixels, 256, "dynamic", generator(4)))


def test_dynamic_draws_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    model_input(torch.ones(8, dtype=torch.uint8), 3, "dynamic", generator())
    assert torch.equal(before, torch.get_rng_state())


def test_dynamic_needs_a_generator() -> None:
    with pytest.raises(ValueError, match="generator"):
        model_input(torch.zeros(1, dtype=torch.uint8), 17, "dynamic")
