"""A published set as a Workflow Run RO-Crate: what ran, on what, with what, and what came out, for other programs.

`results/published/NAME/ro-crate-metadata.json` follows the profile Provenance Run Crate 0.5
(https://w3id.org/ro/wfrun/provenance/0.5). It is made of what lies beside it, of CITATION.cff and of the entries of
`config/datasets.yaml`; the same make the same bytes. Files that are not published, such as data and most weights, are
named by their SHA-256 (RFC 6920).
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from rocrate.model import ContextEntity, DataEntity
from rocrate.rocrate import ROCrate

from biva.config import RunConfig, find_dataset, load_experiments, resolve_runs
from biva.config.yaml_files import read
from biva.records import RunFolder, commits, images_read, is_ours, read_json, sha256

METADATA = "ro-crate-metadata.json"
SNAKEFILE = "workflow/Snakefile"
"""The workflow's copy in a published set; its rules lie beside it."""

STEPS = {
    "train": "Trains a model and selects its weights",
    "evaluate": "Computes bounds, or errors, of test images",
    "detect": "Tells the test images of another dataset from those of the model's own",
    "rebuild": "Makes results.csv, all tables and their page of the records of the runs",
}
"""Verb of `biva`, which is a step of the workflow -> what it does."""

PACKAGES = {"python": "https://www.python.org", "torch": "https://pytorch.org", "numpy": "https://numpy.org"}
"""What a run computes with, whose versions `run.json` has."""

_FORMATS = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".safetensors": "application/octet-stream",
    ".smk": "text/plain",
    ".tex": "application/x-tex",
}

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate 0.5",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate 0.5",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate 0.5",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate 1.0",
}
LANGUAGE = "https://w3id.org/workflowhub/workflow-ro-crate#snakemake"

Entity = Any
"""An entity of the package `rocrate`, which has no types."""


def crate(experiments: str, folder: Path) -> dict[str, Any]:
    """Content of `ro-crate-metadata.json` of the published set in `folder`; empty where none of its runs is finished.

    Raises:
        UserError: a record is missing or damaged, or there is no dataset of that name any more.
    """
    settings = load_experiments(experiments)
    filled = _Crate(folder)
    for run in resolve_runs(experiments, settings):
        if RunFolder(folder / "runs" / run.name).training.is_file():
            filled.add_run(run)
    if not filled.records:
        return {}
    filled.add_whole(experiments, settings.description)
    content: dict[str, Any] = filled.crate.metadata.generate()
    return content


class _Crate:
    """A crate while it is filled. What is added twice is there once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.crate = ROCrate(version="1.1")
        self.crate.metadata["conformsTo"] = [{"@id": uri} for uri in (self.crate.metadata.profile, [*PROFILES][-1])]
        self.crate.metadata.extra_contexts.append("https://w3id.org/ro/terms/workflow-run/context")  # sha256, md5
        self.inputs: dict[str, Entity] = {}
        self.records: list[Entity] = []
        self.tools: dict[str, dict[str, Entity]] = {}
        self.actions: list[Entity] = []
        self.controls: list[Entity] = []
        citation = folder.resolve().parents[2] / "CITATION.cff"  # a project of somebody else may have none
        self.citation = read(citation, "citation") if citation.is_file() else {}
        self.authors = [self._author(author) for author in self.citation.get("authors", [])]

    def _about(self, identifier: str, kind: str, **properties: Any) -> Entity:
        return self.crate.add(ContextEntity(self.crate, identifier, {"@type": kind} | _compact(properties)))

    def _author(self, author: dict[str, str]) -> Entity:
        name = " ".join(author[key] for key in ("given-names", "family-names", "name") if key in author)
        kind = "Person" if "family-names" in author else "Organization"
        return self._about(author.get("orcid", "#" + name.replace(" ", "-")), kind, name=name)

    def _file(self, identifier: str, name: str, **properties: Any) -> Entity:
        given = {"@type": "File", "name": name, "encodingFormat": _FORMATS.get(Path(name).suffix)}
        return self.crate.add(DataEntity(self.crate, identifier, _compact(given | properties)))

    def _here(self, path: Path, **properties: Any) -> Entity:
        """A file of the folder."""
        name, size = path.relative_to(self.folder).as_posix(), str(path.stat().st_size)
        return self._file(name, name, contentSize=size, sha256=sha256(path), **properties)

    def _weights(self, run: RunFolder) -> list[Entity]:
        """The selected weights; none where the run's manifest does not tell their digest."""
        name = run.weights.relative_to(self.folder).as_posix()
        if run.weights.is_file():
            return [self._here(run.weights)]
        digest = read_json(run.manifest)["files"].get(run.weights.name)
        return [self._file(_named_by(digest), name, sha256=digest, description="not published")] if digest else []

    def _data(self, name: str, fingerprint: str) -> Entity:
        """A prepared dataset, and the raw files that it is made of."""
        config, raw = find_dataset(name), []
        terms = {"license": config.licence, "citation": config.citation.strip()}
        for file in config.files:
            places = config.addresses(file.name)
            if identifier := _named_by(file.sha256) if file.sha256 else next(iter(places), None):
                size = str(file.bytes) if file.trust == "published" else None
                about = {"contentSize": size, "sha256": file.sha256, "md5": file.md5, "url": places}
                raw.append(self._file(identifier, file.name, **about, **terms))
        arrays = self._file(
            _named_by(fingerprint),
            f"{name}/data.safetensors",
            description=f"{config.title}. `biva prepare {name}` makes it.",
            sha256=fingerprint,
            isBasedOn=raw,
            **terms,
        )
        self.inputs |= {entity.id: entity for entity in (*raw, arrays)}
        return arrays

    def _act(self, step: str, of: str, versions: dict[str, str], code: list[str], **properties: Any) -> None:
        """One execution of a step, by the code of these commits, with these versions of what it computes with."""
        packages = [
            self._about(f"#{name}-{versions[name]}", "SoftwareApplication", name=name, version=versions[name], url=url)
            for name, url in PACKAGES.items()
            if name in versions
        ]
        about: dict[str, Any] = {"description": STEPS[step], "softwareRequirements": packages}
        about |= {"version": ", commit ".join((versions["biva"], *code))} if code else {}
        tool = self._about("-".join(("#biva", step, *code)), "SoftwareApplication", name=f"biva {step}", **about)
        self.tools.setdefault(step, {})[tool.id] = tool
        about = {"name": step, "description": STEPS[step], "workExample": [*self.tools[step].values()]}
        rule = self._about(f"{SNAKEFILE}#{step}", "HowToStep", **about, position=str([*STEPS].index(step) + 1))
        about = {"name": f"{step} {of}", "description": STEPS[step], "agent": self.authors, "instrument": tool}
        action = self._about(f"#{step}/{of}", "CreateAction", **(about | properties))
        about = {"name": f"start of {step} {of}", "instrument": rule, "object": action}
        self.controls.append(self._about(f"{action.id}/start", "ControlAction", **about))
        self.actions.append(action)

    def add_run(self, config: RunConfig) -> None:
        """A run's files, its training, its evaluation, and the anomaly pairs that it scored."""
        run = RunFolder(self.folder / "runs" / config.name)
        identity, training = read_json(run.identity), read_json(run.training)
        files = {path: self._here(path) for path in (*run.records(), run.card, run.mlflow) if path.is_file()}
        data, weights = self._data(config.dataset, identity["data_fingerprint"]), self._weights(run)
        parent = self._weights(RunFolder(self.folder / "runs" / config.parent_name)) if config.parent_name else []
        self.records += files.values()
        self._act(
            "train",
            config.name,
            identity["versions"],
            commits(identity),
            object=[data, files[run.identity], *parent],
            result=[files[run.record], files[run.training], *weights],
            startTime=identity["started"],
            endTime=training["finished"],
            description=f"{training['updates']:,} updates on {identity['device']}, ended by {training['stopped']}",
        )
        for path in filter(Path.is_file, (run.evaluation, *run.anomalies())):
            record, pair = read_json(path), "" if path == run.evaluation else f"/{path.stem}"
            step = "detect" if pair else "evaluate"
            scored = [self._data(part["dataset"], part["fingerprint"]) for part in images_read(record)]
            self._act(
                step,
                config.name + pair,
                identity["versions"],
                [record["commit"]],
                object=[*weights, *({entity.id: entity for entity in scored}.values() or [data])],
                result=[files[made] for made in ([path] if pair else [path, run.bounds]) if made in files],
                endTime=record["finished"],
                description=f"on {record['device']}",
            )

    def add_whole(self, experiments: str, description: str) -> None:
        """The tables, the workflow, its run as a whole, and what the crate is."""
        tables = [path for name in ("tables", "anomalies") for path in sorted((self.folder / name).glob("*.*"))]
        first = (self.folder / "index.html", self.folder / "results.csv")
        made = [self._here(path) for path in (*first, *filter(is_ours, tables))]
        self._act("rebuild", experiments, {}, [], object=self.records, result=made)
        times = sorted(action[time] for action in self.actions for time in ("startTime", "endTime") if time in action)
        for rules in sorted((self.folder / SNAKEFILE).parent.rglob("*.smk")):
            self._here(rules)
        url = "https://snakemake.github.io"
        workflow = self._here(
            self.folder / SNAKEFILE,
            **{"@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"]},
            encodingFormat="text/plain",
            programmingLanguage=self._about(LANGUAGE, "ComputerLanguage", name="Snakemake", url=url),
            step=[self.crate.get(f"{SNAKEFILE}#{step}") for step in self.tools],
            hasPart=[tool for tools in self.tools.values() for tool in tools.values()],
        )
        about: dict[str, Any] = {"description": description, "agent": self.authors, "instrument": workflow}
        about |= {"object": [*self.inputs.values()], "result": made, "startTime": times[0], "endTime": times[-1]}
        whole = self._about(f"#{experiments}", "CreateAction", name=f"all of {experiments}", **about)
        engine = self._about(url, "SoftwareApplication", name="Snakemake", url=url)
        about = {"name": f"Snakemake runs {experiments}", "agent": self.authors, "instrument": engine}
        self._about(f"#{experiments}/snakemake", "OrganizeAction", **about, object=self.controls, result=whole)
        licence = self.citation.get("license", "MIT")
        root = {
            "name": f"BIVA, reproduced: {experiments}",
            "description": description,
            "datePublished": times[-1],
            "author": self.authors,
            "license": self._about(f"https://spdx.org/licenses/{licence}", "CreativeWork", name=licence),
            "conformsTo": [self._about(uri, "CreativeWork", name=name) for uri, name in PROFILES.items()],
            "mainEntity": workflow,
            "mentions": [whole, *self.actions],
        }
        for name, value in _compact(root).items():
            self.crate.root_dataset[name] = value


def _named_by(digest: str) -> str:
    """The URI of a file by its SHA-256."""
    return "ni:///sha-256;" + base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip("=")


def _compact(properties: dict[str, Any]) -> dict[str, Any]:
    """As JSON-LD has it: no empty values, and no list of one."""
    given = {name: value for name, value in properties.items() if value}
    return {name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in given.items()}
