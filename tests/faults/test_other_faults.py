"""The other half of the faults, in a file of its own, so that another process of `make test` has it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.faults import FAULTS, Fault


@pytest.mark.parametrize("fault", FAULTS[1::2], ids=lambda fault: fault.__name__)
def test_nothing_is_lost(strikes: Callable[[Fault], int], fault: Fault) -> None:
    assert strikes(fault) > 0
