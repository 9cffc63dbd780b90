"""Compiling the model that a run trains: by which compiler, and where compiled code is kept."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from biva.errors import UserError

CACHE = Path(".cache/inductor")
"""Compiled code, below the working folder: paid for once per architecture and model, and not once per run."""

PLACE = "TORCHINDUCTOR_CACHE_DIR"
"""The environment variable that torch reads for another place."""


def compiler_for(device: torch.device) -> str:
    """The compilers that `compile_model` needs, with their versions: those of torch and of the device.

    Raises:
        UserError: the device is a CPU, and there is no C++ compiler, or torch cannot call it.
    """
    inductor = f"inductor of torch {torch.__version__}"
    if device.type == "cuda":
        return f"{inductor}, triton {version('triton')}"
    command = os.environ.get("CXX", "g++")
    if not shutil.which(command):
        raise UserError(
            f"training.compiled needs a C++ compiler on a CPU, but there is no {command!r}. Install g++, name another "
            "one in the environment variable CXX, or set compiled: false."
        )
    for place in (os.environ.get(PLACE, f"{CACHE.absolute()}"), torch.__file__):
        if " " in place:
            raise UserError(
                f"training.compiled: torch cannot call the C++ compiler with a path that has a space: {place}. Move "
                f"the project, name another place for compiled code in {PLACE}, or set compiled: false."
            )
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    return f"{inductor}, {said.splitlines()[0]}"


def compile_model(model: nn.Module) -> None:
    """Let the model's forward and backward pass be compiled, in place, when they are first needed.

    Random numbers are drawn as without. Code is kept in `CACHE`, or where `PLACE` says.
    """
    os.environ.setdefault(PLACE, f"{CACHE.absolute()}")
    model.compile(options={"fallback_random": True})
