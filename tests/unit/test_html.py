"""Tables as HTML and as rows of text, from their LaTeX."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from biva.config import LikelihoodTable
from biva.errors import UserError
from biva.reporting.comparison import HEADS, comparisons
from biva.reporting.html import frame, inline, page, parse, plain
from biva.reporting.results import COLUMNS, PAPER_COLUMNS
from biva.reporting.tables import code, environment, escape, likelihood_table
from tests.fake_runs import fake_config

PAPER = pd.DataFrame(
    [
        ["t", "digits", "BIVA", "log_likelihood_bound", 1, -81.2, "nats", "true", "a_source <1>", "no"],
        ["t", "digits", "BIVA", "log_likelihood_bound", 1000, -79.0, "nats", "true", "another", "yes"],
        ["t", "digits", "PixelCNN", "log_likelihood", None, -81.3, "nats", "true", "a third", "value only"],
    ],
    columns=list(PAPER_COLUMNS),
).astype(PAPER_COLUMNS)
TABLE = LikelihoodTable(name="likelihood", dataset="digits", paper_table="t", k=(1, 1000))
PLANNED = [fake_config(seed=seed) for seed in (1, 2)]


def results(values: dict[tuple[int, int], float]) -> pd.DataFrame:
    """(seed, K) -> bound."""
    same = {
        "experiments": "quick", "dataset": "digits", "architecture": "digits_8x8", "model": "biva",
        "metric": "log_likelihood_bound", "standard_error": 0.5, "low": None, "high": None, "unit": "nats",
        "protocol": "clean", "manifest": "", "commit": "a", "evaluation_digest": "e", "data_fingerprint": "f",
        "device": "cpu", "parameters": 1, "updates": 10, "images_seen": 10, "images_evaluated": 5, "wall_seconds": 1.0,
    }  # fmt: skip
    digests = {run.seed: run.digest for run in PLANNED}
    rows = [
        same | {"seed": seed, "k": k, "value": value, "run_id": f"r{seed}", "config_digest": digests[seed]}
        for (seed, k), value in values.items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


@pytest.mark.parametrize(
    ("tex", "html"),
    [
        (r"$-44.83{\pm}0.19^{\mathrm{se}}$ (2)", "−44.83±0.19<sup>se</sup> (2)"),
        (r"$-81.20^{1,\dagger}$", "−81.20<sup>1,†</sup>"),
        (r"$L^{>k} = L - L^{>k}$", "L<sup>&gt;k</sup> = L−L<sup>&gt;k</sup>"),
        (r"$\mathbf{0.539}{\pm}0.157$", "<b>0.539</b>±0.157"),
        (r"$x^2_i$ and $6{,}000$ updates", "x<sup>2</sup><sub>i</sub> and 6,000 updates"),
        (r"\texttt{a\_b} \& 95\% \emph{so}", "<code>a_b</code> &amp; 95% <em>so</em>"),
        ("--", "–"),
        (r"$z^{\mathrm{BU}}$", "z<sup>BU</sup>"),
    ],
)
def test_latex_of_a_line_becomes_html(tex: str, html: str) -> None:
    assert inline(tex) == html


@pytest.mark.parametrize("text", ["a & b_c $5 {x} 100% #1 ~^\\ <b>|", 'Müller\'s "model"', "L=15, K=1"])
def test_escaped_text_comes_back(text: str) -> None:
    assert plain(inline(escape(text))) == text.replace('"', "”")
    assert plain(inline(code(text))) == text.replace('"', "”")


def test_the_page_has_every_number_of_the_latex_and_the_distances() -> None:
    ours = results({(1, 1): -82.0, (2, 1): -83.0, (1, 1000): -78.0})
    tex = likelihood_table(ours, PAPER, TABLE, PLANNED)
    distances = [comparison.cells() for comparison in comparisons(ours, PAPER, TABLE, PLANNED)]
    html = page(tex, "likelihood", HEADS, distances)
    cells = frame(tex)
    assert list(cells.columns) == ["Model", "K = 1 ours", "K = 1 reported", "K = 1000 ours", "K = 1000 reported"]
    assert cells.to_numpy().tolist() == [
        ["BIVA", "−82.50±0.71 (2)", "−81.201,†", "−78.00±0.50se (1/2)", "−79.002"],
        ["PixelCNN", "not run", "–", "not run", "(−81.30)3,‡,∗"],
    ]
    body = tex[tex.index(r"\begin{tabular}") :]
    assert set(re.findall(r"\d+\.\d+", body)) <= set(re.findall(r"\d+\.\d+", html))
    assert "\\" not in html and "$" not in html
    assert parse(tex).rows[1].ruled and not parse(tex).rows[0].ruled
    assert distances == [
        ["BIVA", "log likelihood bound", "1", "-82.50 (2)", "-81.20 (unconfirmed)", "-1.30 nats", "a_source <1>"],
        ["BIVA", "log likelihood bound", "1000", "-78.00 (1)", "-79.00", "+1.00 nats", "another"],
    ]
    assert "<td>-1.30 nats</td><td>a_source &lt;1&gt;</td>" in html


def test_without_results_or_reported_values_there_is_no_distance() -> None:
    assert comparisons(results({}), PAPER, TABLE, PLANNED) == []
    none = TABLE.model_copy(update={"paper_table": None})
    assert comparisons(results({(1, 1): -82.0}), PAPER, none, PLANNED) == []


def test_cells_over_several_columns_keep_the_others_in_place() -> None:
    body = "\n".join(
        [r"\begin{tabular}{@{}llr@{}}", r"\toprule", r"A & B & C \\", r"\midrule",
         r"\multicolumn{2}{@{}p{31mm}}{\raggedright wide} & $1.5$ \\", r"\bottomrule", r"\end{tabular}"]
    )  # fmt: skip
    tex = environment("c", "l", body, ["n"])
    assert frame(tex).to_numpy().tolist() == [["wide", "", "1.5"]]
    assert "<td colspan=2>wide</td><td>1.5</td>" in page(tex, "t")


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(UserError, match="no table that biva wrote"):
        parse("{}")
