"""The table model: what a cell says, and how a table is printed as LaTeX, HTML and a frame."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from biva.reporting.markup import code, escape_latex, styled, text
from biva.reporting.table import Cell, Table
from tests.latex import fits_on_one_page, needs_latex

TABLE = Table(
    name="a_table",
    caption=styled("*L*_{K} of `my_data`, 100%"),
    headings=[[Cell(), Cell("K = 1", columns=2)], [Cell("Model"), Cell("ours"), Cell("reported")]],
    blocks=[
        [[Cell("BIVA"), Cell(value=-2.5, spread=0.125, of_images=True, seeds="1/2", marks=("a",)), Cell("–")]],
        [[Cell("P&Q", columns=2), Cell(value=-3, in_brackets=True, marks=("1", "†"))]],
    ],
    notes=[styled("**Note** <one>"), styled("^{a} two")],
    distances=pd.DataFrame([{"Model": "BIVA", "Source": "a_b <c>"}]),
)

LATEX = r"""\begin{table}[tbp]
\centering
\caption{\textit{L}\textsubscript{K} of \texttt{my\_data}, 100\%}
\label{tab:a_table}
\smallskip
\footnotesize
\setlength{\tabcolsep}{3pt}
\begin{tabular}{@{}lrr@{}}
\toprule
 & \multicolumn{2}{c}{K = 1} \\
\cmidrule(lr){2-3}
Model & ours & reported \\
\midrule
BIVA & $-$2.50$\pm$0.12\textsuperscript{se} (1/2)\textsuperscript{a} & -- \\
\midrule
\multicolumn{2}{@{}p{31mm}}{\raggedright P\&Q} & ($-$3.00)\textsuperscript{1,$\dagger$} \\
\bottomrule
\end{tabular}
\par
\medskip
\begin{minipage}{\linewidth}
\scriptsize\raggedright
\textbf{Note} \textless{}one\textgreater{}

\textsuperscript{a} two

\end{minipage}
\end{table}
"""

HTML = """<p class="caption"><i>L</i><sub>K</sub> of <code>my_data</code>, 100%</p>
<div class="scroll" role="region" tabindex="0" aria-label="a_table">
<table class="results">
<thead>
<tr><th class="words"></th><th colspan="2">K = 1</th></tr>
<tr><th class="words">Model</th><th>ours</th><th>reported</th></tr>
</thead>
<tbody>
<tr><td class="words">BIVA</td><td>−2.50±0.12<sup>se</sup> (1/2)<sup>a</sup></td><td>–</td></tr>
</tbody>
<tbody>
<tr><td class="words" colspan="2">P&amp;Q</td><td>(−3.00)<sup>1,†</sup></td></tr>
</tbody>
</table>
</div>
<p>Ours minus the reported value:</p>
<div class="scroll" role="region" tabindex="0" aria-label="Distances of a_table">
<table class="distances">
<thead><tr><th>Model</th><th>Source</th></tr></thead>
<tbody>
<tr><td>BIVA</td><td>a_b &lt;c&gt;</td></tr>
</tbody>
</table>
</div>
<div class="notes">
<p><b>Note</b> &lt;one&gt;</p>
<p><sup>a</sup> two</p>
</div>
</body></html>
"""


def test_a_table_as_latex() -> None:
    assert TABLE.latex() == LATEX


def test_a_table_as_a_page() -> None:
    assert TABLE.html().split("<body>\n")[1] == HTML


def test_a_table_as_a_frame() -> None:
    frame = TABLE.frame()
    assert frame.columns.tolist() == ["Model", "K = 1 ours", "K = 1 reported"]
    assert frame.to_numpy().tolist() == [["BIVA", "−2.50±0.12^se (1/2)^a", "–"], ["P&Q", "", "(−3.00)^1,†"]]


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (Cell("not run"), "not run"),
        (Cell(text("BIVA ", code("a")), marks=("a", "b")), "BIVA a^a,b"),
        (Cell(value=-0.5), "−0.50"),
        (Cell(value=-0.004, digits=2, interval=(-0.006, -0.0)), "0.00 [−0.01, 0.00]"),
        (Cell(value=0.5, digits=3, interval=(0.25, 0.75)), "0.500 [0.250, 0.750]"),
        (Cell(value=0.5, spread=0.125, seeds="2"), "0.50±0.12 (2)"),
        (Cell(value=math.nan, seeds="2"), "not finite (2)"),
        (Cell(value=-math.inf), "not finite"),
    ],
)
def test_what_a_cell_says(cell: Cell, says: str) -> None:
    assert str(cell.text) == says


def test_special_characters_are_escaped() -> None:
    assert escape_latex("50%_a & b\n#$") == r"50\%\_a \& b \#\$"
    assert escape_latex(r"\input{/etc/passwd}") == r"\textbackslash{}input\{/etc/passwd\}"
    assert escape_latex("Maaløe 中") == "Maaløe U+4E2D"
    assert escape_latex("[9cm]*") == "{[}9cm{]}{*}"


@needs_latex
def test_every_style_and_symbol_compiles(tmp_path: Path) -> None:
    symbols = styled("− ± † ‡ ∗ ↑ ↓ – **x_1** `x_1` *x_1* x_{x_1} x^{x_1}")
    fits_on_one_page(symbols.latex() + TABLE.latex(), tmp_path)
