"""The LaTeX tables as HTML and as plain rows: made of the .tex itself, so that no number can differ.

It reads the LaTeX that `biva.reporting.tables` and its neighbours write, and no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape, unescape

import pandas as pd

from biva.errors import UserError

_SYMBOLS = {
    "pm": "±", "dagger": "†", "ddagger": "‡", "ast": "∗", "uparrow": "↑", "downarrow": "↓", "mid": "|", "cdot": "·",
    "log": "log ", "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<",
    "textgreater": ">", "textbar": "|", ",": "\u2009", " ": " ", "le": "≤", "ge": "≥", "times": "×",
    "raggedright": "", "prod": "∏", "sum": "∑", "infty": "∞",
}  # fmt: skip
_ELEMENTS = {"texttt": "code", "textbf": "b", "mathbf": "b", "emph": "em", "textit": "em", "mathrm": "", "text": ""}
_TOKEN = re.compile(r"\\(?:[a-zA-Z]+\s*|.)|[{}$^_~]|---?|-|''|[^\\{}$^_~'-]+|.", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """One line of a table: HTML and width in columns of every cell."""

    cells: list[tuple[str, int]]
    ruled: bool
    """With a rule above it."""


@dataclass(frozen=True)
class HtmlTable:
    """What a .tex of ours says."""

    caption: str
    heads: list[Row]
    rows: list[Row]
    notes: list[str]


def parse(tex: str) -> HtmlTable:
    """Read a table that biva wrote.

    Raises:
        UserError: it is none.
    """
    try:
        caption = re.search(r"^\\caption\{(.*)\}$", tex, re.MULTILINE)[1]  # type: ignore[index]
        body = re.search(r"\\begin\{tabular\}[^\n]*\n(.*?)\\end\{tabular\}", tex, re.DOTALL)[1]  # type: ignore[index]
        notes = re.search(r"\\raggedright\n(.*)\n?\\end\{minipage\}", tex, re.DOTALL)[1]  # type: ignore[index]
    except TypeError:
        raise UserError("This is no table that biva wrote: `biva table` writes it again.") from None
    head, _, rest = body.partition("\\midrule\n")
    return HtmlTable(
        inline(caption), list(_rows(head)), list(_rows(rest)), [inline(note) for note in notes.strip().split("\n\n")]
    )


def _rows(body: str) -> Iterator[Row]:
    ruled = False
    for line in body.splitlines():
        if line.endswith(r"\\"):
            yield Row([_cell(cell.strip()) for cell in re.split(r"(?<!\\)&", line[:-2])], ruled)
            ruled = False
        else:
            ruled |= line == r"\midrule"


def _cell(tex: str) -> tuple[str, int]:
    spanning = re.fullmatch(r"\\multicolumn\{(\d+)\}\{(?:[^{}]|\{[^{}]*\})*\}\{(.*)\}", tex)
    return (inline(spanning[2]), int(spanning[1])) if spanning else (inline(tex), 1)


def inline(tex: str) -> str:
    """LaTeX within a line as HTML."""
    tokens = _TOKEN.findall(tex.replace("\n", " "))
    tokens.reverse()
    return _until(tokens, "", in_math=False)


def _until(tokens: list[str], end: str, in_math: bool) -> str:
    """The HTML of the tokens up to `end`; they are taken off the list, which has the next one last."""
    parts = []
    while tokens and tokens[-1] != end:
        parts.append(_one(tokens, in_math))
    if tokens:
        tokens.pop()
    return "".join(parts)


def _one(tokens: list[str], in_math: bool) -> str:
    """The HTML of the next token, with its argument if it has one."""
    token = tokens.pop()
    match token:
        case "$":
            return _until(tokens, "$", in_math=True)
        case "{":
            return _until(tokens, "}", in_math)
        case "^" | "_" if in_math:
            element = "sup" if token == "^" else "sub"
            return f"<{element}>{_argument(tokens, in_math)}</{element}>"
        case "-":
            return "\N{MINUS SIGN}" if in_math else "-"
        case "--" | "---" | "~" | "''":
            return {"--": "–", "---": "—", "~": "\u00a0", "''": "”"}[token]
    if not token.startswith("\\"):
        return escape(token.replace(" ", "").replace("=", " = ") if in_math else token)
    name = token[1:].strip() or " "
    if name in _ELEMENTS:
        element, content = _ELEMENTS[name], _argument(tokens, in_math)
        return f"<{element}>{content}</{element}>" if element else content
    return escape(_SYMBOLS.get(name, name))


def _argument(tokens: list[str], in_math: bool) -> str:
    """What a command or an exponent applies to: a group, or one character."""
    if tokens and not tokens[-1].startswith("\\") and tokens[-1] != "{" and len(tokens[-1]) > 1:
        first, rest = tokens[-1][0], tokens[-1][1:]
        tokens[-1:] = [rest, first]
    return _one(tokens, in_math) if tokens else ""


def plain(html: str) -> str:
    """The text of a cell; an exponent or index follows in the line."""
    return unescape(re.sub(r"<[^>]*>", "", html)).replace("\u2009", " ")


def frame(tex: str) -> pd.DataFrame:
    """The cells of a table as text, under heads of one line such as `K = 1 ours`."""
    table = parse(tex)
    lines = [[plain(cell) for cell, width in head.cells for _ in range(width)] for head in table.heads]
    columns = [" ".join(filter(None, parts)) for parts in zip(*lines, strict=True)]
    return pd.DataFrame(
        [[plain(cell) for cell, width in row.cells for cell in (cell, *[""] * (width - 1))] for row in table.rows],
        columns=columns,
    )


# ------------------------------------------------------------------------------------------------------------ a page

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 60rem; padding: 0 1rem; color: #111; }
table { border-collapse: collapse; border-top: 2px solid; border-bottom: 2px solid; margin: 1rem 0; }
th, td { padding: .2rem .8rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th[colspan] { text-align: center; }
thead tr:last-child th, tr.ruled > * { border-bottom: 0; border-top: 0; }
tbody tr:first-child > *, tr.ruled > * { border-top: 1px solid; }
sup, sub { font-size: .7em; line-height: 0; }
.notes { font-size: .85em; color: #444; }
.delta td, .delta th { text-align: left; white-space: normal; font-size: .9em; }
.scroll { overflow-x: auto; }
""".strip()


def page(tex: str, title: str, heads: Sequence[str] = (), rows: Iterable[Sequence[str]] = ()) -> str:
    """A table as an HTML page of its own.

    Args:
        tex: the table.
        title: of the page.
        heads: of a second table, in plain text: the distances to the reported values.
        rows: its lines; none: no second table.
    """
    table, rows = parse(tex), list(rows)
    parts = [
        f'<p class="caption">{table.caption}</p>',
        '<div class="scroll"><table class="results">',
        f"<thead>{''.join(_tr(row, 'th') for row in table.heads)}</thead>",
        f"<tbody>{''.join(_tr(row, 'td') for row in table.rows)}</tbody></table></div>",
    ]
    if rows:
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        head = "".join(f"<th>{escape(head)}</th>" for head in heads)
        parts.append("<p>Ours minus the reported value:</p>")
        parts.append(f'<div class="scroll"><table class="delta"><thead><tr>{head}</tr></thead>')
        parts.append(f"<tbody>{body}</tbody></table></div>")
    parts.append(f'<div class="notes">{"".join(f"<p>{note}</p>" for note in table.notes)}</div>')
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{STYLE}\n</style></head><body>",
            *parts,
            "</body></html>\n",
        ]
    )


def _tr(row: Row, element: str) -> str:
    cells = "".join(
        f"<{element}{f' colspan={width}' if width > 1 else ''}>{cell}</{element}>" for cell, width in row.cells
    )
    return f"<tr{' class=ruled' if row.ruled else ''}>{cells}</tr>"
