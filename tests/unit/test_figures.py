"""Figures show the records' numbers and images, name what is missing, and are the same bytes when drawn again."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, get_args

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from safetensors.numpy import save_file

from biva.config import FigureName
from biva.errors import UserError
from biva.records import RunFolder
from biva.reporting.canvas import save
from biva.reporting.figures import draw, inputs
from biva.reporting.figures.latents import group_order
from biva.reporting.figures.registry import FIGURES
from biva.reporting.style import COLOURS
from tests.fake_runs import cut_record, edit, fake_config, fake_run, ramp, record_line, sheet

BOUNDS = {1: (-25.0, 0.5), 100: (-24.0, 0.25)}


def texts(figure: Figure) -> str:
    """Every text on the figure."""
    return "\n".join(artist.get_text() for artist in figure.findobj(Text) if isinstance(artist, Text))


def only_axes(name: FigureName, folders: list[RunFolder]) -> Any:
    """Draw a figure that has one pair of axes."""
    (axes,) = draw(name, folders).axes
    return axes


def test_learning_curves_draw_every_line_of_the_record(tmp_path: Path) -> None:
    config = fake_config("lvae", 2)
    axes = only_axes("learning_curves", [fake_run(tmp_path, config, updates=30)])
    selection, train, selected = axes.lines
    expected = [record_line(config, update) for update in (10, 20, 30)]
    assert list(selection.get_xdata()) == [10, 20, 30]
    assert list(selection.get_ydata()) == [line["selection"]["elbo"] for line in expected]
    assert list(train.get_ydata()) == [line["train"]["elbo"] for line in expected]
    assert (selected.get_xdata()[0], selected.get_ydata()[0]) == (30, expected[-1]["selection"]["elbo"])
    assert selection.get_color() == COLOURS["lvae"]
    assert "nats" in axes.get_ylabel()
    assert axes.get_xlabel() == "updates"


def write_record(folder: RunFolder, points: list[tuple[float, float]]) -> None:
    """A record of these (seconds, ELBO on the selection split)."""
    lines = []
    for place, (seconds, elbo) in enumerate(points, start=1):
        line = record_line(fake_config(), 10 * place) | {"seconds": seconds}
        line["selection"]["elbo"] = elbo
        lines.append(json.dumps(line) + "\n")
    folder.record.write_text("".join(lines))


def test_bound_over_time_shows_every_seed_and_their_mean_where_both_are(tmp_path: Path) -> None:
    folders = [fake_run(tmp_path, fake_config("biva", seed)) for seed in (1, 2)]
    write_record(folders[0], [(60, -30), (180, -20)])
    write_record(folders[1], [(120, -40), (240, -28)])
    axes = only_axes("bound_over_time", folders)
    one, other, mean = (tuple(line.get_xydata().T.tolist()) for line in axes.lines)
    assert axes.get_xlabel() == "training time (minutes) on cpu"
    assert one == ([1, 3], [-30, -20])
    assert other == ([2, 4], [-40, -28])
    # Both have run from minute 2 to 3, where the first goes from -25 to -20 and the other from -40 to -34.
    assert mean == ([2, 3], [-32.5, -27])
    assert axes.lines[2].get_linewidth() > axes.lines[0].get_linewidth()


def test_bound_over_time_of_colour_images_is_in_bits_per_dim(tmp_path: Path) -> None:
    folder = fake_run(tmp_path)
    config = json.loads(folder.identity.read_text())["config"]
    config["architecture"] |= {"likelihood": "mixture_of_logistics", "input_shape": [3, 8, 8]}
    edit(folder.identity, config=config)
    write_record(folder, [(10, -192.0), (20, -96.0)])
    axes = only_axes("bound_over_time", [folder])
    assert list(axes.lines[0].get_ydata()) == pytest.approx([1 / math.log(2), 0.5 / math.log(2)])
    assert "bits/dim, lower is better" in axes.get_ylabel()
    assert "seconds" in axes.get_xlabel()


def test_latents_over_training_shows_kl_and_active_share_of_every_group(tmp_path: Path) -> None:
    kl, active = draw("latents_over_training", [fake_run(tmp_path, updates=20)]).axes
    # BIVA with two stages: z1_bu, z1_td, z2 with 0, 1, 2 of 8 active units, and a third of 5 nats each.
    assert [np.asarray(line.get_ydata()).tolist() for line in kl.lines] == [[5 / 3, 5 / 3]] * 3
    assert [np.asarray(line.get_ydata()).tolist() for line in active.lines] == [[0, 0], [1 / 8, 1 / 8], [2 / 8, 2 / 8]]
    assert [line.get_linestyle() for line in kl.lines] == ["-", "--", "-"]
    assert kl.lines[0].get_color() == kl.lines[1].get_color() != kl.lines[2].get_color()


def test_bound_against_k_is_the_mean_over_seeds_with_a_band_of_one_standard_error(tmp_path: Path) -> None:
    folders = [
        fake_run(tmp_path, fake_config("biva", 1), bounds=BOUNDS),
        fake_run(tmp_path, fake_config("biva", 2), bounds={1: (-27.0, 1.5), 100: (-25.0, 0.75)}),
    ]
    axes = only_axes("bound_against_k", folders)
    (line,) = axes.lines
    assert list(line.get_xdata()) == [1, 100]
    assert list(line.get_ydata()) == [-26.0, -24.5]
    (band,) = axes.collections
    assert sorted({tuple(point) for point in band.get_paths()[0].vertices}) == [
        (1, -27.0), (1, -25.0), (100, -25.0), (100, -24.0),
    ]  # fmt: skip
    assert axes.get_xscale() == "log"
    assert "(2 seeds)" in line.get_label()


def test_the_ladder_has_a_marker_per_seed_and_a_bar_at_the_mean_of_the_largest_common_k(tmp_path: Path) -> None:
    folders = [
        fake_run(tmp_path, fake_config("vae", 1), bounds={1: (-30.0, 1.0), 100: (-29.0, 1.0), 1000: (-28.0, 1.0)}),
        fake_run(tmp_path, fake_config("biva", 1), bounds=BOUNDS),
        fake_run(tmp_path, fake_config("biva", 2), bounds={1: (-27.0, 1.5), 100: (-25.0, 0.75)}),
    ]
    axes = only_axes("ladder", folders)
    assert [list(line.get_ydata()) for line in axes.lines] == [[-29.0], [-24.0, -25.0]]
    assert [bar.get_segments()[0][:, 1].tolist() for bar in axes.collections] == [[-29.0] * 2, [-24.5] * 2]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["VAE (1 seed)", "BIVA (2 seeds)"]
    assert "L_{100}" in axes.get_ylabel()
    with pytest.raises(UserError, match="its runs have no K in common"):
        draw("ladder", [*folders, fake_run(tmp_path, fake_config("biva", 3), bounds={7: (-25.0, 0.5)})])


def test_a_single_test_image_has_no_standard_error_and_is_drawn_without(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, bounds={1: (-25.0, None), 10: (-24.0, None)})  # type: ignore[dict-item]
    axes = only_axes("bound_against_k", [folder])
    assert list(axes.lines[0].get_ydata()) == [-25.0, -24.0]


def test_kl_bars_go_from_the_bottom_group_to_the_top_with_active_units(tmp_path: Path) -> None:
    folders = [fake_run(tmp_path, fake_config("biva", seed), bounds=BOUNDS) for seed in (1, 2)]
    names = ["z1_bu", "z1_td", "z2"]
    edit(
        folders[1].evaluation,
        kl_per_group={name: {"value": 3.0, "standard_error": 0.1} for name in names},
        active_units={name: {"active": 1, "total": 8} for name in names},
    )
    axes = only_axes("kl_per_layer", folders)
    # The other seed has KL 1, 2, 3 and 0, 1, 2 active units.
    assert [bar.get_width() for bar in axes.patches] == [2.0, 2.5, 3.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        r"$z_{1}^{\mathrm{BU}}$", r"$z_{1}^{\mathrm{TD}}$", "$z_{2}$",
    ]  # fmt: skip
    assert [note.get_text() for note in axes.texts] == ["0.5/8", "1/8", "1.5/8"]
    edit(folders[1].evaluation, active_units={})  # with K = 1 they are not counted
    assert not only_axes("kl_per_layer", folders).texts


def test_latent_groups_are_ordered_by_number() -> None:
    names = ["z10_bu", "z2_td", "z11", "z1_td", "z2_bu", "z10_td", "z1_bu"]
    assert sorted(names, key=group_order) == ["z1_bu", "z1_td", "z2_bu", "z2_td", "z10_bu", "z10_td", "z11"]


def test_samples_are_those_of_the_first_seed_of_every_model(tmp_path: Path) -> None:
    runs = [("biva", 2), ("vae", 3), ("biva", 1)]
    folders = [fake_run(tmp_path, fake_config(model, seed), bounds=BOUNDS) for model, seed in runs]
    save_file({"sheet/samples": sheet(ramp(4), 2).numpy()}, folders[2].arrays)
    axes = draw("samples", folders).axes
    assert [panel.get_title() for panel in axes] == ["VAE, seed 3", "BIVA, seed 1"]
    # Nine 8x8 images, three a row, of the VAE; four of BIVA.
    assert [np.asarray(panel.images[0].get_array()).shape for panel in axes] == [(28, 28, 3), (19, 19, 3)]


@pytest.mark.parametrize(
    ("name", "images", "columns", "rows"),
    [
        ("samples", (ramp(9), 3), [], []),
        ("reconstructions", (torch.cat([ramp(4).flip(0), ramp(4)]), 4), [], []),
        ("temperatures", (ramp(6), 3), [], ["1", "0.5"]),
        ("layers", (ramp(12), 4), ["$x$", "$l=0$", "1", "2"], []),
        ("interpolations", (ramp(10), 5), ["$x$", "", "", "", "$x'$"], []),
    ],
)
def test_images_stand_as_they_are_stored_and_are_labelled(
    name: FigureName, images: tuple[torch.Tensor, int], columns: list[str], rows: list[str], tmp_path: Path
) -> None:
    axes = only_axes(name, [fake_run(tmp_path, bounds=BOUNDS)])
    np.testing.assert_array_equal(axes.images[0].get_array(), sheet(*images).permute(1, 2, 0))
    assert [label.get_text() for label in axes.get_xticklabels()] == columns
    assert [label.get_text() for label in axes.get_yticklabels()] == rows
    # Images of 8 pixels stand 9 apart, so that their middles are at 4.5, 13.5 ...
    assert list(axes.get_xticks()) == [9 * (place + 0.5) for place in range(len(columns))]
    assert list(axes.get_yticks()) == [9 * (place + 0.5) for place in range(len(rows))]


def test_a_single_image_is_as_large_as_the_images_of_others(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, bounds=BOUNDS)
    save_file({"sheet/samples": sheet(ramp(1), 1).numpy()}, folder.arrays)
    single = draw("samples", [folder]).get_figheight()
    save_file({"sheet/samples": sheet(ramp(4), 2).numpy()}, folder.arrays)
    assert 0.7 < single <= draw("samples", [folder]).get_figheight()


def test_every_figure_that_a_set_may_ask_for_has_a_caption_and_is_drawn_without_torch(tmp_path: Path) -> None:
    assert sorted(FIGURES) == sorted(get_args(FigureName))
    assert all(FIGURES[name].caption.endswith(".") for name in get_args(FigureName))
    shown = {"samples", "temperatures", "reconstructions", "layers", "interpolations"}
    assert {name for name in get_args(FigureName) if FIGURES[name].reads == "arrays"} == shown
    assert (inputs("learning_curves"), inputs("kl_per_layer")) == (("train.json",), ("evaluation.json",))
    run = fake_run(tmp_path, bounds=BOUNDS).path
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(run), *FIGURES], check=True)


WITHOUT_TORCH = """
import sys
from pathlib import Path

sys.modules |= {"torch": None, "torchvision": None}  # so that importing either fails
from biva.records import RunFolder
from biva.reporting.canvas import save
from biva.reporting.figures import draw

assert "matplotlib" not in sys.modules  # the workflow asks for captions and inputs at every start
for name in sys.argv[2:]:
    save(draw(name, [RunFolder(Path(sys.argv[1]))]), Path(sys.argv[1]) / name, kinds=("png",))
"""


@pytest.mark.parametrize("name", get_args(FigureName))
def test_missing_runs_are_named_and_no_run_at_all_is_refused(name: FigureName, tmp_path: Path) -> None:
    missing = RunFolder(tmp_path / fake_config("lvae_plus", 4).name)
    figure = draw(name, [missing, fake_run(tmp_path, bounds=BOUNDS)])
    assert "not run: digits/digits_8x8/lvae_plus/seed4" in texts(figure)
    with pytest.raises(UserError, match=f"'{name}': none of the 1 runs has"):
        draw(name, [missing])


@pytest.mark.parametrize("name", get_args(FigureName))
def test_runs_of_two_datasets_do_not_share_axes(name: FigureName, tmp_path: Path) -> None:
    folders = [fake_run(tmp_path, fake_config(dataset=dataset), bounds=BOUNDS) for dataset in ("digits", "other")]
    figure = draw(name, folders)
    assert len(figure.axes) == 2 * len(draw(name, folders[:1]).axes)
    assert "digits, digits_8x8" in texts(figure)
    assert "other, digits_8x8" in texts(figure)


@pytest.mark.parametrize("name", get_args(FigureName))
def test_saved_twice_the_files_are_the_same_bytes(name: FigureName, tmp_path: Path) -> None:
    """The second time with another look of the user's, as from a file `matplotlibrc`."""
    folder = fake_run(tmp_path / "runs", bounds=BOUNDS)
    save(draw(name, [folder]), tmp_path / "first.a")
    with matplotlib.rc_context({"image.origin": "lower", "font.family": "monospace", "savefig.bbox": "tight"}):
        save(draw(name, [folder]), tmp_path / "second.a")
    assert (tmp_path / "first.a.pdf").read_bytes().startswith(b"%PDF")
    assert b"CreationDate" not in (tmp_path / "first.a.pdf").read_bytes()
    for kind in ("pdf", "png"):
        assert (tmp_path / f"first.a.{kind}").read_bytes() == (tmp_path / f"second.a.{kind}").read_bytes()


def test_runs_with_no_evaluation_yet_one_and_diverged_ones_are_still_drawn(tmp_path: Path) -> None:
    folders = [fake_run(tmp_path, fake_config(model), trained=False) for model in ("vae", "lvae", "biva")]
    cut_record(folders[0], 0)
    cut_record(folders[1], 1)
    folders[2].record.write_text(re.sub(r'"elbo": [-0-9.e]+', '"elbo": NaN', folders[2].record.read_text()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shown in (folders, folders[:1], folders[2:]):
            save(draw("learning_curves", shown), tmp_path / "figure")
    assert (tmp_path / "figure.png").is_file()
