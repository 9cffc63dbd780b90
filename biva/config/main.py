"""`config/config.yaml`."""

from __future__ import annotations

from pydantic import Field

from biva.config.base import Name, Strict


class MainConfig(Strict):
    """`config/config.yaml`: what runs, and where data may be found."""

    experiments: Name = Field(
        description="A file in config/experiments/, without .yaml: an experiment set or a collection of sets."
    )
    data_mirror: str | None = Field(
        default=None,
        pattern=r"^[^\x00-\x1f]*$",
        description="Folder or https address that is tried before the official sources; BIVA_DATA_MIRROR overrides it.",
    )
    evaluation_jobs: int = Field(
        default=1, ge=1, le=1024, description="Jobs that share the evaluation of a run's bounds; changes no result."
    )
