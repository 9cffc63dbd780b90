"""Differences between two models' bounds: the intervals of textbooks, and how often they hold the truth."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from biva.reporting.per_image import paired_difference, read_bounds
from tests.fake_runs import IMAGES, fake_run


def test_one_seed_of_either_model_is_the_paired_t_test() -> None:
    one, other = np.random.default_rng(1).normal(size=(2, 1, 30))
    found = paired_difference(one, other)
    expected = stats.ttest_rel(one[0], other[0]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert not found.over_seeds
    assert not paired_difference(one + 9, other).is_real  # what another seed would give is not known


def test_seeds_that_change_all_images_alike_are_welchs_t_test() -> None:
    image = np.random.default_rng(2).normal(size=40)
    one, other = np.array([0.3, 0.1, 0.25]), np.array([0.0, 0.4])
    found = paired_difference(one[:, None] + image, other[:, None] + image)
    expected = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(0.65 / 3 - 0.2)
    assert found.over_seeds
    assert not found.is_real


@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_is_real_where_the_interval_excludes_0(sign: int) -> None:
    one = np.array([[1.0, 1.1, 0.9], [1.1, 1.0, 1.2]])
    assert paired_difference(sign * one, np.zeros((2, 3))).is_real
    assert paired_difference(np.ones((2, 3)), np.ones((2, 3))).low == 0


@pytest.mark.parametrize(
    ("seeds", "of_seeds", "of_both"),
    [(2, 0.02, 0.1), (2, 0.2, 0.1), (3, 0.2, 1.0), (5, 1.0, 0.1)],
)
def test_the_interval_holds_the_true_difference_in_19_of_20_cases(seeds: int, of_seeds: float, of_both: float) -> None:
    """Images that are hard for both models by 5 nats, for one of them by 0.7; 1,000 cases, so that 0.014 is two sigma.

    With two seeds, and with much that is of a seed and an image together, the interval is not exact.
    """
    random, cases, images, truth = np.random.default_rng(3), 1000, 100, 0.3
    held = 0
    for _ in range(cases):
        image = random.normal(0, 5, images)
        one, other = (
            mean
            + image
            + random.normal(0, 0.7, images)
            + random.normal(0, of_seeds, (seeds, 1))
            + random.normal(0, of_both, (seeds, images))
            for mean in (truth, 0.0)
        )
        found = paired_difference(one, other)
        held += found.low <= truth <= found.high
    assert 0.91 < held / cases < 0.99


@pytest.mark.parametrize("bounds", [[[-math.inf, 1.0]], [[-math.inf, 1.0], [0.0, 1.0]]])
def test_a_bound_that_is_not_finite_has_no_interval(bounds: list[list[float]]) -> None:
    one = np.array(bounds)
    for other in (np.zeros_like(one), one):
        found = paired_difference(one, other)
        assert not math.isfinite(found.value)
        assert math.isnan(found.low)
        assert not found.is_real


def test_a_single_image_has_no_interval() -> None:
    found = paired_difference(np.array([[1.0], [2.0]]), np.array([[0.0], [0.0]]))
    assert found.value == 1.5
    assert math.isnan(found.high)
    assert not found.is_real


def test_bounds_are_read_by_k_and_are_none_without_their_file(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, bounds={1: (-25.0, 0.1), 1000: (-24.0, 0.1)})
    found = read_bounds(folder)
    assert set(found) == {1, 1000}
    np.testing.assert_array_equal(found[1000], np.full(IMAGES, -24.0))
    folder.bounds.unlink()
    assert read_bounds(folder) == {}
