"""The memory of a walk against allocations known beforehand, and how many samples a budget holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from biva.evaluation import memory
from biva.evaluation.memory import available_memory, halving_rows, memory_per_row, rows_for
from tests.models import MODELS, no_noise, tiny_model

CPU = torch.device("cpu")
IMAGE = torch.zeros(1, 1, 4, 4, dtype=torch.float64)


def walking(fixed: int, per_row: int) -> Any:
    """A model whose walk needs so many bytes at its peak, in two tensors alive together and a third after them."""

    def terms(_x: Any, _features: Any, k: int, _noise: Any) -> None:
        first, second = torch.zeros(fixed, dtype=torch.uint8), torch.zeros(k, per_row, dtype=torch.uint8)
        view = second[1:].view(-1)
        del first, second, view
        torch.zeros(k, per_row // 2, dtype=torch.uint8)

    return SimpleNamespace(inference=SimpleNamespace(encode=lambda x: x), terms=terms)


def test_what_is_alive_together_is_counted_once() -> None:
    assert memory_per_row(walking(0, 500), IMAGE) == 500
    assert memory_per_row(walking(801, 500), IMAGE) == 601


@pytest.mark.parametrize("name", MODELS)
def test_a_real_walk_needs_no_more_than_was_measured(name: Any) -> None:
    """Bounds from both sides at other numbers of samples: the measurement's, and the largest layer's."""
    model = tiny_model(name)
    per_row = memory_per_row(model, IMAGE)
    features = model.inference.encode(IMAGE)
    for k in (8, 16, 64):
        with torch.inference_mode(), memory._LiveTensors() as live:
            model.terms(IMAGE, features, k, no_noise)
        assert live.peak <= k * per_row
        assert live.peak >= k * 8 * 2 * 4 * 4 * 4  # the block next to the data gives 2 * 4 maps of 4x4 float64


def test_rows_are_those_that_the_budget_holds() -> None:
    mebi = 2**20
    assert rows_for(walking(0, mebi // 4), IMAGE, 16, CPU) == 64
    assert rows_for(walking(0, 100 * mebi), IMAGE, 16, CPU) == 1


def test_the_automatic_budget_follows_free_memory_only_in_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mebi, rows = 2**20, {}
    for free in (100_000, 5_000, 512, 511, 150, 10):
        monkeypatch.setattr(memory, "available_memory", lambda _device, free=free: free * mebi)
        rows[free] = rows_for(walking(0, mebi), IMAGE, None, CPU)
        assert ("are free; fewer samples" in capsys.readouterr().err) == (free < 512)
    assert rows == {100_000: 256, 5_000: 256, 512: 256, 511: 128, 150: 64, 10: 4}


def test_a_limit_of_the_job_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = available_memory(CPU)
    assert 0 < machine < 2**50
    monkeypatch.setenv("SLURM_MEM_PER_NODE", str(10**7))
    assert available_memory(CPU) == pytest.approx(machine, rel=0.2)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "3000")
    assert 0 < available_memory(CPU) < 3000 * 2**20


def test_rows_are_halved_while_the_gpu_is_full(capsys: pytest.CaptureFixture[str]) -> None:
    tried = []

    def compute(rows: int) -> str:
        tried.append(rows)
        if rows > 6:
            raise torch.OutOfMemoryError
        return "done"

    assert halving_rows(compute, 50) == "done"
    assert tried == [50, 25, 12, 6]
    assert capsys.readouterr().err.count("the GPU's memory is full") == 3
    tried.clear()
    with pytest.raises(torch.OutOfMemoryError):
        halving_rows(lambda rows: compute(rows + 6), 2)
    assert tried == [8, 7]
