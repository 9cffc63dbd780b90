"""Faults strike once, real processes of the real commands; `make soak` has them strike for longer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.faults import FAULTS, Fault


@pytest.mark.parametrize("fault", FAULTS[::2], ids=lambda fault: fault.__name__)
def test_nothing_is_lost(strikes: Callable[[Fault], int], fault: Fault) -> None:
    assert strikes(fault) > 0
