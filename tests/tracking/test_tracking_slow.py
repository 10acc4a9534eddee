"""A real MLflow server that answers slowly, too slowly, or after it was given up."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from flatscale.store.results import Store
from flatscale.study.plan import plan
from flatscale.tracking.writer import TrackingWriter
from tests.cluster.conftest import SMALL
from tests.records_by_hand import record, study
from tests.tracking.slow_server import slow_proxy
from tests.tracking.test_tracking_server import free_port, mlflow_server, runs_by_trial

CREATE = "/api/2.0/mlflow/runs/create"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare(study())
    return store


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that all tests of this file share; their stores differ."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    with mlflow_server(f"sqlite:///{folder / 'server.db'}", folder, port):
        yield port


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


def forget(port: int) -> None:
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
    experiment = client.get_experiment_by_name("study")
    if experiment is not None:
        client.rename_experiment(experiment.experiment_id, f"old {time.time()}")


def test_the_creation_of_a_run_is_sent_once_while_the_server_may_be_at_it(
    store: Store, short_timeout: None
) -> None:
    sent: Counter[str] = Counter()
    experiment = {"experiment_id": "1", "name": "study", "lifecycle_stage": "active"}

    class NeverMakesARun(BaseHTTPRequestHandler):
        def answer(self) -> None:
            path = self.path.partition("?")[0]
            sent[path] += 1
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if path == CREATE:
                time.sleep(1.5)
            found = {"experiment": experiment} if "get-by-name" in path else {}
            body = json.dumps(found).encode()
            try:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    fake = ThreadingHTTPServer(("127.0.0.1", 0), NeverMakesARun)
    threading.Thread(target=fake.serve_forever, daemon=True).start()
    try:
        uri = f"http://127.0.0.1:{fake.server_address[1]}"
        with TrackingWriter(store, study(), uri, retry_seconds=0.1):
            time.sleep(3)
        assert sent["/api/2.0/mlflow/runs/search"] >= 3
        assert sent[CREATE] == 1
    finally:
        fake.shutdown()
        fake.server_close()


def every(number: int, seconds: float) -> Callable[[str, int], float]:
    return lambda path, index: seconds if path == CREATE and index % number == 1 else 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "seconds"),
    # Carried out at once with the answer late; carried out only after the client gave up; carried
    # out so late that the client has asked again.
    [("after", 2.0), ("before", 2.0), ("before", 7.0)],
)
def test_an_answer_later_than_the_timeout_makes_no_second_run(
    store: Store, server: int, short_timeout: None, where: str, seconds: float
) -> None:
    forget(server)
    specs = plan(study())
    for spec in specs:
        store.write(record(spec))
    with slow_proxy(server, **{where: every(3, seconds)}) as (uri, paths):
        with TrackingWriter(store, study(), uri, retry_seconds=0.1) as tracker:
            deadline = time.monotonic() + 200
            while tracker.num_waiting():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            # What the server was still at is done by now.
            time.sleep(seconds)
            tracker.finish(())
        assert paths.count(CREATE) >= 13
    assert runs_by_trial(f"http://127.0.0.1:{server}") == {
        **{spec.trial_id: 1 for spec in specs},
        "study": 1,
    }


@pytest.mark.slow
def test_training_does_not_wait_for_a_slow_server_and_records_arrive_in_order(
    server: int, tmp_path: Path
) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump({**SMALL, "name": "slow_server"}))
    root = tmp_path / "store"
    with slow_proxy(server, before=lambda *_: 0.4) as (uri, paths):
        command = [sys.executable, "-m", "flatscale", "run", str(config), "--store", str(root)]
        done = subprocess.run(
            [*command, "--tracking-uri", uri], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "tracking:" not in done.stderr
        ended = datetime.now(UTC)
        num_requests = len(paths)
    trials = Store(root).read().trials
    assert trials["status"].to_list() == ["finished"] * 4
    # The server took longer than the trials, which ended long before the last record had arrived.
    first, last = trials["started_at"].min(), trials["finished_at"].max()
    delivering = num_requests * 0.4
    assert (last - first).total_seconds() < delivering / 2
    assert (ended - last).total_seconds() > delivering / 2

    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{server}")
    experiment = client.get_experiment_by_name("slow_server")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`flatscale.kind` = 'trial'")
    delivered = {run.data.tags["trial_id"]: run for run in runs}
    assert len(runs) == len(delivered) == 4
    (journal,) = Store(root).deliveries.iterdir()
    by_delivery = [line.split()[0] for line in journal.read_text().splitlines()]
    assert by_delivery == trials.sort("finished_at")["trial_id"].to_list()
    for trial_id, run in delivered.items():
        measured = Store(root).read_record(trial_id)["measurements"]
        assert run.data.metrics["mls"] == next(
            row["value"] for row in measured if row["metric"] == "mls"
        )
        assert len(client.get_metric_history(run.info.run_id, "mls")) == 1
