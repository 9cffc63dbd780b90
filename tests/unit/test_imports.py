"""Who may import whom, so that a room is understood, tested and replaced without those above it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "biva"

COMMON = {"config", "errors", "locks", "origin", "progress", "records", "seeds"}
COMPUTING = COMMON | {"bounds", "data", "devices", "models", "vision"}
REPORTING = COMMON | {"models.architectures"}  # a section of the configuration that stands beside what it describes

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "seeds": set(),
    "progress": set(),
    "vision": set(),
    "models": set(),
    "bounds": set(),
    "config": {"errors", "models.architectures"},
    "locks": {"errors"},
    "records": {"errors", "locks"},
    "environment": {"errors"},
    "origin": {"environment", "errors"},
    "weights": {"config", "errors", "records"},
    "devices": {"config", "errors"},
    "data": COMMON | {"vision"},
    "training": COMPUTING,
    "evaluation": COMPUTING | {"weights"},
    "reporting": REPORTING,
    "tracking": REPORTING | {"reporting", "evaluation.trained_model", "vision"},
    "crate": COMMON,
    "verification": REPORTING
    | {"crate", "reporting", "tracking", "weights", "data.checksums", "evaluation.separation"},
    "publishing": REPORTING | {"crate", "reporting", "verification", "weights"},
    "reference": REPORTING | {"reporting"},
    "status": REPORTING | {"training.schedule"},
}
"""Room -> what it may import of ours; rooms that are not named here, such as `cli`, may import all."""

WITHOUT_TORCH = ("crate", "reporting", "verification", "publishing", "weights", "status")
"""Tables, figures and checks are made of records, on machines without torch too."""

TORCH = {"torch", "torchvision", "safetensors.torch"}

MODULES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules that are imported in it, whether at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and node.level == 0, "imports are absolute"
            modules = [name for alias in node.names if (name := f"{node.module}.{alias.name}") in MODULES]
            yield from modules or [node.module]


def at_start(module: str) -> set[str]:
    """What is imported together with a module: not what a function imports when it is called, or the types need."""
    tree = ast.parse(MODULES[module].read_text())
    skipped = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If)
    return {name for node in tree.body if not isinstance(node, skipped) for name in imports(node)}


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        if room_of(module) == room
        for name in imports(ast.parse(path.read_text()))
        if name.startswith("biva.") and room_of(name) != room
        if not any(f"{name}.".startswith(f"biva.{allowed}.") for allowed in ALLOWED[room])
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_what_is_made_of_records_needs_no_torch(room: str) -> None:
    """Followed through every module that is imported on the way."""
    way = {module: module for module in MODULES if room_of(module) == room}
    waiting = list(way)
    assert waiting  # the room exists
    while waiting:
        module = waiting.pop()
        own = room_of(module) == room
        found = set(imports(ast.parse(MODULES[module].read_text()))) if own else at_start(module)
        torch = [name for name in found if name in TORCH or name.split(".")[0] in TORCH]
        assert not torch, f"{way[module]} imports {torch}"
        for name in (found & MODULES.keys()) - way.keys():
            way[name] = f"{way[module]} -> {name}"
            waiting.append(name)


def test_the_hub_is_told_of_every_package_that_a_model_imports() -> None:
    """`torch.hub` looks for those that `dependencies` names, and says which are missing."""
    (told,) = (
        ast.literal_eval(node.value)
        for node in ast.parse((PACKAGE.parent / "hubconf.py").read_text()).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "dependencies"
    )
    found, waiting = set[str](), ["biva.evaluation.trained_model"]
    while waiting:
        new = at_start(waiting.pop()) - found
        found |= new
        waiting += new & MODULES.keys()
    packages = {name.partition(".")[0] for name in found}
    assert sorted(told) == sorted(packages - sys.stdlib_module_names - {"biva"})
