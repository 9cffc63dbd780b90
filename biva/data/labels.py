"""Which training images of a semi-supervised run keep their labels."""

from __future__ import annotations

import torch
from torch import Tensor

from biva.errors import UserError


def balanced_draw(labels: Tensor, count: int, classes: int, seed: int) -> Tensor:
    """Indices of `count` images, the same number of every class, drawn at random; class by class.

    Args:
        labels: int64 (N,), 0 .. classes - 1.
        count: a multiple of `classes`.
        classes: Y.
        seed: of the draw.

    Returns:
        int64 (count,), all different.

    Raises:
        UserError: `count` is no multiple of the classes, or a class has too few images.
    """
    if count % classes or count < classes:
        raise UserError(
            f"semi_supervised.labels is {count}, which is not the same number of labels for each of {classes} classes. "
            f"Use a multiple of {classes}."
        )
    each = count // classes
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = []
    for y in range(classes):
        members = order[labels[order] == y]
        if len(members) < each:
            raise UserError(
                f"semi_supervised.labels is {count}, {each} of each class, but class {y} has only {len(members)} "
                "training images. Use fewer labels, or a dataset with enough images of every class."
            )
        chosen.append(members[:each])
    return torch.cat(chosen)
