"""BIVA with a categorical variable y at the top, and the supervised network beside it (paper.md section 5).

    p(x, y, z) = p(y) p(z_L) prod_i p(z_i | z_>i, y) p(x | z, y), p(y) uniform
    q(y, z | x) = q(z_<L^BU | x) q(y | x, z_<L^BU) q(z_L | x, y, z_<L^BU) prod_i q(z_i^TD | x, z_<i^BU, z_>i, y)

The way up to q(y | .) does not know y, so it is done once per image; of an unlabelled image only the way down is
repeated for every class.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biva.models.architectures import Architecture
from biva.models.generative import GenerativeLadder
from biva.models.hierarchical_vae import Terms
from biva.models.inference import Ascent, BidirectionalInference, ClassHead
from biva.models.latents import Noise
from biva.models.likelihoods import LIKELIHOODS, Likelihood


def every_class(images: int, classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Every pair of an image and a class: the images' rows and the classes, both (classes * images,), class-major."""
    pairs = torch.arange(classes * images, device=device)
    return pairs % images, pairs // images


class Classifier(nn.Module):
    """What both models have: the way up to q(y | x, z_<L^BU)."""

    inference: BidirectionalInference
    class_head: ClassHead

    def ascend(self, x: Tensor, noise: Noise) -> Ascent:
        """Goes up from images x (B, C, H, W) with one sample of the bottom-up latents per image."""
        return self.inference.ascend(self.inference.encode(x), 1, noise)

    def log_q(self, ascent: Ascent) -> Tensor:
        """log q(y | x, z^BU), (B, Y)."""
        log_q: Tensor = self.class_head(ascent.top)
        return log_q

    def classify(self, x: Tensor) -> Tensor:
        """log q(y | x, z^BU) at the posterior means of z^BU, for x (B, C, H, W): (B, Y)."""
        return self.log_q(self.ascend(x, lambda _name, shape: x.new_zeros(shape)))


class SemiSupervisedVAE(Classifier):
    """BIVA whose generative ladder starts from (z_L, y).

    Args:
        architecture: sizes and choices, as for BIVA.
        classes: Y.
    """

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.likelihood: Likelihood = LIKELIHOODS[architecture.likelihood](architecture.input_shape[0])
        self.inference = BidirectionalInference(architecture, classes)
        self.class_head = ClassHead(architecture, classes)
        self.generative = GenerativeLadder(
            architecture,
            self.inference.groups,
            skips=True,
            output_channels=self.likelihood.parameters_per_pixel,
            classes=classes,
        )

    def terms(self, x: Tensor, ascent: Ascent, y: Tensor, noise: Noise) -> Terms:
        """The terms of the bound on log p(x | y), for images x (B, C, H, W) that went up, of classes y (B,), int64."""
        one_hot = F.one_hot(y, self.classes).to(x.dtype)
        walk = self.generative.walk(self.inference.descend(ascent, noise, one_hot), len(x), one_hot)
        return Terms.of(walk, self.likelihood, x)

    def forward(self, x: Tensor, labels: Tensor, noise: Noise) -> tuple[Tensor, Terms]:
        """One sample per row; all images go up together, and down together, the unlabelled ones once per class.

        The labelled images stand first in x (L + U, C, H, W); `labels` are their classes, (L,), int64.

        Returns:
            log q(y | x, z^BU) of every image, (L + U, Y); and the terms of log p(x | y), (L + Y*U,) rows: the labelled
            images with their classes, then the unlabelled ones with every class, class-major.
        """
        labelled, ascent = len(labels), self.ascend(x, noise)
        rows, y = every_class(len(x) - labelled, self.classes, x.device)
        rows = torch.cat([torch.arange(labelled, device=x.device), labelled + rows])
        return self.log_q(ascent), self.terms(x[rows], ascent.rows(rows), torch.cat([labels, y]), noise)


class SupervisedClassifier(Classifier):
    """The same network without a generative model, trained on labelled images alone.

    It passes the posterior means of z^BU on as features: drawing them would add noise with a standard deviation of at
    least 1 and nothing else.
    """

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__()
        self.inference = BidirectionalInference(architecture)
        del self.inference.merges, self.inference.td_heads  # only the way down needs them
        self.class_head = ClassHead(architecture, classes)

    def forward(self, x: Tensor) -> Tensor:
        """log q(y | x, z^BU) at the posterior means of z^BU, for x (B, C, H, W): (B, Y)."""
        return self.classify(x)
