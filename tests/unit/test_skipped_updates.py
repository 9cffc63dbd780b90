"""Batches whose loss or gradient is not finite: no update, a count, and an end after too many in a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from biva import records
from biva.errors import UserError
from biva.models.hierarchical_vae import HierarchicalVAE
from biva.tracking import _metrics_of
from biva.training import checkpoint
from biva.training.objectives import MaximumLikelihood
from biva.training.state import State, initial_state, step
from tests.models import no_noise
from tests.unit.test_training import CPU, assert_same_result, killed_after, numbers, run_to_end, toy_dataset, toy_run

Breaks = Callable[[Tensor, Any], Tensor]


def infinite_slope(loss: Tensor, model: Any) -> Tensor:
    """The same loss, but d sqrt(|w - w|) / dw is not a number."""
    weight: Tensor = next(model.parameters())
    return loss + (weight - weight.detach()).abs().sqrt().sum()


WAYS: dict[str, Breaks] = {
    "NaN": lambda loss, _model: loss * torch.nan,
    "infinite": lambda loss, _model: loss * torch.inf,
    "gradient": infinite_slope,
    "norm": lambda loss, _model: loss * 1e30,
}


def broken_where(patch: pytest.MonkeyPatch, is_broken: Callable[[Tensor], bool], how: Breaks = WAYS["NaN"]) -> None:
    """Break the loss of the batches that `is_broken` picks; not that of the initialisation."""
    loss = MaximumLikelihood.loss

    def broken(self: MaximumLikelihood, model: Any, batch: Tensor, noise: Any) -> tuple[Tensor, list[Tensor]]:
        value, told = loss(self, model, batch, noise)
        return (how(value, model) if value.requires_grad and is_broken(batch) else value), told

    patch.setattr(MaximumLikelihood, "loss", broken)


def without_randomness(pieces: int) -> State:
    """A state of which an update depends on weights and batch alone."""
    state = initial_state(toy_run(accumulate=pieces), toy_dataset(), CPU)
    state.noise = no_noise
    for module in state.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0
    return state


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_skipped_batch_might_as_well_not_have_been(monkeypatch: pytest.MonkeyPatch, how: str, pieces: int) -> None:
    """Of five batches the third and fourth are broken, perhaps in one piece only; three updates are left."""
    training = toy_run(accumulate=pieces).training
    expected, skipping = without_randomness(pieces), without_randomness(pieces)
    for number in range(5):
        if number in (2, 3):
            expected.batches.next()
        else:
            assert step(expected, training) == []
    calls = iter(range(1000))
    broken_where(
        monkeypatch, lambda _batch: next(calls) in (2 * pieces + pieces // 2, 3 * pieces + pieces // 2), WAYS[how]
    )
    said = [step(skipping, training) for _ in range(5)]
    assert [bool(words) for words in said] == [False, False, True, True, False]
    if how == "norm":
        assert said[2] == ["the norm of the gradient"]
    assert (skipping.skipped, skipping.skipped_in_a_row, skipping.update) == (2, 0, 3)
    ours, theirs = skipping.state_dict(), expected.state_dict()
    for part in ("model", "ema", "optimiser", "schedule", "batches", "sums", "update"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)


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
    assert capsys.readouterr().err.count("was skipped, because of the gradient of") == skipped > 3
    assert records.read_json(whole.training)["skipped_updates"] == skipped
    assert _metrics_of(records.read_lines(whole.record)[-1])["skipped_updates"] == skipped

    run, in_a_row = toy_run(checkpoint_seconds=0), []
    for kill in (6, 7, 12, 13):
        folder = tmp_path / f"killed {kill}"
        with killed_after(kill, monkeypatch):
            run_to_end(folder, run)
        saved = checkpoint.load(folder / "checkpoint") or {"skipped_in_a_row": 0}
        in_a_row.append(saved["skipped_in_a_row"])
        assert_same_result(run_to_end(folder, run), whole)
    assert in_a_row == [0, 1, 1, 2]  # kills around the skipped batch after an evaluation, and around two in a row


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


def test_the_diagnosis_names_the_latent_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prior of z1 alone is broken: nothing else reads it in a VAE."""
    forward = HierarchicalVAE.forward

    def broken(self: HierarchicalVAE, x: Tensor, noise: Any) -> Any:
        terms = forward(self, x, noise)
        terms.kl[:, self.group_names.index("z1")] += torch.inf
        return terms

    monkeypatch.setattr(HierarchicalVAE, "forward", broken)
    with pytest.raises(UserError, match=r"because of the KL of z1: not finite\. It was the last of 10 in a row"):
        run_to_end(tmp_path, toy_run("vae"))


def test_a_checkpoint_of_an_earlier_version_has_skipped_nothing() -> None:
    state = initial_state(toy_run(), toy_dataset(), CPU)
    content = state.state_dict()
    del content["skipped"], content["skipped_in_a_row"]
    state.load_state_dict(content)
    assert (state.skipped, state.skipped_in_a_row) == (0, 0)
