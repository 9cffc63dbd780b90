"""`config/datasets.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from biva.config.base import Name, Strict
from biva.models.architectures import Shape


class RawFile(Strict):
    """One file of a dataset as its publisher offers it."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$", description="Official file name; a mirror may add .gz."
    )
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="Of the decompressed content; of a .tar.gz, as it is."
    )
    md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$", description="Where no SHA-256 is published.")
    bytes: int = Field(ge=1, description="Size of the same; under trust: first_use, the most that is accepted.")
    trust: Literal["published", "first_use"] = Field(
        default="published",
        description="published: the content must have the published digest. first_use: it is recorded when it first "
        "arrives, compared with the published digest for information, and may not change afterwards.",
    )

    @model_validator(mode="after")
    def _known_digest(self) -> RawFile:
        if self.sha256 and self.md5:
            raise ValueError("give sha256 or md5, not both")
        if self.trust == "published" and not (self.sha256 or self.md5):
            raise ValueError("give the published sha256 or md5, or trust: first_use where none is known")
        return self

    @property
    def published(self) -> str:
        """The published digest, for messages."""
        if self.sha256:
            return f"SHA-256 {self.sha256}"
        return f"MD5 {self.md5}" if self.md5 else "none is known"


READERS = tuple(sorted(path.stem for path in (Path(__file__).parents[1] / "data" / "readers").glob("[a-z]*.py")))
"""What `reader` may be: the formats of raw files that have a file in `biva/data/readers/`."""


class DatasetConfig(Strict):
    """One entry of `config/datasets.yaml`."""

    title: str = Field(description="What it is, for people.")
    reader: str = Field(
        description="Format of the files: one that biva/data/readers/ has a file for.",
        json_schema_extra={"enum": list(READERS)},
    )
    shape: Shape = Field(description="Channels, height, width.")
    levels: int = Field(ge=2, le=256, description="Grey levels per channel, 0 .. levels-1.")
    binarisation: Literal["none", "static", "dynamic"] = Field(
        description="none: levels to [-1, 1]. static: already 0/1. dynamic: Bernoulli(level / (levels-1)), redrawn."
    )
    splits: Annotated[dict[Literal["train", "valid", "test"], Annotated[int, Field(ge=1)]], Field(min_length=1)] = (
        Field(description="Images per split; a dataset may lack train or valid.")
    )
    files: Annotated[tuple[RawFile, ...], Field(min_length=1)] = Field(description="In the order of the reader.")
    folder: Name = Field(description="Subfolder of a mirror that holds the files.")
    sources: tuple[str, ...] = Field(
        description="Tried in order after the mirror: http(s) addresses, or package:NAME for files that a package has."
    )
    homepage: str | None = Field(default=None, description="Where a person gets the files that no source gives.")
    paper: str = Field(default="not in the paper", description="How results on it compare with the paper's.")
    licence: str = Field(description="Of the data.")
    citation: str = Field(description="Whom to cite for the data.")

    @property
    def likelihood(self) -> str | None:
        """The likelihood that its images can be trained with; none is for levels that are neither binarised nor 256."""
        if self.binarisation != "none":
            return "bernoulli"
        return "mixture_of_logistics" if self.levels == 256 else None

    @model_validator(mode="after")
    def _static_is_binary(self) -> DatasetConfig:
        if self.binarisation == "static" and self.levels != 2:
            raise ValueError(f"with binarisation: static a pixel is 0 or 1, so levels must be 2, got {self.levels}")
        return self

    def addresses(self, name: str) -> list[str]:
        """Where on the network a file of this name is, or begins, in the order of `sources`."""
        return [f"{source.rstrip('/')}/{name}" for source in self.sources if "://" in source]

    @field_validator("reader")
    @classmethod
    def _known_reader(cls, reader: str) -> str:
        if reader not in READERS:
            raise ValueError(f"expected one of {', '.join(READERS)}")
        return reader


class Datasets(Strict):
    """`config/datasets.yaml`."""

    datasets: dict[Name, DatasetConfig] = Field(description="Name of the dataset and its entry.")
