"""What mkdocs.yml leaves open: the site's files, pages of published sets and of the code, formulas, diagrams.

The site's paths are the repository's, so that links are valid on both as they are. Two kinds differ: links to a table
lead to the page of its set, and links to a name in the code to the page of its room.
"""

from __future__ import annotations

import re
import unicodedata
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify
from pymdownx.superfences import fence_code_format

from biva.config import load_experiments
from biva.publishing import published_sets
from biva.reporting.figures import FIGURES

ROOT = Path(__file__).parents[2]
SETS = [ROOT / "results/published" / name for name in published_sets(ROOT / "results")]
PAGES = ("*.md", "docs/*.md", "config/*.md", "results/published/**/*.md")
FILES = ("docs/site/*.css", "docs/site/*.js", "results/published/**/*.*")
LEFT_OUT = ("*.pdf", "*.safetensors", "*/index.html")  # a set's own page has the name of the one made here
MERMAID = "assets/mermaid.js"
SLUG = slugify(case="lower")  # of a heading, as GitHub makes it


def code_pages() -> dict[str, str]:
    """A page for every room in the table of docs/architecture.md, of the docstrings of its modules."""
    pages = {}
    rows = re.findall(r"^\| (`biva/.*?) \| (.*?) \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    for names, content in rows:
        places = [ROOT / name for name in re.findall(r"`([^`]+)`", names)]
        paths = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*.py")))]
        modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths if path.stat().st_size]
        parts = [f"::: {module.removesuffix('.__init__')}" for module in modules]
        stems = [place.stem for place in places]
        if parts:
            pages[f"biva/{'_'.join(stems)}.md"] = "\n\n".join([f"# {', '.join(stems)}", f"In it: {content}.", *parts])
    return pages


def set_page(folder: Path) -> str:
    """The tables, figures and records of a published set."""
    about = load_experiments(folder.name).description
    parts = [f"# {folder.name}", f"{about}. All numbers: [results.csv](results.csv)."]
    for path in sorted([*folder.glob("tables/*.html"), *folder.glob("anomalies/*.html")]):
        table = re.sub(r".*<body>(.*)</body>.*", r'<div class="published">\1</div>', path.read_text(), flags=re.DOTALL)
        parts += [f"## {path.stem}", table, f"[The same as LaTeX]({path.parent.name}/{path.stem}.tex)"]
    for path in sorted(folder.glob("figures/*.png")):
        figure = FIGURES[path.stem]
        parts += [f"## {figure.title}", f"![{figure.title}](figures/{path.name})", figure.caption]
    rows = ["| run | records |", "|---|---|"]
    for run in sorted(path.parent for path in folder.rglob("run.json")):
        files = [path.relative_to(folder) for path in [*sorted(run.rglob("*.json*")), *run.glob("README.md")]]
        links = ", ".join(f"[{file.stem.replace('README', 'weights')}]({file})" for file in files)
        rows.append(f"| {run.relative_to(folder / 'runs')} | {links} |")
    return "\n\n".join([*parts, "## Records", "\n".join(rows)])


def formula(source: str, *_: Any, **__: Any) -> str:
    """A block of LaTeX as MathML, which browsers draw themselves: with their letters and TeX's spaces."""
    mathml = convert(source, display="block")
    mathml = re.sub(r'<mi mathvariant="(script|double-struck)">(.)</mi>', styled, mathml)
    mathml = re.sub(r"(<mi>\w{2,}</mi>)(?=<m(i|frac|style)\b)", r'\1<mspace width="0.17em"/>', mathml)
    mathml = re.sub(r"<mrow><mo>(&#x0003[CE];)", r'<mrow><mo lspace="0" rspace="0">\1', mathml)
    return f'<div class="formula">{mathml}</div>'


def diagram(*block: Any, **context: Any) -> str:
    """A block for mermaid, which the theme calls."""
    return f'<div class="scroll">{fence_code_format(*block, **context)}</div>'


def styled(match: re.Match[str]) -> str:
    """A capital letter that has a character of its own in Unicode, for which browsers know no style."""
    name = f"{match[1].upper()} CAPITAL {match[2]}"
    try:
        return f"<mi>{unicodedata.lookup(f'MATHEMATICAL {name}')}</mi>"
    except KeyError:  # those that are older, such as L
        return f"<mi>{unicodedata.lookup(name)}</mi>"


def on_config(config: MkDocsConfig) -> None:
    """Blocks that are drawn, anchors as on GitHub, and where the pages made here stand."""
    drawn = {"math": formula, "mermaid": diagram}
    fences = [{"name": name, "class": name, "format": draw} for name, draw in drawn.items()]
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": fences}
    config.mdx_configs["toc"]["slugify"] = SLUG
    config.nav[-1]["Published results"] += [f"results/published/{folder.name}/README.md" for folder in SETS]
    config.nav.append({"Code": list(code_pages())})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """The repository's pages and what they link to instead of docs/, the pages made here, and mermaid."""
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)
    pages = [path for pattern in PAGES for path in ROOT.glob(pattern)]
    linked = {(page.parent / to).resolve() for page in pages for to in re.findall(r"\]\(([^)#\s]+)", page.read_text())}
    for path in sorted(linked | {path for pattern in PAGES + FILES for path in ROOT.glob(pattern)}):
        if path.is_file() and not any(map(path.match, LEFT_OUT)):
            files.append(File(path.relative_to(ROOT).as_posix(), str(ROOT), config.site_dir, config.use_directory_urls))
    sets = {f"results/published/{folder.name}/README.md": set_page(folder) for folder in SETS}
    for name, content in (sets | code_pages()).items():
        files.append(File.generated(config, name, content=content))
    script = distribution("mermaidx").locate_file("mermaidx/assets/mermaid.js")
    files.append(File.generated(config, MERMAID, abs_src_path=str(script)))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Badges, which are GitHub's, go; blocks show their file; links to tables and code lead to the pages made here."""
    markdown = re.sub(r"^\[!\[.*\n", "", markdown, flags=re.MULTILINE)
    markdown = re.sub(r"^```(\w+) \w+=(.*)", r'```\1 title="\2"', markdown, flags=re.MULTILINE)
    markdown = re.sub(r"(\]\(\S*/published/\w+)/(?:tables|anomalies)/(\w+)\.html", r"\1/README.md#\2", markdown)
    code = r"\[`([\w.]+)`\]\((?:\.\./)*(biva/[\w/]+)\.py\)"
    return re.sub(code, lambda match: f"[`{match[1]}`][{match[2].replace('/', '.')}.{match[1]}]", markdown)


def on_page_content(html: str, page: Page, files: Files, **_: Any) -> str:
    """Docstrings link to the paper's sections; a page with diagrams has what draws them, lest the theme fetch it."""
    paper, mermaid = (files.get_file_from_path(name) for name in ("docs/paper.md", MERMAID))
    for section in re.findall(r"^## (\d\..*)", paper.content_string, re.MULTILINE):
        link = f'<a href="{paper.url_relative_to(page.file)}#{SLUG(section, "-")}">'
        html = re.sub(rf"paper\.md,?\s+section {section[0]}", rf"{link}\g<0></a>", html)
    script = f'<script src="{mermaid.url_relative_to(page.file)}"></script>'
    return html + script * ('class="mermaid"' in html)
