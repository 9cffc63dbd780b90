"""What people look at, in a real browser: a set's own page, MLflow's by `make ui`, and the report by `make report`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

from biva.config import load_experiments, resolve_runs
from biva.models.build import build_model
from tests.browser import Browser, chromium
from tests.fake_runs import fake_run, ramp
from tests.services import free_port, running, wait_until
from tests.workflow.conftest import ROOT, Project, copy_project, small_set

pytest.importorskip("mlflow")
SHOTS = os.environ.get("BIVA_SCREENSHOTS")
"""Folder for pictures of all pages, to look at them."""
IMAGES = "[...document.images].filter(i => i.naturalWidth > 100)"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A set with two finished runs of made-up numbers, of which the real workflow made tables, figures and MLflow."""
    project = copy_project(tmp_path_factory.mktemp("pages") / "project")
    table = {"name": "likelihood", "dataset": "digits", "paper_table": "made_up", "k": [1, 1000]}
    project.edit("config/experiments/quick.yaml", small_set(model="biva", tables=[table], k=(1, 1000)))
    with (project.path / "config/paper_results.csv").open("a") as paper:
        paper.write("made_up,digits,BIVA,log_likelihood_bound,1000,-24.50,nats,true,nowhere,no\n")
    for name in ("fetched.txt", "data.json", "data.safetensors"):
        path = project.path / "resources/digits" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    config = project.path / "config"
    for run in resolve_runs("quick", load_experiments("quick", config), config):
        bounds = {1: (-25.0 - run.seed, 0.5), 1000: (-23.0 - run.seed, 0.25)}
        folder = fake_run(project.path / "results/quick/runs", run, bounds=bounds)
        save_file(build_model(run.architecture, run.model).state_dict(), folder.weights)
        save_file({"10": (255 * ramp(16)).byte()}, folder.samples)
        folder.evaluation.touch()
        folder.arrays.touch()
    done = project.snakemake("--cores", "1")
    assert done.returncode == 0, done.stdout
    assert "rule train" not in done.stdout
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, project.path)
    (project.path / "stub").mkdir()
    (project.path / "stub/.ready").touch()
    return project


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def make(project: Project, *arguments: str) -> list[str]:
    """The command `make ARGUMENTS`, with the Python of the tests instead of .venv."""
    return ["make", "-C", str(project.path), f"BIN={Path(sys.executable).parent}", "VENV=stub", *arguments]


def keep_picture(browser: Browser, name: str) -> None:
    if SHOTS:
        browser.picture(Path(SHOTS) / f"{name}.png")


def test_the_page_of_the_set_sorts_and_leads_from_a_number_to_its_runs(project: Project, browser: Browser) -> None:
    browser.open((project.path / "results/quick/index.html").as_uri())
    browser.wait_for_text("2 of 2 evaluated", "−26.50±0.71 (2)", "Models and runs")
    keep_picture(browser, "page")
    first = "document.querySelector('#stages table')"
    stages = f"return [...{first}.tBodies[0].rows].map(row => row.cells[0].innerText)"
    before = browser.run(stages)
    for direction, order in (("ascending", sorted(before)), ("descending", sorted(before, reverse=True))):
        browser.run(f"{first}.querySelector('button').click()")
        assert browser.run(f"return {first}.querySelector('[aria-sort]').ariaSort") == direction
        assert browser.run(stages) == order
    browser.run("[...document.querySelectorAll('td a')].find(a => a.innerText.startsWith('−26.50')).click()")
    assert browser.run("return document.querySelector(':target h3').innerText") == "BIVA"
    assert browser.run("return document.querySelector(':target').getBoundingClientRect().top < innerHeight")
    assert browser.run("return performance.getEntriesByType('resource').every(r => r.name.startsWith('data:'))")
    keep_picture(browser, "page_model")
    rows = (project.path / "results/quick/results.csv").read_text().splitlines()
    ids = {row.split(",")[rows[0].split(",").index("mlflow_run_id")] for row in rows[1:]}
    assert len(ids) == 2
    assert all(len(one) == 32 for one in ids)


def test_the_report_shows_tables_figures_captions_statistics_and_configuration(
    project: Project, browser: Browser
) -> None:
    done = subprocess.run(
        make(project, "report"), env=os.environ | {"PYTHONPATH": str(project.path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    browser.open((project.path / "results/report.html").as_uri())
    browser.wait_for_text("Results of quick", "config/experiments/quick.yaml", "paper_table: made_up")
    browser.click("Tables")
    browser.wait_for_text("quick / likelihood")
    browser.run("document.querySelector('a[iconname=eye]').click()")
    browser.wait_for("return document.querySelector('iframe')")
    browser.enter_frame()
    browser.wait_for_text("Importance-weighted lower bounds")
    rows = browser.run("return [...document.querySelectorAll('table')].map(t => [...t.rows].map(r => r.innerText))")
    keep_picture(browser, "report_table")
    # Means of -26 and -27, of -24 and -25; their sample standard deviation is 1/sqrt(2).
    assert rows[0][-1].split("\t") == ["BIVA", "−26.50±0.71 (2)", "–", "−24.50±0.71 (2)", "−24.501,†"]
    assert rows[1][-1].split("\t")[2:6] == ["1000", "-24.50 (2)", "-24.50 (unconfirmed)", "+0.00 nats"]
    browser.leave_frame()
    browser.run("document.querySelector('a[iconname=information-circle]').click()")
    browser.wait_for_text("bounds at K = 1, 1000 on the dataset digits; protocol clean; seeds 1, 2")
    keep_picture(browser, "report_caption")
    browser.open((project.path / "results/report.html").as_uri() + "?again")
    browser.click("Figures")
    browser.wait_for_text("quick / learning_curves")
    browser.run("document.querySelector('a[iconname=eye]').click()")
    browser.wait_for(f"return {IMAGES}.length")
    keep_picture(browser, "report_figure")
    browser.run("document.querySelector('a[iconname=information-circle]').click()")
    browser.wait_for_text("The evidence lower bound (ELBO) during training", "seeds 1, 2")
    browser.open((project.path / "results/report.html").as_uri() + "?statistics")
    browser.click("Statistics")
    browser.wait_for("return document.querySelectorAll('canvas, svg.marks').length")
    keep_picture(browser, "report_statistics")


def test_mlflow_shows_runs_comparison_charts_and_artifacts(
    project: Project, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(project.path))
    port, log = free_port(), tmp_path / "ui.log"
    with running(make(project, "--silent", "ui", f"PORT={port}"), log):
        wait_until(lambda: "Application startup complete" in log.read_text(), log, seconds=180)
        server = f"http://127.0.0.1:{port}"
        (address,) = [line for line in log.read_text().splitlines() if line.startswith(f"{server}/#/compare-runs")]
        browser.open(address)
        browser.wait_for_text("Comparing 2 Runs from 1 Experiment", "digits / biva / seed 1", "digits / biva / seed 2")
        browser.wait_for_text("selected/elbo", "-22.25", "-22.5")  # -20 - 100/50 - seed/4, by tests.fake_runs
        plot = "(document.querySelector('.js-plotly-plot') || {}).data"
        shown = browser.wait_for(f"return {plot} && {plot}[0].dimensions.map(one => one.label)")
        assert shown == ["seed", "test/log_likelihood_bound_k1"]
        browser.wait_for_text("Model registry")  # not among what MLflow shows for language models
        keep_picture(browser, "mlflow_compare")
        # The three steps of docs/numbers.md: this page, the run's id, its metrics.
        browser.run("[...document.querySelectorAll('a')].find(a => /^[0-9a-f]{32}$/.test(a.innerText)).click()")
        browser.wait_for_text("digits / biva / seed 1 / evaluation", "paper_table", "made_up", "+0.50 nats")
        keep_picture(browser, "mlflow_run")
        tab = "[...document.querySelectorAll('[role=tab]')].find(t => t.innerText === 'Model metrics')"
        browser.run(f"{tab}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))")
        browser.wait_for("return document.querySelectorAll('.js-plotly-plot .main-svg').length")
        keep_picture(browser, "mlflow_charts")

        browser.open(f"{server}/#/experiments/1/runs?workflowType=machine_learning")
        browser.wait_for_text("quick / tables and figu", "digits / biva / seed 1", "digits / biva / seed 2")
        keep_picture(browser, "mlflow_runs")
        links = "[...document.querySelectorAll('a')]"
        run = browser.wait_for(f"return ({links}.find(a => a.innerText === 'digits / biva / seed 1') || {{}}).href")
        reports = browser.wait_for(f"return ({links}.find(a => a.innerText.startsWith('quick / tables')) || {{}}).href")

        for name in ("figures/kl_per_layer.png", "samples/update_0000010.png"):
            browser.open("about:blank")  # the page itself would stay at what it shows
            browser.open(f"{run}/artifacts/{name}")
            browser.wait_for_text(name)
            browser.wait_for(f"return {IMAGES}.length")
            keep_picture(browser, f"mlflow_{Path(name).parent}")
        browser.open(f"{reports}/artifacts/tables/likelihood.json")
        browser.wait_for_text("K = 1000 reported", "−24.50±0.71 (2)")
        keep_picture(browser, "mlflow_table")

        of_server = subprocess.run(
            make(project, "--silent", "ui"),
            env=os.environ | {"MLFLOW_TRACKING_URI": server},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert of_server.returncode == 0, of_server.stderr
    assert of_server.stdout.splitlines() == [f"MLflow runs already: {server}", address]
