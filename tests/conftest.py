"""Fixtures that several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from biva import origin

# Before torch is imported: with more threads than cores, those of several test processes wait for each other, and a
# test takes up to six times as long.
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile("short", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=2500, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


def pytest_sessionstart() -> None:
    """Have changed files warned of now, and not in what a test reads."""
    origin.commit()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    longest_first = ("faults", "workflow", "integration", "test_training.py", "test_one_graph.py", "unit")
    items.sort(key=lambda item: [name in item.path.parts for name in longest_first], reverse=True)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the official files: BIVA_DATA_MIRROR, or `../shared/datasets` next to the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "datasets"
    folder = Path(os.environ.get("BIVA_DATA_MIRROR") or beside)
    if not folder.is_dir():
        pytest.skip(
            f"no real data: {folder} is not a folder; set BIVA_DATA_MIRROR to one that holds the official files"
        )
    return folder
