"""Fixtures that several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
