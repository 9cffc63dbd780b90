"""The work that is timed: the real training step and the real evaluation, on random images and untrained weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from biva.bounds import elbo
from biva.config import Device, Precision, RunConfig, Training
from biva.data.datasets import Dataset
from biva.data.preprocessing import model_input
from biva.devices import choose_device
from biva.evaluation.likelihood import IMAGES_PER_BATCH, ImportanceSamples, importance_sample
from biva.evaluation.memory import rows_for
from biva.models.architectures import Architecture, ModelName
from biva.models.hierarchical_vae import HierarchicalVAE
from biva.models.layers import fold_weight_norm
from biva.devices import computing_in
from biva.seeds import derive_seed
from biva.training.state import State, initial_state, step

SEED = derive_seed("bench")


@dataclass(frozen=True)
class Subject:
    """What is measured, and how it is set up; can be sent to another process."""

    architecture_name: str
    architecture: Architecture
    model: ModelName
    device: Device
    threads: int
    compiled: bool

    def set_up(self) -> torch.device:
        """Set torch's threads, and choose the device."""
        torch.set_num_threads(self.threads)
        return choose_device(self.device)


def training_step(subject: Subject, precision: Precision, batch_size: int) -> Callable[[], object]:
    """One update of the weights and their moving average."""
    device = subject.set_up()
    state, training = _initial_state(subject, batch_size, device, precision, subject.compiled)
    return lambda: step(state, training)


def importance_call(subject: Subject, precision: Precision, k: int, images: int) -> Callable[[], ImportanceSamples]:
    """The evaluation as it is: k samples of every image."""
    device = subject.set_up()
    model, x = _folded(initial_model(subject, device), subject), random_images(subject.architecture, images)
    rows = rows_for(model, x, None, device)

    def importance() -> ImportanceSamples:
        with computing_in(precision, device):
            return importance_sample(model, x, k, seed=SEED, rows=rows, device=device)

    return importance


@dataclass(frozen=True)
class Evaluated:
    """The evaluation as it is, and what it replaces: passes over the whole model, nothing kept for the next pass.

    All have the same weights. A pass gives the log-weights of one sample of each of its images.
    """

    rows: int
    """Samples that `importance` walks at once."""
    importance: Callable[[], ImportanceSamples]
    """K samples of every image."""
    sequential: Callable[[], Tensor]
    """A pass over `IMAGES_PER_BATCH` images through the folded weights that `importance` has too."""
    plain: Callable[[], Tensor]
    """A pass over the images of `importance` through the model as it is trained, which normalises its weights anew."""


def evaluation(subject: Subject, precision: Precision, k: int, images: int) -> Evaluated:
    """Importance sampling with k samples of every image, and the passes that it replaces."""
    device = subject.set_up()
    folded, trained = _folded(initial_model(subject, device), subject), initial_model(subject, device)

    def a_pass(model: HierarchicalVAE, x: Tensor) -> Tensor:
        with computing_in(precision, device):
            terms = model(x, lambda _name, shape: torch.randn(shape, device=device))
            return elbo(terms.log_likelihood, terms.kl).cpu()

    batch, x = (random_images(subject.architecture, n).to(device) for n in (IMAGES_PER_BATCH, images))
    rows = rows_for(folded, x, None, device)
    per_batch = min(images, IMAGES_PER_BATCH, rows)
    return Evaluated(
        rows=min(max(1, rows // per_batch), k) * per_batch,
        importance=importance_call(subject, precision, k, images),
        sequential=torch.inference_mode()(partial(a_pass, folded, batch)),
        plain=torch.no_grad()(partial(a_pass, trained, x)),
    )


def _initial_state(
    subject: Subject, batch_size: int, device: torch.device, precision: Precision = "fp32", compiled: bool = False
) -> tuple[State, Training]:
    training = Training(
        protocol="clean",
        batch_size=batch_size,
        max_updates=1,
        evaluate_every=1,
        precision=precision,
        compiled=compiled,
    )
    run = RunConfig(
        experiments="bench",
        dataset="random",
        model=subject.model,
        architecture_name=subject.architecture_name,
        seed=0,
        device="auto",
        threads=subject.threads,
        architecture=subject.architecture,
        training=training,
    )
    return initial_state(run, _random_dataset(subject.architecture, batch_size), device), training


def initial_model(subject: Subject, device: torch.device) -> HierarchicalVAE:
    """After data-dependent initialisation, in evaluation mode."""
    model: HierarchicalVAE = _initial_state(subject, IMAGES_PER_BATCH, device)[0].model.eval()  # type: ignore[assignment]
    return model


def _folded(model: HierarchicalVAE, subject: Subject) -> HierarchicalVAE:
    """The model as `biva evaluate` prepares a trained one."""
    folded: Any = fold_weight_norm(model)
    if subject.compiled:
        folded.inference.encode = torch.compile(folded.inference.encode)
        folded.terms = torch.compile(folded.terms)
    result: HierarchicalVAE = folded
    return result


def _random_dataset(architecture: Architecture, images: int) -> Dataset:
    levels = 2 if architecture.likelihood == "bernoulli" else 256
    generator = torch.Generator().manual_seed(SEED)
    pixels = torch.randint(levels, (images, *architecture.input_shape), dtype=torch.uint8, generator=generator)
    return Dataset(
        name="random",
        fingerprint="",
        shape=architecture.input_shape,
        levels=levels,
        binarisation="static" if levels == 2 else "none",
        images={"train": pixels},
        labels={},
    )


def random_images(architecture: Architecture, images: int) -> Tensor:
    """Model input of random pixels, (images, C, H, W)."""
    dataset = _random_dataset(architecture, images)
    return model_input(dataset.images["train"], dataset.levels, dataset.binarisation)
