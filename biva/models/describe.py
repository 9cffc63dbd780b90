"""A model in words: stages, latents, shapes, and the number of parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from biva.models.architectures import Architecture, ModelName
from biva.models.hierarchical_vae import HierarchicalVAE, count_parameters


class _ShapesOnly(TorchFunctionMode):
    """While a model is built on the meta device, leave out the values that it would start from.

    There are none on that device, and going through the motions takes most of the time for hundreds of layers.
    """

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.norm_except_dim:  # of weight normalisation
            weight, _, dim = args
            return torch.empty([size if axis == dim else 1 for axis, size in enumerate(weight.shape)])
        if function.__name__ in ("kaiming_uniform_", "uniform_", "normal_", "fill_", "zero_"):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def describe(name: str, architecture: Architecture, model: ModelName) -> str:
    """Lines for people, the last one `parameters: N`. Builds the model without memory for its weights."""
    with torch.device("meta"), _ShapesOnly():
        built = HierarchicalVAE(architecture, model)
    groups = {stage: [] for stage in range(1, len(architecture.stages) + 1)}  # type: dict[int, list[str]]
    for group in built.group_names:
        groups[int(group[1:].split("_")[0])].append(group)
    size = "x".join(map(str, architecture.input_shape))
    lines = [
        f"{name}, {model}: {architecture.description}",
        f"x: {size}, {architecture.likelihood}; F = {architecture.filters}; {architecture.latents} latents",
        "stage  blocks  kernel  stride  map        latents",
    ]
    shapes = zip(architecture.stages, architecture.stage_shapes, architecture.latent_shapes, strict=True)
    for number, (stage, shape, latent) in reversed(list(enumerate(shapes, start=1))):
        latents = ", ".join(f"{group} {'x'.join(map(str, latent))}" for group in groups[number])
        lines.append(
            f"{number:>5}  {stage.blocks:>6}  {stage.kernel:>6}  {stage.stride:>6}  {'x'.join(map(str, shape)):<9}  "
            f"{latents}"
        )
    return "\n".join([*lines, f"parameters: {count_parameters(built)}"])
