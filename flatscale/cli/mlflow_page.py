"""The MLflow server on a store's own tracking database, in this process's place."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from flatscale.errors import FlatscaleError, StoreError
from flatscale.store.results import Store
from flatscale.tracking.own_database import experiment_page, follow_moved_artifacts


def serve(store: Path, port: int, say: Callable[[str], None]) -> None:
    """Say the address of the study's runs and become the server; whatever ends it ends this.

    Raises:
        StoreError: no store, or one without a tracking database.
        FlatscaleError: the port cannot be used.
    """
    results = Store(store)
    study = results.read_study()
    if not results.mlflow_database.is_file():
        raise StoreError(
            f"{results.mlflow_database} does not exist: the study was tracked elsewhere, or has "
            "not run yet"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise FlatscaleError(
                f"port {port} of 127.0.0.1 cannot be used ({error.strerror}): give another --port"
            ) from error
    follow_moved_artifacts(results.mlflow_database)
    page = experiment_page(results.mlflow_database, study.tracking.experiment or study.name)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--backend-store-uri", results.mlflow_uri, "--host", "127.0.0.1"]
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    say(f"http://127.0.0.1:{port}{page}  (Ctrl-C ends it)")
    os.execve(sys.executable, [*command, "--port", str(port)], environment)
