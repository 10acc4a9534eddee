"""A real MLflow server, on PostgreSQL and SQLite, that goes away, comes back, answers badly."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient

from flatscale.store.results import Store
from flatscale.study.plan import plan
from flatscale.tracking.writer import TrackingWriter
from tests.records_by_hand import record, study

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return found[-1].parent if found else None


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL of the test's own on loopback; gives its SQLAlchemy URI."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    pytest.importorskip("pg8000")
    port = free_port()
    data = folder / "postgres"
    data.mkdir(mode=0o700)
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    if user:
        account = pwd.getpwnam(user)
        os.chown(data, account.pw_uid, account.pw_gid)
        for parent in data.parents:
            if parent == Path("/tmp"):
                break
            parent.chmod(parent.stat().st_mode | 0o011)

    def call(program: str, *arguments: str) -> None:
        subprocess.run(
            [str(programs / program), *arguments],
            check=True,
            capture_output=True,
            user=user,
            cwd="/",
        )

    call("initdb", "-D", str(data), "-U", "flatscale", "-A", "trust", "--no-sync")
    options = f"-h 127.0.0.1 -p {port} -k {data} -F"
    call("pg_ctl", "-D", str(data), "-w", "-l", str(data / "log"), "-o", options, "start")
    try:
        yield f"postgresql+pg8000://flatscale@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-D", str(data), "-m", "immediate", "stop")


@contextmanager
def mlflow_server(backend: str, folder: Path, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend-store-uri", backend]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = (folder / "server.log").open("ab")
    process = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True
    )
    try:
        wait_for_server(port, process)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        log.close()


def wait_for_server(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, "the MLflow server ended"
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except (URLError, OSError):
            assert time.monotonic() < deadline
            time.sleep(0.3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare(study())
    return store


def runs_by_trial(uri: str) -> dict[str, int]:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("study")
    assert experiment is not None
    counts: dict[str, int] = {}
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        key = run.data.tags.get("trial_id", run.data.tags["flatscale.kind"])
        counts[key] = counts.get(key, 0) + 1
    return counts


def wait_until(true: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_records_wait_while_the_server_is_away_and_arrive_once(
    store: Store, tmp_path: Path, kind: str
) -> None:
    specs = plan(study())
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with postgres(tmp_path) if kind == "postgresql" else sqlite_backend(tmp_path) as backend:
        tracker = TrackingWriter(store, study(), uri, retry_seconds=0.2)
        with tracker:
            # The server is not there at first; then it comes, dies in mid-delivery, comes back.
            for spec in specs[:4]:
                store.write(record(spec))
            time.sleep(1)
            assert tracker.num_waiting() == 4
            with mlflow_server(backend, tmp_path, port):
                wait_until(lambda: tracker.num_waiting() == 0)
                for spec in specs[4:8]:
                    store.write(record(spec))
                wait_until(lambda: tracker.num_waiting() < 4)
            for spec in specs[8:]:
                store.write(record(spec))
            time.sleep(1)
            assert tracker.num_waiting() >= 4
            with mlflow_server(backend, tmp_path, port):
                tracker.finish((store.study_file,))
                assert runs_by_trial(uri) == {
                    **{spec.trial_id: 1 for spec in specs},
                    "study": 1,
                }


@contextmanager
def sqlite_backend(folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder / 'server.db'}"


def test_a_server_that_answers_with_errors_does_not_stop_the_study(
    store: Store, tmp_path: Path
) -> None:
    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    for spec in plan(study()):
        store.write(record(spec))
    with TrackingWriter(store, study(), f"http://127.0.0.1:{port}", retry_seconds=0.1) as tracker:
        time.sleep(2)
        assert tracker.num_waiting() == 12
        server.shutdown()
        server.server_close()
        backend = f"sqlite:///{tmp_path / 'server.db'}"
        with mlflow_server(backend, tmp_path, port):
            tracker.finish(())
    assert tracker.num_waiting() == 0


def test_several_drivers_that_meet_a_missing_database_make_it_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'common.db'}"
    code = (
        "import sys; from pathlib import Path; from flatscale.store.results import Store;"
        "from flatscale.tracking.writer import TrackingWriter; from tests.records_by_hand import *;"
        "from flatscale.study.plan import plan;"
        "store = Store(sys.argv[1]); store.prepare(study());"
        "[store.write(record(s)) for s in plan(study())];"
        "print(TrackingWriter(store, study(), sys.argv[2]).deliver())"
    )
    root = Path(__file__).resolve().parents[2]
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / f"store{k}"), uri],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        for k in range(3)
    ]
    for driver in drivers:
        output, errors = driver.communicate(timeout=120)
        assert output.strip() == "12", errors
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("study")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id], max_results=100)) == 3 * 13
