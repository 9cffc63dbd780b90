"""Images that a model makes: samples, reconstructions, what its layers hold, and what lies between two images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from PIL import Image
from safetensors.numpy import load_file

from biva.records import read_json
from biva.reporting.canvas import pairs_of_axes
from biva.reporting.runs import Group, Run, by_model, first_seeds
from biva.reporting.style import COLUMN_WIDTH, LABELS

Images = npt.NDArray[np.float32]

SAMPLES_SHOWN = 64
RECONSTRUCTIONS_SHOWN = 10
SHEET_WIDTH = 400
"""Pixels that small images are enlarged to, at most."""
LARGEST_TILE = 0.3
"""Width of an image in a row of images, in inches, at most."""
COLUMNS_SIDE_BY_SIDE = 10
"""Two models stand side by side if no more images than this stand in a row."""


def image_grid(images: npt.NDArray[Any], columns: int) -> npt.NDArray[Any]:
    """Compose images row by row into one picture, with a white pixel around each.

    Args:
        images: (N, C, H, W) in [0, 1], or uint8; C = 1 or 3.
        columns: images per row.

    Returns:
        (height, width, 3), of the same type; grey images have three equal channels.
    """
    n, _, height, width = images.shape
    columns, rows = min(columns, n), math.ceil(n / columns)
    white = 255 if images.dtype == np.uint8 else 1
    tiles = np.full((rows * columns, height + 1, width + 1, 3), white, dtype=images.dtype)
    tiles[:n, 1:, 1:] = images.transpose(0, 2, 3, 1)
    lines = tiles.reshape(rows, columns, height + 1, width + 1, 3).swapaxes(1, 2)
    picture = lines.reshape(rows * (height + 1), columns * (width + 1), 3)
    return np.pad(picture, ((0, 1), (0, 1), (0, 0)), constant_values=white)


def sheet(images: npt.NDArray[np.uint8]) -> Image.Image:
    """Images (N, C, H, W) in rows and columns, enlarged."""
    grid = image_grid(images, columns=math.isqrt(len(images)))[1:-1, 1:-1]
    picture = Image.fromarray(grid if images.shape[1] == 3 else grid[..., 0])
    scale = max(1, SHEET_WIDTH // picture.width)
    return picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.NEAREST)


def columns_height(group: Group, per_line: int = 2, height: float = 1.75) -> float:
    """Height in inches of a figure with `per_line` models side by side, each `height` high."""
    return 0.3 + height * math.ceil(len(by_model(group)) / per_line)


def _title(run: Run) -> str:
    return f"{LABELS[run.model]}, seed {run.seed}"


def _show(axes: Axes, picture: Images, title: str) -> None:
    axes.imshow(picture, vmin=0, vmax=1)
    axes.set_title(title)
    axes.set_axis_off()


def draw_samples(part: Any, group: Group) -> None:
    """Draws from the prior, the first seed of every model."""
    runs = first_seeds(group)
    for axes, run in zip(pairs_of_axes(part, len(runs)), runs, strict=True):
        samples = load_file(run.folder.arrays)["samples"][:SAMPLES_SHOWN]
        _show(axes, image_grid(samples, math.ceil(math.sqrt(len(samples)))), _title(run))


def draw_reconstructions(part: Any, group: Group) -> None:
    """Test images in the upper row, their reconstructions below, the first seed of every model."""
    runs = first_seeds(group)
    for axes, run in zip(part.subplots(len(runs), 1, squeeze=False).flat, runs, strict=True):
        arrays = load_file(run.folder.arrays)
        pair = [arrays[name][:RECONSTRUCTIONS_SHOWN] for name in ("originals", "reconstructions")]
        _show(axes, image_grid(np.concatenate(pair), columns=len(pair[0])), _title(run))


# -------------------------------------------------------------------------------------------- rows with a meaning


def _panels(part: Any, runs: list[Run], columns: int) -> list[Axes]:
    """Axes for a run each: side by side where so many images in a row stay large enough."""
    if _per_line(columns) == 2:
        return pairs_of_axes(part, len(runs))
    return list(part.subplots(len(runs), 1, squeeze=False).flat)


def _per_line(columns: int) -> int:
    return 2 if columns <= COLUMNS_SIDE_BY_SIDE else 1


def rows_height(name: str) -> Callable[[Group], float]:
    """Height in inches of a figure of the array `name`, (rows, columns, C, H, W)."""

    def height(group: Group) -> float:
        runs = first_seeds(group)
        rows, columns = (int(size) for size in load_file(runs[0].folder.arrays)[name].shape[:2])
        per_line = min(_per_line(columns), len(runs))
        tile = min(LARGEST_TILE, (COLUMN_WIDTH / per_line - 0.25) / columns)
        return 0.3 + (0.32 + rows * tile) * math.ceil(len(runs) / per_line)

    return height


def _show_rows(axes: Axes, images: Images, run: Run, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Images (rows, columns, C, H, W) with a label above every column and beside every row."""
    _, count, _, height, width = images.shape
    axes.imshow(image_grid(images.reshape(-1, *images.shape[2:]), columns=count), vmin=0, vmax=1)
    axes.set_title(_title(run))
    axes.xaxis.tick_top()
    axes.set_xticks([(width + 1) * (place + 0.5) for place in range(len(columns))], columns)
    axes.set_yticks([(height + 1) * (place + 0.5) for place in range(len(rows))], rows)
    axes.tick_params(length=0, pad=1, labelsize=5)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def draw_temperatures(part: Any, group: Group) -> None:
    """A row per temperature, the same noise in a column, the first seed of every model."""
    runs = first_seeds(group)
    arrays = [load_file(run.folder.arrays)["temperatures"] for run in runs]
    for axes, run, images in zip(_panels(part, runs, arrays[0].shape[1]), runs, arrays, strict=True):
        values = read_json(run.folder.evaluation)["settings"]["temperatures"]
        _show_rows(axes, images, run, [], [f"{value:g}" for value in values])
        axes.set_ylabel("temperature", fontsize=5, labelpad=1)


def draw_layers(part: Any, group: Group) -> None:
    """A row per test image, which stands at its left; a column per l, the first seed of every model."""
    runs = first_seeds(group)
    arrays = [load_file(run.folder.arrays)["layers"] for run in runs]
    for axes, run, images in zip(_panels(part, runs, arrays[0].shape[1]), runs, arrays, strict=True):
        stages = range(1, images.shape[1] - 1)
        _show_rows(axes, images, run, ["$x$", "$l=0$", *map(str, stages)], [])


def draw_interpolations(part: Any, group: Group) -> None:
    """A row per pair of test images, which stand at its ends; the first seed of every model."""
    runs = first_seeds(group)
    arrays = [load_file(run.folder.arrays)["interpolations"] for run in runs]
    for axes, run, images in zip(_panels(part, runs, arrays[0].shape[1]), runs, arrays, strict=True):
        between = images.shape[1] - 2
        _show_rows(axes, images, run, ["$x$", *[""] * between, "$x'$"], [])
