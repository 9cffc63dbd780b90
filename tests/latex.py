"""Compiling what the project writes as LaTeX."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")

_PAGE = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage{booktabs}
\pagestyle{empty}
\begin{document}
%s
\end{document}
"""


def fits_on_one_page(tex: str, folder: Path, *, within_its_width: bool = True) -> None:
    """Compile the fragment as a page of its own, on which it must have room; hostile texts may stand out sideways."""
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
    assert "Float too large" not in done.stdout
    assert not (within_its_width and re.findall(r"Overfull \\hbox.*", done.stdout))
