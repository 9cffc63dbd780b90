"""Where MLflow's store is, and how it is made, opened and moved; however it fails, one line says so."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from biva.errors import UserError, explained, without_password
from biva.locks import locked

STORE = Path("results/mlflow")
"""Folder of the database and the artifacts, unless MLFLOW_TRACKING_URI names another store."""

# Names in the store.
SUMMARY_NAME = "tables and figures"  # second half of the name of an experiment set's summary run
MANIFEST = "biva.manifest"  # tag: SHA-256 of a run's manifest.json, set once the artifacts are those that it lists
RECORD = "biva.record"  # tag of an evaluation's child run: SHA-256 of the record that it shows
SAMPLES = "biva.samples"  # tag: SHA-256 of the samples.safetensors whose images are among the artifacts
PARENT = "mlflow.parentRunId"  # MLflow's tag for the parent of a run
RECORDS = Path("record")  # artifact folder of a run's record files

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
"""Defaults for MLflow: nothing is reported to anyone, nothing but ours is printed, a dead server costs seconds. No
request is repeated, since its answer may be all that was lost: the next mirroring looks first at what the store has."""

ADDRESS = r"https?://[^/\s]+(/\S*)?|sqlite:///.+|(postgresql|mysql|mssql)(\+\w+)?://.+|databricks(://.*)?"
"""What MLFLOW_TRACKING_URI may be. Whatever else MLflow takes is a folder to it, whose time is over."""

LONGEST_PATH = 499
"""Bytes of the longest path at which sqlite opens a database, of 512, with room for what it and we add to its name."""


class TrackingError(UserError):
    """The MLflow store cannot be used. The records on disk are not affected."""


def store_address() -> str:
    """Of the store. An address ends at `?`, so a folder with that name is left to the current folder."""
    store = STORE if "?" in str(Path.cwd()) else STORE.resolve()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store / 'mlflow.db'}"


def is_server(address: str) -> bool:
    """Whether a tracking address is that of a running server, and not of a database."""
    return address.startswith(("http://", "https://"))


def _database() -> Path | None:
    """The file of a sqlite store; None for a server."""
    address = store_address()
    is_file = address.startswith("sqlite:///")
    return Path(address.removeprefix("sqlite:///").partition("?")[0]) if is_file else None


def _artifacts(experiment: str) -> Path | None:
    """Where a sqlite store has the artifacts of an experiment: beside its file; None: a server decides."""
    database = _database()
    return database.parent.resolve() / "artifacts" / experiment if database else None


def _former_artifacts(experiment: str, location: str) -> Path | None:
    """Where a store that was moved or copied has the artifacts of an experiment; None: where they belong."""
    place, former = _artifacts(experiment), Path(url2pathname(location.removeprefix("file://")))
    if place is None or former == place or former.parts[-2:] != place.parts[-2:]:
        return None
    return None if place.is_dir() and former.is_dir() and place.samefile(former) else former


def _expect_not_moved(experiment: Any) -> None:
    if former := _former_artifacts(experiment.name, experiment.artifact_location):
        raise TrackingError(
            f"The store {store_address()} was moved or copied: artifacts of {experiment.name!r} would go to {former}, "
            f"not to {_artifacts(experiment.name)}. `biva track RUN_DIR ...`, with any of its runs, corrects the store."
        )


def follow_move() -> None:
    """Let a sqlite store that was moved or copied with its artifacts look for them where they are now.

    Raises:
        TrackingError: they are still where they were; or as for `mirror`.
    """
    database = _database()
    if database is None or not database.is_file():
        return
    with usable_store(), alone(), closing(sqlite3.connect(database)) as connection, connection:
        for name, location in connection.execute("SELECT name, artifact_location FROM experiments").fetchall():
            place = _artifacts(name)
            if place is None or (former := _former_artifacts(name, location)) is None:
                continue
            if former.is_dir() and not place.is_dir():
                raise TrackingError(
                    f"The store {database} was moved without its artifacts. Move the folder {former.parent} to "
                    f"{place.parent}, then run the same command again."
                )
            for column in ("experiments.artifact_location", "runs.artifact_uri", "logged_models.artifact_location"):
                table, _, field = column.partition(".")
                connection.execute(
                    f"UPDATE {table} SET {field} = ?1 || substr({field}, length(?2) + 1) "
                    f"WHERE {field} = ?2 OR substr({field}, 1, length(?2) + 1) = ?2 || '/'",
                    (place.as_uri(), location),
                )
            print(f"{database}: artifacts of {name} are now in {place}, no more in {former}", file=sys.stderr)


@contextmanager
def alone() -> Iterator[None]:
    """Lets no other process create anything in a sqlite store meanwhile, and creates the store where there is none.

    MLflow's own creation fails in all processes that meet a fresh file at once, and it cannot use half of a database,
    which a kill leaves: here a database has another name until it is whole.
    """
    database = _database()
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with locked(database.parent / ".lock"):
        if not database.exists():
            temporary = database.with_name(f".{database.name}.tmp")
            for left_by_a_kill in database.parent.glob(f"{temporary.name}*"):
                left_by_a_kill.unlink()
            _make_database(temporary)
            os.replace(temporary, database)
        yield


def _prepare_mlflow() -> None:
    """Have MLflow imported and quiet, and a database that does not answer asked once, not for a hundred seconds."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow.store.db.utils
    except ImportError as error:
        raise TrackingError(f"MLflow cannot be imported ({error}).") from None
    mlflow.store.db.utils.MAX_RETRY_COUNT = 1
    for library in ("mlflow", "alembic"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # an error is raised too, and reported in one line


def _client() -> Any:
    _prepare_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store_address())


def _make_database(path: Path) -> None:
    """A new sqlite store. The place of MLflow's own artifacts is an address: as a path, quotes in it would fail."""
    _prepare_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    make: Any = SqlAlchemyStore
    make(f"sqlite:///{path}", (path.parent.absolute() / "artifacts").as_uri())


def open_experiment(name: str) -> tuple[Any, str]:
    """The client, and the id of the experiment, created where it is missing; another machine may be creating it too."""
    artifacts = _artifacts(name)
    tags = {"mlflow.experimentKind": "custom_model_development"}  # else pages show what there is for language models
    with alone():
        client = _client()
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return client, client.create_experiment(name, artifacts.as_uri() if artifacts else None, tags)
            except Exception:
                experiment = client.get_experiment_by_name(name)
                if experiment is None:
                    raise
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"The MLflow experiment {name!r} at {store_address()} was deleted. Restore it: "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`."
        )
    _expect_not_moved(experiment)
    return client, experiment.experiment_id


def existing_experiment(experiments: str) -> tuple[Any, str]:
    """The client, and the id of a set's experiment, which is expected to be there."""
    database = _database()
    client = _client() if database is None or database.is_file() else None
    experiment = client.get_experiment_by_name(experiments) if client else None
    if experiment is None:
        raise TrackingError(
            f"MLflow at {store_address()} has no experiment {experiments!r}. "
            "`biva track RUN_DIR ...` mirrors the runs that exist on disk."
        )
    _expect_not_moved(experiment)
    return client, experiment.experiment_id


def find_run(client: Any, experiment: str, tag: str, value: str) -> Any:
    """The run that has a tag, or None."""
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
    return found[0] if found else None


def finished_runs(client: Any, experiment: str) -> list[Any]:
    """All finished runs of models in the store, evaluations and the tables' run left out."""
    found = client.search_runs([experiment], "attributes.status = 'FINISHED'", max_results=50_000)  # MLflow's limit
    return [stored for stored in found if "biva.run_id" in stored.data.tags]


@contextmanager
def usable_store() -> Iterator[None]:
    """Turns every way in which a store can fail into a TrackingError of one line, without passwords."""
    address = store_address()
    if not re.fullmatch(ADDRESS, address):
        raise TrackingError(
            f"MLFLOW_TRACKING_URI is {without_password(address)!r}, which is no address of MLflow. Expected "
            "http://HOST:PORT, of a server, or sqlite:////PATH/mlflow.db; without it MLflow is results/mlflow/."
        )
    try:
        yield
    except TrackingError as error:
        raise TrackingError(without_password(str(error))) from None
    except UserError:
        raise
    except Exception as error:
        libraries = ("mlflow", "sqlalchemy", "alembic", "sqlite3")
        of_a_variable = isinstance(error, ValueError) and re.search("MLFLOW_|environment variable", str(error))
        of_a_library = isinstance(error, OSError | ImportError) or type(error).__module__.split(".")[0] in libraries
        if not (of_a_variable or of_a_library):
            raise
        message = f"MLflow at {address} cannot be used: {_reason(error)}"
        raise TrackingError(without_password(message.rstrip(".") + ".")) from error


def _reason(error: Exception) -> str:
    """Why a store failed, in a line."""
    address, database = store_address(), _database()
    if database and len(path := os.fsencode(database.absolute())) > LONGEST_PATH:
        return (
            f"sqlite takes paths of up to {LONGEST_PATH} bytes, this one has {len(path)}. Move the project to a folder "
            "with a shorter path, or name another store in MLFLOW_TRACKING_URI"
        )
    if is_server(address) and (other := _other_than_mlflow(address)):
        return f"it is no MLflow server, which would tell its version at {other}. Correct MLFLOW_TRACKING_URI"
    if isinstance(error, OSError):
        return explained(error)
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _other_than_mlflow(server: str) -> str:
    """What answers in the place of an MLflow server; nothing where it is one, or where nothing answers."""
    import requests

    page = f"{server.rstrip('/')}/version"
    try:
        answer = requests.get(page, timeout=10)
    except requests.RequestException:
        return ""
    return "" if re.fullmatch(r"\d+\.\S+", answer.text.strip()) else f"{page}, but gives HTTP {answer.status_code}"
