"""The MLflow database of a store itself, read and mended without MLflow."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from flatscale.store.atomic import TEMPORARY_PREFIX
from flatscale.store.layout import Layout

_HAS_TABLES = "SELECT 1 FROM sqlite_master WHERE name = 'experiments'"
_EXPERIMENTS = "SELECT experiment_id, artifact_location FROM experiments"
_MOVE_EXPERIMENT = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
_MOVE_RUNS = (
    "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
    "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?"
)


def make_database(path: Path) -> None:
    """Make MLflow's tables in a SQLite file, unless it exists, whole or not at all.

    MLflow makes them in dozens of steps; a process killed between two of them would leave a file
    that MLflow refuses for ever.

    Args:
        path: of the file; nobody else may be making it.
    """
    if path.exists():
        return
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    half = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    for left in (half, half.with_name(f"{half.name}-journal")):
        left.unlink(missing_ok=True)
    store = SqlAlchemyStore(f"sqlite:///{half}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    store.engine.dispose()
    half.replace(path)


def follow_moved_artifacts(database: Path) -> None:
    """Write where the artifacts of a store are now into the MLflow database that lies beside them.

    MLflow knows artifacts by absolute paths; of a store that was moved or copied, by those of where
    it was.

    Args:
        database: a store's SQLite file; any other, or none, is left alone.
    """
    artifacts = Layout(database.parent).mlflow_artifacts
    if not database.is_file() or not artifacts.is_dir():
        return
    here = artifacts.as_uri()
    with closing(sqlite3.connect(database)) as connection, connection:
        if not connection.execute(_HAS_TABLES).fetchone():
            return
        for experiment, known in connection.execute(_EXPERIMENTS).fetchall():
            if known != here and known.rpartition("/")[2] == artifacts.name:
                connection.execute(_MOVE_EXPERIMENT, (here, experiment))
                found = (here, len(known) + 1, experiment, len(known), known)
                connection.execute(_MOVE_RUNS, found)


def experiment_page(database: Path, name: str) -> str:
    """The part of the UI's address that shows an experiment's runs; empty if there is none yet.

    Args:
        database: a store's SQLite file.
        name: of the experiment.
    """
    with closing(sqlite3.connect(database)) as connection:
        if not connection.execute(_HAS_TABLES).fetchone():
            return ""
        query = "SELECT experiment_id FROM experiments WHERE name = ?"
        found = connection.execute(query, (name,)).fetchone()
    return f"/#/experiments/{found[0]}?workflowType=machine_learning" if found else ""
