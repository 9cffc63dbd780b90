"""What a model costs, counted without running it: FLOPs, its largest convolution, and what training keeps in memory.

The model and its input are on torch's meta device, which has shapes and no numbers, so that the paper's largest model
takes seconds and no memory. A multiplication and an addition are two FLOPs; convolutions and matrix products count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from biva.bounds import free_bits_loss
from biva.models.architectures import Architecture, ModelName
from biva.models.hierarchical_vae import HierarchicalVAE, count_parameters

MODEL_COPIES = 6
"""Float32 copies of the parameters that training holds: weights, gradients, two averages of Adamax, EMA, best EMA."""


@dataclass(frozen=True)
class Convolution:
    """A convolution as the code computes it, padding included."""

    input: tuple[int, int, int]
    """Channels, height, width."""
    weight: tuple[int, int, int, int]
    """Output channels, input channels, kernel height, kernel width."""
    stride: tuple[int, int]
    padding: tuple[int, int]
    flops: int
    """Per image, forward; forward and backward are three times as many."""

    def __str__(self) -> str:
        out, channels, height, width = self.weight
        on = "x".join(map(str, self.input[1:]))
        return f"{height}x{width}, {channels} -> {out} channels, stride {self.stride[0]}, on {on}"


@dataclass(frozen=True)
class Costs:
    """What a model costs per image."""

    parameters: int
    training: int
    """FLOPs of forward and backward pass per image."""
    encoding: int
    """FLOPs per image that importance sampling spends once, however many samples follow."""
    sampling: int
    """FLOPs per image and importance sample."""
    largest: Convolution
    """The one with the most FLOPs."""
    kept: int
    """Bytes that a float32 forward pass keeps for the backward pass, per image."""
    kept_once: int
    """The same, whatever the batch size: normalised weights."""

    def evaluation(self, k: int) -> float:
        """FLOPs per image and importance sample, when k samples are drawn of every image."""
        return self.encoding / k + self.sampling

    def training_memory(self, batch_size: int) -> int:
        """Bytes: the copies of the parameters, and what a float32 forward pass keeps. Workspaces come on top."""
        return 4 * MODEL_COPIES * self.parameters + self.kept_once + batch_size * self.kept


def count(architecture: Architecture, model: ModelName) -> Costs:
    """Count a model's costs."""
    with torch.device("meta"):
        built = HierarchicalVAE(architecture, model)
    training, kept, convolutions = _training(built, _images(architecture, 1))
    _, kept_of_two, _ = _training(built, _images(architecture, 2))
    x = _images(architecture, 1)
    with FlopCounterMode(display=False) as counter:
        features = built.inference.encode(x)
        encoding = counter.get_total_flops()
        built.terms(x, features, 1, _noise)
    return Costs(
        parameters=count_parameters(built),
        training=training,
        encoding=encoding,
        sampling=counter.get_total_flops() - encoding,
        largest=max(convolutions, key=lambda convolution: convolution.flops),
        kept=kept_of_two - kept,
        kept_once=2 * kept - kept_of_two,
    )


def _images(architecture: Architecture, batch: int) -> Tensor:
    return torch.zeros(batch, *architecture.input_shape, device="meta")


def _noise(shape: torch.Size) -> Tensor:
    return torch.zeros(shape, device="meta")


def _training(model: HierarchicalVAE, x: Tensor) -> tuple[int, int, list[Convolution]]:
    """FLOPs of both passes, bytes that the graph between them holds without the parameters, all convolutions."""
    storages = set()

    def pack(tensor: Tensor) -> Tensor:
        storages.add(tensor.untyped_storage())
        return tensor

    with FlopCounterMode(display=False) as counter, _Convolutions() as convolutions:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            terms = model(x, _noise)
            loss = free_bits_loss(terms.log_likelihood, terms.kl, 0.0)
        loss.backward()
    storages -= {parameter.untyped_storage() for parameter in model.parameters()}
    return counter.get_total_flops(), sum(storage.nbytes() for storage in storages), convolutions.found


class _Convolutions(TorchDispatchMode):
    """Notes every convolution of the passes within it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Convolution] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            x, weight, _, stride, padding = args[:5]
            self.found.append(
                Convolution(
                    tuple(x.shape[1:]),
                    tuple(weight.shape),
                    tuple(stride),
                    tuple(padding),
                    flops=2 * math.prod(output.shape[1:]) * math.prod(weight.shape[1:]),
                )
            )
        return output
