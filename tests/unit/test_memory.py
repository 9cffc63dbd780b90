"""How many samples a budget holds, and what happens when a GPU holds fewer."""

import pytest
import torch

from biva.errors import UserError
from biva.evaluation.memory import BUDGET_MB, halving_rows, rows_for
from tests.models import tiny_architecture

CPU = torch.device("cpu")


def test_rows_within_a_budget_by_hand() -> None:
    """Two stages of 4x2x2 maps, 4 each; eight 4x4x4 maps; four times 1 parameter of a Bernoulli on 4x4 pixels."""
    numbers = 4 * 2 * 16 + 8 * 64 + 4 * 16
    assert rows_for(tiny_architecture(), 1, CPU) == 2**20 // (4 * numbers)
    assert rows_for(tiny_architecture(), 2, CPU) == 2 * 2**20 // (4 * numbers)
    colour = tiny_architecture(likelihood="mixture_of_logistics")  # 100 parameters per pixel
    assert rows_for(colour, 1, CPU) == 2**20 // (4 * (4 * 2 * 16 + 8 * 64 + 4 * 100 * 16))
    assert rows_for(colour.model_copy(update={"filters": 10**9}), 1, CPU) == 1


def test_without_a_budget_the_devices_own_holds() -> None:
    assert rows_for(tiny_architecture(), None, CPU) == rows_for(tiny_architecture(), BUDGET_MB["cpu"], CPU)


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
    with pytest.raises(UserError, match=r"does not suffice .*Lower evaluation\.memory_budget_mb"):
        halving_rows(lambda rows: compute(rows + 6), 2)
    assert tried == [8, 7]
