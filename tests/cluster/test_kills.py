"""The driver is killed again and again, at random moments; nothing is lost or run twice."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flatscale.store.results import Store

pytestmark = pytest.mark.slow
NUM_KILLS = 20
DESIGN = {"kind": "grid", "learning_rate": [0.1, 0.2], "batch_size": [20], "num_seeds": 150}


def start(config: Path, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flatscale", "run", str(config), "--store", str(store)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=config.parent,
        start_new_session=True,
    )


def contents(store: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (store / "records").glob("[!.]*.parquet")}


def test_a_driver_killed_twenty_times_finishes_the_study(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    config = study_file(design=DESIGN)
    root = tmp_path / "store"
    random_moment = random.Random(0)
    kept: dict[str, bytes] = {}
    kills = 0
    while kills < NUM_KILLS:
        process = start(config, root)
        # Half of the kills come while records are written, the others at any time from the start.
        if kills % 2:
            fresh = len(kept) + random_moment.randint(1, 8)
            while len(contents(root)) < fresh and process.poll() is None:
                time.sleep(0.005)
        else:
            time.sleep(random_moment.uniform(0.5, 15))
        assert process.poll() is None, process.communicate()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        found = contents(root)
        assert {name: found[name] for name in kept} == kept
        kept = found
        if kept:
            results = Store(root).read()
            assert results.trials.height == len(kept)
    assert 0 < len(kept) < 300

    process = start(config, root)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "300 finished" in output
    found = contents(root)
    assert len(found) == 300
    assert {name: found[name] for name in kept} == kept
    store = Store(root)
    assert store.read().trials["num_attempts"].to_list() == [1] * 300

    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=10_000)
    trials = [r.data.tags["trial_id"] for r in runs if r.data.tags["flatscale.kind"] == "trial"]
    assert sorted(trials) == sorted(store.statuses())
    assert sum(r.data.tags["flatscale.kind"] == "study" for r in runs) == 1
    with sqlite3.connect(root / "mlflow.db") as database:
        query = "select count(*) - count(distinct run_uuid || key || step) from metrics"
        assert database.execute(query).fetchone() == (0,)
