"""What the models of all configuration files share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from biva.models.architectures import Strict as Strict

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=100)]
Device = Literal["cpu", "cuda", "auto"]
Precision = Literal["fp32", "tf32", "bf16"]
Protocol = Literal["paper", "clean"]
PROTOCOL_SPLITS: dict[Protocol, tuple[str, ...]] = {"paper": ("train", "test"), "clean": ("train", "valid", "test")}
"""Splits that a dataset must have to be trained on."""
TRAINED_ON: dict[Protocol, tuple[str, ...]] = {"paper": ("train", "valid"), "clean": ("train",)}
"""Splits whose images are trained on, where a dataset has them."""
