"""The rows of differences between models in a likelihood table."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from biva.config import LikelihoodTable, RunConfig
from biva.records import RunFolder
from biva.reporting.likelihood_table import likelihood_table
from biva.reporting.per_image import read_bounds
from biva.reporting.results import collect
from biva.reporting.table import Table
from tests.fake_runs import IMAGES, edit, fake_config, fake_run, save_bounds
from tests.unit.test_likelihood_table import PAPER, notes_of, row_of, rows_of

DIGITS = LikelihoodTable(name="likelihood", dataset="digits", k=(1, 1000))
MNIST = LikelihoodTable(name="likelihood", dataset="mnist_static", paper_table="static_mnist", k=(1,))


def made(runs: Path, config: RunConfig, bounds: NDArray[np.float64], ks: tuple[int, ...] = (1,)) -> RunFolder:
    folder = fake_run(runs, config, bounds=dict.fromkeys(ks, (float(bounds.mean()), 0.1)))
    save_bounds(folder, dict.fromkeys(ks, bounds))
    return folder


def table_of(runs: Path, planned: list[RunConfig], settings: LikelihoodTable = DIGITS) -> Table:
    folders = {run.name: RunFolder(runs / run.name) for run in planned}
    bounds = {name: read_bounds(folder) for name, folder in folders.items()}
    results = collect(folders.values())
    return likelihood_table(results, PAPER, settings, planned, bounds)


IMAGE = np.linspace(-30.0, -20.0, IMAGES)


@pytest.fixture
def two(tmp_path: Path) -> list[RunConfig]:
    """VAE and LVAE with two seeds each; LVAE is better by 1 nat on all images, and its seeds differ by 0.02."""
    planned = [fake_config(model, seed) for model in ("vae", "lvae") for seed in (1, 2)]
    for config, shift in zip(planned, (0.0, 0.0, 0.99, 1.01), strict=True):
        made(tmp_path, config, IMAGE + shift)
    return planned


def test_the_difference_has_the_hand_computed_interval_and_is_bold(tmp_path: Path, two: list[RunConfig]) -> None:
    """One of the three parts of the variance is not 0: 0.02^2 / 2 / 2 = 0.01^2, with one degree of freedom.

    t_1 is 12.706 at 97.5%, so the interval is 1 +- 0.127.
    """
    table = table_of(tmp_path, two)
    assert row_of(table, "LVAE − VAE") == ["LVAE − VAE", "1.00 [0.87, 1.13]", "not run"]
    assert r"\textbf{1.00} {[}0.87, 1.13{]} & not run" in table.latex()
    assert "<td><b>1.00</b> [0.87, 1.13]</td>" in table.html()
    assert "Bold: the interval excludes 0." in notes_of(table)
    assert "^im" not in notes_of(table)


def test_a_model_with_one_seed_has_an_interval_over_images_that_is_never_bold(
    tmp_path: Path, two: list[RunConfig]
) -> None:
    """Differences of 0.99 + (-2 .. 2)/10: standard deviation 0.1581, error 0.0707, t_4 = 2.776, margin 0.196."""
    biva = fake_config("biva")
    made(tmp_path, biva, IMAGE + 2.0 + np.arange(-2, 3) / 10)
    table = table_of(tmp_path, [*two, biva])
    assert row_of(table, "BIVA − LVAE")[1] == "1.00 [0.80, 1.20]^im"
    assert row_of(table, "BIVA − VAE")[1] == "2.00 [1.80, 2.20]^im"
    assert row_of(table, "LVAE − VAE")[1] == "1.00 [0.87, 1.13]"
    assert r"\textbf{2.00}" not in table.latex()
    assert "^im: of one of the two models only one seed ran" in notes_of(table)


def test_every_model_is_compared_with_the_one_before_and_the_last_with_the_first(tmp_path: Path) -> None:
    parent = fake_config("biva")
    planned = [parent.model_copy(update={"finetunes": parent.digest}), parent]
    planned += [fake_config(model) for model in ("lvae", "vae", "lvae_plus")]
    for config in planned[:-1]:
        made(tmp_path, config, IMAGE)
    table = table_of(tmp_path, planned)
    assert [row[0] for row in rows_of(table)][-5:] == [
        "LVAE − VAE", "LVAE+ − LVAE", "BIVA − LVAE+", "BIVA − VAE", "BIVA finetuned − BIVA",
    ]  # fmt: skip
    assert row_of(table, "BIVA − LVAE+")[1] == "not run"


def test_models_of_different_architectures_are_not_compared(tmp_path: Path, two: list[RunConfig]) -> None:
    other = fake_config("biva", stages=3).model_copy(update={"architecture_name": "a_deep"})
    made(tmp_path, other, IMAGE)
    table = table_of(tmp_path, [*two, other])
    assert [name for name, *_ in rows_of(table) if "−" in name] == ["LVAE L=2 − VAE L=2"]
    assert "Models of different architectures are not compared." in notes_of(table)


def test_without_the_bounds_of_every_seed_there_is_no_difference_and_a_note_says_why(
    tmp_path: Path, two: list[RunConfig]
) -> None:
    RunFolder(tmp_path / two[1].name).bounds.unlink()
    table = table_of(tmp_path, two)
    assert [row[0] for row in rows_of(table)] == ["VAE", "LVAE"]
    assert "Differences between models are not available: some runs have no bounds of single images" in notes_of(table)
    made(tmp_path, fake_config("biva"), IMAGE)
    table = table_of(tmp_path, [*two, fake_config("biva")])
    assert row_of(table, "BIVA − VAE") == ["BIVA − VAE", "not available", "not run"]
    assert "Differences that are not available: some runs have no bounds" in notes_of(table)


def test_models_on_other_test_images_are_not_compared(tmp_path: Path, two: list[RunConfig]) -> None:
    for config in two[2:]:
        edit(RunFolder(tmp_path / config.name).evaluation, images_in_split=99)
    assert "not available: they were not evaluated on the same test images." in notes_of(table_of(tmp_path, two))


def test_where_nothing_has_run_or_there_is_one_model_nothing_is_said(tmp_path: Path, two: list[RunConfig]) -> None:
    for table in (table_of(tmp_path / "empty", two), table_of(tmp_path, two[:2])):
        assert not any("−" in row[0] for row in rows_of(table))
        assert "ifference" not in notes_of(table)


def test_a_run_that_is_not_like_the_others_marks_its_differences(tmp_path: Path, two: list[RunConfig]) -> None:
    edit(RunFolder(tmp_path / two[0].name).evaluation, commit="4567def")
    assert row_of(table_of(tmp_path, two), "LVAE − VAE")[1] == "1.00 [0.87, 1.13]^a"


def test_differences_are_as_wide_as_both_columns_of_a_k(tmp_path: Path) -> None:
    planned = [fake_config(model, seed, "mnist_static") for model in ("vae", "lvae") for seed in (1, 2)]
    for config in planned:
        made(tmp_path, config, IMAGE)
    table = table_of(tmp_path, planned, MNIST)
    assert r"LVAE $-$ VAE & \multicolumn{2}{r}{0.00 {[}0.00, 0.00{]}} \\" in table.latex()
    assert '<td class="words">LVAE − VAE</td><td colspan="2">0.00 [0.00, 0.00]</td>' in table.html()
    assert table.frame().iloc[-1].tolist() == ["LVAE − VAE", "0.00 [0.00, 0.00]", ""]


def test_colour_images_are_compared_in_bits_per_dimension(tmp_path: Path) -> None:
    """64 dimensions; better by 6.4 ln 2 nats is 0.1 bits less."""
    planned = [fake_config(model, seed) for model in ("vae", "lvae") for seed in (1, 2)]
    architecture = planned[0].architecture.model_copy(update={"likelihood": "mixture_of_logistics"})
    planned = [run.model_copy(update={"architecture": architecture}) for run in planned]
    for config in planned:
        folder = made(tmp_path, config, IMAGE + (config.model == "lvae") * 6.4 * math.log(2))
        metric = {"metric": "bits_per_dim", "k": 1, "value": 3.0, "standard_error": 0.1, "unit": "bits/dim"}
        edit(folder.evaluation, metrics=[metric])
    assert row_of(table_of(tmp_path, planned), "LVAE − VAE")[1] == "−0.100 [−0.100, −0.100]"
