"""Fine-tuning: a run of its own that goes on from another's selected weights, without free bits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from biva import records
from biva.config import RunConfig
from biva.data.datasets import Dataset
from biva.errors import UserError
from biva.records import RunFolder
from biva.training import loop
from biva.training.loop import train
from biva.training.state import State, initial_state, step
from tests.hostile import last_bit_flipped
from tests.unit.test_training import (
    CPU,
    Killed,
    assert_same_result,
    killed_after,
    numbers,
    run_to_end,
    toy_dataset,
    toy_run,
)

PARENT = toy_run(ema_decay=0.5)


def finetuned(parent: RunConfig = PARENT, **training: Any) -> RunConfig:
    """The fine-tuning of a run, as `resolve_runs` makes it."""
    return parent.model_copy(
        update={
            "finetunes": parent.digest,
            "training": parent.training.model_copy(update={"free_bits": 0.0, "learning_rate": 1e-3} | training),
        }
    )


def finetune(folder: Path, parent: RunFolder, run: RunConfig | None = None, data: Dataset | None = None) -> RunFolder:
    train(run or finetuned(), data or toy_dataset(), RunFolder(folder), lambda: None, parent_folder=parent)
    return RunFolder(folder)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A trained run, which no test may change."""
    return run_to_end(tmp_path_factory.mktemp("parent"), PARENT)


def test_it_starts_from_the_selected_weights(
    parent: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model and moving average before the first update, every value of both."""
    expected = load_file(parent.weights)

    def first(state: State) -> None:
        for module in (state.model, state.ema):
            weights = module.state_dict()
            assert weights.keys() == expected.keys()
            assert all(torch.equal(weights[name], value) for name, value in expected.items())
        assert state.update == 0
        raise Killed

    monkeypatch.setattr(loop, "step", first)
    with pytest.raises(Killed):
        finetune(tmp_path, parent)


def test_its_loss_is_the_negative_elbo(parent: RunFolder) -> None:
    """Computed anew at the same noise, where some of the single-sample KL terms are negative."""
    state, again = (initial_state(finetuned(), toy_dataset(), CPU, load_file(parent.weights)) for _ in range(2))
    generator = torch.get_rng_state()
    step(state)
    torch.set_rng_state(generator)
    with torch.no_grad():
        terms = again.model(again.batches.next(), again.noise)
    assert (terms.kl < 0).any()
    elbo = sum(terms.log_likelihood.tolist()) - sum(sum(row) for row in terms.kl.tolist())
    assert state.sums["loss"] == pytest.approx(-elbo / len(terms.kl), rel=1e-6)


def test_its_random_numbers_are_not_its_parents(parent: RunFolder) -> None:
    """Batches in another order, other noise; the same for the same run."""

    def drawn(run: RunConfig) -> list[torch.Tensor]:
        state = initial_state(run, toy_dataset(), CPU, load_file(parent.weights))
        return [state.batches.next(), torch.rand(3)]

    for ours, again, theirs in zip(drawn(finetuned()), drawn(finetuned()), drawn(PARENT), strict=True):
        assert torch.equal(ours, again)
        assert not torch.equal(ours, theirs)


def test_the_record_names_the_parent(parent: RunFolder, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in parent.path.rglob("*") if path.is_file()}
    identity = records.read_json(finetune(tmp_path, parent).identity)
    assert (identity["variant"], identity["name"]) == ("biva_finetuned", "toy/tiny/biva_finetuned/seed1")
    assert identity["parent"]["run_id"] == records.read_json(parent.identity)["run_id"]
    assert identity["config"]["finetunes"] == PARENT.digest == records.read_json(parent.identity)["config_digest"]
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("updates", [1, 7])
def test_killed_and_resumed_it_ends_with_the_same_bits(
    parent: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updates: int
) -> None:
    """Killed after any update, with a checkpoint at every one before, and restarted."""
    whole = finetune(tmp_path / "whole", parent)
    run = finetuned(checkpoint_seconds=0)
    with killed_after(updates, monkeypatch):
        finetune(tmp_path / "parts", parent, run)
    assert_same_result(finetune(tmp_path / "parts", parent, run), whole)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: folder.training.unlink(), "whose training is not complete"),
        (lambda folder: folder.weights.unlink(), "whose training is not complete"),
        (lambda folder: folder.identity.unlink(), r"run\.json does not exist"),
        (
            lambda folder: folder.weights.write_bytes(last_bit_flipped(folder.weights.read_bytes())),
            r"is not what training wrote.*run `biva train toys toy/tiny/biva/seed1`",
        ),
    ],
)
def test_a_parent_that_is_not_complete_or_was_damaged_is_refused(
    parent: RunFolder, tmp_path: Path, spoil: Any, said: str
) -> None:
    spoilt = RunFolder(shutil.copytree(parent.path, tmp_path / "parent"))
    spoil(spoilt)
    with pytest.raises(UserError, match=said):
        finetune(tmp_path / "child", spoilt)
    assert not (tmp_path / "child" / "run.json").exists()


@pytest.mark.parametrize(
    ("run", "data", "said"),
    [
        (finetuned(toy_run(batch_size=11)), toy_dataset(), "config_digest .*, now "),
        (finetuned(), toy_dataset("e" * 64), "data_fingerprint f{64}, now e{64}"),
    ],
)
def test_a_parent_of_other_settings_or_data_is_refused_and_nothing_is_lost(
    parent: RunFolder, tmp_path: Path, run: RunConfig, data: Dataset, said: str
) -> None:
    earlier = finetune(tmp_path, parent)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=rf"other settings or data.*{said}.*`biva train toys toy/tiny/biva/seed1`"):
        finetune(tmp_path, parent, run, data)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert earlier.weights.is_file()


def test_a_parent_trained_anew_sets_the_earlier_fine_tuning_aside(parent: RunFolder, tmp_path: Path) -> None:
    """Same settings, other weights, as after a training on another device."""
    first = finetune(tmp_path / "child", parent)
    identity, weights = records.read_json(first.identity), first.weights.read_bytes()
    anew = RunFolder(shutil.copytree(parent.path, tmp_path / "parent"))
    changed = {name: value + 0.01 for name, value in load_file(anew.weights).items()}
    save_file(changed, anew.weights)
    records.seal(anew, [anew.weights])
    second = finetune(tmp_path / "child", anew)
    kept = RunFolder(tmp_path / "child" / "superseded" / identity["run_id"])
    assert kept.weights.read_bytes() == weights
    assert records.read_json(kept.identity) == identity
    assert numbers(second) != numbers(kept)
