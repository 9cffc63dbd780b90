"""Compiling what the project writes as LaTeX."""

import subprocess
from pathlib import Path

_PAGE = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage{booktabs}
\pagestyle{empty}
\begin{document}
%s
\end{document}
"""


def compiled_on_one_page(tex: str, folder: Path) -> str:
    """What pdflatex prints for the fragment on a page of its own; it must compile and fit on that page."""
    (folder / "page.tex").write_text(_PAGE % tex, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "page.tex"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "(1 page" in done.stdout
    return done.stdout
