"""The learning rate over a training: the paper's, by updates, or one by time for a run that gets so many minutes."""

from __future__ import annotations

from biva.config import Training

WARM_UP = 0.02
COOL_DOWN = 0.3
"""Shares of the minutes in which the learning rate rises from 0, and falls to it; docs/reproduce.md has the trials."""


def learning_rate(training: Training, update: int, seconds: float) -> float:
    """The learning rate of an update.

    Without `training.minutes` it decays by a factor per update down to a minimum (paper.md section 4). With it, it
    rises, stays, and falls to 0 at the end: the paper's schedule is made for millions of updates, and a run that ends
    long before would end at its highest rates.

    Args:
        training: the run's settings.
        update: updates made before.
        seconds: of training before, over all attempts; used with `training.minutes` only.
    """
    if training.minutes is None:
        return max(training.learning_rate * training.learning_rate_decay**update, training.learning_rate_minimum)
    progress = min(1.0, seconds / (60 * training.minutes))
    return training.learning_rate * min(1.0, progress / WARM_UP, (1 - progress) / COOL_DOWN)


def end_of(training: Training, update: int, seconds: float) -> str:
    """Why training ends after so many updates and seconds; empty while it goes on."""
    if update >= training.max_updates:
        return "max_updates"
    return "minutes" if training.minutes is not None and seconds >= 60 * training.minutes else ""
