"""Anomaly scores and their separation, counted by hand, at every threshold, and against a known error."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from biva.evaluation.separation import bootstrap, choice, scores, separation

SCORES = st.lists(st.integers(0, 6), min_size=1, max_size=12)


def test_scores_by_hand() -> None:
    result = scores(np.array([[-80.0, -90.0], [-85.0, -120.0], [-100.0, -95.0]]))
    assert {name: values.tolist() for name, values in result.items()} == {
        "L>0": [80, 90],
        "L>1": [85, 120],
        "L>2": [100, 95],
        "LLR>1": [5, 30],
        "LLR>2": [20, 5],
    }


def test_separation_counted_by_hand() -> None:
    """Normal 1, 2, 3, 4, 6; anomalous 3.5, 5, 7, 8, 9.

    Of 25 pairs 22 have the anomaly higher. To find four of five anomalies the threshold is 5: of the normal images only
    6 is above it, one in five. Precision as each anomaly is found, from the top: 1/1, 2/2, 3/3, 4/5, 5/7 (its mean).
    """
    result = separation(np.array([1.0, 2, 3, 4, 6]), np.array([3.5, 5, 7, 8, 9]))
    assert result["auroc"] == pytest.approx(22 / 25)
    assert result["fpr80"] == pytest.approx(1 / 5)
    assert result["auprc"] == pytest.approx((1 + 1 + 1 + 4 / 5 + 5 / 7) / 5)


def test_the_choice_is_the_ratio_with_the_most_pairs_in_order() -> None:
    """Of 4 pairs (normal, anomaly) the anomaly is higher in 4 by L^{>0}, in 2, 3, 3 by LLR^{>1}, LLR^{>2}, LLR^{>3}."""
    normal = {"L>0": [0, 1], "L>1": [0, 1], "LLR>1": [1, 4], "LLR>2": [1, 3], "LLR>3": [1, 3]}
    anomalous = {"L>0": [2, 3], "L>1": [0, 1], "LLR>1": [2, 3], "LLR>2": [2, 4], "LLR>3": [2, 4]}
    assert choice(*({name: np.array(values) for name, values in kind.items()} for kind in (normal, anomalous))) == {
        "choosing_auroc": {"L>0": 1.0, "L>1": 0.5, "LLR>1": 0.5, "LLR>2": 0.75, "LLR>3": 0.75},
        "chosen": "LLR>2",
    }


@given(normal=SCORES, anomalous=SCORES)
@example(normal=[0, 1, 2, 3, 4], anomalous=[0, 1, 2, 3, 4])
def test_separation_is_what_counting_at_every_threshold_gives(normal: list[int], anomalous: list[int]) -> None:
    """All in whole numbers and fractions, with many ties; in the example FPR80 is 4 of 5."""
    pairs = [Fraction((a > n) + (a >= n), 2) for n in normal for a in anomalous]
    found, precision, fpr80 = 0, Fraction(0), None
    for threshold in sorted({*normal, *anomalous}, reverse=True):
        hits, alarms = sum(a >= threshold for a in anomalous), sum(n >= threshold for n in normal)
        precision += Fraction(hits - found, len(anomalous)) * Fraction(hits, hits + alarms)
        found = hits
        if fpr80 is None and 5 * hits >= 4 * len(anomalous):
            fpr80 = Fraction(alarms, len(normal))
    assert fpr80 is not None
    result = separation(np.array(normal, dtype=float), np.array(anomalous, dtype=float))
    assert result["auroc"] == pytest.approx(float(sum(pairs) / len(pairs)))
    assert result["auprc"] == pytest.approx(float(precision))
    assert result["fpr80"] == float(fpr80)


def test_bootstrap_interval_has_the_width_of_the_known_error() -> None:
    """Two normal distributions one deviation apart: AUROC = Phi(1 / sqrt 2) = 0.760; Hanley and McNeil's error."""
    rng = np.random.default_rng(0)
    n = 400
    normal, anomalous = rng.normal(size=n), rng.normal(1, 1, size=n)
    low, high = bootstrap(normal, anomalous, repeats=300, seed=0)["auroc"]
    area = separation(normal, anomalous)["auroc"]
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = math.sqrt((area * (1 - area) + (n - 1) * (q1 - area**2 + q2 - area**2)) / n**2)
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.2)
    assert low < 0.760 < high
