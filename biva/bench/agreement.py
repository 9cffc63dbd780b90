"""Does a device compute what the CPU computes in double precision?"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from biva.bench.work import SEED, Subject, initial_model, random_images
from biva.bounds import elbo
from biva.devices import device_name
from biva.errors import UserError
from biva.models.hierarchical_vae import HierarchicalVAE, count_parameters
from biva.devices import computing_in

IMAGES = 8
LARGEST_DIFFERENCE = 1e-5
"""As a share of the ELBO's mean; float32 on a CPU has 3e-7 of it."""


def agreement(subject: Subject) -> str:
    """The model's parameters, and how far its ELBO in float32 on the device is from that in float64 on the CPU.

    Untrained weights, random images, the same noise.

    Raises:
        UserError: an image's ELBO differs by more than rounding can.
    """
    device, cpu = subject.set_up(), torch.device("cpu")
    model, x = initial_model(subject, cpu), random_images(subject.architecture, IMAGES)
    exact = _elbo(copy.deepcopy(model).double(), x.double())
    with computing_in("fp32", device):
        difference = (_elbo(model.to(device), x.to(device)).cpu() - exact).abs().max().item()
    told = (
        f"{subject.architecture_name}, {subject.model}: {count_parameters(model):,} parameters. ELBO of {IMAGES} "
        f"images, {exact.mean():.1f} nats: {device_name(device)} in fp32 and the CPU in double precision differ by at "
        f"most {difference:.1g} nats"
    )
    if not difference < LARGEST_DIFFERENCE * abs(exact.mean()):
        raise UserError(f"{told}, more than rounding can: nothing computed on this device can be trusted.")
    return f"{told}."


@torch.inference_mode()
def _elbo(model: HierarchicalVAE, x: Tensor) -> Tensor:
    """(B,), by the same noise for every type and device."""
    generator = torch.Generator().manual_seed(SEED)
    terms = model(x, lambda _name, shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(x))
    return elbo(terms.log_likelihood, terms.kl).double()
