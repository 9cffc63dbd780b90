"""The bounds of single test images, and what they say of the difference between two models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from biva.records import RunFolder, read_arrays

PerImage = NDArray[np.float64]
"""Values of test images: (N,), or (S, N) with a row per seed."""

Bounds = Mapping[int, PerImage]
"""K -> L_K of every evaluated test image of a run, in nats, (N,)."""


def read_bounds(folder: RunFolder) -> dict[int, PerImage]:
    """The bounds of a run's test images by K, from `bounds.safetensors`; nothing where there is no such file."""
    arrays = read_arrays(folder.bounds) if folder.bounds.is_file() else {}
    return {int(name.removeprefix("bound/")): values for name, values in arrays.items()}


@dataclass(frozen=True)
class PairedDifference:
    """An estimated difference between two means and the ends of its 95% interval."""

    value: float
    low: float
    high: float
    over_seeds: bool
    """Whether the interval accounts for the seeds; if not, for the test images alone."""

    @property
    def is_real(self) -> bool:
        """Whether an interval that accounts for the seeds excludes 0."""
        return self.over_seeds and (self.low > 0 or self.high < 0)


def paired_difference(one: PerImage, other: PerImage) -> PairedDifference:
    """The mean of `one` minus that of `other`, with its 95% interval over test images and over seeds.

    The variance has three parts, which are added up: that of the images, from the differences per image of the means
    over seeds, so that what makes an image hard for both models cancels; and for each of the two models that of its
    seeds, from the spread of the seeds' means over images. The interval is Student's, with the degrees of freedom of
    Welch (1947) and Satterthwaite (1946). What is peculiar to a seed and an image together counts in both kinds of
    parts, so that the interval is rather too wide. Where a model has one seed, the interval is over images alone. Its
    ends are NaN where the difference is not finite, or of one image.

    `one` has the values of a model, (S, N), a row per seed; `other` those of the other for the same images, (T, N).
    """
    with np.errstate(invalid="ignore"):  # a bound may be -inf
        per_image = one.mean(axis=0) - other.mean(axis=0)
    value, over_seeds = float(per_image.mean()), len(one) > 1 and len(other) > 1
    if not np.isfinite(value) or len(per_image) == 1:
        return PairedDifference(value, np.nan, np.nan, over_seeds)
    samples = [per_image, *((one.mean(axis=1), other.mean(axis=1)) if over_seeds else ())]
    variances = np.array([np.var(sample, ddof=1) / len(sample) for sample in samples])
    freedoms = np.array([len(sample) - 1 for sample in samples])
    total = variances.sum()
    if total == 0:
        return PairedDifference(value, value, value, over_seeds)
    freedom = total**2 / (variances**2 / freedoms).sum()
    margin = float(stdtrit(freedom, 0.975) * np.sqrt(total))
    return PairedDifference(value, value - margin, value + margin, over_seeds)
