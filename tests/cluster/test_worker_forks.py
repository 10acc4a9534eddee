"""Workers of a Ray of our own are copies of a process that has imported what they use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from flatscale.cluster import worker_forks, worker_request
from flatscale.cluster.worker_forks import prepared_workers
from flatscale.cluster.worker_request import SOCKET


def _start_copy() -> Any:
    """An actor that says what process it is; workers are sent the code of its class."""

    class Copy:
        def parent(self) -> str:
            return Path(f"/proc/{os.getppid()}/cmdline").read_text()

        def has_torch(self) -> bool:
            return "flatscale.cluster.trial" in sys.modules

        def pid(self) -> int:
            return os.getpid()

        def drawn(self) -> str:
            return str(ray.NodeID.from_random().hex())

    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)(Copy).remote()


def test_a_worker_whom_nobody_answers_becomes_the_one_that_ray_would_have_started() -> None:
    environment = {k: v for k, v in os.environ.items() if k != SOCKET}
    for path in ({}, {SOCKET: "/nowhere"}):
        said = subprocess.run(
            [sys.executable, worker_request.__file__, "--no-argument-of-a-worker"],
            env={**environment, **path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "default_worker.py: error: the following arguments are required" in said.stderr


def test_the_process_is_started_once_and_ends_with_its_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_forks, "_listening", [])  # another test's Ray may be up
    with prepared_workers() as first:
        with prepared_workers() as second:
            assert second == first
        assert Path(first).is_socket()
    assert not Path(first).parent.exists()


@pytest.mark.slow
def test_workers_are_copies_also_where_one_was_killed(small_ray: None) -> None:
    actors = [_start_copy() for _ in range(3)]
    assert len({ray.get(actor.drawn.remote()) for actor in actors}) == 3
    for actor in actors:
        assert "worker_forks" in ray.get(actor.parent.remote())
        assert ray.get(actor.has_torch.remote())
    killed = ray.get(actors[0].pid.remote())
    os.kill(killed, signal.SIGKILL)
    assert "worker_forks" in ray.get(actors[0].parent.remote())
    assert ray.get(actors[0].pid.remote()) != killed
    assert ray.get(actors[1].has_torch.remote())
    for actor in actors:
        ray.kill(actor)


@pytest.mark.slow
def test_a_signal_to_the_whole_group_ends_a_run_within_seconds(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    training = {"stop_loss": 1e-12, "max_steps": 10_000_000}
    file, store = study_file(training=training), tmp_path / "store"
    command = [sys.executable, "-m", "flatscale", "run", str(file), "--store", str(store)]
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert any("running" in line for line in run.stdout)
        asked = time.monotonic()
        os.killpg(run.pid, signal.SIGTERM)
        assert run.wait(120) == 130
        seconds = time.monotonic() - asked
    assert seconds < 45  # where its Ray ends before it, it waits 60 s for it
