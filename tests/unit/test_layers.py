"""Layers against TensorFlow's definition of SAME padding, loops and formulas written out by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from biva.models.architectures import Architecture
from biva.models.layers import (
    GatedBlock,
    SameConv2d,
    SameConvTranspose2d,
    conv,
    data_dependent_init,
    dense,
    fold_weight_norm,
    transposed_conv,
)
from tests.models import tiny_architecture


def with_filters(filters: int, code: str = "tensorflow") -> Architecture:
    """An architecture of which blocks read only what is given here."""
    return tiny_architecture().model_copy(update={"filters": filters, "reference_code": code})


def same_convolution(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """TensorFlow's SAME convolution of (C, H, W) by loops over output positions."""
    out_channels, _, kernel, _ = weight.shape
    _, height, width = x.shape
    rows, columns = -(-height // stride), -(-width // stride)
    before = [max((n - 1) * stride + kernel - size, 0) // 2 for n, size in ((rows, height), (columns, width))]
    y = np.zeros((out_channels, rows, columns))
    for o, i, j in np.ndindex(*y.shape):
        for c, a, b in np.ndindex(*weight.shape[1:]):
            row, column = i * stride + a - before[0], j * stride + b - before[1]
            if 0 <= row < height and 0 <= column < width:
                y[o, i, j] += weight[o, c, a, b] * x[c, row, column]
    return y


@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [(6, 3, 1), (6, 3, 2), (6, 5, 2), (7, 5, 2), (4, 4, 1), (8, 8, 1), (6, 1, 2), (7, 1, 2)],
)
def test_same_convolution_is_tensorflows(size: int, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = SameConv2d(2, 3, kernel, stride, bias=False).double()
    x = torch.randn(1, 2, size, size, dtype=torch.float64)
    expected = same_convolution(x[0].numpy(), layer.weight.detach().numpy(), stride)
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, atol=1e-12)


def test_torch_gets_no_strided_convolution_with_a_kernel_of_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient with few channels writes outside its memory in torch 2.13 on a CPU, which ended in crashes."""
    strides = []
    convolution = torch.nn.functional.conv2d

    def recorded(x: Any, weight: Any, bias: Any, stride: int, padding: Any) -> Any:
        strides.append(stride)
        return convolution(x, weight, bias, stride, padding)

    monkeypatch.setattr(torch.nn.functional, "conv2d", recorded)
    for kernel in (1, 3):
        SameConv2d(2, 3, kernel, 2)(torch.zeros(1, 2, 8, 8))
    assert strides == [1, 2]


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 1), (5, 4), (1, 2)])
def test_transposed_convolution_is_the_adjoint(kernel: int, stride: int) -> None:
    """<conv(x), y> = <x, transposed_conv(y)> for the same weights, as TensorFlow defines it."""
    torch.manual_seed(0)
    down = SameConv2d(2, 3, kernel, stride, bias=False).double()
    up = SameConvTranspose2d(3, 2, kernel, stride, bias=False).double()
    up.weight = down.weight
    x, y = (
        torch.randn(1, 2, 8, 8, dtype=torch.float64),
        torch.randn(1, 3, 8 // stride, 8 // stride, dtype=torch.float64),
    )
    assert up(y).shape == x.shape
    torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum())


def test_direction_starts_with_standard_deviation_five_hundredths() -> None:
    torch.manual_seed(0)
    layer: Any = dense(1000, 100)
    direction = layer.parametrizations.weight.original1
    assert abs(direction.std().item() - 0.05) < 5 * 0.05 / np.sqrt(2 * 100_000)
    assert abs(direction.mean().item()) < 5 * 0.05 / np.sqrt(100_000)


def test_data_dependent_init_gives_every_unit_mean_zero_and_small_deviation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        conv(3, 5, 3), nn.ELU(), transposed_conv(5, 4, 3, 2), nn.Flatten(), dense(4 * 12 * 12, 7)
    ).double()
    x = 3 + 2 * torch.randn(32, 3, 6, 6, dtype=torch.float64)
    with data_dependent_init(model):
        model(x)
    for layer in (0, 2, 4):
        output = model[: layer + 1](x).detach().transpose(0, 1).flatten(1)
        torch.testing.assert_close(output.mean(1), torch.zeros(len(output)).double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(
            output.std(1, correction=0), torch.full((len(output),), 0.01).double(), rtol=1e-3, atol=0
        )


@pytest.mark.parametrize("rounding", [0.0, 1e-7], ids=["none", "rounding"])
@pytest.mark.parametrize("rows", [1, 8])
def test_units_without_spread_keep_their_scale(rows: int, rounding: float) -> None:
    """The same image in every row, perhaps with rounding errors: by Cauchy and Schwarz, no output of another image is
    further from that of this one than the images are, if |W| is 1. Spread that is real is scaled as ever.
    """
    torch.manual_seed(0)
    first: Any = dense(20, 30)
    model: Any = nn.Sequential(first, dense(30, 4))
    image, other = torch.randn(2, 1, 20)
    direction = first.parametrizations.weight.original1
    with torch.no_grad():  # a unit whose mean is 0 has the rounding errors of the others
        direction[0] -= (direction[0] @ image[0]) / (image[0] @ image[0]) * image[0]
    x = image.repeat(rows, 1) * (1 + rounding * torch.randn(rows, 20))
    with data_dependent_init(model):
        assert model(x).abs().max() == 0
    torch.testing.assert_close(first(image), torch.zeros(1, 30), atol=1e-5, rtol=0)
    assert (first(other) - first(image)).abs().max() <= (other - image).norm()
    assert (model(other) - model(image)).norm() < 100 * (other - image).norm()


def test_of_one_layer_only_the_units_without_spread_keep_their_scale() -> None:
    """The images differ in their first number alone, which the second of three units does not look at."""
    torch.manual_seed(0)
    layer: Any = dense(2, 3)
    scale, direction = (getattr(layer.parametrizations.weight, f"original{part}") for part in (0, 1))
    with torch.no_grad():
        direction[1, 0] = 0
    x = torch.cat([torch.randn(64, 1), torch.ones(64, 1)], dim=1)
    with data_dependent_init(layer):
        layer(x)
    torch.testing.assert_close(layer(x).std(0, correction=0), torch.tensor([0.01, 0, 0.01]), rtol=1e-3, atol=1e-6)
    assert scale[1] == 1


def test_data_dependent_init_touches_each_layer_once() -> None:
    torch.manual_seed(0)
    layer: Any = dense(4, 3)
    with data_dependent_init(layer):
        layer(torch.randn(16, 4))
        before = layer.bias.detach().clone()
        layer(10 + torch.randn(16, 4))
    torch.testing.assert_close(layer.bias, before, rtol=0, atol=0)
    layer(10 + torch.randn(16, 4))
    torch.testing.assert_close(layer.bias, before, rtol=0, atol=0)


def elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


def pointwise(layer: Any, x: np.ndarray) -> np.ndarray:
    """A 1x1 convolution of (C,)."""
    y: np.ndarray = layer.weight.detach().numpy()[:, :, 0, 0] @ x + layer.bias.detach().numpy()
    return y


@pytest.mark.parametrize(("code", "shortcut"), [("tensorflow", True), ("tensorflow", False), ("pytorch", False)])
def test_gated_block_is_the_papers_formula(code: str, shortcut: bool) -> None:
    """On a single pixel: h = conv(elu x) + conv(elu a); h1, h2 = conv(elu h); y = h1 sigmoid(h2) + x, zero-padded.

    The authors' PyTorch code has no ELU of x in a block without a shortcut.
    """
    torch.manual_seed(1)
    block = GatedBlock(
        with_filters(3, code), (2, 1, 1), 1, dropout=0.0, auxiliary=(4, 1, 1), shortcut=shortcut
    ).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x, a = np.array([0.3, -0.7]), np.array([1.0, -2.0, 0.5, 0.1])
    h = pointwise(block.conv_in, x if code == "pytorch" else elu(x)) + pointwise(block.conv_aux, elu(a))
    first, second = np.split(pointwise(block.conv_out, elu(h)), 2)
    expected = first / (1 + np.exp(-second)) + shortcut * np.array([0.3, -0.7, 0.0])
    y = block(torch.tensor(x).view(1, 2, 1, 1), torch.tensor(elu(a)).view(1, 4, 1, 1))
    np.testing.assert_allclose(y.detach().numpy().ravel(), expected, atol=1e-12)


IMAGE = np.arange(16.0).reshape(4, 4)
PADDED = np.pad(IMAGE, ((0, 1), (0, 1)))
MEANS_2X2 = [[IMAGE[i : i + 2, j : j + 2].sum() / 4 for j in (0, 2)] for i in (0, 2)]
MEANS_3X3 = [[PADDED[i : i + 3, j : j + 3].sum() / 9 for j in (0, 2)] for i in (0, 2)]
ZEROS = [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("code", "channels", "expected"),
    [
        ("tensorflow", 1, [MEANS_2X2, ZEROS]),  # channels grow: filled with zeros
        ("tensorflow", 2, [MEANS_2X2, MEANS_2X2]),
        ("tensorflow", 3, [ZEROS, ZEROS]),  # channels shrink: no shortcut
        ("pytorch", 1, [ZEROS, ZEROS]),  # channels grow: no shortcut
        ("pytorch", 2, [MEANS_3X3, MEANS_3X3]),
        ("pytorch", 3, [MEANS_3X3, MEANS_3X3]),  # channels shrink: cropped
    ],
)
def test_shortcut_of_a_strided_block(code: str, channels: int, expected: list[list[list[float]]]) -> None:
    block: Any = GatedBlock(with_filters(2, code), (channels, 4, 4), 3, dropout=0.0, stride=2).double()
    with torch.no_grad():
        block.conv_out.parametrizations.weight.original0.zero_()  # the gated path gives 0
    y = block(torch.from_numpy(IMAGE).expand(1, channels, 4, 4))
    np.testing.assert_allclose(y[0].detach().numpy(), expected)


@pytest.mark.parametrize("transposed", [False, True])
def test_dropout_only_acts_in_training(transposed: bool) -> None:
    torch.manual_seed(0)
    block = GatedBlock(with_filters(2), (2, 4, 4), 3, dropout=0.5, stride=2, transposed=transposed, shortcut=False)
    x = torch.randn(4, 2, 4, 4)
    assert not torch.equal(block(x), block(x))
    block.eval()
    torch.testing.assert_close(block(x), block(x), rtol=0, atol=0)
    assert block(x).shape[1:] == block.output_shape


def test_folding_weight_norm_changes_no_output() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(1, 3, 3), transposed_conv(3, 2, 5, 2), nn.Flatten(), dense(2 * 8 * 8, 5)).double()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    before = model(x)
    assert fold_weight_norm(model) is model
    assert not any("parametrizations" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(model(x), before)
