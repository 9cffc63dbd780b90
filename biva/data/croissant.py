"""Croissant metadata of the datasets, version 1.1: what machine learning's repositories and search engines read.

Made of `config/datasets.yaml` alone. Croissant can say how to read tables and pictures, but not the formats here, nor
what is made of them: its records are those of `biva prepare`, whose source is said to be the raw files as a whole.
"""

from __future__ import annotations

import importlib
import mimetypes
import re
from typing import Any

from biva.config import DatasetConfig, RawFile

_TERMS = (
    "arrayShape citeAs column containedIn equivalentProperty extract field fileObject fileProperty fileSet format "
    "includes isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace "
    "samplingRate separator source subField transform"
)
CONTEXT: dict[str, Any] = {term: f"cr:{term}" for term in _TERMS.split()} | {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
"""All of the specification's, since tools compare it with theirs."""


def croissant(name: str, config: DatasetConfig) -> dict[str, Any]:
    """The metadata of a dataset as JSON-LD: authors, year and licence as far as their texts can be taken apart."""
    reader = importlib.import_module(f"biva.data.readers.{config.reader}")
    authors = re.match(r"([^()]+) \((\d{4})\)\.", config.citation)
    licence = re.match(r"(MIT|CC BY(-SA)? \d\.\d)\b", config.licence)
    values = f"Channels, height, width; whole numbers from 0 to {config.levels - 1}."
    raw = {"source": {"fileSet": {"@id": "raw"}, "extract": {"fileProperty": "content"}}}
    image = _node("Field", "images/image", values, dataType="cr:UInt8", isArray=True, **raw)
    label = _node("Field", "images/label", "The class, from 0 to 9.", dataType="sc:Integer", **raw)
    split = _node("Field", "splits/name", "Name of the split.", dataType="sc:Text")
    count = _node("Field", "splits/images", "Number of its images.", dataType="sc:Integer")
    content = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": name,
        "description": f"{config.title}. `biva prepare {name}` makes one array file of it.",
        "creator": [{"@type": "sc:Person", "name": one} for one in re.split(", | and ", authors[1])] if authors else [],
        "datePublished": authors and authors[2],
        "citeAs": config.citation.strip(),
        "license": f"https://spdx.org/licenses/{licence[0].replace(' ', '-')}" if licence else config.licence,
        "url": config.homepage or next(iter(config.addresses("")), ""),
        "distribution": [
            *(_raw_file(file, config) for file in config.files),
            _node(
                "FileSet",
                "raw",
                "All files, and what is in those that are archives.",
                containedIn=[{"@id": file.name} for file in config.files],
                encodingFormat="application/octet-stream",
                includes="*",
            ),
        ],
        "recordSet": [
            _node(
                "RecordSet",
                "splits",
                "The splits of the images.",
                dataType="cr:Split",
                key={"@id": "splits/name"},
                field=[split, count],
                data=[{"splits/name": split, "splits/images": images} for split, images in config.splits.items()],
            ),
            _node(
                "RecordSet",
                "images",
                f"What `biva prepare {name}` makes of the files, by its reader `{config.reader}`.",
                field=[image | {"arrayShape": ",".join(map(str, config.shape))}, *[label] * hasattr(reader, "LABELS")],
            ),
        ],
    }
    return {key: value for key, value in content.items() if value}


def _node(kind: str, identifier: str, description: str, **properties: Any) -> dict[str, Any]:
    return {"@type": f"cr:{kind}", "@id": identifier, "name": identifier, "description": description, **properties}


def _raw_file(file: RawFile, config: DatasetConfig) -> dict[str, Any]:
    """A raw file: where the first source has it or, where none is an address, beside the metadata."""
    kind, packing = mimetypes.guess_type(file.name)
    about = {
        "contentUrl": next(iter(config.addresses(file.name)), file.name),
        "contentSize": f"{file.bytes} B" if file.trust == "published" else None,
        "encodingFormat": f"application/{packing}" if packing else kind or "application/octet-stream",
        "md5": file.md5,
        "sha256": file.sha256,
    }
    note = "Size and digest are of the file itself; its source may have it compressed, with .gz added to its name."
    return _node("FileObject", file.name, note, **{key: value for key, value in about.items() if value})
