"""Weight-normalised layers with data-dependent initialisation, and the gated residual block (paper.md section 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from biva.models.architectures import Shape

DIRECTION_SCALE = 0.05  # standard deviation of V before training
OUTPUT_SCALE = 0.01  # standard deviation of every output unit on the initialisation batch

Layer = TypeVar("Layer", bound=nn.Module)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one axis in TensorFlow's SAME padding: the odd one out goes after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any = 1, padding: Any = 0) -> Tensor:
    """Convolution in the channels-last memory format, which is the faster one everywhere; its output keeps it."""
    x, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
    return F.conv2d(x, weight, bias, stride, padding)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: (B, C, H, W) -> (B, out, ceil(H / stride), ceil(W / stride))."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        (top, bottom), (left, right) = (_same_padding(size, kernel, stride) for size in x.shape[-2:])
        if top != bottom or left != right:
            x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
        return _conv2d(x, self.weight, self.bias, self.stride, (top, left))


class SameConvTranspose2d(nn.ConvTranspose2d):
    """Gradient of `SameConv2d`, TensorFlow's transposed convolution: (B, C, H, W) -> (B, out, H*stride, W*stride).

    Computed as an ordinary convolution at low resolution with stride^2 times the channels, one per phase of the
    output grid, which are then interleaved: the same sums, but torch's CPU convolutions are fast and its transposed
    ones are not. With pad p before, out[stride*m + r] = sum_t weight[r + p + stride*t] x[m - t] along each axis.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        kernel, stride = self.kernel_size[0], self.stride[0]
        before, _ = _same_padding(stride * x.shape[-1], kernel, stride)
        first, last = -((stride - 1 + before) // stride), (kernel - 1 - before) // stride  # range of t
        taps = last - first + 1
        left = -(before + stride * first)
        right = stride * taps - kernel - left
        phases = (
            F.pad(self.weight, (left, right, left, right)).unflatten(3, (taps, stride)).unflatten(2, (taps, stride))
        )
        weight = phases.flip(2, 4).permute(3, 5, 1, 0, 2, 4).flatten(0, 2)
        bias = None if self.bias is None else self.bias.repeat(stride**2)
        return _interleaved(_conv2d(F.pad(x, (last, -first, last, -first)), weight, bias), stride)


def _interleaved(x: Tensor, stride: int) -> Tensor:
    """Phases of a grid, given one after the other: (B, stride^2 * C, H, W) -> (B, C, H*stride, W*stride)."""
    phases = x.permute(0, 2, 3, 1).unflatten(3, (stride, stride, -1))
    result: Tensor = phases.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    return result


def at_least_float32(x: Tensor) -> Tensor:
    """What autocast computed in bfloat16 as float32, anything else as it is: distributions are never in bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def weight_normalised(layer: Layer) -> Layer:
    """Reparametrise W = g V / |V| with V ~ N(0, 0.05^2), g = 1, b = 0: the state before `data_dependent_init`."""
    transposed = isinstance(layer, nn.ConvTranspose2d)
    weight_norm(layer, dim=1 if transposed else 0)
    scale, direction, bias = _scale_direction_bias(layer)
    with torch.no_grad():
        direction.normal_(0, DIRECTION_SCALE)
        scale.fill_(1)
        bias.zero_()
    return layer


def _scale_direction_bias(layer: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """The parameters g, V and b of a weight-normalised layer."""
    any_layer: Any = layer
    weight = any_layer.parametrizations.weight
    return weight.original0, weight.original1, any_layer.bias


def conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Module:
    """Weight-normalised SAME convolution."""
    return weight_normalised(SameConv2d(channels, out, kernel, stride))


def transposed_conv(channels: int, out: int, kernel: int, stride: int) -> nn.Module:
    """Weight-normalised transposed SAME convolution."""
    return weight_normalised(SameConvTranspose2d(channels, out, kernel, stride))


def dense(features: int, out: int) -> nn.Module:
    """Weight-normalised dense layer."""
    return weight_normalised(nn.Linear(features, out))


@contextmanager
def data_dependent_init(model: nn.Module) -> Iterator[None]:
    """Within this context, the first forward pass of every weight-normalised layer sets its g and b.

    Afterwards each output unit of the layer has mean 0 and standard deviation 0.01 over that batch (and over positions,
    for a convolution). Later layers see the initialised outputs of earlier ones, so one pass initialises the model.
    """
    handles: dict[nn.Module, Any] = {}

    def initialise(layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        handles.pop(layer).remove()
        others = [axis for axis in range(output.dim()) if axis != 1]
        variance, mean = torch.var_mean(output, dim=others, correction=0)
        factor = OUTPUT_SCALE / torch.sqrt(variance + 1e-10)
        with torch.no_grad():
            scale, _, bias = _scale_direction_bias(layer)
            scale.mul_(factor.view_as(scale))
            bias.copy_(-mean * factor)
        shape = [-1 if axis == 1 else 1 for axis in range(output.dim())]
        return (output - mean.view(shape)) * factor.view(shape)

    for layer in model.modules():
        if parametrize.is_parametrized(layer, "weight"):
            handles[layer] = layer.register_forward_hook(initialise)
    try:
        yield
    finally:
        for handle in handles.values():
            handle.remove()


def fold_weight_norm(model: nn.Module) -> nn.Module:
    """Replace every g V / |V| by the plain weight it stands for, in place: the same function, cheaper to evaluate."""
    for layer in model.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")
    return model


class _EluDropout(torch.autograd.Function):
    """`EluDropout` given the mask, with a gradient that needs the output and the mask alone."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, keep: Tensor, scale: float) -> Tensor:
        output: Tensor = torch.ops.aten.elu(h, 1, scale).mul_(keep)
        ctx.scale = scale
        ctx.save_for_backward(output, keep)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        output, keep = ctx.saved_tensors
        of_h: Tensor = torch.ops.aten.elu_backward(grad, 1, ctx.scale, 1, True, output)
        return of_h.mul_(keep), None, None


class EluDropout(nn.Dropout):
    """Dropout of the ELU of a map, which nothing else needs: it may be overwritten.

    On the CPU, where torch draws a number on one thread for each element, 8 random bits decide about an element. A rate
    that is no multiple of 2^-8 takes 16, and is a multiple of 2^-16.
    """

    def forward(self, h: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return F.elu(h, inplace=True)
        dropped: Tensor = _EluDropout.apply(h, self.keep(h), 1 / (1 - self.p))  # type: ignore[no-untyped-call]
        return dropped

    def keep(self, h: Tensor) -> Tensor:
        """What is kept of a map like h, at random; bool."""
        if h.device.type != "cpu":
            return torch.empty_like(h, dtype=torch.bool).bernoulli_(1 - self.p)
        integer = torch.int8 if (256 * self.p).is_integer() else torch.int16
        words = torch.empty(-(-h.numel() * integer.itemsize // 8), dtype=torch.int64).random_(-(2**63), None)
        numbers = words.view(integer)[: h.numel()].as_strided(h.shape, h.stride())
        return torch.ge(numbers, round((self.p - 0.5) * 256**integer.itemsize))


class _Gate(torch.autograd.Function):
    """`gate` with a gradient that is written in one piece, in the memory format of the map."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        ctx.save_for_backward(h)
        return F.glu(h, dim=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors
        value, gate = h.chunk(2, dim=1)
        result = torch.empty_like(h, dtype=grad.dtype)
        of_value, of_gate = result.chunk(2, dim=1)
        open_ = torch.sigmoid(gate)
        torch.mul(grad, open_, out=of_value)
        torch.mul(of_value, value, out=of_gate)
        of_gate.addcmul_(of_gate, open_, value=-1)
        return result


def gate(h: Tensor) -> Tensor:
    """First half of the channels times the sigmoid of the second: (B, 2C, H, W) -> (B, C, H, W)."""
    gated: Tensor = _Gate.apply(h)  # type: ignore[no-untyped-call]
    return gated


class GatedBlock(nn.Module):
    """Gated residual block with an optional auxiliary input (paper.md section 2).

    `h = conv(elu(x)) + conv_1(a); y = gate(conv_s(dropout(elu(h)))) + shortcut(x)`, where a is the ELU of a map, given
    activated since several blocks receive the same one.

    Args:
        shape: (C, H, W) of x.
        filters: F, channels of the output.
        kernel: kernel size of both convolutions, and of the one that resizes an auxiliary input.
        stride: of the second convolution.
        auxiliary: (C, H, W) of a; None: the block has no auxiliary input.
        transposed: the stride enlarges the map (generative path) instead of shrinking it.
        shortcut: add x where the shapes allow it, in the convention of the authors' `tensorflow` or `pytorch` code;
            None: never.
        dropout: rate.
    """

    def __init__(
        self,
        shape: Shape,
        filters: int,
        kernel: int,
        *,
        stride: int = 1,
        auxiliary: Shape | None = None,
        transposed: bool = False,
        shortcut: Literal["tensorflow", "pytorch"] | None,
        dropout: float,
    ) -> None:
        super().__init__()
        channels, size, _ = shape
        enlarges = transposed and stride > 1
        resize: Callable[..., nn.Module] = transposed_conv if enlarges else conv
        self.conv_in = conv(channels, filters, kernel)
        self.conv_aux = None if auxiliary is None else _auxiliary_conv(auxiliary, size, filters, kernel)
        self.conv_out = resize(filters, 2 * filters, kernel, stride)
        self.dropout = EluDropout(dropout)
        new_size = size * stride if enlarges else size // stride
        self.output_shape: Shape = (filters, new_size, new_size)
        self.grow = filters - channels
        self.pool = _POOLS[shortcut] if shortcut and stride > 1 else None
        fits = self.grow >= 0 if shortcut == "tensorflow" else self.grow <= 0
        self.residual = shortcut is not None and fits and not enlarges

    def forward(self, x: Tensor, auxiliary: Tensor | None = None) -> Tensor:
        h = self.conv_in(F.elu(x))
        if self.conv_aux is not None:
            assert auxiliary is not None
            h += self.conv_aux(auxiliary)
        y = gate(self.conv_out(self.dropout(h)))
        return y + self._shortcut(x) if self.residual else y

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = self.pool(x)
        return F.pad(x, (0, 0, 0, 0, 0, self.grow)) if self.grow else x  # a negative pad crops channels


_POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "tensorflow": lambda x: F.avg_pool2d(x, 2),
    "pytorch": lambda x: F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2),
}


def _auxiliary_conv(auxiliary: Shape, size: int, filters: int, kernel: int) -> nn.Module:
    """Bring the auxiliary input to `filters` channels and to the size of the block's input."""
    channels, aux_size, _ = auxiliary
    if aux_size > size:
        return conv(channels, filters, kernel, aux_size // size)
    if aux_size < size:
        return transposed_conv(channels, filters, kernel, size // aux_size)
    return conv(channels, filters, 1)


class BlockStack(nn.ModuleList):
    """Gated blocks one after the other."""

    @property
    def output_shapes(self) -> list[Shape]:
        """(C, H, W) after every block."""
        return [block.output_shape for block in self]  # type: ignore[misc]

    def forward(self, x: Tensor, auxiliary: Sequence[Tensor | None]) -> list[Tensor]:
        """Outputs of all blocks, given one activated auxiliary input (or None) per block."""
        outputs = []
        for block, a in zip(self, auxiliary, strict=True):
            x = block(x, a)
            outputs.append(x)
        return outputs
