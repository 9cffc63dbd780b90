"""One look for all plots, and one name for each model in tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from biva.config import FINETUNED, RunConfig
from biva.models.architectures import ModelName

MODELS: tuple[str, ...] = tuple(model + ending for model in get_args(ModelName) for ending in ("", FINETUNED))
"""Every model and its fine-tuning, in the order of all tables and figures: from the simplest inference to the
paper's. These are the variants of `biva.config.RunConfig`."""

LABELS: dict[str, str] = {model: model.replace("_", " ") for model in get_args(ModelName)}
LABELS |= {"vae": "VAE", "lvae": "LVAE", "lvae_plus": "LVAE+", "biva": "BIVA"}
LABELS |= {model + FINETUNED: f"{label} finetuned" for model, label in LABELS.items()}

CLASSIFIERS = {"biva": "BIVA", "classifier": "Supervised network"}
"""Models that learn from labels -> their name in tables; BIVA is called so in the reported values too."""


def name_of(run: RunConfig) -> str:
    """A run's model as people call it, with what is special about its training."""
    return LABELS[run.variant] if run.labels is None else f"{CLASSIFIERS[run.model]}, {run.labels.count} labels"


MUTED = "#555555"
"""Text and lines that explain rather than show data; a model without a colour of its own."""

COLOURS: dict[str, str] = dict.fromkeys(MODELS, MUTED)
COLOURS |= {"vae": "#E69F00", "lvae": "#56B4E9", "lvae_plus": "#009E73", "biva": "#0072B2"}
COLOURS |= {"vae_finetuned": "#D55E00", "lvae_finetuned": "#CC79A7", "lvae_plus_finetuned": "#F0E442"}
COLOURS |= {"biva_finetuned": "#000000"}
"""Okabe and Ito's colours, which people with any kind of colour blindness tell apart."""

MARKERS: dict[str, str] = dict.fromkeys(MODELS, "*")
MARKERS |= {"vae": "s", "lvae": "v", "lvae_plus": "^", "biva": "o"}
MARKERS |= {"vae_finetuned": "P", "lvae_finetuned": "X", "lvae_plus_finetuned": "D", "biva_finetuned": "d"}

COLUMN_WIDTH = 3.4
"""Width of one column of a two-column paper, in inches; every figure is drawn at this width."""

LOOK = Path(__file__).with_name("figures.mplstyle")
"""matplotlib's settings of every figure."""
