"""Every fault strikes once, real processes of the real commands; `make soak` has them strike for longer."""

from __future__ import annotations

import pytest

from tests.faults.faults import FAULTS, CannotBeTried, Fault, Lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_nothing_is_lost(lab: Lab, fault: Fault) -> None:
    try:
        assert lab.strike(fault, seed=0) > 0
    except CannotBeTried as reason:
        pytest.skip(str(reason))
