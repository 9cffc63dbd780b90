"""What tells the numbers of one machine from those of another."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from biva.devices import device_name


def machine(device: torch.device) -> dict[str, Any]:
    """Device, processor and number of cores."""
    return {"device": device_name(device), "processor": _processor(), "cores": os.cpu_count()}


def _processor() -> str:
    """Name of the CPU, or its architecture where the system does not tell."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
