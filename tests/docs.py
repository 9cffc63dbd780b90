"""The documentation as the tests read it: fenced blocks, commands, links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("config/*.md"), *ROOT.glob("results/published/*.md")]
)


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


@dataclass(frozen=True)
class Command:
    """A line of a shell block, without its comment."""

    page: Path
    text: str
    comment: str

    @property
    def words(self) -> list[str]:
        """Its words, without variables set before it."""
        words = shlex.split(self.text)
        return words[next(place for place, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)) :]

    @property
    def is_marked(self) -> bool:
        """Whether its comment says what it needs beyond a CPU, seconds, and nothing but this project."""
        return "needs" in self.comment.split()


def commands(page: Path) -> list[Command]:
    """All commands of a page, those over several lines joined."""
    found = []
    for block in blocks(page):
        if block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                text, _, comment = re.sub(r"\s+#", "\0", line, count=1).partition("\0")
                if text.strip():
                    found.append(Command(page, text.strip(), comment.strip()))
    return found


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
