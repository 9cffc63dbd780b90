"""A model in words: stages, latents, shapes, and the number of parameters."""

from __future__ import annotations

from biva.models.architectures import Architecture, ModelName
from biva.models.hierarchical_vae import HierarchicalVAE, count_parameters


def describe(name: str, architecture: Architecture, model: ModelName) -> str:
    """A table for people, whose last line is `parameters: N`; the model is built for it, with 4 bytes a parameter."""
    built = HierarchicalVAE(architecture, model)
    size = "x".join(map(str, architecture.input_shape))
    lines = [
        f"{name}, {model}: {architecture.description}",
        f"x: {size}, {architecture.likelihood}; F = {architecture.filters}; {architecture.latents} latents",
        "stage  blocks  kernel  stride  map        latents",
    ]
    shapes = zip(architecture.stages, architecture.stage_shapes, architecture.latent_shapes, strict=True)
    for number, (stage, shape, latent) in reversed(list(enumerate(shapes, start=1))):
        groups = [name for name in built.group_names if name.split("_")[0] == f"z{number}"]
        latents = ", ".join(f"{group} {'x'.join(map(str, latent))}" for group in groups)
        lines.append(
            f"{number:>5}  {stage.blocks:>6}  {stage.kernel:>6}  {stage.stride:>6}  {'x'.join(map(str, shape)):<9}  "
            f"{latents}"
        )
    return "\n".join([*lines, f"parameters: {count_parameters(built)}"])
