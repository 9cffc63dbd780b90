"""Where to compute."""

import os
from functools import cache

import torch
from filelock import FileLock

from biva.errors import UserError
from biva.gpus import claim


def choose_device(device: str) -> torch.device:
    """`cpu`, `cuda`, or `auto`: a CUDA device where there is one; of several, one that no other run computes on.

    Raises:
        UserError: `cuda` is asked for and not there.
    """
    if device != "cpu":
        _one_gpu()
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("This run asks for `device: cuda`, but torch finds no CUDA device. Use `auto` or `cpu`.")
    return torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))


@cache
def _one_gpu() -> FileLock | None:
    """Of several visible GPUs leave this process one, unless torchrun gave it its own. Cached: the claim must live."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(index) for index in range(torch.cuda.device_count())] if visible is None else visible.split(",")
    return claim(gpus) if len(gpus) > 1 and "LOCAL_RANK" not in os.environ else None


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
