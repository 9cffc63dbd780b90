"""What changes over a training: the learning rate, by updates or by the clock, the free bits, the weight of the KL."""

from __future__ import annotations

from biva.config import Training

WARM_UP = 0.02
COOL_DOWN = 0.3
"""Shares of the minutes in which the learning rate rises from 0, and falls to it; docs/reproduce.md has the trials."""


def learning_rate(training: Training, update: int, seconds: float) -> float:
    """The learning rate after so many updates, and seconds of training over all attempts.

    Without `training.minutes` it decays by a factor per update down to a minimum (paper.md section 4). With it, it
    rises, stays, and falls to 0 at the end: the paper's schedule is made for millions of updates, and a run that ends
    long before would end at its highest rates.
    """
    if training.minutes is None:
        return max(training.learning_rate * training.learning_rate_decay**update, training.learning_rate_minimum)
    progress = min(1.0, seconds / (60 * training.minutes))
    return training.learning_rate * min(1.0, progress / WARM_UP, (1 - progress) / COOL_DOWN)


def free_bits(training: Training, update: int) -> float:
    """Free bits after so many updates, in nats per latent group and example."""
    left = max(0.0, 1 - update / training.free_bits_updates) if training.free_bits_updates else 1.0
    return training.free_bits * left


def kl_weight(training: Training, update: int) -> float:
    """The factor of the KL in the loss after so many updates."""
    return min(1.0, update / training.kl_warm_up) if training.kl_warm_up else 1.0


def end_of(training: Training, update: int, seconds: float) -> str:
    """Why training ends after so many updates and seconds; empty while it goes on."""
    if update >= training.max_updates:
        return "max_updates"
    return "minutes" if training.minutes is not None and seconds >= 60 * training.minutes else ""


def share_done(training: Training, update: int, seconds: float) -> float:
    """The share of the longest possible training that is done after so many updates and seconds, from 0 to 1."""
    by_clock = seconds / (60 * training.minutes) if training.minutes is not None else 0.0
    return min(1.0, max(update / training.max_updates, by_clock))
