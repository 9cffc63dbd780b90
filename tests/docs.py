"""The documentation as the tests read it: fenced blocks, commands, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("config/*.md")])


@dataclass(frozen=True)
class Block:
    """A fenced block: ```LANGUAGE INFO."""

    page: Path
    language: str
    info: str
    text: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in its order."""
    found = re.findall(r"^```(\w*) ?(.*)\n((?:.*\n)*?)```$", page.read_text(), re.MULTILINE)
    return [Block(page, *parts) for parts in found]
