"""What a model costs, counted without running it: FLOPs, its largest convolution, and what training keeps in memory.

The model and its input are on torch's meta device, which has shapes and no numbers, so that the paper's largest model
takes seconds and no memory. A multiplication and an addition are two FLOPs; convolutions and matrix products count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
        return (
            f"{height}x{width}, {channels} -> {out} channels, stride {self.stride[0]}, {'x'.join(map(str, self.input))}"
        )


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
    kept = [_kept_for_backward(built, _images(architecture, batch)) for batch in (1, 2)]
    x, convolutions = _images(architecture, 1), _Convolutions()
    with convolutions:
        features = built.inference.encode(x)
        built.terms(x, features, 1, _noise)
    return Costs(
        parameters=count_parameters(built),
        training=_flops(lambda: _loss(built, x).backward()),
        encoding=_flops(lambda: built.inference.encode(x)),
        sampling=_flops(lambda: built.terms(x, features, 1, _noise)),
        largest=max(convolutions.found, key=lambda convolution: convolution.flops),
        kept=kept[1] - kept[0],
        kept_once=2 * kept[0] - kept[1],
    )


def _images(architecture: Architecture, batch: int) -> Tensor:
    return torch.zeros(batch, *architecture.input_shape, device="meta")


def _noise(shape: torch.Size) -> Tensor:
    return torch.zeros(shape, device="meta")


def _loss(model: HierarchicalVAE, x: Tensor) -> Tensor:
    terms = model(x, _noise)
    return free_bits_loss(terms.log_likelihood, terms.kl, 0.0)


def _flops(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def _kept_for_backward(model: HierarchicalVAE, x: Tensor) -> int:
    """Bytes of all storages but the parameters' that the graph of the loss holds."""
    storages = set()

    def pack(tensor: Tensor) -> Tensor:
        storages.add(tensor.untyped_storage())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        _loss(model, x)
    return sum(storage.nbytes() for storage in storages - {p.untyped_storage() for p in model.parameters()})


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
