"""MNIST's binary files, read by torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from biva.config import DatasetConfig
from biva.data.raw import SPLIT_NAMES, Arrays, with_valid_cut_off

FILES = ("train images", "train labels", "test images", "test labels")
GIVES = SPLIT_NAMES
LABELS = True


def read(paths: list[Path], config: DatasetConfig) -> Arrays:
    """The last images of the training files are the validation split."""
    from biva.vision import torchvision

    mnist = torchvision.datasets.mnist

    def part(images: Path, labels: Path) -> tuple[NDArray[Any], NDArray[Any]]:
        return mnist.read_image_file(str(images)).numpy()[:, None], mnist.read_label_file(str(labels)).numpy()

    return with_valid_cut_off(config, part(*paths[:2]), part(*paths[2:]))
