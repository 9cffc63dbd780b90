"""Images that a model makes: samples, reconstructions, what its layers hold, and what lies between two images.

Evaluation composes every sheet of images with torchvision (`biva.evaluation.pictures`); here each gets its labels. A
sheet has a white pixel between and around its images. The first seed of every model is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biva.records import read_arrays, read_json
from biva.reporting.canvas import panels
from biva.reporting.figures.registry import figure
from biva.reporting.runs import Group, Run, first_seeds
from biva.reporting.style import COLUMN_WIDTH, LABELS

LARGEST_TILE = 0.3
"""Width of an image on a sheet, in inches, at most."""
COLUMNS_SIDE_BY_SIDE = 10
"""Two models stand side by side if no more images than this stand in a row."""


@dataclass(frozen=True)
class Sheet:
    """A sheet of images of one run."""

    run: Run
    picture: NDArray[np.uint8]
    """(height, width, 3)."""
    tile: tuple[int, int]
    """Height and width of an image with the line that separates it from the next."""

    @property
    def columns(self) -> int:
        """The number of images in a row."""
        return max(1, int(self.picture.shape[1]) // self.tile[1])  # one image alone has no line around it


def _sheets(name: str, group: Group) -> list[Sheet]:
    sheets = []
    for run in first_seeds(group):
        _, height, width = read_json(run.folder.identity)["config"]["architecture"]["input_shape"]
        picture = read_arrays(run.folder.arrays)[f"sheet/{name}"].transpose(1, 2, 0)
        sheets.append(Sheet(run, picture, (height + 1, width + 1)))
    return sheets


def _per_line(sheets: list[Sheet]) -> int:
    """How many models stand side by side, so that images stay large enough."""
    return min(2 if sheets[0].columns <= COLUMNS_SIDE_BY_SIDE else 1, len(sheets))


def _height(name: str) -> Callable[[Group], float]:
    """Height in inches of the figure of this sheet."""

    def height(group: Group) -> float:
        sheets = _sheets(name, group)
        width = min(LARGEST_TILE * sheets[0].columns, COLUMN_WIDTH / _per_line(sheets) - 0.25)
        rows, columns, _ = sheets[0].picture.shape
        return 0.3 + (0.32 + width * float(rows / columns)) * math.ceil(len(sheets) / _per_line(sheets))

    return height


Labels = Callable[[Sheet], list[str]]


def _show(part: Any, name: str, group: Group, columns: Labels = lambda _: [], rows: Labels = lambda _: []) -> None:
    """The sheet of every model, with a label above every column and beside every row."""
    sheets = _sheets(name, group)
    for axes, sheet in zip(panels(part, len(sheets), _per_line(sheets)), sheets, strict=True):
        height, width = sheet.tile
        above, beside = columns(sheet), rows(sheet)
        axes.imshow(sheet.picture)
        axes.set_title(f"{LABELS[sheet.run.model]}, seed {sheet.run.seed}")
        axes.xaxis.tick_top()
        axes.set_xticks([width * (place + 0.5) for place in range(len(above))], above)
        axes.set_yticks([height * (place + 0.5) for place in range(len(beside))], beside)
        axes.tick_params(length=0, pad=1, labelsize=5)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)


@figure("Samples from the prior", reads="arrays", height=_height("samples"))
def samples(part: Any, group: Group) -> None:
    """Images drawn from the prior of each model with the selected weights; for binary data the means of p(x | z). They
    come from no test image and were not picked.
    """
    _show(part, "samples", group)


@figure("Samples by temperature", reads="arrays", height=_height("temperatures"))
def temperatures(part: Any, group: Group) -> None:
    """Images drawn from the prior of each model with all its standard deviations multiplied by the temperature at the
    left. A column shares its noise, so that only the temperature differs; for binary data the means of p(x | z).
    """

    def values(sheet: Sheet) -> list[str]:
        return [f"{value:g}" for value in read_json(sheet.run.folder.evaluation)["settings"]["temperatures"]]

    _show(part, "temperatures", group, rows=values)


@figure("Originals above reconstructions", reads="arrays", height=_height("reconstructions"))
def reconstructions(part: Any, group: Group) -> None:
    """Test images above what each model makes of them: z is drawn from the posterior, and the mean of p(x | z) is
    shown for binary data, a sample for colour images. The test images were drawn at random, the same for all runs.
    """
    _show(part, "reconstructions", group)


@figure("What each stage holds", reads="arrays", height=_height("layers"))
def layers(part: Any, group: Group) -> None:
    """A test image x, then what the model makes of it when the latents above stage l are drawn from the posterior and
    those of stage l and below are the means of their priors. At l = 0 this is a reconstruction, at l = L nothing of x
    is left. All columns share one posterior sample.
    """
    _show(part, "layers", group, columns=lambda sheet: ["$x$", "$l=0$", *map(str, range(1, sheet.columns - 1))])


@figure("Between two test images", reads="arrays", height=_height("interpolations"))
def interpolations(part: Any, group: Group) -> None:
    """From the test image at the left to the one at the right. A posterior sample of each is turned into the noise of
    which the priors make it; the noise is interpolated on the sphere, where it stays as likely under the prior as at
    the ends, and turned into images again.
    """
    _show(part, "interpolations", group, columns=lambda sheet: ["$x$", *[""] * (sheet.columns - 2), "$x'$"])
