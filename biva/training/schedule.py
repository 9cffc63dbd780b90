"""The learning rate over a training: the paper's, by updates, or one by time for a run that gets so many minutes."""

from __future__ import annotations

from biva.config import Training

WARM_UP = 0.02
COOL_DOWN = 0.3
"""Shares of the minutes in which the learning rate rises from 0, and falls to it; docs/reproduce.md has the trials."""


def learning_rate_factor(training: Training, update: int, seconds: float) -> float:
    """What `training.learning_rate` is multiplied by.

    Without `training.minutes` it decays by a factor per update down to a minimum (paper.md section 4). With it, it
    rises, stays, and falls to 0 at the end: the paper's schedule is made for millions of updates, and a run that ends
    long before would end at its highest rates.

    Args:
        training: the run's settings.
        update: updates made so far.
        seconds: of training so far, over all attempts; used with `training.minutes` only.
    """
    if training.minutes is None:
        return max(training.learning_rate_decay**update, training.learning_rate_minimum / training.learning_rate)
    progress = min(1.0, seconds / (60 * training.minutes))
    return min(1.0, progress / WARM_UP, (1 - progress) / COOL_DOWN)


def is_over(training: Training, seconds: float) -> bool:
    """Whether the run has had its `training.minutes`."""
    return training.minutes is not None and seconds >= 60 * training.minutes
