"""Training by several processes against training by one: real processes, started by torchrun, talking by gloo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from biva import records
from biva.records import RunFolder
from biva.training import checkpoint
from tests.integration.shared_training import runs, train_all
from tests.integration.test_kill import ROOT, start_module
from tests.unit.test_training import numbers


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the toy runs: trained by one process, and by two."""
    alone, shared = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("shared")
    process = start_module("tests.integration.shared_training", ROOT, str(shared), processes=2)
    train_all(alone)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return alone, shared


def gradients(folder: RunFolder) -> list[torch.Tensor]:
    """Adamax's first moment: a sum of the gradients of all updates, with known factors."""
    saved = checkpoint.load(folder.checkpoint)
    assert saved is not None
    return [weight["exp_avg"] for weight in saved["optimiser"]["state"].values()]


@pytest.mark.parametrize("name", runs())
def test_two_processes_compute_what_one_does(trained: tuple[Path, Path], name: str) -> None:
    """Record, gradients and weights, with dropout, noise, free bits and initialisation; sums in another order."""
    alone, shared = (RunFolder(folder / name) for folder in trained)
    assert records.read_json(shared.identity)["device"] == "2 x cpu"
    ours, theirs = numbers(shared), numbers(alone)
    assert [line["update"] for line in ours] == [3, 6]
    for one, other in zip(ours, theirs, strict=True):
        for part in ("train", "selection"):
            assert one[part] == pytest.approx(other[part], rel=1e-5, abs=1e-5)
    largest = max(gradient.abs().max().item() for gradient in gradients(alone))
    torch.testing.assert_close(gradients(shared), gradients(alone), rtol=1e-3, atol=1e-5 * largest)
    torch.testing.assert_close(load_file(shared.weights), load_file(alone.weights), rtol=1e-4, atol=1e-5)


def test_all_processes_skip_the_batch_that_is_broken_in_one(trained: tuple[Path, Path]) -> None:
    for folder in trained:
        assert [line["skipped_updates"] for line in numbers(RunFolder(folder / "broken"))] == [2, 2]
