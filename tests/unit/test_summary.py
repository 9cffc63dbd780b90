"""The summary page: everything that a set declares is on it, or is named as not run; and it compiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from biva.config import FigureName, RunConfig
from biva.reporting.canvas import save
from biva.reporting.figures import draw
from biva.reporting.markup import escape_latex, text
from biva.reporting.summary import compile_pdf, summary
from biva.reporting.table import Cell, Table
from tests.fake_runs import fake_config, fake_run, fake_set
from tests.latex import needs_latex

RUNS = [fake_config(model, seed) for model in ("vae", "biva") for seed in (1, 2)]
SET = {
    "description": "100% of {models} & a_b",
    "training": RUNS[0].training.model_dump()
    | {"max_updates": 50_000, "patience": 7}
    | {"free_bits": 2, "free_bits_updates": 3000, "kl_warm_up": 200, "largest_gradient_norm": 50.5},
    "figures": get_args(FigureName),
}
TABLE = Table(
    "likelihood", text("A caption."), [[Cell("A"), Cell("B")]], [[[Cell("C"), Cell(value=1)]]], [text("A note.")]
)


def written(folder: Path, runs: list[RunConfig] = RUNS, **changes: object) -> Path:
    document = folder / "summary.tex"
    folder.mkdir(parents=True, exist_ok=True)
    document.write_text(summary(fake_set(**SET | changes), runs, folder))
    return document


def test_without_any_result_everything_is_named_as_not_run(tmp_path: Path) -> None:
    tex = written(tmp_path / "of_another_name").read_text()
    assert r"\texttt{quick}" in tex
    assert r"100\% of \{models\} \& a\_b" in tex
    assert r"Table \texttt{tables/likelihood}: not run." in tex
    assert r"Table \texttt{anomalies/photos}: not run." in tex
    for stem in [*(f"figures/{name}" for name in get_args(FigureName)), "anomalies/photos"]:
        assert rf"Figure \texttt{{{escape_latex(stem)}}}: not run." in tex
    assert tex.count(r"1, 2 & not run & ") == 2
    assert "includegraphics" not in tex
    assert r"\input{" not in tex


def test_protocol_budget_and_seeds_are_those_of_the_set_and_of_its_runs(tmp_path: Path) -> None:
    for config in RUNS[1:]:
        fake_run(tmp_path / "set" / "runs", config, updates=30 * config.seed)
    tex = written(tmp_path / "set").read_text()
    assert r"\texttt{clean}: trained on the training images" in tex
    assert "at most 50,000 updates, or until 7 evaluations bring no new best" in tex
    assert "free bits 2 nats per latent group and image, falling to 0 over the first 3,000 updates; " in tex
    assert "KL warm-up over 200 updates; updates with a gradient norm above 50.5 are skipped." in tex
    assert r"\textit{K} = 1, 1,000." in tex
    cells = [[cell.strip(" \\") for cell in line.split("&")] for line in tex.splitlines() if "& VAE &" in line]
    assert [row[3:] for row in cells] == [["1, 2", "1 of 2", "1,234", "60", "0"]]
    assert "& BIVA & 1, 2 & 2 of 2 & 1,234 & 30--60 &" in tex
    assert r"Device cpu. Commit \texttt{0123abc}." in tex
    assert r"Data \texttt{digits}: \texttt{ffffffffffff}." in tex


def test_what_exists_is_included(tmp_path: Path) -> None:
    for stem in ("tables/likelihood.tex", "figures/layers.pdf", "anomalies/photos.pdf"):
        (tmp_path / stem).parent.mkdir(exist_ok=True)
        (tmp_path / stem).touch()
    tex = written(tmp_path).read_text()
    assert r"\input{tables/likelihood.tex}" in tex
    assert r"\includegraphics[width=\linewidth]{figures/layers.pdf}" in tex
    assert r"\includegraphics[width=\linewidth]{anomalies/photos.pdf}" in tex
    assert r"Table \texttt{anomalies/photos}: not run." in tex
    assert "layers}: not run" not in tex


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    """The summary of runs of all four models with two tables and all figures, a high one in the place of each."""
    runs = [fake_config(model) for model in ("vae", "lvae", "lvae_plus", "biva")]
    save(draw("latents_over_training", [fake_run(tmp_path / "runs", run) for run in runs]), tmp_path / "high")
    for stem in [*(f"figures/{name}" for name in get_args(FigureName)), "anomalies/photos"]:
        (tmp_path / stem).parent.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "high.pdf", tmp_path / f"{stem}.pdf")
    (tmp_path / "tables").mkdir()
    for stem in ("tables/likelihood", "anomalies/photos"):
        (tmp_path / f"{stem}.tex").write_text(TABLE.latex())
    return written(tmp_path, runs)


@needs_latex
def test_with_every_figure_and_table_it_is_one_page_and_the_same_bytes_again(complete: Path) -> None:
    assert compile_pdf(complete) == ""
    pdf = complete.with_suffix(".pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert sorted(path.name for path in complete.parent.glob("summary*")) == ["summary.pdf", "summary.tex"]
    log = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-no-shell-escape", "-jobname=again", complete.name],
        cwd=complete.parent,
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
    ).stdout
    assert "(1 page" in log
    assert "Overfull" not in log
    assert compile_pdf(complete) == ""
    assert complete.with_suffix(".pdf").read_bytes() == pdf


@needs_latex
def test_hostile_texts_are_printed_and_not_obeyed(tmp_path: Path) -> None:
    hostile = r"[ab]* \immediate\write18{touch executed}\input{/etc/passwd} }} %% $ # ^^41 \end{document}"
    runs = [
        run.model_copy(update={"architecture": run.architecture.model_copy(update={"description": hostile})})
        for run in RUNS
    ]
    for run in runs:
        fake_run(tmp_path / "runs", run, device=hostile)
    document = written(tmp_path, runs, description=hostile)
    assert compile_pdf(document) == ""
    assert document.read_text().count(escape_latex(hostile)) == 3
    assert not re.search(r"\\(immediate|write18|input)", document.read_text())
    assert not list(tmp_path.rglob("executed"))


def test_without_latex_there_is_a_reason_and_no_old_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    document = written(tmp_path)
    document.with_suffix(".pdf").write_bytes(b"of an earlier time")
    assert "summary.pdf was not made: pdflatex is not installed" in compile_pdf(document)
    assert not document.with_suffix(".pdf").exists()
    assert document.is_file()


@needs_latex
def test_what_latex_refuses_is_reported_in_its_words(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/likelihood.tex").write_text(r"\nonsense")
    document = written(tmp_path)
    assert "pdflatex says '! Undefined control sequence.'." in compile_pdf(document)
    assert not document.with_suffix(".pdf").exists()
