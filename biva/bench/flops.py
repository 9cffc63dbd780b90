"""What a model costs, counted without running it: FLOPs, its largest convolution, and what training keeps in memory.

The model and its input are torch's fake tensors, which have shapes, memory formats and no numbers, so that the paper's
largest model takes seconds and no memory. A multiplication and an addition are two FLOPs; convolutions and matrix
products count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from biva.bounds import free_bits_loss
from biva.config import RunConfig
from biva.data.raw import CLASSES
from biva.models.architectures import Architecture, ModelName
from biva.models.build import build_model
from biva.models.hierarchical_vae import HierarchicalVAE, count_parameters
from biva.models.semi_supervised import every_class
from biva.training.objectives import Supervised, objective_of

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
    with FakeTensorMode():
        built = HierarchicalVAE(architecture, model)

        def loss(batch: int) -> Tensor:
            terms = built(_images(architecture, batch), _noise)
            return free_bits_loss(terms.log_likelihood, terms.kl, 0.0)

        training, convolutions = _training(lambda: loss(1))
        kept, kept_of_two = _kept(built, lambda: loss(1)), _kept(built, lambda: loss(2))
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


def count_labelled(run: RunConfig) -> Costs:
    """Costs of a run with labels: of training per image of its `batch_size`, the labelled ones of an update included.

    Evaluation counts a pass per image: through the classifier, and of a semi-supervised model through every class.
    """
    with FakeTensorMode():
        assert run.labels is not None
        built: Any = build_model(run.architecture, run.model, CLASSES)
        objective, labelled, images = objective_of(run), run.labels.batch_size, run.training.batch_size
        rows = labelled if isinstance(objective, Supervised) else labelled + images
        batch = (_images(run.architecture, rows), torch.zeros(labelled, dtype=torch.int64))

        def loss() -> Tensor:
            return objective.loss(built, batch, _noise)[0]

        training, convolutions = _training(loss)
        x = _images(run.architecture, 1)
        with FlopCounterMode(display=False) as counter:
            ascent = built.ascend(x, _noise)
            built.log_q(ascent)
            if not isinstance(objective, Supervised):
                rows_of_classes, y = every_class(1, CLASSES, x.device)
                built.terms(x[rows_of_classes], ascent.rows(rows_of_classes), y, _noise)
        return Costs(
            parameters=count_parameters(built),
            training=training // images,
            encoding=0,
            sampling=counter.get_total_flops(),
            largest=max(convolutions, key=lambda convolution: convolution.flops),
            kept=_kept(built, loss) // images,
            kept_once=0,
        )


def _images(architecture: Architecture, batch: int) -> Tensor:
    return torch.zeros(batch, *architecture.input_shape)


def _noise(_name: str, shape: torch.Size) -> Tensor:
    return torch.zeros(shape)


def _training(loss: Callable[[], Tensor]) -> tuple[int, list[Convolution]]:
    """FLOPs of both passes, all convolutions of the forward pass."""
    with FlopCounterMode(display=False) as counter, _Convolutions() as convolutions:
        loss().backward()
    return counter.get_total_flops(), convolutions.found


def _kept(model: nn.Module, loss: Callable[[], Tensor]) -> int:
    """Bytes that the graph of the forward pass holds without the parameters."""
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss()
    assert value.requires_grad  # keeps the graph, and so the storages, until here
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    return sum(storage.nbytes() for address, storage in storages.items() if address not in parameters)


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
