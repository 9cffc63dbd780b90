"""Pictures of a trained model: every one is the ladder walked once more, with another source of latents.

Each kind of picture has noise of its own, so that one more kind changes no other.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from biva.config import Evaluation
from biva.evaluation.noise import named_noise
from biva.models.generative import given, posterior_above, prior_mean
from biva.models.hierarchical_vae import HierarchicalVAE
from biva.seeds import derive_seed

SHOWN = 10
"""Test images that are reconstructed; the first of them are decoded layer by layer, and all interpolated in pairs."""
PER_TEMPERATURE = 10
LAYER_IMAGES = 6
INTERPOLATION_STEPS = 8


@torch.inference_mode()
def pictures(
    model: HierarchicalVAE, x: Tensor, settings: Evaluation, seed: int, device: torch.device
) -> dict[str, Tensor]:
    """The sheets of images that figures show of a model: `sheet/NAME`, as `sheet` makes them.

    `model` is in evaluation mode, on `device`; x is its input for the test images that are shown, (`SHOWN`, C, H, W) or
    fewer; `settings` say how many prior samples, and at which temperatures; `seed` is that of the evaluation.
    """
    x = x.to(device)
    noise = named_noise(derive_seed(seed, "pictures"), device)
    samples = _picture(model, model.sample(settings.prior_samples, noise), derive_seed(seed, "samples"))
    reconstructions = _picture(model, model(x, noise).walk.output, derive_seed(seed, "reconstructions"))
    rows = {
        "reconstructions": torch.stack([model.likelihood.unscale(x), reconstructions]),
        "temperatures": temperatures(model, settings.temperatures, derive_seed(seed, "temperatures"), device),
        "layers": layers(model, x[:LAYER_IMAGES], derive_seed(seed, "layers")),
        "interpolations": interpolations(model, x, derive_seed(seed, "interpolations")),
    }
    sheets = {"samples": sheet(samples, columns=math.ceil(math.sqrt(len(samples))))}
    sheets |= {name: sheet(images.flatten(0, 1), columns=images.shape[1]) for name, images in rows.items()}
    return {f"sheet/{name}": images for name, images in sheets.items()}


def sheet(images: Tensor, columns: int) -> Tensor:
    """Images (N, C, H, W) in [0, 1], C = 1 or 3, in rows of `columns`, with a white pixel between and around them.

    Returns:
        (3, rows (H + 1) + 1, columns (W + 1) + 1), uint8, on the CPU; a single image has no frame.
    """
    from biva.vision import torchvision

    grid: Tensor = torchvision.utils.make_grid(images.float(), nrow=columns, padding=1, pad_value=1.0)
    return (255 * grid).round().byte().contiguous().cpu()


def _picture(model: HierarchicalVAE, output: Tensor, seed: int) -> Tensor:
    """What to show of p(x | z); where that is a sample, all pictures with one seed share its noise."""
    generator = torch.Generator(output.device).manual_seed(derive_seed(seed, "pixels"))
    return model.likelihood.picture(output, generator)


def temperatures(model: HierarchicalVAE, values: tuple[float, ...], seed: int, device: torch.device) -> Tensor:
    """Images from the prior with its deviations times each of `values`, with the same noise: (T, N, C, H, W)."""
    outputs = [model.sample(PER_TEMPERATURE, named_noise(seed, device), temperature) for temperature in values]
    return torch.stack([_picture(model, output, seed) for output in outputs])


def layers(model: HierarchicalVAE, x: Tensor, seed: int) -> Tensor:
    """Which stage holds what: latents above stage k from the posterior, and the means of the prior below.

    All k share one posterior sample, since noise goes by the names of the draws. x (N, C, H, W), on the model's device.

    Returns:
        (N, L + 2, C, H, W): the image, then k = 0 (a reconstruction) to L (the prior's means alone).
    """
    noise = cache(named_noise(seed, x.device))
    posterior = model.inference.posterior(model.inference.encode(x), 1, noise)
    columns = [model.likelihood.unscale(x)]
    for k in range(len(model.generative.stages) + 1):
        walk = model.generative.walk(posterior_above(k, posterior, prior_mean), len(x))
        columns.append(_picture(model, walk.output, seed))
    return torch.stack(columns, dim=1)


def interpolations(model: HierarchicalVAE, x: Tensor, seed: int) -> Tensor:
    """From one image to another: a posterior sample of each, and what lies between.

    What is interpolated is the noise of which the priors make the latents (`Step.noise`), on the sphere. Under the
    prior this noise is standard normal in every group, and its norm stays that of the ends on the way, so that the
    images between have latents as likely as those of the ends. A straight line would pass through noise of too small
    a norm, and latents interpolated themselves would not fit the changed latents above them.

    The images x (N, C, H, W), on the model's device, of the first half lead to those of the second.

    Returns:
        (N // 2, steps + 2, C, H, W), the two images themselves at the ends; a single image leads to itself.
    """
    pairs = max(1, len(x) // 2)
    noise = {name: step.noise() for name, step in model(x, named_noise(seed, x.device)).walk.steps.items()}
    columns = [model.likelihood.unscale(x[:pairs])]
    for t in torch.linspace(0, 1, INTERPOLATION_STEPS).tolist():
        between = {name: slerp(values[:pairs], values[-pairs:], t) for name, values in noise.items()}
        columns.append(_picture(model, model.generative.walk(given(between), pairs).output, seed))
    columns.append(model.likelihood.unscale(x[-pairs:]))
    return torch.stack(columns, dim=1)


def slerp(start: Tensor, end: Tensor, t: float) -> Tensor:
    """Spherical interpolation of every row, (B, ...); a straight line where two rows are (anti)parallel.

    `sin((1 - t) a) / sin(a) start + sin(t a) / sin(a) end`, with the angle a between them.
    """
    dtype, start, end = start.dtype, start.double(), end.double()
    cosine = torch.nn.functional.cosine_similarity(start.flatten(1), end.flatten(1)).clamp(-1, 1)
    angle = torch.acos(cosine).view(-1, *[1] * (start.dim() - 1))
    sine = torch.sin(angle)
    line = sine < 1e-4
    divisor = torch.where(line, 1, sine)
    first = torch.where(line, 1 - t, torch.sin((1 - t) * angle) / divisor)
    second = torch.where(line, t, torch.sin(t * angle) / divisor)
    return (first * start + second * end).to(dtype)
