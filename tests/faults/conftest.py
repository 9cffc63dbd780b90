from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.faults import CannotBeTried, Fault, Lab


@pytest.fixture(scope="module")
def strikes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Fault], int]:
    """Have a fault strike a project of its own, and return how often; skip what this machine does not let us try."""
    lab = Lab(tmp_path_factory.mktemp("lab"))

    def strike(fault: Fault) -> int:
        try:
            return lab.strike(fault, seed=0)
        except CannotBeTried as reason:
            pytest.skip(str(reason))

    return strike
