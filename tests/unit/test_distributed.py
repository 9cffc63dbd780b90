"""What a process of several takes of a batch; the processes themselves are in tests/integration/test_torchrun.py."""

from __future__ import annotations

import pytest
import torch

from biva.config import RunConfig
from biva.errors import UserError
from biva.training.distributed import Processes, joined_processes
from tests.unit.test_semi_supervised import labelled_run
from tests.unit.test_training import toy_run


def test_rows_of_labelled_and_unlabelled_images_by_hand() -> None:
    """Two labelled and four unlabelled images for two processes; then the unlabelled ones with each of two classes."""
    first, second = (Processes(rank, 2, labelled=2, unlabelled=4) for rank in (0, 1))
    assert first.rows(torch.arange(6)).tolist() == [0, 2, 3]
    assert second.rows(torch.arange(6)).tolist() == [1, 4, 5]
    assert second.rows(torch.arange(10)).tolist() == [1, 4, 5, 8, 9]
    x, labels = second.own((torch.arange(6), torch.tensor([7, 8])))
    assert (x.tolist(), labels.tolist()) == ([1, 4, 5], [8])
    noise = second.noise(lambda _name, shape: torch.arange(shape[0]).view(shape))
    assert noise("q(z1)", torch.Size([5])).tolist() == [1, 4, 5, 8, 9]


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
