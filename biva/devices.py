"""Where to compute."""

import torch

from biva.errors import UserError


def choose_device(device: str) -> torch.device:
    """`cpu`, `cuda`, or `auto`: a CUDA device where there is one.

    Raises:
        UserError: `cuda` is asked for and not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("This run asks for `device: cuda`, but torch finds no CUDA device. Use `auto` or `cpu`.")
    return torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
