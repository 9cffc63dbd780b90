"""JSON schemas of the configuration files, generated from their pydantic models."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from biva.config import Collection, Datasets, Experiments, MainConfig
from biva.models.architectures import Architecture
from biva.records import write_atomically

SCHEMA_FOLDER = Path("workflow/schemas")

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_MODELS: dict[str, type[BaseModel]] = {
    "config": MainConfig,
    "experiments": Experiments,
    "collection": Collection,
    "datasets": Datasets,
    "architecture": Architecture,
}


def schemas() -> dict[str, str]:
    """File name -> content of every schema."""
    return {
        f"{name}.schema.json": json.dumps({"$schema": _DIALECT, **model.model_json_schema()}, indent=2) + "\n"
        for name, model in _MODELS.items()
    }


def write_schemas(folder: Path = SCHEMA_FOLDER) -> list[Path]:
    """Write every schema and return their paths."""
    written = []
    for name, content in schemas().items():
        write_atomically(folder / name, content.encode())
        written.append(folder / name)
    return written
