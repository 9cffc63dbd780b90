"""What is generated from the pydantic models of the configuration: their JSON schemas, and the page of all keys."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from biva.config import Collection, Datasets, Experiments, FigureName, MainConfig
from biva.models.architectures import Architecture
from biva.reporting.figures.registry import FIGURES

PAGE = Path("docs/configuration.md")

SCHEMAS = Path("workflow/schemas")

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_FILES: dict[str, tuple[str, type[BaseModel]]] = {
    "config": ("config/config.yaml", MainConfig),
    "experiments": ("config/experiments/NAME.yaml", Experiments),
    "collection": ("config/experiments/NAME.yaml, a collection", Collection),
    "datasets": ("config/datasets.yaml", Datasets),
    "architecture": ("config/architectures/NAME.yaml", Architecture),
}
"""Name of a schema -> the file that it describes, and its model."""

_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
    "null": "`null`",
}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}

_HEAD = """# Configuration reference

Every key of every configuration file. `biva schema` writes this page from the code, so nothing here is edited by hand;
[config/README.md](../config/README.md) is the manual, with examples. A key without a default must be given.
"""


def generated() -> dict[Path, str]:
    """Every generated file and its content."""
    schemas = {
        SCHEMAS / f"{name}.schema.json": {"$schema": _DIALECT, **model.model_json_schema()}
        for name, (_, model) in _FILES.items()
    }
    return {path: json.dumps(schema, indent=2) + "\n" for path, schema in schemas.items()} | {PAGE: reference()}


def reference() -> str:
    """The page of all keys."""
    return "\n".join([_HEAD, *(_chapter(file, model) for file, model in _FILES.values()), _figures()])


def _figures() -> str:
    """What every figure shows, as its caption says."""
    rows = [f"| `{name}` | {_cell(FIGURES[name].caption)} |" for name in get_args(FigureName)]
    return "\n".join(["## Figures", "", "| figure | what it shows |", "|---|---|", *rows, ""])


def _chapter(file: str, model: type[BaseModel]) -> str:
    """A file's keys, then those of every section that they name."""
    schema = model.model_json_schema()
    sections = [_section(schema, f"## {file}")]
    sections += [_section(section, f"### {name}") for name, section in schema.get("$defs", {}).items()]
    return "\n".join(sections)


def _section(schema: dict[str, Any], heading: str) -> str:
    rows = []
    for key, field in schema.get("properties", {}).items():
        default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
        rows.append(f"| `{key}` | {_type(field)} | {default} | {_cell(field.get('description'))} |")
    lines = [heading, "", _cell(schema.get("description")), ""]
    return "\n".join([*lines, "| key | values | default | meaning |", "|---|---|---|---|", *rows, ""])


def _type(field: dict[str, Any]) -> str:
    """The values that a key takes, in words."""
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    kind = field.get("type")
    if kind == "array":
        if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])}: {_type(field['prefixItems'][0])}"
        return f"list of: {_type(field['items'])}"
    if kind == "object":
        keys = field.get("propertyNames", {})
        named = ", ".join(f"`{name}`" for name in keys.get("enum", ())) or "name"
        (values,) = field.get("patternProperties", {"": field.get("additionalProperties")}).values()
        return f"{named}: {_type(values)}"
    if kind is None:
        return f"text like `{field['pattern']}`"
    bounds = [f"{sign} {field[name]:g}" for name, sign in _BOUNDS.items() if name in field]
    return " ".join([_WORDS[kind], ", ".join(bounds)]).strip()


def _cell(text: str | None) -> str:
    """A description on one line of a table."""
    line = re.sub(r"\s+", " ", text or "").replace("|", "\\|").strip()
    return line.replace("paper.md section", "[paper.md](paper.md) section")
