"""Anomaly scores made of L^{>k}, and how well they tell anomalies from normal images (paper.md section 5); no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import auc, average_precision_score, roc_curve

Scores = NDArray[np.float64]


def scores(bounds: Scores) -> dict[str, Scores]:
    """Anomaly scores, higher is more anomalous, from L^{>k}, (L + 1, N): each (N,).

    `L>k` is -L^{>k} for k = 0 .. L, and `LLR>k` is L - L^{>k} for k = 1 .. L (Havtorn et al. 2021).
    """
    plain = {f"L>{k}": -bound for k, bound in enumerate(bounds)}
    return plain | {f"LLR>{k}": bounds[0] - bound for k, bound in enumerate(bounds) if k > 0}


def separation(normal: Scores, anomalous: Scores) -> dict[str, float]:
    """How well a score, (N,) on normal and (M,) on anomalous images, tells them apart; each number is a fraction.

    `auroc`: the chance that an anomaly scores higher than a normal image; an equal score counts half. `auprc`: average
    precision, anomalies being the positives. `fpr80`: normal images taken for anomalies at the highest threshold that
    finds 80% of the anomalies or more. For it every distinct score is a threshold: scikit-learn would leave out those
    on a straight piece of the ROC curve, which changes no area.
    """
    labels = np.concatenate([np.zeros(len(normal)), np.ones(len(anomalous))])
    values = np.concatenate([normal, anomalous])
    false_positives, true_positives, _ = roc_curve(labels, values, drop_intermediate=False)
    return {
        "auroc": float(auc(false_positives, true_positives)),
        "auprc": float(average_precision_score(labels, values)),
        "fpr80": float(false_positives[true_positives >= 0.8][0]),
    }


def choice(normal: dict[str, Scores], anomalous: dict[str, Scores]) -> dict[str, Any]:
    """Which LLR^{>k} is best on a pair of datasets that chooses k, so that the pair to be reported has no part in it.

    From every score on the normal images, (N,), and on the anomalies, (M,): `choosing_auroc`, the AUROC of every score,
    and `chosen`, the name of the LLR^{>k} with the highest; of equal ones that with the lowest k.
    """
    aurocs = {name: separation(normal[name], anomalous[name])["auroc"] for name in normal}
    ratios = [name for name in aurocs if name.startswith("LLR")]
    return {"choosing_auroc": aurocs, "chosen": max(ratios, key=aurocs.__getitem__)}


def bootstrap(normal: Scores, anomalous: Scores, *, repeats: int, seed: int) -> dict[str, tuple[float, float]]:
    """Central 95% intervals of the three numbers over resampled images: name -> (low, high)."""
    rng = np.random.default_rng(seed)
    draws = [separation(rng.choice(normal, len(normal)), rng.choice(anomalous, len(anomalous))) for _ in range(repeats)]
    quantiles = {name: np.quantile([draw[name] for draw in draws], [0.025, 0.975]) for name in draws[0]}
    return {name: (float(low), float(high)) for name, (low, high) in quantiles.items()}
