"""The model that a run trains."""

from __future__ import annotations

from typing import Any

from torch import nn

from biva.models.architectures import Architecture
from biva.models.hierarchical_vae import HierarchicalVAE
from biva.models.semi_supervised import SemiSupervisedVAE, SupervisedClassifier

CLASSIFIERS: dict[str, type[SemiSupervisedVAE] | type[SupervisedClassifier]] = {
    "biva": SemiSupervisedVAE,
    "classifier": SupervisedClassifier,
}


def build_model(architecture: Architecture, model: Any, classes: int = 0) -> nn.Module:
    """A model with new weights, which learns from images alone, or with `classes` from labels too."""
    return CLASSIFIERS[model](architecture, classes) if classes else HierarchicalVAE(architecture, model)
