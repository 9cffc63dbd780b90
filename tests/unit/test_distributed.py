"""What a process of several takes of a batch; the processes themselves are in tests/integration/test_torchrun.py."""

from __future__ import annotations

import pytest
import torch

from biva.config import RunConfig
from biva.errors import UserError
from biva.training.distributed import Processes, joined_processes
from biva.training.state import initial_state
from tests.unit.test_semi_supervised import labelled_run
from tests.unit.test_training import CPU, toy_dataset, toy_run


def test_a_process_without_a_saved_generator_draws_from_its_rank_and_the_update() -> None:
    """The one process that saved goes on; one that is new has other numbers at every update."""
    state = initial_state(toy_run(), toy_dataset(), CPU)
    saved, drawn = state.state_dict(), []
    for rank, at in [(0, 0), (0, 5), (1, 0), (1, 5)]:
        state.processes = Processes(rank, 2)
        state.load_state_dict(saved | {"update": at})
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]
    assert len({*drawn}) == 3


@pytest.mark.parametrize(
    ("run", "count", "said"),
    [
        (toy_run(), 5, "accumulate is 12, which 5 processes cannot share equally"),
        (toy_run(batch_size=10, accumulate=5), 5, "accumulate is 2, which 5 processes"),
        (labelled_run(count=20, batch_size=4), 5, "accumulate is 4, which 5 processes"),
        (labelled_run(), 2, "label_batch_size is 5, which 2 processes"),
    ],
)
def test_a_batch_that_cannot_be_shared_equally_is_refused(
    monkeypatch: pytest.MonkeyPatch, run: RunConfig, count: int, said: str
) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": f"{count}"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said), joined_processes(run):
        pass
