"""Short texts with a few styles, printed as LaTeX, as HTML or without styles."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

from markupsafe import escape as escape_html

Style = Literal["plain", "bold", "code", "italic", "sub", "sup"]

_LATEX = {
    "plain": "{}",
    "bold": r"\textbf{{{}}}",
    "code": r"\texttt{{{}}}",
    "italic": r"\textit{{{}}}",
    "sub": r"\textsubscript{{{}}}",
    "sup": r"\textsuperscript{{{}}}",
}
_HTML = {
    "plain": "{}",
    "bold": "<b>{}</b>",
    "code": "<code>{}</code>",
    "italic": "<i>{}</i>",
    "sub": "<sub>{}</sub>",
    "sup": "<sup>{}</sup>",
}
_STYLELESS = dict.fromkeys(_LATEX, "{}") | {"sub": "_{}", "sup": "^{}"}


@dataclass(frozen=True)
class Text:
    """Pieces of text, each with its style. Jinja2 prints it as HTML or, in a LaTeX template, as LaTeX."""

    pieces: tuple[tuple[Style, str], ...] = ()

    def latex(self) -> str:
        return "".join(_LATEX[style].format(escape_latex(piece)) for style, piece in self.pieces)

    def __html__(self) -> str:
        return "".join(_HTML[style].format(escape_html(piece)) for style, piece in self.pieces)

    def __str__(self) -> str:
        return "".join(_STYLELESS[style].format(piece) for style, piece in self.pieces)


def text(*parts: str | Text) -> Text:
    """The parts one after the other; strings have no style."""
    pieces: list[tuple[Style, str]] = []
    for part in parts:
        pieces += [("plain", part)] if isinstance(part, str) else part.pieces
    return Text(tuple(piece for piece in pieces if piece[1]))


def styled(markup: str) -> Text:
    """A sentence of ours in which `code`, *italic*, **bold**, x^{sup} and x_{sub} are marked so.

    Names of configuration files and numbers may stand in it, but no text that could hold such marks itself.
    """
    pieces = ((cast(Style, found.lastgroup), found[found.lastgroup or 0]) for found in _PIECES.finditer(markup))
    return Text(tuple(pieces))


_PIECES = re.compile(
    r"\*\*(?P<bold>.+?)\*\*|\*(?P<italic>.+?)\*|`(?P<code>.+?)`|\^\{(?P<sup>.+?)\}|_\{(?P<sub>.+?)\}"
    r"|(?P<plain>.[^*`^_]*)",
    re.DOTALL,
)


def joined(separator: str, parts: Iterable[str | Text]) -> Text:
    """The parts with a separator between any two."""
    separated = [piece for part in parts for piece in (separator, part)]
    return text(*separated[1:])


def in_style(style: Style, content: str) -> Text:
    """`content` in one style: `code` is typewriter letters, `sup` an exponent or a footnote mark."""
    return Text(((style, content),))


bold, code, sup = (partial(in_style, style) for style in ("bold", "code", "sup"))

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # at the start of a row, it would be an argument of the \\ before
    "]": "{]}",
    "*": "{*}",
    "−": "$-$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "∗": r"$\ast$",
    "§": r"\S{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": "--",
}


def escape_latex(content: str) -> str:
    """`content` as LaTeX prints it literally. Any white space becomes one space.

    A character that plain pdflatex fonts may lack is printed by its code point, such as U+4E2D.
    """
    return "".join(_ESCAPES.get(character, _printable(character)) for character in _SPACES.sub(" ", content))


def in_markdown(content: object) -> str:
    """`content` as it stands in one cell of a Markdown table."""
    return _SPACES.sub(" ", str(content)).replace("|", r"\|")


_SPACES = re.compile(r"\s+")


def _printable(character: str) -> str:
    western_letter = "\u00c0" <= character <= "\u00ff" and character not in "\u00d0\u00d7\u00de\u00f0\u00f7\u00fe"
    if western_letter or (character.isascii() and character.isprintable()):
        return character
    return f"U+{ord(character):04X}"
