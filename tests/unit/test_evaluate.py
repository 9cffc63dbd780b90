"""The evaluation record of a run against its own per-image arrays and the files it was made from."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from biva import records
from biva.config import Evaluation
from biva.data.inputs import fixed_input, part
from biva.errors import UserError
from biva.evaluation import likelihood, run
from biva.evaluation.kept import parse_share
from biva.evaluation.pictures import INTERPOLATION_STEPS, LAYER_IMAGES, PER_TEMPERATURE
from biva.evaluation.run import evaluate, evaluate_share
from biva.models.hierarchical_vae import HierarchicalVAE
from biva.records import RunFolder
from biva.tracking.numbers import evaluation_metrics
from biva.training.loop import train
from tests.hostile import last_bit_flipped
from tests.models import tiny_architecture
from tests.unit.test_training import toy_dataset, toy_run

SETTINGS = Evaluation(importance_samples=(1, 10, 40), max_images=7, prior_samples=5)
TEST_IMAGES = fixed_input(toy_dataset(), "test")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    train(toy_run(), toy_dataset(), folder, lambda: None)
    return folder


def batches_drawn(monkeypatch: pytest.MonkeyPatch, *, killed_at: int | None = None) -> list[int]:
    """The first image of every batch that is drawn from now on, until the batch from which on the process is killed."""
    drawn: list[int] = []
    draw = likelihood._draw

    def counted(model: Any, x: Any, images: range, *arguments: Any) -> Any:
        if images.start == killed_at:
            raise KeyboardInterrupt
        drawn.append(images.start)
        return draw(model, x, images, *arguments)

    monkeypatch.setattr(likelihood, "_draw", counted)
    return drawn


def test_metrics_are_means_and_standard_errors_over_images(trained: RunFolder) -> None:
    evaluate(trained, SETTINGS, toy_dataset())
    record, arrays = records.read_json(trained.evaluation), load_file(trained.bounds)
    rows = {(row["metric"], row["k"]): row for row in record["metrics"]}
    for k in (1, 10, 40):
        values = arrays[f"bound/{k}"]
        assert values.shape == (7,)
        assert rows["log_likelihood_bound", k]["value"] == pytest.approx(np.mean(values))
        assert rows["log_likelihood_bound", k]["standard_error"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(7))
    assert (arrays["bound/1"] < arrays["bound/10"]).all()  # Jensen: groups of the same samples
    assert (arrays["bound/10"] < arrays["bound/40"]).all()
    kl = sum(group["value"] for group in record["kl_per_group"].values())
    assert rows["kl_divergence", 1]["value"] == pytest.approx(kl)
    assert rows["log_likelihood_bound", 1]["value"] == pytest.approx(rows["log_likelihood", 1]["value"] - kl)
    assert rows["active_units", None]["value"] == sum(group["active"] for group in record["active_units"].values())
    assert {group["total"] for group in record["active_units"].values()} == {2}
    assert record["images"] == 7
    assert record["weights_sha256"] == hashlib.sha256(trained.weights.read_bytes()).hexdigest()


def change_one_weight(patch: pytest.MonkeyPatch, value: float) -> None:
    """Add `value` to the first log-weight of the third image of every chunk of samples."""
    terms = HierarchicalVAE.terms

    def changed(self: HierarchicalVAE, x: Any, *arguments: Any, **options: Any) -> Any:
        result = terms(self, x, *arguments, **options)
        result.log_likelihood[2] += value
        return result

    patch.setattr(HierarchicalVAE, "terms", changed)


def test_a_weight_of_zero_counts_in_every_mean_and_is_told(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of image 2 one sample of 40 has no weight: L_40 loses little, L_1 everything. The other images are as before."""
    evaluate(trained, SETTINGS, toy_dataset())
    before, ordinary = load_file(trained.bounds), records.read_json(trained.evaluation)
    assert ordinary["zero_weights"] == {"samples": 0, "images": 0}
    assert "warning" not in capsys.readouterr().err
    change_one_weight(monkeypatch, -math.inf)
    evaluate(trained, SETTINGS, toy_dataset())
    after, record = load_file(trained.bounds), records.read_json(trained.evaluation)
    assert record["zero_weights"] == {"samples": 1, "images": 1}
    assert "1 of 280 importance weights, of 1 images, are zero" in capsys.readouterr().err
    others = [0, 1, 3, 4, 5, 6]
    for k in (1, 10, 40):
        np.testing.assert_array_equal(after[f"bound/{k}"][others], before[f"bound/{k}"][others])
    assert math.log(0.5) < after["bound/40"][2] - before["bound/40"][2] < 0
    assert after["bound/1"][2] == -math.inf
    rows = {(row["metric"], row["k"]): row for row in record["metrics"]}
    assert rows["log_likelihood_bound", 1]["value"] == -math.inf
    assert rows["log_likelihood_bound", 1]["standard_error"] is None
    assert rows["log_likelihood_bound", 40]["value"] == pytest.approx(np.mean(after["bound/40"]))
    assert evaluation_metrics(record)["test/zero_weights"] == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_an_error_that_names_the_image(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """Images 2 and 6, the third ones of two batches of four: the first batch ends it, and is not kept as good."""
    monkeypatch.setattr(likelihood, "IMAGES_PER_BATCH", 4)
    with monkeypatch.context() as patch:
        change_one_weight(patch, value)
        with pytest.raises(UserError, match=r"NaN or infinite at images 2 \(counted from 0\).*left out of its mean"):
            evaluate(trained, SETTINGS, toy_dataset())
    evaluate(trained, SETTINGS, toy_dataset())
    assert np.isfinite(load_file(trained.bounds)["bound/40"]).all()


@pytest.mark.parametrize("damage", [lambda part: part[:100], last_bit_flipped])
def test_a_killed_evaluation_goes_on_where_it_was(
    damage: Callable[[bytes], bytes],
    trained: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Seven images, two at a time, killed at the third of four parts; then the first is cut short, or a bit flips."""
    monkeypatch.setattr(likelihood, "IMAGES_PER_BATCH", 2)
    evaluate(trained, SETTINGS, toy_dataset())
    whole = load_file(trained.arrays)
    assert not trained.unfinished_evaluation.exists()
    with monkeypatch.context() as patch:
        sampled = batches_drawn(patch, killed_at=4)
        with pytest.raises(KeyboardInterrupt):
            evaluate(trained, SETTINGS, toy_dataset())
    first, _ = sorted(trained.unfinished_evaluation.rglob("*.safetensors"))
    first.write_bytes(damage(first.read_bytes()))
    again = batches_drawn(monkeypatch)
    evaluate(trained, SETTINGS, toy_dataset())
    assert (sampled, again) == ([0, 2], [0, 4, 6])
    assert "is damaged; it is computed again" in capsys.readouterr().err
    for name, values in load_file(trained.arrays).items():
        np.testing.assert_array_equal(values, whole[name])


@pytest.mark.parametrize("change", ["weights", "images", "seed", "k", "rows", "precision", "device", "commit", "torch"])
def test_what_was_kept_of_another_evaluation_is_not_used(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Killed at the third of four parts; then one thing on which the samples depend is another."""
    monkeypatch.setattr(likelihood, "IMAGES_PER_BATCH", 2)
    sampling = run.Sampling.of(run.load_trained(trained, toy_dataset()), toy_dataset(), SETTINGS, trained)
    with monkeypatch.context() as patch:
        batches_drawn(patch, killed_at=4)
        with pytest.raises(KeyboardInterrupt):
            sampling.draw("fp32")
    drawn = batches_drawn(monkeypatch)
    if change in ("device", "commit", "torch"):
        where = {"device": (run, "device_name"), "commit": (run, "commit"), "torch": (torch, "__version__")}[change]
        monkeypatch.setattr(*where, "another" if change == "torch" else lambda *_: "another")
    other: dict[str, dict[str, Any]] = {
        "weights": {"trained": replace(sampling.trained, weights_sha256="0" * 64)},
        "images": {"x": 1 - sampling.x},
        "seed": {"trained": replace(sampling.trained, run=toy_run().model_copy(update={"seed": 2}))},
        "k": {"k": 39},
        "rows": {"rows": 3},
    }
    replace(sampling, **other.get(change, {})).draw("bf16" if change == "precision" else "fp32")
    assert drawn == [0, 2, 4, 6]


@pytest.mark.parametrize("shares", [1, 3, 6])
def test_shares_make_the_whole_to_the_byte(trained: RunFolder, monkeypatch: pytest.MonkeyPatch, shares: int) -> None:
    """Seven images, two at a time: four parts. The gathering draws nothing but the share that is missing."""
    monkeypatch.setattr(likelihood, "IMAGES_PER_BATCH", 2)
    evaluate(trained, SETTINGS, toy_dataset())
    whole, metrics = trained.arrays.read_bytes(), records.read_json(trained.evaluation)["metrics"]
    for number in range(shares, 1, -1):
        evaluate_share(trained, SETTINGS, toy_dataset(), parse_share(f"{number}/{shares}"))
    drawn = batches_drawn(monkeypatch)
    evaluate(trained, SETTINGS, toy_dataset())
    assert drawn == [0, 2, 4, 6][::shares]
    assert trained.arrays.read_bytes() == whole
    assert records.read_json(trained.evaluation)["metrics"] == metrics
    assert not trained.unfinished_evaluation.exists()


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "1/2/3", "a/b", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no share of an evaluation"):
        parse_share(text)


def test_the_images_are_the_drawn_ones_and_the_record_says_of_how_many(trained: RunFolder) -> None:
    """The bounds of seven drawn images begin with those of three; the reconstructed ones are among them."""
    evaluate(trained, SETTINGS, toy_dataset())
    record, total = records.read_json(trained.evaluation), len(TEST_IMAGES)
    bounds = load_file(trained.bounds)["bound/40"]
    assert (record["images"], record["images_in_split"]) == (7, total)
    originals = load_file(trained.arrays)["sheet/reconstructions"][0, 1:5, 1:].reshape(4, 7, 5)[:, :, :4].swapaxes(0, 1)
    np.testing.assert_array_equal(originals / 255, TEST_IMAGES[part("toy", "test", total, 7)][:, 0])
    evaluate(trained, SETTINGS.model_copy(update={"max_images": 3}), toy_dataset())
    np.testing.assert_allclose(load_file(trained.bounds)["bound/40"], bounds[:3], rtol=1e-5)


def test_a_run_with_labels_has_no_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "load_trained", lambda *_: Mock())
    with pytest.raises(UserError, match="learned from labels; its evaluation is one pass and has no parts"):
        evaluate_share(RunFolder(tmp_path), SETTINGS, toy_dataset(), parse_share("1/2"))


# -------------------------------------------------------------------------------------------------------- precision

BF16 = SETTINGS.model_copy(update={"precision": "bf16"})


def test_bf16_is_allowed_where_it_changes_little_and_says_how_much(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored difference is that of the two evaluations' own bounds; seven images are few enough to compare all."""
    evaluate(trained, SETTINGS, toy_dataset())
    exact, exact_pictures = load_file(trained.bounds), load_file(trained.arrays)
    assert "difference_from_fp32" not in {row["metric"] for row in records.read_json(trained.evaluation)["metrics"]}
    monkeypatch.setitem(run.LARGEST_DIFFERENCE, "nats", 1.0)
    evaluate(trained, BF16, toy_dataset())
    rounded, pictures = load_file(trained.bounds), load_file(trained.arrays)
    metrics = records.read_json(trained.evaluation)["metrics"]
    differences = {row["k"]: row for row in metrics if row["metric"] == "difference_from_fp32"}
    assert set(differences) == {1, 10, 40}
    for k, row in differences.items():
        values = rounded[f"bound/{k}"] - exact[f"bound/{k}"]
        assert row["unit"] == "nats"
        assert row["value"] == pytest.approx(np.mean(values), abs=1e-12)
        assert row["value"] != 0
        assert row["standard_error"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(7))
    for name in ("sheet/samples", "sheet/reconstructions"):  # pictures stay in fp32
        np.testing.assert_array_equal(pictures[name], exact_pictures[name])


def test_a_precision_that_changes_a_bound_is_refused_and_leaves_no_result(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(trained, SETTINGS, toy_dataset())
    before = trained.evaluation.read_bytes()
    monkeypatch.setitem(run.LARGEST_DIFFERENCE, "nats", 1e-9)
    for refused in (evaluate, partial(evaluate_share, share=parse_share("1/2"))):
        with pytest.raises(UserError, match=r"Evaluated in bf16, L_1 of .* differs from fp32 by .* nats") as error:
            refused(trained, BF16, toy_dataset())
        assert "Use evaluation.precision: fp32." in str(error.value)
    assert trained.evaluation.read_bytes() == before


def test_colour_images_are_judged_in_bits_per_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds of 3x4x4 images that differ by a known number of nats."""
    dimensions, limit = 48, 0.001 * math.log(2) * 48
    colour = Mock(architecture=tiny_architecture(likelihood="mixture_of_logistics"))
    for nats, allowed in ((0.99 * limit, True), (-0.99 * limit, True), (1.01 * limit, False), (math.nan, False)):
        differences = torch.full((5,), nats, dtype=torch.float64)
        if allowed:
            metric = run._difference(differences, 1, "bf16", colour)
            assert (metric["unit"], metric["value"]) == ("bits/dim", pytest.approx(-nats / dimensions / math.log(2)))
        else:
            with pytest.raises(UserError, match="bits/dim"):
                run._difference(differences, 1, "bf16", colour)


def test_pictures_are_sheets_of_images(trained: RunFolder) -> None:
    evaluate(trained, SETTINGS, toy_dataset())
    sheets = load_file(trained.arrays)
    rows_and_columns = {
        "samples": (2, 3),
        "reconstructions": (2, 7),
        "temperatures": (5, PER_TEMPERATURE),
        "layers": (LAYER_IMAGES, 4),
        "interpolations": (3, INTERPOLATION_STEPS + 2),
    }
    assert {name: values.shape for name, values in sheets.items()} == {
        f"sheet/{name}": (3, 5 * rows + 1, 5 * columns + 1) for name, (rows, columns) in rows_and_columns.items()
    }
    assert {values.dtype for values in sheets.values()} == {np.dtype("uint8")}
    originals = sheets["sheet/reconstructions"][:, :5]
    assert set(np.unique(originals)) == {0, 255}


def test_other_temperatures_change_no_other_number(trained: RunFolder) -> None:
    evaluate(trained, SETTINGS, toy_dataset())
    before, bounds = load_file(trained.arrays), trained.bounds.read_bytes()
    evaluate(trained, SETTINGS.model_copy(update={"temperatures": (0.5,)}), toy_dataset())
    after = load_file(trained.arrays)
    assert trained.bounds.read_bytes() == bounds
    assert after.pop("sheet/temperatures").shape == (3, 6, 5 * PER_TEMPERATURE + 1)
    for name, values in after.items():
        np.testing.assert_array_equal(values, before[name])


def test_repeating_gives_the_same_bits_and_smaller_chunks_the_same_numbers(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(trained, SETTINGS, toy_dataset())
    files = (trained.bounds, trained.arrays)
    first = [path.read_bytes() for path in files]
    arrays = {name: values for path in files for name, values in load_file(path).items()}
    evaluate(trained, SETTINGS, toy_dataset())
    assert [path.read_bytes() for path in files] == first
    monkeypatch.setattr("biva.evaluation.run.rows_for", lambda *_: 3)
    evaluate(trained, SETTINGS, toy_dataset())
    for path in files:
        for name, values in load_file(path).items():
            np.testing.assert_allclose(values, arrays[name], rtol=1e-5)


def test_damaged_weights_are_refused_and_training_writes_them_again(trained: RunFolder) -> None:
    """One bit is another number, which the file's format does not notice."""
    whole = trained.weights.read_bytes()
    trained.weights.write_bytes(last_bit_flipped(whole))
    with pytest.raises(UserError, match=r"is not what training wrote.*Delete it and run `biva train"):
        evaluate(trained, SETTINGS, toy_dataset())
    trained.weights.unlink()
    train(toy_run(), toy_dataset(), trained, lambda: None)
    assert trained.weights.read_bytes() == whole
    evaluate(trained, SETTINGS, toy_dataset())


def test_other_data_or_an_unfinished_training_is_refused(trained: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was trained on data with fingerprint ffffffffffff"):
        evaluate(trained, SETTINGS, replace(toy_dataset(), fingerprint="0" * 64))
    with pytest.raises(UserError, match=r"run\.json does not exist"):
        evaluate(RunFolder(tmp_path), SETTINGS, toy_dataset())
