"""Reading the YAML files and validating their content; every refusal names file, key, value and what is allowed."""

from __future__ import annotations

import re
import reprlib
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from biva.errors import UserError, naming

Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], content: Any, where: str | Path) -> Model:
    """Validate `content` as `model`.

    Raises:
        UserError: a line per wrong key, with its path, its value and what is allowed there.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        # pydantic calls a list too short whose items it has refused, each of which is reported anyway
        issues = (issue for issue in error.errors() if issue["type"] != "too_short" or not issue["input"])
        lines = [_explain(model, issue) for issue in issues]
        raise UserError(f"{where} is not valid:\n" + "\n".join(f"  - {line}" for line in lines)) from None


def _explain(model: type[BaseModel], issue: Any) -> str:
    key = ".".join(str(part) for part in issue["loc"]) or "(the whole file)"
    if issue["type"] == "extra_forbidden":
        allowed = ", ".join(_keys_at(model.model_json_schema(), issue["loc"][:-1]))
        return f"{key}: unknown key with value {_SHOWN.repr(issue['input'])}; allowed here: {allowed}"
    if issue["type"] == "missing":
        return f"{key}: missing, but required"
    return f"{key}: {issue['msg']} (value: {_SHOWN.repr(issue['input'])})"


_SHOWN = reprlib.Repr()
"""Shows as much of a wrong value as a message needs: a few aliases in YAML can stand for more than fits in memory."""
_SHOWN.maxstring = _SHOWN.maxother = 200
_SHOWN.maxlist = _SHOWN.maxdict = 5
_SHOWN.maxlevel = 3


def _keys_at(schema: dict[str, Any], path: tuple[Any, ...]) -> list[str]:
    """Keys that the JSON schema allows at `path`."""
    node = schema
    for part in (None, *path):
        if part is not None:
            entries: dict[str, Any] = next(iter(node.get("patternProperties", {}).values()), {})  # of names, all alike
            node = node.get("properties", {}).get(part) or node.get("items") or entries
        node = next((option for option in node.get("anyOf", []) if "$ref" in option), node)  # a section or null
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return sorted(node.get("properties", {}))


_MOST_BYTES, _MOST_VALUES = 1 << 20, 50_000
"""What one file may hold; the longest here, datasets.yaml, has some 18,000 and 600."""


class _Loader(yaml.SafeLoader):
    """Plain values only, as many as a person writes: what an alias repeats counts as often as it is repeated.

    A key that a section has twice is refused, where PyYAML would keep the last.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._values = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        before, alias = self._values, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        assert node is not None
        self._values += self._sizes.get(node, 1) if alias else 1
        if self._values > _MOST_VALUES:
            raise yaml.YAMLError(f"more than {_MOST_VALUES:,} values, with those that aliases repeat")
        if not alias:
            self._sizes[node] = self._values - before
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(f"{_SHOWN.repr(key.value)} is there twice, in lines {lines[key.value]} and {line}")
            lines[key.value] = line
        return node

    def construct_yaml_int(self, node: Any) -> int:
        value = super().construct_yaml_int(node)
        if not -(2**63) <= value < 2**63:
            raise yaml.YAMLError(f"a whole number of more than 64 bits{node.start_mark}")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


@lru_cache(64)
def _content(of_file: bytes) -> Any:
    """What a file says. A workflow of many runs reads the same few files for each of them, and PyYAML is slow."""
    return yaml.load(of_file.decode(), _Loader)


def file_of(folder: Path, kind: str, name: str) -> Path:
    """Where `name`, a `Name`, is described: nowhere but in the folder."""
    if not re.fullmatch("[a-z0-9_]{1,100}", name):
        raise UserError(
            f"There is no {kind} {_SHOWN.repr(name)}: names in {folder}/ are at most 100 of a-z, 0-9 and _."
        )
    return folder / f"{name}.yaml"


def read(path: Path, kind: str) -> Any:
    """The content of a YAML file of this kind.

    Raises:
        UserError: it does not exist, or is no YAML of plain values.
    """
    if not path.is_file():
        if not path.parent.is_dir():
            raise UserError(
                f"There is no folder {path.parent}/. Call biva in the project's folder, or name the folder with the "
                "configuration in the environment variable BIVA_CONFIG."
            )
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise UserError(f"There is no {kind} {path.stem!r}: {path} does not exist. Known in {path.parent}/: {known}.")
    with naming(path):
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} is longer than {_MOST_BYTES:,} bytes, which is no file of settings.")
        content = path.read_bytes()
    try:
        return deepcopy(_content(content))
    except Exception as error:  # PyYAML lets through whatever int(), datetime() and others raise
        raise UserError(f"{path} is not valid YAML: {str(error) or type(error).__name__}") from None


def load(model: type[Model], path: Path, kind: str) -> Model:
    """A YAML file of this kind, validated as `model`."""
    return parse(model, read(path, kind), path)
