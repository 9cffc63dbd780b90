"""Batches whose loss or gradient is not finite: no update, a count, and an end after too many in a row."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from biva import records
from biva.errors import UserError
from biva.models.hierarchical_vae import HierarchicalVAE
from biva.tracking.numbers import metrics_of
from biva.training import checkpoint
from biva.training.objectives import Loss, loss_of
from biva.training.state import step
from tests.unit.test_training import assert_same_result, killed_after, numbers, run_to_end, toy_run, without_randomness

Breaks = Callable[[Tensor, Any], Tensor]


def infinite_slope(loss: Tensor, model: Any) -> Tensor:
    """The same loss, but d sqrt(|w - w|) / dw is not a number."""
    weight: Tensor = next(model.parameters())
    return loss + (weight - weight.detach()).abs().sqrt().sum()


WAYS: dict[str, tuple[Breaks, str]] = {
    "NaN": (lambda loss, _model: loss * torch.nan, "loss"),
    "infinite": (lambda loss, _model: loss * torch.inf, "loss"),
    "gradient": (infinite_slope, "gradient_norm"),
    "norm": (lambda loss, _model: loss * 1e30, "gradient_norm"),
}


def broken_where(patch: pytest.MonkeyPatch, is_broken: Callable[[Tensor], bool], how: Breaks = WAYS["NaN"][0]) -> None:
    """Break the loss of the batches that `is_broken` picks; not that of the initialisation."""

    def broken(run: Any, model: Any, batch: Any, *others: Any) -> Loss:
        loss = loss_of(run, model, batch, *others)
        breaks = loss.value.requires_grad and is_broken(batch)
        return loss._replace(value=how(loss.value, model)) if breaks else loss

    patch.setattr("biva.training.state.loss_of", broken)


@pytest.mark.parametrize(("how", "pieces"), [(how, 1) for how in WAYS] + [("NaN", 3)])
def test_a_skipped_batch_might_as_well_not_have_been(monkeypatch: pytest.MonkeyPatch, how: str, pieces: int) -> None:
    """Of five batches the third and fourth are broken, perhaps in one piece only; three updates are left."""
    breaks, name = WAYS[how]
    expected, skipping = (without_randomness(accumulate=pieces) for _ in range(2))
    for number in range(5):
        if number in (2, 3):
            expected.batches.next()
        else:
            assert step(expected) == []
    calls = iter(range(1000))
    broken = (2 * pieces + pieces // 2, 3 * pieces + pieces // 2)
    broken_where(monkeypatch, lambda _batch: next(calls) in broken, breaks)
    assert [step(skipping) for _ in range(5)] == [[], [], [name], [name], []]
    assert (skipping.skipped, skipping.skipped_in_a_row, skipping.update) == (2, 0, 3)
    ours, theirs = skipping.state_dict(), expected.state_dict()
    for part in ("model", "ema", "optimiser", "batches", "sums", "update"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)


def test_a_gradient_norm_above_the_limit_is_skipped_and_counted() -> None:
    """The limit lies between the norms of the first three batches at the initial weights."""
    free = without_randomness(learning_rate_minimum=0, learning_rate=1e-30)
    norms = []
    for _ in range(3):
        before = free.sums.get("gradient_norm", 0.0)
        step(free)
        norms.append(free.sums["gradient_norm"] - before)
    limit = sorted(norms)[1] * 1.0001
    limited = without_randomness(learning_rate_minimum=0, learning_rate=1e-30, largest_gradient_norm=limit)
    assert [step(limited) for _ in range(3)] == [["gradient_norm"] if norm > limit else [] for norm in norms]
    assert (limited.skipped, limited.update) == (1, 2)


def every_third(batch: Tensor) -> bool:
    """About a third of the batches, always the same ones."""
    return int(batch.sum()) % 3 == 0


def test_a_run_with_skipped_batches_makes_all_its_updates_and_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken_where(monkeypatch, every_third)
    whole = run_to_end(tmp_path / "whole")
    lines = numbers(whole)
    assert [line["update"] for line in lines] == [4, 8, 12]
    skipped = lines[-1]["skipped_updates"]
    assert (
        capsys.readouterr().err.count("was skipped, since it made these not finite or too large: loss.") == skipped > 3
    )
    assert records.read_json(whole.training)["skipped_updates"] == skipped
    assert metrics_of(records.read_lines(whole.record)[-1])["skipped_updates"] == skipped

    run, in_a_row = toy_run(checkpoint_seconds=0), []
    for kill in (6, 7, 13):
        folder = tmp_path / f"killed {kill}"
        with killed_after(kill, monkeypatch):
            run_to_end(folder, run)
        in_a_row.append((checkpoint.load(folder / "checkpoint") or {})["skipped_in_a_row"])
        assert_same_result(run_to_end(folder, run), whole)
    assert set(in_a_row) == {0, 1, 2}  # kills around skipped batches, also around two in a row


def test_too_many_in_a_row_end_training_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches 3 to 6 are broken, one more than is allowed; a user who allows more goes on from where it stopped."""
    calls = iter(range(1000))
    with monkeypatch.context() as patch:
        broken_where(patch, lambda _batch: next(calls) in range(2, 6))
        with pytest.raises(UserError, match=r"batch after update 2 was skipped.*last of 3 in a row.*update 2 is saved"):
            run_to_end(tmp_path, toy_run(max_skipped_updates=3))
        saved = checkpoint.load(tmp_path / "checkpoint")
        assert saved is not None
        assert (saved["update"], saved["skipped"]) == (2, 3)
        assert all(value.isfinite().all() for value in saved["model"].values())
        folder = run_to_end(tmp_path, toy_run(max_skipped_updates=5))
    assert numbers(folder)[-1]["skipped_updates"] == 4
    assert records.read_json(folder.training)["updates"] == 12
    assert "superseded" not in [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("where", "settings", "remedy"),
    [
        (0, {}, "No update was made, so the learning rate is not why"),
        (1, {}, "Lower training.learning_rate to train anew"),
        (1, {"largest_gradient_norm": 1e9}, "Raise training.largest_gradient_norm, which is 1e+09, or lower"),
    ],
)
def test_an_end_says_what_to_change(
    where: int, settings: dict[str, Any], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(1000))
    broken_where(monkeypatch, lambda _batch: next(calls) >= where, WAYS["norm" if settings else "NaN"][0])
    with pytest.raises(UserError, match=re.escape(remedy)):
        run_to_end(tmp_path, toy_run("vae", max_skipped_updates=2, **settings))


def test_a_loss_a_thousand_times_its_start_is_a_warning_in_log_and_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of twelve updates the losses are 1, 1, 1, 1; then 1, 1, 1, 8001; then 1 again, in units of the first loss."""
    seen: list[Tensor] = []

    def loss(loss: Tensor, _model: Any) -> Tensor:
        seen.append(loss.detach())
        return loss - loss.detach() + seen[0] * (8001 if len(seen) == 8 else 1)

    broken_where(monkeypatch, lambda _batch: True, loss)
    folder = run_to_end(tmp_path, toy_run("vae"))
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert "at update 8, but was " in warnings[0]
    assert "Lower training.learning_rate" in warnings[0]
    assert records.read_json(folder.training)["loss_growth"] == pytest.approx(2001)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf], ids=["loss is infinite", "free bits hide it from the loss"])
def test_the_diagnosis_names_the_latent_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """The KL of z1 of one image is broken, and nothing else."""
    forward = HierarchicalVAE.forward

    def broken(self: HierarchicalVAE, x: Tensor, noise: Any) -> Any:
        terms = forward(self, x, noise)
        with torch.no_grad():
            terms.kl[0, self.group_names.index("z1")] = value
        return terms

    monkeypatch.setattr(HierarchicalVAE, "forward", broken)
    with pytest.raises(
        UserError, match=r"made these not finite or too large: KL of z1\. It was the last of 10 in a row"
    ):
        run_to_end(tmp_path, toy_run("vae"))
