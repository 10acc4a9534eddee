"""Nobody gets in: what a run listens on, and what it answers to whom."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import grpc
import pytest

from flatscale.cluster import local_ray as local_ray_module
from flatscale.cluster.local_ray import local_ray
from flatscale.errors import FlatscaleError
from flatscale.store.results import Store
from tests.cluster.sockets import Listening, listening, process_tree
from tests.records_by_hand import study

MakeFile = Callable[..., Path]
LONG = {"kind": "grid", "learning_rate": [0.1, 0.2], "batch_size": [20], "num_seeds": 300}

# A call that each kind of Ray's servers knows: the one that knows it says who may call.
METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Push",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
)
OF_THE_PAGE = "/ray.rpc.ReporterService/GetTraceback"


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """`flatscale …` as from a shell that knows no Ray, ended with everything it started."""
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "flatscale", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**inherited, **environment},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                for pid in process_tree(process.pid):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()
                pytest.fail(f"{' '.join(arguments)} did not end when it was interrupted")


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert process.poll() is None, "the command ended"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def answer(server: Listening, method: str, token: str | None) -> grpc.StatusCode:
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        try:
            channel.unary_unary(method)(b"", timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def token_file(pid: int) -> Path:
    """What a worker of the run was told; the driver's own environment is not to be read so."""
    for child in process_tree(pid)[1:]:
        with suppress(OSError):
            for entry in (Path("/proc") / str(child) / "environ").read_bytes().split(b"\0"):
                name, _, value = entry.partition(b"=")
                if name == b"RAY_AUTH_TOKEN_PATH":
                    return Path(value.decode())
    raise AssertionError("no process of the run has a token of its own")


def test_a_run_listens_on_loopback_alone_and_answers_only_to_its_token(
    study_file: MakeFile, tmp_path: Path
) -> None:
    config = study_file(design=LONG)
    store = tmp_path / "store"
    with running("run", str(config), "--store", str(store)) as process:
        wait_until(lambda: len(list((store / "records").glob("[!.]*.parquet"))) > 4, process)
        sockets = listening(process.pid)
        path = token_file(process.pid)
        token = path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert len(token) == 64
        for name in ("gcs_server", "raylet", "ray::"):
            assert any(name in server.title for server in sockets), name
        assert [server for server in sockets if not server.on_loopback] == []

        known = {}
        for server in sockets:
            for method in METHODS:
                code = answer(server, method, token)
                if code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE):
                    continue  # another kind of server
                known[method] = code
                for stranger in (None, "0" * 64):
                    refused = answer(server, method, stranger)
                    assert refused == grpc.StatusCode.UNAUTHENTICATED, (server, method)
            code = answer(server, OF_THE_PAGE, token)
            assert code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE), server
        assert set(known) == set(METHODS)
        assert set(known.values()) == {grpc.StatusCode.OK}
        # as a scheduler ends a job: in the same good order as Ctrl-C
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 130
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("statement", "reports"),
    [
        (
            "import flatscale.tracking.runs",
            "mlflow.telemetry.client.get_telemetry_client() is not None",
        ),
        ("import flatscale.cluster.launch", "ray._common.usage.usage_lib.usage_stats_enabled()"),
    ],
)
def test_nothing_is_reported_to_the_makers_of_a_library(statement: str, reports: str) -> None:
    module = reports.partition("(")[0].rpartition(".")[0]
    code = f"{statement}; import {module}; print({reports})"
    # MLflow reports nothing where a variable says that this is a test or continuous integration.
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_what_the_user_has_set_is_left_alone(study_file: MakeFile, tmp_path: Path) -> None:
    token = tmp_path / "mine"
    token.write_text("a" * 64)
    store = tmp_path / "store"
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    command = ("run", str(study_file(design=LONG)), "--store", str(store))
    with running(*command, **environment) as process:
        wait_until(lambda: any("gcs_server" in s.title for s in listening(process.pid)), process)
        (gcs,) = [s for s in listening(process.pid) if "gcs_server" in s.title]
        wait_until(lambda: answer(gcs, METHODS[0], "a" * 64) == grpc.StatusCode.OK, process)
        assert answer(gcs, METHODS[0], None) == grpc.StatusCode.UNAUTHENTICATED
    assert token.read_text() == "a" * 64


@pytest.mark.slow
def test_the_tracking_page_listens_on_loopback_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare(study())
    (store.root / "mlflow.db").touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])

    def answers() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return True
        except (URLError, OSError):
            return False

    with running("ui", str(store.root), "--port", str(port)) as process:
        wait_until(answers, process)
        sockets = listening(process.pid)
        assert port in {server.port for server in sockets}
        assert [server for server in sockets if not server.on_loopback] == []
    assert not answers()


def test_ray_that_does_not_come_up_is_started_again_and_then_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def late(**options: object) -> None:
        calls.append(options)
        raise Exception("The current node timed out during startup.\nMore lines.")

    monkeypatch.setattr("flatscale.cluster.local_ray.ray.init", late)
    monkeypatch.setattr("flatscale.cluster.local_ray.ray.shutdown", lambda: None)
    with pytest.raises(FlatscaleError, match="did not start on this machine: The current node"):
        local_ray().__enter__()
    assert len(calls) == 2
    assert "trying once more" in caplog.text


def test_tokens_that_killed_drivers_left_are_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, time; from flatscale.cluster import local_ray;"
        "entered = local_ray._own_token(); entered.__enter__(); print('in', flush=True);"
        "time.sleep(60)"
    )
    environment = {n: v for n, v in os.environ.items() if not n.startswith("RAY_")}
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**environment, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    try:
        for driver in drivers:
            assert driver.stdout is not None
            assert driver.stdout.readline() == b"in\n"
        folders = set(tmp_path.glob("flatscale-token-*"))
        assert len(folders) == 2
        drivers[0].kill()
        drivers[0].wait()
        local_ray_module._remove_tokens_of_killed_runs()
        left = set(tmp_path.glob("flatscale-token-*"))
        assert len(left) == 1
        assert (left.pop() / "token").is_file()
    finally:
        for driver in drivers:
            driver.kill()
            driver.wait()
