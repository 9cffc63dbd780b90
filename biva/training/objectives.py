"""What a run minimises, on which batches, and by what its weights are selected.

A run without labels maximises the ELBO of images. One with labels is either semi-supervised BIVA or the supervised
network that it is measured against (paper.md section 5).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from biva.bounds import class_kl, free_bits_loss, labelled_bound, over_classes, unlabelled_bound, with_free_bits
from biva.config import RunConfig
from biva.data.datasets import Dataset
from biva.data.inputs import TRAINING_SPLIT
from biva.data.labels import balanced_draw
from biva.data.raw import CLASSES
from biva.errors import UserError
from biva.evaluation import pictures
from biva.evaluation.classification import unlabelled_terms
from biva.evaluation.likelihood import count_active, importance_sample
from biva.evaluation.memory import rows_within
from biva.models.hierarchical_vae import Terms
from biva.models.latents import Noise
from biva.seeds import derive_seed
from biva.training.batches import Batches, LabelledBatches, MixedBatches, Stream

SELECTION_BUDGET_MB = 512
ACTIVITY_IMAGES = 500
SAMPLES = 16

_LOG_Q = "log q(y | x)"


class Objective(ABC):
    """What training of one run asks.

    Args:
        run: its settings.
    """

    numbers: ClassVar[tuple[str, ...]]
    """Names of what `loss` tells of a batch; the record has their means over updates."""

    def __init__(self, run: RunConfig) -> None:
        self.run = run

    @abstractmethod
    def batches(self, dataset: Dataset, device: torch.device, seed: Callable[[str], int]) -> Stream:
        """What to train on; `seed` gives one per purpose.

        Raises:
            UserError: the dataset has too few images, or no labels.
        """

    @abstractmethod
    def loss(self, model: Any, batch: Any, noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """The scalar to minimise, and `numbers`, detached scalars."""

    @abstractmethod
    def terms(self, model: Any, batch: Any, noise: Noise) -> dict[str, Tensor]:
        """What the loss is made of, by name, image by image."""

    def not_finite(self, model: Any, batch: Any, noise: Noise) -> list[str]:
        """Names of the terms that are infinite or NaN for an image of the batch."""
        return [name for name, term in self.terms(model, batch, noise).items() if not term.isfinite().all()]

    @abstractmethod
    def evaluate(self, model: Any, x: Tensor, device: torch.device) -> tuple[dict[str, float], dict[str, float]]:
        """What selects the weights: means over the selection split x (N, C, H, W), and the KL of every latent group.

        The weights with the highest `elbo` are selected; where there is none, the newest.
        """

    def active_units(self, model: Any, x: Tensor, device: torch.device) -> dict[str, dict[str, int]]:
        """Active units in every latent group, and how many it has; nothing where they are not asked for."""
        return {}

    def samples(self, model: Any, device: torch.device) -> Tensor | None:
        """Images from the prior, (N, C, H, W) uint8; None where they are not asked for."""
        return None


class MaximumLikelihood(Objective):
    """The ELBO of images, with free bits (paper.md section 4)."""

    numbers = ("log_likelihood", "kl")

    def batches(self, dataset: Dataset, device: torch.device, seed: Callable[[str], int]) -> Batches:
        """All training images."""
        return _all_images(self.run, dataset, device, seed)

    def loss(self, model: Any, batch: Tensor, noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """Negative ELBO with free bits."""
        terms = model(batch, noise)
        loss = free_bits_loss(terms.log_likelihood, terms.kl, self.run.training.free_bits)
        return loss, [terms.log_likelihood.detach().mean(), terms.kl.detach().sum(1).mean()]

    def terms(self, model: Any, batch: Tensor, noise: Noise) -> dict[str, Tensor]:
        """Of the bound."""
        return _named(model, model(batch, noise))

    def evaluate(self, model: Any, x: Tensor, device: torch.device) -> tuple[dict[str, float], dict[str, float]]:
        """The ELBO at one sample per image, without free bits; nats."""
        seed = derive_seed(self.run.seed, "selection")
        rows = rows_within(SELECTION_BUDGET_MB, self.run.architecture)
        samples = importance_sample(model, x, 1, seed=seed, rows=rows, device=device)
        kl = {name: value.mean().item() for name, value in samples.kl.items()}
        terms = {
            "elbo": samples.log_weights.mean().item(),
            "log_likelihood": samples.log_likelihood.mean().item(),
            "kl": sum(kl.values()),
        }
        return terms, kl

    def active_units(self, model: Any, x: Tensor, device: torch.device) -> dict[str, dict[str, int]]:
        """Told from two samples of the first images, drawn for this alone, so that the cost is small."""
        seed = derive_seed(self.run.seed, "activity")
        rows = rows_within(SELECTION_BUDGET_MB, self.run.architecture)
        return count_active(importance_sample(model, x[:ACTIVITY_IMAGES], 2, seed=seed, rows=rows, device=device))

    def samples(self, model: Any, device: torch.device) -> Tensor:
        """Always of the same noise, so that they differ by what training has changed."""
        return pictures.samples(model, SAMPLES, derive_seed(self.run.seed, "samples during training"), device)


class SemiSupervised(Objective):
    """The bounds of labelled and unlabelled images, and alpha times the classifier's loss (paper.md section 5).

    The loss is the sum of three batch means: minus the bound on log p(x, y) of the labelled images, minus the bound on
    log p(x) of the unlabelled ones, and alpha times -log q(y | x, z^BU) at the labels. Every training image counts as
    an unlabelled one, those with a label too. Free bits hold per Gaussian latent group, for every class; the KL of y
    has none: it is exact, at most log Y, and must not be free, since y is what the model is for.

    The weights are selected by the bound on log p(x), which needs no label.
    """

    numbers = ("log_likelihood", "kl", "cross_entropy", "error")

    def batches(self, dataset: Dataset, device: torch.device, seed: Callable[[str], int]) -> MixedBatches:
        """The images that keep their labels, beside all training images."""
        return MixedBatches(_labelled(self.run, dataset, device, seed), _all_images(self.run, dataset, device, seed))

    def loss(self, model: Any, batch: tuple[Tensor, Tensor], noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """The three terms; the numbers are of the unlabelled images, the last two of the labelled ones."""
        x, y = batch
        assert self.run.labels is not None
        assert self.run.labels.weight is not None
        log_q, terms = model(x, y, noise)
        labelled, log_q_labelled, log_q_unlabelled = len(y), log_q[: len(y)], log_q[len(y) :]
        bounds = labelled_bound(terms.log_likelihood, with_free_bits(terms.kl, self.run.training.free_bits), CLASSES)
        unlabelled = unlabelled_bound(bounds[labelled:].view(CLASSES, -1), log_q_unlabelled)
        cross_entropy = F.nll_loss(log_q_labelled, y)
        loss = self.run.labels.weight * cross_entropy - bounds[:labelled].mean() - unlabelled.mean()
        with torch.no_grad():
            likelihood, kl = (
                over_classes(rows[labelled:].view(CLASSES, -1), log_q_unlabelled).mean()
                for rows in (terms.log_likelihood, terms.kl.sum(1))
            )
            numbers = [likelihood, kl + class_kl(log_q_unlabelled).mean(), cross_entropy, _error(log_q_labelled, y)]
        return loss, [number.detach() for number in numbers]

    def terms(self, model: Any, batch: tuple[Tensor, Tensor], noise: Noise) -> dict[str, Tensor]:
        """Of the bounds of both kinds of images, and log q(y | x)."""
        log_q, terms = model(*batch, noise)
        return {_LOG_Q: log_q} | _named(model, terms)

    def evaluate(self, model: Any, x: Tensor, device: torch.device) -> tuple[dict[str, float], dict[str, float]]:
        """The bound on log p(x) at one sample per image, without free bits; nats. The KL has that of y too."""
        seed = derive_seed(self.run.seed, "selection")
        rows = rows_within(SELECTION_BUDGET_MB, self.run.architecture)
        terms = unlabelled_terms(model, x, seed=seed, rows=rows, device=device)
        kl = {name: value.mean().item() for name, value in terms.kl.items()}
        means = {"elbo": terms.bound.mean().item(), "log_likelihood": terms.log_likelihood.mean().item()}
        return means | {"kl": sum(kl.values())}, kl


class Supervised(Objective):
    """Cross-entropy at the labels alone.

    There is nothing without labels to select weights by, so the newest are taken: those after all updates.
    """

    numbers = ("error",)

    def batches(self, dataset: Dataset, device: torch.device, seed: Callable[[str], int]) -> LabelledBatches:
        """The images that keep their labels; the same ones as in the semi-supervised run of this seed."""
        return _labelled(self.run, dataset, device, seed)

    def loss(self, model: Any, batch: tuple[Tensor, Tensor], noise: Noise) -> tuple[Tensor, list[Tensor]]:
        """Mean of -log q(y | x)."""
        x, y = batch
        log_q = model(x)
        return F.nll_loss(log_q, y), [_error(log_q.detach(), y)]

    def terms(self, model: Any, batch: tuple[Tensor, Tensor], noise: Noise) -> dict[str, Tensor]:
        """log q(y | x)."""
        return {_LOG_Q: model(batch[0])}

    def evaluate(self, model: Any, x: Tensor, device: torch.device) -> tuple[dict[str, float], dict[str, float]]:
        """Nothing."""
        return {}, {}


def objective_of(run: RunConfig) -> Objective:
    """What training of this run minimises."""
    if run.labels is None:
        return MaximumLikelihood(run)
    return Supervised(run) if run.labels.weight is None else SemiSupervised(run)


def _all_images(run: RunConfig, dataset: Dataset, device: torch.device, seed: Callable[[str], int]) -> Batches:
    images = dataset.split(TRAINING_SPLIT[run.training.protocol])
    size = run.training.batch_size
    if size > len(images):
        raise UserError(
            f"training.batch_size is {size}, but dataset {dataset.name!r} has only {len(images)} "
            f"training images. Use a smaller batch."
        )
    return Batches(images, dataset.levels, dataset.binarisation, size, seed("data"), device)


def _labelled(run: RunConfig, dataset: Dataset, device: torch.device, seed: Callable[[str], int]) -> LabelledBatches:
    """The draw of labels depends on the run's seed alone: not on model, settings or batches."""
    assert run.labels is not None
    split = TRAINING_SPLIT[run.training.protocol]
    labels = dataset.labels_of(split)
    chosen = balanced_draw(labels, run.labels.count, CLASSES, seed("labels"))
    images = Batches(
        dataset.split(split)[chosen],
        dataset.levels,
        dataset.binarisation,
        run.labels.batch_size,
        seed("labelled data"),
        device,
    )
    return LabelledBatches(images, labels[chosen])


def _named(model: Any, terms: Terms) -> dict[str, Tensor]:
    kl = {f"the KL of {name}": of_group for name, of_group in zip(model.group_names, terms.kl.unbind(1), strict=True)}
    return {"log p(x | z)": terms.log_likelihood} | kl


def _error(log_q: Tensor, y: Tensor) -> Tensor:
    """Percent of images of which another class is the most probable."""
    return 100 * (log_q.argmax(dim=1) != y).double().mean()
